"""The receiver: equalise, decode the meaning, find the nearest items."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from receiver.decoding import Decoded, Samples, check_frame, decode
from receiver.gallery import Gallery, gallery_of
from receiver.items import add_items, remove_items
from semlink.batching import MicroBatcher
from semlink.corpora.registry import check_corpus, embedded_corpora, known_corpora
from semlink.enums import enum_value
from semlink.errors import InvalidField
from semlink.grouping import run_grouped
from semlink.semantics.gallery import gallery_file
from semlink.semantics.headers import parse_header
from semlink.semantics.media import MediaDecoder
from semlink.settings import Settings
from semlink.stages import Noted, batched, follow
from semlink.tasks import task_spec
from semlink.telemetry import timed
from semlink.v1 import channel_pb2, common_pb2, receiver_pb2
from semlink.wire import from_wire

Matches: TypeAlias = Sequence[receiver_pb2.Match]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Decoded components (``[num_components, feature_size]``, float32, unit norm) and what to look for with them.

    ``erased``: the channel destroyed the message; the components are zero and nothing is looked for.
    """

    header: channel_pb2.FrameHeader
    components: NDArray[np.float32]
    erased: bool = False

    @property
    def to_text(self) -> bool:
        """Whether captions are looked for."""
        return task_spec(self.header.task).finds_captions(self.header.modality)

    @property
    def shape(self) -> tuple[object, ...]:
        """What is of equal shape is searched for together."""
        h = self.header
        how = (h.corpus, self.to_text, h.prototypes, h.reranking, self.components.shape)
        return () if self.erased else how


class Receiver:
    """Satisfies :class:`semlink.services.ReceiverService`."""

    def __init__(self, settings: Settings) -> None:
        self._decoder: MicroBatcher[Samples, Noted[Decoded]] = batched(
            "receiver.decode",
            partial(decode, device=torch.device(settings.device), weights=settings.weights),
            max_batch=256,
            max_queue=settings.max_queue,
        )
        self._media = MediaDecoder("receiver", settings)

    def warm_up(self) -> None:
        """Load every embedded gallery, so that the first query does not pay for it."""
        for corpus in embedded_corpora():
            gallery_of(corpus)

    async def close(self) -> None:
        """Finish what is queued."""
        await self._media.close()
        await self._decoder.drain()

    async def receive(self, request: receiver_pb2.ReceiveRequest) -> receiver_pb2.ReceiveResponse:
        """Answer each frame; one bad frame fails the call, naming ``frames[i].field``, before any is decoded."""
        samples = [
            check_frame(frame, field=f"frames[{i}]") for i, frame in enumerate(request.frames)
        ]
        for i, checked in enumerate(samples):
            _check_target(checked.header, field=f"frames[{i}].header")
        decoded = await self._decoder.submit_many(samples)
        wanted = [
            d.then(Noted(Wanted(s.header, d.value.components, d.value.erased)))
            for s, d in zip(samples, decoded, strict=True)
        ]
        found = await follow(wanted, self._find)
        return receiver_pb2.ReceiveResponse(
            receptions=[
                receiver_pb2.Reception(
                    matches=f.value,
                    post_eq_snr_estimate_db=d.value.post_eq_snr_estimate_db,
                    timings=f.timings,
                    erased=d.value.erased,
                )
                for d, f in zip(decoded, found, strict=True)
            ]
        )

    async def search(self, request: receiver_pb2.SearchRequest) -> receiver_pb2.SearchResponse:
        """Search with features that crossed no channel."""
        wanted = []
        for i, item in enumerate(request.items):
            header = parse_header(item.header, field=f"items[{i}].header")
            _check_target(header, field=f"items[{i}].header")
            components = from_wire(
                item.components, field=f"items[{i}].components", dtype="float32", shape=(None, None)
            )
            wanted.append(Wanted(header, components))
        return receiver_pb2.SearchResponse(
            receptions=[
                receiver_pb2.Reception(matches=f.value, timings=f.timings)
                for f in await self._find(wanted)
            ]
        )

    async def list_corpora(
        self,
        request: receiver_pb2.ListCorporaRequest,  # noqa: ARG002 - the protocol's signature
    ) -> receiver_pb2.ListCorporaResponse:
        """Every gallery of this receiver."""
        galleries = await asyncio.to_thread(
            lambda: [gallery_of(name) for name in known_corpora() if gallery_file(name).is_file()]
        )
        return receiver_pb2.ListCorporaResponse(corpora=[_describe(g) for g in galleries])

    async def get_item(self, request: receiver_pb2.GetItemRequest) -> receiver_pb2.GalleryItem:
        """One item. Raises NotFound naming ``corpus`` or ``item_id``."""
        gallery = await asyncio.to_thread(gallery_of, request.corpus)
        item = gallery.item(request.item_id)
        return receiver_pb2.GalleryItem(
            corpus=request.corpus,
            item_id=request.item_id,
            identity=item.identity,
            split=enum_value(common_pb2.Split, item.split, field="split"),
            captions=item.captions,
            media_type=gallery.corpus.info.media_type,
        )

    async def get_media(
        self, request: receiver_pb2.GetMediaRequest
    ) -> receiver_pb2.GetMediaResponse:
        """An item's picture or sound. Raises NotFound naming ``corpus`` or ``item_id``."""
        gallery = await asyncio.to_thread(gallery_of, request.corpus)
        item = gallery.item(request.item_id)
        media = await asyncio.to_thread(gallery.media, item.item_id)
        return receiver_pb2.GetMediaResponse(content_type=media.content_type, data=media.data)

    async def add_items(
        self, request: receiver_pb2.AddItemsRequest
    ) -> receiver_pb2.AddItemsResponse:
        """Add or replace items, all or none. Raises NotFound, AlreadyExists, InvalidField."""
        return await add_items(request, self._media)

    async def remove_items(
        self, request: receiver_pb2.RemoveItemsRequest
    ) -> receiver_pb2.RemoveItemsResponse:
        """Remove items, all or none. Raises NotFound."""
        return await asyncio.to_thread(remove_items, request)

    async def _find(self, wanted: list[Wanted]) -> list[Noted[Matches]]:
        """Stage: the matches of each message, every gallery searched once for all that want it."""
        return await asyncio.to_thread(run_grouped, wanted, lambda w: w.shape, _search)


def _check_target(header: channel_pb2.FrameHeader, *, field: str) -> None:
    check_corpus(header.corpus, header.task, field=f"{field}.corpus")


def _search(alike: list[Wanted]) -> list[Noted[Matches]]:
    """Search one gallery for all that want it in one way; an erased message has no matches."""
    header = alike[0].header
    if alike[0].erased:
        return [Noted(())] * len(alike)
    gallery = gallery_of(header.corpus)
    components = np.stack([w.components for w in alike])
    if components.shape[-1] != gallery.feature_size or not components.shape[1]:
        raise InvalidField(
            f"components have shape {components.shape[1:]}, the gallery of {header.corpus!r} holds features of "
            f"{gallery.feature_size}",
            field="components",
        )
    with timed("receiver.search") as clock:
        hits = gallery.search(
            components,
            max(w.header.top_k for w in alike),
            captions=alike[0].to_text,
            scoring="prototypes" if header.prototypes else "global",
            reranking=header.reranking or "none",
        )
    return [
        Noted(
            [
                receiver_pb2.Match(
                    item_id=h.item_id, score=h.score, captions=h.captions, similarity=h.similarity
                )
                for h in found[: w.header.top_k]
            ],
            (clock.timing(),),
        )
        for w, found in zip(alike, hits, strict=True)
    ]


def _describe(gallery: Gallery) -> receiver_pb2.CorpusDescription:
    info = gallery.corpus.info
    return receiver_pb2.CorpusDescription(
        name=gallery.name,
        task=info.task,
        media_type=info.media_type,
        licence=info.licence,
        source=info.source,
        description=info.description,
        size=len(gallery),
    )
