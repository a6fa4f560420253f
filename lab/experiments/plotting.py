"""Plots fit for a paper: one style for all experiments, safe for colour-blind readers and in grey print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.results import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES: Final = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "-"),
    ("#009E73", "^", "-"),
    ("#CC79A7", "D", "-"),
    ("#E69F00", "v", "-"),
    ("#56B4E9", "P", "-"),
    ("#8C6D00", "X", "--"),
    ("#5D3A9B", "<", "--"),
    ("#B2182B", "p", "--"),
    ("#1B7837", "h", "--"),
    ("#9A6A00", ">", ":"),
    ("#004D7A", "*", ":"),
)
"""Okabe and Ito's colours (more for long legends), each with its own marker."""
BOUND_STYLES: Final = (("#000000", "", "--"), ("#7F7F7F", "", ":"), ("#7F7F7F", "", "-."))
"""Bounds and reference lines: black and grey, no markers."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel: figures over the horizontal axis; a bound is drawn without markers."""

    label: str
    x: Sequence[float]
    rows: Sequence[Row]
    bound: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log_x: bool = False
    y_limits: tuple[float, float] | None = None


def draw(panels: Sequence[Panel], path: Path, *, title: str = "", columns: int = 2) -> list[Path]:
    """Draw the panels with one legend and write ``path`` as ``.png`` (150 dpi) and ``.svg``.

    Bars are the 95 % interval over seeds. A label has the same style in every panel.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    # The same rows give the same file: no dates, no random ids.
    mpl.rcParams["svg.hashsalt"] = "semlink"
    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        lines,
        columns,
        figsize=(5.0 * columns, 3.5 * lines + 0.9),
        layout="constrained",
        squeeze=False,
    )
    styles = _styles(panels)
    for ax, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(ax, panel, styles)
    for ax in grid.flat[len(panels) :]:
        ax.set_axis_off()
    handles: dict[str, Any] = {}
    for ax in grid.flat:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
        frameon=False,
    )
    if title:
        figure.suptitle(title, fontsize=10)
    written = []
    for suffix, metadata in ((".png", {}), (".svg", {"Date": None})):
        written.append(path.parent / f"{path.name}{suffix}")
        figure.savefig(written[-1], dpi=150, metadata=metadata)
    plt.close(figure)
    return written


def _styles(panels: Sequence[Panel]) -> dict[str, tuple[str, str, str]]:
    lines = [line for panel in panels for line in panel.lines]
    measured = dict.fromkeys(line.label for line in lines if not line.bound)
    bounds = dict.fromkeys(line.label for line in lines if line.bound)
    styles = {label: STYLES[i % len(STYLES)] for i, label in enumerate(measured)}
    return styles | {label: BOUND_STYLES[i % len(BOUND_STYLES)] for i, label in enumerate(bounds)}


def _draw_panel(ax: Axes, panel: Panel, styles: dict[str, tuple[str, str, str]]) -> None:
    for line in panel.lines:
        colour, marker, dash = styles[line.label]
        arguments: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "linestyle": dash,
            "label": line.label,
            "markersize": 4.5,
            "linewidth": 1.4,
            "capsize": 2,
            "elinewidth": 0.9,
        }
        means = [row.mean for row in line.rows]
        ax.errorbar(list(line.x), means, yerr=_errors(line.rows), **arguments)
    if panel.log_x and any(line.x for line in panel.lines):
        ax.set_xscale("log", base=2)
        shown = [x for line in panel.lines for x in line.x]
        low, high = math.ceil(math.log2(min(shown))), math.floor(math.log2(max(shown)))
        ticks = [2.0**power for power in range(low, high + 1)]
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.minorticks_off()
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    if panel.y_limits is not None:
        ax.set_ylim(*panel.y_limits)
    ax.set_title(panel.title, fontsize=9)
    ax.grid(alpha=0.3)


def _errors(rows: Sequence[Row]) -> list[list[float]]:
    """Lengths below and above each mean; 0 where one seed gives no interval."""
    ends = [row.ci95 or (row.mean, row.mean) for row in rows]
    return [
        [max(row.mean - low, 0.0) for row, (low, _) in zip(rows, ends, strict=True)],
        [max(high - row.mean, 0.0) for row, (_, high) in zip(rows, ends, strict=True)],
    ]
