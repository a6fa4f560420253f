"""From framed messages, or from features without a channel, to answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from semlink.messages import to_proto
from semlink.runtime import running_on
from semlink.semantics.encoders import heads_sha256
from semlink.services import ChannelService, ReceiverService
from semlink.stages import Noted
from semlink.telemetry import record_answer, record_degraded, timed
from semlink.v1 import channel_pb2, common_pb2, receiver_pb2, transmitter_pb2
from semlink.version import version
from semlink.wire import to_wire
from transmitter.encoding import Meaning
from transmitter.framing import Outgoing, header_of

WEIGHTS_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the receiver found, with its own times and fallbacks.

    Without a channel ``link`` is None and ``scenario`` "none".
    """

    meaning: Meaning
    csi_source: str
    matches: Sequence[receiver_pb2.Match]
    timings: Sequence[common_pb2.Timing]
    degraded: Sequence[common_pb2.Degradation]
    link: channel_pb2.LinkReport | None
    scenario: str = "none"


async def transmit(channel: ChannelService, outgoing: list[Outgoing]) -> list[Noted[Delivered]]:
    """Send frames over the channel."""
    request = channel_pb2.TransmitRequest(frames=[one.frame for one in outgoing])
    with timed("transmitter.link") as clock:
        response = await channel.transmit(request)
    return [
        Noted(_delivered(one, delivery), (clock.timing(),))
        for one, delivery in zip(outgoing, response.deliveries, strict=True)
    ]


async def search(receiver: ReceiverService, meanings: list[Meaning]) -> list[Noted[Delivered]]:
    """The method without a channel: give the receiver the features themselves."""
    items = [
        receiver_pb2.SearchItem(
            header=header_of(m.query, num_streams=1, num_layers=1).SerializeToString(),
            components=to_wire(np.asarray(m.components, dtype=np.float32)),
        )
        for m in meanings
    ]
    response = await receiver.search(receiver_pb2.SearchRequest(items=items))
    return [
        Noted(Delivered(meaning, "none", r.matches, r.timings, r.degraded, None))
        for meaning, r in zip(meanings, response.receptions, strict=True)
    ]


def answer_of(noted: Noted[Delivered], device: str) -> transmitter_pb2.Answer:
    """The answer to a query; it and the transmitter's own fallbacks are counted."""
    delivered = noted.value
    meaning = delivered.meaning
    runtime = running_on(device)
    record_degraded("transmitter", noted.degraded)
    answer = transmitter_pb2.Answer(
        query_id=meaning.query.message.id,
        matches=delivered.matches,
        link=delivered.link,
        rewrites=meaning.rewrites,
        csi_source=delivered.csi_source,
        timings=[*noted.timings, *delivered.timings],
        degraded=[*noted.degraded, *delivered.degraded],
        sentences=[
            transmitter_pb2.Sentence(text=s.text, score=s.score, kept=s.kept)
            for s in meaning.selected.sentences
        ],
        retrieval=to_proto(meaning.query.retrieval, transmitter_pb2.Retrieval()),
        seed=meaning.query.message.seed,
        computation=transmitter_pb2.Computation(
            version=version(),
            weights=heads_sha256(meaning.query.space)[:WEIGHTS_DIGITS],
            runtime=runtime.name,
            precision=runtime.precision,
        ),
    )
    query = meaning.query
    record_answer(answer, task=query.task, method=query.method.name, scenario=delivered.scenario)
    return answer


def _delivered(outgoing: Outgoing, delivery: channel_pb2.Delivery) -> Delivered:
    query, known = outgoing.meaning.query, outgoing.scheduled.known
    report = delivery.link
    report.bandwidth_ratio = query.message.symbols / query.source_values
    if known.age_slots is not None:
        report.csi_age_slots = known.age_slots
    return Delivered(
        outgoing.meaning,
        known.source,
        delivery.matches,
        delivery.timings,
        delivery.degraded,
        report,
        outgoing.scheduled.slot.config.scenario,
    )
