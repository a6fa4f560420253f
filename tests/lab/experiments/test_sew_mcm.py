"""The ablation of Sew + MCM: its figures, its claims, and what it writes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from lab.evaluation.report import Report, read_rows
from lab.experiments import sew_mcm
from lab.experiments.registry import experiment
from lab.experiments.sew_mcm import (
    CLAIMS,
    KINDS,
    METRICS,
    QUICK,
    RERANKED,
    VARIANTS,
    Plan,
    query_figures,
    runs,
)
from lab.training.data import SplitData, describe_data
from lab.training.features import FrozenFeatures
from lab.training.person_search import RECIPES, Recipe
from semlink.corpora.corpus import Item
from semlink.corpora.pedestrians import Pedestrians
from semlink.errors import InvalidField
from semlink.semantics.metrics import retrieval_metrics

PEOPLE, VIEWS = 20, 4


def data() -> SplitData:
    nothing = FrozenFeatures(torch.zeros(0, 4).half(), torch.zeros(1).long())
    items = [
        Item(f"{p}-{v}", str(p), "test", ("a", "b")) for p in range(PEOPLE) for v in range(VIEWS)
    ]
    return SplitData(
        items=items,
        media=nothing,
        text=nothing,
        identity=torch.arange(PEOPLE).repeat_interleave(VIEWS),
        caption_item=torch.arange(len(items)).repeat_interleave(2),
    )


def features(noise: float, seed: int) -> dict[str, Any]:
    """Text and pictures of people, as good as ``noise`` allows: ``{"text": …, "media": …}``."""
    who = np.random.default_rng(0).standard_normal((PEOPLE, 12))
    rng = np.random.default_rng(100 + seed)
    pictures = np.repeat(who, VIEWS, 0) + 0.5 * rng.standard_normal((PEOPLE * VIEWS, 12))
    texts = np.repeat(who, 2 * VIEWS, 0) + noise * rng.standard_normal((2 * PEOPLE * VIEWS, 12))
    return {
        side: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        for side, x in (("text", texts), ("media", pictures))
    }


def test_the_figures_of_queries_are_the_metrics() -> None:
    found, split = features(0.9, 0), data()
    figures = query_figures(found["text"], found["media"], split)
    identity, owner = split.identity.numpy(), split.caption_item.numpy()
    expected = retrieval_metrics(
        found["text"] @ found["media"].T, identity[owner][:, None] == identity[None, :]
    )
    for column, metric in enumerate(METRICS):
        assert figures[""][:, column].mean() == pytest.approx(expected[metric])
    assert figures[RERANKED][:, METRICS.index("map")].mean() > expected["map"]


NOISE = {v.objective: 1.4 - 0.2 * n for n, v in enumerate(VARIANTS)}


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Any]]:
    asked: list[Any] = []

    def trained(objective: str, seed: int, corpus: object, **_: object) -> Path:
        asked.append((objective, seed))
        folder = tmp_path / "heads" / f"{objective}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def heads(path: Path) -> dict[str, Any]:
        objective, _, seed = path.parent.name.rpartition("-")
        return features(NOISE[objective], int(seed))

    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sew_mcm, "trained", trained)
    monkeypatch.setattr(sew_mcm, "read_heads", heads)
    monkeypatch.setattr(sew_mcm, "embed", lambda head, _: head)
    monkeypatch.setattr(sew_mcm, "split_data", lambda corpus, split: data())
    return tmp_path, asked


PLAN = replace(Plan(), train_people=1, val_people=1, test_people=PEOPLE)


def measure(plan: Plan, out: Path) -> Report:
    return experiment("sew-mcm", plan).run(out, Console(quiet=True))


def test_rows_tables_and_claims(measured: tuple[Path, list[Any]]) -> None:
    out, asked = measured
    report = measure(replace(PLAN, other_people=1), out)
    assert len(asked) == len(set(asked)) == 3 * len(VARIANTS)
    content = json.loads((out / "sew-mcm.json").read_text())
    rows = read_rows(out / "sew-mcm.json")
    assert len(rows) == len(content["rows"]) == len(report.rows)
    here = [r for r in rows if r.corpus == "pedestrians"]
    metrics = [r for r in here if r.metric in METRICS]
    assert len(metrics) == len(VARIANTS) * len(KINDS) * len(METRICS)
    assert all(r.seeds == 3 and r.sd is not None and r.ci95 for r in metrics)
    assert len(rows) == 2 * len(here), "the other people get the same rows"
    claims = [r for r in here if r.metric == "r_at_1_difference"]
    names = [c.variant for c in claims]
    assert "sew-mcm vs cmpm-cmpc" in names
    assert "sew-mcm re-ranked vs sew-mcm" in names
    assert len(claims) == sum(a[0] in NOISE and b[0] in NOISE for a, b in CLAIMS)
    for claim in claims:
        assert claim.ci95 is not None
        assert claim.ci95[0] <= claim.mean <= claim.ci95[1]
    by_name = {str(c.variant): c for c in claims}
    whole = by_name["sew-mcm vs cmpm-cmpc"]
    of = {(r.method, r.variant): r.mean for r in metrics if r.metric == "r_at_1"}
    assert whole.mean == pytest.approx(of["sew-mcm", None] - of["cmpm-cmpc", None])
    assert whole.ci95 is not None
    assert whole.ci95[0] > 0, "the fixture's difference is large"
    with (out / "sew-mcm.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)


def test_what_was_measured_is_kept(
    measured: tuple[Path, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = measured
    report = measure(PLAN, out)

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(sew_mcm, "query_figures", never)
    assert measure(PLAN, out).rows == report.rows
    with pytest.raises(AssertionError, match="measured again"):
        measure(replace(PLAN, test_people=PEOPLE + 1), out)


def test_components_are_table_5(measured: tuple[Path, list[Any]]) -> None:
    out, asked = measured
    NOISE.update({v.objective: 1.0 for v in sew_mcm.COMPONENTS})
    measure(replace(PLAN, seeds=2, components=True), out)
    assert {("mask-only", 0), ("mask-only", 1), (sew_mcm.BEFORE, 0)} <= set(asked)
    assert (sew_mcm.BEFORE, 1) not in asked, "one seed will do for a reference"
    rows = read_rows(out / "sew-mcm.json")
    assert {r.seeds for r in rows if r.method == sew_mcm.BEFORE} == {1}
    assert "mcm-without-image" in {r.method for r in rows}


def test_a_run_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def train(objective: str, seed: int, *, out: Path, corpus: object, recipe: Recipe) -> None:
        calls.append((objective, seed, recipe.epochs))
        out.mkdir(parents=True, exist_ok=True)
        (out / "heads-person.json").write_text("{}")

    monkeypatch.setattr(sew_mcm, "train", train)
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path))
    corpus = Pedestrians()
    first = sew_mcm.trained("mcm", 0, corpus)
    assert sew_mcm.trained("mcm", 0, corpus) == first
    assert sew_mcm.trained("mcm", 1, corpus) != first
    assert sew_mcm.trained("mcm", 0, Pedestrians(seed=1)) != first
    whole = RECIPES["mcm"].epochs
    assert calls == [("mcm", 0, whole), ("mcm", 1, whole), ("mcm", 0, whole)]
    # a quick run is another, and leaves the whole one where it is
    assert sew_mcm.trained("mcm", 0, corpus, epochs=2) != first
    assert calls[3:] == [("mcm", 0, 2)]
    assert sew_mcm.trained("mcm", 0, corpus, fresh=True) == first
    assert calls[4:] == [("mcm", 0, whole)]


def test_wrong_plans_are_refused() -> None:
    with pytest.raises(InvalidField, match="at least one"):
        Plan(seeds=0).variants()
    with pytest.raises(InvalidField, match="objectives has 'hinge', allowed: cmpm-cmpc"):
        Plan(objectives=("hinge",)).variants()
    with pytest.raises(InvalidField, match="objectives is empty"):
        Plan(objectives=()).variants()


def test_the_default_corpus_is_the_one_that_ships() -> None:
    """Trainings of the default plan are those of the embedded corpus."""
    assert describe_data(Plan().corpora()[0]) == describe_data(Pedestrians())
    quick = replace(Plan(), **QUICK)
    assert set(runs(quick)) < set(runs(Plan()))
    assert describe_data(quick.corpora()[0]) != describe_data(Pedestrians())
