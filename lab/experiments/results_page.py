"""``docs/``'s generated part, from the reports in ``docs/reports`` alone: pages, tidy CSV files, one picture.

Pages are made by templates, which ask for figures by their coordinates; a figure that is missing stops everything, so
that no page is ever made of a part of the reports.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lab.evaluation.cache import ROOT, weights_hash
from lab.evaluation.claims import Reports, judge_all
from lab.evaluation.report import Row, csv_text, pick, write_compact
from lab.evaluation.templating import render
from lab.experiments.plotting import Line, Panel, draw
from lab.experiments.registry import EXPERIMENTS
from semlink.errors import InvalidField, NotFound

REPORTS: Final = ROOT / "docs" / "reports"
PICTURED: Final = (
    *("fig6", "fig7", "fig8", "fig9", "fig10", "fig12", "fig11"),
    *(
        "rate-person-umi-los",
        "feedback-person-umi-los",
        "snr-person-umi-los",
        "snr-person-uma-nlos",
    ),
    *("snr-image-umi-los", "snr-image-uma-nlos", "snr-audio-umi-los", "csi-rate", "csi-prediction"),
)
REAL: Final = (
    *(
        "fig7-flickr8k",
        "fig9-flickr8k",
        "fig12-flickr8k",
        "fig8-esc50",
        "fig9-esc50",
        "fig12-esc50",
    ),
)
"""The same figures on real data, whose licences do not let it be here."""
TABLES: Final = ("knowledge", "gpa", "itrieval", "sew-mcm")
"""Reports without a picture."""
NAMES: Final = (*PICTURED, *REAL, *TABLES)
SUFFIXES: Final = ("", "-feedback", "-coding", "-differences")
"""Of a report's pictures."""
PAGES: Final = {"results.md": "results.md.j2", "feedback.md": "feedback.md.j2"}
OVERVIEW: Final = "semantic-against-separate"
PAPER_VALUES: Final = "paper_values"
PAPER_COLUMNS: Final = (
    *("paper", "place", "figure", "metric", "printed", "ours", "low", "high", "report"),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A report as the page shows it."""

    name: str
    title: str
    images: tuple[str, ...]
    head: Mapping[str, Any]
    is_earlier: bool
    """Measured with other weights than those of today."""


def reports_folder(given: Path | None) -> Path:
    """The folder of reports: as given, or a checkout's ``docs/reports``.

    Raises NotFound where it was not given and this is no checkout.
    """
    if given is None and not REPORTS.is_dir():
        raise NotFound(
            "an installed semlink has no docs/reports: name a folder of reports with --reports DIR",
            field="reports",
        )
    return given or REPORTS


def adopt(source: Path, folder: Path) -> list[str]:
    """Take the reports of a folder of measurements, with their pictures, in the place of those of the page.

    Returns their names. Raises NotFound where none belongs to the page, InvalidField for a quick run.
    """
    names = [name for name in NAMES if (source / f"{name}.json").is_file()]
    if not names:
        raise NotFound(f"{source} holds no report of the page", field="adopt")
    contents = {name: json.loads((source / f"{name}.json").read_text()) for name in names}
    if quick := [name for name, content in contents.items() if content.get("quick")]:
        raise InvalidField(f"{', '.join(quick)} in {source}: quick run: no verdict", field="adopt")
    images = folder.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_compact(content, folder / f"{name}.json")
        for picture in _pictures(source, name):
            shutil.copyfile(picture, images / picture.name)
        if (source / f"{name}.html").is_file():
            shutil.copyfile(source / f"{name}.html", folder.parent / f"{name}.html")
    return names


def _pictures(folder: Path, name: str) -> list[Path]:
    found = [folder / f"{name}{suffix}{form}" for suffix in SUFFIXES for form in (".png", ".svg")]
    return [path for path in found if path.is_file()]


def write(folder: Path) -> list[Path]:
    """Write the pages, the CSV files and the overview's picture beside a folder of reports; returns their paths.

    Raises NotFound naming what is missing: nothing is written then.
    """
    docs = folder.parent
    reports = _complete(folder)
    made = _made(folder, reports)
    for name, text in made.items():
        (docs / name).write_text(text)
    drawn = draw(
        overview(reports),
        docs / "images" / OVERVIEW,
        title="Person search, UMi-LOS, 64-bit CSI reports; bars: 95 % intervals over 3 seeds",
    )
    for path in drawn:
        if path.suffix != ".png":
            path.unlink()
    return [*(docs / name for name in made), docs / "images" / f"{OVERVIEW}.png"]


def stale(folder: Path) -> list[str]:
    """Files that are not what :func:`write` would write. Raises NotFound naming what is missing."""
    docs = folder.parent
    made = _made(folder, _complete(folder))
    return [
        name
        for name, text in made.items()
        if not (docs / name).is_file() or (docs / name).read_text() != text
    ]


def _complete(folder: Path) -> Reports:
    reports = Reports.read(folder)
    missing = [f"{name}.json" for name in NAMES if name not in reports.rows]
    images = folder.parent / "images"
    missing += [
        f"images/{name}.png"
        for name in (*PICTURED, *REAL)
        if name in reports.rows
        and not any(path.suffix == ".png" for path in _pictures(images, name))
    ]
    missing += [
        f"{name}.json (quick run: no verdict)"
        for name in NAMES
        if name in reports.rows and reports.is_quick(name)
    ]
    if missing:
        raise NotFound(
            f"nothing written: of the reports in {folder} there is no {', '.join(missing)}; measure with `semlink "
            "experiment all`, then `semlink results --adopt results`",
            field="reports",
        )
    return reports


def _made(folder: Path, reports: Reports) -> dict[str, str]:
    """Content of every text file by its path under ``docs/``."""
    today = weights_hash()
    shown = {
        name: Shown(
            name,
            EXPERIMENTS[_experiment(name)].title,
            tuple(p.stem for p in _pictures(folder.parent / "images", name) if p.suffix == ".png"),
            reports.heads[name],
            bool(reports.heads[name]["weights"] != today),
        )
        for name in NAMES
    }
    facts: dict[str, Any] = {
        "pictured": [shown[name] for name in PICTURED],
        "real": [shown[name] for name in REAL],
        "tables": [shown[name] for name in TABLES],
        "claims": judge_all(reports),
        "cell": _Cells(reports),
        "heads": reports.heads,
    }
    made = {page: render(template, **facts) for page, template in PAGES.items()}
    for name in NAMES:
        experiment = str(reports.heads[name]["experiment"])
        made[f"reports/{name}.csv"] = csv_text(experiment, reports.rows[name])
    values = folder.parent / f"{PAPER_VALUES}.toml"
    if values.is_file():
        made[f"{PAPER_VALUES}.csv"] = paper_values(values, reports)
    return made


def _experiment(name: str) -> str:
    return name if name in EXPERIMENTS else name.partition("-")[0]


class _Cells:
    """Figures for templates, by report and coordinates."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def row(self, report: str | Sequence[str], **at: object) -> Row:
        """The row at some coordinates of the first report that has it. Raises NotFound where none has."""
        for name in [report] if isinstance(report, str) else report:
            if found := pick(self._reports.rows[name], **at):
                return found[0]
        raise NotFound(f"no row of {report} at {at}", field="reports")

    def __call__(self, report: str | Sequence[str], *, digits: int = 1, **at: object) -> str:
        """Mean ± standard deviation in percent."""
        row = self.row(report, **at)
        spread = "" if row.sd is None else f" ± {100 * row.sd:.{digits}f}"
        return f"{100 * row.mean:.{digits}f}{spread}"

    def figure(self, report: str, *, digits: int = 3, **at: object) -> str:
        """Mean ± standard deviation as it is."""
        row = self.row(report, **at)
        spread = "" if row.sd is None else f" ± {row.sd:.{digits}f}"
        return f"{row.mean:.{digits}f}{spread}"

    def points(self, report: str, **at: object) -> str:
        """A difference in points with its 95 % interval."""
        row = self.row(report, **at)
        low, high = row.ci95 or (row.mean, row.mean)
        return f"{100 * row.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def paper_values(path: Path, reports: Reports) -> str:
    """CSV: what the papers print, in percent or points, and ours with its interval, empty where it was not measured."""
    file = io.StringIO()
    writer = csv.DictWriter(file, PAPER_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for paper in tomllib.loads(path.read_text())["paper"]:
        rows = reports.rows.get(paper.get("report", ""), [])
        for value in paper["values"]:
            for metric, printed in value["printed"].items():
                at = {"condition": None, "split": "test", **value.get("ours", {})}
                found = pick(rows, metric=metric, **at) if "ours" in value else []
                ours = [100 * x for x in (found[0].mean, *(found[0].ci95 or ()))] if found else []
                cells = dict(zip(("ours", "low", "high"), (f"{x:.2f}" for x in ours), strict=False))
                writer.writerow(
                    {
                        **{"paper": paper["name"], "metric": metric, "printed": printed},
                        **{"place": value["place"], "figure": value["figure"]},
                        **({"report": paper["report"]} if found else {}),
                        **cells,
                    }
                )
    return file.getvalue()


def overview(reports: Reports) -> list[Panel]:
    """Semantic (joint) against separate coding: few channel uses on one link, and a cell of four users against SNR."""
    schemes = {
        "deepsc-mimo": "semantic: joint coding (JSCC)",
        "separation": "separate coding (LDPC, QAM)",
        "vq-digital": "VQ indices (LDPC, QAM)",
    }

    def lines(report: str, axis: str, **at: object) -> list[Line]:
        rows = reports.rows[report]
        ideal = pick(rows, metric="map", method="ideal")[0]
        made = []
        for method, label in schemes.items():
            found = pick(rows, metric="map", method=method, quantizer="rvq", memory=None, **at)
            found = sorted((r for r in found if r.bits == 64), key=lambda r: getattr(r, axis))
            # Without a standard deviation the interval is drawn.
            xs = [float(getattr(r, axis)) for r in found]
            made.append(Line(label, xs, [replace(r, sd=None) for r in found]))
        bound = [replace(ideal, sd=None)] * len(made[0].x)
        return [Line("ideal link", made[0].x, bound, bound=True), *made]

    few = lines("rate-person-umi-los", "symbols", snr_db=0.0)
    cell = lines("snr-person-umi-los", "snr_db", num_users=4)
    label = "mAP [%]"
    return [
        Panel("one user, 0 dB", "channel uses k", label, few, True, (0, 1), 100.0),
        Panel("four users, k = 64", "SNR [dB]", label, cell, False, (0, 1), 100.0),
    ]
