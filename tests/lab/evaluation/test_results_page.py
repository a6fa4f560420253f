"""The page of results: from reports alone, its sentences follow the intervals, its pictures stand in all formats."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lab.evaluation.report import Report, Row, over_seeds, read_rows, sign
from lab.evaluation.results_page import needs, write
from lab.experiments.method_comparison import OURS, ROWS
from semlink.errors import NotFound


def fig9(folder: Path, differences: dict[str, tuple[float, float, float]]) -> None:
    """A report with a point at 5 dB and 32 bits; ``differences`` of ours to others: mean, low, high."""
    at: dict[str, Any] = {
        "bits": 32,
        "snr_db": 5.0,
        "quantizer": "rvq",
        "task": "person",
        "scenario": "umi-los",
    }
    rows = [
        Row(metric="map", mean=0.6 - mean, sd=0.01, method=method, **at)
        for method, (mean, _, _) in ({OURS: (0.0, 0.0, 0.0)} | differences).items()
    ]
    rows += [
        Row(
            metric="map_difference",
            mean=mean,
            ci95=(low, high),
            method=OURS,
            variant=f"{ROWS[OURS]} vs {ROWS[method]}, 4 users",
            **at,
        )
        for method, (mean, low, high) in differences.items()
    ]
    Report("fig9", rows, 12.0, "semlink experiment fig9").write(folder, "fig9")


def over_snr(
    folder: Path, name: str, corpus: str, split: str, difference: float, weights: str | None = None
) -> None:
    """A report over SNR: ours ahead of DeepSC-MIMO by ``difference`` at 0 dB alone, bounds beside them."""
    rows = []
    for snr_db in (0.0, 10.0):
        at: dict[str, Any] = {
            "task": "image",
            "corpus": corpus,
            "split": split,
            "scenario": "umi-los",
            "speed_kmh": 3.0,
            "snr_db": snr_db,
            "symbols": 64,
        }
        for metric in ("r_at_1", "map"):
            for method in (OURS, "deepsc-mimo"):
                lead = difference if method == OURS and snr_db == 0.0 else 0.0
                values = [0.5 + lead, 0.52 + lead, 0.54 + lead]
                on_link = {"bits": 64, "quantizer": "rvq", "variant": "4 users"}
                rows.append(Row(metric, **over_seeds(values), method=method, **at, **on_link))
                rows.append(Row("goodput", 43.8, method=method, **at, **on_link))
                rows.append(Row("outage", 0.125, method=method, **at, **on_link))
            spread = (difference - 0.01, difference + 0.01) if snr_db == 0.0 else (-0.01, 0.01)
            versus = {"bits": 64, "variant": f"{ROWS[OURS]} vs {ROWS['deepsc-mimo']}, 4 users"}
            mean = sum(spread) / 2
            rows.append(Row(f"{metric}_difference", mean, ci95=spread, method=OURS, **at, **versus))
            perfect = {"quantizer": "perfect", "variant": "4 users", "method": "deepsc-mimo"}
            rows.append(Row(metric, 0.6, sd=0.0, seeds=3, **at, **perfect))
    ideal = {"task": "image", "corpus": corpus, "split": split, "method": "ideal", "snr_db": 10.0}
    rows += [Row(metric, 0.65, sd=0.0, seeds=3, **ideal) for metric in ("r_at_1", "map")]
    report = Report("fig7", rows, 12.0, "semlink experiment fig7")
    path = report.write(folder, name)
    if weights is not None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": weights}))


def page(tmp_path: Path) -> str:
    return write(tmp_path / "in", tmp_path / "docs" / "results.md").read_text()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves pictures out, which take seconds; others look at them."""
    monkeypatch.setattr("tools.docs.redraw.redraw", lambda _path: [])


def section(text: str, anchor: str) -> str:
    return text.split(f'<a id="{anchor}"></a>')[1].split("<a id=")[0]


def test_of_methods_that_tie_the_one_that_needs_least_is_advised(tmp_path: Path) -> None:
    fig9(
        tmp_path / "in",
        {
            "sc-lmkb-cdg": (0.0, -0.1, 0.1),
            "sc-lmkb-wo-sdg": (0.005, -0.01, 0.03),
            "deepsc-mimo": (0.01, -0.01, 0.03),
            "llm-sc": (0.1, 0.05, 0.15),
        },
    )
    text = section(page(tmp_path), "advice")
    assert "**At 5 dB with 32 bits of feedback use `deepsc-mimo`: SC-LMKB's mAP is" in text
    assert "+1.0 [-1.0, +3.0] points from it, an interval that holds 0" in text
    assert "| **`deepsc-mimo`** | 59.0 ± 1.0 | +1.0 [-1.0, +3.0] | nothing |" in text
    assert "| `llm-sc` | 50.0 ± 1.0 | **+10.0 [+5.0, +15.0]** |" in text
    assert needs("deepsc-mimo") == ()
    assert len(needs(OURS)) == 2


def test_a_clear_winner_is_advised_either_way(tmp_path: Path) -> None:
    fig9(tmp_path / "in", {"deepsc-mimo": (0.05, 0.01, 0.09)})
    assert "use `sc-lmkb`: it is measurably above every other method" in page(tmp_path)
    fig9(tmp_path / "in", {"deepsc-mimo": (-0.05, -0.09, -0.01)})
    text = page(tmp_path)
    assert "use `deepsc-mimo`: SC-LMKB is measurably below it, by -5.0 [-9.0, -1.0] points." in text


def test_what_is_not_measured_names_its_command(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        page(tmp_path)
    fig9(tmp_path / "in", {})
    text = page(tmp_path)
    for name in ("fig6", "fig7", "fig8", "fig10", "fig11", "fig12", "csi-rate", "snr", "gpa"):
        assert f"Not measured yet: `semlink experiment {name}`." in text
    assert "run `semlink experiment gpa`" in text


@pytest.mark.usefixtures("undrawn")
def test_every_section_is_in_the_contents_and_has_its_anchor(tmp_path: Path) -> None:
    over_snr(tmp_path / "in", "fig7", "scenes", "test", 0.05)
    text = page(tmp_path)
    anchors = re.findall(r'<a id="(.+?)"></a>', text)
    assert re.findall(r"^\* \[.+\]\(#(.+)\)$", text.split("<a id=")[0], re.MULTILINE) == anchors
    assert len(set(anchors)) == len(anchors)


def test_what_a_figure_shows_follows_its_intervals_and_its_pictures_are_drawn(
    tmp_path: Path,
) -> None:
    over_snr(tmp_path / "in", "fig7", "scenes", "test", 0.05)
    text = section(page(tmp_path), "fig7")
    assert "SC-LMKB is clear above DeepSC-MIMO at 0 dB." in text
    assert "corpus `scenes`, split test" in text
    assert "| SC-LMKB (`sc-lmkb`) | 57.0 ± 2.0 | 52.0 ± 2.0 |" in text
    assert "| DeepSC-MIMO | **+5.0 [+4.0, +6.0]** | +0.0 [-1.0, +1.0] |" in text
    assert "+9.6 % over DeepSC-MIMO (0 dB, 64 bits; paper: up to +72.6 %)" in text
    assert "| DeepSC-MIMO (`deepsc-mimo`) | 12.5 | 12.5 |" in text
    assert "| DeepSC-MIMO (`deepsc-mimo`) | 43.8 | 43.8 |" in text
    assert "`semlink experiment fig7` · commit" in text
    for name in ("fig7", "fig7-differences"):
        assert f"](images/{name}.png)" in text
        for form in ("png", "svg"):
            assert (tmp_path / "docs" / "images" / f"{name}.{form}").is_file()
    # What is there already is not drawn again, until the report is newer.
    drawn = tmp_path / "in" / "fig7.png"
    before = drawn.stat().st_mtime_ns
    page(tmp_path)
    assert drawn.stat().st_mtime_ns == before
    (tmp_path / "in" / "fig7.json").touch()
    page(tmp_path)
    assert drawn.stat().st_mtime_ns > before


@pytest.mark.usefixtures("undrawn")
def test_a_loss_is_said_as_plainly(tmp_path: Path) -> None:
    over_snr(tmp_path / "in", "fig7", "scenes", "test", -0.05)
    assert "SC-LMKB is clear below DeepSC-MIMO at 0 dB." in section(page(tmp_path), "fig7")


@pytest.mark.usefixtures("undrawn")
def test_real_data_stands_under_its_own_heading_and_earlier_weights_are_said(
    tmp_path: Path,
) -> None:
    over_snr(tmp_path / "in", "fig7", "scenes", "test", 0.05, weights="0123")
    over_snr(tmp_path / "in", "fig7-flickr8k", "flickr8k", "val", 0.0)
    text = page(tmp_path)
    assert "## fig7 on real data: flickr8k, split val" in text
    real = section(text, "fig7-flickr8k")
    assert "cannot be told apart from DeepSC-MIMO" in real
    assert "earlier weights" not in real
    generated = section(text, "fig7")
    assert "**Measured with earlier weights**" in generated
    assert "weights 0123 (earlier)" in generated
    asked = section(text, "targets")
    assert "Measured with earlier weights: fig7." in asked
    # A validation split decides no target.
    assert "2 of 4 points clear above (0 dB 2 of 2)" in asked


def test_studies_show_their_pictures_as_tables(tmp_path: Path) -> None:
    at: dict[str, Any] = {
        "task": "person",
        "corpus": "pedestrians",
        "split": "test",
        "scenario": "umi-los",
        "speed_kmh": 3.0,
        "bits": 64,
        "quantizer": "rvq",
        "variant": "1 users",
    }
    rows = []
    for k in (8, 16):
        for method, mean in (("deepsc-mimo", 0.4), ("vq-digital", 0.3), ("separation", 0.2)):
            point = {"symbols": k, "snr_db": 0.0, "method": method}
            values = [mean, mean + 0.01 * k]
            rows += [Row(m, **over_seeds(values), **at, **point) for m in ("map", "r_at_1")]
        versus = at | {"variant": "JSCC vs separation (LDPC), 1 users", "symbols": k, "snr_db": 0.0}
        rows.append(Row("map_difference", 0.2, ci95=(0.1, 0.3), method="deepsc-mimo", **versus))
    Report("rate-person-umi-los", rows, 1.0, "x").write(tmp_path / "in", "rate-person-umi-los")
    text = section(page(tmp_path), "rate-person-umi-los")
    assert "* JSCC vs separation (LDPC), 1 users: clear above at 2 of 2 points" in text
    assert "| JSCC | 44.0 ± 5.7 | 48.0 ± 11.3 |" in text
    assert "| JSCC vs separation (LDPC), 1 users | **+20.0 [+10.0, +30.0]** |" in text
    assert "](images/rate-person-umi-los.png)" in text


def test_pages_of_tables_are_taken_over_a_level_down_and_long_ones_folded(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    rows = [Row("r_at_1", 0.5, method="gpa", split="test")]
    for name in ("gpa", "itrieval"):
        Report(name, rows, 1.0, f"semlink experiment {name}").write(folder, name)
    (folder / "gpa.md").write_text("# GPA\n\ntext\n\n## Table 1\n\n| a |\n|---|\n| 1 |\n")
    table = "\n".join(["| a |", "|---|", *["| 1 |"] * 80])
    (folder / "itrieval.md").write_text(f"# I\n\nfirst words\n\n## Table 1\n\n{table}\n")
    text = page(tmp_path)
    short, long = section(text, "gpa"), section(text, "itrieval")
    assert "## gpa: GPA" in short
    assert "### Table 1" in short
    assert "<details>" not in short
    assert long.index("first words") < long.index("<details>") < long.index("### Table 1")
    assert "`semlink experiment itrieval` · commit" in long
    assert "Asked, GPA over DP, text to audio" in short


@pytest.mark.usefixtures("undrawn")
def test_the_same_reports_give_the_same_page(tmp_path: Path) -> None:
    over_snr(tmp_path / "in", "fig7", "scenes", "test", 0.05)
    assert page(tmp_path) == page(tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_reports_lie_beside_the_page_row_for_row(tmp_path: Path) -> None:
    """Those of experiments, which hold their plan; whoever measures again compares with them."""
    over_snr(tmp_path / "in", "fig7", "scenes", "test", 0.05)
    over_snr(tmp_path / "in", "bench", "scenes", "test", 0.05)
    sign(tmp_path / "in" / "fig7.json", {"seeds": 3})
    page(tmp_path)
    published = tmp_path / "docs" / "reports"
    assert [path.name for path in published.iterdir()] == ["fig7.json"]
    assert read_rows(published / "fig7.json") == read_rows(tmp_path / "in" / "fig7.json")
    content = (published / "fig7.json").read_text()
    assert json.loads(content)["plan"] == {"seeds": 3}
    assert "null" not in content
