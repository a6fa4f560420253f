"""The comparison of methods: what it claims, and that rewrites are asked of the bank, never made up."""

import pytest
from rich.console import Console

from lab.experiments import methods
from lab.experiments.methods import OURS, ROWS, Plan, study
from lab.experiments.plans import Sampling
from lab.experiments.running import run
from lab.results import pick, read_rows
from semlink.errors import NotFound
from semlink.methods import METHODS
from semlink.store import MemoryStore

TINY = Sampling("person", seeds=2, queries=8, links=2)


def test_every_row_is_a_method_and_is_compared_with_ours_at_every_point() -> None:
    assert set(ROWS) <= set(METHODS)
    made = study(Plan(TINY, snrs_db=(0.0, 10.0), sweep_bits=(16,)))
    others = {b.scheme.method for _, b in made.claims}
    assert others == set(ROWS) - {OURS}
    for ours, other in made.claims:
        assert ours.scheme.method == OURS
        assert (ours.snr_db, ours.scheme.bits) == (other.snr_db, other.scheme.bits)
    assert len(made.claims) == 3 * len(others)
    assert made.claimed == ("r_at_1", "map")


def test_methods_without_an_llm_need_no_rewrites(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path))
    plan = Plan(TINY, snrs_db=(10.0,), sweep_bits=(), methods=("deepsc-mimo", "sc-lmkb-wo-sdg"))
    assert study(plan).prepare is None
    with open("/dev/null", "w") as nowhere:
        run(study(plan), tmp_path, Console(file=nowhere))
    rows = read_rows(tmp_path / "methods-person-umi-los.json")
    for method in plan.methods:
        (row,) = pick(rows, method=method, metric="map", snr_db=10.0, quantizer="rvq")
        assert 0 < row.mean <= 1
        assert row.seeds == 2
    assert (tmp_path / "methods-person-umi-los.png").stat().st_size > 10_000


async def test_queries_without_rewrites_are_refused(monkeypatch) -> None:
    async def nothing(store, texts, **_):
        return list(texts)

    monkeypatch.setattr(methods, "fill", nothing)
    prepare = study(Plan(TINY)).prepare
    assert prepare is not None
    with pytest.raises(NotFound, match=r"2 of 2 queries have no rewrites yet, the first: 'a man'"):
        await prepare(MemoryStore(), ["a man", "a woman"])
