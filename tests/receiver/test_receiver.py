"""The receiver: what is corrupted, ill-shaped or no number is refused by name; clean samples find their item."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from receiver.gallery import Gallery, gallery_of
from receiver.handler import Receiver
from semlink.errors import CorruptTensor, InvalidField, NotFound
from semlink.grid import NUM_SUBBANDS
from semlink.semantics.codec import load_codec
from semlink.semantics.gallery import GalleryEmbeddings
from semlink.settings import Settings
from semlink.v1 import channel_pb2, receiver_pb2
from semlink.wire import to_wire

STREAMS, RX = 4, 2


def header(**values) -> channel_pb2.FrameHeader:  # type: ignore[no-untyped-def]
    fields = {
        "task": "person",
        "corpus": "pedestrians",
        "modality": "text",
        "symbols": 64,
        "top_k": 5,
        "num_streams": STREAMS,
        "num_layers": 1,
    }
    return channel_pb2.FrameHeader(**(fields | values))


def received(feature: np.ndarray, *, noise: float = 1e-3, **values) -> receiver_pb2.ReceivedFrame:  # type: ignore[no-untyped-def,type-arg]
    """A message through a channel of our own: stream 0 wanted, the others orthogonal to nothing in particular."""
    rng = np.random.default_rng(0)

    def gaussian(*shape: int) -> np.ndarray:  # type: ignore[type-arg]
        return ((rng.normal(size=shape) + 1j * rng.normal(size=shape)) / 2**0.5).astype(
            np.complex64
        )

    k = 64
    channel = gaussian(NUM_SUBBANDS, RX, STREAMS)
    channel[:, :, 1:] *= 0.01  # well precoded: little of the other users arrives
    snr = torch.full((1, k), 25.0)
    message = load_codec("person").encode(torch.from_numpy(feature[None]), snr, k).numpy()
    others = gaussian(STREAMS - 1, k)
    sent = np.concatenate([message, others])
    h = channel[np.arange(k) % NUM_SUBBANDS]
    samples = np.einsum("krs,sk->rk", h, sent) + noise**0.5 * gaussian(RX, k)
    return receiver_pb2.ReceivedFrame(
        header=header(**values).SerializeToString(),
        samples=to_wire(samples.astype(np.complex64)),
        pilots=to_wire(channel),
        pilot_length=12,
        noise=to_wire((noise**0.5 * gaussian(RX, 96)).astype(np.complex64)),
    )


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return gallery_of("pedestrians")


@pytest.fixture(scope="module")
def vectors() -> GalleryEmbeddings:
    return GalleryEmbeddings.load("pedestrians")


async def answer(*frames: receiver_pb2.ReceivedFrame):  # type: ignore[no-untyped-def]
    service = Receiver(Settings(redis_url="memory://"))
    return (await service.receive(receiver_pb2.ReceiveRequest(frames=frames))).receptions


async def test_a_clean_message_of_an_items_own_vector_finds_that_item(
    vectors: GalleryEmbeddings, gallery: Gallery
) -> None:
    chosen = (3, 500, 997)
    receptions = await answer(*(received(vectors.items[i]) for i in chosen))
    for i, reception in zip(chosen, receptions, strict=True):
        identities = [gallery.item(m.item_id).identity for m in reception.matches]
        assert gallery.item(vectors.item_ids[i]).identity in identities
        assert reception.post_eq_snr_estimate_db > 15


async def test_search_is_exact(vectors: GalleryEmbeddings, gallery: Gallery) -> None:
    rng = np.random.default_rng(1)
    queries = rng.normal(size=(8, 256)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    hits = gallery.search(queries[:, None], 10, captions=False)
    best = np.argsort(-(queries @ vectors.items.T), axis=1)[:, :10]
    for row, found in zip(best, hits, strict=True):
        assert [h.item_id for h in found] == [vectors.item_ids[i] for i in row]


def flip(frame: receiver_pb2.ReceivedFrame) -> None:
    data = bytearray(frame.samples.data)
    data[17] ^= 4
    frame.samples.data = bytes(data)


def truncate(frame: receiver_pb2.ReceivedFrame) -> None:
    frame.pilots.data = frame.pilots.data[:-8]


def not_a_number(frame: receiver_pb2.ReceivedFrame) -> None:
    frame.noise.CopyFrom(to_wire(np.full((RX, 96), np.nan, np.complex64)))


def too_few(frame: receiver_pb2.ReceivedFrame) -> None:
    frame.samples.CopyFrom(to_wire(np.ones((RX, 63), np.complex64)))


def wrong_ports(frame: receiver_pb2.ReceivedFrame) -> None:
    frame.pilots.CopyFrom(to_wire(np.ones((NUM_SUBBANDS, RX, 3), np.complex64)))


def no_header(frame: receiver_pb2.ReceivedFrame) -> None:
    frame.header = b"\xff\xff\xff"


def no_pilots(frame: receiver_pb2.ReceivedFrame) -> None:
    frame.pilot_length = 0


@pytest.mark.parametrize(
    ("damage", "error", "field"),
    [
        (flip, CorruptTensor, "frames[1].samples.crc32c"),
        (truncate, CorruptTensor, "frames[1].pilots.data"),
        (not_a_number, InvalidField, "frames[1].noise"),
        (too_few, InvalidField, "frames[1].samples"),
        (wrong_ports, InvalidField, "frames[1].pilots.shape"),
        (no_header, InvalidField, "frames[1].header"),
        (no_pilots, InvalidField, "frames[1].pilot_length"),
    ],
)
async def test_a_damaged_frame_is_refused_by_name(
    vectors: GalleryEmbeddings,
    damage: Callable[[receiver_pb2.ReceivedFrame], None],
    error: type[Exception],
    field: str,
) -> None:
    good, bad = received(vectors.items[0]), received(vectors.items[1])
    damage(bad)
    with pytest.raises(error) as raised:
        await answer(good, bad)
    assert raised.value.field == field  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"corpus": "none"}, NotFound),
        ({"corpus": "scenes"}, InvalidField),
        ({"top_k": 0}, InvalidField),
    ],
)
async def test_a_header_that_asks_for_what_is_not_there(
    vectors: GalleryEmbeddings, values: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await answer(received(vectors.items[0], **values))


async def test_features_that_crossed_nothing_must_fit_the_gallery() -> None:
    service = Receiver(Settings(redis_url="memory://"))
    item = receiver_pb2.SearchItem(
        header=header().SerializeToString(), components=to_wire(np.ones((1, 7), np.float32))
    )
    with pytest.raises(InvalidField, match="256"):
        await service.search(receiver_pb2.SearchRequest(items=[item]))


async def test_items_and_media(gallery: Gallery) -> None:
    service = Receiver(Settings(redis_url="memory://"))
    first = gallery.corpus.items("test")[0].item_id
    item = await service.get_item(receiver_pb2.GetItemRequest(corpus="pedestrians", item_id=first))
    assert item.captions
    media = await service.get_media(
        receiver_pb2.GetMediaRequest(corpus="pedestrians", item_id=first)
    )
    assert media.data[:2] == b"\xff\xd8"
    with pytest.raises(NotFound):
        await service.get_item(receiver_pb2.GetItemRequest(corpus="pedestrians", item_id="none"))
    with pytest.raises(NotFound):
        await service.get_item(receiver_pb2.GetItemRequest(corpus="none", item_id=first))
