"""A load test in the terminal: a table of its steps, and what happens now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from semlink.load.figures import FIGURES, Figures
from semlink.load.generator import Observer, Sample, Step
from semlink.load.html_report import shown
from semlink.load.run import Measured

RECENT_S: Final = 5.0
"""What `--live` calls now."""
_SPARKS: Final = "▁▂▃▄▅▆▇█"


def print_measured(measured: Measured, console: Console) -> None:
    """Print every figure, a column for each step, and for the last step stages, emulated parts and services."""
    table = Table(box=None, header_style="bold")
    table.add_column("")
    for one in measured.steps:
        table.add_column(str(one.step.load), justify="right")
    for name in FIGURES:
        table.add_row(name, *(shown(one.values[name]) for one in measured.steps))
    console.print(table)
    last = measured.held or measured.steps[-1]
    console.print(_quantiles(last), "")
    calls = ", ".join(f"{status}: {number}" for status, number in last.statuses.items())
    console.print(f"calls by status: {calls or 'none'}")
    if last.step.services:
        each = (
            f"{name} {use.cpu_s:.1f} s, {use.rss_mib:.0f} MiB"
            for name, use in last.step.services.items()
        )
        console.print(f"CPU and memory of services: {'; '.join(each)}")
    else:
        console.print("CPU and memory of services: unknown (docs/load.md)")
    for name, values in last.groups.items():
        console.print(f"{name}: " + ", ".join(f"{k} {shown(v)}" for k, v in values.items()))
    if measured.objectives:
        rules = ", ".join(map(str, measured.objectives))
        held = measured.held
        console.print(
            f"[bold]highest load with {rules}: {held.step.load}[/bold]"
            if held
            else f"[bold red]no load held {rules}[/bold red]"
        )


def _quantiles(figures: Figures) -> Table:
    table = Table("ms", "p50", "p90", "p99", box=None, header_style="bold")
    for title, parts in (("", figures.stages), ("emulated ", figures.emulated)):
        for name, values in parts.items():
            table.add_row(f"{title}{name}", *map(shown, values))
    return table


@contextmanager
def live(console: Console) -> Iterator[Observer]:
    """Show what happens now, twice a second, for as long as the block lasts."""
    with Live(console=console, refresh_per_second=4, transient=True) as display:
        yield lambda step, lasted_s: display.update(now(step, lasted_s))


def now(step: Step, lasted_s: float) -> Group:
    """The last seconds of a step that goes on."""
    ended = [one for one in step.samples if one.status]
    recent = [one for one in ended if one.ended_s > lasted_s - RECENT_S]
    answered = [one for one in recent if one.answers]
    answers = [answer for one in answered for answer in one.answers]
    over_s = max(min(RECENT_S, lasted_s), 1e-3)
    p50, p99 = _latency(answered)
    table = Table.grid(padding=(0, 2))
    rows: Sequence[tuple[str, str]] = (
        ("queries/s", f"{len(answers) / over_s:.1f}  {_spark(ended, lasted_s)}"),
        ("p50 / p99 ms", f"{p50} / {p99}"),
        ("in flight", str(len(step.samples) - len(ended))),
        ("right", _share(sum(a.correct for a in answers), len(answers))),
        ("degraded", _share(sum(a.degraded for a in answers), len(answers))),
        ("statuses", ", ".join(f"{k}: {v}" for k, v in Counter(o.status for o in ended).items())),
    )
    for name, value in rows:
        table.add_row(name, value)
    return Group(Text(f"{step.load}, {lasted_s:.0f} s; Ctrl-C ends with a report", "bold"), table)


def _latency(answered: Sequence[Sample]) -> tuple[str, str]:
    if not answered:
        return "–", "–"
    p50, p99 = np.percentile([1e3 * one.latency_s for one in answered], [50, 99])
    return f"{p50:.0f}", f"{p99:.0f}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _spark(ended: Sequence[Sample], lasted_s: float) -> str:
    """Answered queries of each of the last 40 seconds."""
    first = max(0, int(lasted_s) - 40)
    counts = Counter(int(one.ended_s) for one in ended if one.answers)
    values = [counts[second] for second in range(first, int(lasted_s))]
    most = max(values, default=0)
    return "".join(_SPARKS[round(v / most * 7)] for v in values) if most else ""
