"""``docs/results.md``: every experiment's figure and table with its command, machine and commit, and what was asked.

Made from the JSON files of the experiments alone, so that no figure is typed by hand. What is not measured is said to
be so, with the command that measures it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lab.experiments.figures import FIGURES
from lab.experiments.methods import OURS, ROWS
from lab.results import Row, pick, read_rows
from lab.targets import judge_all, rows_of

METRIC_OF: Final = {
    "fig6": "map",
    "fig7": "r_at_1",
    "fig8": "r_at_1",
    "fig9": "map",
    "fig10": "map",
    "fig12": "map",
}
"""Of the paper's axis."""
METRIC_TITLES: Final = {"map": "mAP", "r_at_1": "R@1"}
PAPER_SAYS: Final = {
    "fig6": "The paper's abstract: up to +72.6 % R@1 over conventional SC, +90.7 % over LLM-enabled SC, and +24.9 to "
    "+65.6 % mAP at 25 dB. No table of its curves was at hand to set beside ours.",
}
BESIDE: Final = ("csi-prediction", "knowledge", "sew-mcm", "gpa", "itrieval")
"""Experiments that write a page of their own beside their JSON file."""
ADVICE_SNR_DB: Final = 5.0
ADVICE_BITS: Final = 32


@dataclass(frozen=True, slots=True)
class Written:
    """A report as it lies in its file."""

    name: str
    head: dict[str, Any]
    rows: list[Row]

    @classmethod
    def read(cls, folder: Path, name: str) -> Written | None:
        """The report of that name, None where there is none."""
        path = folder / f"{name}.json"
        if not path.is_file():
            return None
        return cls(name, json.loads(path.read_text()), read_rows(path))

    @property
    def provenance(self) -> str:
        """Command, commit, weights, machine and time, as a line under a table."""
        head = self.head
        machine = head["machine"]
        return (
            f"`{head['command']}` · commit {head['commit']} · weights {head['weights']} · {machine['cores']} cores "
            f"{machine['cpu']}, {machine['memory_gib']} GiB, Python {machine['python']} · {head['seconds']:.0f} s"
        )


def write(results: Path, page: Path) -> Path:
    """Write the page and copy its pictures beside it into ``images/``. Raises NotFound for an empty folder."""
    rows = rows_of(results)
    lines = [
        "# Results",
        "",
        "Made by `semlink results` from the reports of every experiment; each table has its command under it. "
        "Mean ± standard deviation over seeds, in percent unless a unit is given; brackets hold 95 % intervals of "
        "a paired bootstrap over links or queries.",
        "",
        "## Which method, then?",
        "",
        *_advice(results),
        "",
        "## What was asked, and what came out",
        "",
        "| claim | asked | | measured |",
        "|---|---|---|---|",
    ]
    for one in judge_all(rows):
        verdict = one.verdict if one.verdict == "met" else f"**{one.verdict}**"
        lines.append(f"| {one.claim} | {one.target} | {verdict} | {one.found} |")
    for name, figure in FIGURES.items():
        lines += ["", f"## {name}: {figure.title}", "", *_figure(results, page, name)]
    for name in BESIDE:
        beside = results / f"{name}.md"
        if not beside.is_file():
            continue
        _copy_picture(results, page, name)
        title, *body = beside.read_text().strip().splitlines()
        heading = title.removeprefix("# ") if title.startswith("# ") else name
        lines += ["", f"## {name}: {heading}" if heading != name else f"## {name}", ""]
        lines += [] if title.startswith("# ") else [title]
        # Their own headings go a level down.
        lines += [f"#{line}" if line.startswith("#") else line for line in body]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines).rstrip() + "\n")
    return page


def _figure(results: Path, page: Path, name: str) -> list[str]:
    """Picture, table, comparisons and command of one figure of the paper."""
    written = Written.read(results, name)
    if written is None:
        return [f"Not measured yet: `semlink experiment {name}`."]
    metric = METRIC_OF[name]
    plan = FIGURES[name].plan
    by_bits = not plan.snrs_db
    lines = []
    if _copy_picture(results, page, name):
        lines += [f"![{FIGURES[name].title}](images/{name}.png)", ""]
    if name in PAPER_SAYS:
        lines += [PAPER_SAYS[name], ""]
    lines += [f"{METRIC_TITLES[metric]}:", "", *_curves(written, metric, by_bits=by_bits), ""]
    lines += ["SC-LMKB against each, points of " + METRIC_TITLES[metric] + ":", ""]
    lines += [*_comparisons(written, metric, by_bits=by_bits), "", written.provenance]
    return lines


def _x(row: Row, *, by_bits: bool) -> float | None:
    return row.bits if by_bits else row.snr_db


def _curves(written: Written, metric: str, *, by_bits: bool) -> list[str]:
    """A table of every method's curve, bounds first."""
    rows = [r for r in written.rows if r.metric == metric]
    xs = sorted({x for r in rows if r.method == OURS and (x := _x(r, by_bits=by_bits)) is not None})
    unit = "bits" if by_bits else "dB"
    lines = [
        "| method | " + " | ".join(f"{x:g} {unit}" for x in xs) + " |",
        "|---|" + "---|" * len(xs),
    ]
    ideal = pick(rows, method="ideal")
    if ideal:
        lines.append("| ideal link (bound) |" + f" {_percent(ideal[0])} |" * len(xs))
    perfect = pick(rows, quantizer="perfect")
    if perfect:
        cells = [next((_percent(r) for r in perfect if by_bits or r.snr_db == x), "–") for x in xs]
        lines.append("| perfect CSI (bound) | " + " | ".join(cells) + " |")
    for method, title in ROWS.items():
        curve = {
            _x(r, by_bits=by_bits): r for r in rows if r.method == method and r.quantizer == "rvq"
        }
        if curve:
            cells = [_percent(curve[x]) if x in curve else "–" for x in xs]
            lines.append(f"| {title} (`{method}`) | " + " | ".join(cells) + " |")
    return lines


def _percent(row: Row) -> str:
    spread = f" ± {100 * row.sd:.1f}" if row.sd is not None else ""
    return f"{100 * row.mean:.1f}{spread}"


def _comparisons(written: Written, metric: str, *, by_bits: bool) -> list[str]:
    rows = [r for r in written.rows if r.metric == f"{metric}_difference"]
    xs = sorted({x for r in rows if (x := _x(r, by_bits=by_bits)) is not None})
    unit = "bits" if by_bits else "dB"
    lines = [
        "| against | " + " | ".join(f"{x:g} {unit}" for x in xs) + " |",
        "|---|" + "---|" * len(xs),
    ]
    for method, title in ROWS.items():
        prefix = f"{ROWS[OURS]} vs {title}, "
        curve = {_x(r, by_bits=by_bits): r for r in rows if (r.variant or "").startswith(prefix)}
        if method != OURS and curve:
            cells = [_difference(curve[x]) if x in curve else "–" for x in xs]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _difference(row: Row) -> str:
    """In bold where the interval is clear of 0."""
    low, high = row.ci95 or (row.mean, row.mean)
    text = f"{100 * row.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def _advice(results: Path) -> list[str]:
    """What to use at 5 dB with 32 bits of feedback, read off fig9 by intervals."""
    written = Written.read(results, "fig9")
    if written is None:
        return ["Not measured yet: `semlink experiment fig9`."]
    at = {
        r.method: r
        for r in written.rows
        if r.metric == "map" and r.bits == ADVICE_BITS and r.snr_db == ADVICE_SNR_DB and r.method
    }
    if OURS not in at:
        return [f"fig9 holds no point at {ADVICE_SNR_DB:g} dB and {ADVICE_BITS} bits."]
    best = max(at.values(), key=lambda r: r.mean)
    versus = {
        method: row
        for method, title in ROWS.items()
        for row in written.rows
        if method != OURS
        and row.metric == "map_difference"
        and row.bits == ADVICE_BITS
        and (row.variant or "").startswith(f"{ROWS[OURS]} vs {title}, ")
    }
    order = sorted(at.values(), key=lambda r: -r.mean)
    ranking = ", ".join(f"`{r.method}` {_percent(r)}" for r in order)
    lines = [
        f"At {ADVICE_SNR_DB:g} dB with {ADVICE_BITS} bits of feedback (person, UMi-LOS, 4 users, mAP): {ranking}.",
        "",
    ]
    clear_below = [m for m, r in versus.items() if r.ci95 is not None and r.ci95[0] > 0]
    clear_above = [m for m, r in versus.items() if r.ci95 is not None and r.ci95[1] < 0]
    level = [m for m in versus if m not in clear_below and m not in clear_above]

    def said(methods: Sequence[str]) -> str:
        return ", ".join(f"`{m}` ({_difference(versus[m]).strip('*')})" for m in methods)

    if clear_above:
        lines.append(
            f"**Use `{best.method}`.** It has the highest mAP, and SC-LMKB is measurably below {said(clear_above)}."
        )
    elif level:
        simple = next((m for m in ("deepsc-mimo", "sc-lmkb-wo-sdg") if m in level), None)
        lines.append(
            f"SC-LMKB cannot be told apart from {said(level)}."
            + (
                f" **Use `{simple}`**: it is simpler and needs less at query time."
                if simple
                else ""
            )
        )
    else:
        lines.append("**Use `sc-lmkb`**: it is measurably above every other method.")
    if clear_below:
        lines.append(f"Measurably below SC-LMKB: {said(clear_below)}.")
    return lines


def _copy_picture(results: Path, page: Path, name: str) -> bool:
    """Copy a report's picture beside the page; whether there is one."""
    picture = results / f"{name}.png"
    if not picture.is_file():
        return False
    images = page.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(picture, images / picture.name)
    return True
