"""Retrieval against channel uses k: joint coding, vector-quantised indices, separate coding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from lab.experiments.interface import Measured, Run
from lab.experiments.plotting import Figure
from lab.experiments.runner import Figures, Study, panel
from lab.experiments.sweep import (
    DEFAULT_SAMPLING,
    IDEAL,
    JSCC,
    SEPARATION,
    VQ_DIGITAL,
    Point,
    Sampling,
    Scheme,
)

SYMBOLS: Final = (8, 16, 32, 64, 128)
SCHEMES: Final = (JSCC, VQ_DIGITAL, SEPARATION)
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
    """What is swept."""

    sampling: Sampling = DEFAULT_SAMPLING
    scenario: str = "umi-los"
    """3GPP TR 38.901: umi-los, uma-nlos, cdl-b, …"""
    speed_kmh: float = 3.0
    """Of each user, km/h."""
    num_users: int = 1
    """Co-scheduled users."""
    snrs_db: tuple[float, ...] = (0.0, 10.0)
    """A panel each, dB."""
    symbols: tuple[int, ...] = SYMBOLS
    """Channel uses k of a message."""

    @property
    def report(self) -> str:
        """The name of its files."""
        return f"rate-{self.sampling.corpus or self.sampling.task}-{self.scenario}"

    def points(self, scheme: Scheme, snr_db: float) -> list[tuple[float, Point]]:
        """A curve's points by k."""
        return [
            (k, Point(scheme, self.scenario, self.speed_kmh, self.num_users, snr_db, k))
            for k in self.symbols
        ]


def measure(plan: Plan, run: Run) -> Measured:
    """Measure a plan."""
    return study(plan).measure(run)


def study(plan: Plan) -> Study:
    """What a plan measures."""
    return Study(
        name=plan.report,
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
        panel(
            f"{plan.sampling.task}, {snr_db:g} dB",
            "channel uses k",
            metric,
            [(s.label, plan.points(s, snr_db), s == IDEAL) for s in (IDEAL, *SCHEMES)],
            figures,
            log_x=True,
        )
        for snr_db in plan.snrs_db
        for metric in ("map", "r_at_1")
    ]
    title = (
        f"Joint and digital coding against channel uses: {plan.scenario}, "
        f"users {plan.num_users}, {plan.speed_kmh:g} km/h, {plan.sampling.seeds} seeds"
    )
    return [Figure("", title, panels)]
