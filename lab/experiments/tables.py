"""What experiments print: one table a metric, a line for each value of the axis that is swept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from lab.evaluation.report import Row
from lab.experiments.plotting import Panel

SHARES: Final = (
    *(
        "r_at_",
        "map",
        "minp",
        "recall",
        "precision",
        "selection",
        "faithful",
        "agreement",
        "erased",
    ),
    *("rewrites", "same_first", "accuracy", "sum"),
)
"""How metrics begin that are shares."""


def cell(row: Row, *, percent: bool) -> str:
    """Mean ± sd over seeds; shares in percent."""
    scale, digits = (100, 1) if percent else (1, 3)
    spread = "" if row.sd is None else f" ± {scale * row.sd:.{digits}f}"
    return f"{scale * row.mean:.{digits}f}{spread}"


def print_panel(panel: Panel, console: Console, *, percent: bool = True) -> None:
    """A panel's lines as columns."""
    table = Table(title=f"{panel.title}: {panel.y_label}")
    table.add_column(panel.x_label, justify="right")
    for line in panel.lines:
        table.add_column(line.label, justify="right")
    for x in sorted({x for line in panel.lines for x in line.x}):
        cells = (
            {at: cell(row, percent=percent) for at, row in zip(line.x, line.rows, strict=True)}
            for line in panel.lines
        )
        table.add_row(f"{x:g}", *(found.get(x, "") for found in cells))
    console.print(table)


QUICK_RUN: Final = "quick run: no verdict"


def print_claims(rows: Sequence[Row], console: Console, *, quick: bool = False) -> None:
    """Differences and shares with their 95 % interval; a difference whose interval holds 0 claims nothing.

    ``quick``: a smoke run shows figures and says of none whether it holds.
    """
    if quick and rows:
        console.print(QUICK_RUN)
    table = Table("claim", "link", "SNR dB", "k", "figure", "95 % interval", *_holds(quick))
    for row in rows:
        low, high = row.ci95 or (row.mean, row.mean)
        name = {"map_difference": "Δ mAP", "r_at_1_difference": "Δ R@1"}.get(
            row.metric, "share of the gap"
        )
        link = f"{row.scenario}, {row.speed_kmh:g} km/h" if row.scenario else ""
        table.add_row(
            str(row.variant),
            link,
            f"{row.snr_db:g}",
            str(row.symbols or ""),
            f"{name} {100 * row.mean:+.1f}",
            f"{100 * low:+.1f} … {100 * high:+.1f}",
            *([] if quick else [holds(row) if row.metric.endswith("_difference") else ""]),
        )
    if rows:
        console.print(table)


def _holds(quick: bool) -> list[str]:
    return [] if quick else ["holds"]


def holds(row: Row) -> str:
    """Whether a difference's interval is clear of 0."""
    low, high = row.ci95 or (row.mean, row.mean)
    return "yes" if low > 0 else "no" if high < 0 else "open"


def print_rows(rows: Sequence[Row], console: Console, *, quick: bool = False) -> None:
    """Rows as tables: a line for each place, a column for each metric, differences with interval and verdict.

    Shares are in percent, differences in points.
    """
    places: dict[tuple[str | None, ...], dict[str, Row]] = {}
    for row in rows:
        at = (
            row.task,
            row.corpus,
            row.split,
            row.method,
            row.baseline,
            row.condition or row.variant,
        )
        places.setdefault(at, {})[row.metric] = row
    if quick and any(row.baseline for row in rows):
        console.print(QUICK_RUN)
    for metrics in dict.fromkeys(tuple(found) for found in places.values()):
        shown = {at: found for at, found in places.items() if tuple(found) == metrics}
        heads = ("task", "corpus", "split", "method", "baseline", "condition")
        used = [i for i in range(len(heads)) if any(at[i] for at in shown)]
        table = Table(*(heads[i] for i in used), *metrics)
        for place, found in shown.items():
            named = (place[i] or "" for i in used)
            table.add_row(*named, *(_shown(found[metric], quick) for metric in metrics))
        console.print(table)


def _shown(row: Row, quick: bool) -> str:
    percent = row.metric.startswith(SHARES)
    if row.ci95 is None or row.sd is not None:
        return cell(row, percent=percent)
    scale, digits = (100, 1) if percent else (1, 3)
    low, high = row.ci95
    sign = "+" if row.baseline else ""
    text = (
        f"{scale * row.mean:{sign}.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
    )
    return text if quick or not row.baseline else f"{text} {holds(row)}"
