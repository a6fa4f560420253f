"""The transmitter among scripted neighbours: what it knows, what it sends, and what it does when someone is away."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from semlink.errors import InvalidField, NotFound, Unavailable
from semlink.links import Link, link_id_of
from semlink.settings import Settings
from semlink.signal.csi import quantizer_for
from semlink.signal.feedback import report_slots
from semlink.store import MemoryStore
from semlink.telemetry import registry
from semlink.v1 import channel_pb2, common_pb2, knowledge_pb2, receiver_pb2, transmitter_pb2
from semlink.weight_files import Weights
from semlink.wire import from_wire, to_wire
from transmitter.csi import KnownCsi, Received, decode
from transmitter.encoding import Content
from transmitter.handler import Transmitter

SLOT = 200


def features(contents: list[Content]) -> list[NDArray[np.float32]]:
    """A fixed unit vector, as the only component, for each content."""
    rows = []
    for content in contents:
        draw = np.random.default_rng(len(str(content.value))).normal(size=256).astype(np.float32)
        rows.append(draw[None] / np.linalg.norm(draw))
    return rows


class Air:
    """Stands for the channel: grants slot 200, keeps the frames, answers with one match each."""

    def __init__(self) -> None:
        self.frames: list[channel_pb2.Frame] = []

    async def grant(self, request: channel_pb2.GrantRequest) -> channel_pb2.GrantResponse:
        return channel_pb2.GrantResponse(
            slots=[
                channel_pb2.Slot(
                    link_id=link_id_of(Link.from_proto(item.link_config)),
                    config=item.link_config,
                    slot=SLOT,
                )
                for item in request.items
            ]
        )

    async def transmit(self, request: channel_pb2.TransmitRequest) -> channel_pb2.TransmitResponse:
        self.frames = list(request.frames)
        return channel_pb2.TransmitResponse(
            deliveries=[
                channel_pb2.Delivery(
                    query_id=f.query_id,
                    matches=[receiver_pb2.Match(item_id=f"found by {f.query_id}")],
                    link=channel_pb2.LinkReport(snr_db=f.config.snr_db),
                )
                for f in request.frames
            ]
        )


class Knowledge:
    """Stands for the knowledge base; ``None`` means away."""

    def __init__(self, rewrites: list[knowledge_pb2.Rewrite] | None) -> None:
        self.rewrites = rewrites
        self.asked: list[knowledge_pb2.RewriteItem] = []

    async def rewrite(self, request: knowledge_pb2.RewriteRequest) -> knowledge_pb2.RewriteResponse:
        self.asked += request.items
        if self.rewrites is None:
            raise Unavailable("knowledge cannot be reached")
        return knowledge_pb2.RewriteResponse(
            sets=[knowledge_pb2.RewriteSet(rewrites=self.rewrites) for _ in request.items]
        )

    async def predict_csi(
        self, request: knowledge_pb2.PredictCsiRequest
    ) -> knowledge_pb2.PredictCsiResponse:
        if self.rewrites is None:
            raise Unavailable("knowledge cannot be reached")
        ones = np.ones((4, 8, 2, 16), np.complex64) + np.arange(16, dtype=np.complex64)
        csi = ones * np.exp(1j * np.arange(4))[:, None, None, None] ** np.arange(16)
        return knowledge_pb2.PredictCsiResponse(
            predictions=[
                knowledge_pb2.PredictedCsi(csi=to_wire(csi.astype(np.complex64)), source="wiener")
                for _ in request.items
            ]
        )


class NoStore(MemoryStore):
    async def reports(self, wanted):  # type: ignore[no-untyped-def]
        raise Unavailable("the store is away")


def query(number: int = 0, **values) -> transmitter_pb2.Query:  # type: ignore[no-untyped-def]
    fields = {
        "id": f"q{number}",
        "task": "person",
        "text": "a man in red",
        "method": "deepsc-mimo",
        "top_k": 5,
        "symbols": 64,
        "link_config": Link().to_proto(),
    }
    return transmitter_pb2.Query(**(fields | values))


def unoffered() -> Link:
    """A link whose quantiser cannot make so few bits for so many antennas."""
    return Link().replace(quantizer="scalar", bits=1, num_rx_ant=4)


async def reported(store: MemoryStore, config: Link, seed: int) -> None:
    """Every usable report of a random channel, put where the channel would put it."""
    generator = torch.Generator().manual_seed(seed)
    quantizer = quantizer_for(config)
    for slot in report_slots(config, SLOT, 8):
        number = slot // config.feedback.report_period_slots
        h = torch.randn(4, 8, 2, 16, dtype=torch.complex64, generator=generator)
        payload = quantizer.encode(h, torch.full((4,), number))
        await store.put_reports(
            link_id_of(config),
            [
                common_pb2.CsiReport(
                    user=user,
                    slot=slot,
                    report_index=number,
                    bits=quantizer.bits,
                    payload=payload[user].numpy().tobytes(),
                )
                for user in range(4)
            ],
        )


def service(air: Air, store: MemoryStore, knowledge: Knowledge | None = None) -> Transmitter:
    receiver = None  # asked only by the method without a channel
    return Transmitter(
        air,  # type: ignore[arg-type]
        receiver,  # type: ignore[arg-type]
        knowledge or Knowledge([]),
        store,
        Settings(redis_url="memory://"),
        encoder=features,
    )


async def send(transmitter: Transmitter, *queries: transmitter_pb2.Query):  # type: ignore[no-untyped-def]
    request = transmitter_pb2.RetrieveRequest(queries=queries)
    return (await transmitter.retrieve(request)).answers


async def test_only_reports_tell_it_of_the_channel() -> None:
    """Honesty: another drop of the channel with the same reports gives the same frame, bit for bit."""
    frames = []
    for link_seed, report_seed in ((1, 5), (2, 5), (1, 6)):
        config = Link().replace(seed=link_seed)
        store, air = MemoryStore(), Air()
        await reported(store, config, report_seed)
        await send(service(air, store), query(link_config=config.to_proto()))
        frames.append(air.frames[0])
    first, other_channel, other_reports = frames
    assert first.symbols == other_channel.symbols
    assert first.precoder == other_channel.precoder
    assert first.header == other_channel.header
    assert first.precoder != other_reports.precoder


async def test_the_header_says_nothing_of_the_text_or_the_channel() -> None:
    store, air = MemoryStore(), Air()
    await reported(store, Link(), 1)
    await send(
        service(air, store),
        query(text="a man in red"),
        query(1, text="a woman in blue, with a bag"),
    )
    one, two = air.frames
    assert one.header == two.header
    assert len(one.header) < 64
    assert one.symbols != two.symbols


async def test_symbols_and_precoder_have_the_promised_power() -> None:
    store, air = MemoryStore(), Air()
    await reported(store, Link(), 1)
    await send(
        service(air, store), *(query(i, symbols=k) for i, k in enumerate((8, 16, 32, 64, 128)))
    )
    for frame, k in zip(air.frames, (8, 16, 32, 64, 128), strict=True):
        symbols = from_wire(frame.symbols, field="symbols", shape=(1, k))
        assert np.mean(np.abs(symbols) ** 2) == pytest.approx(1.0, abs=1e-3)
        precoder = from_wire(frame.precoder, field="precoder", shape=(8, 16, 4))
        assert np.sum(np.abs(precoder) ** 2, axis=(1, 2)) == pytest.approx(
            np.full(8, 4.0), rel=1e-4
        )


async def test_a_batch_mate_changes_nothing() -> None:
    store, air = MemoryStore(), Air()
    await reported(store, Link(), 1)
    transmitter = service(air, store)
    await send(transmitter, query(0))
    alone = from_wire(air.frames[0].symbols, field="symbols")
    await send(transmitter, query(0), query(1, text="quite another query than the first"))
    together = from_wire(air.frames[0].symbols, field="symbols")
    assert np.allclose(alone, together, atol=1e-5)


async def test_reports_of_concurrent_requests_are_decoded_together_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, airs, sizes = MemoryStore(), [Air() for _ in range(4)], []
    configs = [Link(seed=seed) for seed in range(len(airs))]
    for seed, config in enumerate(configs):
        await reported(store, config, seed)
    alone = []
    for air, config in zip(airs, configs, strict=True):
        await send(service(air, store), query(link_config=config.to_proto()))
        alone.append(air.frames[0].precoder)

    def counted(received: list[Received], weights: Weights) -> list[KnownCsi]:
        sizes.append(len(received))
        return decode(received, weights)

    monkeypatch.setattr("transmitter.csi.decode", counted)
    air = Air()
    sent: list[channel_pb2.Frame] = []
    transmit = air.transmit

    async def noted(request: channel_pb2.TransmitRequest) -> channel_pb2.TransmitResponse:
        sent.extend(request.frames)
        return await transmit(request)

    air.transmit = noted  # type: ignore[method-assign]
    transmitter = service(air, store)
    await asyncio.gather(
        *(send(transmitter, query(i, link_config=c.to_proto())) for i, c in enumerate(configs))
    )
    assert sizes == [4]
    sent.sort(key=lambda frame: frame.query_id)
    assert [frame.precoder for frame in sent] == alone


async def test_without_the_store_it_sends_open_loop_and_says_so() -> None:
    air = Air()
    (answer,) = await send(service(air, NoStore()), query())
    assert [d.part for d in answer.degraded] == ["link.csi"]
    assert answer.csi_source == "none"
    assert not air.frames[0].HasField("assumed_csi")


async def test_a_missing_report_falls_back_to_an_older_one_and_says_so() -> None:
    config, store, air = Link(), MemoryStore(), Air()
    await reported(store, config, 1)
    newest = report_slots(config, SLOT, 1)[0]
    older = MemoryStore()
    (kept,) = await store.reports([(link_id_of(config), report_slots(config, SLOT, 8))])
    await older.put_reports(link_id_of(config), [r for r in kept if r.slot != newest])
    (answer,) = await send(service(air, older), query())
    assert [d.part for d in answer.degraded] == ["link.csi"]
    assert str(newest) in answer.degraded[0].reason
    assert answer.link.csi_age_slots == SLOT - newest + config.feedback.report_period_slots


async def test_a_damaged_report_is_not_believed() -> None:
    config, store, air = Link(), MemoryStore(), Air()
    await reported(store, config, 1)
    newest = report_slots(config, SLOT, 1)[0]
    bad = common_pb2.CsiReport(
        user=0, slot=newest, report_index=newest // 5, bits=64, payload=b"short"
    )
    await store.put_reports(link_id_of(config), [bad])
    (answer,) = await send(service(air, store), query())
    assert [d.part for d in answer.degraded] == ["link.csi"]
    assert "payload" in answer.degraded[0].reason
    assert answer.link.csi_age_slots == SLOT - newest + config.feedback.report_period_slots
    assert answer.csi_source == "hold-last"


@pytest.mark.parametrize(
    ("field", "value"),
    [("quantizer", "scalar"), ("link_id", "l-another"), ("bits", 63), ("report_index", 0)],
)
async def test_a_foreign_report_is_refused_counted_and_done_without(
    field: str, value: object
) -> None:
    config, store, air = Link(), MemoryStore(), Air()
    await reported(store, config, 1)
    newest = report_slots(config, SLOT, 1)[0]
    (kept,) = await store.reports([(link_id_of(config), [newest])])
    setattr(kept[1], field, value)
    await store.put_reports(link_id_of(config), [kept[1]])
    name = "semlink_csi_reports_rejected_total"
    before = registry.get_sample_value(name, {"field": field}) or 0.0
    (answer,) = await send(service(air, store), query())
    assert (registry.get_sample_value(name, {"field": field}) or 0.0) > before
    assert [d.part for d in answer.degraded] == ["link.csi"]
    assert f".{field} is" in answer.degraded[0].reason
    assert answer.link.csi_age_slots == SLOT - newest + config.feedback.report_period_slots


async def test_memory_fused_says_so_and_uses_the_whole_history() -> None:
    config, store, air = Link(), MemoryStore(), Air()
    config = config.replace(memory="fused")
    await reported(store, config, 1)
    (answer,) = await send(service(air, store), query(link_config=config.to_proto()))
    assert answer.csi_source == "fused"
    assert not answer.degraded
    newest = report_slots(config, SLOT, 1)
    (kept,) = await store.reports([(link_id_of(config), report_slots(config, SLOT, 8))])
    only = MemoryStore()
    await only.put_reports(link_id_of(config), [r for r in kept if r.slot not in newest])
    (answer,) = await send(service(Air(), only), query(link_config=config.to_proto()))
    assert answer.csi_source == "fused"
    assert [d.part for d in answer.degraded] == ["link.csi"]


async def test_without_the_knowledge_base_it_answers_with_what_it_knows() -> None:
    store, air = MemoryStore(), Air()
    await reported(store, Link(), 1)
    (answer,) = await send(service(air, store, Knowledge(None)), query(method="sc-lmkb"))
    assert {d.part for d in answer.degraded} == {"knowledge.rewrites", "knowledge.csi"}
    assert answer.csi_source == "hold-last"
    assert answer.matches[0].item_id == "found by q0"


@pytest.mark.parametrize("spoilt", ["antennas", "users", "nan", "zero", "checksum", "dtype"])
async def test_predicted_csi_that_cannot_be_is_not_believed(spoilt: str) -> None:
    """The knowledge base is another process: what it says is checked, counted, and done without."""

    class Confused(Knowledge):
        async def predict_csi(
            self, request: knowledge_pb2.PredictCsiRequest
        ) -> knowledge_pb2.PredictCsiResponse:
            response = await super().predict_csi(request)
            tensor = response.predictions[0].csi
            csi = from_wire(tensor, field="csi").copy()
            match spoilt:
                case "antennas":
                    csi = csi[..., :8]
                case "users":
                    csi = csi[:3]
                case "nan":
                    csi[1, 2, 1, 3] = np.nan
                case "zero":
                    csi[3, 7] = 0
                case "dtype":
                    csi = np.abs(csi)
            tensor.CopyFrom(to_wire(csi))
            tensor.crc32c ^= spoilt == "checksum"
            return response

    store, air = MemoryStore(), Air()
    await reported(store, Link(), 1)
    (answer,) = await send(service(air, store, Confused([])), query(method="sc-lmkb"))
    assert [d.part for d in answer.degraded] == ["knowledge.csi"]
    assert "predictions.csi" in answer.degraded[0].reason
    assert answer.csi_source == "hold-last"
    assert len(answer.matches) == 1


@pytest.mark.parametrize("value", [0.0, np.nan])
async def test_reports_that_leave_nothing_to_precode_for_are_done_without(
    monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    csi = np.ones((4, 8, 2, 16), np.complex64)
    csi[2, 5] = value

    async def empty(_store: object, slots: list[channel_pb2.Slot], _: object) -> list[KnownCsi]:
        return [KnownCsi(csi, "hold-last") for _ in slots]

    monkeypatch.setattr("transmitter.slots.newest_reports", empty)
    air = Air()
    (answer,) = await send(service(air, MemoryStore()), query())
    assert [d.part for d in answer.degraded] == ["link.csi"]
    assert answer.csi_source == "none"
    assert not air.frames[0].HasField("assumed_csi")


async def test_kept_rewrites_change_the_message_and_dropped_ones_do_not() -> None:
    symbols = []
    for kept in (None, False, True):
        rewrites = (
            []
            if kept is None
            else [
                knowledge_pb2.Rewrite(text="a male person wearing red", kept=kept, similarity=0.9)
            ]
        )
        store, air = MemoryStore(), Air()
        (answer,) = await send(service(air, store, Knowledge(rewrites)), query(method="sc-lmkb"))
        assert len(answer.rewrites) == len(rewrites)
        symbols.append(from_wire(air.frames[0].symbols, field="symbols"))
    none, dropped, kept_ = symbols
    assert np.array_equal(none, dropped)
    assert not np.allclose(none, kept_)


async def test_the_strategy_of_a_query_reaches_the_knowledge_base() -> None:
    knowledge = Knowledge([])
    sender = service(Air(), MemoryStore(), knowledge)
    for name in ("", "instruction"):
        await send(sender, query(method="sc-lmkb", rewrite_strategy=name))
    assert [item.strategy for item in knowledge.asked] == ["", "instruction"]


async def test_what_a_query_does_not_set_has_the_defaults_of_rest() -> None:
    air = Air()
    bare = transmitter_pb2.Query(id="q", task="person", text="a man in red")
    (answer,) = await send(service(air, MemoryStore()), bare)
    (frame,) = air.frames
    header = channel_pb2.FrameHeader.FromString(frame.header)
    assert (header.symbols, header.top_k) == (64, 5)
    assert Link.from_proto(frame.config) == Link()
    assert (frame.seed, answer.seed > 0) == (answer.seed, True)
    assert answer.retrieval.scoring == transmitter_pb2.SCORING_GLOBAL
    (again,) = await send(service(air, MemoryStore()), bare)
    assert again.seed != answer.seed
    bare.seed = 0
    assert (await send(service(air, MemoryStore()), bare))[0].seed == 0


@pytest.mark.parametrize(
    ("values", "error", "field"),
    [
        (
            {"retrieval": transmitter_pb2.Retrieval(key_sentences=51)},
            InvalidField,
            "retrieval.key_sentences",
        ),
        ({"task": "video"}, InvalidField, "task"),
        ({"symbols": 63}, InvalidField, "symbols"),
        ({"top_k": 0}, InvalidField, "top_k"),
        ({"method": "magic"}, InvalidField, "method"),
        ({"corpus": "none"}, NotFound, "corpus"),
        ({"corpus": "scenes"}, InvalidField, "corpus"),
        ({"text": " "}, InvalidField, "text"),
        ({"knowledge_budget_ms": float("nan")}, InvalidField, "knowledge_budget_ms"),
        ({"rewrite_strategy": "chain"}, InvalidField, "rewrite_strategy"),
        ({"link_config": common_pb2.LinkConfig(scenario="")}, InvalidField, "link.scenario"),
        ({"link_config": unoffered().to_proto()}, InvalidField, "link.feedback.bits"),
    ],
)
async def test_bad_queries_are_named_and_nothing_is_sent(values, error, field) -> None:  # type: ignore[no-untyped-def]
    air = Air()
    with pytest.raises(error) as raised:
        await send(service(air, MemoryStore()), query(), query(1, **values))
    assert raised.value.field == f"queries[1].{field}"
    assert air.frames == []
