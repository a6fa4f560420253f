"""Retrieval against bits of a CSI report: what bits buy, and what memory across reports adds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from lab.experiments.interface import Measured, Run
from lab.experiments.plotting import Figure, Panel
from lab.experiments.runner import Curve, Figures, Study, panel
from lab.experiments.sweep import (
    DEFAULT_SAMPLING,
    NO_FEEDBACK,
    PERFECT,
    Point,
    Sampling,
    Scheme,
    report_scheme,
)
from semlink.quantizers import quantizer_spec

BITS: Final = (8, 16, 32, 64, 128, 512)
FORMS: Final = (
    ("scalar", ""),
    ("rvq", ""),
    ("rvq", "fused"),
    ("rvq", "predictive"),
    ("learned", ""),
    ("etype2", ""),
)
"""Quantiser and memory of each line."""
BITS_OF: Final = {
    ("rvq", "fused"): (16, 64),
    ("rvq", "predictive"): (16, 64),
}
"""Lines with bits of their own: memory is slow to measure."""
REFERENCE: Final = report_scheme("scalar", 512)
SAMPLING: Final = replace(DEFAULT_SAMPLING, links=16)
"""Fewer drops than elsewhere: with memory every drop's history is followed, which takes most of the time."""
QUICK: Final[Mapping[str, Any]] = {
    "seeds": 2,
    "queries": 12,
    "links": 6,
    "speeds_kmh": (3.0,),
    "user_counts": (4,),
    "snrs_db": (25.0,),
    "bits": (16, 64),
}
"""What ``--quick`` overrides: a smoke run, not a measurement."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is swept."""

    sampling: Sampling = SAMPLING
    scenario: str = "umi-los"
    """3GPP TR 38.901: umi-los, uma-nlos, cdl-b, …"""
    speeds_kmh: tuple[float, ...] = (3.0,)
    """Of the users, km/h."""
    user_counts: tuple[int, ...] = (1, 4)
    """Co-scheduled users."""
    snrs_db: tuple[float, ...] = (10.0, 25.0)
    """Of the link, dB."""
    bits: tuple[int, ...] = BITS
    """Of one report; quantisers of codebooks and lines with memory have their own."""
    forms: tuple[tuple[str, str], ...] = FORMS
    """Quantiser and memory of each line; '' for none."""

    @property
    def report(self) -> str:
        """The name of its files."""
        return f"feedback-{self.sampling.corpus or self.sampling.task}-{self.scenario}"

    def links(self) -> list[tuple[float, int, float]]:
        """Speed, users and SNR of each panel."""
        return list(itertools.product(self.speeds_kmh, self.user_counts, self.snrs_db))

    def point(self, scheme: Scheme, link: tuple[float, int, float]) -> Point:
        """A scheme on one panel's link."""
        speed_kmh, num_users, snr_db = link
        return Point(scheme, self.scenario, speed_kmh, num_users, snr_db)

    def points(
        self, quantizer: str, memory: str, link: tuple[float, int, float]
    ) -> list[tuple[float, Point]]:
        """A curve's points by bits."""
        own = BITS_OF.get((quantizer, memory)) or quantizer_spec(quantizer).typical_bits
        bits = own or self.bits
        return [(b, self.point(report_scheme(quantizer, b, memory), link)) for b in bits]


def measure(plan: Plan, run: Run) -> Measured:
    """Measure a plan."""
    return study(plan).measure(run)


def study(plan: Plan) -> Study:
    """What a plan measures."""
    points: list[Point] = []
    claims: list[tuple[Point, Point]] = []
    gaps: list[tuple[Point, Point, Point]] = []
    for link in plan.links():
        perfect, reference = plan.point(PERFECT, link), plan.point(REFERENCE, link)
        points += [perfect, plan.point(NO_FEEDBACK, link), reference]
        plain = dict(plan.points("rvq", "", link))
        for quantizer, memory in plan.forms:
            curve = plan.points(quantizer, memory, link)
            points += [point for _, point in curve]
            if quantizer != "scalar":
                claims += [(point, reference) for bits, point in curve if bits <= 64]
            if memory:
                claims += [(point, plain[bits]) for bits, point in curve if bits in plain]
                gaps += [
                    (point, plain[bits], perfect)
                    for bits, point in curve
                    if bits == 16 and bits in plain
                ]
        claims += [(perfect, point) for bits, point in plain.items() if bits == 16]
    return Study(
        name=plan.report,
        sampling=plan.sampling,
        points=points,
        draw=lambda figures: _figures(plan, figures),
        claims=claims,
        gaps=gaps,
    )


def _label(quantizer: str, memory: str) -> str:
    return report_scheme(quantizer, 0, memory).label.replace(" 0 bits", "")


def _panel(plan: Plan, link: tuple[float, int, float], figures: Figures) -> Panel:
    speed_kmh, num_users, snr_db = link
    bounds: list[Curve] = [
        (s.label, [(b, plan.point(s, link)) for b in plan.bits], True)
        for s in (PERFECT, NO_FEEDBACK)
    ]
    curves: list[Curve] = [(_label(*form), plan.points(*form, link), False) for form in plan.forms]
    users = "1 user" if num_users == 1 else f"{num_users} users"
    title = f"{users}, {snr_db:g} dB, {speed_kmh:g} km/h"
    return panel(
        title, "bits of one report", "map", [*bounds, *curves], figures, log_x=True, y_limits=None
    )


def _figures(plan: Plan, figures: Figures) -> list[Figure]:
    panels = [_panel(plan, link, figures) for link in plan.links()]
    title = (
        f"What feedback bits buy: {plan.sampling.task}, {plan.scenario}, k = 64, "
        f"{plan.sampling.seeds} seeds"
    )
    return [Figure("", title, panels, columns=min(4, len(plan.user_counts) * len(plan.snrs_db)))]
