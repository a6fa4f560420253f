"""The page of results: from reports alone, and its advice follows the intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.experiments.methods import OURS, ROWS
from lab.results import Report, Row
from lab.results_page import write
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


def page(tmp_path: Path) -> str:
    return write(tmp_path / "in", tmp_path / "docs" / "results.md").read_text()


def test_level_methods_are_named_and_the_simplest_is_advised(tmp_path: Path) -> None:
    fig9(
        tmp_path / "in",
        {
            "sc-lmkb-cdg": (0.0, -0.1, 0.1),
            "deepsc-mimo": (0.01, -0.01, 0.03),
            "llm-sc": (0.1, 0.05, 0.15),
        },
    )
    text = page(tmp_path)
    assert "cannot be told apart from `sc-lmkb-cdg` (+0.0 [-10.0, +10.0]), `deepsc-mimo`" in text
    assert "**Use `deepsc-mimo`**" in text
    assert "Measurably below SC-LMKB: `llm-sc` (+10.0 [+5.0, +15.0])." in text
    assert "apart from `sc-lmkb` " not in text
    assert "`semlink experiment fig9` · commit" in text


def test_a_clear_winner_is_advised_either_way(tmp_path: Path) -> None:
    fig9(tmp_path / "in", {"deepsc-mimo": (0.05, 0.01, 0.09)})
    assert "**Use `sc-lmkb`**" in page(tmp_path)
    fig9(tmp_path / "in", {"deepsc-mimo": (-0.05, -0.09, -0.01)})
    assert "**Use `deepsc-mimo`.** It has the highest mAP" in page(tmp_path)


def test_what_is_not_measured_names_its_command(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        page(tmp_path)
    fig9(tmp_path / "in", {})
    text = page(tmp_path)
    for name in ("fig6", "fig7", "fig8", "fig10", "fig12"):
        assert f"Not measured yet: `semlink experiment {name}`." in text
    assert "run `semlink experiment gpa`" in text
