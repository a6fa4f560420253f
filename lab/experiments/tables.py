"""What experiments print: one table a metric, a line for each value of the axis that is swept."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from lab.evaluation.report import Row
from lab.experiments.plotting import Panel


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


def print_claims(rows: Sequence[Row], console: Console) -> None:
    """Differences and shares with their 95 % interval; a difference whose interval holds 0 claims nothing."""
    table = Table("claim", "link", "SNR dB", "k", "figure", "95 % interval", "holds")
    for row in rows:
        low, high = row.ci95 or (row.mean, row.mean)
        verdict = "yes" if low > 0 else "no" if high < 0 else "open"
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
            verdict if row.metric.endswith("_difference") else "",
        )
    if rows:
        console.print(table)


def markdown_page(
    title: str,
    panels: Sequence[Panel],
    claims: Sequence[Row] = (),
    *,
    command: str,
    percent: bool = True,
) -> str:
    """Panels as tables, a line for each value of the axis, then the claims and the command that measured them."""
    lines = [f"# {title}", ""]
    for panel in panels:
        unit = ", %" if percent else ""
        heads = [panel.x_label, *(line.label for line in panel.lines)]
        lines += [f"{panel.title}: {panel.y_label}{unit}", ""]
        lines += [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        for x in sorted({x for line in panel.lines for x in line.x}):
            found = [dict(zip(line.x, line.rows, strict=True)).get(x) for line in panel.lines]
            cells = ["–" if row is None else cell(row, percent=percent) for row in found]
            lines.append(f"| {x:g} | {' | '.join(cells)} |")
        lines.append("")
    if claims:
        heads = [
            "claim",
            "link",
            "SNR [dB]",
            "bits",
            "k",
            "metric",
            "points",
            "95 % interval",
            "holds",
        ]
        lines += [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        for row in claims:
            low, high = row.ci95 or (row.mean, row.mean)
            holds = "yes" if low > 0 else "no" if high < 0 else "open"
            link = f"{row.scenario}, {row.speed_kmh:g} km/h" if row.scenario else ""
            cells = [
                str(row.variant),
                link,
                "" if row.snr_db is None else f"{row.snr_db:g}",
                str(row.bits or ""),
                str(row.symbols or ""),
                row.metric.removesuffix("_difference"),
                f"{100 * row.mean:+.1f}",
                f"{100 * low:+.1f} … {100 * high:+.1f}",
                holds if row.metric.endswith("_difference") else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, f"`{command}`", ""])
