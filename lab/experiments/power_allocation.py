"""Equal power against water-filling: what each gives joint source-channel coding over a link's streams."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from lab.experiments.interface import Measured, Run
from lab.experiments.plotting import Figure
from lab.experiments.runner import Figures, Study, panel
from lab.experiments.sweep import DEFAULT_SAMPLING, JSCC, Point, Sampling

EQUAL: Final = replace(JSCC, label="equal power")
WATER_FILLING: Final = replace(
    JSCC, label="water-filling", link=(("power_allocation", "water-filling"),)
)
QUICK: Final[Mapping[str, Any]] = {
    "seeds": 2,
    "queries": 8,
    "links": 2,
    "scenarios": ("umi-los",),
    "cells": ((4, 2),),
    "snrs_db": (-10.0, 20.0),
}
"""What ``--quick`` overrides: a smoke run, not a measurement."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is swept; 64-bit RVQ reports, k = 64, 3 km/h."""

    sampling: Sampling = DEFAULT_SAMPLING
    scenarios: tuple[str, ...] = ("umi-los", "uma-nlos")
    """3GPP TR 38.901."""
    cells: tuple[tuple[int, int], ...] = ((1, 2), (4, 1), (4, 2))
    """Users and layers of each user; 2 antennas a user, 16 ports."""
    snrs_db: tuple[float, ...] = (-10.0, 5.0, 20.0)
    """Of the link, dB."""

    @property
    def report(self) -> str:
        """The name of its files."""
        return f"power-{self.sampling.corpus or self.sampling.task}"

    def points(self, water_filling: bool, scenario: str, cell: tuple[int, int]) -> list[Point]:
        """A curve's points by SNR."""
        scheme = WATER_FILLING if water_filling else EQUAL
        scheme = replace(scheme, link=(*scheme.link, ("num_layers", cell[1])))
        return [Point(scheme, scenario, 3.0, cell[0], snr_db) for snr_db in self.snrs_db]


def measure(plan: Plan, run: Run) -> Measured:
    """Measure a plan."""
    links = list(itertools.product(plan.scenarios, plan.cells))
    pairs = [
        pair
        for link in links
        for pair in zip(plan.points(True, *link), plan.points(False, *link), strict=True)
    ]

    def figures(found: Figures) -> list[Figure]:
        panels = [
            panel(
                f"{scenario}, {users} users × {layers} layers",
                "SNR [dB]",
                "map",
                [
                    (points[0].scheme.label, [(p.snr_db, p) for p in points], False)
                    for points in (plan.points(w, scenario, (users, layers)) for w in (True, False))
                ],
                found,
            )
            for scenario, (users, layers) in links
        ]
        title = f"Power of streams: {plan.sampling.task}, {plan.sampling.seeds} seeds"
        return [Figure("", title, panels, columns=len(plan.cells))]

    study = Study(
        plan.report, plan.sampling, [point for pair in pairs for point in pair], figures, pairs
    )
    return study.measure(run)
