"""What CSI feedback gives for its bits: NMSE, SGCS and precoding gain of every quantiser, beside the Gaussian line."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import torch
from rich.console import Console

from lab.experiments.csi_samples import Condition, CsiSamples, draw_samples
from lab.experiments.memory import reconstruct
from lab.experiments.plans import QUANTIZER_TITLES
from lab.experiments.plotting import Line, Panel, draw
from lab.experiments.rate_distortion import TRAINING_DROPS, gaussian_nmse_db, training_spectrum
from lab.experiments.running import drawn
from lab.experiments.tables import print_panel
from lab.progress import track
from lab.results import Report, Row, over_seeds, pick
from semlink.errors import InvalidField
from semlink.links import MAX_BITS
from semlink.signal.metrics import (
    direction_gain_db,
    direction_similarity,
    dominant_direction,
    phase_aligned_nmse_db,
)
from semlink.signal.precoding import open_loop_precoder
from semlink.signal.quantizers import quantizer_for

BITS: Final = (8, 16, 32, 64, 128, 256, 512, 1024)
CODEBOOKS: Final = ("type1", "etype2")
"""Schemes of TS 38.214: a few sizes of their own."""
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
MEMORY_BITS: Final = (8, 16, 32, 64, 128)
"""Memory is for small reports; following a history costs a hundred times a report that stands for itself."""
METRICS: Final = ("nmse_db", "sgcs", "precoding_gain_db")
ESTIMATE, CHANNEL, WHEN_USED = (
    "against the estimate",
    "against the channel",
    "against the channel when used",
)
HELD_OUT_BITS: Final = (16, 64, 256)
Key = tuple[str, int, str, str, str]
"""Quantiser, bits, memory, reference, metric."""
Seed = dict[Key, float]
"""Every figure of one condition and seed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is swept; every value can be given on the command line."""

    scenarios: Sequence[str] = ("umi-los", "uma-nlos")
    speeds_kmh: Sequence[float] = (3.0,)
    bits: Sequence[int] = BITS
    snr_db: float = 20.0
    seeds: int = 3
    drops: int = 4
    """Drops of 32 users for each seed."""
    held_out: bool = False
    training_drops: int = TRAINING_DROPS
    """From which the covariance of the Gaussian line is taken."""

    def conditions(self) -> list[Condition]:
        """The conditions of the main figure."""
        return [
            Condition(f"{scenario}, {speed:g} km/h", scenario, speed)
            for scenario in self.scenarios
            for speed in self.speeds_kmh
        ]

    def held_out_pairs(self) -> list[tuple[Condition, Condition]]:
        """Conditions unlike the default, each with the default it is compared with (NLOS profiles: UMa-NLOS).

        CDL-C with the nominal delay spread is a small part of the training mix (``lab.channels.TRAIN_MIX``); CDL-B
        and the short delay spread of an indoor hall are not.
        """
        los, nlos = (Condition(f"{s}, 3 km/h", s) for s in ("umi-los", "uma-nlos"))
        pairs = [
            (Condition("cdl-c", "cdl-c"), nlos),
            (Condition("cdl-b", "cdl-b"), nlos),
            (Condition("cdl-c, delay spread 20 ns", "cdl-c", delay_spread_s=20e-9), nlos),
        ]
        for default in (los, nlos):
            s = default.scenario
            pairs.append((Condition(f"{s}, 60 km/h", s, 60.0), default))
            pairs.append((Condition(f"{s}, 2.4 GHz", s, carrier_frequency_hz=2.4e9), default))
        return pairs


@lru_cache(maxsize=1)
def codebook_sizes() -> dict[str, tuple[int, ...]]:
    """Every size that the codebooks of TS 38.214 offer on the default link."""
    condition = Condition("sizes", "umi-los")
    sizes: dict[str, list[int]] = {name: [] for name in CODEBOOKS}
    for name, found in sizes.items():
        for bits in range(1, MAX_BITS + 1):
            with suppress(InvalidField):
                quantizer_for(condition.link(20.0, name, bits))
                found.append(bits)
    return {name: tuple(found) for name, found in sizes.items()}


def offered_reports(bits: Sequence[int], console: Console) -> list[tuple[str, int, str]]:
    """Quantiser, bits and memory of every report that this system can make; prints what it cannot and why."""
    condition = Condition("offered", "umi-los")
    found = []
    for quantizer, memory in FORMS:
        if quantizer in CODEBOOKS:
            sizes = codebook_sizes()[quantizer]
            found += [(quantizer, b, memory) for b in sizes]
            if not sizes:
                _probe(condition, quantizer, bits[0], memory, console)
            continue
        found += [
            (quantizer, b, memory) for b in bits if _probe(condition, quantizer, b, memory, console)
        ]
    return found


def _probe(condition: Condition, quantizer: str, bits: int, memory: str, console: Console) -> bool:
    try:
        quantizer_for(condition.link(20.0, quantizer, bits, memory))
    except InvalidField as error:
        label = f"{QUANTIZER_TITLES[quantizer]} {bits} bits {memory}".rstrip()
        console.print(f"left out: {label}: {error.message}", highlight=False, markup=False)
        return False
    return True


@dataclass(frozen=True, slots=True)
class Reference:
    """What reconstructed CSI is compared with, and its dominant directions, computed once."""

    name: str
    h: torch.Tensor
    direction: torch.Tensor

    @classmethod
    def of(cls, name: str, h: torch.Tensor) -> Reference:
        """``h``: complex64 ``[users, judged, num_subbands, num_rx_ant, num_tx_ant]``."""
        flat = h.flatten(0, 1)
        return cls(name, flat, dominant_direction(flat))


def references(samples: CsiSamples) -> list[Reference]:
    """The estimate (quantisation alone), the channel then, and the channel in the first slot that can use it."""
    return [
        Reference.of(ESTIMATE, samples.estimates[:, samples.judged]),
        Reference.of(CHANNEL, samples.channels),
        Reference.of(WHEN_USED, samples.when_used),
    ]


def figures_of(h_hat: torch.Tensor, reference: Reference, *, is_channel: bool) -> dict[str, float]:
    """SGCS, precoding gain (dB) and, of a whole channel, NMSE (dB, one ratio of sums, a common phase a report free)."""
    direction = dominant_direction(h_hat)
    figures = {
        "sgcs": float(direction_similarity(reference.direction, direction).mean()),
        "precoding_gain_db": float(direction_gain_db(reference.h, direction).mean()),
    }
    if is_channel:
        power = reference.h.abs().double().square().sum((-3, -2, -1))
        error = power * 10 ** (phase_aligned_nmse_db(reference.h, h_hat) / 10)
        figures["nmse_db"] = float(10 * torch.log10(error.sum() / power.sum()))
    return figures


def _bounds(
    condition: Condition, against: Sequence[Reference]
) -> Iterator[tuple[str, str, dict[str, float]]]:
    """``perfect``: the reference itself; ``none``: random directions; quantiser, reference and figures of each."""
    config = condition.link(20.0, "none", 0)
    for reference in against:
        blind = open_loop_precoder(config, range(len(reference.h)))[..., :1]
        rows = blind.mH.expand_as(reference.h)
        yield "perfect", reference.name, figures_of(reference.h, reference, is_channel=False)
        yield "none", reference.name, figures_of(rows, reference, is_channel=False)


def measure_seed(
    condition: Condition, plan: Plan, seed: int, reports: Sequence[tuple[str, int, str]]
) -> Seed:
    """Every figure of one seed by (quantiser, bits, memory, reference, metric)."""
    samples = draw_samples(condition, plan.snr_db, seed, plan.drops)
    against = references(samples)
    found = {
        (quantizer, 0, "", reference, metric): value
        for quantizer, reference, figures in _bounds(condition, against)
        for metric, value in figures.items()
    }
    for quantizer, bits, memory in reports:
        config = condition.link(plan.snr_db, quantizer, bits, memory)
        then = reconstruct(config, samples, 0).flatten(0, 1)
        later = then
        if memory == "fused":
            later = reconstruct(config, samples, config.feedback.delay_slots).flatten(0, 1)
        for reference in against:
            h_hat = later if reference.name == WHEN_USED else then
            figures = figures_of(h_hat, reference, is_channel=memory == "channel")
            found |= {
                (quantizer, bits, memory, reference.name, metric): value
                for metric, value in figures.items()
            }
    return found


def run(plan: Plan, out: Path, console: Console) -> Report:
    """Measure, print and write ``out/csi-rate.{json,csv,png,svg}`` (``csi-rate-held-out`` with ``held_out``)."""
    started = time.monotonic()
    name = "csi-rate-held-out" if plan.held_out else "csi-rate"
    conditions = plan.conditions()
    bits: Sequence[int] = plan.bits
    if plan.held_out:
        conditions = list(dict.fromkeys(c for pair in plan.held_out_pairs() for c in pair[::-1]))
        bits = HELD_OUT_BITS
    reports = offered_reports(bits, console)
    report = Report(name)
    out.mkdir(parents=True, exist_ok=True)
    cells = [(condition, seed) for condition in conditions for seed in range(plan.seeds)]
    measured: dict[Condition, list[Seed]] = {}
    with torch.no_grad():
        for condition, seed in track(cells, name):
            measured.setdefault(condition, []).append(measure_seed(condition, plan, seed, reports))
    for condition, per_seed in measured.items():
        report.rows += _rows(condition, plan, per_seed)
    if plan.held_out:
        report.rows += _loss_rows(plan, measured)
        print_losses(report.rows, plan, console)
    else:
        report.rows += _reference_rows(plan)
        panels = _panels(plan, report.rows)
        for made in panels.values():
            for panel in made:
                print_panel(panel, console, percent=False)
        draw(
            [panel for made in panels.values() for panel in made],
            out / name,
            title=f"CSI feedback at {plan.snr_db:g} dB: {_sampled(plan)}",
            columns=len(conditions),
        )
    report.seconds = time.monotonic() - started
    report.write(out, name)
    return report


def _sampled(plan: Plan) -> str:
    return f"{plan.seeds} seeds of {plan.drops} drops with 32 users each"


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
    )


def _rows(condition: Condition, plan: Plan, per_seed: Sequence[Seed]) -> list[Row]:
    return [
        _row(condition, plan, key, [figures[key] for figures in per_seed]) for key in per_seed[0]
    ]


def _reference_rows(plan: Plan) -> list[Row]:
    """The Gaussian line of each scenario: ``quantizer`` "gaussian-rd"."""
    rows = []
    for scenario in dict.fromkeys(plan.scenarios):
        link = Condition(scenario, scenario).link(plan.snr_db, "none", 0)
        spectrum = training_spectrum(
            scenario, link.num_tx_ant, link.num_rx_ant, plan.training_drops
        )
        rows += [
            Row(
                metric="nmse_db",
                mean=gaussian_nmse_db(spectrum, bits),
                split="train",
                scenario=scenario,
                bits=bits,
                quantizer="gaussian-rd",
                variant="reverse water-filling on the covariance",
            )
            for bits in plan.bits
        ]
    return rows


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
    title = QUANTIZER_TITLES[quantizer]
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
    if form[0] in CODEBOOKS:
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


def _panels(plan: Plan, rows: Sequence[Row]) -> dict[str, list[Panel]]:
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
    return Line(QUANTIZER_TITLES[quantizer], bits, found * len(bits), bound=True)


def print_losses(rows: Sequence[Row], plan: Plan, console: Console) -> None:
    """SGCS here and what is lost against the default, against the channel when the report is used."""
    from rich.table import Table

    from lab.experiments.tables import cell

    for bits in HELD_OUT_BITS:
        table = Table(title=f"SGCS (change against the default), {bits} bits, when used")
        table.add_column("condition")
        forms = [f for f in FORMS if f[0] not in CODEBOOKS]
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
