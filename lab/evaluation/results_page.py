"""``docs/results.md``: every experiment's figure and table with its command, machine and commit, and what was asked.

Made from the reports of the experiments alone, so that no figure is typed by hand: sentences that say what a figure
shows are read off its intervals. What is not measured is said to be so, with the command that measures it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lab.evaluation.claims import (
    Judged,
    by_snr,
    differences,
    is_above,
    is_below,
    judge_all,
    rows_of,
)
from lab.evaluation.report import Row, pick, read_rows, weights_hash, write_compact
from lab.experiments.method_comparison import OURS, ROWS
from lab.experiments.paper_figures import FIGURES
from lab.experiments.plotting import Panel
from semlink.methods import METHODS
from tools.docs.paper_values import PAPERS, relative_gains, table
from tools.docs.redraw import DIFFERENCES, ensure_drawn, pictures

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
REPORTS: Final = "reports"
MEASURED_S: Final = 15.0
"""A report that took less found its points in the cache, where another run had left them."""
SHOWN: Final = (".png", ".svg")
"""Formats of pictures that lie beside the page; a report's folder holds a PDF as well."""
PICTURED: Final = "fig11"
BESIDE: Final = ("csi-prediction", "knowledge", "sew-mcm", "gpa", "itrieval")
"""Experiments that write a page of their own beside their JSON file."""
STUDIES: Final = {
    "snr": "retrieval against SNR: what feedback is worth, joint and digital coding",
    "feedback": "retrieval against bits of a CSI report, by quantiser and memory",
    "rate": "retrieval against channel uses k: joint and digital coding",
}
"""Experiments that are measured by task and scenario, a report each."""
STUDIED: Final = re.compile(r"(snr|feedback|rate)-([a-z0-9]+)-([a-z]+-[a-z]+)(-.+)?")
RATES: Final = "csi-rate"
ADVICE_SNR_DB: Final = 5.0
ADVICE_BITS: Final = 32
LONG_PAGE: Final = 60
"""Lines of a page of tables beyond which all but its first part is folded away."""
EARLIER: Final = "**Measured with earlier weights**, not those of today."


@dataclass(frozen=True, slots=True)
class Written:
    """A report as it lies in its file."""

    name: str
    path: Path
    head: dict[str, Any]
    rows: list[Row]

    @classmethod
    def read(cls, folder: Path, name: str) -> Written | None:
        """The report of that name, None where there is none."""
        path = folder / f"{name}.json"
        if not path.is_file():
            return None
        return cls(name, path, json.loads(path.read_text()), read_rows(path))

    @property
    def is_earlier(self) -> bool:
        """Whether it was measured with other weights than those of today."""
        return bool(self.head["weights"] != weights_hash())

    @property
    def provenance(self) -> str:
        """Command, commit, weights, machine and time, as a line under a table; the plan folded where it is known."""
        head = self.head
        machine = head["machine"]
        seconds = head.get("measured_s", head["seconds"])
        took = f"{seconds:.0f} s" if seconds >= MEASURED_S else "points from the cache"
        plan = ", ".join(f"{k}={_value(v)}" for k, v in head.get("plan", {}).items())
        folded = f"\n\n<details>\n<summary>plan</summary>\n\n`{plan}`\n\n</details>" if plan else ""
        return (
            f"`{head['command']}` · commit {head['commit']} · weights {head['weights']}"
            f"{' (earlier)' if self.is_earlier else ''} · {machine['cores']} cores {machine['cpu']}, "
            f"{machine['memory_gib']} GiB, Python {machine['python']} · {took}{folded}"
        )


def _value(value: object) -> str:
    """As the command line takes it: lists with commas."""
    return ",".join(str(v) for v in value) if isinstance(value, list) else str(value)


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page under its own heading."""

    anchor: str
    heading: str
    lines: Sequence[str]


def write(results: Path, page: Path) -> Path:
    """Write the page; draw what pictures are missing and copy them beside it into ``images/``.

    Raises NotFound for an empty folder.
    """
    rows = rows_of(results)
    judged = judge_all(rows)
    sections = [
        Section("advice", "Which method, then?", _advice(results)),
        Section("targets", "What was asked, and what came out", _targets(results, judged)),
        Section("papers", "The papers' own figures beside ours", _papers(rows)),
    ]
    for name, figure in FIGURES.items():
        if name == "fig12":
            sections += _pages(results, page, (PICTURED,), judged)
        sections.append(
            Section(name, f"{name}: {figure.title}", _figure(results, page, name, judged))
        )
        sections += _on_other_corpora(results, page, name)
    sections.append(
        Section(
            RATES,
            "csi-rate: NMSE, SGCS and precoding gain against bits",
            _rates(results, page, judged),
        )
    )
    sections += _pages(results, page, BESIDE[:1], judged)
    sections += _studies(results, page, judged)
    sections += _pages(results, page, BESIDE[1:], judged)
    contents = [f"* [{section.heading}](#{section.anchor})" for section in sections]
    lines = [
        "# Results",
        "",
        "Made by `semlink results` from the reports of every experiment; each table has its command under it. "
        "Mean ± standard deviation over seeds, in percent unless a unit is given; brackets hold 95 % intervals of "
        "a paired bootstrap over links or queries, bold where they are clear of 0. Bars in pictures are standard "
        "deviations over seeds, those of differences such intervals.",
        "",
        f"Every report lies in [{REPORTS}]({REPORTS}): measure again and compare, "
        f"`semlink compare docs/{REPORTS}/fig6.json results/fig6.json`.",
        "",
        *contents,
    ]
    for section in sections:
        lines += ["", f'<a id="{section.anchor}"></a>', "", f"## {section.heading}", ""]
        lines += section.lines
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines).rstrip() + "\n")
    _publish(results, page)
    return page


# --- what was asked ----------------------------------------------------------------------------


def _publish(results: Path, page: Path) -> None:
    """Lay the reports beside the page, so that whoever measures again can compare."""
    folder = page.parent / REPORTS
    for path in sorted(results.glob("*.json")):
        content = json.loads(path.read_text())
        if content.get("plan") is not None:
            write_compact(content, folder / path.name)


def _targets(results: Path, judged: Sequence[Judged]) -> list[str]:
    counts = {v: sum(j.verdict == v for j in judged) for v in ("met", "missed", "not measured")}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    lines = [
        f"{said}; why, under the table.",
        "",
        "| claim | asked | | measured |",
        "|---|---|---|---|",
    ]
    for one in judged:
        verdict = one.verdict if one.verdict == "met" else f"**{one.verdict}**"
        lines.append(f"| {one.claim} | {one.target} | {verdict} | {one.found} |")
    earlier = [
        w.name
        for path in sorted(results.glob("*.json"))
        if not path.stem.startswith("bench-")
        and (w := Written.read(results, path.stem)) is not None
        and w.is_earlier
    ]
    if earlier:
        lines += ["", f"Measured with earlier weights: {', '.join(earlier)}."]
    missed = [one for one in judged if one.reason]
    if missed:
        lines += ["", "### Why, as far as it is known", ""]
        lines += [f"* **{one.claim}, {one.target}:** {one.reason}" for one in missed]
    above = _above_by_snr(rows_of(results))
    if above:
        lines += ["", "### Where SC-LMKB is above, by SNR", "", *above]
    return lines


def _above_by_snr(rows: Sequence[Row]) -> list[str]:
    """Of each rival's points, metrics and figures together: how many are clear above, and the mean difference."""
    rivals = [title for method, title in ROWS.items() if method != OURS]
    found = {title: by_snr(differences(rows, title)) for title in rivals}
    snrs = sorted({snr_db for at in found.values() for snr_db in at})
    if not snrs:
        return []
    lines = [
        "Points (R@1 and mAP, figures 6 to 12) whose interval is clear above 0, of all; mean difference in points; "
        "clear below 0 where there are any. 5 dB holds the sweep over bits, too.",
        "",
        "| SC-LMKB over | " + " | ".join(f"{snr_db:g} dB" for snr_db in snrs) + " |",
        "|---|" + "---|" * len(snrs),
    ]
    for title, at in found.items():
        cells = [_counted(at[snr_db]) if snr_db in at else "–" for snr_db in snrs]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def _counted(rows: Sequence[Row]) -> str:
    below = sum(map(is_below, rows))
    mean = 100 * sum(row.mean for row in rows) / len(rows)
    said = f"{sum(map(is_above, rows))} of {len(rows)}, {mean:+.1f}"
    return f"{said}, {below} below" if below else said


def _of_section(name: str, judged: Sequence[Judged]) -> list[str]:
    """What was asked of one experiment, a sentence each."""
    lines = []
    for one in judged:
        if name in one.experiments:
            verdict = "**missed**, [why](#targets)" if one.verdict == "missed" else one.verdict
            lines.append(f"* Asked, {one.claim}: {one.target}: {verdict}: {one.found}.")
    return [*lines, ""] if lines else []


def _papers(rows: Sequence[Row]) -> list[str]:
    lines = ["Shares in percent, as printed there; a bare mean stands for a table's cell."]
    for paper in PAPERS:
        shown = table(paper, rows)
        lines += ["", f"### {paper.title}", "", paper.setting, ""]
        lines += shown if len(shown) < 12 else _folded(f"{len(shown) - 2} figures", shown)
    return lines


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    return ["<details>", f"<summary>{title}</summary>", "", *lines, "", "</details>"]


# --- the figures of SC-LMKB --------------------------------------------------------------------


def _figure(results: Path, page: Path, name: str, judged: Sequence[Judged]) -> list[str]:
    """Picture, tables, comparisons and command of one figure of the paper."""
    written = Written.read(results, name)
    if written is None:
        return [f"Not measured yet: `semlink experiment {name}`."]
    return [*_measured(written, page, METRIC_OF[name]), "", *_of_section(name, judged)][:-1]


def _on_other_corpora(results: Path, page: Path, name: str) -> list[Section]:
    """The same figure on real data: ``NAME-CORPUS.json``."""
    sections = []
    for path in sorted(results.glob(f"{name}-*.json")):
        written = Written.read(results, path.stem)
        if written is None:
            continue
        corpora = {f"{row.corpus}, split {row.split}" for row in written.rows if row.corpus}
        heading = f"{name} on real data: {' and '.join(sorted(corpora))}"
        metric = METRIC_OF[name]
        sections.append(Section(written.name, heading, _measured(written, page, metric)))
    return sections


def _measured(written: Written, page: Path, metric: str) -> list[str]:
    by_bits = _is_by_bits(written.rows)
    other = "map" if metric == "r_at_1" else "r_at_1"
    title, beside = METRIC_TITLES[metric], METRIC_TITLES[other]
    lines = [EARLIER, ""] if written.is_earlier else []
    lines += [_on_what(written.rows), "", _shows(written.rows, metric, by_bits=by_bits), ""]
    if gains := _gains(written.rows):
        lines += [gains, ""]
    lines += _shown(written, page)
    lines += [f"{title}:", "", *_curves(written, metric, by_bits=by_bits), ""]
    if comparisons := _comparisons(written, metric, by_bits=by_bits):
        lines += [f"SC-LMKB minus each, points of {title}:", "", *comparisons, ""]
    more = _curves(written, other, by_bits=by_bits)
    if versus := _comparisons(written, other, by_bits=by_bits):
        more += ["", f"SC-LMKB minus each, points of {beside}:", "", *versus]
    lines += [*_folded(f"The same in {beside}", more), ""]
    if pick(written.rows, metric="outage"):
        costs = ["Outage, percent of queries:", ""]
        costs += _curves(written, "outage", by_bits=by_bits)
        costs += ["", "Goodput, right answers a second in 1 kHz:", ""]
        costs += _curves(written, "goodput", by_bits=by_bits, scale=1.0)
        lines += [*_folded("What the link costs: outage and goodput", costs), ""]
    lines.append(written.provenance)
    return lines


def _is_by_bits(rows: Sequence[Row]) -> bool:
    ours = pick(rows, method=OURS)
    return len({r.bits for r in ours}) > len({r.snr_db for r in ours})


def _on_what(rows: Sequence[Row]) -> str:
    """Corpus, split, seeds and link, once."""
    first = next((r for r in rows if r.method == OURS and r.seeds), rows[0])
    said = [f"corpus `{first.corpus}`, split {first.split}"] if first.corpus else []
    said += [str(x) for x in (first.scenario, first.variant) if x]
    said += [f"{first.speed_kmh:g} km/h"] if first.speed_kmh is not None else []
    said += [f"k = {first.symbols}"] if first.symbols else []
    said += [f"{first.seeds} seeds"] if first.seeds else []
    return f"Measured on: {', '.join(said)}." if said else ""


def _shows(rows: Sequence[Row], metric: str, *, by_bits: bool) -> str:
    """Where ours is clear above or below each rival, in a sentence read off the intervals."""
    unit = "bits" if by_bits else "dB"
    clear: list[str] = []
    level: list[str] = []
    for method, title in ROWS.items():
        found = _versus(rows, metric, method)
        if method == OURS or not found:
            continue
        sides = len(clear)
        for test, word in ((is_above, "above"), (is_below, "below")):
            at = [x for r in found if test(r) and (x := _x(r, by_bits=by_bits)) is not None]
            if len(at) == len(found):
                clear.append(f"clear {word} {title} at all points")
            elif at:
                clear.append(f"clear {word} {title} at {_listed(at)} {unit}")
        if len(clear) == sides:
            level.append(title)
    if not clear and not level:
        return ""
    said = f"**What it shows** ({METRIC_TITLES[metric]}): SC-LMKB "
    said += f"is {'; '.join(clear)}" if clear else "is clear of no rival"
    said += f"; it cannot be told apart from {'; '.join(level)} at any point." if level else "."
    near = [
        x
        for r in pick(rows, metric="map_share_of_ideal", method=OURS)
        if r.mean >= 0.95 and (x := _x(r, by_bits=by_bits)) is not None
    ]
    if near:
        said += f" It has 95 % of the ideal link's mAP at {_listed(near)} {unit}."
    return said


def _listed(xs: Sequence[float]) -> str:
    return ", ".join(f"{x:g}" for x in sorted(xs))


def _gains(rows: Sequence[Row]) -> str:
    """The largest relative gain, beside what the paper's abstract says of its own."""
    said = []
    for rival, paper in (("deepsc-mimo", "72.6"), ("llm-sc", "90.7")):
        gains = relative_gains(rows, "r_at_1", rival)
        if gains:
            gain, at = max(gains, key=lambda pair: pair[0])
            place = f"{at.snr_db:g} dB, {at.bits} bits"
            said.append(
                f"{100 * gain:+.1f} % over {ROWS[rival]} ({place}; paper: up to +{paper} %)"
            )
    return f"Largest relative gain of R@1 here: {', '.join(said)}." if said else ""


def _x(row: Row, *, by_bits: bool) -> float | None:
    return row.bits if by_bits else row.snr_db


def _curves(written: Written, metric: str, *, by_bits: bool, scale: float = 100.0) -> list[str]:
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
        lines.append("| ideal link (bound) |" + f" {_cell(ideal[0], scale, 1)} |" * len(xs))
    perfect = pick(rows, quantizer="perfect")
    if perfect:
        cells = [
            next((_cell(r, scale, 1) for r in perfect if by_bits or r.snr_db == x), "–") for x in xs
        ]
        lines.append("| perfect CSI (bound) | " + " | ".join(cells) + " |")
    for method, title in ROWS.items():
        curve = {
            _x(r, by_bits=by_bits): r for r in rows if r.method == method and r.quantizer == "rvq"
        }
        if curve:
            cells = [_cell(curve[x], scale, 1) if x in curve else "–" for x in xs]
            lines.append(f"| {title} (`{method}`) | " + " | ".join(cells) + " |")
    return lines


def _versus(rows: Sequence[Row], metric: str, method: str) -> list[Row]:
    prefix = f"{ROWS[OURS]} vs {ROWS[method]}, "
    return [
        r
        for r in rows
        if r.metric == f"{metric}_difference" and (r.variant or "").startswith(prefix)
    ]


def _comparisons(written: Written, metric: str, *, by_bits: bool) -> list[str]:
    rows = [r for r in written.rows if r.metric == f"{metric}_difference"]
    xs = sorted({x for r in rows if (x := _x(r, by_bits=by_bits)) is not None})
    if not xs:
        return []
    unit = "bits" if by_bits else "dB"
    lines = [
        "| against | " + " | ".join(f"{x:g} {unit}" for x in xs) + " |",
        "|---|" + "---|" * len(xs),
    ]
    for method, title in ROWS.items():
        curve = {_x(r, by_bits=by_bits): r for r in _versus(rows, metric, method)}
        if method != OURS and curve:
            cells = [_difference(curve[x]) if x in curve else "–" for x in xs]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _difference(row: Row) -> str:
    """In bold where the interval is clear of 0."""
    text = _span(row)
    return f"**{text}**" if is_above(row) or is_below(row) else text


def _span(row: Row) -> str:
    low, high = row.ci95 or (row.mean, row.mean)
    return f"{100 * row.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


# --- which method ------------------------------------------------------------------------------


def needs(method: str) -> tuple[str, ...]:
    """What a method asks of the knowledge base for a query."""
    found = METHODS[method]
    said = ["rewrites by the LLM"] if found.rewrites else []
    if found.predictor == "":
        said.append("the predictor chosen for the link")
    elif found.predictor != "hold-last":
        said.append(f"the predictor {found.predictor}")
    return tuple(said)


def _advice(results: Path) -> list[str]:
    """What to use at 5 dB with 32 bits of feedback, and why, read off fig9 by intervals."""
    written = Written.read(results, "fig9")
    if written is None:
        return ["Not measured yet: `semlink experiment fig9`."]
    place = {"bits": ADVICE_BITS, "snr_db": ADVICE_SNR_DB}
    at = {str(r.method): r for r in pick(written.rows, metric="map", **place) if r.method in ROWS}
    if OURS not in at:
        return [f"fig9 holds no point at {ADVICE_SNR_DB:g} dB and {ADVICE_BITS} bits."]
    versus = {
        method: row
        for method in ROWS
        if method != OURS
        for row in _versus(written.rows, "map", method)
        if row.bits == ADVICE_BITS and row.snr_db == ADVICE_SNR_DB and method in at
    }
    chosen, why = _chosen(at, versus)
    lines = [EARLIER, ""] if written.is_earlier else []
    lines += [
        f"**At {ADVICE_SNR_DB:g} dB with {ADVICE_BITS} bits of feedback use `{chosen}`: {why}** "
        f"(person, {at[OURS].scenario}, {at[OURS].variant}, mAP; [fig9](#fig9).)",
        "",
        "| method | mAP | SC-LMKB minus it | asks of the knowledge base |",
        "|---|---|---|---|",
    ]
    for row in sorted(at.values(), key=lambda r: -r.mean):
        method = str(row.method)
        difference = _difference(versus[method]) if method in versus else "–"
        name = f"**`{method}`**" if method == chosen else f"`{method}`"
        asked = ", ".join(needs(method)) or "nothing"
        lines.append(f"| {name} | {_cell(row, 100.0, 1)} | {difference} | {asked} |")
    return lines


def _chosen(at: dict[str, Row], versus: dict[str, Row]) -> tuple[str, str]:
    """The method, and a sentence of why: a clear winner, else of those that tie the one that needs least."""
    above = [m for m, r in versus.items() if is_below(r)]
    level = [m for m, r in versus.items() if not is_above(r) and not is_below(r)]
    if above:
        best = max(above, key=lambda m: at[m].mean)
        return best, f"SC-LMKB is measurably below it, by {_span(versus[best])} points."
    simplest = min([OURS, *level], key=lambda m: (len(needs(m)), -at[m].mean))
    if simplest == OURS and not level:
        low = min((r.ci95 or (r.mean, r.mean))[0] for r in versus.values()) if versus else 0.0
        return (
            OURS,
            f"it is measurably above every other method, by at least {100 * low:.1f} points.",
        )
    if simplest == OURS:
        return OURS, "nothing that needs less is level with it."
    asked = ", ".join(needs(simplest)) or "nothing"
    return simplest, (
        f"SC-LMKB's mAP is {_span(versus[simplest])} points from it, an interval that holds 0, and it asks {asked} "
        f"of the knowledge base where SC-LMKB asks {' and '.join(needs(OURS))}."
    )


# --- other experiments -------------------------------------------------------------------------


def _rates(results: Path, page: Path, judged: Sequence[Judged]) -> list[str]:
    """CSI feedback: what each quantiser gives for its bits, beside the Gaussian line."""
    written = Written.read(results, RATES)
    if written is None:
        return [f"Not measured yet: `semlink experiment {RATES}`."]
    lines = [EARLIER, ""] if written.is_earlier else []
    (figure,) = pictures(written.path)
    lines += [_rates_show(figure.panels), "", *_shown(written, page)]
    for panel in figure.panels:
        lines += [f"{panel.y_label}, {panel.title}:", "", *_table(panel, "bits", scale=1.0), ""]
    lines += [*_of_section(RATES, judged), written.provenance]
    return lines


def _rates_show(panels: Sequence[Panel], bits: float = 64) -> str:
    """The best line of each panel at 64 bits, and the Gaussian reference there."""
    said = []
    for panel in panels:
        found = {
            line.label: row.mean
            for line in panel.lines
            for x, row in zip(line.x, line.rows, strict=True)
            if x == bits and not line.bound
        }
        reference = next(
            (
                row.mean
                for line in panel.lines
                for x, row in zip(line.x, line.rows, strict=True)
                if x == bits and line.label.startswith("Gaussian")
            ),
            None,
        )
        if found:
            best = (min if panel.y_label.startswith("NMSE") else max)(found, key=found.__getitem__)
            beside = "" if reference is None else f" (Gaussian reference {reference:.1f})"
            said.append(f"{panel.y_label}, {panel.title}: {best} {found[best]:.3g}{beside}")
    return f"**What it shows**, best at {bits:g} bits: {'; '.join(said)}."


def _studies(results: Path, page: Path, judged: Sequence[Judged]) -> list[Section]:
    """Every report of :data:`STUDIES`, by experiment, task and scenario."""
    sections = []
    for kind, title in STUDIES.items():
        found = [
            written
            for path in sorted(results.glob(f"{kind}-*.json"))
            if STUDIED.fullmatch(path.stem)
            and (written := Written.read(results, path.stem)) is not None
        ]
        if not found:
            text = f"Not measured yet: `semlink experiment {kind}`."
            sections.append(Section(kind, f"{kind}: {title}", [text]))
        for place, written in enumerate(found):
            said = _of_section(kind, judged) if not place else []
            heading = f"{written.name}: {title}"
            lines = [*_study(written, page, kind), *(["", *said[:-1]] if said else [])]
            sections.append(Section(written.name, heading, lines))
    return sections


def _study(written: Written, page: Path, kind: str) -> list[str]:
    lines = [EARLIER, ""] if written.is_earlier else []
    lines += [_on_what([r for r in written.rows if r.scenario]), ""]
    claims = [r for r in written.rows if r.metric == "map_difference"]
    axis: Callable[[Row], float | None]
    axis, unit = {
        "snr": (lambda r: r.snr_db, "dB"),
        "feedback": (lambda r: r.snr_db, "dB"),
        "rate": (lambda r: r.symbols, "symbols"),
    }[kind]
    if claims:
        lines += [_claims_show(claims), ""]
    lines += _shown(written, page)
    x_unit = {"snr": "dB", "feedback": "bits", "rate": "k"}[kind]
    for figure in pictures(written.path):
        for panel in figure.panels:
            shown = _table(panel, x_unit, scale=100.0)
            title = f"{panel.y_label}, {panel.title}"
            if panel.y_label == METRIC_TITLES["map"]:
                lines += [f"{title}:", "", *shown, ""]
            else:
                lines += [*_folded(title, shown), ""]
    if claims:
        shown = _claims(claims, axis, unit)
        lines += [*_folded("Differences in points of mAP, with intervals", shown), ""]
    lines.append(written.provenance)
    return lines


def _claims_show(claims: Sequence[Row]) -> str:
    """Of each pair that is compared: at how many points it is clear, which way, and the range of the differences."""
    groups: dict[str, list[Row]] = {}
    for row in claims:
        # Sizes of a report are points of a comparison, not comparisons of their own.
        label = re.sub(r" \d+ bits", "", (row.variant or "").split(" vs ")[0])
        other = (row.variant or "").partition(" vs ")[2]
        groups.setdefault(f"{label} vs {other}", []).append(row)
    said, level = [], []
    for label, rows in groups.items():
        above, below = sum(map(is_above, rows)), sum(map(is_below, rows))
        low, high = (100 * f(r.mean for r in rows) for f in (min, max))
        counts = [f"clear {w} at {n}" for n, w in ((above, "above"), (below, "below")) if n]
        if counts:
            said.append(
                f"* {label}: {' and '.join(counts)} of {len(rows)} points; {low:+.1f} … {high:+.1f} points of mAP."
            )
        else:
            level.append(label)
    if level:
        said.append(f"* No clear difference at any point: {'; '.join(level)}.")
    return "\n".join(["**What it shows:**", "", *said])


def _claims(claims: Sequence[Row], axis: Callable[[Row], float | None], unit: str) -> list[str]:
    """A line a comparison, a column a point of the axis."""
    xs = sorted({x for r in claims if (x := axis(r)) is not None})
    places: dict[str, dict[float, Row]] = {}
    links = {(r.speed_kmh, None if unit == "dB" else r.snr_db) for r in claims}
    for row in claims:
        label = str(row.variant)
        if len(links) > 1:
            label += f", {row.speed_kmh:g} km/h" if row.speed_kmh is not None else ""
            label += f", {row.snr_db:g} dB" if unit != "dB" and row.snr_db is not None else ""
        if (x := axis(row)) is not None:
            places.setdefault(label, {})[x] = row
    lines = [
        "| | " + " | ".join(f"{x:g} {unit}" for x in xs) + " |",
        "|---|" + "---|" * len(xs),
    ]
    for label, at in places.items():
        cells = [_difference(at[x]) if x in at else "–" for x in xs]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def _table(panel: Panel, unit: str, *, scale: float) -> list[str]:
    """A panel's lines as rows of a table."""
    xs = sorted({x for line in panel.lines for x in line.x})
    lines = [
        "| | " + " | ".join(f"{x:g} {unit}" for x in xs) + " |",
        "|---|" + "---|" * len(xs),
    ]
    digits = 1 if scale != 1.0 or panel.y_label.endswith("[dB]") else 3
    for line in panel.lines:
        at = dict(zip(line.x, line.rows, strict=True))
        cells = [_cell(at[x], scale, digits) if x in at else "–" for x in xs]
        name = f"{line.label} (bound)" if line.bound else line.label
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _cell(row: Row, scale: float, digits: int) -> str:
    spread = f" ± {scale * row.sd:.{digits}f}" if row.sd is not None else ""
    return f"{scale * row.mean:.{digits}f}{spread}"


def _pages(
    results: Path, page: Path, names: Sequence[str], judged: Sequence[Judged]
) -> list[Section]:
    """Pages that experiments write beside their reports, with their pictures; long ones folded after their start."""
    sections = []
    for name in names:
        beside = results / f"{name}.md"
        if not beside.is_file():
            text = f"Not measured yet: `semlink experiment {name}`."
            sections.append(Section(name, name, [text]))
            continue
        title, *body = beside.read_text().strip().splitlines()
        has_title = title.startswith("# ")
        heading = title.removeprefix("# ") if has_title else name
        body = body if has_title else [title, *body]
        while body and not body[0]:
            body.pop(0)
        # Their own headings go a level down.
        body = [f"#{line}" if line.startswith("#") else line for line in body]
        written = Written.read(results, name)
        lines = [EARLIER, ""] if written is not None and written.is_earlier else []
        lines += _of_section(name, judged)
        whole = results / f"{name}.html"
        if whole.is_file():
            page.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(whole, page.parent / whole.name)
            lines += [f"**[The whole page]({whole.name})** (open it in a browser).", ""]
        if written is not None:
            shown = _shown(written, page)
            # Its own text may show the picture already.
            lines += [] if any("![" in line for line in body) else shown
        start = _first_part(body)
        lines += body[:start]
        if start < len(body):
            lines += _folded("All tables", body[start:])
        if written is not None:
            lines += ["", written.provenance]
        text = f"{name}: {heading}" if heading != name else name
        sections.append(Section(name, text, lines))
    return sections


def _first_part(body: Sequence[str]) -> int:
    """Where a long page is folded: before its first heading after a table, or before its first long table."""
    if len(body) <= LONG_PAGE:
        return len(body)
    headings = [i for i, line in enumerate(body) if line.startswith("#")]
    fitting = [i for i in headings if i and i <= LONG_PAGE]
    return fitting[-1] if fitting else (headings[0] if headings else len(body))


# --- pictures ----------------------------------------------------------------------------------


def _shown(written: Written, page: Path) -> list[str]:
    """The report's pictures: PNG shown, vectors linked; drawn from its rows if they are missing or older."""
    suffixes = [figure.suffix for figure in ensure_drawn(written.path)]
    lines: list[str] = []
    for suffix in suffixes or [""]:
        copied = _copy_pictures(written.path, suffix, page)
        if not copied:
            continue
        name = f"{written.name}{suffix}"
        vectors = " · ".join(
            f"[{path.suffix[1:].upper()}](images/{path.name})"
            for path in copied
            if path.suffix != ".png"
        )
        said = "SC-LMKB minus each rival" if suffix == DIFFERENCES else name
        lines += [f"![{said}](images/{name}.png)", ""]
        lines += [vectors, ""] if vectors else []
    return lines


def _copy_pictures(report: Path, suffix: str, page: Path) -> list[Path]:
    """Copy a picture in every format that there is into ``images/`` beside the page."""
    images = page.parent / "images"
    copied = []
    for form in SHOWN:
        picture = report.with_name(f"{report.stem}{suffix}{form}")
        if picture.is_file():
            images.mkdir(parents=True, exist_ok=True)
            copied.append(Path(shutil.copyfile(picture, images / picture.name)))
    return copied if any(path.suffix == ".png" for path in copied) else []
