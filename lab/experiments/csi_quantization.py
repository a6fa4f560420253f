"""What CSI feedback gives for its bits: NMSE, SGCS and precoding gain of every quantiser, beside the Gaussian line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from lab.evaluation.cache import Cache, JsonlTable
from lab.evaluation.csi_metrics import (
    BOUNDS,
    CHANNEL,
    ESTIMATE,
    WHEN_USED,
    Form,
    Key,
    Seed,
    measured,
    references,
)
from lab.evaluation.csi_samples import Condition, draw_samples
from lab.evaluation.parallel import one_thread, results_of
from lab.evaluation.report import Row, over_seeds, pick
from lab.experiments.interface import Measured, Run
from lab.experiments.plotting import Figure, Line, Panel, drawn
from lab.experiments.rate_distortion import TRAINING_DROPS, gaussian_nmse_db, training_spectrum
from lab.experiments.tables import print_panel
from semlink.errors import InvalidField
from semlink.grid import MAX_BITS
from semlink.progress import track
from semlink.quantizers import quantizer_spec, weight_prefixes
from semlink.settings import Settings
from semlink.signal.csi import quantizer_for

NAME: Final = "csi-rate"
CACHE: Final = Cache(
    "csi-figures", measured, references, draw_samples, training_spectrum, weights=weight_prefixes()
)
BITS: Final = (8, 16, 32, 64, 128, 256, 512, 1024)
FORMS: Final[tuple[tuple[str, str], ...]] = (
    ("scalar", ""),
    ("type1", ""),
    ("etype2", ""),
    ("rvq", ""),
    ("learned", ""),
    ("rvq", "fused"),
    ("rvq", "predictive"),
    ("scalar", "channel"),
    ("rvq", "channel"),
    ("learned", "channel"),
)
"""Quantiser and form of each line: a memory, or reports of the whole channel instead of the layers' rows."""
WHOLE_RVQ: Final = ("rvq", "channel")
METRICS: Final = ("nmse_db", "sgcs", "precoding_gain_db")
HELD_OUT_BITS: Final = (16, 64, 256)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is swept."""

    scenarios: tuple[str, ...] = ("umi-los", "uma-nlos")
    """3GPP TR 38.901."""
    speeds_kmh: tuple[float, ...] = (3.0,)
    """Of the users, km/h."""
    bits: tuple[int, ...] = BITS
    """Of one report; with held_out, the default stands for 16, 64 and 256."""
    snr_db: float = 20.0
    """Of the estimates that are reported, dB."""
    seeds: int = 3
    """Draws of drops."""
    drops: int = 4
    """Drops of 32 users for each seed."""
    held_out: bool = False
    """Channels unlike those of the training instead of scenarios and speeds_kmh."""
    training_drops: int = TRAINING_DROPS
    """From which the covariance of the Gaussian line is taken."""

    @property
    def report(self) -> str:
        """The name of its files."""
        return f"{NAME}-held-out" if self.held_out else NAME

    @property
    def report_bits(self) -> tuple[int, ...]:
        """Of the reports that are measured."""
        return HELD_OUT_BITS if self.held_out and self.bits == BITS else self.bits

    def measured_conditions(self) -> list[Condition]:
        """Every condition that is measured."""
        if not self.held_out:
            return self.conditions()
        return list(dict.fromkeys(c for pair in self.held_out_pairs() for c in pair[::-1]))

    def conditions(self) -> list[Condition]:
        """The conditions of the main figure."""
        return [
            Condition(f"{scenario}, {speed:g} km/h", scenario, speed)
            for scenario in self.scenarios
            for speed in self.speeds_kmh
        ]

    def held_out_pairs(self) -> list[tuple[Condition, Condition]]:
        """Conditions unlike the default, each with the default it is compared with (NLOS profiles: UMa-NLOS).

        CDL-C with the nominal delay spread is a small part of the training mix
        (``lab.training.channel_dataset.TRAIN_MIX``); CDL-B and the short delay spread of an indoor hall are not.
        """
        los, nlos = (Condition(f"{s}, 3 km/h", s) for s in ("umi-los", "uma-nlos"))
        pairs = [
            (Condition("cdl-c", "cdl-c"), nlos),
            (Condition("cdl-b", "cdl-b"), nlos),
            (Condition("cdl-c, delay spread 20 ns", "cdl-c", delay_spread_ns=20.0), nlos),
        ]
        for default in (los, nlos):
            s = default.scenario
            pairs.append((Condition(f"{s}, 60 km/h", s, 60.0), default))
            pairs.append((Condition(f"{s}, 2.4 GHz", s, carrier_frequency_hz=2.4e9), default))
        return pairs


QUICK: Final[Mapping[str, Any]] = {
    "scenarios": ("umi-los",),
    "bits": (16, 64),
    "seeds": 2,
    "drops": 1,
    "training_drops": 6,
}
"""What ``--quick`` overrides: a smoke run, not a measurement."""
Cell = tuple[Condition, int]
"""A condition and a seed: what is drawn once and measured in every form of report."""


# --- what there is to measure ------------------------------------------------------------------


@lru_cache(maxsize=1)
def codebook_sizes() -> dict[str, tuple[int, ...]]:
    """Every size that the codebooks of TS 38.214 offer on the default link."""
    condition = Condition("sizes", "umi-los")
    sizes: dict[str, list[int]] = {
        name: [] for name, _ in FORMS if quantizer_spec(name).typical_bits
    }
    for name, found in sizes.items():
        for bits in range(1, MAX_BITS + 1):
            with suppress(InvalidField):
                quantizer_for(condition.link(20.0, name, bits), Settings().weights)
                found.append(bits)
    return {name: tuple(found) for name, found in sizes.items()}


@lru_cache
def offered_reports(bits: tuple[int, ...]) -> tuple[list[Form], list[str]]:
    """Every form of report that this system can make, and what it cannot and why."""
    found: list[Form] = []
    refused = []
    for quantizer, memory in FORMS:
        sizes = codebook_sizes().get(quantizer, bits)
        refusals = {b: _refusal(quantizer, b, memory) for b in sizes or bits[:1]}
        found += [(quantizer, b, memory) for b, why in refusals.items() if why is None]
        refused += [why for why in refusals.values() if why is not None]
    return found, refused


def _refusal(quantizer: str, bits: int, memory: str) -> str | None:
    try:
        quantizer_for(
            Condition("offered", "umi-los").link(20.0, quantizer, bits, memory), Settings().weights
        )
    except InvalidField as error:
        label = f"{quantizer_spec(quantizer).title} {bits} bits {memory}".rstrip()
        return f"{label}: {error.message}"
    return None


def cells(plan: Plan) -> list[Cell]:
    """All that is measured, each cell by itself: in any order, in any process."""
    return [(c, seed) for c in plan.measured_conditions() for seed in range(plan.seeds)]


# --- measuring ---------------------------------------------------------------------------------


def measure_cell(plan: Plan, cell: Cell, *, fresh: bool = False) -> Seed:
    """Every figure of a cell: from the cache, or measured now and kept there; ``fresh``: measured in any case."""
    kept = CACHE.table(NAME)
    condition, seed = cell
    forms, _ = offered_reports(plan.report_bits)
    at = [asdict(condition), plan.snr_db, seed, plan.drops]
    places = {form: [*at, *form] for form in (BOUNDS, *forms)}
    missing = [form for form, place in places.items() if fresh or place not in kept]
    if missing:
        with one_thread(), torch.no_grad():
            samples = draw_samples(condition, plan.snr_db, seed, plan.drops)
            against = references(samples)
            for form in missing:
                found = measured(condition, plan.snr_db, form, samples, against)
                kept.put([[*key, value] for key, value in found.items()], places[form])
    return {
        (quantizer, bits, memory, reference, metric): value
        for place in places.values()
        for quantizer, bits, memory, reference, metric, value in kept.get(place)
    }


def measure(plan: Plan, run: Run) -> Measured:
    """Measure a plan; what is cached for equal sources and codebooks is not measured again unless ``run.fresh``."""
    for line in offered_reports(plan.report_bits)[1]:
        run.console.print(f"left out: {line}", highlight=False, markup=False)
    todo = cells(plan)
    measured_cells = results_of(
        partial(measure_cell, plan, fresh=run.fresh), todo, run.workers, plan.report
    )
    found: dict[Condition, list[Seed]] = {}
    for (condition, _), figures in zip(todo, measured_cells, strict=True):
        found.setdefault(condition, []).append(figures)
    rows = [row for condition, seeds in found.items() for row in _rows(condition, plan, seeds)]
    if plan.held_out:
        rows += _loss_rows(plan, found)
        return Measured(rows, show=lambda: print_losses(rows, plan, run.console))
    rows += _reference_rows(plan, fresh=run.fresh)
    panels = [panel for made in panels_of(plan, rows).values() for panel in made]

    def show() -> None:
        for panel in panels:
            print_panel(panel, run.console, percent=False)

    title = f"CSI feedback at {plan.snr_db:g} dB: {plan.seeds} seeds of {plan.drops} drops with 32 users each"
    return Measured(rows, [Figure("", title, panels, len(plan.conditions()))], show)


# --- rows --------------------------------------------------------------------------------------


def _variant(condition: Condition, plan: Plan, memory: str, reference: str) -> str:
    """Memory, where there is one, and what is compared with; the condition where scenario and speed do not say it."""
    variant = f"{memory}, {reference}" if memory else reference
    return f"{condition.name}: {variant}" if plan.held_out else variant


def _row(
    condition: Condition, plan: Plan, key: Key, values: Sequence[float], metric: str = ""
) -> Row:
    """The row of one key over seeds, under its own metric or another name."""
    quantizer, bits, memory, reference, measured = key
    return Row(
        metric=metric or measured,
        **over_seeds(values),
        split="test",
        scenario=condition.scenario,
        speed_kmh=condition.speed_kmh,
        snr_db=plan.snr_db,
        bits=bits or None,
        quantizer=quantizer,
        variant=_variant(condition, plan, memory, reference),
        memory=memory if memory in ("fused", "predictive") else None,
        content="channel"
        if memory == "channel"
        else "layers"
        if len(quantizer_spec(quantizer).contents) > 1 and not quantizer_spec(quantizer).bound
        else None,
        reference=reference,
        condition=condition.name if plan.held_out else None,
    )


def _rows(condition: Condition, plan: Plan, per_seed: Sequence[Seed]) -> list[Row]:
    return [
        _row(condition, plan, key, [figures[key] for figures in per_seed]) for key in per_seed[0]
    ]


def _reference_rows(plan: Plan, *, fresh: bool) -> list[Row]:
    """The Gaussian line of each scenario: ``quantizer`` "gaussian-rd"."""
    scenarios, kept = list(dict.fromkeys(plan.scenarios)), CACHE.table(NAME)
    spectra = {
        scenario: _spectrum(plan, scenario, kept, fresh=fresh)
        for scenario in track(scenarios, "Gaussian reference")
    }
    return [
        Row(
            metric="nmse_db",
            mean=gaussian_nmse_db(spectrum, bits),
            split="train",
            scenario=scenario,
            bits=bits,
            quantizer="gaussian-rd",
            variant="reverse water-filling on the covariance",
        )
        for scenario, spectrum in spectra.items()
        for bits in plan.bits
    ]


def _spectrum(plan: Plan, scenario: str, kept: JsonlTable, *, fresh: bool) -> NDArray[np.float64]:
    link = Condition(scenario, scenario).link(plan.snr_db, "none", 0)
    antennas = (link.num_tx_ant, link.num_rx_ant)
    place = ["spectrum", scenario, *antennas, plan.training_drops]
    if fresh or place not in kept:
        with one_thread(), torch.no_grad():
            spectrum = training_spectrum(scenario, *antennas, plan.training_drops)
        kept.put(spectrum.tolist(), place)
    return np.asarray(kept.get(place), dtype=np.float64)


def _loss_rows(plan: Plan, measured: dict[Condition, list[Seed]]) -> list[Row]:
    """What is lost against the default: metrics ``sgcs_loss`` and ``precoding_shortfall_loss_db``.

    SGCS of the default minus SGCS here; and by how much more the precoding gain falls short of that of perfect CSI
    than on the default, which compares channels of different gains. Seeds are paired by number.
    """
    rows = []
    for condition, default in plan.held_out_pairs():
        here, there = measured[condition], measured[default]
        for key in here[0]:
            quantizer, _, _, reference, metric = key
            if quantizer in ("perfect", "none") or reference == ESTIMATE or metric == "nmse_db":
                continue
            if metric == "sgcs":
                values = [b[key] - a[key] for a, b in zip(here, there, strict=True)]
                named = "sgcs_loss"
            else:
                bound = ("perfect", 0, "", reference, metric)
                values = [
                    (a[bound] - a[key]) - (b[bound] - b[key])
                    for a, b in zip(here, there, strict=True)
                ]
                named = "precoding_shortfall_loss_db"
            rows.append(_row(condition, plan, key, values, named))
    return rows


# --- pictures and tables -----------------------------------------------------------------------


def form_label(quantizer: str, memory: str) -> str:
    """A line's name."""
    title = quantizer_spec(quantizer).title
    return f"{title}, {memory}" if memory else title


def _picked(
    condition: Condition, plan: Plan, metric: str, form: tuple[str, str], rows: Sequence[Row]
) -> list[Row]:
    """One form's rows against the channel, by bits."""
    quantizer, memory = form
    found = pick(
        rows,
        metric=metric,
        scenario=condition.scenario,
        speed_kmh=condition.speed_kmh,
        quantizer=quantizer,
        variant=_variant(condition, plan, memory, CHANNEL),
    )
    return sorted(found, key=lambda row: row.bits or 0)


def _line(
    condition: Condition, plan: Plan, metric: str, form: tuple[str, str], rows: Sequence[Row]
) -> Line:
    found = _picked(condition, plan, metric, form, rows)
    if quantizer_spec(form[0]).typical_bits:
        found = _worth_their_bits(found)
    return Line(form_label(*form), [float(row.bits or 0) for row in found], found)


def _worth_their_bits(rows: Sequence[Row]) -> list[Row]:
    """Of a codebook's sizes, by bits, those that name a better direction than every smaller one.

    The others spend their bits on the CQI of subbands, which no direction gains from.
    """
    kept: list[Row] = []
    for row in rows:
        if not kept or row.mean > kept[-1].mean + 1e-6:
            kept.append(row)
    return kept


def panels_of(plan: Plan, rows: Sequence[Row]) -> dict[str, list[Panel]]:
    """What is drawn, by metric: a panel for each condition."""
    labels = {"nmse_db": "NMSE [dB]", "sgcs": "SGCS", "precoding_gain_db": "precoding gain [dB]"}
    panels: dict[str, list[Panel]] = {metric: [] for metric in METRICS}
    for metric in METRICS:
        for condition in plan.conditions():
            shown = [
                f for f in FORMS if (metric == "nmse_db") == (f[1] == "channel") or f == WHOLE_RVQ
            ]
            lines = [_line(condition, plan, metric, form, rows) for form in shown]
            if metric == "nmse_db":
                line = pick(rows, quantizer="gaussian-rd", scenario=condition.scenario)
                bits = [float(row.bits or 0) for row in line]
                lines.append(Line("Gaussian R(D)", bits, line, bound=True))
            else:
                lines += [
                    _bound_line(condition, metric, q, plan, rows) for q in ("perfect", "none")
                ]
            panels[metric].append(
                Panel(
                    condition.name, "bits of one report", labels[metric], drawn(lines), log_x=True
                )
            )
    return panels


def _bound_line(
    condition: Condition, metric: str, quantizer: str, plan: Plan, rows: Sequence[Row]
) -> Line:
    found = _picked(condition, plan, metric, (quantizer, ""), rows)
    bits = [float(b) for b in plan.bits]
    return Line(quantizer_spec(quantizer).title, bits, found * len(bits), bound=True)


def print_losses(rows: Sequence[Row], plan: Plan, console: Console) -> None:
    """SGCS here and what is lost against the default, against the channel when the report is used."""
    from rich.table import Table

    from lab.experiments.tables import cell

    for bits in plan.report_bits:
        table = Table(title=f"SGCS (change against the default), {bits} bits, when used")
        table.add_column("condition")
        forms = [f for f in FORMS if quantizer_spec(f[0]).any_bits]
        for form in forms:
            table.add_column(form_label(*form), justify="right")
        for condition, default in plan.held_out_pairs():
            cells = []
            for quantizer, memory in forms:
                at = {
                    "quantizer": quantizer,
                    "bits": bits,
                    "variant": _variant(condition, plan, memory, WHEN_USED),
                }
                here, lost = (pick(rows, metric=m, **at) for m in ("sgcs", "sgcs_loss"))
                cells.append(
                    f"{cell(here[0], percent=False)} ({-lost[0].mean:+.3f})" if here else ""
                )
            table.add_row(f"{condition.name} / {default.name}", *cells)
        console.print(table)
