"""Plots fit for a paper: one style for all experiments, safe for colour-blind readers and in grey print."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.evaluation.report import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

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
FORMATS: Final = (".png", ".svg", ".pdf")
PAGE_INCHES, COLUMN_INCHES = 7.16, 3.5
"""Widths of a page and of one column of a two-column paper (IEEE)."""
PANEL_INCHES: Final = 2.35
"""Height of a panel with its labels."""
LEGEND_COLUMNS: Final = 4
DODGE_POINTS: Final = 1.3
"""By which the error bars of neighbouring lines stand apart."""
COMPARABLE: Final = 1.5
"""Panels of a row share their vertical axis if it is at most so many times as long as the longest of their own."""
_MARGIN: Final = 0.04
_STYLE: Final[Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.titlesize": 8,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.linewidth": 0.4,
    "axes.axisbelow": True,
    # Letters stay letters in a paper's PDF, and the same rows give the same file: no random ids.
    "pdf.fonttype": 42,
    "svg.hashsalt": "semlink",
}
_METADATA: Final[dict[str, dict[str, Any]]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a panel: figures over the horizontal axis; a bound is drawn without markers and error bars."""

    label: str
    x: Sequence[float]
    rows: Sequence[Row]
    bound: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes.

    ``y_limits``: between which values the figure can lie at all; the axis shows the data within them.
    ``scale``: by which figures are multiplied before they are drawn, 100 for percent.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log_x: bool = False
    y_limits: tuple[float, float] | None = None
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One picture of an experiment: a file name's ending, a title and panels; the rest as :func:`draw` takes it."""

    suffix: str
    title: str
    panels: Sequence[Panel]
    columns: int = 2
    labels: Sequence[str] = ()
    """Lines that keep their style from picture to picture, in their order."""

    def draw(self, path: Path) -> None:
        """Write the picture in every format."""
        draw(self.panels, path, title=self.title, columns=self.columns, labels=self.labels)


def draw(
    panels: Sequence[Panel],
    path: Path,
    *,
    title: str = "",
    columns: int = 2,
    labels: Sequence[str] = (),
) -> list[Path]:
    """Draw the panels with one legend and write ``path`` as ``.png`` (200 dpi), ``.svg`` and ``.pdf``.

    The picture is as wide as one column of a paper (one panel) or as its page; text has 8 points. Lines and markers
    stand at their place; bars stand a little aside, one beside the other: the standard deviation over seeds, as in
    tables, or of a row that has none (a difference) its 95 % interval. A label has the same style in every panel, and
    in every picture that is given the same ``labels`` (their order; default: as they come). Panels of a row that show
    the same figure share their vertical axis where their data are comparable. The same rows give the same files, byte
    for byte. Returns the paths.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    styles = _styles(panels, labels)
    legend_lines = -(-len({line.label for p in panels for line in p.lines}) // LEGEND_COLUMNS)
    with mpl.rc_context(_STYLE):
        figure, grid = plt.subplots(
            lines,
            columns,
            figsize=(
                COLUMN_INCHES if columns == 1 else PAGE_INCHES,
                PANEL_INCHES * lines + 0.15 * legend_lines + (0.25 if title else 0.1),
            ),
            layout="constrained",
            squeeze=False,
        )
        for ax, panel in zip(grid.flat, panels, strict=False):
            _draw_panel(ax, panel, styles)
        for ax in grid.flat[len(panels) :]:
            ax.set_axis_off()
        for first in range(0, len(panels), columns):
            _share(list(grid.flat)[first : first + columns], panels[first : first + columns])
        handles: dict[str, Any] = {}
        for ax in grid.flat:
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        ordered = [label for label in styles if label in handles]
        figure.legend(
            [handles[label] for label in ordered],
            ordered,
            loc="outside lower center",
            ncols=2 if columns == 1 else LEGEND_COLUMNS,
            frameon=False,
            handlelength=2.6,
        )
        if title:
            has_sd = any(row.sd for p in panels for line in p.lines for row in line.rows)
            figure.suptitle(f"{title}; bars: ± 1 sd" if has_sd else title)
        return save(figure, path)


def save(figure: MplFigure, path: Path) -> list[Path]:
    """Write ``path`` in every format, without anything of the clock or of the library's version; close the figure."""
    import matplotlib.pyplot as plt

    written = []
    for suffix in FORMATS:
        written.append(path.parent / f"{path.name}{suffix}")
        figure.savefig(written[-1], dpi=200, metadata=_METADATA[suffix])
    plt.close(figure)
    return written


def _styles(panels: Sequence[Panel], labels: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    lines = [line for panel in panels for line in panel.lines]
    measured = dict.fromkeys([*labels, *(line.label for line in lines if not line.bound)])
    bounds = dict.fromkeys(line.label for line in lines if line.bound)
    styles = {label: BOUND_STYLES[i % len(BOUND_STYLES)] for i, label in enumerate(bounds)}
    return styles | {label: STYLES[i % len(STYLES)] for i, label in enumerate(measured)}


def _draw_panel(ax: Axes, panel: Panel, styles: dict[str, tuple[str, str, str]]) -> None:
    measured = [line for line in panel.lines if not line.bound]
    for line in panel.lines:
        colour, marker, dash = styles[line.label]
        means = [panel.scale * row.mean for row in line.rows]
        ax.plot(
            list(line.x),
            means,
            color=colour,
            marker=marker,
            linestyle=dash,
            label=line.label,
            markersize=3.2,
            markeredgewidth=0.5,
            linewidth=1.0,
        )
        if line.bound:
            continue
        aside = DODGE_POINTS * (measured.index(line) - (len(measured) - 1) / 2)
        ax.errorbar(
            list(line.x),
            means,
            yerr=_errors(line.rows, panel.scale),
            fmt="none",
            ecolor=colour,
            elinewidth=0.5,
            capsize=1.2,
            capthick=0.5,
            alpha=0.75,
            transform=_moved(ax, aside),
        )
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    ax.set_title(panel.title)
    ax.grid(alpha=0.3)
    _scale_x(ax, panel)
    ax.set_ylim(*_y_range(panel))


def _moved(ax: Axes, points: float) -> Any:
    """The data's coordinates, moved to the right by so many points."""
    from matplotlib.transforms import ScaledTranslation

    return ax.transData + ScaledTranslation(points / 72, 0, ax.figure.dpi_scale_trans)


def _scale_x(ax: Axes, panel: Panel) -> None:
    shown = [x for line in panel.lines for x in line.x]
    if not shown:
        return
    least, most = min(shown), max(shown)
    if panel.log_x:
        ax.set_xscale("log", base=2)
        low, high = math.ceil(math.log2(least)), math.floor(math.log2(most))
        ticks = [2.0**power for power in range(low, high + 1)]
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.minorticks_off()
        aside = max((most / least) ** _MARGIN, 2**0.3)
        ax.set_xlim(least / aside, most * aside)
    else:
        aside = _MARGIN * (most - least) or 0.5
        ax.set_xlim(least - aside, most + aside)


def _y_range(panel: Panel) -> tuple[float, float]:
    """Where means and bars of the lines lie, with a margin, within what the figure can be."""
    ends = [
        panel.scale * end
        for line in panel.lines
        for row in line.rows
        for end in ((row.mean,) if line.bound else _ends(row))
        if math.isfinite(end)
    ]
    if not ends:
        return (0.0, 1.0)
    low, high = min(ends), max(ends)
    aside = _MARGIN * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - aside, high + aside
    if panel.y_limits is not None:
        least, most = (panel.scale * limit for limit in panel.y_limits)
        # A bound that lies on the limit stays visible.
        low, high = max(low, least - aside / 2), min(high, most + aside / 2)
    return low, high


def _share(row: Sequence[Axes], panels: Sequence[Panel]) -> None:
    """One vertical axis for the panels of a row that show the same figure on comparable ranges."""
    for label in dict.fromkeys(panel.y_label for panel in panels):
        alike = [i for i, panel in enumerate(panels) if panel.y_label == label]
        ranges = [_y_range(panels[i]) for i in alike]
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        if high - low > COMPARABLE * max(r[1] - r[0] for r in ranges):
            continue
        for i in alike:
            row[i].set_ylim(low, high)
            if i - 1 in alike:
                row[i].set_ylabel("")
                row[i].tick_params(labelleft=False)


def _ends(row: Row) -> tuple[float, float]:
    """Of a row's bar: mean ± sd over seeds, or the 95 % interval of what has no sd; nothing for a single seed."""
    if row.sd is not None:
        return row.mean - row.sd, row.mean + row.sd
    return row.ci95 or (row.mean, row.mean)


def _errors(rows: Sequence[Row], scale: float) -> list[list[float]]:
    """Lengths of bars below and above each mean."""
    ends = [_ends(row) for row in rows]
    return [
        [scale * max(row.mean - low, 0.0) for row, (low, _) in zip(rows, ends, strict=True)],
        [scale * max(high - row.mean, 0.0) for row, (_, high) in zip(rows, ends, strict=True)],
    ]


def drawn(lines: Iterable[Line]) -> list[Line]:
    """The lines that have anything to show."""
    return [one for one in lines if one.x]
