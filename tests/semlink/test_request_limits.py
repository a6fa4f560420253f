"""Every list that a request can hold has a limit in the contract, and is refused beyond it before it is parsed."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gateway.items import ItemContentBody, NewItemsBody
from gateway.schemas import BatchBody
from kb_service.entries import MAX_KEYS
from kb_service.rewriting import MAX_CANDIDATES
from kb_service.rewriting import MAX_ITEMS as MAX_REWRITE_ITEMS
from receiver.items import MAX_CAPTIONS, MAX_ITEMS
from semlink.errors import InvalidField
from semlink.rpc import FIELD_KEY, SERVICES, grpc_servicer, start_server
from semlink.rpc.limits import MAX_RECORDS, check_lists, max_items
from semlink.settings import Settings
from semlink.v1 import common_pb2, knowledge_pb2, receiver_pb2, transmitter_pb2

Path = tuple[FieldDescriptor, ...]


def lists_of(message: Descriptor, before: Path = ()) -> Iterator[Path]:
    """The way to every repeated field of a message, nested ones too."""
    for field in message.fields:
        if field.is_repeated:
            yield (*before, field)
        if field.message_type is not None:
            yield from lists_of(field.message_type, (*before, field))


REQUESTS = {m.input_type.name: m.input_type for s in SERVICES.values() for m in s.methods}
LISTS = [(request, path) for request in REQUESTS.values() for path in lists_of(request)]


def filled(message: Message, path: Path, count: int) -> str:
    """Put ``count`` elements into the last field of the path; returns what an error calls it."""
    name = ""
    for field in path[:-1]:
        value = getattr(message, field.name)
        message = value.add() if field.is_repeated else value
        message.SetInParent()
        name += f"{field.name}[0]." if field.is_repeated else f"{field.name}."
    last, values = path[-1], getattr(message, path[-1].name)
    for _ in range(count):
        if last.message_type is not None:
            values.add()
        else:
            values.append("" if last.type == FieldDescriptor.TYPE_STRING else 0)
    return name + last.name


def test_there_are_lists() -> None:
    names = {".".join(f.name for f in path) for _, path in LISTS}
    assert names >= {"queries", "frames", "items", "item_ids", "items.captions", "entries.rewrites"}


@pytest.mark.parametrize(
    ("request_type", "path"), LISTS, ids=[f"{r.name}.{'.'.join(f.name for f in p)}" for r, p in LISTS]
)  # fmt: skip
def test_every_list_of_a_request_is_bounded(request_type: Descriptor, path: Path) -> None:
    most = max_items(path[-1])
    assert 0 < most <= 1024, "give the field a max_items in its contract"
    request = GetMessageClass(request_type)()
    filled(request, path, most)
    check_lists(request.SerializeToString(), request_type)
    request.Clear()
    name = filled(request, path, most + 1)
    with pytest.raises(InvalidField, match=f"allowed: at most {most}") as error:
        check_lists(request.SerializeToString(), request_type)
    assert error.value.field == name


def test_gateway_and_services_agree_on_the_limits() -> None:
    def limit(message: type[Message], name: str) -> int:
        return max_items(message.DESCRIPTOR.fields_by_name[name])

    def longest(body: type, name: str) -> int:
        (most,) = [
            m.max_length
            for m in body.model_fields[name].metadata  # type: ignore[attr-defined]
            if hasattr(m, "max_length")
        ]
        return int(most)

    assert limit(transmitter_pb2.RetrieveRequest, "queries") == longest(BatchBody, "queries")
    assert limit(receiver_pb2.AddItemsRequest, "items") == longest(NewItemsBody, "items")
    assert limit(receiver_pb2.AddItemsRequest, "items") == MAX_ITEMS
    assert limit(receiver_pb2.NewItem, "captions") == longest(ItemContentBody, "captions")
    assert limit(receiver_pb2.NewItem, "captions") == MAX_CAPTIONS
    assert limit(knowledge_pb2.RewriteRequest, "items") == MAX_REWRITE_ITEMS
    assert limit(knowledge_pb2.ImportEntriesRequest, "entries") == MAX_KEYS
    assert limit(knowledge_pb2.DeleteEntriesRequest, "keys") == MAX_KEYS
    assert limit(knowledge_pb2.KnowledgeEntry, "rewrites") == MAX_CANDIDATES


@pytest.mark.parametrize("num_bytes", [9, 90, 16 * 2**20])
@pytest.mark.parametrize("byte", [b"\x01", b"\x80"])
def test_a_packed_list_is_counted(num_bytes: int, byte: bytes) -> None:
    data = byte * (num_bytes - 1) + b"\x01"
    length, size = b"", num_bytes
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    data = b"\x12" + length + bytes([size]) + data
    if byte == b"\x80" and num_bytes == 9:  # one varint
        check_lists(data, common_pb2.Tensor.DESCRIPTOR)
        return
    with pytest.raises(InvalidField) as error:
        check_lists(data, common_pb2.Tensor.DESCRIPTOR)
    assert error.value.field == "shape"


@pytest.mark.parametrize(
    "data",
    [b"\x0a", b"\x0a\x05\x00", b"\x0b", b"\x0c", b"\x0f", b"\xff" * 11, b"\x09\x00", b"\x0d\x00"],
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidField, match="does not parse") as error:
        check_lists(data, transmitter_pb2.RetrieveRequest.DESCRIPTOR)
    assert error.value.field == "request"


def test_unknown_fields_are_bounded_together() -> None:
    unknown = b"\xf8\x07\x01"
    check_lists(unknown * MAX_RECORDS, transmitter_pb2.RetrieveRequest.DESCRIPTOR)
    with pytest.raises(InvalidField, match="120,000 fields"):
        check_lists(unknown * (MAX_RECORDS + 1), transmitter_pb2.RetrieveRequest.DESCRIPTOR)


class Transmitter:
    async def retrieve(
        self, request: transmitter_pb2.RetrieveRequest
    ) -> transmitter_pb2.RetrieveResponse:
        return transmitter_pb2.RetrieveResponse(
            answers=[transmitter_pb2.Answer() for _ in request.queries]
        )


async def test_a_service_refuses_a_long_list_naming_it() -> None:
    settings = Settings(transmitter_port=0, transmitter_metrics_port=0)
    server = await start_server(
        "transmitter", grpc_servicer("transmitter", Transmitter()), settings
    )
    await server.set_serving()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call = channel.unary_unary("/semlink.v1.Transmitter/Retrieve")
            answer = transmitter_pb2.RetrieveResponse.FromString(await call(b"\x0a\x00" * 256))
            assert len(answer.answers) == 256
            # 4 million empty queries in 8 MB would be parsed to hundreds of megabytes
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(b"\x0a\x00" * 4_000_000)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert dict(error.value.trailing_metadata() or ())[FIELD_KEY] == "queries"
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(bytes(17 * 2**20))
            assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    finally:
        await server.stop(0)
