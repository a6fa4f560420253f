"""From points to rows: measure what is offered, make rows and claims of it, draw and print them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from lab.evaluation.report import Row
from lab.experiments.interface import Measured, Run
from lab.experiments.plotting import Figure, Line, Panel
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
Y_LABELS: Final = {"map": "mAP", "r_at_1": "R@1"}


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

    def measure(self, run: Run) -> Measured:
        """Measure every point.

        Points that this program measured before with these weights and this sampling, in this or another experiment,
        are taken from the cache. What this system does not offer is left out, with the reason printed.
        """
        points = offered(list(dict.fromkeys([Point(IDEAL), *self.points])), run.console)
        done = measurements(self.sampling)
        if run.fresh:
            done.clear()
        outcomes = measure(points, self.sampling, done, self.name, self.prepare, run.workers)
        rows: list[Row] = []
        found: dict[tuple[Point, str], Row] = {}
        for point, outcome in outcomes.items():
            of_point = metric_rows(point, outcome, self.sampling)
            if point.scheme.method != "ideal":
                of_point += against_ideal_rows(
                    point, outcome, outcomes[Point(IDEAL)], self.sampling
                )
            rows += of_point
            found |= {(point, row.metric): row for row in of_point}
        claims = _claim_rows(self, outcomes)
        figures = self.draw(found)

        def show() -> None:
            for figure in figures:
                for panel in figure.panels:
                    print_panel(panel, run.console)
            print_claims(claims, run.console, quick=run.quick)

        # The ideal link has the same rows whatever users and k it is drawn beside.
        rows = list(dict.fromkeys([*rows, *claims]))
        return Measured(rows, [*figures, *self.draw_claims(claims)], show)


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


Curve = tuple[str, Iterable[tuple[float, Point]], bool]
"""A line's label, its points by the horizontal axis, and whether it is a bound."""


def panel(
    title: str,
    x_label: str,
    metric: str,
    curves: Iterable[Curve],
    figures: Figures,
    *,
    log_x: bool = False,
    y_limits: tuple[float, float] | None = (0.0, 1.0),
) -> Panel:
    """A panel of what is measured of some curves."""
    lines = []
    for label, points, bound in curves:
        found = [(x, figures[point, metric]) for x, point in points if (point, metric) in figures]
        if found:
            lines.append(Line(label, [x for x, _ in found], [row for _, row in found], bound))
    return Panel(title, x_label, Y_LABELS[metric], lines, log_x, y_limits)
