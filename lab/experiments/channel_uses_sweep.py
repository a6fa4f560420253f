"""Retrieval against channel uses k: joint coding, vector-quantised indices, separate coding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lab.experiments.plotting import Panel, drawn
from lab.experiments.runner import Figure, Figures, Study, line
from lab.experiments.sweep import (
    IDEAL,
    JSCC,
    PERSON,
    SEPARATION,
    VQ_DIGITAL,
    Point,
    Sampling,
    Scheme,
)

SYMBOLS: Final = (8, 16, 32, 64, 128)
SCHEMES: Final = (JSCC, VQ_DIGITAL, SEPARATION)
SAMPLING: Final = PERSON
QUICK: Final[Mapping[str, Any]] = {
    "seeds": 2,
    "queries": 16,
    "links": 8,
    "snrs_db": (10.0,),
    "symbols": (16, 64),
}
"""What ``--quick`` overrides: a smoke run, not a measurement."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is swept; every value can be given on the command line."""

    sampling: Sampling
    scenario: str = "umi-los"
    speed_kmh: float = 3.0
    num_users: int = 1
    snrs_db: Sequence[float] = (0.0, 10.0)
    symbols: Sequence[int] = SYMBOLS

    def points(self, scheme: Scheme, snr_db: float) -> list[tuple[float, Point]]:
        """A curve's points by k."""
        return [
            (k, Point(scheme, self.scenario, self.speed_kmh, self.num_users, snr_db, k))
            for k in self.symbols
        ]


def study(plan: Plan) -> Study:
    """The experiment of a plan."""
    return Study(
        name=f"rate-{plan.sampling.corpus or plan.sampling.task}-{plan.scenario}",
        sampling=plan.sampling,
        points=[
            point
            for snr_db in plan.snrs_db
            for scheme in (IDEAL, *SCHEMES)
            for _, point in plan.points(scheme, snr_db)
        ],
        draw=lambda figures: _figures(plan, figures),
        claims=[
            (point, other)
            for snr_db in plan.snrs_db
            for scheme in (SEPARATION, VQ_DIGITAL)
            for (_, point), (_, other) in zip(
                plan.points(JSCC, snr_db), plan.points(scheme, snr_db), strict=True
            )
        ],
    )


def _figures(plan: Plan, figures: Figures) -> list[Figure]:
    panels = [
        Panel(
            f"{plan.sampling.task}, {snr_db:g} dB",
            "channel uses k",
            y_label,
            drawn(
                line(s.label, plan.points(s, snr_db), metric, figures, bound=s == IDEAL)
                for s in (IDEAL, *SCHEMES)
            ),
            log_x=True,
            y_limits=(0, 1),
        )
        for snr_db in plan.snrs_db
        for metric, y_label in (("map", "mAP"), ("r_at_1", "R@1"))
    ]
    title = (
        f"Joint and digital coding against channel uses: {plan.scenario}, "
        f"users {plan.num_users}, {plan.speed_kmh:g} km/h, {plan.sampling.seeds} seeds"
    )
    return [Figure("", title, panels)]
