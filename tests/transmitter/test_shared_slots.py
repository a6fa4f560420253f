"""Queries in flight on one opened link share its slots; those of links by value stay alone."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lab.evaluation.local_system import System, build_system
from semlink.corpora.registry import corpus_named
from semlink.errors import InvalidField
from semlink.grid import HISTORY_SLOTS
from semlink.links import Link
from semlink.v1 import channel_pb2, transmitter_pb2
from semlink.wire import from_wire
from transmitter.encoding import Content


def crude(contents: list[Content]) -> list[NDArray[np.float32]]:
    """A fixed unit vector for each text: what is encoded does not matter here."""
    rows = []
    for content in contents:
        seed = sum(str(content.value).encode())
        draw = np.random.default_rng(seed).normal(size=256).astype(np.float32)
        rows.append(draw[None] / np.linalg.norm(draw))
    return rows


def link(**fields: Any) -> Link:
    return Link().replace(**fields)


def query(number: int, text: str, **fields: Any) -> transmitter_pb2.Query:
    values: dict[str, Any] = {
        "id": f"q{number}",
        "task": "person",
        "text": text,
        "method": "deepsc-mimo",
        "top_k": 5,
        "symbols": 128,
        "seed": number,
    }
    return transmitter_pb2.Query(**(values | fields))


async def ask(system: System, *queries: transmitter_pb2.Query) -> list[transmitter_pb2.Answer]:
    """Each query in a request of its own, all at once, as REST clients send them; their messages are ready at once.

    As they are when they were encoded in one batch. Which batch that is depends on the clock, so the test holds each
    until all are there.
    """
    understand, everybody, there = system.transmitter._understand, asyncio.Event(), []

    async def wait_for_all(queries_: list[Any]) -> list[Any]:
        meanings = await understand(queries_)
        there.append(queries_)
        if len(there) == len(queries):
            everybody.set()
        await everybody.wait()
        return meanings

    system.transmitter._understand = wait_for_all  # type: ignore[method-assign]
    responses = await asyncio.gather(
        *(
            system.transmitter.retrieve(transmitter_pb2.RetrieveRequest(queries=[q]))
            for q in queries
        )
    )
    system.transmitter._understand = understand  # type: ignore[method-assign]
    return [response.answers[0] for response in responses]


async def opened(system: System, config: Link) -> str:
    return (
        await system.channel.open_link(channel_pb2.OpenLinkRequest(config=config.to_proto()))
    ).link_id


def keeping_frames(system: System) -> list[channel_pb2.Frame]:
    """Every frame that will be sent from now on."""
    sent: list[channel_pb2.Frame] = []
    transmit = system.channel.transmit

    async def noted(request: channel_pb2.TransmitRequest) -> channel_pb2.TransmitResponse:
        sent.extend(request.frames)
        return await transmit(request)

    system.channel.transmit = noted  # type: ignore[method-assign]
    return sent


@pytest.mark.parametrize("number", [2, 3, 4])
async def test_concurrent_queries_of_a_cell_share_a_slot_and_are_answered(number: int) -> None:
    """By the real encoders, codecs and gallery: each finds its own person as it does alone on the same link."""
    system = build_system()
    items = corpus_named("pedestrians").items("test")[: 40 * number : 40]
    texts = [item.captions[0] for item in items]
    link_id = await opened(system, link(snr_db=25.0))
    together = await ask(system, *(query(i, text, link_id=link_id) for i, text in enumerate(texts)))
    ideal = await ask(
        system,
        *(query(i, t, method="ideal", link_config=Link().to_proto()) for i, t in enumerate(texts)),
    )
    await system.close()
    assert [a.link.slot for a in together] == [HISTORY_SLOTS] * number
    assert sorted(a.link.user for a in together) == list(range(number))
    assert [a.link.co_scheduled for a in together] == [number - 1] * number
    assert not any(a.degraded for a in together)
    for answer, without_channel in zip(together, ideal, strict=True):
        # what it finds is what it would find without any channel, and not what its mates find
        found = {m.item_id for m in answer.matches}
        assert without_channel.matches[0].item_id in found
        others = [a for a in ideal if a is not without_channel]
        assert not any(other.matches[0].item_id in found for other in others)


async def test_nine_queries_take_three_slots_of_four_users() -> None:
    system = build_system(encoder=crude)  # type: ignore[arg-type]
    sent = keeping_frames(system)
    link_id = await opened(system, link())
    answers = await ask(system, *(query(i, f"text {i}", link_id=link_id) for i in range(9)))
    now = await system.channel.get_link(channel_pb2.GetLinkRequest(link_id=link_id))
    places = sorted((a.link.slot, a.link.user) for a in answers)
    first = HISTORY_SLOTS
    assert places == [(first + i // 4, i % 4) for i in range(9)]
    assert now.slot == first + 3
    mates = {(a.link.slot, a.link.user): a.link.co_scheduled for a in answers}
    assert [mates[place] for place in places] == [3] * 8 + [0]
    by_slot: dict[int, list[channel_pb2.Frame]] = {}
    for frame in sent:
        by_slot.setdefault(frame.slot, []).append(frame)
    for frames in by_slot.values():
        assert len({f.precoder.data for f in frames}) == 1
        headers = [channel_pb2.FrameHeader.FromString(f.header) for f in frames]
        assert [h.first_stream for h in headers] == [f.user for f in frames]
        # each carries its own user's CSI as the figure's ground
        assert len({f.assumed_csi.data for f in frames}) == len(frames)
    await system.close()


async def test_queries_of_other_knowledge_do_not_share() -> None:
    """Their precoders would differ."""
    system = build_system(encoder=crude)  # type: ignore[arg-type]
    link_id = await opened(system, link())
    methods = ("deepsc-mimo", "sc-lmkb", "deepsc-mimo", "sc-lmkb")
    answers = await ask(
        system,
        *(query(i, "text", method=m, link_id=link_id) for i, m in enumerate(methods)),
    )
    await system.close()
    slots = {
        m: {a.link.slot for a, n in zip(answers, methods, strict=True) if n == m} for m in methods
    }
    assert not slots["deepsc-mimo"] & slots["sc-lmkb"]
    for answer in answers:
        mates = sum(a.link.slot == answer.link.slot for a in answers) - 1
        assert answer.link.co_scheduled == mates


async def test_a_bad_query_does_not_fail_those_that_share_its_slot() -> None:
    """A feature that is not finite is refused by the codec; the two others are answered."""

    def spoiling(contents: list[Content]) -> list[NDArray[np.float32]]:
        rows = crude(contents)
        for row, content in zip(rows, contents, strict=True):
            if content.value == "spoilt":
                row[0, 3] = np.nan
        return rows

    system = build_system(encoder=spoiling)  # type: ignore[arg-type]
    link_id = await opened(system, link())
    requests = [
        system.transmitter.retrieve(
            transmitter_pb2.RetrieveRequest(queries=[query(i, text, link_id=link_id)])
        )
        for i, text in enumerate(("fine", "spoilt", "fine too"))
    ]
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    await system.close()
    assert isinstance(outcomes[1], InvalidField)
    for outcome in (outcomes[0], outcomes[2]):
        assert isinstance(outcome, transmitter_pb2.RetrieveResponse)
        assert len(outcome.answers[0].matches) == 5


async def test_a_link_by_value_does_not_feel_company() -> None:
    """Slot, precoder, header and figures are the same bits alone and among queries of a cell.

    That the air is, too: tests/channel_service/test_cell.py.
    """
    config = link(seed=77)

    async def run(*, others_too: bool) -> tuple[channel_pb2.Frame, transmitter_pb2.Answer]:
        system = build_system(encoder=crude)  # type: ignore[arg-type]
        sent = keeping_frames(system)
        link_id = await opened(system, link(seed=77))
        others = [query(10 + i, f"other {i}", link_id=link_id) for i in range(3)]
        others += [query(20 + i, f"value {i}", link_config=config.to_proto()) for i in range(2)]
        answers = await ask(
            system,
            query(5, "a man in red", link_config=config.to_proto()),
            *(others if others_too else ()),
        )
        await system.close()
        return next(f for f in sent if f.query_id == "q5"), answers[0]

    frame, answer = await run(others_too=False)
    frame_, answer_ = await run(others_too=True)
    assert (answer.link.user, answer.link.co_scheduled) == (0, 0)
    assert frame_.precoder == frame.precoder
    assert frame_.assumed_csi == frame.assumed_csi
    assert frame_.header == frame.header
    # the codec's matrix products round with the size of the batch; nothing else may differ
    symbols, symbols_ = (from_wire(f.symbols, field="symbols") for f in (frame, frame_))
    assert np.allclose(symbols, symbols_, atol=1e-5)
    assert answer_.link.post_eq_snr_estimate_db == pytest.approx(
        answer.link.post_eq_snr_estimate_db, abs=1e-5
    )
    for report in (answer.link, answer_.link):
        report.ClearField("post_eq_snr_estimate_db")
    assert answer_.link == answer.link
    assert [m.item_id for m in answer_.matches] == [m.item_id for m in answer.matches]


@pytest.mark.parametrize(
    ("users", "layers", "rx", "tx", "quantizer", "bits"),
    [
        (1, 1, 1, 8, "rvq", 32),
        (1, 2, 2, 16, "rvq", 64),
        (1, 4, 4, 8, "scalar", 128),
        (1, 4, 4, 32, "perfect", 0),
        (2, 4, 4, 8, "perfect", 0),
        (3, 2, 2, 32, "rvq", 64),
        (4, 1, 1, 8, "scalar", 64),
        (4, 3, 4, 16, "perfect", 0),
        (5, 2, 4, 16, "scalar", 256),
        (6, 1, 2, 8, "rvq", 16),
        (7, 2, 2, 16, "none", 0),
        (8, 1, 1, 8, "perfect", 0),
        (8, 2, 2, 16, "rvq", 64),
        (8, 4, 4, 32, "scalar", 512),
    ],
)
@pytest.mark.parametrize("allocation", ["equal", "water-filling"])
async def test_every_size_goes_through_all_rooms(
    users: int, layers: int, rx: int, tx: int, quantizer: str, bits: int, allocation: str
) -> None:
    """Users 1…8, layers 1…4, ports 8, 16, 32: a full slot of an opened link, and a query by value."""
    system = build_system(encoder=crude)  # type: ignore[arg-type]
    config = link(
        scenario="rayleigh",
        num_users=users,
        num_layers=layers,
        num_rx_ant=rx,
        num_tx_ant=tx,
        power_allocation=allocation,
    )
    config = config.replace(quantizer=quantizer, bits=bits)
    sent = keeping_frames(system)
    link_id = await opened(system, config)
    symbols = (8, 16, 32, 64, 128)
    sharing = [query(i, f"t{i}", link_id=link_id, symbols=symbols[i % 5]) for i in range(users)]
    answers = await ask(system, *sharing, query(99, "by value", link_config=config.to_proto()))
    await system.close()
    assert not any(a.degraded for a in answers)
    assert all(len(a.matches) == 5 for a in answers)
    assert sorted(a.link.user for a in answers[:-1]) == list(range(users))
    assert {a.link.slot for a in answers[:-1]} == {HISTORY_SLOTS}
    for answer in answers:
        figures = (answer.link.post_eq_snr_db, answer.link.post_eq_snr_estimate_db)
        assert np.isfinite(figures).all()
    for frame in sent:
        w = from_wire(frame.precoder, field="precoder", shape=(8, tx, users * layers))
        power = np.sum(np.abs(w) ** 2, axis=1).reshape(8, users, layers)
        assert power.sum(-1).mean(0) == pytest.approx(np.full(users, layers), rel=1e-3)
        if allocation == "equal":
            assert power == pytest.approx(np.ones_like(power), rel=1e-3)


async def test_with_perfect_csi_each_user_decodes_its_own_layers() -> None:
    """What the receiver estimates from pilots and what is true agree, user by user, layer by layer."""
    system = build_system(encoder=crude)  # type: ignore[arg-type]
    config = link(scenario="rayleigh", num_users=4, num_layers=2, num_tx_ant=32, snr_db=20.0)
    config = config.replace(quantizer="perfect")
    link_id = await opened(system, config)
    answers = await ask(system, *(query(i, f"t{i}", link_id=link_id) for i in range(4)))
    await system.close()
    for answer in answers:
        assert answer.link.csi_sgcs == pytest.approx(1.0, abs=1e-4)
        assert answer.link.post_eq_snr_db > 15
        # the pilots' own error, N0/12 on each of 8 streams, costs 2.2 dB and some leakage
        lost = answer.link.post_eq_snr_db - answer.link.post_eq_snr_estimate_db
        assert 0 < lost < 4.5


async def test_an_opened_link_without_weights_for_the_method_is_done_without_and_said_so() -> None:
    """Its mates by another method are not touched: they may be predicted for."""
    system = build_system()
    text = corpus_named("pedestrians").items("test")[0].captions[0]
    link_id = await opened(system, link(snr_db=25.0, num_layers=2, num_users=2))
    answers = await ask(
        system,
        query(0, text, link_id=link_id, method="llm4cp"),
        query(1, text, link_id=link_id, method="sc-lmkb-wo-sdg"),
    )
    await system.close()
    (why,) = answers[0].degraded
    assert why.part == "knowledge.csi"
    assert "not for 16x2" in why.reason
    assert answers[0].csi_source == "hold-last"
    assert not answers[1].degraded
    assert answers[0].matches
    assert answers[1].matches
