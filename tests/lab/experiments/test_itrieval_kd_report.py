"""The experiment on noisy texts: what it trains and measures is kept, and comes out alike from another cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from lab.evaluation.report import Report, Row, pick
from lab.experiments import itrieval_kd
from lab.experiments.itrieval_kd import QUICK, SERVED, Plan, chosen_rates, trainings
from lab.experiments.registry import experiment
from lab.training.alignment_heads import embed
from lab.training.sentence_student import NoisySplit, Table
from semlink.corpora.corpus import Item, Split
from semlink.corpora.noisy import Continuation, NoisePool, as_sentence
from semlink.errors import InvalidField
from semlink.semantics.encoders import load_heads

ITEMS = 5
PLAN = replace(
    Plan(),
    seeds=2,
    students=(SERVED, "itrieval-kd, raw cosines"),
    epochs=1,
    fine_epochs=1,
    fine_rates=(1e-3,),
    kinds=("continuations",),
    encoded_texts=2,
)


def noisy(split: Split) -> NoisySplit:
    """A split with tokens drawn at random instead of a trunk's."""
    items = [
        Item(f"{split}-{n}", f"{split}-{n}", split, tuple(f"A dog {c} {n}." for c in "abcde"))
        for n in range(ITEMS)
    ]
    continuations = {
        i.item_id: tuple(Continuation(c, f"It rains {c} on {i.item_id}.") for c in range(3))
        for i in items
    }
    sentences = [as_sentence(c) for i in items for c in i.captions]
    sentences += [c.text for noise in continuations.values() for c in noise]
    draws = torch.Generator().manual_seed(len(split))
    states = [torch.randn(4, 384, generator=draws).half() for _ in sentences]
    table = Table(states, {s: n for n, s in enumerate(sentences)})
    media = torch.nn.functional.normalize(torch.randn(ITEMS, 256, generator=draws), dim=1)
    return NoisySplit(
        items=items,
        num_pooled=ITEMS,
        pool=NoisePool({"made": "by this test"}, continuations),
        table=table,
        text=embed(load_heads("image")["text"], table.frozen()),
        media=media.numpy(),
        place={item.item_id: n for n, item in enumerate(items)},
    )


@pytest.fixture(scope="module")
def splits() -> dict[str, NoisySplit]:
    return {split: noisy(split) for split in ("train", "val", "test")}


@pytest.fixture
def bench(
    splits: dict[str, NoisySplit], monkeypatch: pytest.MonkeyPatch
) -> Iterator[itrieval_kd.Bench]:
    made = object.__new__(itrieval_kd.Bench)
    made.keys = {split: found.key for split, found in splits.items()}  # type: ignore[misc]
    for split, found in splits.items():
        setattr(made, split, found)
    monkeypatch.setattr(itrieval_kd, "_bench", lambda *_: made)
    # long texts, joined ones and their time need the trunk itself
    monkeypatch.setattr(
        itrieval_kd, "encoding_rows", lambda *_: [Row("r_at_1", 0.5, variant="enc")]
    )
    monkeypatch.setattr(itrieval_kd, "long_rows", lambda *_: [])
    monkeypatch.setattr(itrieval_kd, "_processor_ms", lambda *_: 1.0)
    itrieval_kd._tuned.cache_clear()
    yield made
    itrieval_kd._tuned.cache_clear()


def measure(out: Path, **more: Any) -> Report:
    return experiment("itrieval", PLAN).run(out, Console(quiet=True), **more)


def test_two_caches_give_the_same_rows_and_one_measures_once(
    bench: itrieval_kd.Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "one"))
    report = measure(tmp_path)
    for setting in ("zero-shot", "fine-tuned"):
        at = {"variant": f"continuations, 3 noise sentences, {setting}"}
        (ours,) = pick(report.rows, metric="r_at_1", method=SERVED, **at)
        (ablation,) = pick(report.rows, metric="r_at_1", method="itrieval-kd, raw cosines", **at)
        assert (ours.seeds, ablation.seeds) == (2, 1)
        (key,) = pick(report.rows, metric="r_at_10", method="key", **at)
        assert key.mean == 1.0, "five pictures are all among the first ten"
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "two"))
    itrieval_kd._tuned.cache_clear()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(99)
    try:
        assert measure(tmp_path).rows == report.rows
    finally:
        torch.set_num_threads(before)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("again")

    for name in ("fine_tuned", "trained", "_ranks"):
        monkeypatch.setattr(itrieval_kd, name, never)
    assert measure(tmp_path).rows == report.rows
    with pytest.raises(AssertionError, match="again"):
        measure(tmp_path, fresh=True)


def test_a_kept_head_is_the_one_that_was_trained(
    bench: itrieval_kd.Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path))
    first = bench.head(1e-3, 1, 0)
    again = bench.head(1e-3, 1, 0)
    shipped = bench.heads["text"].state_dict()
    moved = 0
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        moved += not torch.equal(tensor, shipped[name])
    assert moved > 10
    other = bench.head(1e-3, 2, 0)
    assert any(not torch.equal(t, other.state_dict()[n]) for n, t in first.state_dict().items())


def test_rates_are_those_of_the_best_mean_and_the_first_of_equals() -> None:
    plan = replace(Plan(), fine_rates=(1.0, 2.0), ablation_seeds=1, students=(SERVED,))
    found = [{method: [0.2, 0.4] for method in plan.methods()} for _ in range(2)]
    found[0]["raw"], found[1]["raw"] = [0.9, 0.1], [0.1, 0.2]
    found[0]["key"] = found[1]["key"] = [0.3, 0.3]
    rates = chosen_rates(plan, found)
    assert (rates["raw"], rates["key"], rates[SERVED]) == (1.0, 1.0, 2.0)


def test_plans_say_what_they_train() -> None:
    # every seed trains the shipped student and a head of each rate, the first the ablations as well
    assert len(trainings(Plan())) == 3 + 2 + 3 * 2
    assert len(trainings(replace(Plan(), **QUICK))) == 2
    with pytest.raises(InvalidField, match="students has 'nobody'"):
        replace(Plan(), students=("nobody",)).recipes(0)
    with pytest.raises(InvalidField, match="kinds has 'hum', allowed: continuations"):
        replace(Plan(), kinds=("hum",)).noise_kinds()
    with pytest.raises(InvalidField, match="kinds has nothing"):
        replace(Plan(), kinds=()).noise_kinds()
