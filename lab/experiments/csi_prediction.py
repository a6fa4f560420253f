"""CSI at the slot of transmission from old, quantised reports: ``semlink experiment csi-prediction``.

Every predictor of the knowledge base on the same test drops, over bits, speed, age of the newest report and scenario.
``cdg`` is compared with its best rival by a paired bootstrap over drops; the goal is an NMSE 1 dB below it at 64 bits.
The best rival is the one of least NMSE (most SGCS) on these very test drops: a comparison against ``cdg``'s favour.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from kb_service.prediction import predictors_for
from lab.evaluation.bootstrap import interval, paired_difference, resampled_means
from lab.evaluation.csi_prediction_samples import (
    Figures,
    PredictorFigures,
    Reports,
    decoded,
    draw_drops,
    link,
    measured,
)
from lab.evaluation.parallel import one_thread, results_of
from lab.evaluation.report import Row, over_seeds, pick
from lab.experiments.interface import Measured, Run
from lab.experiments.plotting import Figure, Line, Panel, drawn
from lab.experiments.tables import print_panel
from semlink.decibels import lin_to_db
from semlink.links import Link
from semlink.settings import Settings

NAME: Final = "csi-prediction"
BITS: Final = (8, 16, 32, 64, 128, 256)
GOAL_BITS: Final = 64
METRICS: Final = ("sgcs", "nmse_db", "precoding_gain_db")
LABELS: Final = {"sgcs": "SGCS", "nmse_db": "NMSE [dB]", "precoding_gain_db": "precoding gain [dB]"}
SUBJECT: Final = "cdg"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is swept."""

    scenarios: tuple[str, ...] = ("umi-los", "uma-nlos")
    """3GPP TR 38.901."""
    speeds_kmh: tuple[float, ...] = (3.0, 30.0, 60.0)
    """Of the users, km/h."""
    bits: tuple[int, ...] = BITS
    """Of one report."""
    delays_ms: tuple[int, ...] = (2, 5, 10)
    """Age of the newest report in the slot of transmission; a slot lasts 1 ms."""
    seeds: int = 3
    """Draws of drops."""
    drops: int = 2
    """Of 32 users, of each seed, scenario and speed."""
    predictors: tuple[str, ...] = ()
    """Default: all that there are."""
    losses: tuple[float, ...] = (0.1, 0.5)
    """Shares of reports lost at random, at lossy_bits and the middle delay, with each of memories."""
    lossy_bits: int = GOAL_BITS
    """Of the reports of which some are lost."""
    memories: tuple[str, ...] = ("none", "predictive")
    """Of the reports of which some are lost: none, fused, predictive."""

    @property
    def middle_delay(self) -> int:
        """The one that is shown where there is room for one."""
        return self.delays_ms[len(self.delays_ms) // 2]

    def places(self) -> list[dict[str, Any]]:
        """The points of each scenario, speed and seed, as :class:`Place` takes them; delays one behind the other."""
        found: list[dict[str, Any]] = [
            {"bits": bits, "delay_ms": delay, "memory": "none", "lost": 0.0}
            for bits, delay in itertools.product(self.bits, self.delays_ms)
        ]
        return found + [
            {"bits": self.lossy_bits, "delay_ms": self.middle_delay, "memory": memory, "lost": lost}
            for lost, memory in itertools.product(self.losses, self.memories)
        ]


QUICK: Final[Mapping[str, Any]] = {
    "scenarios": ("uma-nlos",),
    "speeds_kmh": (30.0,),
    "bits": (16, 64),
    "delays_ms": (5,),
    "seeds": 2,
    "drops": 1,
    "losses": (0.3,),
}
"""What ``--quick`` overrides: a smoke run, not a measurement."""


@dataclass(frozen=True, slots=True)
class Place:
    """A point of the sweep."""

    scenario: str
    speed_kmh: float
    bits: int
    delay_ms: int
    memory: str = "none"
    lost: float = 0.0
    """Share of reports that never arrived."""

    @property
    def variant(self) -> str:
        """How rows say what the other coordinates do not."""
        if self.memory == "none" and not self.lost:
            return delay_variant(self.delay_ms)
        return f"{delay_variant(self.delay_ms)}, {100 * self.lost:.0f} % lost, memory {self.memory}"


FiguresByPlace = Mapping[Place, Mapping[str, Sequence[Figures]]]
"""Figures of every seed by place and predictor."""


Cell = tuple[str, float, int]
"""Scenario, speed, seed: what is drawn once and measured at every place."""
CellFigures = dict[Place, dict[str, Figures]]
"""Figures of a cell by place and predictor."""


def cells(plan: Plan) -> list[Cell]:
    """All that is measured, each cell by itself: in any order, in any process."""
    return list(itertools.product(plan.scenarios, plan.speeds_kmh, range(plan.seeds)))


def measure(plan: Plan, run: Run) -> Measured:
    """Measure a plan; what is cached for equal weights and sources is not measured again unless ``run.fresh``."""
    todo = cells(plan)
    cell = partial(measure_cell, plan, fresh=run.fresh)
    found: dict[Place, dict[str, list[Figures]]] = {}
    for cell_figures in results_of(cell, todo, run.workers, NAME):
        for place, by_name in cell_figures.items():
            for name, figures in by_name.items():
                found.setdefault(place, {}).setdefault(name, []).append(figures)
    rows = [row for place, by_name in found.items() for row in _rows(place, by_name)]
    rows += _claims(found, plan)
    title = f"CSI prediction: RVQ reports every 5 ms, 10 dB, {plan.seeds} seeds of {plan.drops} drops of 32 users"
    panels = panels_of(plan, rows)

    def show() -> None:
        for panel in panels:
            print_panel(panel, run.console, percent=False)

    return Measured(rows, [Figure("", title, panels, len(plan.speeds_kmh))], show)


# --- measuring ---------------------------------------------------------------------------------


def measure_cell(plan: Plan, cell: Cell, *, fresh: bool = False) -> CellFigures:
    """Figures of a cell: from the cache, or measured now and kept there; ``fresh``: measured in any case."""
    # samples are drawn once a cell, and not at all where nothing is missing
    kept = PredictorFigures(measure_cell)
    names = [_predictors(plan, cell, where) for where in plan.places()]
    todo = [
        (where, asked if fresh else kept.missing(asked, cell, where, plan.drops))
        for where, asked in zip(plan.places(), names, strict=True)
    ]
    if any(missing for _, missing in todo):
        with one_thread(), torch.no_grad():
            _measure(plan, cell, [(where, missing) for where, missing in todo if missing], kept)
    return {
        Place(cell[0], cell[1], **where): {
            name: Figures(
                **{
                    figure: np.asarray(values, dtype=np.float64)
                    for figure, values in kept.get(name, cell, where, plan.drops).items()
                }
            )
            for name in asked
        }
        for where, asked in zip(plan.places(), names, strict=True)
    }


def _config(cell: Cell, where: Mapping[str, Any]) -> Link:
    return link(cell[0], cell[1], where["bits"], memory=where["memory"])


def _predictors(plan: Plan, cell: Cell, where: Mapping[str, Any]) -> list[str]:
    return list(plan.predictors or predictors_for(_config(cell, where), Settings().weights))


def _measure(
    plan: Plan,
    cell: Cell,
    todo: Sequence[tuple[Mapping[str, Any], Sequence[str]]],
    kept: PredictorFigures,
) -> None:
    """Measure some predictors at some places, each kept as it comes."""
    config = link(cell[0], cell[1], GOAL_BITS)
    samples = draw_drops(config, plan.delays_ms, split="test", seed=cell[2], drops=plan.drops)
    reports: dict[str, Reports] = {}
    for where, names in todo:
        config = _config(cell, where)
        # delays share reports
        key = json.dumps({**where, "delay_ms": 0})
        if key not in reports:
            draws = torch.Generator().manual_seed(cell[2])
            arrived = torch.rand(samples.estimates.shape[:2], generator=draws) >= where["lost"]
            reports = {key: decoded(config, samples, arrived)}
        predictors = predictors_for(config, Settings().weights)
        asked = {name: predictors[name] for name in names}
        for name, of in measured(asked, config, samples, reports[key], where["delay_ms"]).items():
            values = {k: np.round(v, 7).tolist() for k, v in of.as_dict().items()}
            kept.put(values, name, cell, where, plan.drops)


# --- rows and claims ---------------------------------------------------------------------------


def _row(place: Place, metric: str, method: str, baseline: str | None = None, **value: Any) -> Row:
    return Row(
        metric=metric,
        method=method,
        split="test",
        scenario=place.scenario,
        speed_kmh=place.speed_kmh,
        bits=place.bits,
        quantizer="rvq",
        snr_db=10.0,
        variant=place.variant if baseline is None else f"{place.variant}, over {baseline}",
        baseline=baseline,
        memory=None if place.memory == "none" else place.memory,
        age_ms=float(place.delay_ms),
        condition=f"{100 * place.lost:.0f} % of reports lost" if place.lost else None,
        **value,
    )


def delay_variant(delay_ms: int) -> str:
    """How rows say how old the newest report is."""
    return f"delay {delay_ms} ms"


def _rows(place: Place, by_name: Mapping[str, Sequence[Figures]]) -> list[Row]:
    rows = []
    for name, seeds in by_name.items():
        values = {
            "sgcs": [float(of.sgcs.mean()) for of in seeds],
            "nmse_db": [of.nmse_db for of in seeds],
            "precoding_gain_db": [float(of.precoding_gain_db.mean()) for of in seeds],
        }
        rows += [_row(place, metric, name, **over_seeds(values[metric])) for metric in METRICS]
    return rows


@dataclass(frozen=True, slots=True)
class Pooled:
    """All users of all seeds of one predictor, and the drop of each."""

    figures: Figures
    drop: NDArray[np.int64]

    @classmethod
    def from_seeds(cls, seeds: Sequence[Figures], drops: int) -> Pooled:
        """``seeds``: figures of the users of ``drops`` drops each."""
        parts = [of.as_dict() for of in seeds]
        whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        users = len(whole["sgcs"]) // (len(seeds) * drops)
        return cls(Figures(**whole), np.arange(len(whole["sgcs"])) // users)


def nmse_difference_db(a: Pooled, b: Pooled) -> tuple[float, tuple[float, float]]:
    """NMSE of ``a`` − that of ``b`` in dB, each one ratio of sums, and its 95 % interval over drops."""
    errors = np.stack([a.figures.error, b.figures.error], axis=1)
    means = resampled_means(errors, a.drop)
    difference = lin_to_db(a.figures.error.sum() / b.figures.error.sum())
    return float(difference), interval(lin_to_db(means[:, 0] / means[:, 1]))


def _claims(found: FiguresByPlace, plan: Plan) -> list[Row]:
    """``cdg`` against its best rival at every place: ``sgcs_difference`` and ``nmse_difference_db``."""
    rows = []
    for place, by_name in found.items():
        if place.lost or SUBJECT not in by_name or len(by_name) < 2:
            continue
        pooled = {name: Pooled.from_seeds(seeds, plan.drops) for name, seeds in by_name.items()}
        subject = pooled.pop(SUBJECT)
        rival = max(pooled, key=lambda name: float(pooled[name].figures.sgcs.mean()))
        mean, ci95 = paired_difference(
            subject.figures.sgcs, pooled[rival].figures.sgcs, subject.drop
        )
        rows.append(_row(place, "sgcs_difference", SUBJECT, rival, mean=mean, ci95=ci95))
        rival = min(pooled, key=lambda name: pooled[name].figures.nmse_db)
        mean, ci95 = nmse_difference_db(subject, pooled[rival])
        rows.append(_row(place, "nmse_difference_db", SUBJECT, rival, mean=mean, ci95=ci95))
    return rows


# --- pictures and tables -----------------------------------------------------------------------


def _names(rows: Sequence[Row]) -> list[str]:
    return list(
        dict.fromkeys(row.method for row in rows if row.metric == "sgcs" and row.method is not None)
    )


def panels_of(plan: Plan, rows: Sequence[Row]) -> list[Panel]:
    """SGCS and NMSE over bits at the middle delay, then NMSE over the delay at the goal's bits."""
    delay = plan.middle_delay
    bits = GOAL_BITS if GOAL_BITS in plan.bits else plan.bits[-1]
    panels = []
    for metric in ("sgcs", "nmse_db"):
        for scenario, speed in itertools.product(plan.scenarios, plan.speeds_kmh):
            at = {"metric": metric, "scenario": scenario, "speed_kmh": speed}
            lines = []
            for name in _names(rows):
                of = pick(rows, **at, method=name, variant=delay_variant(delay))
                lines.append(Line(name, [float(row.bits or 0) for row in of], of))
            title = f"{scenario}, {speed:g} km/h, {delay} ms"
            panels.append(
                Panel(title, "bits of one report", LABELS[metric], drawn(lines), log_x=True)
            )
    for scenario, speed in itertools.product(plan.scenarios, plan.speeds_kmh):
        lines = []
        for name in _names(rows):
            at = {"scenario": scenario, "speed_kmh": speed, "bits": bits, "method": name}
            of = [
                row
                for d in plan.delays_ms
                for row in pick(rows, metric="nmse_db", variant=delay_variant(d), **at)
            ]
            lines.append(Line(name, [float(d) for d in plan.delays_ms], of))
        title = f"{scenario}, {speed:g} km/h, {bits} bits"
        panels.append(
            Panel(title, "age of the newest report [ms]", LABELS["nmse_db"], drawn(lines))
        )
    return panels
