"""How claims are judged: by intervals for "above", by the worst point of a sweep, never by what is missing or quick."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lab.evaluation.claims import Judged, Reports, claims, judge_all
from lab.evaluation.report import Report, Row
from semlink.errors import NotFound

CONVENTIONAL = "SC-LMKB over conventional SC"


def reports(*of: list[Row], quick: bool = False) -> Reports:
    """Reports by the names that every claim knows: the first ones of fig6, fig7, …"""
    names = ("fig6", "fig7") if len(of) > 1 else ("fig6",)
    heads = {name: {"quick": True} if quick else {} for name in names}
    return Reports(dict(zip(names, of, strict=True)), heads)


def judged(rows: list[Row], claim: str, report: str = "fig6") -> Judged:
    (found,) = (
        j for j in judge_all(Reports({report: rows}, {report: {}})) if j.claim.name == claim
    )
    return found


def difference(mean: float, low: float, **changes: object) -> Row:
    at = {"method": "sc-lmkb", "baseline": "deepsc-mimo", "task": "person", "snr_db": 5.0}
    return Row("map_difference", mean, ci95=(low, 2 * mean - low), **{**at, **changes})  # type: ignore[arg-type]


def figure(method: str, mean: float, snr_db: float = 0.0, metric: str = "r_at_1") -> Row:
    at = {"bits": 64, "quantizer": "rvq", "split": "test"}
    return Row(metric, mean, method=method, snr_db=snr_db, **at)  # type: ignore[arg-type]


def test_nothing_measured_is_nothing_met() -> None:
    found = judge_all(Reports({}, {}))
    assert {one.verdict for one in found} == {"not measured"}
    assert len({(c.name, c.asked) for c in claims()}) == len(found)


def test_one_point_whose_interval_holds_zero_misses_the_sweep() -> None:
    clear = difference(0.05, 0.01)
    assert judged([clear], CONVENTIONAL).verdict == "met"
    missed = judged([clear, difference(0.05, -0.001, bits=16)], CONVENTIONAL)
    assert missed.verdict == "missed"
    assert missed.found.startswith("1 of 2 points clear above, 0 clear below")
    held_out = difference(0.05, -0.001, bits=8, split="val")
    assert judged([clear, held_out], CONVENTIONAL).verdict == "met", "a validation split is no test"
    one_seed = difference(-0.1, -0.2, seeds=1)
    assert judged([one_seed], CONVENTIONAL).verdict == "not measured", "one seed claims nothing"
    assert judged([clear], "SC-LMKB over LLM-enabled SC").verdict == "not measured"


def test_a_report_judges_no_claim_of_others() -> None:
    assert judged([difference(0.05, 0.01)], CONVENTIONAL, "bench-link").verdict == "not measured"
    real = judged([difference(0.05, 0.01)], CONVENTIONAL, "fig7-flickr8k")
    assert real.verdict == "met"


def test_a_quick_run_gives_no_verdict() -> None:
    rows = [difference(0.05, 0.01)]
    found = {j.claim.name: j.verdict for j in judge_all(reports(rows, quick=True))}
    assert found[CONVENTIONAL] == "quick run: no verdict"
    assert not {"met", "missed"} & set(found.values())


def test_relative_gains_pair_the_same_link_of_one_report_only() -> None:
    name = f"{CONVENTIONAL}, largest gain"
    rows = [figure("sc-lmkb", 0.5), figure("deepsc-mimo", 0.4), figure("deepsc-mimo", 0.1, 10.0)]
    found = judged(rows, name)
    assert (found.verdict, found.found) == ("missed", "at most +25.0 %, at 0 dB, 64 bits")
    # The second report holds fewer, easier queries.
    easier = [figure("sc-lmkb", 0.9), figure("deepsc-mimo", 0.8)]
    (both,) = (j for j in judge_all(reports(rows, easier)) if j.claim.name == name)
    assert both.found.startswith("at most +25.0 %")
    at_25_db = [figure(m, x, 25.0, "map") for m, x in (("sc-lmkb", 0.6), ("deepsc-mimo", 0.4))]
    assert judged([*rows, *at_25_db], f"{CONVENTIONAL} at 25 dB").verdict == "met"


def test_the_distance_to_the_ideal_link_is_its_worst_point() -> None:
    def share(mean: float, snr_db: float) -> Row:
        return replace(figure("sc-lmkb", mean, snr_db, "map_share_of_ideal"), symbols=64)

    rows = [share(0.5, 0.0), share(0.96, 10.0)]
    assert judged(rows, "distance to the ideal link").verdict == "met", (
        "below 10 dB nothing is asked"
    )
    assert judged([*rows, share(0.94, 20.0)], "distance to the ideal link").verdict == "missed"


def test_the_predictor_is_held_against_the_best_rival_at_its_worst_place() -> None:
    def at(method: str, mean: float, speed: float, **more: object) -> Row:
        place = {"scenario": "umi-los", "speed_kmh": speed, "bits": 64, "age_ms": 5.0}
        return Row("nmse_db", mean, method=method, **place, **more)  # type: ignore[arg-type]

    rows = [at("cdg", -8.0, 3.0), at("wiener", -6.5, 3.0), at("hold-last", -2.0, 3.0)]
    assert judged(rows, "CDG", "csi-prediction").verdict == "met"
    lossy = [at("cdg", -1.0, 3.0, condition="10 % of reports lost"), *rows]
    assert judged(lossy, "CDG", "csi-prediction").verdict == "met"
    found = judged(
        [*rows, at("cdg", -4.0, 30.0), at("llm4cp", -3.9, 30.0)], "CDG", "csi-prediction"
    )
    assert found.verdict == "missed"
    assert found.found.startswith("1 of 2 places; least +0.10 dB against llm4cp")


def test_lost_reports_are_compared_with_hold_last_at_the_same_place() -> None:
    def gain(method: str, mean: float, lost: int) -> Row:
        place = {"scenario": "umi-los", "speed_kmh": 3.0, "condition": f"{lost} % of reports lost"}
        return Row("precoding_gain_db", mean, method=method, **place)  # type: ignore[arg-type]

    name = "CSI prediction with lost reports"
    rows = [gain("hold-last", 11.0, 10), gain("hold-last", 9.0, 50)]
    near = judged([*rows, gain("a", 10.6, 10), gain("a", 9.0, 50)], name, "csi-prediction")
    assert (near.verdict, near.found[:24]) == ("met", "at most 0.40 dB below, a")
    far = judged([*rows, gain("a", 8.4, 50)], name, "csi-prediction")
    assert (far.verdict, far.found[:24]) == ("missed", "at most 0.60 dB below, a")


def test_a_single_figure_is_that_of_its_condition() -> None:
    at = {"method": "sew-mcm", "ci95": (0.0, 0.1)}
    plain = Row("r_at_1_difference", 0.06, baseline="cmpm-cmpc", **at)  # type: ignore[arg-type]
    assert judged([plain], "Sew + MCM over CMPM + CMPC", "sew-mcm").verdict == "met"
    other = replace(plain, condition="re-ranked, weighted")
    assert judged([other], "Sew + MCM over CMPM + CMPC", "sew-mcm").verdict == "not measured"


def test_the_same_is_shown_not_assumed() -> None:
    """An interval that holds 0 and much else does not show that few bits do; the best small report counts."""
    at = {"task": "image", "snr_db": 25.0, "quantizer": "rvq", "num_users": 4}
    wide = Row(
        "map_difference", -0.01, ci95=(-0.023, 0.003), bits=64, baseline="scalar 512 bits", **at
    )  # type: ignore[arg-type]
    narrow = replace(wide, mean=-0.001, ci95=(-0.009, 0.007), bits=32)
    large = replace(narrow, bits=128)
    for rows, verdict in (([wide], "missed"), ([wide, large], "missed"), ([wide, narrow], "met")):
        assert judged(rows, "feedback", "snr-image-umi-los").verdict == verdict


def test_a_folder_of_reports_is_read_once_each(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="--reports DIR"):
        Reports.read(tmp_path)
    Report("fig6", [figure("sc-lmkb", 0.5)], command="semlink experiment fig6").write(
        tmp_path, "fig6"
    )
    path = Report("fig7", [figure("sc-lmkb", 0.6)]).write(tmp_path, "fig7")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quick": True}))
    found = Reports.read(tmp_path)
    assert {name: len(rows) for name, rows in found.rows.items()} == {"fig6": 1, "fig7": 1}
    assert (found.is_quick("fig6"), found.is_quick("fig7")) == (False, True)
    assert found.heads["fig6"]["command"] == "semlink experiment fig6"
