"""The README's table: figures out of reports, never typed; what is not measured says so."""

import re

import pytest

from lab.evaluation.report import ROOT, Report, Row, weights_hash
from semlink.errors import NotFound
from semlink.methods import METHODS as SERVED
from tools.docs.readme_tables import BLOCKS, METHODS, RETRIEVAL, table, write


def _report(folder, name: str, *rows: Row) -> None:
    report = Report(name, list(rows), command=f"semlink experiment {name}")
    report.write(folder, name)


def _row(method: str, mean: float, sd: float = 0.02, **coordinates) -> Row:
    link = {"scenario": "umi-los", "quantizer": "rvq", "bits": 64, "variant": "4 users"}
    return Row("r_at_1", mean, sd, 3, None, method, **{**link, **coordinates})


def test_figures_come_from_the_reports_and_the_paper_s_figure_goes_before(tmp_path) -> None:
    _report(
        tmp_path,
        "fig6",
        _row("deepsc-mimo", 0.711, snr_db=0.0),
        _row("sc-lmkb", 0.5, snr_db=0.0, bits=32),
        Row("r_at_1", 0.78, 0.023, 3, None, "ideal"),
    )
    _report(
        tmp_path,
        "snr-person-umi-los",
        _row("deepsc-mimo", 0.99, snr_db=0.0),
        _row("deepsc-mimo", 0.6, snr_db=0.0, bits=16),
        _row("deepsc-mimo", 0.65, snr_db=0.0, bits=16, variant="4 users, predictive"),
    )
    made = table(tmp_path)
    assert "| `ideal` | the feature itself, no channel (bound) | – | 78.0 ± 2.3 | not yet |" in made
    assert "64-bit `rvq`, 0 dB | 71.1 ± 2.0 |" in made
    assert "99.0" not in made
    assert "16-bit `rvq`, 0 dB | 60.0 ± 2.0 |" in made
    assert "65.0" not in made, "another memory"
    assert "50.0" not in made, "another number of bits"
    assert "`semlink experiment fig6`" in made
    assert "earlier weights" not in made


def test_every_method_keeps_its_row_without_reports(tmp_path) -> None:
    made = table(tmp_path)
    for name in [m.name for m in METHODS] + [r.method for r in RETRIEVAL]:
        assert re.search(rf"^\| `{name}` \|.*not yet", made, re.MULTILINE), name
        assert name in SERVED
    assert "Not measured yet" in made


def test_earlier_weights_are_said(tmp_path, monkeypatch) -> None:
    _report(tmp_path, "fig7", _row("llm-sc", 0.3, snr_db=0.0))
    monkeypatch.setattr("tools.docs.readme_tables.weights_hash", lambda: weights_hash()[::-1] + "x")
    assert "With earlier weights: fig7." in table(tmp_path)


def test_the_readme_has_the_marks_and_the_rest_of_it_stays(tmp_path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text((ROOT / "README.md").read_text())
    before = readme.read_text()
    write(tmp_path, readme)
    after = readme.read_text()
    marks = re.compile(r"<!-- (?:end of )?(?:methods|targets) -->")
    assert len(marks.findall(after)) == 2 * len(BLOCKS)
    assert marks.split(before)[::2] == marks.split(after)[::2]
    assert after.count("not yet") > 20
    assert after.count("**not measured**") >= 10
    readme.write_text("nothing here")
    with pytest.raises(NotFound, match="marks"):
        write(tmp_path, readme)
