"""CSI at the slot of transmission from old, quantised reports: ``semlink experiment csi-prediction``.

Every predictor of the knowledge base on the same test drops, over bits, speed, age of the newest report and scenario.
``cdg`` is compared with its best rival by a paired bootstrap over drops; the goal is an NMSE 1 dB below it at 64 bits.
The best rival is the one of least NMSE (most SGCS) on these very test drops: a comparison against ``cdg``'s favour.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from kb_service.prediction import predictors_for
from lab.experiments.bootstrap import interval, paired_difference, resampled_means
from lab.experiments.plotting import Line, Panel, draw
from lab.experiments.running import drawn
from lab.prediction_samples import Figures, decoded, draw_drops, link, measured
from lab.progress import track
from lab.results import Report, Row, over_seeds, pick, weights_hash

NAME: Final = "csi-prediction"
BITS: Final = (8, 16, 32, 64, 128, 256)
GOAL_DB: Final = 1.0
"""NMSE below the best rival's at ``GOAL_BITS``."""
GOAL_BITS: Final = 64
METRICS: Final = ("sgcs", "nmse_db", "precoding_gain_db")
LABELS: Final = {"sgcs": "SGCS", "nmse_db": "NMSE [dB]", "precoding_gain_db": "precoding gain [dB]"}
SUBJECT: Final = "cdg"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is swept; every value can be given on the command line."""

    scenarios: Sequence[str] = ("umi-los", "uma-nlos")
    speeds_kmh: Sequence[float] = (3.0, 30.0, 60.0)
    bits: Sequence[int] = BITS
    delays_ms: Sequence[int] = (2, 5, 10)
    """Age of the newest report in the slot of transmission; a slot lasts 1 ms."""
    seeds: int = 3
    drops: int = 2
    """Of 32 users, of each seed, scenario and speed."""
    predictors: Sequence[str] = ()
    """Default: all that there are."""

    @classmethod
    def quick(cls) -> Plan:
        """A look at it in about a minute."""
        return cls(speeds_kmh=(3.0, 30.0), bits=(16, 64), delays_ms=(5,), seeds=2, drops=1)


@dataclass(frozen=True, slots=True)
class Place:
    """A point of the sweep."""

    scenario: str
    speed_kmh: float
    bits: int
    delay_ms: int


Measured = Mapping[Place, Mapping[str, Sequence[Figures]]]
"""Figures of every seed by place and predictor."""


def run(plan: Plan, out: Path, console: Console) -> Report:
    """Measure, print, write ``out/csi-prediction.{json,csv,md}`` and the plots; goes on where it was interrupted."""
    started = time.monotonic()
    found, spent = _measure(plan, out)
    report = Report(NAME, seconds=time.monotonic() - started + spent)
    report.rows += [row for place, by_name in found.items() for row in _rows(place, by_name)]
    report.rows += _claims(found, plan)
    report.write(out, NAME)
    draw(
        _panels(plan, report.rows),
        out / NAME,
        title=f"CSI prediction: RVQ reports every 5 ms, 10 dB, {plan.seeds} seeds of {plan.drops} drops of 32 users",
        columns=len(plan.scenarios) * len(plan.speeds_kmh),
    )
    page = markdown(plan, report)
    (out / f"{NAME}.md").write_text(page)
    _print(plan, report.rows, console)
    _parts(out).unlink(missing_ok=True)
    return report


# --- measuring ---------------------------------------------------------------------------------


def _parts(out: Path) -> Path:
    return out / f"{NAME}.partial.jsonl"


def _measure(plan: Plan, out: Path) -> tuple[dict[Place, dict[str, list[Figures]]], float]:
    """Figures of everything, and seconds of earlier, interrupted runs."""
    out.mkdir(parents=True, exist_ok=True)
    key = json.dumps([asdict(plan), weights_hash()])
    kept = [json.loads(line) for line in _lines(_parts(out))]
    done = {tuple(part["cell"]): part for part in kept if part["key"] == key}
    found: dict[Place, dict[str, list[Figures]]] = {}
    spent = 0.0
    cells = list(itertools.product(plan.scenarios, plan.speeds_kmh, range(plan.seeds)))
    with _parts(out).open("a") as file, torch.no_grad():
        for cell in track(cells, NAME):
            part = done.get(cell)
            if part is None:
                before = time.monotonic()
                part = {"key": key, "cell": cell, "figures": _cell(plan, *cell)}
                part["seconds"] = time.monotonic() - before
                file.write(json.dumps(part) + "\n")
                file.flush()
            else:
                spent += part["seconds"]
            for bits, delay, name, figures in part["figures"]:
                place = Place(cell[0], cell[1], bits, delay)
                arrays = {k: np.asarray(v, dtype=np.float64) for k, v in figures.items()}
                found.setdefault(place, {}).setdefault(name, []).append(Figures(**arrays))
    return found, spent


def _lines(path: Path) -> list[str]:
    """Whole lines of a file that may have ended in the middle of one."""
    if not path.is_file():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _cell(
    plan: Plan, scenario: str, speed_kmh: float, seed: int
) -> list[tuple[int, int, str, dict[str, list[float]]]]:
    config = link(scenario, speed_kmh, plan.bits[0])
    samples = draw_drops(config, plan.delays_ms, split="test", seed=seed, drops=plan.drops)
    cell = []
    for bits in plan.bits:
        config.feedback.bits = bits
        predictors = predictors_for(config)
        asked = {name: predictors[name] for name in plan.predictors or predictors}
        reports = decoded(config, samples)
        for delay in plan.delays_ms:
            for name, of in measured(asked, config, samples, reports, delay).items():
                values = {k: np.round(v, 7).tolist() for k, v in of.as_dict().items()}
                cell.append((bits, delay, name, values))
    return cell


# --- rows and claims ---------------------------------------------------------------------------


def _row(place: Place, metric: str, method: str, variant: str, **value: Any) -> Row:
    return Row(
        metric=metric,
        method=method,
        split="test",
        scenario=place.scenario,
        speed_kmh=place.speed_kmh,
        bits=place.bits,
        quantizer="rvq",
        snr_db=10.0,
        variant=variant,
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
        rows += [
            _row(place, metric, name, delay_variant(place.delay_ms), **over_seeds(values[metric]))
            for metric in METRICS
        ]
    return rows


@dataclass(frozen=True, slots=True)
class Pooled:
    """All users of all seeds of one predictor, and the drop of each."""

    figures: Figures
    drop: NDArray[np.int64]

    @classmethod
    def of(cls, seeds: Sequence[Figures], drops: int) -> Pooled:
        """``seeds``: figures of the users of ``drops`` drops each."""
        parts = [of.as_dict() for of in seeds]
        whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        users = len(whole["sgcs"]) // (len(seeds) * drops)
        return cls(Figures(**whole), np.arange(len(whole["sgcs"])) // users)


def nmse_difference_db(a: Pooled, b: Pooled) -> tuple[float, tuple[float, float]]:
    """NMSE of ``a`` − that of ``b`` in dB, each one ratio of sums, and its 95 % interval over drops."""
    errors = np.stack([a.figures.error, b.figures.error], axis=1)
    means = resampled_means(errors, a.drop)
    difference = 10 * np.log10(a.figures.error.sum() / b.figures.error.sum())
    return float(difference), interval(10 * np.log10(means[:, 0] / means[:, 1]))


def _claims(found: Measured, plan: Plan) -> list[Row]:
    """``cdg`` against its best rival at every place: ``sgcs_difference`` and ``nmse_difference_db``."""
    rows = []
    for place, by_name in found.items():
        if SUBJECT not in by_name or len(by_name) < 2:
            continue
        pooled = {name: Pooled.of(seeds, plan.drops) for name, seeds in by_name.items()}
        subject = pooled.pop(SUBJECT)
        rival = max(pooled, key=lambda name: float(pooled[name].figures.sgcs.mean()))
        mean, ci95 = paired_difference(
            subject.figures.sgcs, pooled[rival].figures.sgcs, subject.drop
        )
        delay = delay_variant(place.delay_ms)
        rows.append(
            _row(place, "sgcs_difference", SUBJECT, f"{delay}, over {rival}", mean=mean, ci95=ci95)
        )
        rival = min(pooled, key=lambda name: pooled[name].figures.nmse_db)
        mean, ci95 = nmse_difference_db(subject, pooled[rival])
        rows.append(
            _row(
                place, "nmse_difference_db", SUBJECT, f"{delay}, over {rival}", mean=mean, ci95=ci95
            )
        )
    return rows


# --- pictures and tables -----------------------------------------------------------------------


def _names(rows: Sequence[Row]) -> list[str]:
    return list(
        dict.fromkeys(row.method for row in rows if row.metric == "sgcs" and row.method is not None)
    )


def _panels(plan: Plan, rows: Sequence[Row]) -> list[Panel]:
    """SGCS and NMSE over bits at the middle delay, then NMSE over the delay at the goal's bits."""
    delay = plan.delays_ms[len(plan.delays_ms) // 2]
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


def goal_line(rows: Sequence[Row]) -> str:
    """Whether the goal is met, in one sentence."""
    claims = pick(rows, metric="nmse_difference_db", bits=GOAL_BITS)
    if not claims:
        return f"Goal (NMSE {GOAL_DB:g} dB below the best rival at {GOAL_BITS} bits): not measured."
    gains = [-row.mean for row in claims]
    met = sum(gain >= GOAL_DB for gain in gains)
    clear = sum(row.ci95 is not None and row.ci95[1] < 0 for row in claims)
    verdict = "met" if met == len(gains) else "missed"
    return (
        f"Goal (NMSE of {SUBJECT} {GOAL_DB:g} dB below the best rival at {GOAL_BITS} bits): {verdict}: at {met} of "
        f"{len(gains)} conditions; below the best rival with a 95 % interval clear of 0 at {clear}; the gain is "
        f"{min(gains):+.2f} … {max(gains):+.2f} dB, {sum(gains) / len(gains):+.2f} dB in the mean."
    )


def markdown(plan: Plan, report: Report) -> str:
    """The page: a table a metric, then the claims."""
    lines = [
        "# CSI prediction",
        "",
        f"Test drops, {plan.seeds} seeds of {plan.drops} drops of 32 users; RVQ reports every 5 ms, at 10 dB; "
        "mean over seeds. The best of a line is bold.",
        "",
        f"    {report.command}",
        "",
        goal_line(report.rows),
    ]
    names = _names(report.rows)
    for metric in METRICS:
        lines += ["", f"## {LABELS[metric]}", ""]
        lines.append("| scenario | km/h | delay ms | bits | " + " | ".join(names) + " |")
        lines.append("|---|---|---|---|" + "---|" * len(names))
        best = min if metric == "nmse_db" else max
        for scenario, speed, delay, bits in itertools.product(
            plan.scenarios, plan.speeds_kmh, plan.delays_ms, plan.bits
        ):
            at = {"scenario": scenario, "speed_kmh": speed, "bits": bits}
            found = pick(report.rows, metric=metric, variant=delay_variant(delay), **at)
            values = {row.method: row.mean for row in found}
            winner = best(values.values())
            cells = [
                f"**{values[n]:.3f}**" if values[n] == winner else f"{values[n]:.3f}" for n in names
            ]
            lines.append(f"| {scenario} | {speed:g} | {delay} | {bits} | {' | '.join(cells)} |")
    lines += ["", f"## {SUBJECT} against its best rival", ""]
    lines += [
        "| scenario | km/h | bits | figure | against | difference | 95 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report.rows:
        if row.metric in ("sgcs_difference", "nmse_difference_db") and row.ci95:
            lines.append(
                f"| {row.scenario} | {row.speed_kmh:g} | {row.bits} | {row.metric} | {row.variant} | "
                f"{row.mean:+.3f} | {row.ci95[0]:+.3f} … {row.ci95[1]:+.3f} |"
            )
    return "\n".join(lines) + "\n"


def _print(plan: Plan, rows: Sequence[Row], console: Console) -> None:
    """SGCS / NMSE at the middle delay, and the goal."""
    names = _names(rows)
    delay = plan.delays_ms[len(plan.delays_ms) // 2]
    table = Table(title=f"SGCS / NMSE dB, {delay_variant(delay)}")
    for column in ("scenario", "km/h", "bits", *names):
        table.add_column(column)
    for scenario, speed, bits in itertools.product(plan.scenarios, plan.speeds_kmh, plan.bits):
        at = {"scenario": scenario, "speed_kmh": speed, "bits": bits}
        at["variant"] = delay_variant(delay)
        cells = [
            f"{pick(rows, metric='sgcs', method=n, **at)[0].mean:.3f} / "
            f"{pick(rows, metric='nmse_db', method=n, **at)[0].mean:.2f}"
            for n in names
        ]
        table.add_row(scenario, f"{speed:g}", str(bits), *cells)
    console.print(table)
    console.print(goal_line(rows), soft_wrap=True)
