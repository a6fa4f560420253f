"""The slot in which a query is sent, and what is known of the channel in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from semlink.batching import AsyncExecutor, MicroBatcher
from semlink.errors import CorruptTensor, InvalidField, NotFound, Unavailable
from semlink.grid import NUM_SUBBANDS
from semlink.grouping import gather_grouped
from semlink.links import checked_link
from semlink.methods import Method, check_link
from semlink.services import ChannelService, KnowledgeBaseService
from semlink.stages import Noted
from semlink.store import Store
from semlink.telemetry import timed
from semlink.v1 import channel_pb2, common_pb2, knowledge_pb2
from semlink.weight_files import Weights
from semlink.wire import from_wire
from transmitter.csi import KnownCsi, Received, decode_in_thread, newest_reports
from transmitter.queries import CheckedQuery


@dataclass(frozen=True, slots=True)
class Granted:
    """The slot that was granted to a query of some method."""

    slot: channel_pb2.Slot
    method: Method

    @property
    def precoder_key(self) -> tuple[str, int, str, str]:
        """What makes two queries' precoders equal: link, slot, the source of the CSI and the precoder's name."""
        return self.slot.link_id, self.slot.slot, self.method.predictor, self.method.precoder


@dataclass(frozen=True, slots=True)
class Scheduled(Granted):
    """A granted slot and what is known of the channel in it."""

    known: KnownCsi


async def grant(channel: ChannelService, queries: list[CheckedQuery]) -> list[Noted[Granted]]:
    """Be granted a slot for each query."""
    request = channel_pb2.GrantRequest(items=map(_grant_item, queries))
    with timed("transmitter.grant") as clock:
        response = await channel.grant(request)
    return [
        Noted(Granted(slot, query.method), (clock.timing(),), tuple(slot.degraded))
        for query, slot in zip(queries, response.slots, strict=True)
    ]


class AcquireCsi:
    """Stage: find out what is known of the channel, once for all queries that share a precoder."""

    def __init__(
        self, store: Store, knowledge: KnowledgeBaseService, max_queue: int, weights: Weights
    ) -> None:
        self._store = store
        self._weights = weights
        self._knowledge = knowledge
        # Reports of all requests are decoded together; none waits for a channel that is tracked, which takes longer.
        self._decoder: MicroBatcher[Received, KnownCsi] = MicroBatcher(
            AsyncExecutor(partial(decode_in_thread, weights=weights)),
            name="transmitter.csi",
            max_batch=256,
            max_queue=max_queue,
            key=lambda received: received.slot.config.feedback.memory,
        )
        self.drain = self._decoder.drain

    async def __call__(self, granted: list[Granted]) -> list[Noted[Scheduled]]:
        """See the class."""
        each = list({one.precoder_key: one for one in granted}.values())
        known = await gather_grouped(each, _by_itself, self._find_out)
        by_key = {one.precoder_key: found for one, found in zip(each, known, strict=True)}
        return [
            (found := by_key[one.precoder_key]).then(
                Noted(Scheduled(one.slot, one.method, found.value))
            )
            for one in granted
        ]

    async def _find_out(self, granted: list[Granted]) -> list[Noted[KnownCsi]]:
        return await (self._hold_last if _by_itself(granted[0]) else self._predict)(granted)

    async def _hold_last(self, granted: list[Granted]) -> list[Noted[KnownCsi]]:
        """What the transmitter knows by itself."""
        with timed("transmitter.csi") as clock:
            known = await newest_reports(
                self._store, [one.slot for one in granted], self._decoder.submit_many
            )
        return [Noted(csi, (clock.timing(),), csi.degraded) for csi in map(_precodable, known)]

    async def _predict(self, granted: list[Granted]) -> list[Noted[KnownCsi]]:
        """CSI from the knowledge base; without it, what the transmitter knows by itself."""
        tried = await gather_grouped(granted, self._no_weights, self._ask)
        without = [
            one for one, csi in zip(granted, tried, strict=True) if not isinstance(csi, Noted)
        ]
        held = iter(await self._hold_last(without) if without else ())
        return [
            csi if isinstance(csi, Noted) else Noted(None, degraded=(csi,)).then(next(held))
            for csi in tried
        ]

    async def _ask(
        self, granted: list[Granted]
    ) -> Sequence[Noted[KnownCsi] | common_pb2.Degradation]:
        """Ask the knowledge base; for what it cannot help, why."""
        if why := self._no_weights(granted[0]):
            return [_no_prediction(why)] * len(granted)
        request = knowledge_pb2.PredictCsiRequest(
            items=[
                knowledge_pb2.PredictCsiItem(
                    link_id=one.slot.link_id,
                    config=one.slot.config,
                    slot=one.slot.slot,
                    predictor=one.method.predictor,
                )
                for one in granted
            ]
        )
        with timed("transmitter.csi") as clock:
            try:
                response = await self._knowledge.predict_csi(request)
            except (NotFound, Unavailable) as error:
                return [_no_prediction(error.message)] * len(granted)
        found: list[Noted[KnownCsi] | common_pb2.Degradation] = []
        for one, predicted in zip(granted, response.predictions, strict=True):
            try:
                csi = _known(predicted, one.slot)
            except (InvalidField, CorruptTensor) as error:
                found.append(_no_prediction(error.message))
            else:
                found.append(Noted(csi, (clock.timing(),), tuple(predicted.degraded)))
        return found

    def _no_weights(self, granted: Granted) -> str:
        """Why the predictor cannot serve the link, "" if it can.

        A link that was opened before the method was named may be one that its predictor has no weights for.
        """
        try:
            check_link(granted.method, checked_link(granted.slot.config), self._weights)
        except InvalidField as error:
            return error.message
        return ""


def _grant_item(query: CheckedQuery) -> channel_pb2.GrantItem:
    message = query.message
    if message.WhichOneof("link") == "link_id":
        method = query.method
        sharing = f"CSI by {method.predictor or 'knowledge'}, precoder {method.precoder}"
        return channel_pb2.GrantItem(link_id=message.link_id, seed=message.seed, sharing=sharing)
    return channel_pb2.GrantItem(link_config=message.link_config, seed=message.seed)


def _by_itself(granted: Granted) -> bool:
    return granted.method.predictor == "hold-last"


def _no_prediction(reason: str) -> common_pb2.Degradation:
    return common_pb2.Degradation(part="knowledge.csi", reason=reason)


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
    reason = "the reported CSI is zero or not finite in a subband"
    empty = common_pb2.Degradation(part="link.csi", reason=reason)
    return KnownCsi(None, "none", degraded=(*known.degraded, empty))


def _has_energy(csi: NDArray[np.complex64]) -> bool:
    """Whether every user's CSI is finite and not zero in any subband: what a precoder needs."""
    energy = np.sum(np.abs(csi.astype(np.complex128)) ** 2, axis=(-2, -1))
    return bool(np.isfinite(energy).all() and (energy > 0).all())
