"""A load test as one page that needs nothing else."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from lab.evaluation.templating import render
from semlink.load.charts import Points, bars, lines
from semlink.load.figures import FIGURES, QUANTILES, Figures
from semlink.load.plan import Rule
from semlink.load.run import Measured

MAX_BINS: Final = 120
"""Points of a line over time."""
_QUANTILE_NAMES: Final = tuple(f"p{q}" for q in QUANTILES)


def write_page(
    measured: Measured, path: Path, *, command: str, broken: Sequence[Rule], unknown: Sequence[Rule]
) -> None:
    """Write the page. ``broken``: thresholds that failed; ``unknown``: those whose figure was not measured."""
    page = render(
        "load.html.j2",
        measured=measured,
        command=command,
        date=time.strftime("%Y-%m-%d %H:%M", time.localtime(measured.steps[0].step.begun_unix_s)),
        broken=broken,
        unknown=unknown,
        meanings=FIGURES,
        quantiles=_QUANTILE_NAMES,
        over_loads=_over_loads(measured) if len(measured.steps) > 1 else "",
        charts=[_charts(one) for one in measured.steps],
        shown=shown,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)


def shown(value: float) -> str:
    """A figure with three digits; "unknown" where it was not measured."""
    if math.isnan(value):
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _over_loads(measured: Measured) -> str:
    steps = sorted(measured.steps, key=lambda one: one.step.load.size)
    unit = "calls/s offered" if steps[0].step.load.rate is not None else "users"

    def over(*names: str) -> dict[str, Points]:
        return {n: [(s.step.load.size, s.values[n]) for s in steps] for n in names}

    latency = lines(over("p50_ms", "p90_ms", "p99_ms"), x=unit, y="ms", marks=True, log_y=True)
    rates = lines(over("queries_per_s", "correct_per_s"), x=unit, y="a second", marks=True)
    return _figures({"time of a call": latency, "rates": rates})


def _charts(figures: Figures) -> str:
    return _figures(
        {
            "queries over time": lines(_rates_over_time(figures), x="s", y="queries/s"),
            "time of a call, by when it ended": lines(_latency_over_time(figures), x="s", y="ms"),
            "time of a call": lines(_distribution(figures), x="% of calls", y="ms", log_y=True),
            "software, by stage": bars(figures.stages, _QUANTILE_NAMES, unit="ms"),
        }
    )


def _figures(charts: Mapping[str, str]) -> str:
    each = (f"<figure><h3>{title}</h3>{chart}</figure>" for title, chart in charts.items())
    return f'<div class="charts">{"".join(each)}</div>'


def _bins(figures: Figures) -> tuple[float, int]:
    """Width of a bin [s], at least one second, and how many there are."""
    lasted = max((one.ended_s for one in figures.step.samples), default=1.0)
    width = max(1.0, math.ceil(lasted / MAX_BINS))
    return width, max(1, math.ceil(lasted / width))


def _rates_over_time(figures: Figures) -> dict[str, Points]:
    width, number = _bins(figures)
    counts: dict[str, Counter[int]] = {
        n: Counter() for n in ("due", "answered", "refused", "failed")
    }
    for one in figures.step.samples:
        ended = min(int(one.ended_s / width), number - 1)
        counts["due"][min(int(one.due_s / width), number - 1)] += len(one.asked)
        refused = one.status in ("429", "503")
        kind = "answered" if one.answers else "refused" if refused else "failed"
        counts[kind][ended] += len(one.asked)
    return {
        name: [((i + 0.5) * width, found[i] / width) for i in range(number)]
        for name, found in counts.items()
        if found
    }


def _latency_over_time(figures: Figures) -> dict[str, Points]:
    width, number = _bins(figures)
    inside: list[list[float]] = [[] for _ in range(number)]
    for one in figures.step.samples:
        if one.answers:
            inside[min(int(one.ended_s / width), number - 1)].append(1e3 * one.latency_s)
    return {
        name: [
            ((i + 0.5) * width, float(np.percentile(found, q)))
            for i, found in enumerate(inside)
            if found
        ]
        for name, q in zip(_QUANTILE_NAMES, QUANTILES, strict=True)
    }


def _distribution(figures: Figures) -> dict[str, Points]:
    found = [1e3 * one.latency_s for one in figures.step.samples if one.answers]
    if not found:
        return {}
    at = np.linspace(0, 100, 101)
    return {"call": list(zip(at.tolist(), np.percentile(found, at).tolist(), strict=True))}
