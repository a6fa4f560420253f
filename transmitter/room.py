"""The transmitter: knowledge, semantic encoder, fusion, JSCC encoder, precoder, frame."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from semlink.batching import MicroBatcher
from semlink.corpora.registry import TASKS
from semlink.errors import CorruptTensor, InvalidField, NotFound, Unavailable
from semlink.links import NUM_SUBBANDS
from semlink.methods import check_link
from semlink.rooms import ChannelRoom, KnowledgeRoom, ReceiverRoom
from semlink.semantics.fusion import fuse
from semlink.semantics.sentences import ScoredSentence
from semlink.semantics.text import doubts
from semlink.settings import Settings
from semlink.store import Store
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
from transmitter.queries import CheckedQuery, check_query
from transmitter.sharing import LeaveTogether

NUM_REWRITES = 5
REWRITE_TEMPERATURE = 0.4
MIN_SIMILARITY = 0.58
"""The filter's α, calibrated on val: ``semlink experiment knowledge``."""
FUSION_TEMPERATURE = 0.3
"""τ_f, chosen on val by the same."""
_FIRST_TEXT = Passage("A first sentence. A second one.", "textrank", "", 1)


@dataclass(slots=True)
class _Work:
    """A query on its way: what has been found out so far."""

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
    """Satisfies :class:`semlink.rooms.TransmitterRoom`."""

    def __init__(
        self,
        channel: ChannelRoom,
        receiver: ReceiverRoom,
        knowledge: KnowledgeRoom,
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
        self._encoder: MicroBatcher[Content, tuple[NDArray[np.float32], float]] = MicroBatcher(
            self._encode, name="transmitter.encode", max_batch=64, max_queue=settings.max_queue
        )
        self._extractor: MicroBatcher[Passage, tuple[list[ScoredSentence], float]] = MicroBatcher(
            self._extract, name="transmitter.extract", max_batch=64, max_queue=settings.max_queue
        )
        self._framer: MicroBatcher[Message, tuple[Framed, float]] = MicroBatcher(
            self._frame, name="transmitter.frame", max_batch=256, max_queue=settings.max_queue
        )
        self._cell: LeaveTogether[_Work, transmitter_pb2.Answer] = LeaveTogether(
            self._share,
            key=lambda w: (w.query.message.link_id, w.query.method.predictor),
            name="transmitter.cell",
            max_batch=64,
            max_queue=settings.max_queue,
        )

    def warm_up(self) -> None:
        """Load the encoders, so that the first query does not pay for it."""
        self._encode_batch([Content(task, "text", "a first query") for task in TASKS])
        self._extract([_FIRST_TEXT])

    async def close(self) -> None:
        """Finish what is queued."""
        await self._cell.drain()
        await self._extractor.drain()
        await self._encoder.drain()
        await self._framer.drain()

    async def retrieve(
        self, request: transmitter_pb2.RetrieveRequest
    ) -> transmitter_pb2.RetrieveResponse:
        """Answer every query in order. Nothing is sent unless every query is valid."""
        checked = await asyncio.to_thread(
            lambda: [check_query(q, field=f"queries[{i}]") for i, q in enumerate(request.queries)]
        )
        work = [_Work(query) for query in checked]
        over_link = [w for w in work if w.query.method.channel]
        # A link by value knows its slot from the seeds; on an opened one a slot is taken when the message is ready.
        by_value = [w for w in over_link if not w.query.message.link_id]
        opened = [w for w in over_link if w.query.message.link_id]
        await asyncio.gather(self._understand(work), self._learn_channel(by_value))
        answers: dict[int, transmitter_pb2.Answer] = {}
        await asyncio.gather(
            self._send(by_value, answers),
            self._ride(opened, answers),
            self._hand_over([w for w in work if not w.query.method.channel], answers),
        )
        return transmitter_pb2.RetrieveResponse(answers=[answers[id(w)] for w in work])

    # --- meaning -------------------------------------------------------------------------------

    async def _understand(self, work: list[_Work]) -> None:
        """Choose the sentences, encode every query and fuse it with what the knowledge base adds."""
        await self._choose_sentences(work)
        await asyncio.gather(self._encode_sources(work), self._ask_knowledge(work))
        await self._fuse([w for w in work if any(r.kept for r in w.rewrites)])

    async def _choose_sentences(self, work: list[_Work]) -> None:
        """Noise is never sent: what the extraction leaves out goes no further, not even to the knowledge base."""
        for w in work:
            w.text = w.query.content if isinstance(w.query.content, str) else ""
        choosing = [w for w in work if w.query.retrieval.extraction != "none"]
        extracted = await self._extractor.submit_many(
            [
                Passage(
                    w.text,
                    w.query.retrieval.extraction,
                    w.query.student,
                    w.query.retrieval.key_sentences,
                )
                for w in choosing
            ]
        )
        for w, (sentences, milliseconds) in zip(choosing, extracted, strict=True):
            w.kept = tuple(s.text for s in sentences if s.kept)
            w.text = " ".join(w.kept)
            w.sentences = [
                transmitter_pb2.Sentence(text=s.text, score=s.score, kept=s.kept) for s in sentences
            ]
            w.timings.append(_timing("transmitter.extract", milliseconds))

    async def _encode_sources(self, work: list[_Work]) -> None:
        encoded = await self._encoder.submit_many(
            [
                Content(w.query.space, w.query.modality, w.kept or w.text or w.query.content)
                for w in work
            ]
        )
        for w, (components, milliseconds) in zip(work, encoded, strict=True):
            w.components = _sent(w, components)
            w.timings.append(_timing("transmitter.encode", milliseconds))
        read = [(w, text) for w in work for text in w.kept or (w.text,) if text]
        for (w, _), note in zip(read, doubts([text for _, text in read]), strict=True):
            w.degraded.extend(_degradation("text", reason) for reason in note)

    async def _ask_knowledge(self, work: list[_Work]) -> None:
        """One call for every budget that occurs: it is the call that a budget bounds."""
        asking: dict[float, list[_Work]] = {}
        for w in work:
            if w.query.method.rewrites and w.text:
                asking.setdefault(w.query.message.knowledge_budget_ms, []).append(w)
        await asyncio.gather(*(self._rewrite(b, members) for b, members in asking.items()))

    async def _rewrite(self, budget_ms: float, work: list[_Work]) -> None:
        request = knowledge_pb2.RewriteRequest(
            budget_ms=budget_ms,
            items=[
                knowledge_pb2.RewriteItem(
                    text=w.text,
                    num_candidates=NUM_REWRITES,
                    temperature=REWRITE_TEMPERATURE,
                    min_similarity=MIN_SIMILARITY,
                    filter=w.query.method.filtered,
                    strategy=w.query.message.rewrite_strategy,
                    # A feature that is fused with one of less meaning finds less.
                    complete=w.query.method.filtered,
                )
                for w in work
            ],
        )
        with timed("transmitter.knowledge") as clock:
            try:
                response = await self._knowledge.rewrite(request)
            except Unavailable as error:
                for w in work:
                    w.degraded.append(_degradation("knowledge.rewrites", error.message))
                return
        for w, found in zip(work, response.sets, strict=True):
            w.rewrites = list(found.rewrites)
            w.degraded.extend(found.degraded)
            w.timings.append(_timing("transmitter.knowledge", clock.milliseconds))

    async def _fuse(self, work: list[_Work]) -> None:
        """Replace each component by its fusion with the kept rewrites' (CDFC phase 2); k stays as it was."""
        kept = [[r for r in w.rewrites if r.kept] for w in work]
        encoded = await self._encoder.submit_many(
            [
                Content(w.query.space, "text", r.text)
                for w, rewrites in zip(work, kept, strict=True)
                for r in rewrites
            ]
        )
        vectors = iter(encoded)
        for w, rewrites in zip(work, kept, strict=True):
            rows = [next(vectors) for _ in rewrites]
            source = torch.from_numpy(np.asarray(w.components))
            others = np.stack([_sent(w, components) for components, _ in rows], axis=1)
            similarity = torch.tensor([[r.similarity for r in rewrites]], dtype=torch.float32)
            with timed("transmitter.fuse") as clock:
                # A component is fused with the same component of every rewrite.
                fused = fuse(
                    source,
                    torch.from_numpy(others),
                    similarity.expand(len(source), -1),
                    torch.ones(len(source), len(rewrites), dtype=torch.bool),
                    rule=w.query.method.fusion,
                    temperature=FUSION_TEMPERATURE,
                )
            w.components = fused.numpy()
            spent = clock.milliseconds + max(milliseconds for _, milliseconds in rows)
            w.timings.append(_timing("transmitter.fuse", spent))

    # --- channel knowledge ---------------------------------------------------------------------

    async def _learn_channel(self, work: list[_Work]) -> None:
        """Be granted slots, then find out what is known of the channel in them."""
        if not work:
            return
        with timed("transmitter.grant") as clock:
            granted = await self._channel.grant(
                channel_pb2.GrantRequest(items=[_grant_item(w) for w in work])
            )
        for w, slot in zip(work, granted.slots, strict=True):
            w.slot = slot
            w.degraded.extend(slot.degraded)
            w.timings.append(_timing("transmitter.grant", clock.milliseconds))
        riders: dict[tuple[str, int, str], list[_Work]] = {}
        for w in work:
            riders.setdefault(_ride_of(w), []).append(w)
        by_itself = [group for (_, _, name), group in riders.items() if name == "hold-last"]
        with_knowledge = [group for (_, _, name), group in riders.items() if name != "hold-last"]
        await asyncio.gather(self._hold_last(by_itself), self._predict(with_knowledge))

    async def _hold_last(self, groups: list[list[_Work]]) -> None:
        """Find out once for each slot, and tell all that ride in it."""
        if not groups:
            return
        with timed("transmitter.csi") as clock:
            known = await newest_reports(self._store, [_slot(group[0]) for group in groups])
        for group, found in zip(groups, known, strict=True):
            csi = _precodable(found)
            for w in group:
                w.csi = csi
                w.degraded.extend(csi.degraded)
                w.timings.append(_timing("transmitter.csi", clock.milliseconds))

    async def _predict(self, groups: list[list[_Work]]) -> None:
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

    async def _ask_prediction(self, groups: list[list[_Work]]) -> list[list[_Work]]:
        """Ask the knowledge base; returns the groups that it could not help, which say so."""
        if not groups:
            return []
        request = knowledge_pb2.PredictCsiRequest(
            items=[
                knowledge_pb2.PredictCsiItem(
                    link_id=slot.link_id,
                    config=slot.config,
                    slot=slot.slot,
                    predictor=w.query.method.predictor,
                )
                for w, slot in ((group[0], _slot(group[0])) for group in groups)
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
            for w in group:
                w.csi = csi
                w.degraded.extend(predicted.degraded)
                w.timings.append(_timing("transmitter.csi", clock.milliseconds))
        return refused

    # --- the air -------------------------------------------------------------------------------

    async def _ride(self, work: list[_Work], answers: dict[int, transmitter_pb2.Answer]) -> None:
        """Over opened links, in the company of whoever is on the same link now."""
        if work:
            found = await self._cell.submit_many(work)
            answers |= {id(w): answer for w, answer in zip(work, found, strict=True)}

    async def _share(self, work: list[_Work]) -> list[transmitter_pb2.Answer]:
        """Queries of any callers over one opened link: slots, channel knowledge, air. Repeatable: works on copies."""
        fresh = [replace(w, timings=[*w.timings], degraded=[*w.degraded]) for w in work]
        answers: dict[int, transmitter_pb2.Answer] = {}
        await self._learn_channel(fresh)
        await self._send(fresh, answers)
        return [answers[id(w)] for w in fresh]

    async def _send(self, work: list[_Work], answers: dict[int, transmitter_pb2.Answer]) -> None:
        if not work:
            return
        framed = await self._framer.submit_many(
            [
                Message(
                    space=w.query.space,
                    components=np.asarray(w.components),
                    num_symbols=w.query.message.symbols,
                    config=_slot(w).config,
                    csi=w.csi.csi,
                    slot=_slot(w).slot,
                    user=_slot(w).user,
                    modality=w.query.modality,
                    coding=w.query.method.coding,
                )
                for w in work
            ]
        )
        frames = []
        # All that ride in a slot leave through one precoder, whatever batches they were framed in.
        precoders: dict[tuple[str, int, str], NDArray[np.complex64]] = {}
        for w, (sent, milliseconds) in zip(work, framed, strict=True):
            w.timings.append(_timing("transmitter.frame", milliseconds))
            shared = precoders.setdefault(_ride_of(w), sent.precoder)
            frames.append(_frame_message(w, replace(sent, precoder=shared)))
        with timed("transmitter.link") as clock:
            response = await self._channel.transmit(channel_pb2.TransmitRequest(frames=frames))
        for w, delivery in zip(work, response.deliveries, strict=True):
            report = delivery.link
            report.bandwidth_ratio = w.query.message.symbols / w.query.source_values
            if w.csi.age_slots is not None:
                report.csi_age_slots = w.csi.age_slots
            record_link(report)
            w.timings.append(_timing("transmitter.link", clock.milliseconds))
            answers[id(w)] = _answer(
                w, delivery.matches, delivery.timings, delivery.degraded, report
            )

    async def _hand_over(
        self, work: list[_Work], answers: dict[int, transmitter_pb2.Answer]
    ) -> None:
        """The method without a channel: the receiver is given the feature itself."""
        if not work:
            return
        response = await self._receiver.search(
            receiver_pb2.SearchRequest(
                items=[
                    receiver_pb2.SearchItem(
                        header=_header(w, num_streams=1, num_layers=1).SerializeToString(),
                        components=to_wire(np.asarray(w.components, dtype=np.float32)),
                    )
                    for w in work
                ]
            )
        )
        for w, reception in zip(work, response.receptions, strict=True):
            answers[id(w)] = _answer(
                w, reception.matches, reception.timings, reception.degraded, None
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


def _sent(work: _Work, components: NDArray[np.float32]) -> NDArray[np.float32]:
    """The components that the query's scoring asks for, ``[num_components, feature_size]``."""
    if work.query.retrieval.scoring == "global":
        return components[:1]
    return components


def _slot(work: _Work) -> channel_pb2.Slot:
    if work.slot is None:
        raise Unavailable("no slot was granted", field="link")
    return work.slot


def _ride_of(work: _Work) -> tuple[str, int, str]:
    """What makes two queries' precoders equal: link, slot and who told of the channel."""
    slot = _slot(work)
    return slot.link_id, slot.slot, work.query.method.predictor


def _grant_item(work: _Work) -> channel_pb2.GrantItem:
    query = work.query.message
    if query.WhichOneof("link") == "link_id":
        sharing = f"CSI by {work.query.method.predictor or 'knowledge'}"
        return channel_pb2.GrantItem(link_id=query.link_id, seed=query.seed, sharing=sharing)
    return channel_pb2.GrantItem(link_config=query.link_config, seed=query.seed)


def _mark(group: list[_Work], degradation: common_pb2.Degradation) -> None:
    for w in group:
        w.degraded.append(degradation)


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
    work: _Work, *, num_streams: int, num_layers: int, first_stream: int = 0, mcs: int = 0
) -> channel_pb2.FrameHeader:
    query = work.query
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


def _frame_message(work: _Work, sent: Framed) -> channel_pb2.Frame:
    slot = _slot(work)
    config = slot.config
    header = _header(
        work,
        num_streams=config.num_users * config.num_layers,
        num_layers=config.num_layers,
        first_stream=slot.user * config.num_layers,
        mcs=sent.mcs,
    )
    message = channel_pb2.Frame(
        query_id=work.query.message.id,
        link_id=slot.link_id,
        config=config,
        slot=slot.slot,
        user=slot.user,
        seed=work.query.message.seed,
        symbols=to_wire(sent.symbols),
        precoder=to_wire(sent.precoder),
        header=header.SerializeToString(),
    )
    if work.csi.csi is not None:
        message.assumed_csi.CopyFrom(to_wire(np.ascontiguousarray(work.csi.csi[slot.user])))
    return message


def _answer(
    work: _Work,
    matches: Sequence[receiver_pb2.Match],
    timings: Sequence[common_pb2.Timing],
    degraded: Sequence[common_pb2.Degradation],
    link: channel_pb2.LinkReport | None,
) -> transmitter_pb2.Answer:
    everything = [*work.degraded, *degraded]
    record_degraded("transmitter", work.degraded)
    return transmitter_pb2.Answer(
        query_id=work.query.message.id,
        matches=matches,
        link=link,
        rewrites=work.rewrites,
        csi_source=work.csi.source,
        timings=[*work.timings, *timings],
        degraded=everything,
        sentences=work.sentences,
        retrieval=work.query.retrieval,
    )


def _timing(stage: str, milliseconds: float) -> common_pb2.Timing:
    return common_pb2.Timing(stage=stage, milliseconds=milliseconds)


def _degradation(part: str, reason: str) -> common_pb2.Degradation:
    return common_pb2.Degradation(part=part, reason=reason)
