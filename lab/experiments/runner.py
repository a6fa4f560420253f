"""From points to a report: measure what is offered, make rows and claims, write CSV, JSON and plots, print tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console

from lab.evaluation.report import Report, Row
from lab.experiments.plotting import Line, Panel, draw
from lab.experiments.retrieval_metrics import (
    against_ideal_rows,
    difference_row,
    gap_closed_row,
    metric_rows,
)
from lab.experiments.retrieval_sweep import (
    Outcome,
    Prepare,
    measure,
    measurements,
    offered,
)
from lab.experiments.sweep import IDEAL, Point, Sampling
from lab.experiments.tables import print_claims, print_panel

Figures = Mapping[tuple[Point, str], Row]
"""The row of each measured point and metric."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One picture: a file name's ending, a title and panels."""

    suffix: str
    title: str
    panels: Sequence[Panel]
    columns: int = 2
    labels: Sequence[str] = ()
    """Lines that keep their style from picture to picture, in their order."""


@dataclass(frozen=True, slots=True)
class Study:
    """An experiment on retrieval: what is measured, what is claimed of it, how it is drawn.

    ``claims``: pairs A, B for "A beats B" in each of ``claimed``; ``gaps``: point, worse, best for the share of a gap
    that a point closes. ``draw_claims`` draws the rows of claims. ``prepare`` puts into the store what methods with an
    LLM need for a seed's queries.
    """

    name: str
    sampling: Sampling
    points: Sequence[Point]
    draw: Callable[[Figures], Sequence[Figure]]
    claims: Sequence[tuple[Point, Point]] = field(default=())
    gaps: Sequence[tuple[Point, Point, Point]] = field(default=())
    claimed: Sequence[str] = ("map",)
    prepare: Prepare | None = None
    draw_claims: Callable[[Sequence[Row]], Sequence[Figure]] = lambda _rows: ()


def run(
    study: Study,
    out: Path,
    console: Console,
    *,
    fresh: bool = False,
    workers: str = "1",
    quick: bool = False,
) -> Report:
    """Measure, print, and write ``out/NAME.{json,csv}`` and the plots.

    Points that this program measured before with these weights and this sampling, in this or another experiment, are
    taken from ``cache_dir/measurements`` unless ``fresh``. What this system does not offer is left out, with the
    reason printed. ``workers``: see :func:`lab.evaluation.parallel.spread`; ``quick``: a smoke run, no verdicts are
    printed.
    """
    started = time.monotonic()
    points = offered(list(dict.fromkeys([Point(IDEAL), *study.points])), console)
    done = measurements(study.sampling)
    if fresh:
        done.clear()
    outcomes = measure(points, study.sampling, done, study.name, study.prepare, workers)
    report = Report(study.name)
    figures: dict[tuple[Point, str], Row] = {}
    for point, outcome in outcomes.items():
        rows = metric_rows(point, outcome, study.sampling)
        if point.scheme.method != "ideal":
            rows += against_ideal_rows(point, outcome, outcomes[Point(IDEAL)], study.sampling)
        report.rows += rows
        figures |= {(point, row.metric): row for row in rows}
    claims = _claim_rows(study, outcomes)
    # The ideal link has the same rows whatever users and k it is drawn beside.
    report.rows = list(dict.fromkeys([*report.rows, *claims]))
    report.seconds = time.monotonic() - started
    report.write(out, study.name)
    for figure in study.draw(figures):
        _draw(figure, out, study.name)
        for panel in figure.panels:
            print_panel(panel, console)
    for figure in study.draw_claims(claims):
        _draw(figure, out, study.name)
    print_claims(claims, console, quick=quick)
    return report


def _draw(figure: Figure, out: Path, name: str) -> None:
    path = out / f"{name}{figure.suffix}"
    draw(figure.panels, path, title=figure.title, columns=figure.columns, labels=figure.labels)


def _claim_rows(study: Study, outcomes: Mapping[Point, Outcome]) -> list[Row]:
    rows = [
        difference_row(a, b, outcomes, study.sampling, metric)
        for metric in study.claimed
        for a, b in study.claims
        if a in outcomes and b in outcomes
    ]
    shares = [
        gap_closed_row(*gap, outcomes, study.sampling)
        for gap in study.gaps
        if all(point in outcomes for point in gap)
    ]
    # Where there is no gap there is no share of it.
    return rows + [row for row in shares if np.isfinite([row.mean, *(row.ci95 or ())]).all()]


def line(
    label: str,
    points: Iterable[tuple[float, Point]],
    metric: str,
    figures: Figures,
    *,
    bound: bool = False,
) -> Line:
    """A line through the measured of ``(x, point)``."""
    found = [(x, figures[point, metric]) for x, point in points if (point, metric) in figures]
    return Line(label, [x for x, _ in found], [row for _, row in found], bound)
