"""Fill the tables of ``docs/explain.md`` from measured results: ``python -m tools.docs.feedback_page results/``.

A block of the page stands between ``<!-- name -->`` and ``<!-- end -->``; its text is made here from the JSON files
of the experiments, so that no figure is typed by hand. What is not measured yet is said to be so, with its command.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from lab.evaluation.csi_metrics import CHANNEL, WHEN_USED
from lab.evaluation.report import ROOT, Row, pick, read_rows
from lab.experiments.csi_quantization import CODEBOOKS, FORMS, form_label
from lab.experiments.feedback_bits_sweep import FORMS as FEEDBACK_FORMS
from tools.docs.redraw import ensure_drawn

BLOCK: Final = re.compile(r"(<!-- (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
SCENARIOS: Final = ("umi-los", "uma-nlos")
COMMANDS: Final = {
    "csi-rate": "semlink experiment csi-rate",
    "csi-rate-held-out": "semlink experiment csi-rate --held-out",
    "feedback-person-umi-los": "semlink experiment feedback --task person",
    "snr-person-umi-los": "semlink experiment snr --task person",
    "snr-person-uma-nlos": "semlink experiment snr --task person --scenario uma-nlos",
    "rate-person-umi-los": "semlink experiment rate --task person",
    "protection": "python -m lab.experiments.ablations.unequal_protection",
}
"""The default command of each report; the one that was really run stands in the file and is shown instead."""
PICTURES: Final = (
    "csi-rate",
    "feedback-person-umi-los",
    "snr-person-umi-los-feedback",
    "snr-person-umi-los-coding",
    "snr-person-uma-nlos-feedback",
    "snr-person-uma-nlos-coding",
    "rate-person-umi-los",
)


class Missing(Exception):
    """A report that is not there."""


class Results:
    """The reports of one directory, each read once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._rows: dict[str, list[Row]] = {}

    def rows(self, name: str) -> list[Row]:
        """Rows of a report. Raises Missing."""
        if name not in self._rows:
            path = self._directory / f"{name}.json"
            if not path.is_file():
                raise Missing(name)
            self._rows[name] = read_rows(path)
        return self._rows[name]

    def command(self, name: str) -> str:
        """The command that measured a report."""
        self.rows(name)
        content = json.loads((self._directory / f"{name}.json").read_text())
        return str(content["command"])


def _mean(row: Row | None, *, digits: int = 2, percent: bool = False) -> str:
    if row is None:
        return "–"
    scale = 100 if percent else 1
    spread = f" ± {scale * row.sd:.{digits}f}" if row.sd is not None else ""
    return f"{scale * row.mean:.{digits}f}{spread}"


def _interval(row: Row) -> str:
    low, high = row.ci95 or (row.mean, row.mean)
    return f"{100 * row.mean:+.1f} ({100 * low:+.1f} … {100 * high:+.1f})"


def _one(rows: Sequence[Row], **coordinates: object) -> Row | None:
    found = pick(rows, **coordinates)
    return found[0] if found else None


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = "|".join(["---", *("---:" for _ in head[1:])])
    return "\n".join(
        [f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(x)} |" for x in lines)]
    )


def _users(count: int) -> str:
    return "1 user" if count == 1 else f"{count} users"


def _stated(form: tuple[str, str], reference: str) -> str:
    return f"{form[1]}, {reference}" if form[1] else reference


def _nearest(rows: Sequence[Row], form: tuple[str, str], bits: int, **at: object) -> Row | None:
    """The figure at ``bits``; for a codebook of few sizes the largest that is not greater."""
    found = pick(rows, quantizer=form[0], variant=_stated(form, CHANNEL), **at)
    fitting = [r for r in found if (r.bits or 0) == bits]
    if form[0] in CODEBOOKS:
        fitting = [r for r in found if (r.bits or 0) <= bits]
    return max(fitting, key=lambda r: r.bits or 0, default=None)


def csi_table(results: Results, metric: str, digits: int) -> str:
    """A metric of every form of report at 16, 64 and 256 bits, both scenarios, against the channel."""
    rows = results.rows("csi-rate")
    sizes = (16, 64, 256)
    lines = []
    forms = [f for f in FORMS if metric != "nmse_db" or f[1] == "channel"]
    for form in forms:
        cells = []
        for scenario in SCENARIOS:
            for bits in sizes:
                row = _nearest(rows, form, bits, metric=metric, scenario=scenario)
                named = f" ({row.bits} bits)" if row is not None and row.bits != bits else ""
                cells.append(_mean(row, digits=digits) + named)
        if any(cell != "–" for cell in cells):
            lines.append([form_label(*form), *cells])
    if metric == "precoding_gain_db":
        for bound, title in (("perfect", "perfect CSI"), ("none", "no feedback")):
            at = [
                _one(rows, metric=metric, quantizer=bound, scenario=s, variant=CHANNEL)
                for s in SCENARIOS
                for _ in sizes
            ]
            lines.append([title, *(_mean(row, digits=digits) for row in at)])
    if metric == "nmse_db":
        line = [
            _one(rows, quantizer="gaussian-rd", scenario=s, bits=b)
            for s in SCENARIOS
            for b in sizes
        ]
        lines.append(["Gaussian reference", *(_mean(row, digits=digits) for row in line)])
    head = ["reports", *(f"{s}, {b} bits" for s in SCENARIOS for b in sizes)]
    return _table(head, lines)


def held_out_table(results: Results) -> str:
    """SGCS at 64 bits on channels unlike the training's, when the report is used, and the change."""
    rows = results.rows("csi-rate-held-out")
    forms = [f for f in FORMS if f[0] not in CODEBOOKS]
    lost = pick(rows, metric="sgcs_loss", bits=64)
    conditions = list(dict.fromkeys(str(row.variant).split(": ")[0] for row in lost))
    lines = []
    for condition in conditions:
        cells = []
        for form in forms:
            variant = f"{condition}: {_stated(form, WHEN_USED)}"
            here, loss = (
                _one(rows, metric=m, quantizer=form[0], bits=64, variant=variant)
                for m in ("sgcs", "sgcs_loss")
            )
            cells.append(f"{_mean(here)} ({-loss.mean:+.2f})" if here and loss else "–")
        lines.append([condition, *cells])
    return _table(["channel", *(form_label(*f) for f in forms)], lines)


def _memory_variant(users: int, memory: str) -> str:
    return f"{users} users, {memory}" if memory else f"{users} users"


def feedback_table(results: Results) -> str:
    """MAP by bits at 3 km/h and 25 dB, one user and four."""
    rows = pick(results.rows("feedback-person-umi-los"), metric="map", speed_kmh=3.0, snr_db=25.0)
    sizes = sorted({r.bits for r in rows if r.bits})
    lines = []
    for users in (1, 4):
        for quantizer, memory in FEEDBACK_FORMS:
            at = {"quantizer": quantizer, "variant": _memory_variant(users, memory)}
            cells = [_mean(_one(rows, bits=b, **at), digits=1, percent=True) for b in sizes]
            if any(cell != "–" for cell in cells):
                lines.append([f"{_users(users)}, {form_label(quantizer, memory)}", *cells])
        for bound, title in (("perfect", "perfect CSI"), ("none", "no feedback")):
            row = _one(rows, quantizer=bound, variant=_memory_variant(users, ""))
            lines.append(
                [f"{_users(users)}, {title}", *[_mean(row, digits=1, percent=True)] * len(sizes)]
            )
    return _table(["mAP in %", *(f"{b} bits" for b in sizes)], lines)


def gap_table(results: Results) -> str:
    """The gap from 16 bits to perfect CSI, and the share of it that memory closes."""
    rows = results.rows("feedback-person-umi-los")
    gaps = [
        r
        for r in pick(rows, metric="map_difference")
        if str(r.variant).startswith("perfect CSI vs RVQ 16 bits,")
    ]
    lines = []
    for gap in gaps:
        users = str(gap.variant).rpartition(", ")[2]
        closed = [
            r
            for r in pick(rows, metric="map_gap_closed", speed_kmh=gap.speed_kmh, snr_db=gap.snr_db)
            if str(r.variant).endswith(f", {users}")
        ]
        by_memory = {m: r for r in closed for m in ("fused", "predictive") if m in str(r.variant)}
        lines.append(
            [
                f"{users}, {gap.snr_db:g} dB, {gap.speed_kmh:g} km/h",
                _interval(gap),
                *(
                    _interval(by_memory[m]) if m in by_memory else "–"
                    for m in ("fused", "predictive")
                ),
            ]
        )
    return _table(["link", "gap in mAP points", "fused closes, %", "predictive closes, %"], lines)


def coding_table(results: Results, scenario: str) -> str:
    """MAP of joint and digital coding by SNR, and the difference with its interval."""
    rows = results.rows(f"snr-person-{scenario}")
    lines = []
    variants = [f"{n} users" for n in (1, 4)]
    for variant in variants:
        for row in sorted(
            pick(rows, metric="map", method="separation", variant=variant),
            key=lambda r: r.snr_db or 0.0,
        ):
            at = {"snr_db": row.snr_db, "variant": variant}
            joint = _one(rows, metric="map", method="deepsc-mimo", quantizer="rvq", bits=64, **at)
            indices = _one(rows, metric="map", method="vq-digital", **at)
            erased = _one(rows, metric="erased", method="separation", **at)
            share = _one(
                rows,
                metric="map_share_of_ideal",
                method="deepsc-mimo",
                quantizer="rvq",
                bits=64,
                **at,
            )
            difference = _one(
                rows,
                metric="map_difference",
                snr_db=row.snr_db,
                variant=f"JSCC vs separation (LDPC), {variant}",
            )
            lines.append(
                [
                    f"{_users(int(variant.split()[0]))}, {row.snr_db:g} dB",
                    *(_mean(r, digits=1, percent=True) for r in (joint, indices, row, erased)),
                    _interval(difference) if difference else "–",
                    _mean(share, digits=1, percent=True),
                ]
            )
    head = [
        "link",
        "JSCC",
        "VQ indices",
        "separation",
        "of it erased",
        "JSCC − separation",
        "JSCC / ideal",
    ]
    return _table(head, lines)


def rate_table(results: Results) -> str:
    """MAP by channel uses."""
    rows = pick(results.rows("rate-person-umi-los"), metric="map")
    sizes = sorted({r.symbols for r in rows if r.symbols})
    lines = []
    for snr_db in sorted({r.snr_db for r in rows if r.symbols and r.snr_db is not None}):
        for method, title in (
            ("deepsc-mimo", "JSCC"),
            ("vq-digital", "VQ indices"),
            ("separation", "separation"),
        ):
            cells = [
                _mean(_one(rows, method=method, snr_db=snr_db, symbols=k), digits=1, percent=True)
                for k in sizes
            ]
            if any(cell != "–" for cell in cells):
                lines.append([f"{snr_db:g} dB, {title}", *cells])
    ideal = _mean(_one(rows, method="ideal"), digits=1, percent=True)
    lines.append(["ideal link", *[ideal] * len(sizes)])
    return _table(["mAP in %", *(f"k = {k}" for k in sizes)], lines)


def protection_table(results: Results) -> str:
    """Cosine at which each component of a message arrives, protected unequally and equally."""
    rows = results.rows("protection")
    lines = []
    for k in sorted({r.symbols for r in rows if r.symbols}):
        for snr_db in sorted({r.snr_db for r in rows if r.snr_db is not None}):
            for protection in ("unequal", "equal"):
                cells = [
                    _mean(
                        _one(
                            rows,
                            symbols=k,
                            snr_db=snr_db,
                            variant=f"component {place}, {protection}",
                        ),
                        digits=3,
                    )
                    for place in (1, 2, 3, 4)
                ]
                lines.append([f"k = {k}, {snr_db:g} dB, {protection}", *cells])
    return _table(["cosine of component", "1", "2", "3", "4"], lines)


BLOCKS: Final[dict[str, tuple[str, Callable[[Results], str]]]] = {
    "csi-sgcs": ("csi-rate", lambda r: csi_table(r, "sgcs", 3)),
    "csi-nmse": ("csi-rate", lambda r: csi_table(r, "nmse_db", 1)),
    "csi-gain": ("csi-rate", lambda r: csi_table(r, "precoding_gain_db", 1)),
    "held-out": ("csi-rate-held-out", held_out_table),
    "feedback-bits": ("feedback-person-umi-los", feedback_table),
    "gap": ("feedback-person-umi-los", gap_table),
    "coding-umi": ("snr-person-umi-los", lambda r: coding_table(r, "umi-los")),
    "coding-uma": ("snr-person-uma-nlos", lambda r: coding_table(r, "uma-nlos")),
    "rate": ("rate-person-umi-los", rate_table),
    "protection": ("protection", protection_table),
}
"""Report and text of each block."""


def filled(page: str, results: Results) -> str:
    """The page with every block made anew. Raises KeyError for a block of an unknown name."""

    def block(match: re.Match[str]) -> str:
        report, make = BLOCKS[match["name"]]
        try:
            text = f"{make(results)}\n\nMeasured with `{results.command(report)}`."
        except Missing:
            text = f"Not measured yet: `{COMMANDS[report]}`."
        return f"{match[1]}{text}\n{match[3]}"

    return BLOCK.sub(block, page)


def explain(
    directory: Annotated[Path, typer.Argument(help="where experiments wrote")] = Path("results"),
    page: Annotated[Path, typer.Option(help="the page to fill")] = ROOT / "docs" / "explain.md",
) -> None:
    """Fill the page's blocks and bring the pictures beside it."""
    page.write_text(filled(page.read_text(), Results(directory)))
    for name in COMMANDS:
        if (directory / f"{name}.json").is_file():
            ensure_drawn(directory / f"{name}.json")
    images = page.parent / "images"
    images.mkdir(exist_ok=True)
    for name in PICTURES:
        if (directory / f"{name}.png").is_file():
            shutil.copyfile(directory / f"{name}.png", images / f"{name}.png")
    typer.echo(f"written: {page}")


if __name__ == "__main__":
    typer.run(explain)
