"""Pictures drawn again from reports alone, nothing measured anew: ``python -m tools.docs.redraw results/``.

Each experiment's own drawing is used; its plan is read off the rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from lab.evaluation.report import Row, pick, read_rows
from lab.experiments import (
    channel_uses_sweep,
    csi_prediction,
    csi_quantization,
    feedback_bits_sweep,
    method_comparison,
    snr_sweep,
)
from lab.experiments.method_comparison import OURS, ROWS
from lab.experiments.paper_figures import FIGURES
from lab.experiments.plotting import FORMATS, Line, Panel, draw
from lab.experiments.runner import Figure, Figures, Study
from lab.experiments.sweep import IDEAL, Point, Sampling, Scheme

METRIC_TITLES: Final = {"map": "mAP", "r_at_1": "R@1"}
DIFFERENCES: Final = "-differences"
DIGITAL: Final = "separation"
_USERS: Final = re.compile(r"(?P<users>\d+) users(, (?P<memory>[a-z]+))?")
_OVER_DELAYS: Final = re.compile(r"delay (\d+) ms")


def redraw(path: Path) -> list[Path]:
    """Draw a report's pictures beside its JSON file; returns their paths, none where it has no picture."""
    rows = read_rows(path)
    written: list[Path] = []
    for figure in pictures(path):
        labels = [title for m, title in ROWS.items() if pick(rows, method=m)]
        written += draw(
            figure.panels,
            path.with_name(f"{path.stem}{figure.suffix}"),
            title=figure.title,
            columns=figure.columns,
            labels=labels if figure.suffix == DIFFERENCES else (),
        )
    return written


def ensure_drawn(path: Path) -> list[Figure]:
    """Draw a report's pictures unless all of them, in all formats, are there and not older; returns what they show."""
    figures = pictures(path)
    made = [path.with_name(f"{path.stem}{f.suffix}{form}") for f in figures for form in FORMATS]
    written = path.stat().st_mtime
    if any(not p.is_file() or p.stat().st_mtime < written for p in made):
        redraw(path)
    return figures


def pictures(path: Path) -> list[Figure]:
    """What a report shows, read off its rows, none where it has no picture.

    A report of retrieval methods has a second picture, ``NAME-differences``: ours minus each rival, paired.
    """
    rows = read_rows(path)
    experiment = str(json.loads(path.read_text())["experiment"])
    if experiment == csi_quantization.NAME:
        return [_csi_rate(rows)]
    if experiment == csi_prediction.NAME:
        return [_csi_prediction(rows)]
    study = _study(experiment, rows)
    if study is None:
        return []
    made = list(study.draw(_figures(rows)))
    if panels := difference_panels(rows):
        title = "Same queries, same channels: 95 % intervals of a paired bootstrap"
        made.append(Figure(DIFFERENCES, title, panels))
    return made


def difference_panels(rows: Sequence[Row]) -> list[Panel]:
    """Ours minus each rival over SNR or bits, in points with 95 % intervals; a panel a metric, none without rivals.

    Digital coding is left out: beside its distance those of the others would not be seen.
    """
    panels = []
    for metric in ("r_at_1", "map"):
        found = [r for r in pick(rows, metric=f"{metric}_difference") if r.method == OURS]
        by_bits = len({r.bits for r in found}) > len({r.snr_db for r in found})
        lines = []
        for method, title in ROWS.items():
            of = [r for r in found if (r.variant or "").startswith(f"{ROWS[OURS]} vs {title}, ")]
            at = [(float(x), r) for r in of if (x := r.bits if by_bits else r.snr_db) is not None]
            at.sort(key=lambda pair: pair[0])
            if method not in (OURS, DIGITAL) and at:
                lines.append(Line(f"{title}", [x for x, _ in at], [r for _, r in at]))
        if lines:
            xs = lines[0].x
            zero = [Row(metric=metric, mean=0.0)] * len(xs)
            label = "bits of one report" if by_bits else "SNR [dB]"
            panels.append(
                Panel(
                    f"SC-LMKB minus …, {METRIC_TITLES[metric]}",
                    label,
                    f"Δ {METRIC_TITLES[metric]} [points]",
                    [Line("no difference", xs, zero, bound=True), *lines],
                    log_x=by_bits,
                    scale=100.0,
                )
            )
    return panels


def point_of(row: Row) -> Point | None:
    """Where a retrieval row was measured; None for a row of the ideal link or of no point."""
    match = _USERS.fullmatch(row.variant or "")
    if match is None or row.scenario is None or row.method is None or row.quantizer is None:
        return None
    return Point(
        Scheme(row.method, row.method, row.quantizer, row.bits or 0, match["memory"] or ""),
        row.scenario,
        row.speed_kmh or 0.0,
        int(match["users"]),
        row.snr_db or 0.0,
        row.symbols or 0,
    )


def _figures(rows: Sequence[Row]) -> Figures:
    """Rows by point and metric. The ideal link stands at every point: it knows neither SNR nor users."""
    found: dict[tuple[Point, str], Row] = {}
    ideal = {row.metric: row for row in rows if row.method == "ideal"}
    for row in rows:
        point = point_of(row)
        if point is not None:
            found[point, row.metric] = row
            if row.metric in ideal:
                found[replace(point, scheme=IDEAL), row.metric] = ideal[row.metric]
    return found | {(Point(IDEAL), metric): row for metric, row in ideal.items()}


def _study(experiment: str, rows: Sequence[Row]) -> Study | None:
    """The experiment that a report of retrieval holds, with the plan that its rows show."""
    points = [p for row in rows if row.metric == "map" and (p := point_of(row)) is not None]
    if not points:
        return None
    first = next(row for row in rows if row.metric == "map" and row.task)
    sampling = Sampling(str(first.task), first.seeds or 1, corpus=first.corpus or "")
    link: dict[str, Any] = {
        "scenario": points[0].scenario,
        "speed_kmh": points[0].speed_kmh,
        "num_users": points[0].num_users,
    }
    snrs = sorted({p.snr_db for p in points})
    kind = experiment.split("-", maxsplit=1)[0]
    if kind == "rate":
        symbols = sorted({p.symbols for p in points})
        return channel_uses_sweep.study(
            channel_uses_sweep.Plan(sampling, **link, snrs_db=snrs, symbols=symbols)
        )
    if kind == "snr":
        link["num_users"] = max(p.num_users for p in points)
        methods_there = {p.scheme.method for p in points}
        quantizers = {p.scheme.quantizer for p in points}
        groups = [
            *(["feedback"] if "scalar" in quantizers else []),
            *(["coding"] if "separation" in methods_there else []),
            *([snr_sweep.MEMORY] if any(p.scheme.memory for p in points) else []),
        ]
        return snr_sweep.study(snr_sweep.Plan(sampling, **link, snrs_db=snrs, groups=groups))
    if kind == "feedback":
        plan = feedback_bits_sweep.Plan(
            sampling,
            points[0].scenario,
            sorted({p.speed_kmh for p in points}),
            sorted({p.num_users for p in points}),
            snrs,
            sorted({p.scheme.bits for p in points if p.scheme.quantizer == "rvq"}),
        )
        return feedback_bits_sweep.study(plan)
    if kind in FIGURES or kind == "methods":
        return method_comparison.study(_methods_plan(experiment, sampling, points, link))
    return None


def _methods_plan(
    name: str, sampling: Sampling, points: Sequence[Point], link: Mapping[str, Any]
) -> method_comparison.Plan:
    """Which of SNR and bits was swept, at which value of the other."""
    ours = [p for p in points if p.scheme.quantizer == "rvq" and p.scheme.method in ROWS]
    present = {p.scheme.method for p in ours}
    by_bits = {b: {p.snr_db for p in ours if p.scheme.bits == b} for b in _bits(ours)}
    by_snr = {p.snr_db: _bits([q for q in ours if q.snr_db == p.snr_db]) for p in ours}
    bits = max(by_bits, key=lambda b: len(by_bits[b]))
    snr_db = max(by_snr, key=lambda s: len(by_snr[s]))
    over_bits = len(by_snr[snr_db]) > 1
    over_snr = len(by_bits[bits]) > 1 or not over_bits
    return method_comparison.Plan(
        sampling,
        **link,
        bits=bits,
        snrs_db=sorted(by_bits[bits]) if over_snr else (),
        sweep_snr_db=snr_db,
        sweep_bits=sorted(by_snr[snr_db]) if over_bits else (),
        methods=tuple(m for m in ROWS if m in present),
        name=name,
    )


def _bits(points: Sequence[Point]) -> set[int]:
    return {p.scheme.bits for p in points}


def _csi_rate(rows: Sequence[Row]) -> Figure:
    found = [r for r in rows if r.metric == "sgcs" and r.quantizer == "rvq"]
    plan = csi_quantization.Plan(
        scenarios=tuple(dict.fromkeys(str(r.scenario) for r in found)),
        speeds_kmh=tuple(dict.fromkeys(r.speed_kmh or 0.0 for r in found)),
        bits=tuple(sorted({r.bits for r in found if r.bits})),
        snr_db=found[0].snr_db or 0.0,
        seeds=found[0].seeds or 1,
    )
    panels = [panel for made in csi_quantization.panels_of(plan, rows).values() for panel in made]
    title = f"CSI feedback at {plan.snr_db:g} dB, {plan.seeds} seeds"
    return Figure("", title, panels, columns=len(plan.conditions()))


def _csi_prediction(rows: Sequence[Row]) -> Figure:
    found = [r for r in rows if r.metric == "sgcs"]
    delays = {
        int(m[1]) for r in found if (m := _OVER_DELAYS.fullmatch(r.variant or "")) is not None
    }
    plan = csi_prediction.Plan(
        scenarios=tuple(dict.fromkeys(str(r.scenario) for r in found)),
        speeds_kmh=tuple(dict.fromkeys(r.speed_kmh or 0.0 for r in found)),
        bits=tuple(sorted({r.bits for r in found if r.bits})),
        delays_ms=tuple(sorted(delays)),
        seeds=found[0].seeds or 1,
    )
    panels = csi_prediction.panels_of(plan, rows)
    title = f"CSI prediction: RVQ reports every 5 ms, 10 dB, {plan.seeds} seeds"
    return Figure("", title, panels, columns=len(plan.speeds_kmh))


def main(
    directory: Annotated[Path, typer.Argument(help="folder of reports")] = Path("results"),
) -> None:
    """Draw the pictures of every report of a folder again."""
    for path in sorted(directory.glob("*.json")):
        for picture in redraw(path):
            typer.echo(f"written: {picture}")


if __name__ == "__main__":
    typer.run(main)
