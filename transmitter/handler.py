"""The transmitter: knowledge, semantic encoder, fusion, JSCC encoder, precoder, frame."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from semlink.batching import AsyncExecutor, MicroBatcher, ThreadExecutor
from semlink.errors import (
    CorruptTensor,
    DeadlineExceeded,
    InvalidField,
    NotFound,
    Overloaded,
    Unavailable,
)
from semlink.links import NUM_SUBBANDS
from semlink.methods import check_link
from semlink.semantics.fusion import fuse
from semlink.semantics.media import MediaDecoder
from semlink.semantics.sentences import ScoredSentence
from semlink.semantics.text import text_warnings
from semlink.services import ChannelService, KnowledgeService, ReceiverService
from semlink.settings import Settings
from semlink.store import Store
from semlink.tasks import TASKS
from semlink.telemetry import record_degraded, record_link, timed
from semlink.v1 import (
    channel_pb2,
    common_pb2,
    knowledge_pb2,
    receiver_pb2,
    transmitter_pb2,
)
from semlink.wire import from_wire, to_wire
from transmitter.csi import KnownCsi, newest_reports
from transmitter.encoding import Content, encode
from transmitter.extraction import Passage, extract_batch
from transmitter.framing import Framed, Message, frame
from transmitter.queries import CheckedQuery, check_query, with_media

NUM_REWRITES = 5
REWRITE_TEMPERATURE = 0.4
MIN_SIMILARITY = 0.58
"""The filter's α, calibrated on val: ``semlink experiment knowledge``."""
FUSION_TEMPERATURE = 0.3
"""τ_f, chosen on val by the same."""
LINK_ERRORS = (DeadlineExceeded, NotFound, Overloaded, Unavailable)
"""Errors of an opened link or of a service: all queries that share its slots share them."""
_FIRST_TEXT = Passage("A first sentence. A second one.", "textrank", "", 1)


@dataclass(slots=True)
class QueryState:
    """What is known so far of a query that is being answered."""

    query: CheckedQuery
    text: str = ""
    """What is sent of a text: all of it, or its key sentences."""
    kept: tuple[str, ...] = ()
    """The key sentences, where they were chosen."""
    sentences: list[transmitter_pb2.Sentence] = field(default_factory=list)
    components: NDArray[np.float32] | None = None
    rewrites: list[knowledge_pb2.Rewrite] = field(default_factory=list)
    csi: KnownCsi = field(default_factory=lambda: KnownCsi(None, "none"))
    slot: channel_pb2.Slot | None = None
    timings: list[common_pb2.Timing] = field(default_factory=list)
    degraded: list[common_pb2.Degradation] = field(default_factory=list)


class Transmitter:
    """Satisfies :class:`semlink.services.TransmitterService`."""

    def __init__(
        self,
        channel: ChannelService,
        receiver: ReceiverService,
        knowledge: KnowledgeService,
        store: Store,
        settings: Settings,
        *,
        encoder: Callable[[list[Content]], list[NDArray[np.float32]]] | None = None,
    ) -> None:
        self._encode_batch = encoder or partial(encode, device=settings.device)
        self._channel = channel
        self._receiver = receiver
        self._knowledge = knowledge
        self._store = store
        self._device = torch.device(settings.device)
        self._media = MediaDecoder("transmitter", settings)
        self._encoder: MicroBatcher[Content, tuple[NDArray[np.float32], float]] = MicroBatcher(
            ThreadExecutor(self._encode),
            name="transmitter.encode",
            max_batch=64,
            max_queue=settings.max_queue,
        )
        self._extractor: MicroBatcher[Passage, tuple[list[ScoredSentence], float]] = MicroBatcher(
            ThreadExecutor(self._extract),
            name="transmitter.extract",
            max_batch=64,
            max_queue=settings.max_queue,
        )
        self._framer: MicroBatcher[Message, tuple[Framed, float]] = MicroBatcher(
            ThreadExecutor(self._frame),
            name="transmitter.frame",
            max_batch=256,
            max_queue=settings.max_queue,
        )
        # Queries that are in flight on one opened link share its slots.
        self._scheduler: MicroBatcher[QueryState, transmitter_pb2.Answer] = MicroBatcher(
            AsyncExecutor(self._transmit_shared),
            key=lambda state: (state.query.message.link_id, state.query.method.predictor),
            name="transmitter.cell",
            max_batch=64,
            max_queue=settings.max_queue,
            max_in_flight=2,
            shared_errors=LINK_ERRORS,
        )

    def warm_up(self) -> None:
        """Load the encoders, so that the first query does not pay for it."""
        self._encode_batch([Content(task, "text", "a first query") for task in TASKS])
        self._extract([_FIRST_TEXT])

    async def close(self) -> None:
        """Finish what is queued."""
        await self._media.close()
        await self._scheduler.drain()
        await self._extractor.drain()
        await self._encoder.drain()
        await self._framer.drain()

    async def retrieve(
        self, request: transmitter_pb2.RetrieveRequest
    ) -> transmitter_pb2.RetrieveResponse:
        """Answer every query in order. Nothing is sent unless every query is valid."""
        checked = await self._decoded(
            await asyncio.to_thread(
                lambda: [
                    check_query(q, field=f"queries[{i}]") for i, q in enumerate(request.queries)
                ]
            )
        )
        states = [QueryState(query) for query in checked]
        over_link = [state for state in states if state.query.method.channel]
        # A link by value knows its slot from the seeds; on an opened one a slot is taken when the message is ready.
        by_value = [state for state in over_link if not state.query.message.link_id]
        opened = [state for state in over_link if state.query.message.link_id]
        await asyncio.gather(self._encode_queries(states), self._acquire_csi(by_value))
        answers: dict[int, transmitter_pb2.Answer] = {}
        await asyncio.gather(
            self._send(by_value, answers),
            self._send_on_open_links(opened, answers),
            self._search_without_channel(
                [state for state in states if not state.query.method.channel], answers
            ),
        )
        return transmitter_pb2.RetrieveResponse(answers=[answers[id(state)] for state in states])

    async def _decoded(self, queries: list[CheckedQuery]) -> list[CheckedQuery]:
        """The queries with their pictures and sounds decoded, all of them before anything is sent."""
        with timed("transmitter.media"):
            decoded = iter(await self._media.decode([q.media for q in queries if q.media]))
        return [with_media(q, next(decoded)) if q.media else q for q in queries]

    # --- meaning -------------------------------------------------------------------------------

    async def _encode_queries(self, states: list[QueryState]) -> None:
        """Choose the sentences, encode every query and fuse it with what the knowledge base adds."""
        await self._choose_sentences(states)
        await asyncio.gather(self._encode_sources(states), self._ask_knowledge(states))
        await self._fuse([state for state in states if any(r.kept for r in state.rewrites)])

    async def _choose_sentences(self, states: list[QueryState]) -> None:
        """Noise is never sent: what the extraction leaves out goes no further, not even to the knowledge base."""
        for state in states:
            state.text = state.query.content if isinstance(state.query.content, str) else ""
        choosing = [state for state in states if state.query.retrieval.extraction != "none"]
        extracted = await self._extractor.submit_many(
            [
                Passage(
                    state.text,
                    state.query.retrieval.extraction,
                    state.query.student,
                    state.query.retrieval.key_sentences,
                )
                for state in choosing
            ]
        )
        for state, (sentences, milliseconds) in zip(choosing, extracted, strict=True):
            state.kept = tuple(s.text for s in sentences if s.kept)
            state.text = " ".join(state.kept)
            state.sentences = [
                transmitter_pb2.Sentence(text=s.text, score=s.score, kept=s.kept) for s in sentences
            ]
            state.timings.append(_timing("transmitter.extract", milliseconds))

    async def _encode_sources(self, states: list[QueryState]) -> None:
        encoded = await self._encoder.submit_many(
            [
                Content(
                    state.query.space,
                    state.query.modality,
                    state.kept or state.text or state.query.content,
                )
                for state in states
            ]
        )
        for state, (components, milliseconds) in zip(states, encoded, strict=True):
            state.components = _sent(state, components)
            state.timings.append(_timing("transmitter.encode", milliseconds))
        read = [(state, text) for state in states for text in state.kept or (state.text,) if text]
        for (state, _), note in zip(read, text_warnings([text for _, text in read]), strict=True):
            state.degraded.extend(_degradation("text", reason) for reason in note)

    async def _ask_knowledge(self, states: list[QueryState]) -> None:
        """One call for every budget that occurs: it is the call that a budget bounds."""
        asking: dict[float, list[QueryState]] = {}
        for state in states:
            if state.query.method.rewrites and state.text:
                asking.setdefault(state.query.message.knowledge_budget_ms, []).append(state)
        await asyncio.gather(*(self._rewrite(b, members) for b, members in asking.items()))

    async def _rewrite(self, budget_ms: float, states: list[QueryState]) -> None:
        request = knowledge_pb2.RewriteRequest(
            budget_ms=budget_ms,
            items=[
                knowledge_pb2.RewriteItem(
                    text=state.text,
                    num_candidates=NUM_REWRITES,
                    temperature=REWRITE_TEMPERATURE,
                    min_similarity=MIN_SIMILARITY,
                    filter=state.query.method.filtered,
                    strategy=state.query.message.rewrite_strategy,
                    # A feature that is fused with one of less meaning finds less.
                    complete=state.query.method.filtered,
                )
                for state in states
            ],
        )
        with timed("transmitter.knowledge") as clock:
            try:
                response = await self._knowledge.rewrite(request)
            except Unavailable as error:
                for state in states:
                    state.degraded.append(_degradation("knowledge.rewrites", error.message))
                return
        for state, found in zip(states, response.sets, strict=True):
            state.rewrites = list(found.rewrites)
            state.degraded.extend(found.degraded)
            state.timings.append(_timing("transmitter.knowledge", clock.milliseconds))

    async def _fuse(self, states: list[QueryState]) -> None:
        """Replace each component by its fusion with the kept rewrites' (CDFC phase 2); k stays as it was."""
        kept = [[r for r in state.rewrites if r.kept] for state in states]
        encoded = await self._encoder.submit_many(
            [
                Content(state.query.space, "text", r.text)
                for state, rewrites in zip(states, kept, strict=True)
                for r in rewrites
            ]
        )
        vectors = iter(encoded)
        for state, rewrites in zip(states, kept, strict=True):
            rows = [next(vectors) for _ in rewrites]
            source = torch.from_numpy(np.asarray(state.components))
            others = np.stack([_sent(state, components) for components, _ in rows], axis=1)
            similarity = torch.tensor([[r.similarity for r in rewrites]], dtype=torch.float32)
            with timed("transmitter.fuse") as clock:
                # A component is fused with the same component of every rewrite.
                fused = fuse(
                    source,
                    torch.from_numpy(others),
                    similarity.expand(len(source), -1),
                    torch.ones(len(source), len(rewrites), dtype=torch.bool),
                    rule=state.query.method.fusion,
                    temperature=FUSION_TEMPERATURE,
                )
            state.components = fused.numpy()
            spent = clock.milliseconds + max(milliseconds for _, milliseconds in rows)
            state.timings.append(_timing("transmitter.fuse", spent))

    # --- channel knowledge ---------------------------------------------------------------------

    async def _acquire_csi(self, states: list[QueryState]) -> None:
        """Be granted slots, then find out what is known of the channel in them."""
        if not states:
            return
        with timed("transmitter.grant") as clock:
            granted = await self._channel.grant(
                channel_pb2.GrantRequest(items=[_grant_item(state) for state in states])
            )
        for state, slot in zip(states, granted.slots, strict=True):
            state.slot = slot
            state.degraded.extend(slot.degraded)
            state.timings.append(_timing("transmitter.grant", clock.milliseconds))
        by_precoder: dict[tuple[str, int, str], list[QueryState]] = {}
        for state in states:
            by_precoder.setdefault(_precoder_key(state), []).append(state)
        by_itself = [group for (_, _, name), group in by_precoder.items() if name == "hold-last"]
        with_knowledge = [
            group for (_, _, name), group in by_precoder.items() if name != "hold-last"
        ]
        await asyncio.gather(self._hold_last(by_itself), self._predict(with_knowledge))

    async def _hold_last(self, groups: list[list[QueryState]]) -> None:
        """Find out once for each slot, and share it with all queries of that slot."""
        if not groups:
            return
        with timed("transmitter.csi") as clock:
            known = await newest_reports(self._store, [_slot(group[0]) for group in groups])
        for group, found in zip(groups, known, strict=True):
            csi = _precodable(found)
            for state in group:
                state.csi = csi
                state.degraded.extend(csi.degraded)
                state.timings.append(_timing("transmitter.csi", clock.milliseconds))

    async def _predict(self, groups: list[list[QueryState]]) -> None:
        """CSI from the knowledge base, once a slot; without it, what the transmitter knows by itself."""
        without, asked = [], []
        for group in groups:
            # A link that was opened before the method was named may be one that its predictor has no weights for.
            try:
                check_link(group[0].query.method, _slot(group[0]).config)
            except InvalidField as error:
                _mark(group, _degradation("knowledge.csi", error.message))
                without.append(group)
            else:
                asked.append(group)
        await self._hold_last([*without, *await self._ask_prediction(asked)])

    async def _ask_prediction(self, groups: list[list[QueryState]]) -> list[list[QueryState]]:
        """Ask the knowledge base; returns the groups that it could not help, which say so."""
        if not groups:
            return []
        request = knowledge_pb2.PredictCsiRequest(
            items=[
                knowledge_pb2.PredictCsiItem(
                    link_id=slot.link_id,
                    config=slot.config,
                    slot=slot.slot,
                    predictor=state.query.method.predictor,
                )
                for state, slot in ((group[0], _slot(group[0])) for group in groups)
            ]
        )
        with timed("transmitter.csi") as clock:
            try:
                response = await self._knowledge.predict_csi(request)
            except (NotFound, Unavailable) as error:
                for group in groups:
                    _mark(group, _degradation("knowledge.csi", error.message))
                return groups
        refused = []
        for group, predicted in zip(groups, response.predictions, strict=True):
            try:
                csi = _known(predicted, _slot(group[0]))
            except (InvalidField, CorruptTensor) as error:
                _mark(group, _degradation("knowledge.csi", error.message))
                refused.append(group)
                continue
            for state in group:
                state.csi = csi
                state.degraded.extend(predicted.degraded)
                state.timings.append(_timing("transmitter.csi", clock.milliseconds))
        return refused

    # --- transmission -------------------------------------------------------------------------------

    async def _send_on_open_links(
        self, states: list[QueryState], answers: dict[int, transmitter_pb2.Answer]
    ) -> None:
        """Send over opened links, together with the other queries on them."""
        if states:
            found = await self._scheduler.submit_many(states)
            answers |= {id(state): answer for state, answer in zip(states, found, strict=True)}

    async def _transmit_shared(self, states: list[QueryState]) -> list[transmitter_pb2.Answer]:
        """Queries of any callers over one opened link: slots, CSI, transmission. Repeatable: works on copies."""
        fresh = [
            replace(state, timings=[*state.timings], degraded=[*state.degraded]) for state in states
        ]
        answers: dict[int, transmitter_pb2.Answer] = {}
        await self._acquire_csi(fresh)
        await self._send(fresh, answers)
        return [answers[id(state)] for state in fresh]

    async def _send(
        self, states: list[QueryState], answers: dict[int, transmitter_pb2.Answer]
    ) -> None:
        if not states:
            return
        framed = await self._framer.submit_many(
            [
                Message(
                    space=state.query.space,
                    components=np.asarray(state.components),
                    num_symbols=state.query.message.symbols,
                    config=_slot(state).config,
                    csi=state.csi.csi,
                    slot=_slot(state).slot,
                    user=_slot(state).user,
                    modality=state.query.modality,
                    coding=state.query.method.coding,
                )
                for state in states
            ]
        )
        frames = []
        # All queries of a slot share one precoder, whatever batches they were framed in.
        precoders: dict[tuple[str, int, str], NDArray[np.complex64]] = {}
        for state, (sent, milliseconds) in zip(states, framed, strict=True):
            state.timings.append(_timing("transmitter.frame", milliseconds))
            shared = precoders.setdefault(_precoder_key(state), sent.precoder)
            frames.append(_frame_message(state, replace(sent, precoder=shared)))
        with timed("transmitter.link") as clock:
            response = await self._channel.transmit(channel_pb2.TransmitRequest(frames=frames))
        for state, delivery in zip(states, response.deliveries, strict=True):
            report = delivery.link
            report.bandwidth_ratio = state.query.message.symbols / state.query.source_values
            if state.csi.age_slots is not None:
                report.csi_age_slots = state.csi.age_slots
            record_link(report)
            state.timings.append(_timing("transmitter.link", clock.milliseconds))
            answers[id(state)] = _answer(
                state, delivery.matches, delivery.timings, delivery.degraded, report
            )

    async def _search_without_channel(
        self, states: list[QueryState], answers: dict[int, transmitter_pb2.Answer]
    ) -> None:
        """The method without a channel: the receiver is given the feature itself."""
        if not states:
            return
        response = await self._receiver.search(
            receiver_pb2.SearchRequest(
                items=[
                    receiver_pb2.SearchItem(
                        header=_header(state, num_streams=1, num_layers=1).SerializeToString(),
                        components=to_wire(np.asarray(state.components, dtype=np.float32)),
                    )
                    for state in states
                ]
            )
        )
        for state, reception in zip(states, response.receptions, strict=True):
            answers[id(state)] = _answer(
                state, reception.matches, reception.timings, reception.degraded, None
            )

    # --- tensor work, in the batchers' threads -------------------------------------------------

    def _encode(self, contents: list[Content]) -> list[tuple[NDArray[np.float32], float]]:
        with timed("transmitter.encode") as clock:
            features = self._encode_batch(contents)
        return [(feature, clock.milliseconds) for feature in features]

    def _extract(self, passages: list[Passage]) -> list[tuple[list[ScoredSentence], float]]:
        with timed("transmitter.extract") as clock:
            extracted = extract_batch(passages, str(self._device))
        return [(sentences, clock.milliseconds) for sentences in extracted]

    def _frame(self, messages: list[Message]) -> list[tuple[Framed, float]]:
        with timed("transmitter.frame") as clock:
            framed = frame(messages, self._device)
        return [(f, clock.milliseconds) for f in framed]


def _sent(state: QueryState, components: NDArray[np.float32]) -> NDArray[np.float32]:
    """The components that the query's scoring asks for, ``[num_components, feature_size]``."""
    if state.query.retrieval.scoring == "global":
        return components[:1]
    return components


def _slot(state: QueryState) -> channel_pb2.Slot:
    if state.slot is None:
        raise Unavailable("no slot was granted", field="link")
    return state.slot


def _precoder_key(state: QueryState) -> tuple[str, int, str]:
    """What makes two queries' precoders equal: link, slot and the source of the CSI."""
    slot = _slot(state)
    return slot.link_id, slot.slot, state.query.method.predictor


def _grant_item(state: QueryState) -> channel_pb2.GrantItem:
    query = state.query.message
    if query.WhichOneof("link") == "link_id":
        sharing = f"CSI by {state.query.method.predictor or 'knowledge'}"
        return channel_pb2.GrantItem(link_id=query.link_id, seed=query.seed, sharing=sharing)
    return channel_pb2.GrantItem(link_config=query.link_config, seed=query.seed)


def _mark(group: list[QueryState], degradation: common_pb2.Degradation) -> None:
    for state in group:
        state.degraded.append(degradation)


def _known(predicted: knowledge_pb2.PredictedCsi, slot: channel_pb2.Slot) -> KnownCsi:
    """What the knowledge base says. Raises InvalidField or CorruptTensor for CSI that cannot be of this link."""
    if not predicted.csi.dtype:
        return KnownCsi(None, predicted.source or "none")
    c = slot.config
    csi = from_wire(
        predicted.csi,
        field="predictions.csi",
        dtype="complex64",
        shape=(c.num_users, NUM_SUBBANDS, c.num_rx_ant, c.num_tx_ant),
    )
    if not _has_energy(csi):
        raise InvalidField("predictions.csi is zero in a subband", field="predictions.csi")
    age = (
        slot.slot - predicted.newest_report_slot
        if predicted.HasField("newest_report_slot")
        else None
    )
    return KnownCsi(csi, predicted.source, age)


def _precodable(known: KnownCsi) -> KnownCsi:
    """The same, or nothing known and a degradation where reports leave nothing to precode for."""
    if known.csi is None or _has_energy(known.csi):
        return known
    empty = _degradation("link.csi", "the reported CSI is zero or not finite in a subband")
    return KnownCsi(None, "none", degraded=(*known.degraded, empty))


def _has_energy(csi: NDArray[np.complex64]) -> bool:
    """Whether every user's CSI is finite and not zero in any subband: what a precoder needs."""
    energy = np.sum(np.abs(csi.astype(np.complex128)) ** 2, axis=(-2, -1))
    return bool(np.isfinite(energy).all() and (energy > 0).all())


def _header(
    state: QueryState, *, num_streams: int, num_layers: int, first_stream: int = 0, mcs: int = 0
) -> channel_pb2.FrameHeader:
    query = state.query
    coding = query.method.coding
    return channel_pb2.FrameHeader(
        task=query.task,
        corpus=query.corpus,
        modality=query.modality,
        symbols=query.message.symbols,
        top_k=query.message.top_k,
        num_streams=num_streams,
        num_layers=num_layers,
        first_stream=first_stream,
        coding="" if coding == "jscc" else coding,
        mcs=mcs,
        prototypes=query.retrieval.scoring == "prototypes",
        reranking="" if (how := query.retrieval.reranking) == "none" else how,
    )


def _frame_message(state: QueryState, sent: Framed) -> channel_pb2.Frame:
    slot = _slot(state)
    config = slot.config
    header = _header(
        state,
        num_streams=config.num_users * config.num_layers,
        num_layers=config.num_layers,
        first_stream=slot.user * config.num_layers,
        mcs=sent.mcs,
    )
    message = channel_pb2.Frame(
        query_id=state.query.message.id,
        link_id=slot.link_id,
        config=config,
        slot=slot.slot,
        user=slot.user,
        seed=state.query.message.seed,
        symbols=to_wire(sent.symbols),
        precoder=to_wire(sent.precoder),
        header=header.SerializeToString(),
    )
    if state.csi.csi is not None:
        message.assumed_csi.CopyFrom(to_wire(np.ascontiguousarray(state.csi.csi[slot.user])))
    return message


def _answer(
    state: QueryState,
    matches: Sequence[receiver_pb2.Match],
    timings: Sequence[common_pb2.Timing],
    degraded: Sequence[common_pb2.Degradation],
    link: channel_pb2.LinkReport | None,
) -> transmitter_pb2.Answer:
    everything = [*state.degraded, *degraded]
    record_degraded("transmitter", state.degraded)
    return transmitter_pb2.Answer(
        query_id=state.query.message.id,
        matches=matches,
        link=link,
        rewrites=state.rewrites,
        csi_source=state.csi.source,
        timings=[*state.timings, *timings],
        degraded=everything,
        sentences=state.sentences,
        retrieval=state.query.retrieval,
    )


def _timing(stage: str, milliseconds: float) -> common_pb2.Timing:
    return common_pb2.Timing(stage=stage, milliseconds=milliseconds)


def _degradation(part: str, reason: str) -> common_pb2.Degradation:
    return common_pb2.Degradation(part=part, reason=reason)
