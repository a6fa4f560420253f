"""How targets are judged: by intervals for "above", by the worst point of a sweep, never by what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lab.evaluation.claims import TARGETS, Judged, differences, judge_all, rows_of
from lab.evaluation.report import Report, Row
from semlink.errors import NotFound


def judged(rows: list[Row]) -> dict[str, tuple[str, str]]:
    return {
        t.claim + t.target: (j.verdict, j.found)
        for t, j in zip(TARGETS, judge_all(rows), strict=True)
    }


def verdict(rows: list[Row], claim: str) -> str:
    (found,) = {
        j.verdict for t, j in zip(TARGETS, judge_all(rows), strict=True) if t.claim == claim
    }
    return found


def difference(mean: float, low: float, rival: str = "DeepSC-MIMO", **changes: object) -> Row:
    return Row(
        metric="map_difference",
        mean=mean,
        ci95=(low, 2 * mean - low),
        task="person",
        snr_db=5.0,
        variant=f"SC-LMKB vs {rival}, 4 users",
        **changes,  # type: ignore[arg-type]
    )


def test_nothing_measured_is_nothing_met() -> None:
    assert {v for v, _ in judged([]).values()} == {"not measured"}
    for target in TARGETS:
        assert target.command.startswith("semlink experiment")


def test_one_point_whose_interval_holds_zero_misses_the_sweep() -> None:
    clear = difference(0.05, 0.01)
    assert verdict([clear], "SC-LMKB over conventional SC") == "met"
    open_point = difference(0.05, -0.001, bits=16)
    assert verdict([clear, open_point], "SC-LMKB over conventional SC") == "missed"
    (text,) = (
        j.found for j in judge_all([clear, open_point]) if j.claim == "SC-LMKB over conventional SC"
    )
    assert text.startswith("1 of 2 points clear above (5 dB 1 of 2), 0 clear below")
    # Where it is above can be read by SNR; the other rival is another target, a validation split is no test.
    held_out = difference(0.05, -0.001, bits=8, split="val")
    assert verdict([clear, held_out], "SC-LMKB over conventional SC") == "met"
    assert verdict([clear], "SC-LMKB over LLM-enabled SC") == "not measured"


def test_relative_gains_pair_the_same_link_only() -> None:
    def at(method: str, mean: float, snr_db: float) -> Row:
        return Row(
            metric="r_at_1",
            mean=mean,
            method=method,
            snr_db=snr_db,
            bits=64,
            quantizer="rvq",
            split="test",
        )

    rows = [at("sc-lmkb", 0.5, 0.0), at("deepsc-mimo", 0.4, 0.0), at("deepsc-mimo", 0.1, 10.0)]
    found = [j for j in judge_all(rows) if j.target.startswith("≥ +72.6 %")]
    assert [j.verdict for j in found] == ["missed"]
    assert found[0].found.startswith("+25.0 %")


def test_the_predictor_is_held_against_the_best_rival_at_its_worst_place() -> None:
    def at(method: str, mean: float, speed: float) -> Row:
        return Row(
            metric="nmse_db",
            mean=mean,
            method=method,
            scenario="umi-los",
            speed_kmh=speed,
            bits=64,
            variant="5 ms",
        )

    rows = [at("cdg", -8.0, 3.0), at("wiener", -6.5, 3.0), at("hold-last", -2.0, 3.0)]
    assert verdict(rows, "CDG") == "met"
    rows += [at("cdg", -4.0, 30.0), at("llm4cp", -3.9, 30.0)]
    assert verdict(rows, "CDG") == "missed"
    (text,) = (j.found for j in judge_all(rows) if j.claim == "CDG")
    assert "1 of 2 places" in text
    assert "+0.10 dB against llm4cp" in text


def test_a_folder_of_reports_is_read_once_each(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no report"):
        rows_of(tmp_path)
    shared = Row(metric="map", mean=0.5)
    Report("a", [shared]).write(tmp_path, "a")
    Report("b", [shared, Row(metric="map", mean=0.6)]).write(tmp_path, "b")
    rows = rows_of(tmp_path)
    assert len(rows) == 2
    assert [len(report) for report in rows.reports] == [1, 2]


def test_what_is_missed_says_why_and_what_the_reports_hold_of_it() -> None:
    def one(rows: list[Row], claim: str) -> Judged:
        return next(j for j in judge_all(rows) if j.claim == claim)

    # What is not measured, or met, needs no reason.
    assert not any(j.reason for j in judge_all([]))
    assert one([difference(0.05, 0.01)], "SC-LMKB over conventional SC").reason == ""
    missed = one([difference(0.05, -0.01)], "SC-LMKB over conventional SC").reason
    assert "docs/knowledge.md" in missed
    assert "source side brings" not in missed
    sides = [
        difference(0.01, -0.01),
        difference(0.002, -0.004, "SC-LMKB w/o SDG"),
        difference(0.03, 0.01, "SC-LMKB w/o CDG"),
    ]
    reason = one(sides, "SC-LMKB over conventional SC").reason
    assert "source side brings +0.20 … +0.20 points of mAP, clear above 0 at 0 of 1" in reason
    assert "channel side brings +3.00 … +3.00 points of mAP, clear above 0 at 1 of 1" in reason


def test_a_gain_out_of_reach_is_held_against_its_bound() -> None:
    def at(method: str, mean: float, quantizer: str | None = "rvq") -> Row:
        on_link = quantizer is not None
        return Row(
            metric="map",
            mean=mean,
            method=method,
            task="person",
            corpus="pedestrians",
            split="test",
            scenario="umi-los" if on_link else None,
            snr_db=25.0,
            bits=64 if on_link else None,
            quantizer=quantizer,
        )

    rows = [at("sc-lmkb", 0.61), at("deepsc-mimo", 0.60), at("ideal", 0.63, None)]
    (found,) = (j for j in judge_all(rows) if j.claim == "SC-LMKB over conventional SC at 25 dB")
    assert found.verdict == "missed"
    assert "the ideal link itself is at most +5.0 % above DeepSC-MIMO" in found.reason


def test_rows_of_two_reports_are_not_set_against_each_other(tmp_path: Path) -> None:
    def at(method: str, mean: float) -> Row:
        return Row(
            "r_at_1", mean, method=method, snr_db=0.0, bits=64, quantizer="rvq", split="test"
        )

    # The second report holds fewer, easier queries.
    Report("fig6", [at("sc-lmkb", 0.5), at("deepsc-mimo", 0.4)]).write(tmp_path, "fig6")
    Report("fig12", [at("sc-lmkb", 0.9), at("deepsc-mimo", 0.8)]).write(tmp_path, "fig12")
    (found,) = (j for j in judge_all(rows_of(tmp_path)) if j.target.startswith("≥ +72.6 %"))
    assert found.found.startswith("+25.0 %")


def test_the_same_is_shown_not_assumed_and_one_seed_claims_nothing() -> None:
    """An interval that holds 0 and much else does not show that few bits do."""
    at = {"task": "image", "scenario": "uma-nlos", "speed_kmh": 3.0, "snr_db": 25.0, "seeds": 3}
    wide = Row("map_difference", -0.01, ci95=(-0.023, 0.003), **at,  # type: ignore[arg-type]
               variant="RVQ 64 bits vs scalar 512 bits, 4 users")  # fmt: skip
    narrow = replace(wide, mean=-0.001, ci95=(-0.009, 0.007))
    verdict = {
        row: next(j for j in judge_all([row]) if j.claim == "feedback").verdict
        for row in (wide, narrow)
    }
    assert verdict == {wide: "missed", narrow: "met"}
    shown = Row("r_at_1_difference", -0.1, ci95=(-0.2, -0.01), seeds=1,
                variant="SC-LMKB vs DeepSC-MIMO, 4 users")  # fmt: skip
    assert differences([shown], "DeepSC-MIMO") == []
    assert len(differences([replace(shown, seeds=3)], "DeepSC-MIMO")) == 1
