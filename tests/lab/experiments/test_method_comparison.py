"""The comparison of methods: what it claims, and that rewrites are asked of the bank, never made up."""

import pytest
from rich.console import Console

from kb_service.handler import KnowledgeBase
from lab.evaluation.report import Row, pick, read_rows
from lab.evaluation.rewrite_cache import item_of
from lab.experiments import method_comparison
from lab.experiments.method_comparison import OURS, ROWS, Plan, difference_figures, study
from lab.experiments.registry import EXPERIMENTS, experiment, plan_of
from lab.experiments.sweep import Sampling
from semlink.cli.experiments import experiment_app
from semlink.errors import InvalidField
from semlink.methods import METHODS
from semlink.store import MemoryStore
from semlink.v1 import knowledge_pb2

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
        experiment("methods", plan).run(tmp_path, Console(file=nowhere))
    rows = read_rows(tmp_path / "methods-person-umi-los.json")
    for method in plan.methods:
        (row,) = pick(rows, method=method, metric="map", snr_db=10.0, quantizer="rvq")
        assert 0 < row.mean <= 1
        assert row.seeds == 2
    assert (tmp_path / "methods-person-umi-los.png").stat().st_size > 10_000


async def test_rewrites_that_the_bank_lacks_are_generated_and_put(monkeypatch, tmp_path) -> None:
    """By the rewriter of the knowledge base, under the keys that it looks up."""
    asked = []

    class Rewriter:
        def __call__(self, tasks, **_):
            asked.extend(t.text for t in tasks)
            found = [knowledge_pb2.RewriteSet() for _ in tasks]
            for task, one in zip(tasks, found, strict=True):
                one.rewrites.add(text=f"{task.text} indeed", similarity=0.9)
            return found

    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(method_comparison, "load_rewriter", Rewriter)
    prepare = study(Plan(TINY)).prepare
    assert prepare is not None
    store = MemoryStore()
    await store.put_knowledge(prepare(["a man", "a woman"]))
    assert sorted(asked) == ["a man", "a woman"]
    knowledge = KnowledgeBase(store)
    item = item_of("a man")
    answer = await knowledge.rewrite(knowledge_pb2.RewriteRequest(items=[item]))
    await knowledge.close()
    assert [r.text for r in answer.sets[0].rewrites] == ["a man indeed"]
    assert answer.sets[0].cached
    assert len(prepare(["a man", "a woman"])) == 2
    assert len(asked) == 2, "the bank kept them"


def test_every_figure_has_a_plan_and_a_command() -> None:
    commands = {c.name: c.help for c in experiment_app.registered_commands}
    figures = {n: e for n, e in EXPERIMENTS.items() if e.module == "method_comparison"}
    assert len(figures) == 7
    for name, figure in figures.items():
        plan = plan_of(name, quick=True)
        assert plan.sampling.queries == 8
        assert study(plan).name == (name if name != "methods" else "methods-person-umi-los")
        assert study(plan).points
        assert name in commands
        assert figure.title.lower() in str(commands[name]).lower()


def test_a_method_that_is_no_row_is_named() -> None:
    with pytest.raises(InvalidField) as caught:
        study(Plan(TINY, methods=("magic",)))
    assert caught.value.field == "methods"
    with pytest.raises(InvalidField, match="fig6"):
        plan_of("fig99")


def test_differences_are_drawn_without_digital_coding() -> None:
    def versus(baseline: str, snr_db: float) -> Row:
        at = {"method": "sc-lmkb", "baseline": baseline, "snr_db": snr_db, "bits": 64}
        return Row("map_difference", 0.1, **at)  # type: ignore[arg-type]

    rows = [versus(name, x) for name in ("deepsc-mimo", "separation") for x in (10.0, 0.0)]
    (figure,) = difference_figures(rows)
    (panel,) = figure.panels
    assert [(line.label, tuple(line.x)) for line in panel.lines] == [
        ("no difference", (0.0, 10.0)),
        ("DeepSC-MIMO", (0.0, 10.0)),
    ]
    assert difference_figures([]) == []
