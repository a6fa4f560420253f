"""Retrieval against SNR: what feedback is worth, and how joint coding compares with digital coding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lab.experiments.interface import Measured, Run
from lab.experiments.plotting import Figure, Panel
from lab.experiments.runner import Figures, Study, panel
from lab.experiments.sweep import (
    DEFAULT_SAMPLING,
    IDEAL,
    JSCC,
    NO_FEEDBACK,
    PERFECT,
    SEPARATION,
    VQ_DIGITAL,
    Point,
    Sampling,
    Scheme,
    report_scheme,
)
from semlink.errors import InvalidField

SNRS_DB: Final = (-15.0, -10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0, 25.0)
RVQ_64: Final = report_scheme("rvq", 64)
RVQ_16: Final = report_scheme("rvq", 16)
TRACKED_16: Final = report_scheme("rvq", 16, "predictive")
SCALAR_512: Final = report_scheme("scalar", 512)
FEEDBACK: Final = (PERFECT, RVQ_64, RVQ_16, SCALAR_512, NO_FEEDBACK)
CODING: Final = (JSCC, SEPARATION, VQ_DIGITAL)
GROUPS: Final = ("feedback", "coding")
MEMORY: Final = "memory"
"""A group by request: following a history costs a hundred times a report that stands for itself."""
QUICK: Final[Mapping[str, Any]] = {"seeds": 2, "queries": 12, "links": 6, "snrs_db": (0.0, 20.0)}
"""What ``--quick`` overrides: a smoke run, not a measurement."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is swept."""

    sampling: Sampling = DEFAULT_SAMPLING
    scenario: str = "umi-los"
    """3GPP TR 38.901: umi-los, uma-nlos, cdl-b, …"""
    speed_kmh: float = 3.0
    """Of each user, km/h."""
    num_users: int = 4
    """Co-scheduled users."""
    snrs_db: tuple[float, ...] = SNRS_DB
    """Of the link, dB."""
    groups: tuple[str, ...] = GROUPS
    """feedback: what users report, with "memory" also by memory; coding: JSCC against digital coding, 64-bit reports,
    alone and at num_users."""

    @property
    def report(self) -> str:
        """The name of its files."""
        return f"snr-{self.sampling.corpus or self.sampling.task}-{self.scenario}"

    def points(self, scheme: Scheme, num_users: int) -> list[tuple[float, Point]]:
        """A curve's points by SNR."""
        return [
            (snr_db, Point(scheme, self.scenario, self.speed_kmh, num_users, snr_db))
            for snr_db in self.snrs_db
        ]

    @property
    def reports(self) -> tuple[Scheme, ...]:
        """Of the group "feedback"."""
        tracked = (TRACKED_16,) if MEMORY in self.groups else ()
        return (*FEEDBACK[:-1], *tracked, FEEDBACK[-1])

    @property
    def user_counts(self) -> tuple[int, ...]:
        """Of the group "coding"."""
        return (1,) if self.num_users == 1 else (1, self.num_users)


def measure(plan: Plan, run: Run) -> Measured:
    """Measure a plan. Raises InvalidField for an unknown group."""
    return study(plan).measure(run)


def study(plan: Plan) -> Study:
    """What a plan measures. Raises InvalidField for an unknown group."""
    if unknown := set(plan.groups) - {*GROUPS, MEMORY}:
        raise InvalidField(
            f"groups has {min(unknown)!r}, allowed: {', '.join((*GROUPS, MEMORY))}", field="groups"
        )
    curves: list[tuple[Scheme, int]] = [(IDEAL, plan.num_users)]
    pairs: list[tuple[Scheme, Scheme, int]] = []
    if "feedback" in plan.groups:
        curves += [(scheme, plan.num_users) for scheme in plan.reports]
        tracked = ((TRACKED_16, SCALAR_512), (TRACKED_16, RVQ_16))
        pairs += [
            (a, b, plan.num_users)
            for a, b in (
                (RVQ_64, SCALAR_512),
                *(tracked if TRACKED_16 in plan.reports else ()),
                (RVQ_64, NO_FEEDBACK),
            )
        ]
    if "coding" in plan.groups:
        curves += [(scheme, users) for users in plan.user_counts for scheme in CODING]
        pairs += [(JSCC, b, users) for users in plan.user_counts for b in (SEPARATION, VQ_DIGITAL)]
    by_snr = {curve: plan.points(*curve) for curve in curves}
    return Study(
        name=plan.report,
        sampling=plan.sampling,
        points=[point for points in by_snr.values() for _, point in points],
        draw=lambda figures: _figures(plan, figures),
        claims=[
            (point, other)
            for a, b, users in pairs
            for (_, point), (_, other) in zip(
                plan.points(a, users), plan.points(b, users), strict=True
            )
        ],
        gaps=_gaps(plan) if TRACKED_16 in plan.reports else (),
    )


def _gaps(plan: Plan) -> list[tuple[Point, Point, Point]]:
    """At every SNR: 16 bits with predictive memory between plain 16 bits and perfect CSI."""
    curves = (plan.points(scheme, plan.num_users) for scheme in (TRACKED_16, RVQ_16, PERFECT))
    return [(point, worse, best) for (_, point), (_, worse), (_, best) in zip(*curves, strict=True)]


def _panel(
    plan: Plan, title: str, metric: str, schemes: Sequence[Scheme], users: int, figures: Figures
) -> Panel:
    # The ideal link knows no other users: measured once.
    ideal = (IDEAL.label, plan.points(IDEAL, plan.num_users), True)
    curves = [(s.label, plan.points(s, users), s == PERFECT) for s in schemes]
    return panel(title, "SNR [dB]", metric, [ideal, *curves], figures)


def _figures(plan: Plan, figures: Figures) -> list[Figure]:
    task = plan.sampling.task
    where = f"{plan.scenario}, {plan.speed_kmh:g} km/h, k = 64, {plan.sampling.seeds} seeds"
    made = []
    if "feedback" in plan.groups:
        panels = [
            _panel(
                plan, f"{task}, {plan.num_users} users", m, plan.reports, plan.num_users, figures
            )
            for m in ("r_at_1", "map")
        ]
        made.append(Figure("-feedback", f"What feedback is worth: {where}", panels))
    if "coding" in plan.groups:
        panels = [
            _panel(plan, f"{task}, {_users(users)}", "map", CODING, users, figures)
            for users in plan.user_counts
        ]
        made.append(Figure("-coding", f"Joint and digital coding: {where}", panels))
    return made


def _users(count: int) -> str:
    return "1 user" if count == 1 else f"{count} users"
