"""GPA's tables on soundscapes: alignment by prototypes against the global cosine, generators, aggregators, Sinkhorn.

``semlink experiment gpa``. Trains what is missing (kept in the cache directory, an interrupted run goes on), chooses
the Sinkhorn temperature on val, measures test once, and writes the paper's tables with its own figures beside ours. Val
is drawn with as many clips as test: choices made on 300 clips would be choices of noise.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors.numpy import load_file, save_file

from lab.evaluation.bootstrap import interval, paired_difference, resampled_means
from lab.evaluation.parallel import one_thread, results_of
from lab.evaluation.report import Report, Row, over_seeds
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
from semlink.models import cache_dir
from semlink.semantics.sinkhorn import sinkhorn_bias

NAME: Final = "gpa"
RANKS_VERSION: Final = 1
"""Raised whenever the same model would give other ranks."""
CUTOFFS: Final = (1, 5, 10)
WAYS: Final = {"t2a": "text-to-audio", "a2t": "audio-to-text", "a2t+sk": "audio-to-text, Sinkhorn"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table: what we train, the way its audio-to-text scores are corrected, and the paper's figures.

    ``paper``: R@1/5/10 of text-to-audio, then of audio-to-text, on AudioCaps, in percent; None where it gives none.
    """

    label: str
    recipe: GpaRecipe
    sinkhorn: bool
    paper: tuple[float | None, ...]


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
    ours: tuple[float | None, ...] = (36.2, 71.4, 82.9, 44.2, 75.9, 86.7)
    base: tuple[float | None, ...] = (33.9, 69.7, 82.6, 39.4, 72.0, 83.9)
    by_count = {1: (35.1, 70.8, 43.2, 74.9), 2: (35.5, 70.8, 45.1, 74.7), 3: (36.2, 71.4, 44.2, 75.9),
                4: (35.3, 70.1, 45.6, 74.2), 5: (36.1, 70.6, 43.9, 75.8), 10: (35.7, 70.5, 43.2, 74.8)}  # fmt: skip

    def at_1_and_5(t1: float, t5: float, a1: float, a5: float) -> tuple[float | None, ...]:
        return (t1, t5, None, a1, a5, None)

    return {
        "1": [
            Line("DP, triplet-sum", dp_triplet, False, (32.2, 68.2, 81.6, 36.1, 69.2, 81.4)),
            Line("DP, NT-Xent", dp, False, base),
            Line("GPA, triplet-sum", gpa_triplet, True, (35.3, 71.0, 83.2, 42.6, 74.5, 86.7)),
            Line("GPA, NT-Xent", gpa, True, ours),
        ],
        "2": [
            Line("baseline, K = 0", dp, False, at_1_and_5(33.9, 69.7, 39.4, 72.0)),
            Line(
                "attention, K = 3",
                recipe_of(generator="attention"),
                True,
                at_1_and_5(35.1, 70.6, 44.3, 75.4),
            ),
            *(
                Line(
                    f"mask, K = {count}",
                    recipe_of(num_prototypes=count),
                    True,
                    at_1_and_5(*by_count[count]) if count in by_count else (None,) * 6,
                )
                for count in counts
            ),
        ],
        "3": [
            Line(
                "mean pooling", recipe_of(scoring="mean"), True, at_1_and_5(34.7, 69.1, 41.6, 73.5)
            ),
            Line(
                "softmax weight",
                recipe_of(scoring="softmax"),
                True,
                at_1_and_5(35.3, 70.7, 43.7, 74.4),
            ),
            Line("LASS", gpa, True, at_1_and_5(36.2, 71.4, 44.2, 75.9)),
        ],
        "4": [
            Line("without Sinkhorn", gpa, False, (None, None, None, 43.5, 74.9, 86.2)),
            Line("with Sinkhorn", gpa, True, (None, None, None, 44.2, 75.9, 86.7)),
            Line("DP with Sinkhorn (ours)", dp, True, (None,) * 6),
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

    def of(self, way: str) -> NDArray[np.int64]:
        """Ranks of the first right answer to each query of "t2a", "a2t" or "a2t+sk"."""
        if way == "t2a":
            return self.t2a
        return (self.a2t if way == "a2t" else self.a2t_sinkhorn)[:, 0]

    def metrics(self, way: str) -> dict[str, float]:
        """R@1/5/10 and mAP@10."""
        first = self.of(way)
        found = {f"r_at_{k}": float((first <= k).mean()) for k in CUTOFFS}
        ranks = {"t2a": self.t2a[:, None], "a2t": self.a2t, "a2t+sk": self.a2t_sinkhorn}[way]
        found["map_at_10"] = map_at_10(ranks)
        return found


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained and measured; every value can be given on the command line."""

    seeds: int = 3
    """Trainings of each line."""
    tables: Sequence[str] = tuple(TITLES)
    counts: Sequence[int] = (1, 2, 3, 4, 5, 10)
    """Numbers of prototypes in Table 2; 3 is always there."""
    count_seeds: int = 0
    """Trainings of each line that is in Table 2 alone; 0: as many as of the others."""
    epochs: int = 0
    """Of each training; 0: the recipe's."""
    start: str = "plain"
    """:attr:`GpaRecipe.start`: plain heads, or the installed ones less their prototypes."""
    train_items: int = NUM_ITEMS["train"]
    val_items: int = NUM_ITEMS["val"]
    test_items: int = NUM_ITEMS["test"]
    """Clips of each split of soundscapes."""
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
Run = tuple[GpaRecipe, int]
"""A line's recipe as the tables name it, and a seed."""


def runs(plan: Plan) -> list[Run]:
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


def train_one(plan: Plan, run: Run, *, fresh: bool = False) -> Ranks:
    """Ranks of one training: from the cache, or trained and measured now and kept there.

    ``fresh``: trained and measured in any case, unless nothing is to be trained.
    """
    recipe, seed = run
    recipe, corpus = plan.trains(recipe), plan.corpus()
    if fresh:
        ranks_path(recipe, corpus, seed).unlink(missing_ok=True)
        if not plan.trained_only:
            model_path(recipe, corpus, seed).unlink(missing_ok=True)
    return ranks_of(recipe, corpus, seed)


def run(
    plan: Plan, out: Path, console: Console, *, fresh: bool = False, workers: str = "1"
) -> Report:
    """Measure the tables and write ``out/gpa.{json,csv,md}``.

    What is trained and measured is kept, an interrupted run goes on. ``workers``: see
    :func:`lab.evaluation.parallel.spread`.
    """
    started = time.monotonic()
    corpus, todo = plan.corpus(), runs(plan)
    if any(not ranks_path(plan.trains(r), corpus, seed).is_file() for r, seed in todo):
        # once, before the processes that all need them
        for split in get_args(Split):
            encoded(corpus, split, plan.trains(todo[0][0]).start)
    found = results_of(partial(train_one, plan, fresh=fresh), todo, workers, NAME)
    measured: dict[GpaRecipe, list[Ranks]] = {}
    for (recipe, _), ranks in zip(todo, found, strict=True):
        measured.setdefault(recipe, []).append(ranks)
    wanted = {
        number: [line for line in table if line.recipe in measured]
        for number, table in plan.wanted().items()
    }
    report = Report(NAME)
    for number, table in wanted.items():
        for line in table:
            report.rows += _rows(number, line, measured[line.recipe], corpus, "test")
    report.rows += _claims(measured, corpus)
    report.seconds = time.monotonic() - started
    report.write(out, NAME)
    page = markdown(report, wanted, measured, corpus, plan.seeds)
    (out / f"{NAME}.md").write_text(page)
    console.print(page)
    return report


@lru_cache(maxsize=1)
def _corpus(train: int, val: int, test: int) -> Corpus:
    return corpus_of("audio", {"train": train, "val": val, "test": test})


def ranks_path(recipe: GpaRecipe, corpus: Corpus, seed: int) -> Path:
    """Where :func:`ranks_of` keeps ranks: a name by all that they depend on."""
    key = json.dumps([model_path(recipe, corpus, seed).name, TEMPERATURES, RANKS_VERSION])
    digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    return cache_dir() / "gpa" / f"{corpus.info.name}-ranks-{digest}.safetensors"


def ranks_of(recipe: GpaRecipe, corpus: Corpus, seed: int) -> Ranks:
    """Ranks on test, with the Sinkhorn temperature that val prefers for this model; from the cache or measured now."""
    path = ranks_path(recipe, corpus, seed)
    if not path.is_file():
        model, _ = trained(recipe, corpus, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with one_thread():
            found = _measured(model, corpus, recipe.start)
        temporary = path.with_suffix(".part")
        save_file(asdict(found), temporary)
        temporary.replace(path)
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
        )
        for way in ways
        for metric in ("r_at_1", "r_at_5", "r_at_10", "map_at_10")
    ]


def _back(line: Line) -> str:
    return "a2t+sk" if line.sinkhorn else "a2t"


def _hits(ranks: Sequence[Ranks], way: str) -> NDArray[np.float64]:
    """Share of seeds that answered each query first, ``[num_queries]``."""
    hits: NDArray[np.float64] = np.mean([one.of(way) == 1 for one in ranks], axis=0)
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
            task="audio",
            corpus=corpus.info.name,
            split="test",
            variant=name,
        )
        ratio = float(a.mean() / b.mean() - 1.0)
        rows += [gain, replace(gain, metric="r_at_1_relative_gain", mean=ratio, ci95=relative)]
    return rows


def markdown(
    report: Report,
    wanted: Mapping[str, Sequence[Line]],
    measured: Mapping[GpaRecipe, Sequence[Ranks]],
    corpus: Corpus,
    seeds: int,
) -> str:
    """The tables as a page: ours, mean ± deviation over seeds in percent, and the paper's figure in brackets."""

    def cell(ranks: Sequence[Ranks], pick: Callable[[Ranks], float], paper: float | None) -> str:
        values = [100 * pick(one) for one in ranks]
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        beside = "" if paper is None else f" ({paper:.1f})"
        return f"{np.mean(values):.1f}{spread}{beside}"

    lines = [
        f"# GPA on {corpus.info.name}, test",
        "",
        f"`{report.command}`; up to {seeds} seeds, mean ± sd in percent; in brackets the paper's figure on AudioCaps.",
    ]
    for number, table in wanted.items():
        lines += ["", f"## {TITLES[number]}", ""]
        heads = [f"{w} {m}" for w in ("T2A", "A2T") for m in ("R@1", "R@5", "R@10", "mAP@10")]
        lines.append("| | " + " | ".join(heads) + " | seeds |")
        lines.append("|---|" + "---|" * (len(heads) + 1))
        for line in table:
            ranks = measured[line.recipe]
            cells = []
            for place, way in ((0, "t2a"), (3, _back(line))):
                for offset, k in enumerate(CUTOFFS):
                    name = f"r_at_{k}"
                    paper = line.paper[place + offset]
                    cells.append(cell(ranks, lambda r, w=way, n=name: r.metrics(w)[n], paper))  # type: ignore[misc]
                cells.append(cell(ranks, lambda r, w=way: r.metrics(w)["map_at_10"], None))  # type: ignore[misc]
            lines.append(f"| {line.label} | " + " | ".join(cells) + f" | {len(ranks)} |")
    lines += ["", "## Who beats whom (R@1, paired bootstrap over clips, 95 %)", ""]
    lines += ["| claim | difference, points | relative | holds |", "|---|---|---|---|"]
    for row, gain in zip(
        [r for r in report.rows if r.metric == "r_at_1_difference"],
        [r for r in report.rows if r.metric == "r_at_1_relative_gain"],
        strict=True,
    ):
        low, high = row.ci95 or (row.mean, row.mean)
        below, above = gain.ci95 or (gain.mean, gain.mean)
        verdict = "yes" if low > 0 else "no" if high < 0 else "open"
        lines.append(
            f"| {row.variant} | {100 * row.mean:+.1f} ({100 * low:+.1f} … {100 * high:+.1f}) | "
            f"{100 * gain.mean:+.1f} % ({100 * below:+.1f} … {100 * above:+.1f}) | {verdict} |"
        )
    return "\n".join(lines) + "\n"
