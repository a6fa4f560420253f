"""CSI predictors: what they know, what must not matter, and that they help where physics says so."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from channel_service.fading import ChannelKey, draw_rays, frequency_response
from kb_service.prediction import (
    default_predictor,
    predict_items,
    predictor_named,
    untrained_predictors,
)
from kb_service.predictors import HoldLast, Wiener, newest_report
from semlink.components import PREDICTORS
from semlink.errors import InvalidField
from semlink.grid import NUM_SUBBANDS
from semlink.links import Link, checked_link
from semlink.signal.csi import quantizer_for
from semlink.signal.feedback import HISTORY_REPORTS, decode_reports, report_slots
from semlink.signal.metrics import phase_aligned_nmse_db, precoding_gain_db
from semlink.v1 import common_pb2 as pb
from semlink.v1 import knowledge_pb2
from semlink.wire import from_wire

LINEAR = untrained_predictors()

AGES = torch.tensor([45, 40, 35, 30, 25, 20, 15, 10])


def random_history(batch: int = 3, users: int = 2, seed: int = 0) -> torch.Tensor:
    shape = (batch, users, HISTORY_REPORTS, NUM_SUBBANDS, 2, 8)
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def everything(history: torch.Tensor) -> torch.Tensor:
    return torch.ones(history.shape[:3], dtype=torch.bool)


@pytest.fixture(scope="module")
def drops() -> dict[float, torch.Tensor]:
    """64 UMa-NLOS users by speed in km/h, seeds far from training's: ``[64, 46 slots, 8, 2, 16]``."""
    return {
        speed: frequency_response(
            draw_rays(ChannelKey("uma-nlos", 3.5e9, 16, 2, 64, speed / 3.6, 888_000_001)), 0, 46
        )
        for speed in (3.0, 30.0)
    }


def reported(h: torch.Tensor, name: str, bits: int, slots: list[int]) -> torch.Tensor:
    """What reports of ``h [users, slots, …]`` in these slots decode to: ``[1, users, len(slots), …]``."""
    config = Link().replace(quantizer=name, bits=bits)
    quantizer = quantizer_for(config)
    chosen = h[:, slots].flatten(0, 1)
    index = torch.tensor(slots).repeat(len(h)) // 5
    decoded = quantizer.decode(quantizer.encode(chosen, index), index)
    return decoded.view(1, len(h), len(slots), *h.shape[2:])


def test_hold_last_is_the_newest_report_that_is_there() -> None:
    history = random_history()
    present = everything(history)
    present[0, 1, -2:] = False
    present[2, 0] = False
    held = HoldLast().predict(history, present, AGES.expand(3, -1), Link())
    assert torch.equal(held[1], history[1, :, -1])
    assert torch.equal(held[0, 1], history[0, 1, -3])
    assert not held[2, 0].any()


@pytest.mark.parametrize("predictor", LINEAR.values(), ids=LINEAR.keys())
def test_missing_reports_do_not_matter(predictor: Wiener | HoldLast) -> None:
    """Whatever stands where a report is missing, even NaN, is not read."""
    history, other = random_history(), random_history(seed=1)
    other[0, 0, 0] = float("nan")
    present = torch.rand(history.shape[:3], generator=torch.Generator().manual_seed(2)) < 0.5
    present[0, 0, 0] = False
    mixed = torch.where(present[..., None, None, None], history, other)
    ages = AGES.expand(3, -1)
    one, two = (predictor.predict(x, present, ages, Link()) for x in (history, mixed))
    assert torch.equal(one, two)


@pytest.mark.parametrize("predictor", LINEAR.values(), ids=LINEAR.keys())
def test_batch_mates_do_not_matter(predictor: Wiener | HoldLast) -> None:
    history = random_history(9, 4)
    present = torch.rand(history.shape[:3], generator=torch.Generator().manual_seed(2)) < 0.8
    ages = AGES + torch.arange(9)[:, None]
    together = predictor.predict(history, present, ages, Link())
    for i in range(9):
        part = slice(i, i + 1)
        alone = predictor.predict(history[part], present[part], ages[part], Link())
        assert torch.equal(alone, together[part])
    for user in range(4):
        u = slice(user, user + 1)
        alone = predictor.predict(history[:, u], present[:, u], ages, Link())
        assert torch.equal(alone, together[:, u])


@settings(max_examples=25, deadline=None)
@given(speed=st.floats(0, 140), place=st.integers(0, 7), age=st.integers(0, 200))
def test_wiener_with_one_report_is_hold_last_shrunk(speed: float, place: int, age: int) -> None:
    history = random_history(1, 1)
    present = torch.zeros(1, 1, HISTORY_REPORTS, dtype=torch.bool)
    present[..., place] = True
    config = Link().replace(speed_kmh=speed * 3.6)
    ages = torch.full((1, HISTORY_REPORTS), age)
    predicted = Wiener().predict(history, present, ages, config)
    held = newest_report(history, present)
    scale = (held.conj() * predicted).sum() / held.abs().square().sum()
    assert torch.allclose(predicted, scale * held, atol=1e-4)
    assert -1e-6 <= scale.real <= 1 + 1e-5
    if speed == 0 or age == 0:
        assert scale.real == pytest.approx(1.0, abs=0.01)


def test_wiener_ignores_the_common_phases_of_reports() -> None:
    history = random_history()
    phases = torch.rand(history.shape[:3], generator=torch.Generator().manual_seed(4)) * 6.28
    phases[:, :, -1] = 0
    turned = history * torch.polar(torch.ones_like(phases), phases)[..., None, None, None]
    ages = AGES.expand(3, -1)
    one, two = (Wiener().predict(x, everything(x), ages, Link()) for x in (history, turned))
    assert torch.allclose(one, two, atol=1e-4)


def test_wiener_repeats_a_channel_that_stands_still() -> None:
    h = random_history(2, 2)[:, :, :1]
    history = h.expand(-1, -1, HISTORY_REPORTS, -1, -1, -1)
    config = Link().replace(speed_kmh=0.0)
    predicted = Wiener().predict(history, everything(history), AGES.expand(2, -1), config)
    # All but exact: the prior keeps believing in a little noise.
    assert ((predicted - h.squeeze(2)).abs() < 0.02 * h.squeeze(2).abs()).all()


def test_wiener_averages_noise_away() -> None:
    """Eight reports of one still channel, each with new noise at 0 dB: far better than the last one alone."""
    h = random_history(4, 2)[:, :, :1]
    noisy = (h + random_history(4, 2, seed=7)) / 2  # the conditional mean of h given h + noise
    config = Link().replace(speed_kmh=0.0, content="channel")
    predicted = Wiener().predict(noisy, everything(noisy), AGES.expand(4, -1), config)
    last = phase_aligned_nmse_db(h.squeeze(2), noisy[:, :, -1])
    assert (phase_aligned_nmse_db(h.squeeze(2), predicted) < last - 3).all()


@pytest.mark.parametrize(("name", "bits"), [("scalar", 64), ("rvq", 16), ("rvq", 64)])
def test_wiener_pays_when_reports_age_and_costs_nothing_when_not(
    name: str, bits: int, drops: dict[float, torch.Tensor]
) -> None:
    """At 30 km/h an old report is worth less than it says; at 3 km/h the newest one says almost all there is."""
    slots, ages = list(range(0, 40, 5)), 45 - torch.arange(0, 40, 5)[None]
    config = Link()
    error, gain = {}, {}
    for speed, h in drops.items():
        config = config.replace(speed_kmh=speed)
        history, truth = reported(h, name, bits, slots), h[:, 45]
        for predictor in LINEAR.values():
            csi = predictor.predict(history, everything(history), ages, config)[0]
            error[speed, predictor.name] = phase_aligned_nmse_db(truth, csi).mean()
            gain[speed, predictor.name] = precoding_gain_db(truth, csi).mean()
    assert error[30.0, "wiener"] < error[30.0, "hold-last"] - 0.2
    assert gain[30.0, "wiener"] > gain[30.0, "hold-last"] - 0.05
    assert error[3.0, "wiener"] < error[3.0, "hold-last"] + 0.1
    assert gain[3.0, "wiener"] > gain[3.0, "hold-last"] - 0.05


def test_predictors_by_name() -> None:
    config = Link()
    assert all(predictor_named(name, config).name == name for name in LINEAR)
    with pytest.raises(InvalidField, match=", ".join(PREDICTORS.names)) as error:
        predictor_named("oracle", config, field="items[2].predictor")
    assert error.value.field == "items[2].predictor"


# --- whole items -----------------------------------------------------------------------------------------------


def item(
    name: str = "scalar", slot: int = 131, predictor: str = "", content: str = "layers", **link: int
) -> knowledge_pb2.PredictCsiItem:
    config = Link().replace(
        num_users=link.get("users", 3),
        seed=link.get("seed", 0),
        quantizer=name,
        bits=link.get("bits", 64),
        content=content,
    )
    return knowledge_pb2.PredictCsiItem(
        link_id=f"link-{config.seed}", config=config.to_proto(), slot=slot, predictor=predictor
    )


def reports_of(
    request: knowledge_pb2.PredictCsiItem, every_slot: bool = False
) -> list[pb.CsiReport]:
    config = checked_link(request.config)
    quantizer = quantizer_for(config)
    slots = report_slots(config, request.slot)
    if every_slot:
        slots = list(range(0, request.slot + 50, config.feedback.report_period_slots))
    generator = torch.Generator().manual_seed(config.seed)
    made = []
    for slot in slots:
        shape = (config.num_users, NUM_SUBBANDS, config.num_rx_ant, config.num_tx_ant)
        h = torch.randn(shape, dtype=torch.complex64, generator=generator)
        index = torch.full((config.num_users,), slot // config.feedback.report_period_slots)
        for user, payload in enumerate(quantizer.encode(h, index)):
            made.append(
                pb.CsiReport(
                    user=user,
                    slot=slot,
                    report_index=int(index[user]),
                    bits=quantizer.bits,
                    payload=bytes(payload.tolist()),
                )
            )
    return made


def test_items_carry_source_slot_and_shape() -> None:
    items = [
        item("scalar"),
        item("scalar", predictor="hold-last"),
        item("perfect", slot=200),
        item("none"),
        item("scalar", slot=2),
    ]
    answers = predict_items(items, [reports_of(i) for i in items])
    default, _ = default_predictor(checked_link(items[0].config), 131 - 125)
    assert [a.source for a in answers] == [default.name, "hold-last", "perfect", "none", "none"]
    assert [a.newest_report_slot for a in answers[:3]] == [125, 125, 200]
    assert not any(a.HasField("newest_report_slot") for a in answers[3:])
    assert not any(a.degraded for a in answers)
    for answer in answers[:3]:
        assert tuple(answer.csi.shape) == (3, NUM_SUBBANDS, 2, 16)
        from_wire(answer.csi, field="csi", dtype="complex64")
    assert all(a.csi.dtype == "" for a in answers[3:])


def test_hold_last_item_is_the_decoded_report() -> None:
    request = item("scalar", predictor="hold-last")
    reports = reports_of(request)
    csi, _ = decode_reports(checked_link(request.config), reports, [125])
    answer = predict_items([request], [reports])[0]
    assert torch.equal(torch.from_numpy(from_wire(answer.csi, field="csi").copy()), csi[:, 0])


def test_reports_from_the_future_are_not_used() -> None:
    """Only usable slots count: a report made later than slot − delay changes nothing."""
    request = item("scalar")
    usable = predict_items([request], [reports_of(request)])
    usable_ids = {r.slot for r in reports_of(request)}
    later = [r for r in reports_of(request, every_slot=True) if r.slot not in usable_ids]
    assert later
    assert predict_items([request], [[*reports_of(request), *later]]) == usable


def test_missing_reports_are_told() -> None:
    request = item("scalar")
    reports = reports_of(request)
    lost = predict_items([request], [[r for r in reports if (r.user, r.slot) != (1, 125)]])[0]
    assert lost.source == default_predictor(checked_link(request.config), 131 - 125)[0].name
    assert lost.newest_report_slot == 125
    assert [d.part for d in lost.degraded] == ["knowledge.csi"]
    assert lost.degraded[0].reason == "1 of 24 CSI reports are missing"
    silent = predict_items([request], [[r for r in reports if r.user != 2]])[0]
    assert "user 2" in silent.degraded[0].reason
    assert not from_wire(silent.csi, field="csi")[2].any()
    nothing = predict_items([request], [[]])[0]
    assert (nothing.source, nothing.csi.dtype) == ("none", "")
    assert nothing.degraded


def test_batches_of_items_equal_items_alone() -> None:
    items = [
        item("scalar", seed=1),
        item("scalar", slot=14, seed=2),
        item("rvq", seed=3),
        item("scalar", seed=4, predictor="hold-last"),
        item("rvq", seed=5, slot=500),
        item("scalar", seed=6, bits=100),
        item("perfect", seed=7),
        item("scalar", seed=8, users=1),
        item("scalar", seed=9, content="channel"),
    ]
    reports = [reports_of(i) for i in items]
    together = predict_items(items, reports)
    for one, its, expected in zip(items, reports, together, strict=True):
        assert predict_items([one], [its])[0] == expected


def test_bad_items_are_refused() -> None:
    with pytest.raises(InvalidField) as error:
        predict_items([item(), item(predictor="oracle")], [[], []])
    assert error.value.field == "items[1].predictor"


def test_a_bad_report_is_refused_and_the_others_are_used() -> None:
    request = item()
    good = predict_items([request], [reports_of(request)])[0]
    reports = reports_of(request)
    reports[3].payload = b"x"
    (answer,) = predict_items([request], [reports])
    assert [d.part for d in answer.degraded] == ["link.csi", "knowledge.csi"]
    assert "reports[3].payload" in answer.degraded[0].reason
    assert answer.csi.dtype
    assert answer.newest_report_slot == good.newest_report_slot
