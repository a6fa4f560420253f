"""``emulated_ms`` of an answer: what the link would take, from what the link reports."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gateway.emulated_time import MAX_LINKS, EmulatedTime
from gateway.schemas import QueryBody, to_query
from semlink.errors import NotFound
from semlink.links import Link
from semlink.services import ChannelService
from semlink.v1 import channel_pb2, common_pb2, transmitter_pb2


class Channel:
    """Knows links whose ids begin with "l"; each has two layers, and slot 10 is next."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def get_link(self, request: channel_pb2.GetLinkRequest) -> channel_pb2.Link:
        self.asked.append(request.link_id)
        if not request.link_id.startswith("l"):
            raise NotFound("no such link", field="link.id")
        config = Link(num_layers=2).to_proto()
        if request.link_id == "l-default":  # what is not set has its default
            config = common_pb2.LinkConfig()
        return channel_pb2.Link(link_id=request.link_id, slot=10, config=config)


def query(**link: Any) -> transmitter_pb2.Query:
    body = {"task": "person", "query": {"text": "a man"}, "link": link}
    return to_query(QueryBody.model_validate(body), "q", 0, b"")


def answer(slot: int, channel_uses: int = 64, age: int | None = None) -> transmitter_pb2.Answer:
    report = channel_pb2.LinkReport(slot=slot, channel_uses=channel_uses)
    if age is not None:
        report.csi_age_slots = age
    return transmitter_pb2.Answer(link=report)


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def emulated(channel: Channel) -> EmulatedTime:
    return EmulatedTime(cast(ChannelService, channel))


async def test_a_link_by_value_waits_for_no_slot(emulated: EmulatedTime, channel: Channel) -> None:
    arrival = await emulated.arrival(query(num_layers=2))
    found = emulated.milliseconds(arrival, answer(500, age=7))
    assert found == {"slot_wait": 0.0, "air_time": round(1 / 14, 6), "report_delay": 7.0}
    assert channel.asked == []


@pytest.mark.parametrize(
    ("layers", "symbols", "ofdm_symbols"), [(1, 576, 1), (1, 577, 2), (2, 1152, 1), (2, 1153, 2)]
)
async def test_air_time_counts_ofdm_symbols(
    emulated: EmulatedTime, layers: int, symbols: int, ofdm_symbols: int
) -> None:
    arrival = await emulated.arrival(query(num_layers=layers))
    found = emulated.milliseconds(arrival, answer(500, symbols))
    assert found["air_time"] == pytest.approx(ofdm_symbols / 14, abs=1e-6)
    assert "report_delay" not in found


async def test_queries_at_once_wait_for_the_slots_of_those_before(
    emulated: EmulatedTime, channel: Channel
) -> None:
    arrivals = [await emulated.arrival(query(id="l-1")) for _ in range(3)]
    # two share slot 10, the third is a slot later; answers may come in any order
    waits = [
        emulated.milliseconds(arrivals[i], answer(slot))["slot_wait"]
        for i, slot in ((2, 11), (0, 10), (1, 10))
    ]
    assert waits == [1.0, 0.0, 0.0]
    later = await emulated.arrival(query(id="l-1"))
    assert emulated.milliseconds(later, answer(12))["slot_wait"] == 0.0
    assert channel.asked == ["l-1"]


async def test_a_field_that_the_link_does_not_set_has_its_default(emulated: EmulatedTime) -> None:
    arrival = await emulated.arrival(query(id="l-default"))
    assert emulated.milliseconds(arrival, answer(10, 576))["air_time"] == pytest.approx(
        1 / 14, abs=1e-6
    )


async def test_what_is_not_known_is_absent(emulated: EmulatedTime) -> None:
    unknown = await emulated.arrival(query(id="gone"))
    assert emulated.milliseconds(unknown, answer(10)) == {}
    by_value = await emulated.arrival(query())
    assert emulated.milliseconds(by_value, transmitter_pb2.Answer()) == {}


async def test_only_the_links_used_last_are_remembered(
    emulated: EmulatedTime, channel: Channel
) -> None:
    for number in range(MAX_LINKS + 1):
        await emulated.arrival(query(id=f"l-{number}"))
        await emulated.arrival(query(id="l-0"))
    assert len(emulated._links) == MAX_LINKS
    assert channel.asked.count("l-0") == 1
    await emulated.arrival(query(id="l-1"))
    assert channel.asked.count("l-1") == 2
