"""The README's tables of methods and targets, out of the reports: ``semlink results --readme`` writes them.

What a method is stands here; every figure, command and commit comes from the reports. A method that no report holds
keeps its row and says "not yet".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lab.evaluation.claims import judge_all, rows_of
from lab.evaluation.compare_reports import read
from lab.evaluation.report import ROOT, Row, pick, weights_hash
from lab.experiments.tables import cell
from semlink.errors import NotFound

BLOCKS: Final = ("methods", "targets")
"""Each stands between ``<!-- NAME -->`` and ``<!-- end of NAME -->``."""
FIGURE_OF: Final = {"person": "fig6", "image": "fig7", "audio": "fig8"}
"""Reports of SC-LMKB and its rivals."""
CURVES: Final = {task: (FIGURE_OF[task], f"snr-{task}-umi-los") for task in FIGURE_OF}
"""Reports over the link of each task, in which a row is looked up in this order."""


@dataclass(frozen=True, slots=True)
class At:
    """Where a method is quoted: the words for it and the coordinates of its row."""

    label: str
    row: dict[str, Any] = field(default_factory=dict)


def _rvq(bits: int, snr_db: float) -> At:
    return At(
        f"{bits}-bit `rvq`, {snr_db:g} dB".replace("-10 dB", "−10 dB"),
        {"quantizer": "rvq", "bits": bits, "snr_db": snr_db, "variant": "4 users"},
    )


def _other(label: str, quantizer: str, bits: int | None) -> At:
    return At(label, {"quantizer": quantizer, "bits": bits, "snr_db": 0.0, "variant": "4 users"})


@dataclass(frozen=True, slots=True)
class Method:
    """A method's rows of the table."""

    name: str
    what: str
    places: Sequence[At]


AT_THREE: Final = (_rvq(64, 10.0), _rvq(64, 0.0), _rvq(64, -10.0))
METHODS: Final = (
    Method("ideal", "the feature itself, no channel (bound)", (At("–", {"scenario": None}),)),
    Method(
        "deepsc-mimo",
        "conventional semantic communication (JSCC), quantised outdated CSI, no knowledge base",
        (
            *AT_THREE,
            _rvq(16, 0.0),
            _other("512-bit `scalar`, 0 dB", "scalar", 512),
            _other("perfect CSI, 0 dB (bound)", "perfect", None),
            _other("no feedback, 0 dB (bound)", "none", None),
        ),
    ),
    Method(
        "separation",
        "separate coding: principal components in bits, CRC, 5G LDPC, QAM, MCS from outdated CSI",
        AT_THREE,
    ),
    Method("vq-digital", "indices of a vector quantiser over the same CRC, LDPC and QAM", AT_THREE),
    Method(
        "sc-lmkb",
        "SC-LMKB (arXiv 2604.05504): LLM rewrites, filter, fusion; CSI by the predictor that won on validation",
        AT_THREE,
    ),
    Method("sc-lmkb-cdg", "the same, CSI always by CDG, the LLM's generator", (_rvq(64, 0.0),)),
    Method("sc-lmkb-wo-sdg", "ablation: the channel side alone", (_rvq(64, 0.0),)),
    Method("sc-lmkb-wo-cdg", "ablation: the source side alone", (_rvq(64, 0.0),)),
    Method("llm-sc", "LLM-enabled SC without CDFC: every rewrite, plain mean", AT_THREE),
    Method("llm4cp", "LLM4CP channel prediction (arXiv 2406.14440)", (_rvq(64, 0.0),)),
    Method("csi-llm", "CSI-LLM channel prediction (arXiv 2409.00005)", (_rvq(64, 0.0),)),
)


def write(results: Path, readme: Path = ROOT / "README.md") -> Path:
    """Put the tables between their marks. Raises NotFound where marks are missing."""
    text = readme.read_text()
    for name, made in zip(BLOCKS, (table(results), targets(results)), strict=True):
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise NotFound(f"{readme} lacks the marks {begin} and {end}", field="readme")
        text = f"{before}{begin}\n{made}\n{end}{after}"
    readme.write_text(text)
    return readme


def targets(results: Path) -> str:
    """What was asked, whether it was met, and the figure, as Markdown."""
    judged = judge_all(rows_of(results) if any(results.glob("*.json")) else [])
    lines = ["| claim | asked | | measured |", "|---|---|---|---|"]
    for one in judged:
        verdict = one.verdict if one.verdict == "met" else f"**{one.verdict}**"
        lines.append(f"| {one.claim} | {one.target} | {verdict} | {one.found} |")
    return "\n".join(lines)


def table(results: Path) -> str:
    """The table and the commands that measured it, as Markdown."""
    reports = {
        name: read(results / f"{name}.json")
        for names in CURVES.values()
        for name in names
        if (results / f"{name}.json").is_file()
    }
    lines = ["| method | what it is | at | person | image | audio |", "|---|---|---|---|---|---|"]
    for method in METHODS:
        for number, at in enumerate(method.places):
            cells = [_cell(reports, task, method.name, at) for task in FIGURE_OF]
            head = f"`{method.name}` | {method.what}" if not number else " | "
            lines.append(f"| {head} | {at.label} | {' | '.join(cells)} |")
    lines += [_retrieval_row(results, one) for one in RETRIEVAL]
    lines += ["", *_provenance(reports)]
    return "\n".join(lines)


def _cell(
    reports: dict[str, tuple[dict[str, object], list[Row]]], task: str, method: str, at: At
) -> str:
    for name in CURVES[task]:
        if name not in reports:
            continue
        found = pick(reports[name][1], metric="r_at_1", method=method, **at.row)
        if found:
            return cell(found[0], percent=True)
    return "not yet"


def _provenance(reports: dict[str, tuple[dict[str, object], list[Row]]]) -> list[str]:
    """Commands, commits, and whether the weights are those of now."""
    said = [f"`{head['command']}` ({head['commit']})" for head, _ in reports.values()]
    old = [name for name, (head, _) in reports.items() if head["weights"] != weights_hash()]
    text = (
        f"Measured by {', '.join(said)}." if said else "Not measured yet: `semlink experiment all`."
    )
    return [text + (f" With earlier weights: {', '.join(old)}." if old else "")]


# --- the retrieval papers ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Retrieval:
    """A retrieval paper's row: its report, its task, and the variants that are quoted, each behind a few words."""

    method: str
    what: str
    report: str
    task: str
    variants: Sequence[tuple[str, str | None]]


RETRIEVAL: Final = (
    Retrieval(
        "sew-mcm",
        "Sew + MCM: heads by Sew calibration and masked captions; first candidates ranked again by shared neighbours",
        "sew-mcm",
        "person",
        (("", None), ("re-ranked, weight a fifth ", "re-ranked, weighted")),
    ),
    Retrieval(
        "gpa",
        "GPA: global feature and prototypes, LASS; text to sound",
        "gpa",
        "audio",
        (
            ("`mask` ", "table 2, mask, K = 3, text-to-audio"),
            ("`attention` ", "table 2, attention, K = 3, text-to-audio"),
        ),
    ),
    Retrieval(
        "itrieval-kd",
        "ItrievalKD: only the key sentences of a noisy text are sent; three captions among three noise sentences",
        "itrieval",
        "image",
        (("", "continuations, 3 noise sentences, zero-shot"),),
    ),
)


def _retrieval_row(results: Path, one: Retrieval) -> str:
    path = results / f"{one.report}.json"
    rows = pick(read(path)[1], metric="r_at_1", method=one.method) if path.is_file() else []
    said = [
        f"{words}{cell(found[0], percent=True)}"
        for words, variant in one.variants
        if (found := pick(rows, variant=variant))
    ]
    cells = [(", ".join(said) or "not yet") if task == one.task else "–" for task in FIGURE_OF]
    return f"| `{one.method}` | {one.what} | ideal link | {' | '.join(cells)} |"
