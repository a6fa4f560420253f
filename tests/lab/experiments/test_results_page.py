"""The generated documents: what is committed equals the reports, and nothing is written from a part of them."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.evaluation.cache import ROOT
from lab.evaluation.claims import Reports, judge_all
from lab.evaluation.report import CSV_COLUMNS, Report, Row, csv_row, read_rows
from lab.experiments import results_page
from lab.experiments.results_page import (
    NAMES,
    OVERVIEW,
    REPORTS,
    _Cells,
    adopt,
    overview,
    paper_values,
    stale,
    write,
)
from semlink.cli.app import app
from semlink.errors import InvalidField, NotFound

DOCS = ROOT / "docs"
VALUES = ("mean", "sd", "low", "high", "seeds", "queries")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The committed reports with all that is made of them, as a checkout has them."""
    shutil.copytree(DOCS, tmp_path / "docs")
    return tmp_path / "docs" / "reports"


def test_committed_documents_equal_the_reports() -> None:
    assert stale(REPORTS) == [], "run `semlink results`"
    assert CliRunner().invoke(app, ["results", "--check"]).exit_code == 0
    assert len((DOCS / "results.md").read_text().splitlines()) <= 200


def test_a_changed_figure_makes_them_stale_and_a_run_mends_it(folder: Path) -> None:
    path = folder / "fig6.json"
    content = json.loads(path.read_text())
    row = next(
        r for r in content["rows"] if r["metric"] == "r_at_1" and r["method"] == "deepsc-mimo"
    )
    row["mean"] += 0.1
    path.write_text(json.dumps(content))
    assert "reports/fig6.csv" in stale(folder)
    failed = CliRunner().invoke(app, ["results", "--reports", str(folder), "--check"])
    assert failed.exit_code == 1
    assert "fig6.csv" in failed.output
    write(folder)
    assert stale(folder) == []


def test_nothing_is_written_from_a_part_of_the_reports(folder: Path) -> None:
    (folder / "gpa.json").unlink()
    (folder.parent / "images" / "fig11.png").unlink()
    page = folder.parent / "results.md"
    page.write_text("as it was")
    for wrong in (write, stale):
        with pytest.raises(NotFound, match=r"gpa\.json, images/fig11\.png") as error:
            wrong(folder)
        assert error.value.field == "reports"
    assert page.read_text() == "as it was"


def test_a_single_evaluation_changes_no_page(tmp_path: Path) -> None:
    """The fault that was: after one `evaluate` the page was overwritten with "not measured"."""
    Report("evaluate-global", [Row("r_at_1", 0.5)]).write(tmp_path / "results", "evaluate-global")
    for arguments in (
        ["--reports", str(tmp_path / "results")],
        ["--adopt", str(tmp_path / "results")],
    ):
        found = CliRunner().invoke(app, ["results", *arguments])
        assert isinstance(found.exception, NotFound), arguments
    assert not list(tmp_path.glob("*.md"))
    assert stale(REPORTS) == []


def test_measurements_are_adopted_but_no_quick_run(folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    path = Report("fig6", read_rows(folder / "fig6.json")[:40]).write(results, "fig6")
    Report("bench-link", [Row("windows_per_s", 20.0)]).write(results, "bench-link")
    (results / "fig6.png").write_bytes(b"new")
    (results / "fig6.pdf").write_bytes(b"not shown")
    assert adopt(results, folder) == ["fig6"]
    assert read_rows(folder / "fig6.json") == read_rows(path)
    assert (folder.parent / "images" / "fig6.png").read_bytes() == b"new"
    assert not (folder.parent / "images" / "fig6.pdf").exists()
    Report("fig6", read_rows(path), quick=True).write(results, "fig6")
    with pytest.raises(InvalidField, match="quick run: no verdict"):
        adopt(results, folder)
    shutil.copyfile(path, folder / "fig6.json")
    with pytest.raises(NotFound, match=r"fig6\.json \(quick run"):
        write(folder)


def test_an_installed_semlink_asks_for_the_reports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(results_page, "REPORTS", tmp_path / "docs" / "reports")
    for command in ("results", "targets"):
        found = CliRunner().invoke(app, [command])
        assert isinstance(found.exception, NotFound)
        assert "--reports DIR" in str(found.exception)
    assert CliRunner().invoke(app, ["targets", "--reports", str(REPORTS)]).exit_code == 0


@pytest.mark.parametrize("name", NAMES)
def test_csv_files_hold_every_row_under_coordinates_of_its_own(name: str) -> None:
    rows = read_rows(REPORTS / f"{name}.json")
    with (REPORTS / f"{name}.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows)
    assert tuple(lines[0]) == CSV_COLUMNS
    places = {tuple(v for k, v in line.items() if k not in VALUES) for line in lines}
    distinct = {tuple(csv_row("", r).items()) for r in rows}
    assert len(places) == len(distinct), "the columns tell all rows apart"
    for line, row in zip(lines, rows, strict=True):
        assert float(line["mean"]) == row.mean
        assert (line["low"] == "") == (row.ci95 is None)
        assert not re.search(r" vs |\d users", line["condition"]), "columns of their own say this"


def test_the_papers_figures_stand_beside_ours() -> None:
    with (DOCS / "paper_values.csv").open() as file:
        lines = list(csv.DictReader(file))
    (one,) = (x for x in lines if x["figure"] == "CMPM + CMPC" and x["metric"] == "r_at_1")
    (row,) = (
        r
        for r in read_rows(REPORTS / "sew-mcm.json")
        if (r.method, r.metric, r.condition) == ("cmpm-cmpc", "r_at_1", None)
    )
    assert (float(one["printed"]), float(one["ours"])) == (62.29, round(100 * row.mean, 2))
    measured = [x for x in lines if x["ours"]]
    assert len(measured) > 100
    assert {x["report"] for x in measured} == {"gpa", "itrieval", "sew-mcm"}
    # What was not measured stays empty.
    text = paper_values(DOCS / "paper_values.toml", Reports({}, {}))
    assert all(x["ours"] == "" for x in csv.DictReader(text.splitlines()))


def test_the_overview_shows_the_reports_points_with_their_intervals() -> None:
    few, cell = overview(Reports.read(REPORTS))
    rows = read_rows(REPORTS / "rate-person-umi-los.json")
    for line, method in zip(
        few.lines[1:], ("deepsc-mimo", "separation", "vq-digital"), strict=True
    ):
        assert list(line.x) == [8, 16, 32, 64, 128]
        for k, row in zip(line.x, line.rows, strict=True):
            (same,) = (
                r for r in rows
                if (r.metric, r.method, r.symbols, r.snr_db) == ("map", method, k, 0.0)
            )  # fmt: skip
            assert (row.mean, row.ci95, row.sd) == (same.mean, same.ci95, None)
    assert [len(line.x) for line in cell.lines] == [9, 9, 9, 9]


def test_every_picture_is_linked_and_every_link_leads_somewhere() -> None:
    linked: set[Path] = set()
    for page in (ROOT / "README.md", *DOCS.glob("*.md")):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", page.read_text()):
            link = target[0] or target[1]
            if not link.startswith(("http:", "https:", "mailto:")):
                path = (page.parent / link).resolve()
                assert path.exists(), f"{page.name} links {link}"
                linked.add(path)
    unused = [p.name for p in (DOCS / "images").iterdir() if p.resolve() not in linked]
    assert unused == []
    assert (DOCS / "images" / f"{OVERVIEW}.png").resolve() in linked


def readme_cells() -> dict[str, list[str]]:
    """The figures of each row of the README's table of methods."""
    lines = (ROOT / "README.md").read_text().split("## Methods")[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "±" in line]
    return {row[0].replace("`", ""): row[2:] for row in rows if len(row) == 5}


def test_the_readme_says_what_the_reports_say() -> None:
    at = {"num_users": 4, "snr_db": 0.0, "memory": None, "quantizer": "rvq", "bits": 64}
    places = {
        "ideal": {"method": "ideal"},
        "deepsc-mimo": {"method": "deepsc-mimo", **at},
        "deepsc-mimo, no feedback": {**at, "quantizer": "none", "bits": None},
        **{
            name: {"method": name, **at}
            for name in ("separation", "vq-digital", "sc-lmkb", "llm-sc")
        },
    }
    cell = _Cells(Reports.read(REPORTS))
    sources = (
        ("fig6", "snr-person-umi-los"),
        ("fig7", "snr-image-umi-los"),
        ("fig8", "snr-audio-umi-los"),
    )
    expected = {
        name: [cell(source, metric="r_at_1", **place) for source in sources]
        for name, place in places.items()
    }
    papers = (
        ("sew-mcm", {"method": "sew-mcm", "condition": "re-ranked, weighted"}),
        (
            "itrieval",
            {"method": "itrieval-kd", "condition": "continuations, 3 noise sentences, zero-shot"},
        ),
        ("gpa", {"method": "gpa", "condition": "table 2, mask, K = 3, text-to-audio"}),
    )
    row = [cell(report, metric="r_at_1", **place) for report, place in papers]
    assert readme_cells() == expected | {"sew-mcm, itrieval-kd, gpa": row}
    text = " ".join((ROOT / "README.md").read_text().split()).replace("−", "-")
    for symbols, side in ((8, 1), (64, 1), (128, -1)):
        difference = cell.row(
            "rate-person-umi-los", metric="map_difference", baseline="separation", snr_db=0.0, symbols=symbols
        )  # fmt: skip
        assert difference.ci95 is not None
        low, high = sorted(100 * side * x for x in difference.ci95)
        assert f"{100 * side * difference.mean:.1f} [{low:.1f}, {high:.1f}]" in text, symbols
    judged = judge_all(Reports.read(REPORTS))
    met = sum(one.verdict == "met" for one in judged)
    assert (len(judged), met) == (14, 3), "Of fourteen claims three are met"
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_every_missed_claim_is_explained() -> None:
    why = (DOCS / "limits.md").read_text()
    for one in judge_all(Reports.read(REPORTS)):
        if one.verdict == "missed":
            assert one.claim.name in why
