"""GPA's tables on soundscapes: alignment by prototypes against the global cosine, generators, aggregators, Sinkhorn.

``semlink experiment gpa``. Trains what is missing (kept in the cache directory, an interrupted run goes on), chooses
the Sinkhorn temperature on val, measures test once, and measures the paper's tables. Val
is drawn with as many clips as test: choices made on 300 clips would be choices of noise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from lab.evaluation.bootstrap import interval, paired_difference, resampled_means
from lab.evaluation.cache import Cache, key_of, write_whole
from lab.evaluation.parallel import one_thread, results_of
from lab.evaluation.report import Row, over_seeds
from lab.experiments.interface import Measured, Run
from lab.training.prototypes import (
    LEARNING_RATES,
    NUM_ITEMS,
    EncodedSplit,
    GpaModel,
    GpaRecipe,
    Start,
    components_of,
    components_of_split,
    corpus_of,
    encoded,
    model_path,
    score_matrix,
    trained,
)
from lab.training.sinkhorn_biases import TEMPERATURES, TRAINING_QUERIES
from semlink.corpora.corpus import Corpus, Split
from semlink.errors import InvalidField
from semlink.semantics.sinkhorn import sinkhorn_bias

NAME: Final = "gpa"
RANKS: Final = Cache("gpa-ranks", __name__)
CUTOFFS: Final = (1, 5, 10)
WAYS: Final = {"t2a": "text-to-audio", "a2t": "audio-to-text", "a2t+sk": "audio-to-text, Sinkhorn"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table: what we train, and whether its audio-to-text scores hold the Sinkhorn bias."""

    label: str
    recipe: GpaRecipe
    sinkhorn: bool


def recipe_of(**settings: Any) -> GpaRecipe:
    """A recipe at the learning rate that val chose for its scoring and loss."""
    recipe = GpaRecipe(**settings)
    if recipe.scoring == "dp":
        # What the baseline has not is named so that its models are kept under one name.
        recipe = replace(recipe, frozen_tokens=False, global_weight=0.0)
    kind = "dp" if recipe.scoring == "dp" else "gpa"
    return replace(recipe, learning_rate=LEARNING_RATES[kind, recipe.loss])


def tables(counts: Sequence[int]) -> dict[str, list[Line]]:
    """The paper's tables; ``counts``: numbers of prototypes in Table 2. GPA's own lines hold the Sinkhorn bias."""
    dp, gpa = recipe_of(scoring="dp"), recipe_of()
    dp_triplet, gpa_triplet = (replace_loss(r, "triplet-sum") for r in (dp, gpa))
    return {
        "1": [
            Line("DP, triplet-sum", dp_triplet, False),
            Line("DP, NT-Xent", dp, False),
            Line("GPA, triplet-sum", gpa_triplet, True),
            Line("GPA, NT-Xent", gpa, True),
        ],
        "2": [
            Line("baseline, K = 0", dp, False),
            Line("attention, K = 3", recipe_of(generator="attention"), True),
            *(Line(f"mask, K = {n}", recipe_of(num_prototypes=n), True) for n in counts),
        ],
        "3": [
            Line("mean pooling", recipe_of(scoring="mean"), True),
            Line("softmax weight", recipe_of(scoring="softmax"), True),
            Line("LASS", gpa, True),
        ],
        "4": [
            Line("without Sinkhorn", gpa, False),
            Line("with Sinkhorn", gpa, True),
            Line("DP with Sinkhorn (ours)", dp, True),
        ],
    }


def replace_loss(recipe: GpaRecipe, loss: str) -> GpaRecipe:
    """The recipe with another loss, at that loss's learning rate."""
    return recipe_of(**{**asdict(recipe), "loss": loss})


TITLES: Final = {
    "1": "Table 1: DP and GPA, both losses",
    "2": "Table 2: prototype generators and their number",
    "3": "Table 3: what makes a score of the prototypes' similarities",
    "4": "Table 4: the Sinkhorn bias, audio-to-text",
}


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where the right answers came, counted from 1; among equal scores the wrong come first.

    ``t2a``: int64 ``[num_captions]``; ``a2t`` and ``a2t+sk``: int64 ``[num_items, captions an item]``, rising.
    """

    t2a: NDArray[np.int64]
    a2t: NDArray[np.int64]
    a2t_sinkhorn: NDArray[np.int64]

    def ranks(self, way: str) -> NDArray[np.int64]:
        """Ranks of the first right answer to each query of "t2a", "a2t" or "a2t+sk"."""
        if way == "t2a":
            return self.t2a
        return (self.a2t if way == "a2t" else self.a2t_sinkhorn)[:, 0]

    def metrics(self, way: str) -> dict[str, float]:
        """R@1/5/10 and mAP@10."""
        first = self.ranks(way)
        found = {f"r_at_{k}": float((first <= k).mean()) for k in CUTOFFS}
        ranks = {"t2a": self.t2a[:, None], "a2t": self.a2t, "a2t+sk": self.a2t_sinkhorn}[way]
        found["map_at_10"] = map_at_10(ranks)
        return found


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained and measured."""

    seeds: int = 3
    """Trainings of each line."""
    tables: tuple[str, ...] = tuple(TITLES)
    """Of the paper, 1 to 4."""
    counts: tuple[int, ...] = (1, 2, 3, 4, 5, 10)
    """Numbers of prototypes in Table 2; 3 is always there."""
    count_seeds: int = 0
    """Trainings of each line that is in Table 2 alone; 0: as many as of the others."""
    epochs: int = 0
    """Of each training; 0: the recipe's."""
    start: str = "plain"
    """What training starts from: plain heads, or the installed ones less their prototypes."""
    train_items: int = NUM_ITEMS["train"]
    """Clips of the train split of soundscapes."""
    val_items: int = NUM_ITEMS["val"]
    """Clips of its val split."""
    test_items: int = NUM_ITEMS["test"]
    """Clips of its test split."""
    trained_only: bool = False
    """Nothing is trained: lines have as many seeds as are there, and those that have none are left out."""

    def wanted(self) -> dict[str, list[Line]]:
        """The tables that are asked for. Raises InvalidField for one that is not the paper's."""
        if unknown := [number for number in self.tables if number not in TITLES]:
            raise InvalidField(
                f"tables has {unknown[0]!r}, allowed: {', '.join(TITLES)}", field="tables"
            )
        found = tables(sorted({*self.counts, 3}))
        return {number: found[number] for number in TITLES if number in self.tables}

    def corpus(self) -> Corpus:
        """Soundscapes of the plan's size."""
        return _corpus(self.train_items, self.val_items, self.test_items)

    def trains(self, recipe: GpaRecipe) -> GpaRecipe:
        """What is trained for a line of the tables."""
        return replace(recipe, epochs=self.epochs or recipe.epochs, start=self.start)  # type: ignore[arg-type]


QUICK: Final[Mapping[str, Any]] = {
    "seeds": 1,
    "tables": ("1", "4"),
    "epochs": 2,
    "start": "installed",
    "train_items": 512,
    "val_items": 128,
    "test_items": 128,
}
"""What ``--quick`` overrides: a smoke run, not a measurement. Multiples of 128: whole shards of features."""
Training = tuple[GpaRecipe, int]
"""A line's recipe as the tables name it, and a seed."""


def runs(plan: Plan) -> list[Training]:
    """Every training, each by itself: in any order, in any process."""
    wanted = plan.wanted()
    recipes = dict.fromkeys(line.recipe for table in wanted.values() for line in table)
    others = {line.recipe for number in wanted if number != "2" for line in wanted[number]}
    found = [
        (recipe, seed)
        for seed in range(plan.seeds)
        for recipe in recipes
        if recipe in others or not plan.count_seeds or seed < plan.count_seeds
    ]
    if not plan.trained_only:
        return found
    corpus = plan.corpus()
    return [(r, seed) for r, seed in found if model_path(plan.trains(r), corpus, seed).is_file()]


def train_one(plan: Plan, training: Training, *, fresh: bool = False) -> Ranks:
    """Ranks of one training: from the cache, or trained and measured now and kept there.

    ``fresh``: trained and measured in any case, unless nothing is to be trained.
    """
    recipe, seed = training
    recipe, corpus = plan.trains(recipe), plan.corpus()
    if fresh:
        ranks_path(recipe, corpus, seed).unlink(missing_ok=True)
        if not plan.trained_only:
            model_path(recipe, corpus, seed).unlink(missing_ok=True)
    return ranks_of(recipe, corpus, seed)


def measure(plan: Plan, run: Run) -> Measured:
    """Measure the tables; what is trained and measured is cached."""
    corpus, todo = plan.corpus(), runs(plan)
    if any(not ranks_path(plan.trains(r), corpus, seed).is_file() for r, seed in todo):
        # once, before the processes that all need them
        for split in get_args(Split):
            encoded(corpus, split, plan.trains(todo[0][0]).start)
    found = results_of(partial(train_one, plan, fresh=run.fresh), todo, run.workers, NAME)
    measured: dict[GpaRecipe, list[Ranks]] = {}
    for (recipe, _), ranks in zip(todo, found, strict=True):
        measured.setdefault(recipe, []).append(ranks)
    rows = [
        row
        for number, table in plan.wanted().items()
        for line in table
        if line.recipe in measured
        for row in _rows(number, line, measured[line.recipe], corpus, "test")
    ]
    return Measured(rows + _claims(measured, corpus))


@lru_cache(maxsize=1)
def _corpus(train: int, val: int, test: int) -> Corpus:
    return corpus_of("audio", {"train": train, "val": val, "test": test})


def ranks_path(recipe: GpaRecipe, corpus: Corpus, seed: int) -> Path:
    """Where :func:`ranks_of` keeps ranks: a name by all that they depend on beside the sources."""
    key = key_of(json.dumps([model_path(recipe, corpus, seed).name, TEMPERATURES]))
    return RANKS.path(f"{corpus.info.name}-{key}.safetensors")


def ranks_of(recipe: GpaRecipe, corpus: Corpus, seed: int) -> Ranks:
    """Ranks on test, with the Sinkhorn temperature that val prefers for this model; from the cache or measured now."""
    path = ranks_path(recipe, corpus, seed)
    if not path.is_file():
        model, _ = trained(recipe, corpus, seed)
        with one_thread():
            found = asdict(_measured(model, corpus, recipe.start))
        write_whole(path, partial(save_file, found))
    return Ranks(**load_file(path))


def _measured(model: GpaModel, corpus: Corpus, start: Start) -> Ranks:
    temperature = chosen_temperature(model, corpus, start)
    test, seen = _split(corpus, "test", start), _split(corpus, "train", start)
    scores, bias = scores_and_bias(model, seen, test, (temperature,))
    owner = test.data.caption_item.numpy()
    plain = scores.numpy()
    return Ranks(
        t2a=first_ranks(plain, owner),
        a2t=own_ranks(plain.T, owner),
        a2t_sinkhorn=own_ranks((scores + bias[temperature][:, None]).numpy().T, owner),
    )


@torch.inference_mode()
def chosen_temperature(model: GpaModel, corpus: Corpus, start: Start = "plain") -> float:
    """The Sinkhorn temperature that is best on val."""
    val, seen = _split(corpus, "val", start), _split(corpus, "train", start)
    scores, found = scores_and_bias(model, seen, val, TEMPERATURES)
    owner = val.data.caption_item.numpy()

    def quality(temperature: float) -> float:
        ranks = own_ranks((scores + found[temperature][:, None]).numpy().T, owner)
        return float((ranks[:, 0] == 1).mean()) + map_at_10(ranks)

    return max(found, key=quality)


def scores_and_bias(
    model: GpaModel, train: EncodedSplit, split: EncodedSplit, temperatures: Sequence[float]
) -> tuple[torch.Tensor, dict[float, torch.Tensor]]:
    """Scores ``[num_captions, num_items]`` of a split, and the captions' Sinkhorn bias at each temperature."""
    own = components_of_split(model, split)
    training = components_of(model.media, train.media)
    seen = training[:: max(1, len(training) // TRAINING_QUERIES)]
    against = score_matrix(model.scorer, own.text, seen).T
    return score_matrix(model.scorer, own.text, own.media), {
        temperature: sinkhorn_bias(against, temperature) for temperature in temperatures
    }


@cache
def _split(corpus: Corpus, split: Split, start: Start) -> EncodedSplit:
    return encoded(corpus, split, start)


def first_ranks(scores: NDArray[Any], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank of the one right entry of each row of scores ``[num_queries, num_entries]``, int64, from 1."""
    own = scores[np.arange(len(scores)), right]
    ranks: NDArray[np.int64] = (scores >= own[:, None]).sum(1)
    return ranks


def own_ranks(scores: NDArray[Any], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ranks of each item's own captions: int64 ``[num_items, captions an item]``, rising, from 1.

    ``scores``: ``[num_items, num_captions]``; ``owner``: the item of each caption, each has as many and in order. Among
    equal scores the wrong come first.
    """
    each = len(owner) // len(scores)
    rows = np.arange(len(scores))[:, None]
    columns = rows * each + np.arange(each)
    own = -np.sort(-scores[rows, columns], axis=1)
    others = scores.copy()
    others[rows, columns] = -np.inf
    others.sort(axis=1)
    ahead = np.stack(
        [
            others.shape[1] - np.searchsorted(line, values, side="left")
            for line, values in zip(others, own, strict=True)
        ]
    )
    ranks: NDArray[np.int64] = ahead + np.arange(1, each + 1)
    return ranks


def map_at_10(ranks: NDArray[np.int64]) -> float:
    """mAP@10 of rising ranks ``[num_queries, num_right]``: Σ of the precision at hits in the first 10, / num_right."""
    precision = np.arange(1, ranks.shape[1] + 1) / ranks * (ranks <= 10)
    return float(precision.sum(1).mean() / ranks.shape[1])


def _rows(number: str, line: Line, ranks: Sequence[Ranks], corpus: Corpus, split: str) -> list[Row]:
    ways = [_back(line)] if number == "4" else ["t2a", _back(line)]
    return [
        Row(
            metric=metric,
            **over_seeds([one.metrics(way)[metric] for one in ranks]),
            method="dp" if line.recipe.scoring == "dp" else "gpa",
            task="audio",
            corpus=corpus.info.name,
            split=split,
            variant=f"table {number}, {line.label}, {WAYS[way]}",
            condition=f"table {number}, {line.label}, {WAYS[way]}",
        )
        for way in ways
        for metric in ("r_at_1", "r_at_5", "r_at_10", "map_at_10")
    ]


def _back(line: Line) -> str:
    return "a2t+sk" if line.sinkhorn else "a2t"


def _hits(ranks: Sequence[Ranks], way: str) -> NDArray[np.float64]:
    """Share of seeds that answered each query first, ``[num_queries]``."""
    hits: NDArray[np.float64] = np.mean([one.ranks(way) == 1 for one in ranks], axis=0)
    return hits


def _claims(measured: Mapping[GpaRecipe, Sequence[Ranks]], corpus: Corpus) -> list[Row]:
    """Differences of R@1 with bootstrap intervals over clips, and gains relative to the worse."""
    items = corpus.items("test")
    owner = np.repeat(np.arange(len(items)), [len(item.captions) for item in items])
    dp, gpa = recipe_of(scoring="dp"), recipe_of()
    softmax, mean = recipe_of(scoring="softmax"), recipe_of(scoring="mean")
    attention = recipe_of(generator="attention")
    pairs: list[tuple[str, GpaRecipe, str, GpaRecipe, str]] = [
        ("GPA over DP, NT-Xent, text-to-audio", gpa, "t2a", dp, "t2a"),
        ("GPA over DP, NT-Xent, audio-to-text", gpa, "a2t+sk", dp, "a2t"),
        ("GPA over DP, both without Sinkhorn, audio-to-text", gpa, "a2t", dp, "a2t"),
        ("GPA over DP, both with Sinkhorn, audio-to-text", gpa, "a2t+sk", dp, "a2t+sk"),
        ("GPA with attention over DP, text-to-audio", attention, "t2a", dp, "t2a"),
        ("GPA with attention over DP, audio-to-text", attention, "a2t+sk", dp, "a2t"),
        ("attention over mask, text-to-audio", attention, "t2a", gpa, "t2a"),
        ("attention over mask, audio-to-text", attention, "a2t+sk", gpa, "a2t+sk"),
        ("Sinkhorn over none, GPA, audio-to-text", gpa, "a2t+sk", gpa, "a2t"),
        ("Sinkhorn over none, DP, audio-to-text", dp, "a2t+sk", dp, "a2t"),
    ]
    dp_triplet, gpa_triplet = (replace_loss(r, "triplet-sum") for r in (dp, gpa))
    pairs += [
        ("GPA over DP, triplet-sum, text-to-audio", gpa_triplet, "t2a", dp_triplet, "t2a"),
        ("GPA over DP, triplet-sum, audio-to-text", gpa_triplet, "a2t+sk", dp_triplet, "a2t"),
    ]
    for way in ("t2a", "a2t+sk"):
        pairs += [
            (f"LASS over softmax, {WAYS[way]}", gpa, way, softmax, way),
            (f"softmax over mean, {WAYS[way]}", softmax, way, mean, way),
            (f"LASS over mean, {WAYS[way]}", gpa, way, mean, way),
        ]
    rows = []
    for name, better, better_way, worse, worse_way in pairs:
        if better not in measured or worse not in measured:
            continue
        clusters = owner if better_way == "t2a" else np.arange(int(owner.max()) + 1)
        # Seeds are paired: where one line has more, the rest of them are left out here.
        count = min(len(measured[better]), len(measured[worse]))
        a = _hits(measured[better][:count], better_way)
        b = _hits(measured[worse][:count], worse_way)
        mean_gain, ci = paired_difference(a, b, clusters)
        means = resampled_means(np.stack([a, b], axis=1), clusters)
        means = means[means[:, 1] > 0]
        relative = interval(means[:, 0] / means[:, 1] - 1.0)
        gain = Row(
            metric="r_at_1_difference",
            mean=mean_gain,
            ci95=ci,
            seeds=count,
            method="dp" if better.scoring == "dp" else "gpa",
            baseline="dp" if worse.scoring == "dp" else "gpa",
            task="audio",
            corpus=corpus.info.name,
            split="test",
            variant=name,
            condition=name,
        )
        ratio = float(a.mean() / b.mean() - 1.0)
        rows += [gain, replace(gain, metric="r_at_1_relative_gain", mean=ratio, ci95=relative)]
    return rows
