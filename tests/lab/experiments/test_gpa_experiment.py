"""GPA's plan: which trainings it asks for, what they are kept under, and what ``fresh`` measures again."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lab.evaluation.report import pick
from lab.experiments import gpa
from lab.experiments.gpa import QUICK, Plan, Ranks, recipe_of, runs, train_one
from lab.experiments.registry import experiment
from lab.training import prototypes
from lab.training.prototypes import GpaRecipe
from semlink.corpora.corpus import Corpus
from semlink.errors import InvalidField

TINY = replace(Plan(), train_items=4, val_items=3, test_items=40, tables=("1", "4"), seeds=2)


@pytest.fixture
def trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[GpaRecipe, int]]:
    """Stand-ins for training and measuring: ranks drawn from the recipe and the seed."""
    found: list[tuple[GpaRecipe, int]] = []

    def trained(recipe: GpaRecipe, corpus: Corpus, seed: int) -> tuple[object, dict[str, object]]:
        found.append((recipe, seed))
        path = prototypes.model_path(recipe, corpus, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a model")
        return (recipe, seed), {}

    def measured(model: tuple[GpaRecipe, int], corpus: Corpus, start: str) -> Ranks:
        recipe, seed = model
        rng = np.random.default_rng((seed, len(repr(recipe))))
        each = len(corpus.items("test")[0].captions)
        items = len(corpus.items("test"))
        back = np.sort(rng.integers(1, 9, (items, each)), axis=1)
        return Ranks(rng.integers(1, 8, items * each), back, back)

    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(prototypes, "encoder_digest", lambda task, start="plain": "an encoder")
    monkeypatch.setattr(gpa, "encoded", lambda *_: None)
    monkeypatch.setattr(gpa, "trained", trained)
    monkeypatch.setattr(gpa, "_measured", measured)
    return found


def test_each_training_is_asked_for_once_and_kept(
    tmp_path: Path, trainings: list[tuple[GpaRecipe, int]]
) -> None:
    report = experiment("gpa", TINY).run(tmp_path, Console(quiet=True))
    assert len(trainings) == len(set(trainings)) == len(runs(TINY)) == 4 * 2
    rows = pick(report.rows, metric="r_at_1")
    assert {row.seeds for row in rows} == {2}
    assert len(rows) == 4 * 2 + 3, "both ways of table 1, one of table 4"
    assert experiment("gpa", TINY).run(tmp_path, Console(quiet=True)).rows == report.rows
    assert len(trainings) == 8
    assert (
        experiment("gpa", TINY).run(tmp_path, Console(quiet=True), fresh=True).rows == report.rows
    )
    assert len(trainings) == 16


def test_quick_runs_train_something_else(trainings: list[tuple[GpaRecipe, int]]) -> None:
    whole, quick = Plan(), replace(Plan(), **QUICK)
    paths = {
        prototypes.model_path(plan.trains(recipe), plan.corpus(), seed)
        for plan in (replace(whole, tables=quick.tables, seeds=1), quick)
        for recipe, seed in runs(plan)
    }
    assert len(paths) == 2 * len(runs(quick))
    for recipe, _ in runs(quick):
        assert quick.trains(recipe) == replace(recipe, epochs=2, start="installed")
        assert whole.trains(recipe) == recipe


def test_models_from_plain_heads_keep_their_names(trainings: list[tuple[GpaRecipe, int]]) -> None:
    """The name knows nothing of the other start, so that models of before are found."""
    import hashlib
    import json

    from lab.training.data import describe_data

    corpus, recipe = TINY.corpus(), recipe_of()
    before = asdict(recipe)
    del before["start"]
    parts = [3, before, describe_data(corpus), "an encoder", 0]
    digest = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()
    assert digest in prototypes.model_path(recipe, corpus, 0).name
    installed = replace(recipe, start="installed")
    assert digest not in prototypes.model_path(installed, corpus, 0).name


def test_fewer_seeds_where_only_table_2_asks() -> None:
    plan = replace(Plan(), counts=(1, 3), count_seeds=1)
    asked = runs(plan)
    one = recipe_of(num_prototypes=1)
    assert sum(recipe == one for recipe, _ in asked) == 1
    assert sum(recipe == recipe_of() for recipe, _ in asked) == 3
    assert sum(r == one for r, _ in runs(replace(plan, count_seeds=0))) == 3
    assert all(r != one for r, _ in runs(replace(plan, tables=("1", "3", "4"))))


def test_nothing_is_trained_where_only_what_is_there_counts(
    tmp_path: Path, trainings: list[tuple[GpaRecipe, int]]
) -> None:
    first = runs(TINY)[0]
    train_one(TINY, first)
    plan = replace(TINY, trained_only=True)
    assert runs(plan) == [first]
    report = experiment("gpa", plan).run(tmp_path, Console(quiet=True), fresh=True)
    assert len({row.variant for row in pick(report.rows, metric="r_at_1")}) == 2
    assert len(trainings) == 2, "measured again, its model kept"


def test_wrong_plans_are_refused() -> None:
    with pytest.raises(InvalidField, match="tables has '7', allowed: 1, 2, 3, 4"):
        replace(Plan(), tables=("7",)).wanted()
    with pytest.raises(InvalidField, match="start is 'nowhere'"):
        replace(Plan(), start="nowhere").trains(recipe_of())
