"""The transmitter as a pipeline of stages, from queries to answers."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Literal

import torch

from semlink.batching import AsyncExecutor, MicroBatcher
from semlink.errors import DeadlineExceeded, NotFound, Overloaded, Unavailable
from semlink.grouping import gather_grouped
from semlink.semantics.media import MediaDecoder
from semlink.semantics.sentences import extract
from semlink.services import ChannelService, KnowledgeBaseService, ReceiverService
from semlink.settings import Settings
from semlink.stages import Noted, batched, follow, side_by_side, where
from semlink.store import Store
from semlink.tasks import task_names
from semlink.telemetry import timed
from semlink.v1 import common_pb2, transmitter_pb2
from semlink.weight_files import Weights
from transmitter.delivery import answer_of, search, transmit
from transmitter.encoding import Content, Encoder, Meaning, encode, encode_selected
from transmitter.extraction import select, wants_extraction, whole
from transmitter.framing import frame, frame_messages
from transmitter.knowledge import (
    ask_for_rewrites,
    fuse_with_rewrites,
    unfused,
    wants_fusion,
    wants_rewrites,
)
from transmitter.queries import CheckedQuery, check_query, with_media
from transmitter.slots import AcquireCsi, Scheduled, grant

Answers = list[transmitter_pb2.Answer]

LINK_ERRORS = (DeadlineExceeded, NotFound, Overloaded, Unavailable)
"""Errors of an opened link or of a service: all queries that share its slots share them."""


class Transmitter:
    """Satisfies :class:`semlink.services.TransmitterService`.

    check → media → extract → encode, beside it ask for rewrites → fuse, and then one of three routes: grant → CSI →
    frame → transmit over a link by value, whose slots are known before the message; the same together with other
    callers' queries over an opened link; or search without a channel.
    """

    def __init__(
        self,
        channel: ChannelService,
        receiver: ReceiverService,
        knowledge: KnowledgeBaseService,
        store: Store,
        settings: Settings,
        *,
        encoder: Encoder | None = None,
    ) -> None:
        device, max_queue = settings.device, settings.max_queue
        self._encode_contents = encoder or partial(encode, device=device)
        self._media = MediaDecoder("transmitter", settings)
        self._weights = settings.weights
        extractor = batched(
            "transmitter.extract", partial(select, device=device), max_batch=64, max_queue=max_queue
        )
        contents = batched(
            "transmitter.encode", self._encode_contents, max_batch=64, max_queue=max_queue
        )
        framer = batched(
            "transmitter.frame",
            partial(frame, device=torch.device(device), weights=settings.weights),
            max_batch=256,
            max_queue=max_queue,
        )
        self._extract = where(wants_extraction, extractor.submit_many, whole)
        self._encode_and_ask = side_by_side(
            partial(encode_selected, contents),
            where(wants_rewrites, partial(ask_for_rewrites, knowledge), lambda _: ()),
        )
        self._fuse = where(wants_fusion, partial(fuse_with_rewrites, contents), unfused)
        self._grant = partial(grant, channel)
        self._csi = AcquireCsi(store, knowledge, max_queue, settings.weights)
        self._frame = partial(frame_messages, framer)
        self._transmit = partial(transmit, channel)
        self._search = partial(search, receiver)
        self._answer = partial(answer_of, device=device)
        # Queries that are in flight on one opened link share its slots, if one source of CSI makes their precoder.
        self._cell: MicroBatcher[Noted[Meaning], transmitter_pb2.Answer] = MicroBatcher(
            AsyncExecutor(self._share_slots),
            key=lambda m: (
                m.value.query.message.link_id,
                m.value.query.method.predictor,
                m.value.query.method.precoder,
            ),
            name="transmitter.cell",
            max_batch=64,
            max_queue=max_queue,
            max_in_flight=2,
            shared_errors=LINK_ERRORS,
        )
        self._drain = [b.drain for b in (self._cell, extractor, contents, self._csi, framer)]
        self._routes = {
            "search": self._without_channel,
            "opened": self._over_opened_links,
            "by value": self._over_links_by_value,
        }

    def warm_up(self) -> None:
        """Load the encoders, so that the first query does not pay for it."""
        self._encode_contents([Content(task, "text", "a first query") for task in task_names()])
        extract(["A first sentence. A second one."], "textrank", space="")

    async def close(self) -> None:
        """Finish what is queued."""
        await self._media.close()
        for drain in self._drain:
            await drain()

    async def retrieve(
        self, request: transmitter_pb2.RetrieveRequest
    ) -> transmitter_pb2.RetrieveResponse:
        """Answer every query in order. Nothing is sent unless every query is valid."""
        # A quantiser with predictive memory takes 40 ms to build for each new speed; all else here takes microseconds.
        slow = any(
            q.link_config.feedback.memory == common_pb2.FEEDBACK_MEMORY_PREDICTIVE
            for q in request.queries
        )
        check = partial(_checked, request, self._weights)
        checked = await asyncio.to_thread(check) if slow else check()
        queries = await self._decoded(checked)
        answers = await gather_grouped(
            queries, _route, lambda alike: self._routes[_route(alike[0])](alike)
        )
        return transmitter_pb2.RetrieveResponse(answers=answers)

    async def _decoded(self, queries: list[CheckedQuery]) -> list[CheckedQuery]:
        """The queries with their media decoded, all of them before anything is sent."""
        media = [query.media for query in queries if query.media]
        if not media:
            return queries
        with timed("transmitter.media"):
            decoded = iter(await self._media.decode(media))
        return [with_media(q, next(decoded)) if q.media else q for q in queries]

    async def _understand(self, queries: list[CheckedQuery]) -> list[Noted[Meaning]]:
        """What is to be sent of each query."""
        selected = await self._extract(queries)
        return await follow(await follow(selected, self._encode_and_ask), self._fuse)

    async def _schedule(self, queries: list[CheckedQuery]) -> list[Noted[Scheduled]]:
        """A slot for each query and what is known of the channel in it."""
        return await follow(await self._grant(queries), self._csi)

    async def _send(
        self, meanings: list[Noted[Meaning]], scheduled: list[Noted[Scheduled]]
    ) -> Answers:
        """Send each message in its slot."""
        messages = [m.beside(s) for m, s in zip(meanings, scheduled, strict=True)]
        delivered = await follow(await follow(messages, self._frame), self._transmit)
        return [self._answer(one) for one in delivered]

    # --- routes ------------------------------------------------------------------------------------

    async def _over_links_by_value(self, queries: list[CheckedQuery]) -> Answers:
        """A link by value knows its slot from the seeds, so slots and CSI need not wait for the messages."""
        return await self._send(
            *await asyncio.gather(self._understand(queries), self._schedule(queries))
        )

    async def _over_opened_links(self, queries: list[CheckedQuery]) -> Answers:
        """On an opened link a slot is taken when the message is ready."""
        return await self._cell.submit_many(await self._understand(queries))

    async def _share_slots(self, meanings: list[Noted[Meaning]]) -> Answers:
        """Send queries of any callers over one opened link. Repeatable: nothing that it is given changes."""
        scheduled = await self._schedule([one.value.query for one in meanings])
        return await self._send(meanings, scheduled)

    async def _without_channel(self, queries: list[CheckedQuery]) -> Answers:
        delivered = await follow(await self._understand(queries), self._search)
        return [self._answer(one) for one in delivered]


def _checked(request: transmitter_pb2.RetrieveRequest, weights: Weights) -> list[CheckedQuery]:
    return [check_query(q, weights, field=f"queries[{i}]") for i, q in enumerate(request.queries)]


def _route(query: CheckedQuery) -> Literal["search", "opened", "by value"]:
    if not query.method.channel:
        return "search"
    return "opened" if query.message.link_id else "by value"
