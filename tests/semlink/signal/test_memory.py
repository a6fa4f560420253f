"""Memory across reports: what both ends keep in step, what a lost report costs, what a still channel gains."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import pytest
import torch

from channel_service.fading import ChannelKey, ChannelWindows, draw_rays, frequency_response
from channel_service.handler import Channel
from channel_service.reports import Reports
from semlink.errors import InvalidField
from semlink.links import Link
from semlink.services import ReceiverService
from semlink.settings import Settings
from semlink.signal import feedback
from semlink.signal.csi import (
    content_of,
    doppler_hz,
    quantizer_for,
)
from semlink.signal.csi.layers import Content, LayerRows, WholeChannel
from semlink.signal.csi.predictive import PredictiveQuantizer, Track
from semlink.signal.csi.rvq import Codebooks, RvqQuantizer, load_codebooks
from semlink.signal.feedback import (
    ReportHistory,
    decode_histories,
    decode_reports,
    needed_report_slots,
    report_slots,
    scheme_of,
)
from semlink.signal.metrics import sgcs
from semlink.signal.tracking import fuse_reports
from semlink.store import MemoryStore
from semlink.v1 import channel_pb2
from semlink.weight_files import SHIPPED
from transmitter.csi import newest_reports

WHOLE = WholeChannel(2)


def link(memory: str, bits: int = 16, quantizer: str = "rvq", kmh: float = 3.0) -> Link:
    return Link().replace(
        scenario="uma-nlos",
        speed_kmh=kmh,
        quantizer=quantizer,
        bits=bits,
        memory=memory,
        content="channel",
    )


def predictive(bits: int = 16, kmh: float = 3.0) -> PredictiveQuantizer:
    quantizer = quantizer_for(link("predictive", bits, kmh=kmh))
    assert isinstance(quantizer, PredictiveQuantizer)
    return quantizer


def with_books(rx: int, tx: int) -> tuple[Content, Codebooks]:
    content = WholeChannel(rx)
    return content, load_codebooks(SHIPPED, content, tx)


@lru_cache
def channels(kmh: float, reports: int, scenario: str = "uma-nlos") -> torch.Tensor:
    """``[8, reports, …]``: a report each 5 slots."""
    rays = draw_rays(ChannelKey(scenario, 3.5e9, 16, 2, 8, kmh / 3.6, 5_000_700))
    return frequency_response(rays, 0, 5 * reports)[:, ::5].contiguous()


def everything(payload: torch.Tensor) -> torch.Tensor:
    return torch.ones(payload.shape[:2], dtype=torch.bool)


def error_db(h: torch.Tensor, csi: torch.Tensor, content: Content = WHOLE) -> float:
    power = content.rows(h).abs().square().sum((-3, -2, -1)).double()
    error = 10 ** (content.nmse_db(h, csi) / 10) * power
    return float(10 * (error.sum() / power.sum()).log10())


# --- predictive ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 11, 16, 64])
def test_every_report_has_exactly_its_bits(bits: int) -> None:
    quantizer = predictive(bits)
    h = channels(3.0, 30)
    payload = quantizer.encode_group(h, torch.arange(30))
    assert payload.shape == (8, 30, -(-bits // 8))
    spare = 8 * payload.shape[2] - bits
    assert not (payload[..., -1] & ((1 << spare) - 1)).any()
    assert len({bytes(p.tolist()) for p in payload[0]}) > 10


def test_the_first_report_is_that_of_rvq() -> None:
    quantizer, h = predictive(), channels(3.0, 30)
    index = torch.zeros(8, dtype=torch.int64)
    first = quantizer_for(link("none")).encode(h[:, 0], index)
    assert torch.equal(quantizer.encode_group(h[:, :1], torch.arange(1))[:, 0], first)
    assert torch.equal(quantizer.encode(h[:, 0], index), first)


def test_both_ends_stay_in_step_and_repeat_themselves() -> None:
    quantizer, h = predictive(), channels(3.0, 40)
    ours, theirs = quantizer.start(8), quantizer.start(8)
    here = torch.ones(8, dtype=torch.bool)
    payloads = []
    for t in range(40):
        payloads.append(quantizer.encode_next(ours, h[:, t], t))
        quantizer.decode_next(theirs, payloads[-1], here, t)
        for name in ("now", "before", "p11", "p12", "p22", "power", "fading"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), (t, name)
    fresh = PredictiveQuantizer(2, 16, 16, doppler_hz(link("none")), 5, *with_books(2, 16))
    assert torch.equal(fresh.encode_group(h, torch.arange(40)), torch.stack(payloads, 1))


def test_batch_mates_do_not_matter() -> None:
    quantizer, h = predictive(), channels(3.0, 40)
    together = quantizer.encode_group(h, torch.arange(40))
    alone = quantizer.encode_group(h[5:6], torch.arange(40))
    assert torch.equal(together[5:6], alone)
    csi = quantizer.decode_group(together, everything(together), torch.arange(40))
    csi_alone = quantizer.decode_group(alone, everything(alone), torch.arange(40))
    # rounding adds up over the reports of a group, but does not grow: see the next test
    assert error_db(csi[5:6], csi_alone) < -70


def test_a_little_rounding_stays_little() -> None:
    """The decoder of another machine rounds differently: its filter must not drift away."""
    quantizer, h = predictive(), channels(3.0, 60)
    payload = quantizer.encode_group(h, torch.arange(60))
    here = torch.ones(8, dtype=torch.bool)
    exact, rough = quantizer.start(8), quantizer.start(8)
    generator = torch.Generator().manual_seed(1)
    for t in range(60):
        quantizer.decode_next(exact, payload[:, t], here, t)
        quantizer.decode_next(rough, payload[:, t], here, t)
        for name in ("now", "p11", "power"):
            value = getattr(rough, name)
            noise = torch.randn(value.shape, generator=generator)
            setattr(rough, name, value * (1 + 1e-6 * noise))
    users = torch.arange(8)
    assert error_db(quantizer.csi_of(exact, users), quantizer.csi_of(rough, users)) < -70


def test_a_still_channel_becomes_clear() -> None:
    quantizer = predictive(16, kmh=0.3)
    h = channels(3.0, 1).expand(-1, 120, -1, -1, -1)
    payload = quantizer.encode_group(h, torch.arange(120))
    csi = quantizer.decode_group(payload, everything(payload), torch.arange(120))
    errors = [error_db(h[:, t], csi[:, t]) for t in (0, 30, 60, 119)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] - 6


def test_sixteen_bits_with_memory_beat_sixty_four_without() -> None:
    quantizer, h = predictive(16), channels(3.0, 100)
    payload = quantizer.encode_group(h, torch.arange(100))
    csi = quantizer.decode_group(payload, everything(payload), torch.arange(100), last=50)
    many = quantizer_for(link("none", 64))
    flat = h[:, 50:].flatten(0, 1)
    index = torch.zeros(len(flat), dtype=torch.int64)
    assert (
        sgcs(h[:, 50:], csi).mean()
        > sgcs(flat, many.decode(many.encode(flat, index), index)).mean()
    )


def test_fast_fading_is_no_worse_than_without_memory() -> None:
    h = channels(60.0, 60)
    quantizer, plain = predictive(16, kmh=60.0), quantizer_for(link("none"))
    payload = quantizer.encode_group(h, torch.arange(60))
    csi = quantizer.decode_group(payload, everything(payload), torch.arange(60), last=45)
    flat = h[:, 15:].flatten(0, 1)
    index = torch.zeros(len(flat), dtype=torch.int64)
    without = sgcs(flat, plain.decode(plain.encode(flat, index), index)).mean()
    assert sgcs(h[:, 15:], csi).mean() > without - 0.01


def test_a_lost_report_is_no_catastrophe() -> None:
    quantizer, h = predictive(16), channels(3.0, 120)
    payload = quantizer.encode_group(h, torch.arange(120))
    lossless = quantizer.decode_group(payload, everything(payload), torch.arange(120))
    present = everything(payload)
    present[:, 60] = False
    lossy = quantizer.decode_group(payload, present, torch.arange(120))
    assert torch.equal(lossy[:, :60], lossless[:, :60])
    gaps = [error_db(h[:, t], lossy[:, t]) - error_db(h[:, t], lossless[:, t]) for t in (60, 119)]
    assert gaps[0] < 1.0
    assert gaps[1] < 0.3
    # Far better still than the first report alone.
    assert error_db(h[:, 119], lossy[:, 119]) < error_db(h[:, 0], lossless[:, 0]) - 1


def test_nothing_arrived_gives_nothing_and_a_lost_start_recovers() -> None:
    quantizer, h = predictive(64), channels(3.0, 60)
    payload = quantizer.encode_group(h, torch.arange(60))
    none = quantizer.decode_group(payload, ~everything(payload), torch.arange(60))
    assert not none.any()
    present = everything(payload)
    present[:, 0] = False
    csi = quantizer.decode_group(payload, present, torch.arange(60))
    assert not csi[:, 0].any()
    lossless = quantizer.decode_group(payload, everything(payload), torch.arange(60))
    assert error_db(lossless[:, -1], csi[:, -1]) < -20


def test_a_group_too_short_to_start_stays_with_whole_reports() -> None:
    config = link("predictive")
    config = config.replace(report_period_slots=100)
    quantizer, h = quantizer_for(config), channels(3.0, 10)
    assert isinstance(quantizer, PredictiveQuantizer)
    payload = quantizer.encode_group(h, torch.arange(10))
    plain = quantizer_for(link("none"))
    index = torch.zeros(8, dtype=torch.int64)
    for t in range(10):
        assert torch.equal(payload[:, t], plain.encode(h[:, t], index))


@pytest.mark.parametrize(("tx", "rx"), [(8, 1), (8, 2), (16, 1), (32, 2)])
def test_every_antenna_configuration_of_rvq(tx: int, rx: int) -> None:
    content, books = with_books(rx, tx)
    quantizer = PredictiveQuantizer(rx, tx, 24, 9.7, 5, content, books)
    plain = RvqQuantizer(rx, tx, 24, books)
    rays = draw_rays(ChannelKey("umi-los", 3.5e9, tx, rx, 8, 3 / 3.6, 5_000_701))
    h = frequency_response(rays, 0, 250)[:, ::5]
    payload = quantizer.encode_group(h, torch.arange(50))
    csi = quantizer.decode_group(payload, everything(payload), torch.arange(50), last=20)
    flat = h[:, 30:].flatten(0, 1)
    index = torch.zeros(len(flat), dtype=torch.int64)
    without = sgcs(flat, plain.decode(plain.encode(flat, index), index)).mean()
    assert 1 - sgcs(h[:, 30:], csi).mean() < 0.8 * (1 - without)


# --- fused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["channel", "layers"])
@pytest.mark.parametrize(("name", "bits"), [("rvq", 16), ("scalar", 64)])
def test_a_fused_history_of_a_still_channel_beats_one_report(
    name: str, bits: int, content: str
) -> None:
    config = link("fused", bits, name, kmh=0.1)
    config = config.replace(content=content)
    described = content_of(config)
    quantizer, h = quantizer_for(config), channels(3.0, 1)[:, 0]
    index = torch.arange(8)
    reports = torch.stack(
        [quantizer.decode(quantizer.encode(h, i.expand(8)), i.expand(8)) for i in index],
        dim=1,
    )
    ages = 42 - 5 * index[None]
    present = torch.ones((1, 8, 8), dtype=torch.bool)
    fused = fuse_reports(reports[None], present, ages, doppler_hz(config), described)[0]
    assert error_db(h, fused, described) < error_db(h, reports[:, -1], described) - 0.3
    assert sgcs(h, fused).mean() > sgcs(h, reports[:, -1]).mean()
    # Without the rotation every report says the same, and there is nothing to gain.
    config = config.replace(memory="none")
    plain = quantizer_for(config)
    same = plain.decode(plain.encode(h, index), index)
    repeated = same[:, None].expand(-1, 8, -1, -1, -1)[None]
    fused = fuse_reports(repeated, present, ages, doppler_hz(config), described)[0]
    assert error_db(same, fused, described) < -20


@pytest.mark.parametrize("content", [WholeChannel(2), LayerRows(1, 2), LayerRows(2, 2)])
def test_fusing_heeds_what_is_missing_and_no_batch_mates(content: Content) -> None:
    generator = torch.Generator().manual_seed(3)
    reports = torch.randn(3, 2, 8, 8, 2, 16, dtype=torch.complex64, generator=generator)
    present = torch.rand(3, 2, 8, generator=generator) > 0.4
    present[1, 1] = False
    ages = 45 - 5 * torch.arange(8).expand(3, -1)
    fused = fuse_reports(reports, present, ages, 9.7, content)
    assert torch.isfinite(torch.view_as_real(fused)).all()
    assert not fused[1, 1].any()
    garbled = torch.where(present[..., None, None, None], reports, 1e3 * reports)
    assert torch.equal(fuse_reports(garbled, present, ages, 9.7, content), fused)
    assert torch.allclose(
        fuse_reports(reports[2:], present[2:], ages[2:], 9.7, content)[0], fused[2]
    )


# --- what is not offered ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "quantizer"),
    [("fused", "type1"), ("predictive", "scalar"), ("predictive", "perfect"), ("fused", "none")],
)
def test_memory_that_a_scheme_does_not_have_is_refused(memory: str, quantizer: str) -> None:
    with pytest.raises(InvalidField, match="fused goes with scalar") as error:
        quantizer_for(link(memory, 64, quantizer))
    assert error.value.field == "link.feedback.memory"


def test_bits_that_memory_cannot_make_are_refused() -> None:
    for bits, nearest in ((4, "8"), (512, "256")):
        with pytest.raises(InvalidField, match=f"nearest allowed: {nearest}") as error:
            quantizer_for(link("predictive", bits))
        assert error.value.field == "link.feedback.bits"


# --- through the store's reports -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reports() -> Reports:
    return Reports(ChannelWindows())


def test_groups_of_reports_are_decoded_from_their_start(reports: Reports) -> None:
    config = link("predictive")
    slot = 160
    due, needed = report_slots(config, slot), needed_report_slots(config, slot)
    assert due == needed[-8:]
    assert needed == list(range(0, 156, 5))
    made = reports.made_in(config, needed)
    assert {report.quantizer for report in made} == {"rvq+predictive"} == {scheme_of(config)}
    csi, present = decode_reports(config, made, due)
    assert present.all()
    payload = torch.tensor([[list(r.payload) for r in made[u::4]] for u in range(4)]).to(
        torch.uint8
    )
    quantizer = quantizer_for(config)
    assert isinstance(quantizer, PredictiveQuantizer)
    index = torch.arange(len(needed))
    expected = quantizer.decode_group(payload, everything(payload), index, last=8)
    assert torch.allclose(csi, expected, atol=1e-5)


def test_a_group_begins_with_its_window() -> None:
    config = link("predictive")
    assert report_slots(config, 1040) == [1025, 1030, 1035]
    assert needed_report_slots(config, 1030) == [1025]
    assert needed_report_slots(config, 1028) == list(range(0, 1024, 5))


def test_histories_that_share_reports_decode_as_if_alone(reports: Reports) -> None:
    config = link("predictive")
    histories = []
    for slot, lost in ((140, ()), (160, ()), (160, (1, 70)), (1040, ())):
        made = reports.made_in(config, needed_report_slots(config, slot))
        kept = [r for r in made if not lost or (r.user, r.slot) != lost]
        histories.append(ReportHistory(config, kept, report_slots(config, slot)))
    for history, found in zip(histories, decode_histories(histories), strict=True):
        alone = decode_histories([history])[0]
        assert torch.equal(found.present, alone.present)
        assert torch.allclose(found.csi, alone.csi, atol=1e-5)
    assert decode_histories(histories)[2].known.all()


def test_going_on_from_a_checkpoint_is_going_from_the_start(
    reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = link("predictive")
    slots = (150, 230, 250)
    made = {slot: reports.made_in(config, needed_report_slots(config, slot)) for slot in slots}
    histories = [ReportHistory(config, made[s], report_slots(config, s)) for s in slots]
    steps: list[int] = []
    following = PredictiveQuantizer.decode_next

    def counted(self: PredictiveQuantizer, track: Track, *rest: Any) -> None:
        steps.append(track.position)
        following(self, track, *rest)

    monkeypatch.setattr(feedback, "_tracks", feedback._TrackCache(0))
    fresh = [decode_histories([history])[0].csi for history in histories]
    monkeypatch.setattr(feedback, "_tracks", feedback._TrackCache(64))
    monkeypatch.setattr(PredictiveQuantizer, "decode_next", counted)
    for history, expected in zip(histories, fresh, strict=True):
        steps.clear()
        assert torch.allclose(decode_histories([history])[0].csi, expected, atol=1e-5)
    assert len(steps) < 24


def test_bad_reports_of_a_group_are_named_and_the_rest_is_tracked(reports: Reports) -> None:
    config = link("predictive")
    due = report_slots(config, 160)
    made = reports.made_in(config, needed_report_slots(config, 160), "l-ours")
    made[-1].link_id = "l-theirs"
    made[-5].quantizer = "rvq"
    (found,) = decode_histories([ReportHistory(config, made, due, "l-ours")])
    fields = [error.field for error in found.refused]
    assert fields == [f"reports[{len(made) - 5}].quantizer", f"reports[{len(made) - 1}].link_id"]
    assert not found.present[3, -2:].any()
    assert found.known.all()


@pytest.mark.parametrize("memory", ["none", "predictive"])
def test_an_estimate_that_is_not_finite_makes_no_report(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = link(memory)
    source = Reports(ChannelWindows())
    estimates = source.estimates

    def spoilt(config: Link, slots: Sequence[int]) -> torch.Tensor:
        h = estimates(config, slots).clone()
        h[2, list(slots).index(5), 0, 0, 0] = torch.nan
        return h

    monkeypatch.setattr(source, "estimates", spoilt)
    made = source.made_in(config, [0, 5, 10])
    assert [(r.user, r.slot) for r in made if r.slot == 5] == [(0, 5), (1, 5), (3, 5)]
    assert len(made) == 11
    csi, present = decode_reports(config, made, [0, 5, 10])
    assert present.sum() == 11
    assert torch.isfinite(torch.view_as_real(csi)).all()


async def test_a_granted_slot_has_all_that_its_tracking_needs() -> None:
    class Nobody:
        """No receiver is asked for feedback."""

    config, store = link("predictive"), MemoryStore()
    channel = Channel(cast(ReceiverService, Nobody()), store, Settings(redis_url="memory://"))
    item = channel_pb2.GrantItem(link_config=config.to_proto(), seed=4)
    (slot,) = (await channel.grant(channel_pb2.GrantRequest(items=[item]))).slots
    (known,) = await newest_reports(store, [slot])
    assert known.source == "tracked"
    assert not known.degraded
    assert known.csi is not None
    assert known.age_slots is not None
    assert 5 <= known.age_slots < 10
    truth = channel.windows.slot(config, slot.slot)
    plain = link("none")
    (memoryless,) = (
        await channel.grant(
            channel_pb2.GrantRequest(
                items=[channel_pb2.GrantItem(link_config=plain.to_proto(), seed=4)]
            )
        )
    ).slots
    (held,) = await newest_reports(store, [memoryless])
    assert held.source == "hold-last"
    assert held.csi is not None
    then = channel.windows.slot(plain, memoryless.slot)
    assert sgcs(truth, torch.from_numpy(known.csi)).mean() > (
        sgcs(then, torch.from_numpy(held.csi)).mean()
    )
    # A report that the store has lost: tracked on, and said.
    due = report_slots(config, slot.slot, 1)
    (kept,) = await store.reports([(slot.link_id, needed_report_slots(config, slot.slot))])
    lossy = MemoryStore()
    await lossy.put_reports(slot.link_id, [r for r in kept if (r.slot, r.user) != (due[0], 2)])
    (known,) = await newest_reports(lossy, [slot])
    assert known.source == "tracked"
    assert [d.part for d in known.degraded] == ["link.csi"]
    await channel.close()
