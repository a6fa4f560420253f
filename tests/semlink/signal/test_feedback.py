"""Which reports a slot may use, and what is refused of those that arrive."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semlink.errors import InvalidField
from semlink.grid import NUM_SUBBANDS
from semlink.links import Link
from semlink.signal.csi import quantizer_for
from semlink.signal.feedback import (
    HISTORY_REPORTS,
    ReportHistory,
    decode_histories,
    decode_reports,
    report_slots,
)
from semlink.v1 import common_pb2 as pb


def link(name: str = "scalar", bits: int = 61, period: int = 5, delay: int = 7) -> Link:
    return Link().replace(
        num_users=3, quantizer=name, bits=bits, report_period_slots=period, delay_slots=delay
    )


def made(config: Link, slots: list[int]) -> tuple[torch.Tensor, list[pb.CsiReport]]:
    """Reports of random channels ``[num_users, num_slots, …]`` and those channels."""
    shape = (config.num_users, len(slots), NUM_SUBBANDS, config.num_rx_ant, config.num_tx_ant)
    h = torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(5))
    quantizer = quantizer_for(config)
    period = config.feedback.report_period_slots
    reports = []
    for user in range(config.num_users):
        index = torch.tensor([slot // period for slot in slots])
        for i, payload in enumerate(quantizer.encode(h[user], index)):
            reports.append(
                pb.CsiReport(
                    user=user,
                    slot=slots[i],
                    report_index=slots[i] // period,
                    bits=quantizer.bits,
                    payload=bytes(payload.tolist()),
                )
            )
    return h, reports


@given(
    slot=st.integers(0, 5000),
    period=st.integers(1, 128),
    delay=st.integers(0, 128),
    history=st.integers(1, 12),
)
def test_report_slots_are_the_newest_usable_ones(
    slot: int, period: int, delay: int, history: int
) -> None:
    usable = [t for t in range(slot + 1) if t % period == 0 and t + delay <= slot]
    assert report_slots(link(period=period, delay=delay), slot, history) == usable[-history:]


def test_bounds_have_their_own_slots() -> None:
    assert report_slots(link("none"), 300) == []
    assert report_slots(link("perfect"), 303) == [303]
    assert len(report_slots(link(), 300)) == HISTORY_REPORTS


@pytest.mark.parametrize("name", ["scalar", "rvq", "perfect"])
def test_reports_are_put_in_their_places(name: str) -> None:
    config = link(name)
    slots = [20, 25, 30]
    h, reports = made(config, slots)
    csi, present = decode_reports(config, list(reversed(reports)), slots)
    assert present.all()
    quantizer = quantizer_for(config)
    for user in range(3):
        index = torch.tensor([4, 5, 6])
        expected = quantizer.decode(quantizer.encode(h[user], index), index)
        assert torch.equal(csi[user], expected)


def test_missing_reports_are_absent_and_others_ignored() -> None:
    config = link()
    _, reports = made(config, [20, 25, 30])
    kept = [r for r in reports if (r.user, r.slot) != (1, 25)]
    csi, present = decode_reports(config, kept, [25, 30, 35])
    assert present.tolist() == [[True, True, False], [False, True, False], [True, True, False]]
    assert not csi[~present].any()
    assert csi[present].abs().square().mean() > 0.05


def test_nothing_arrived() -> None:
    csi, present = decode_reports(link(), [], [25, 30])
    assert csi.shape == (3, 2, NUM_SUBBANDS, 2, 16)
    assert not present.any()
    csi, present = decode_reports(link("none"), [], [])
    assert csi.shape[:2] == (3, 0)


def test_the_same_report_twice_is_one() -> None:
    config = link()
    _, reports = made(config, [20])
    once, twice = (decode_reports(config, r, [20])[0] for r in (reports, reports + reports))
    assert torch.equal(once, twice)


def _set(name: str, value: object) -> Callable[[pb.CsiReport], None]:
    return lambda report: setattr(report, name, value)


def _spare(report: pb.CsiReport) -> None:
    report.payload = report.payload[:-1] + bytes([report.payload[-1] | 1])


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (_set("user", 3), "user"),
        (_set("slot", 21), "slot"),
        (_set("report_index", 5), "report_index"),
        (_set("bits", 60), "bits"),
        (_set("payload", b""), "payload"),
        (_set("payload", bytes(7)), "payload"),
        (_set("payload", bytes(9)), "payload"),
        (_spare, "payload"),
    ],
)
def test_impossible_reports_are_refused(damage: Callable[[pb.CsiReport], None], field: str) -> None:
    config = link()
    _, reports = made(config, [20])
    damage(reports[1])
    with pytest.raises(InvalidField) as error:
        decode_reports(config, reports, [20, 21])
    assert error.value.field == f"reports[1].{field}"
    assert f"reports[1].{field}" in error.value.message


def test_two_different_reports_of_one_slot_are_refused() -> None:
    config = link()
    _, reports = made(config, [20])
    forged = pb.CsiReport()
    forged.CopyFrom(reports[0])
    forged.payload = bytes(8)
    with pytest.raises(InvalidField, match="second, different") as error:
        decode_reports(config, [*reports, forged], [20])
    assert error.value.field == "reports[3].slot"


def test_many_links_at_once_equal_one_by_one() -> None:
    histories = []
    for name, bits in (("scalar", 61), ("rvq", 64), ("scalar", 61), ("none", 0), ("rvq", 20)):
        config = link(name, bits)
        slots = report_slots(config, 60 + bits)
        histories.append(ReportHistory(config, made(config, slots)[1], slots))
    for history, (csi, present, _) in zip(histories, decode_histories(histories), strict=True):
        alone = decode_reports(history.config, history.reports, history.slots)
        assert torch.equal(csi, alone[0])
        assert torch.equal(present, alone[1])
