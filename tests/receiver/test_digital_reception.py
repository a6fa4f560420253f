"""Digital messages at the receiver: decoded where the CRC holds, erased where it fails, refused where they are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lab.evaluation.local_system import RecordingReceiver
from receiver.gallery import gallery_of
from receiver.handler import Receiver
from semlink.errors import InvalidField
from semlink.grid import NUM_SUBBANDS
from semlink.semantics.digital import DIGITAL_CODINGS, load_source_coder
from semlink.semantics.gallery import GalleryEmbeddings
from semlink.semantics.headers import parse_header
from semlink.settings import Settings
from semlink.signal.coding import modulate, scheme_of
from semlink.v1 import channel_pb2, receiver_pb2
from semlink.wire import to_wire

RX = 4


def gaussian(rng: np.random.Generator, *shape: int) -> np.ndarray:  # type: ignore[type-arg]
    parts = rng.normal(size=(2, *shape))
    return ((parts[0] + 1j * parts[1]) / 2**0.5).astype(np.complex64)


def received(  # type: ignore[no-untyped-def]
    feature: np.ndarray,  # type: ignore[type-arg]
    coding: str,
    *,
    mcs: int = 8,
    k: int = 64,
    layers: int = 1,
    noise: float = 1e-3,
    **values,
) -> receiver_pb2.ReceivedFrame:
    """A message over orthogonal layers, symbol j on layer j mod L, written out once more."""
    scheme = scheme_of(mcs, k)
    coder = load_source_coder("person", coding)
    bits = coder.encode(torch.from_numpy(feature[None]), "image", scheme.payload_bits)
    message = modulate(bits, scheme)[0].numpy()
    elements = -(-k // layers)
    grid = np.ones((layers, elements), np.complex64)
    for j in range(k):
        grid[j % layers, j // layers] = message[j]
    rng = np.random.default_rng(0)
    channel = np.stack([np.linalg.qr(gaussian(rng, RX, layers))[0] for _ in range(NUM_SUBBANDS)])
    h = channel[np.arange(elements) % NUM_SUBBANDS]
    samples = np.einsum("nrl,ln->rn", h, grid) + noise**0.5 * gaussian(rng, RX, elements)
    header = {
        "task": "person",
        "corpus": "pedestrians",
        "modality": "image",
        "symbols": k,
        "top_k": 5,
        "num_streams": layers,
        "num_layers": layers,
        "coding": coding,
        "mcs": mcs,
    }
    return receiver_pb2.ReceivedFrame(
        header=channel_pb2.FrameHeader(**(header | values)).SerializeToString(),
        samples=to_wire(samples.astype(np.complex64)),
        pilots=to_wire(channel.astype(np.complex64)),
        pilot_length=12,
        noise=to_wire((noise**0.5 * gaussian(rng, RX, 96)).astype(np.complex64)),
    )


@pytest.fixture(scope="module")
def vectors() -> GalleryEmbeddings:
    return GalleryEmbeddings.load("pedestrians")


async def answer(*frames: receiver_pb2.ReceivedFrame, service: Receiver | None = None):  # type: ignore[no-untyped-def]
    service = service or Receiver(Settings(redis_url="memory://"))
    return (await service.receive(receiver_pb2.ReceiveRequest(frames=frames))).receptions


@pytest.mark.parametrize("coding", DIGITAL_CODINGS)
@pytest.mark.parametrize(
    ("k", "mcs", "layers"),
    [(8, 15, 1), (16, 12, 2), (32, 5, 3), (64, 8, 1), (64, 12, 4), (128, 3, 2), (128, 20, 3)],
)
async def test_what_arrives_is_what_was_sent(
    vectors: GalleryEmbeddings, coding: str, k: int, mcs: int, layers: int
) -> None:
    """Every length and number of layers: the decoded feature is the source coder's own, to rounding."""
    service = RecordingReceiver(Settings(redis_url="memory://"))
    feature = vectors.items[7].astype(np.float32)
    (reception,) = await answer(
        received(feature, coding, mcs=mcs, k=k, layers=layers, noise=1e-4), service=service
    )
    assert not reception.erased
    coder = load_source_coder("person", coding)
    bits = coder.encode(torch.from_numpy(feature[None]), "image", scheme_of(mcs, k).payload_bits)
    np.testing.assert_allclose(
        service.features[0], coder.decode(bits, "image")[0].numpy(), atol=1e-6
    )


@pytest.mark.parametrize("coding", DIGITAL_CODINGS)
async def test_a_message_that_drowns_is_erased_and_its_mates_are_not(
    vectors: GalleryEmbeddings, coding: str
) -> None:
    gallery = gallery_of("pedestrians")
    good = received(vectors.items[3], coding)
    drowned = received(vectors.items[4], coding, noise=30.0)
    first, second, third = await answer(good, drowned, good)
    assert second.erased
    assert not second.matches
    for reception in (first, third):
        assert not reception.erased
        assert len(reception.matches) == 5
        identities = [gallery.item(m.item_id).identity for m in reception.matches]
        assert gallery.item(vectors.item_ids[3]).identity in identities


async def test_an_erased_message_leaves_a_zero_feature_for_the_metrics(
    vectors: GalleryEmbeddings,
) -> None:
    service = RecordingReceiver(Settings(redis_url="memory://"))
    (reception,) = await answer(
        received(vectors.items[4], "separation", noise=30.0), service=service
    )
    assert reception.erased
    assert not service.features[0].any()


async def test_another_mcs_than_was_sent_is_noticed(vectors: GalleryEmbeddings) -> None:
    frames = [received(vectors.items[i], "vq-digital") for i in range(20)]
    for frame in frames:
        header = channel_pb2.FrameHeader.FromString(frame.header)
        header.mcs = 7
        frame.header = header.SerializeToString()
    assert all(r.erased for r in await answer(*frames))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"coding": "morse"}, "coding"),
        ({"mcs": 28}, "mcs"),
        ({"coding": ""}, "mcs"),
        ({"symbols": 8, "mcs": 0}, "mcs"),
        ({"modality": "video"}, "modality"),
        ({"first_stream": 1}, "first_stream"),
        ({"num_streams": 33}, "num_streams"),
        ({"reranking": "none"}, "reranking"),
    ],
)
def test_headers_that_say_what_cannot_be_are_named(values: dict[str, object], field: str) -> None:
    header = {
        "task": "person",
        "modality": "text",
        "symbols": 64,
        "top_k": 5,
        "num_streams": 1,
        "num_layers": 1,
        "coding": "separation",
        "mcs": 8,
    }
    good = channel_pb2.FrameHeader(**header)  # type: ignore[arg-type]
    assert parse_header(good.SerializeToString(), field="h") == good
    bad = channel_pb2.FrameHeader(**(header | values))  # type: ignore[arg-type]
    with pytest.raises(InvalidField) as raised:
        parse_header(bad.SerializeToString(), field="h")
    assert raised.value.field == f"h.{field}"


def test_a_header_with_a_passenger_is_refused() -> None:
    """An undeclared field would be a way around the air."""
    header = channel_pb2.FrameHeader(
        task="person", modality="text", symbols=64, top_k=5, num_streams=1, num_layers=1
    )
    passenger = b"\xfa\x07\x05hello"  # field 127, five bytes
    with pytest.raises(InvalidField, match="holds more"):
        parse_header(header.SerializeToString() + passenger, field="h")
