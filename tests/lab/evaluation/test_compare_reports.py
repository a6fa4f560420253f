"""What two reports of one experiment say of each other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lab.evaluation.compare_reports import compare, direction, read
from lab.evaluation.report import Report, Row, over_seeds
from semlink.cli.app import app
from semlink.errors import InvalidField, NotFound


def rows_of(values: np.ndarray, metric: str = "map") -> list[Row]:
    """A row at each SNR, ``values`` [snrs, seeds]."""
    return [
        Row(metric=metric, snr_db=float(i), **over_seeds(list(v))) for i, v in enumerate(values)
    ]


def test_a_report_is_the_same_as_itself_also_after_a_file(tmp_path: Path) -> None:
    rows = rows_of(np.random.default_rng(0).random((5, 3)))
    path = Report("x", rows).write(tmp_path, "x")
    assert {c.verdict for c in compare(rows, read(path)[1])} == {"same"}


def test_seeds_in_common_show_a_small_loss_that_intervals_hide() -> None:
    rng = np.random.default_rng(1)
    # Seeds differ by 0.1, the loss is a tenth of that and nearly the same for each.
    a = rng.normal(0.5, 0.1, (1, 5))
    b = a - 0.01 + rng.normal(0.0, 0.001, a.shape)
    (found,) = compare(rows_of(a), rows_of(b))
    assert found.verdict == "worse"
    (blind,) = compare(
        [replace(r, values=None) for r in rows_of(a)],
        [replace(r, values=None) for r in rows_of(b)],
    )
    assert blind.verdict == "within noise"


def test_noise_alone_rarely_finds_anything_however_many_rows() -> None:
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(200):
        level = rng.normal(0.5, 0.05, (20, 1))
        a, b = (rows_of(level + rng.normal(0, 0.01, (20, 4))) for _ in range(2))
        found += any(c.verdict in ("better", "worse") for c in compare(a, b))
    # 5 % of 200 comparisons, and three standard deviations of that count.
    assert found <= 20


def test_less_is_better_for_errors_and_times() -> None:
    assert direction("nmse_db") == direction("p50_ms") == direction("rss_mib") == -1
    assert direction("r_at_1") == direction("sgcs") == direction("queries_per_s") == 1
    assert direction("precoding_gain_db") == direction("map_difference") == 1
    assert direction("figure_of_unknown_kind") == 0
    seeds = np.array([[0.0, 1e-4, 2e-4]])
    lower, higher = (rows_of(x + seeds, "nmse_db") for x in (-9.0, -8.0))
    assert [c.verdict for c in compare(higher, lower)] == ["better"]
    assert [c.verdict for c in compare(lower, higher)] == ["worse"]


def test_rows_of_one_report_alone_are_named() -> None:
    a, b = Row("map", 0.5, snr_db=1.0), Row("map", 0.5, snr_db=2.0)
    assert [c.verdict for c in compare([a], [b])] == ["only in A", "only in B"]
    assert [c.verdict for c in compare([a], [replace(a, mean=0.4)])] == ["spread unknown"]


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"missing\.json"):
        read(tmp_path / "missing.json")
    for content in ("nonsense", "[]", json.dumps({"experiment": "x"})):
        path = tmp_path / "x.json"
        path.write_text(content)
        with pytest.raises(InvalidField, match="no report"):
            read(path)
    with pytest.raises(InvalidField, match="level"):
        compare([], [], level=1.0)


def test_the_command_compares_seed_by_seed_or_pooled_and_its_status_tells(tmp_path: Path) -> None:
    """One method 4 points worse, unevenly: two seeds show nothing row by row, pooled it is plain."""
    before = np.random.default_rng(1).uniform(0.5, 0.7, (8, 2))
    loss = np.tile([0.07, 0.01], (8, 1))

    def rows(values: np.ndarray) -> list[Row]:
        return [
            Row("map", method="sc-lmkb", snr_db=float(x), **over_seeds(list(v)))
            for x, v in enumerate(values)
        ]

    for name, values in (("a", before), ("worse", before - loss)):
        Report("fig6", rows(values)).write(tmp_path, name)
    a, worse = str(tmp_path / "a.json"), str(tmp_path / "worse.json")
    runner = CliRunner()
    assert runner.invoke(app, ["compare", a, a, "--pooled"]).exit_code == 0
    assert runner.invoke(app, ["compare", a, worse]).exit_code == 0
    pooled = runner.invoke(app, ["compare", a, worse, "--pooled"])
    assert pooled.exit_code == 1, pooled.output
    assert "-0.0400" in pooled.output
