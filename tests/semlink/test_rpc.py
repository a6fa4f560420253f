"""The gRPC runtime between real servers and clients: errors, deadlines, cancellation, health, drain, reflection."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from kb_service.handler import KnowledgeBase
from semlink import errors, services
from semlink.errors import InvalidField, SemlinkError
from semlink.rpc import (
    MAX_MESSAGE_BYTES,
    SERVICES,
    ChannelClient,
    KnowledgeClient,
    ReceiverClient,
    RunningServer,
    ServiceClient,
    TransmitterClient,
    deadline_in,
    grpc_servicer,
    remaining_s,
    start_server,
)
from semlink.settings import Settings
from semlink.store import MemoryStore
from semlink.telemetry import configure_logging, registry
from semlink.v1 import channel_pb2, knowledge_pb2, receiver_pb2, transmitter_pb2

CLIENTS = {
    "transmitter": TransmitterClient,
    "channel": ChannelClient,
    "receiver": ReceiverClient,
    "knowledge": KnowledgeClient,
}
SETTINGS = Settings(
    **{f"{service}_port": 0 for service in CLIENTS},
    **{f"{service}_metrics_port": 0 for service in CLIENTS},
    connect_timeout_s=0.5,
)


class Receiver:
    """A receiver that answers each call as the test tells it."""

    def __init__(self, answer: Callable[[], Awaitable[None]] | None = None) -> None:
        self.answer = answer
        self.calls: list[Any] = []
        self.cancelled = 0

    async def _call(self, request: Any, response: Any) -> Any:
        self.calls.append(request)
        try:
            if self.answer is not None:
                await self.answer()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return response

    async def receive(self, request: receiver_pb2.ReceiveRequest) -> receiver_pb2.ReceiveResponse:
        return await self._call(request, receiver_pb2.ReceiveResponse())

    async def search(self, request: receiver_pb2.SearchRequest) -> receiver_pb2.SearchResponse:
        return await self._call(request, receiver_pb2.SearchResponse())

    async def list_corpora(self, request: Any) -> receiver_pb2.ListCorporaResponse:
        return await self._call(request, receiver_pb2.ListCorporaResponse())

    async def get_item(self, request: Any) -> receiver_pb2.GalleryItem:
        return await self._call(request, receiver_pb2.GalleryItem(item_id=request.item_id))

    async def get_media(self, request: Any) -> receiver_pb2.GetMediaResponse:
        return await self._call(request, receiver_pb2.GetMediaResponse(data=b"x"))

    async def add_items(self, request: Any) -> receiver_pb2.AddItemsResponse:
        return await self._call(request, receiver_pb2.AddItemsResponse())

    async def remove_items(self, request: Any) -> receiver_pb2.RemoveItemsResponse:
        return await self._call(request, receiver_pb2.RemoveItemsResponse())


class Channel:
    """A channel whose `transmit` calls a receiver, the other methods nothing."""

    def __init__(self, receiver: services.ReceiverService) -> None:
        self.receiver = receiver
        self.remaining: list[float | None] = []

    async def transmit(self, request: channel_pb2.TransmitRequest) -> channel_pb2.TransmitResponse:
        self.remaining.append(remaining_s())
        await self.receiver.search(receiver_pb2.SearchRequest())
        return channel_pb2.TransmitResponse()

    async def _not_here(self, request: Any) -> Any:
        raise NotImplementedError

    open_link = get_link = list_links = close_link = grant = get_csi = _not_here


@asynccontextmanager
async def serving(
    service_name: Any, service: object, settings: Settings = SETTINGS
) -> AsyncIterator[RunningServer]:
    server = await start_server(service_name, grpc_servicer(service_name, service), settings)
    await server.set_serving()
    try:
        yield server
    finally:
        await server.stop(0)


@asynccontextmanager
async def calling(service_name: str, port: int) -> AsyncIterator[Any]:
    async with CLIENTS[service_name](f"127.0.0.1:{port}", SETTINGS) as client:
        yield client


def _raises(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def answer() -> None:
        raise error

    return answer


def _counts(service: str, method: str) -> tuple[float, dict[str, float]]:
    """Accepted calls and ended calls by outcome."""
    accepted = registry.get_sample_value(
        "semlink_requests_accepted_total", {"service": service, "method": method}
    )
    ended = {"ok": 0.0, "error": 0.0, "cancelled": 0.0}
    for metric in registry.collect():
        for sample in metric.samples:
            if sample.name == "semlink_requests_total" and (
                (sample.labels["service"], sample.labels["method"]) == (service, method)
            ):
                ended[sample.labels["outcome"]] += sample.value
    return accepted or 0.0, ended


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("service", sorted(SERVICES))
async def test_every_rpc_of_the_contract_reaches_the_method_of_its_name(service: str) -> None:
    seen: list[tuple[str, type[Any]]] = []
    methods = {
        re.sub(r"(?<!^)([A-Z])", r"_\1", method.name).lower(): method
        for method in SERVICES[service].methods
    }

    class Echo:
        pass

    for name, method in methods.items():

        async def handle(self: object, request: Any, name: str = name, method: Any = method) -> Any:
            seen.append((name, type(request)))
            return GetMessageClass(method.output_type)()

        async def stream(self: object, request: Any, handle: Any = handle) -> AsyncIterator[Any]:
            for _ in range(3):
                yield await handle(self, request)

        setattr(Echo, name, stream if method.server_streaming else handle)
    async with serving(service, Echo()) as server, calling(service, server.port) as client:
        for name, method in methods.items():
            called = getattr(client, name)(GetMessageClass(method.input_type)())
            if method.server_streaming:
                answers = [answer async for answer in called]
                assert len(answers) == 3
                answer = answers[0]
            else:
                answer = await called
            assert type(answer) is GetMessageClass(method.output_type)
            assert seen[-1] == (name, GetMessageClass(method.input_type))
    calls = {name for name in dir(type(client)) if not name.startswith("_")}
    assert calls - set(dir(ServiceClient)) == {*methods, "service"}


def test_a_service_that_lacks_a_method_is_refused() -> None:
    with pytest.raises(TypeError, match="async def rewrite"):
        grpc_servicer("knowledge", object())


class _Streaming(KnowledgeBase):
    """A real service whose export is scripted: answers, then perhaps an error; it notes when it was left."""

    def __init__(self, error: Exception | None = None, endless: bool = False) -> None:
        super().__init__(MemoryStore(), SETTINGS)
        self.export_entries = self._scripted_export
        self.error, self.endless = error, endless
        self.sent = 0
        self.left = asyncio.Event()

    async def _scripted_export(
        self, request: knowledge_pb2.ExportEntriesRequest
    ) -> AsyncIterator[knowledge_pb2.KnowledgeEntry]:
        try:
            while self.endless or self.sent < 3:
                self.sent += 1
                yield knowledge_pb2.KnowledgeEntry(key=str(self.sent), embedding=bytes(10_000))
            if self.error:
                raise self.error
        finally:
            self.left.set()


async def test_a_stream_gives_its_answers_then_its_typed_error() -> None:
    service = _Streaming(InvalidField("filter.text is bad", field="filter.text"))
    got = []
    async with serving("knowledge", service) as server, calling("knowledge", server.port) as client:

        async def collect() -> None:
            async for entry in client.export_entries(knowledge_pb2.ExportEntriesRequest()):
                got.append(entry.key)

        with pytest.raises(InvalidField, match="is bad") as caught:
            await collect()
    assert got == ["1", "2", "3"]
    assert caught.value.field == "filter.text"
    await service.close()


async def test_a_stream_leaks_no_internal_error() -> None:
    service = _Streaming(RuntimeError("secret"))
    async with serving("knowledge", service) as server, calling("knowledge", server.port) as client:
        with pytest.raises(SemlinkError, match="internal error") as caught:
            async for _ in client.export_entries(knowledge_pb2.ExportEntriesRequest()):
                pass
    assert "secret" not in caught.value.message
    await service.close()


async def test_a_stream_that_is_left_ends_at_the_server() -> None:
    service = _Streaming(endless=True)
    async with serving("knowledge", service) as server, calling("knowledge", server.port) as client:
        answers = client.export_entries(knowledge_pb2.ExportEntriesRequest())
        assert (await anext(answers)).key == "1"
        await answers.aclose()
        async with asyncio.timeout(5):
            await service.left.wait()
    await service.close()


@pytest.mark.parametrize(
    "kind",
    [
        errors.InvalidField,
        errors.NotFound,
        errors.Unavailable,
        errors.DeadlineExceeded,
        errors.Overloaded,
        errors.CorruptTensor,
    ],
)
@pytest.mark.parametrize("field", ["queries[0].link.snr_db", "", "frames[3].Größe 100 %\n"])
async def test_errors_arrive_as_they_were_raised(
    kind: type[errors.SemlinkError], field: str
) -> None:
    service = Receiver(_raises(kind("receiver says: 3 % zu groß ≥ 2", field=field)))
    async with serving("receiver", service) as server, calling("receiver", server.port) as client:
        with pytest.raises(errors.SemlinkError) as caught:
            await client.search(receiver_pb2.SearchRequest())
    assert type(caught.value) is kind
    assert caught.value.message == "receiver says: 3 % zu groß ≥ 2"
    assert caught.value.field == field


async def test_a_very_long_message_arrives_cut_not_lost() -> None:
    service = Receiver(_raises(errors.InvalidField("receiver" + "x" * 100_000, field="f" * 1000)))
    async with serving("receiver", service) as server, calling("receiver", server.port) as client:
        with pytest.raises(errors.InvalidField) as caught:
            await client.search(receiver_pb2.SearchRequest())
    assert caught.value.message.startswith("receiverxxx")
    assert caught.value.field.startswith("fff")


async def test_the_status_codes_of_the_contract() -> None:
    """As a client in any language sees them."""
    service = Receiver(_raises(errors.InvalidField("a is 1", field="a")))
    async with (
        serving("receiver", service) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/semlink.v1.Receiver/Search")(b"")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "a is 1"
    assert ("semlink-field", "a") in tuple(caught.value.trailing_metadata() or ())


async def test_internal_errors_are_logged_and_not_leaked() -> None:
    log = io.StringIO()
    configure_logging("receiver", SETTINGS, stream=log)
    service = Receiver(_raises(ValueError("the secret is 42")))
    async with serving("receiver", service) as server, calling("receiver", server.port) as client:
        with pytest.raises(errors.SemlinkError) as caught:
            await client.search(receiver_pb2.SearchRequest())
        assert type(caught.value) is errors.SemlinkError
        assert "secret" not in str(caught.value)
        found = re.search(r"internal error ([0-9a-f]{12})$", str(caught.value))
        assert found is not None
        entry = next(e for e in map(json.loads, log.getvalue().splitlines()) if "error_id" in e)
        assert entry["error_id"] == found[1]
        assert "the secret is 42" in json.dumps(entry["exception"])
        service.answer = None
        await client.search(receiver_pb2.SearchRequest())


async def test_malformed_and_oversize_messages_are_refused_and_the_service_lives() -> None:
    service = Receiver()
    async with serving("receiver", service) as server, calling("receiver", server.port) as client:
        before, ended_before = _counts("receiver", "Search")
        options = (("grpc.max_send_message_length", -1),)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as raw:
            call = raw.unary_unary("/semlink.v1.Receiver/Search")
            for bad in (b"\xff\xff\xff", b"\x0a\x7f", os.urandom(100) + b"\x07"):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(bad)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert ("semlink-field", "request") in tuple(caught.value.trailing_metadata() or ())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"\x00" * (MAX_MESSAGE_BYTES + 1))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        big = receiver_pb2.SearchRequest()
        big.items.add().header = bytes(MAX_MESSAGE_BYTES)
        with pytest.raises(errors.InvalidField, match="allowed: 16777216") as too_big:
            await client.search(big)
        assert too_big.value.field == "request"
        assert service.calls == []
        await client.search(receiver_pb2.SearchRequest())
        accepted, ended = _counts("receiver", "Search")
        assert accepted - before == 4
        assert ended["error"] - ended_before["error"] == 3
    # just below the limit a message passes, both ways
    almost = receiver_pb2.SearchRequest()
    almost.items.add().header = bytes(MAX_MESSAGE_BYTES - 100)
    async with serving("receiver", service) as server, calling("receiver", server.port) as client:
        await client.search(almost)
    assert service.calls[-1] == almost


async def test_an_answer_that_does_not_parse_is_corrupt() -> None:
    def register(server: grpc.aio.Server) -> None:
        async def garbage(request: bytes, context: object) -> bytes:
            return b"\xff\xff\xff"

        handler = grpc.unary_unary_rpc_method_handler(garbage)  # type: ignore[arg-type]
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("semlink.v1.Receiver", {"Search": handler}),)
        )

    server = await start_server("receiver", register, SETTINGS)
    await server.set_serving()
    async with calling("receiver", server.port) as client:
        with pytest.raises(errors.CorruptTensor, match="does not parse"):
            await client.search(receiver_pb2.SearchRequest())
    await server.stop(0)


async def test_the_deadline_travels_through_every_hop() -> None:
    seen: list[float | None] = []

    async def note() -> None:
        seen.append(remaining_s())

    receiver = Receiver(note)
    async with (
        serving("receiver", receiver) as behind,
        calling("receiver", behind.port) as next_service,
    ):
        channel = Channel(next_service)
        async with serving("channel", channel) as server, calling("channel", server.port) as client:
            with deadline_in(2.0):
                await client.transmit(channel_pb2.TransmitRequest())
            # gRPC rounds a timeout up, by at most 1 %
            first, second = channel.remaining[0], seen[0]
            assert first is not None
            assert second is not None
            assert 1.5 < first < 2.1
            assert 1.5 < second < 2.1
            await client.transmit(channel_pb2.TransmitRequest())
            assert SETTINGS.deadline_s * 0.9 < (seen[1] or 0) < SETTINGS.deadline_s * 1.02


async def test_at_the_deadline_all_hops_stop_and_are_counted() -> None:
    receiver = Receiver(lambda: asyncio.sleep(30))
    counted = [("channel", "Transmit"), ("receiver", "Search")]
    before = [_counts(*one) for one in counted]
    async with (
        serving("receiver", receiver) as behind,
        calling("receiver", behind.port) as next_service,
        serving("channel", Channel(next_service)) as server,
        calling("channel", server.port) as client,
    ):
        started = time.perf_counter()
        with deadline_in(0.3), pytest.raises(errors.DeadlineExceeded):
            await client.transmit(channel_pb2.TransmitRequest())
        assert 0.25 < time.perf_counter() - started < 1.5
        async with asyncio.timeout(2):
            while receiver.cancelled == 0:
                await asyncio.sleep(0.01)
        caller = asyncio.create_task(client.transmit(channel_pb2.TransmitRequest()))
        async with asyncio.timeout(5):
            while len(receiver.calls) < 2:
                await asyncio.sleep(0.01)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        async with asyncio.timeout(5):
            while receiver.cancelled < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        for one, (accepted, ended) in zip(counted, before, strict=True):
            accepted_now, ended_now = _counts(*one)
            assert accepted_now - accepted == 2
            assert sum(ended_now.values()) == accepted_now, "a call was lost"
            assert ended_now["ok"] == ended["ok"]
        assert registry.get_sample_value("semlink_requests_in_flight", {"service": "receiver"}) == 0


async def test_corruption_is_counted_where_it_was_found_only() -> None:
    def count(service: str) -> float:
        return registry.get_sample_value("semlink_crc_rejected_total", {"service": service}) or 0.0

    receiver = Receiver(_raises(errors.CorruptTensor("bad crc", field="frames[0].samples.crc32c")))
    before = count("receiver"), count("channel")
    async with (
        serving("receiver", receiver) as behind,
        calling("receiver", behind.port) as next_service,
        serving("channel", Channel(next_service)) as server,
        calling("channel", server.port) as client,
    ):
        with pytest.raises(errors.CorruptTensor) as caught:
            await client.transmit(channel_pb2.TransmitRequest())
    assert caught.value.field == "frames[0].samples.crc32c"
    assert (count("receiver") - before[0], count("channel") - before[1]) == (1, 0)


async def test_a_service_that_is_away_is_unavailable_soon() -> None:
    async with calling("receiver", _free_port()) as client:
        started = time.perf_counter()
        with pytest.raises(
            errors.Unavailable, match=r"receiver cannot be reached at 127\.0\.0\.1:"
        ):
            await client.search(receiver_pb2.SearchRequest())
        assert time.perf_counter() - started < SETTINGS.connect_timeout_s + 0.5
        started = time.perf_counter()
        with deadline_in(0.1), pytest.raises(errors.DeadlineExceeded):
            await client.search(receiver_pb2.SearchRequest())
        assert time.perf_counter() - started < 0.4


async def test_calls_wait_for_a_service_that_starts_and_find_one_that_restarted() -> None:
    port, service = _free_port(), Receiver()
    settings = SETTINGS.model_copy(update={"receiver_port": port})
    patient = SETTINGS.model_copy(update={"connect_timeout_s": 5.0})
    async with ReceiverClient(f"127.0.0.1:{port}", patient) as client:
        early = asyncio.create_task(client.search(receiver_pb2.SearchRequest()))
        await asyncio.sleep(0.3)
        async with serving("receiver", service, settings):
            await early
        async with serving("receiver", service, settings):
            await client.search(receiver_pb2.SearchRequest())
    assert len(service.calls) == 2


async def test_what_was_sent_is_never_sent_again() -> None:
    service = Receiver(lambda: asyncio.sleep(30))
    port = _free_port()
    settings = SETTINGS.model_copy(update={"receiver_port": port})
    async with calling("receiver", port) as client:
        async with serving("receiver", service, settings):
            call = asyncio.create_task(client.search(receiver_pb2.SearchRequest()))
            async with asyncio.timeout(5):
                while not service.calls:
                    await asyncio.sleep(0.01)
        # the server was stopped at once, in the middle of the call
        async with serving("receiver", service, settings):
            with pytest.raises(errors.Unavailable):
                await call
            await asyncio.sleep(0.3)
    assert len(service.calls) == 1


async def test_two_replicas_share_the_calls_and_a_rolling_stop_fails_none() -> None:
    replicas = [Receiver(lambda: asyncio.sleep(0.002)) for _ in range(2)]
    servers = [
        await start_server("receiver", grpc_servicer("receiver", service), SETTINGS)
        for service in replicas
    ]
    for server in servers:
        await server.set_serving()
    address = "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
    async with ReceiverClient(address, SETTINGS) as client:

        async def work() -> None:
            for n in range(60):
                assert (
                    await client.get_item(receiver_pb2.GetItemRequest(item_id=str(n)))
                ).item_id == str(n)

        await work()
        shares = [len(service.calls) for service in replicas]
        assert min(shares) >= 25, shares
        workers = [asyncio.create_task(work()) for _ in range(8)]
        await asyncio.sleep(0.05)
        await servers[0].stop(5)
        await asyncio.gather(*workers)
        assert sum(len(service.calls) for service in replicas) == 60 + 8 * 60, "a call ran twice"
        before = len(replicas[1].calls)
        await work()
        assert len(replicas[1].calls) - before == 60
    await servers[1].stop(0)


async def test_not_ready_then_serving_then_drained() -> None:
    service = Receiver(lambda: asyncio.sleep(0.4))
    server = await start_server("receiver", grpc_servicer("receiver", service), SETTINGS)
    serving_status, not_serving = (
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    )
    async with (
        calling("receiver", server.port) as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)

        async def status(name: str) -> int:
            return int((await stub.Check(health_pb2.HealthCheckRequest(service=name))).status)

        for name in ("", "semlink.v1.Receiver"):
            assert await status(name) == not_serving
        with pytest.raises(
            grpc.aio.AioRpcError, match="not ready"
        ) as refused:  # who does not watch health
            await channel.unary_unary("/semlink.v1.Receiver/Search")(b"")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(errors.Unavailable, match="cannot be reached"):  # ours do
            await client.search(receiver_pb2.SearchRequest())
        assert not await client.serving(0.1)
        assert service.calls == []
        waiting = asyncio.create_task(client.search(receiver_pb2.SearchRequest()))
        await asyncio.sleep(0.1)
        await server.set_serving()
        await waiting
        assert await client.serving()
        service.calls.clear()
        for name in ("", "semlink.v1.Receiver"):
            assert await status(name) == serving_status
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await status("semlink.v1.Other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        in_flight = asyncio.create_task(client.search(receiver_pb2.SearchRequest()))
        async with asyncio.timeout(5):
            while not service.calls:
                await asyncio.sleep(0.01)
        stopping = asyncio.create_task(server.stop(5))
        await asyncio.sleep(0.1)
        async with calling("receiver", server.port) as late:
            with pytest.raises(errors.Unavailable):
                await late.search(receiver_pb2.SearchRequest())
        await in_flight
        await stopping
    assert len(service.calls) == 1


async def test_reflection_describes_the_service_to_a_client_that_has_no_contract() -> None:
    service = Receiver()
    async with serving("receiver", service) as server:

        def ask() -> tuple[set[str], Any]:
            with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                database = ProtoReflectionDescriptorDatabase(channel)
                service = DescriptorPool(database).FindServiceByName("semlink.v1.Receiver")
                method = service.methods_by_name["GetItem"]
                request = GetMessageClass(method.input_type)(corpus="c", item_id="i7")
                answer = channel.unary_unary(f"/{service.full_name}/{method.name}")(
                    request.SerializeToString()
                )
                return set(database.get_services()), GetMessageClass(method.output_type).FromString(
                    answer
                )

        names, answer = await asyncio.to_thread(ask)
    assert names == {
        "semlink.v1.Receiver",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert answer.item_id == "i7"


async def test_metrics_are_served_beside_the_calls() -> None:
    async with (
        serving("receiver", Receiver()) as server,
        calling("receiver", server.port) as client,
    ):
        await client.get_media(receiver_pb2.GetMediaRequest())
        url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    assert re.search(
        r'semlink_requests_total\{code="ok",method="GetMedia",outcome="ok",service="receiver"\} [1-9]',
        text,
    )
    assert 'semlink_request_seconds_bucket{le="0.001",method="GetMedia",service="receiver"}' in text
    assert re.search(r"process_resident_memory_bytes \d\.\d+e\+\d", text)


async def test_a_taken_port_is_an_error_not_a_second_server() -> None:
    async with serving("receiver", Receiver()) as server:
        for field, port in (
            ("receiver_port", server.port),
            ("receiver_metrics_port", server.metrics_port),
        ):
            taken = SETTINGS.model_copy(update={field: port})
            with pytest.raises(errors.Unavailable, match=str(port)) as caught:
                await start_server("receiver", grpc_servicer("receiver", Receiver()), taken)
            assert caught.value.field == field


async def test_a_hundred_calls_at_once_each_get_their_own_answer() -> None:
    async with (
        serving("receiver", Receiver()) as server,
        calling("receiver", server.port) as client,
    ):
        requests = [receiver_pb2.GetItemRequest(item_id=str(n)) for n in range(100)]
        answers = await asyncio.gather(*map(client.get_item, requests))
    assert [answer.item_id for answer in answers] == [str(n) for n in range(100)]


def test_clients_satisfy_the_protocols_of_the_services() -> None:
    """Checked by mypy here, and at run time above."""
    transmitter: services.TransmitterService = TransmitterClient("x:1", SETTINGS)
    channel: services.ChannelService = ChannelClient("x:1", SETTINGS)
    receiver: services.ReceiverService = ReceiverClient("x:1", SETTINGS)
    knowledge: services.KnowledgeBaseService = KnowledgeClient("x:1", SETTINGS)
    assert isinstance(knowledge, ServiceClient)
    for client in (transmitter, channel, receiver, knowledge):
        assert isinstance(client, ServiceClient)


SERVICE = """
import asyncio
import re
from semlink.rpc import grpc_servicer, serve
from semlink.rpc.status import SERVICES
from semlink.settings import Settings
from semlink.v1 import knowledge_pb2
import torch
class Knowledge:
    async def rewrite(self, request):
        await asyncio.sleep(request.budget_ms / 1e3)
        return knowledge_pb2.RewriteResponse()
    async def predict_csi(self, request):
        csi = knowledge_pb2.PredictedCsi(newest_report_slot=torch.get_num_threads())
        return knowledge_pb2.PredictCsiResponse(predictions=[csi])
async def ready():
    await asyncio.sleep(0.2)
async def others(self, request):
    raise NotImplementedError
async def streams(self, request):
    yield
for method in SERVICES["knowledge"].methods:
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
    if not hasattr(Knowledge, name):
        setattr(Knowledge, name, streams if method.server_streaming else others)
async def close():
    print("closed", flush=True)
asyncio.run(serve("knowledge", grpc_servicer("knowledge", Knowledge()), Settings(), ready=ready, close=close))
"""


async def test_serve_as_a_process_until_sigterm_drains_and_exits_with_0() -> None:
    port = _free_port()
    environment = os.environ | {
        "SEMLINK_KNOWLEDGE_PORT": str(port),
        "SEMLINK_KNOWLEDGE_METRICS_PORT": "0",
        "SEMLINK_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        (sys.executable, "-c", SERVICE),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        patient = Settings(connect_timeout_s=60)
        async with KnowledgeClient(f"127.0.0.1:{port}", patient) as client:
            async with asyncio.timeout(60):
                threads = await client.predict_csi(knowledge_pb2.PredictCsiRequest())
            assert threads.predictions[0].newest_report_slot == 1
            in_flight = asyncio.create_task(
                client.rewrite(knowledge_pb2.RewriteRequest(budget_ms=500))
            )
            await asyncio.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            assert await in_flight == knowledge_pb2.RewriteResponse()
        out, err = await asyncio.to_thread(process.communicate, timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert out == "closed\n"
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events == ["listening", "ready", "draining", "stopped"]


async def test_an_answer_type_is_checked_by_the_contract() -> None:
    """The transmitter's client against a transmitter: messages nest the other contracts'."""

    class Transmitter:
        async def retrieve(self, request: Any) -> transmitter_pb2.RetrieveResponse:
            answers = [
                transmitter_pb2.Answer(query_id=query.id, link=channel_pb2.LinkReport(slot=n))
                for n, query in enumerate(request.queries)
            ]
            return transmitter_pb2.RetrieveResponse(answers=answers)

    async with (
        serving("transmitter", Transmitter()) as server,
        calling("transmitter", server.port) as client,
    ):
        queries = [transmitter_pb2.Query(id=name) for name in "ab"]
        response = await client.retrieve(transmitter_pb2.RetrieveRequest(queries=queries))
    assert [(answer.query_id, answer.link.slot) for answer in response.answers] == [
        ("a", 0),
        ("b", 1),
    ]


async def test_pings_that_arrive_in_a_burst_end_no_call() -> None:
    """A server that was starved of its processor reads many pings at once; a patient call goes on."""

    async def slow() -> None:
        await asyncio.sleep(4.0)

    options = [
        ("grpc.keepalive_time_ms", 300),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with (
        serving("receiver", Receiver(slow)) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as raw,
    ):
        call = raw.unary_unary(
            "/semlink.v1.Receiver/ListCorpora",
            request_serializer=receiver_pb2.ListCorporaRequest.SerializeToString,
            response_deserializer=receiver_pb2.ListCorporaResponse.FromString,
        )
        assert await call(receiver_pb2.ListCorporaRequest(), timeout=20) is not None
