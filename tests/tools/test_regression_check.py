"""The guard of quality: a planted regression fails it, the rounding of another machine does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from lab.evaluation.compare_reports import ALL, MARGINS, Pooled, compare_pooled, read
from lab.evaluation.report import Report, Row, over_seeds
from semlink.errors import InvalidField, NotFound
from tools import regression_check
from tools.regression_check import (
    METHODS,
    QUERIES,
    REFERENCES,
    RUNS,
    SEEDS,
    SNRS_DB,
    check,
    main,
    store,
)

Ranks = dict[tuple[str, float], np.ndarray]


def draw_ranks() -> Ranks:
    """The first right item's rank of every query, by method and SNR: int ``[SEEDS, QUERIES]``."""
    rng = np.random.default_rng(0)
    return {(m, s): rng.geometric(0.6, (SEEDS, QUERIES)) for m in METHODS for s in SNRS_DB}


def rows_of(ranks: Ranks) -> list[Row]:
    rows = []
    for (method, snr_db), of in ranks.items():
        figures = {"map": 1 / of, "r_at_1": of == 1, "r_at_10": of <= 10}
        for metric, values in figures.items():
            per_seed = values.mean(axis=1)
            rows.append(Row(metric, **over_seeds(list(per_seed)), method=method, snr_db=snr_db))
    return rows


def verdicts(pooled: list[Pooled]) -> set[str]:
    return {one.verdict for one in pooled}


def test_equal_runs_are_the_same() -> None:
    rows = rows_of(draw_ranks())
    pooled = compare_pooled(rows, rows)
    assert verdicts(pooled) == {"same"}
    # Three metrics of each method over both SNRs, and each of all methods together.
    assert len(pooled) == 3 * (len(METHODS) + 1)
    assert {one.points for one in pooled if one.at.variant != ALL} == {len(SNRS_DB)}
    assert {one.points for one in pooled if one.at.variant == ALL} == {len(SNRS_DB) * len(METHODS)}


def test_a_method_that_lost_five_points_of_map_fails() -> None:
    before = rows_of(draw_ranks())
    after = [
        replace(r, mean=r.mean - 0.05, values=tuple(v - 0.05 for v in r.values or ()))
        if r.method == "sc-lmkb" and r.metric == "map"
        else r
        for r in before
    ]
    worse = [one for one in compare_pooled(before, after) if one.verdict == "worse"]
    # All methods together lost a fifth of it: as much as they may, or a rounding more.
    assert [(one.at.method, one.at.metric) for one in worse if one.at.method] == [
        ("sc-lmkb", "map")
    ]
    assert worse[0].difference == pytest.approx(-0.05)
    # The other way round it is better, and nothing is worse.
    back = compare_pooled(after, before)
    assert "worse" not in verdicts(back)
    better = [one.at.method for one in back if one.verdict == "better" and one.at.method]
    assert better == ["sc-lmkb"]


def test_a_small_loss_of_every_method_fails_together() -> None:
    before = rows_of(draw_ranks())
    after = [replace(r, mean=r.mean - 0.015) if r.metric == "map" else r for r in before]
    worse = [one for one in compare_pooled(before, after) if one.verdict == "worse"]
    assert [one.at.variant for one in worse] == [ALL]


def test_single_ranks_that_another_machine_flips_pass() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        ranks = draw_ranks()
        before = rows_of(ranks)
        # In one query of three of the cells the right item changes places with its neighbour.
        for cell in rng.permutation(len(ranks))[:3]:
            of = list(ranks.values())[cell]
            seed, query = rng.integers(SEEDS), rng.integers(QUERIES)
            of[seed, query] = max(1, of[seed, query] + rng.choice([-1, 1]))
        found = verdicts(compare_pooled(before, rows_of(ranks)))
        assert found <= {"same", "within margin"}


def test_less_is_better_for_errors() -> None:
    at = {"quantizer": "rvq", "bits": 64}
    a, b = Row("nmse_db", -9.0, **at), Row("nmse_db", -8.7, **at)  # type: ignore[arg-type]
    assert verdicts(compare_pooled([a], [b])) == {"worse"}
    assert verdicts(compare_pooled([b], [a])) == {"better"}


def test_what_is_gone_fails_what_is_new_does_not() -> None:
    rows = rows_of(draw_ranks())
    fewer = [r for r in rows if (r.method, r.snr_db) != ("llm-sc", SNRS_DB[1])]
    gone = [one for one in compare_pooled(rows, fewer) if one.verdict == "gone"]
    assert {one.at.method for one in gone} == {"llm-sc", None}
    assert {one.gone for one in gone} == {1}
    assert "gone" not in verdicts(compare_pooled(fewer, rows))
    new = compare_pooled([r for r in rows if r.method != "llm-sc"], rows)
    assert {one.at.method for one in new if one.verdict == "new"} == {"llm-sc"}
    # Figures of no stated margin are not judged; runs of other sizes do not compare.
    assert compare_pooled([Row("p50_ms", 1.0)], [Row("p50_ms", 9.0)]) == []
    with pytest.raises(InvalidField, match="2 seeds in report A and 3 in B"):
        compare_pooled(
            [Row("map", **over_seeds([0.1, 0.2]))], [Row("map", **over_seeds([0.1, 0.2, 0.3]))]
        )


def test_the_command_fails_where_quality_fell_and_update_accepts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = draw_ranks()

    def run(out: Path, _console: Console) -> None:
        Report("fig6", [*rows_of(ranks), Row("p50_ms", 3.0)], command="x").write(out, "fig6")

    monkeypatch.setattr(regression_check, "RUNS", {"fig6": run})
    monkeypatch.setattr(
        regression_check, "store_rewrites", lambda folder: folder / "rewrites.jsonl"
    )
    import typer

    app = typer.Typer()
    app.command()(main)
    references = tmp_path / "references"

    def call(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, [*arguments, "--references", str(references)])
        return done.exit_code, done.output

    missing = CliRunner().invoke(app, ["--references", str(references)])
    assert isinstance(missing.exception, NotFound)
    assert call("--update")[0] == 0
    # Only what is judged is kept.
    assert {row.metric for row in read(references / "fig6.json")[1]} <= set(MARGINS)
    assert call()[0] == 0
    ranks["deepsc-mimo", SNRS_DB[0]] += 1
    code, output = call()
    assert code == 1
    assert "deepsc-mimo" in output
    assert "quality fell: fig6" in output
    code, output = call("--update")
    assert code == 0
    assert "worse" in output
    assert call()[0] == 0
    with pytest.raises(InvalidField, match="--only"):
        CliRunner().invoke(app, ["--only", "fig99"], catch_exceptions=False)


def test_the_runs_measure_in_a_cache_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semlink.models import cache_dir

    users = tmp_path / "users"
    (users / "smollm2-x").mkdir(parents=True)
    (users / "measurements").mkdir()
    references = tmp_path / "references"
    references.mkdir()
    (references / "rewrites-m.jsonl").write_text("{}\n")
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(users))
    seen = {}

    def run(out: Path, _console: Console) -> None:
        seen["cache"] = cache_dir()
        seen["files"] = {p.relative_to(cache_dir()).as_posix() for p in cache_dir().rglob("*")}
        Report("x", [], command="x").write(out, "x")

    monkeypatch.setattr(regression_check, "RUNS", {"x": run})
    with regression_check.own_cache(references):
        written = regression_check.measure("x", tmp_path / "out", Console(quiet=True))
    assert written.is_file()
    assert seen["cache"] != users
    assert seen["files"] == {"smollm2-x", "rewrite-bank", "rewrite-bank/rewrites-m.jsonl"}
    assert cache_dir() == users
    assert not Path(str(seen["cache"])).exists()


def test_the_stored_references_fit_the_runs() -> None:
    """Each run has its reference, whose every row is judged, and the rewrites of every query are there."""
    for name in RUNS:
        rows = read(REFERENCES / f"{name}.json")[1]
        assert verdicts(compare_pooled(rows, rows)) == {"same"}
        assert {row.seeds for row in rows if row.values} == {SEEDS}
    (bank,) = REFERENCES.glob("rewrites-*.jsonl")
    texts = {json.loads(line)["text"] for line in bank.read_text().splitlines()}
    assert texts == regression_check.queries()
    assert len(texts) > 5 * QUERIES
    methods = {row.method for row in read(REFERENCES / "fig6.json")[1]}
    assert methods == {"ideal", "deepsc-mimo", *METHODS}


def test_a_stored_report_reads_as_it_was_measured(tmp_path: Path) -> None:
    rows = rows_of(draw_ranks())
    measured = Report("fig6", rows, command="x").write(tmp_path, "fig6")
    path = store("fig6", measured, tmp_path / "kept")
    assert read(path)[1] == rows
    # Changes can be read: a line each.
    assert sum('{"metric"' in line for line in path.read_text().splitlines()) == len(rows)
    assert verdicts(check("fig6", measured, tmp_path / "kept")) == {"same"}
