"""Pictures from reports alone: the same panels that the experiment drew when it measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lab.evaluation.csi_metrics import CHANNEL
from lab.evaluation.report import Report, Row
from lab.experiments import (
    channel_uses_sweep,
    csi_prediction,
    csi_quantization,
    feedback_bits_sweep,
    method_comparison,
    snr_sweep,
)
from lab.experiments.paper_figures import FIGURES
from lab.experiments.runner import Figure, Study
from lab.experiments.sweep import IDEAL, Point, Sampling
from tools.docs.redraw import difference_panels, pictures, point_of

SAMPLING = Sampling("person", seeds=3, queries=4, links=4)


def row_at(point: Point, metric: str, mean: float) -> Row:
    """As reports hold it: the ideal link has no coordinates of a link."""
    scheme = point.scheme
    if scheme.method == "ideal":
        return Row(metric, mean, method="ideal", task="person", corpus="pedestrians", seeds=3)
    memory = f", {scheme.memory}" if scheme.memory else ""
    return Row(
        metric,
        mean,
        seeds=3,
        method=scheme.method,
        task="person",
        corpus="pedestrians",
        split="test",
        scenario=point.scenario,
        speed_kmh=point.speed_kmh,
        snr_db=point.snr_db,
        bits=scheme.bits or None,
        symbols=point.symbols,
        quantizer=scheme.quantizer,
        variant=f"{point.num_users} users{memory}",
    )


def shape_of(figures: Sequence[Figure]) -> list[tuple[object, ...]]:
    return [
        (
            *(figure.suffix, panel.title, panel.x_label, line.label, tuple(line.x), line.bound),
            *(row.mean for row in line.rows),
        )
        for figure in figures
        for panel in figure.panels
        for line in panel.lines
    ]


STUDIES: dict[str, Study] = {
    "fig6": method_comparison.study(replace(FIGURES["fig6"].plan, sampling=SAMPLING, name="fig6")),
    "fig9": method_comparison.study(replace(FIGURES["fig9"].plan, sampling=SAMPLING, name="fig9")),
    "fig12": method_comparison.study(
        replace(FIGURES["fig12"].plan, sampling=SAMPLING, name="fig12")
    ),
    "methods": method_comparison.study(method_comparison.Plan(SAMPLING)),
    "snr": snr_sweep.study(snr_sweep.Plan(SAMPLING, "uma-nlos")),
    "snr, with memory": snr_sweep.study(
        snr_sweep.Plan(SAMPLING, groups=(*snr_sweep.GROUPS, snr_sweep.MEMORY))
    ),
    "snr, feedback alone": snr_sweep.study(snr_sweep.Plan(SAMPLING, groups=("feedback",))),
    "feedback": feedback_bits_sweep.study(feedback_bits_sweep.Plan(SAMPLING)),
    "rate": channel_uses_sweep.study(channel_uses_sweep.Plan(SAMPLING)),
}


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_a_report_is_drawn_as_its_experiment_draws_it(study: Study, tmp_path: Path) -> None:
    points = list(dict.fromkeys([Point(IDEAL), *study.points]))
    # The ideal link knows no SNR: one figure stands for all its points.
    measured = {
        (point, metric): row_at(point, metric, 0.7 if point.scheme == IDEAL else number / 1000)
        for number, point in enumerate(points)
        for metric in ("map", "r_at_1")
    }
    path = Report(study.name, list(dict.fromkeys(measured.values()))).write(tmp_path, study.name)
    assert shape_of(pictures(path)) == shape_of(study.draw(measured))
    assert len(shape_of(pictures(path))) > 10


def test_points_are_read_off_rows() -> None:
    points = [p for study in STUDIES.values() for p in study.points if p.scheme.method != "ideal"]
    for point in points:
        assert point_of(row_at(point, "map", 0.5)) == point
    assert point_of(row_at(Point(IDEAL), "map", 0.5)) is None
    assert point_of(Row("map_difference", 0.1, variant="SC-LMKB vs DeepSC-MIMO, 4 users")) is None


def test_differences_are_drawn_without_digital_coding() -> None:
    def versus(title: str, snr_db: float) -> Row:
        return Row(
            "map_difference", 0.1, method="sc-lmkb", snr_db=snr_db, bits=64,
            variant=f"SC-LMKB vs {title}, 4 users",
        )  # fmt: skip

    rows = [versus(t, x) for t in ("DeepSC-MIMO", "separation") for x in (10.0, 0.0)]
    (panel,) = difference_panels(rows)
    assert [(line.label, tuple(line.x)) for line in panel.lines] == [
        ("no difference", (0.0, 10.0)),
        ("DeepSC-MIMO", (0.0, 10.0)),
    ]
    assert difference_panels([]) == []


def test_csi_reports_are_drawn_as_their_experiments_draw_them(tmp_path: Path) -> None:
    rates = [
        Row(metric, 0.1 * bits, seeds=3, scenario=scenario, speed_kmh=3.0, snr_db=20.0, bits=bits,
            quantizer=quantizer, variant=f"channel, {CHANNEL}" if metric == "nmse_db" else CHANNEL)
        for scenario in ("umi-los", "uma-nlos") for bits in (16, 64)
        for quantizer in ("scalar", "rvq") for metric in ("nmse_db", "sgcs")
    ]  # fmt: skip
    path = Report("csi-rate", rates).write(tmp_path, "csi-rate")
    lines = shape_of(pictures(path))
    plan = csi_quantization.Plan(bits=(16, 64))
    expected = [p for made in csi_quantization.panels_of(plan, rates).values() for p in made]
    assert lines == shape_of([Figure("", "", expected)])
    assert len(lines) >= 8
    predictions = [
        Row(metric, 0.1, seeds=3, method=name, scenario="umi-los", speed_kmh=speed, bits=bits,
            variant=f"delay {delay} ms")
        for name in ("cdg", "wiener") for speed in (3.0, 30.0) for bits in (16, 64)
        for delay in (2, 5, 10) for metric in ("sgcs", "nmse_db")
    ]  # fmt: skip
    path = Report("csi-prediction", predictions).write(tmp_path, "csi-prediction")
    plan_there = csi_prediction.Plan(("umi-los",), (3.0, 30.0), (16, 64), (2, 5, 10))
    there = csi_prediction.panels_of(plan_there, predictions)
    assert shape_of(pictures(path)) == shape_of([Figure("", "", there)])


def test_a_report_without_pictures_has_none(tmp_path: Path) -> None:
    path = Report("bench-codec", [Row("encode_ms", 1.0)]).write(tmp_path, "bench-codec")
    assert pictures(path) == []
    fig11 = row_at(STUDIES["fig6"].points[0], "map", 0.5)
    assert pictures(Report("fig11", [fig11]).write(tmp_path, "fig11")) == []
