"""Sew + MCM's ablation on `pedestrians`: ``semlink experiment sew-mcm`` (paper, tables 4, 5 and 6).

Every variant trains the same heads on the same frozen tokens with the same data, epochs and batches, for each seed;
what is trained already is kept in the cache directory. Test is read once, after all training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from lab.evaluation.bootstrap import paired_difference
from lab.evaluation.cache import Cache, key_of
from lab.evaluation.parallel import one_thread, results_of
from lab.evaluation.report import Row, over_seeds
from lab.experiments.interface import Measured, Run
from lab.training import alignment_heads
from lab.training.alignment_heads import embed
from lab.training.data import SplitData, describe_data, split_data
from lab.training.person_search import OBJECTIVES, RECIPES
from lab.training.person_search import run as train
from semlink.corpora.corpus import Corpus
from semlink.corpora.pedestrians import Pedestrians
from semlink.corpora.pedestrians.corpus import DEFAULT_IDENTITIES
from semlink.errors import InvalidField
from semlink.semantics.encoders import read_heads
from semlink.semantics.metrics import CUTOFFS, per_query
from semlink.semantics.reranking import NEIGHBOURS, WEIGHTS, nearest, reranked

NAME: Final = "sew-mcm"
HEADS: Final = Cache(NAME, train, alignment_heads.run)
FIGURES: Final = Cache(f"{NAME}-figures", __name__)
METRICS: Final = (*(f"r_at_{k}" for k in CUTOFFS), "map", "minp")
PLAIN: Final = "plain"
"""What files call candidates as they come."""
RERANKED: Final = "re-ranked"
WEIGHTED: Final = "re-ranked, weighted"
KINDS: Final = {
    "": WEIGHTS["none"],
    RERANKED: WEIGHTS["neighbours"],
    WEIGHTED: WEIGHTS["weighted-neighbours"],
}
"""How candidates are ordered, and what the Jaccard index of neighbours then counts."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A line of the table: its name in :data:`lab.training.person_search.OBJECTIVES`, and one for readers."""

    objective: str
    label: str


VARIANTS: Final = (
    Variant("cmpm-cmpc", "CMPM + CMPC (baseline)"),
    Variant("sew-fixed", "Sew, fixed margin 0.5"),
    Variant("sew-adaptive", "Sew, adaptive margin"),
    Variant("mcm", "CMPM + CMPC + MCM"),
    Variant("sew-mcm", "Sew, adaptive + MCM"),
)
"""The paper's table 4 on CUHK-PEDES, models 2 to 6."""
BEFORE: Final = "infonce-phrases"
COMPONENTS: Final = (
    Variant("cmpm-cmpc-shuffled", "CMPM + CMPC, batches as Sew's"),
    Variant(BEFORE, "InfoNCE + phrases (lab.training.alignment_heads), one seed"),
    Variant("mask-only", "CMPM + CMPC, words masked"),
    Variant("mcm-without-image", "MCM without cross-attention"),
)
"""The paper's table 5, less its row of attention without modelling: dropped at inference, it would train nothing.

Before it, the baseline over the batches that Sew trains on, and :mod:`lab.training.alignment_heads`'s larger heads.
"""
Key = tuple[str, str]
"""A variant's objective, and one of :data:`KINDS`."""
CLAIMS: Final[tuple[tuple[Key, Key], ...]] = (
    (("sew-fixed", ""), ("cmpm-cmpc", "")),
    (("sew-adaptive", ""), ("sew-fixed", "")),
    (("mcm", ""), ("cmpm-cmpc", "")),
    (("sew-mcm", ""), ("sew-adaptive", "")),
    (("sew-mcm", ""), ("mcm", "")),
    (("sew-mcm", ""), ("cmpm-cmpc", "")),
    (("sew-mcm", RERANKED), ("sew-mcm", "")),
    (("sew-mcm", WEIGHTED), ("sew-mcm", "")),
    (("sew-mcm", WEIGHTED), ("cmpm-cmpc", WEIGHTED)),
    (("sew-mcm", ""), ("cmpm-cmpc-shuffled", "")),
    (("sew-mcm", ""), (BEFORE, "")),
    (("mask-only", ""), ("cmpm-cmpc", "")),
    (("mcm", ""), ("mcm-without-image", "")),
)
"""Pairs of which the second is subtracted from the first."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained and measured."""

    seeds: int = 3
    """Trainings of each variant; seeds are 0, 1, …"""
    objectives: tuple[str, ...] = tuple(variant.objective for variant in VARIANTS)
    """Variants of table 4."""
    components: bool = False
    """Adds table 5."""
    other_people: int = 0
    """Seed of a generator of other people, whose test split is a row of generalisation (table 6); 0: none."""
    epochs: int = 0
    """Of each training; 0: the recipe's."""
    train_people: int = DEFAULT_IDENTITIES["train"]
    """Persons of the train split of pedestrians, with four pictures each."""
    val_people: int = DEFAULT_IDENTITIES["val"]
    """Persons of its val split."""
    test_people: int = DEFAULT_IDENTITIES["test"]
    """Persons of its test split."""

    def variants(self) -> list[Variant]:
        """Lines of the table. Raises InvalidField for no seeds, and for objectives that are not table 4's."""
        if self.seeds < 1:
            raise InvalidField(f"seeds is {self.seeds}, expected at least one", field="seeds")
        known = {variant.objective: variant for variant in VARIANTS}
        if not self.objectives or (unknown := [o for o in self.objectives if o not in known]):
            raise InvalidField(
                f"objectives has {unknown[0]!r}, allowed: {', '.join(known)}"
                if self.objectives
                else "objectives is empty, expected at least one",
                field="objectives",
            )
        return [known[o] for o in self.objectives] + (list(COMPONENTS) if self.components else [])

    def corpora(self) -> list[Corpus]:
        """The corpus whose people train, and where they are asked for the others, who are only looked for."""
        sizes = (self.train_people, self.val_people, self.test_people)
        seeds = (0, self.other_people) if self.other_people else (0,)
        return [_corpus(seed, *sizes) for seed in seeds]


QUICK: Final[Mapping[str, Any]] = {
    "seeds": 1,
    "objectives": ("cmpm-cmpc", "sew-fixed", "sew-adaptive"),
    "epochs": 2,
    "train_people": 192,
    "val_people": 32,
    "test_people": 64,
}
"""What ``--quick`` overrides: a smoke run, not a measurement. Multiples of 32 people: whole shards of features.

Masked caption modelling is left out: encoding the captions with words masked takes more than a minute.
"""
Training = tuple[str, int]
"""Objective and seed of a training."""
QueryFigures = Mapping[str, NDArray[np.float64]]
"""Of each of :data:`KINDS`: float64 ``[queries, 5]``, :data:`METRICS` of each query."""


def runs(plan: Plan) -> list[Training]:
    """Every training, each by itself: in any order, in any process."""
    return [
        (variant.objective, seed)
        for seed in range(plan.seeds)
        for variant in plan.variants()
        if variant.objective != BEFORE or not seed
    ]


def train_one(plan: Plan, training: Training, *, fresh: bool = False) -> list[QueryFigures]:
    """Figures on each of the plan's corpora of one training: from the cache, or trained and measured now.

    ``fresh``: trained and measured in any case.
    """
    corpora = plan.corpora()
    with one_thread():
        folder = trained(*training, corpora[0], epochs=plan.epochs, fresh=fresh)
        return [_figures_on(folder, corpus) for corpus in corpora]


def measure(plan: Plan, run: Run) -> Measured:
    """Train what is missing, then measure test."""
    todo = runs(plan)
    found = results_of(partial(train_one, plan, fresh=run.fresh), todo, run.workers, NAME)
    rows: list[Row] = []
    for place, corpus in enumerate(plan.corpora()):
        name = corpus.info.name + (", other people" if place else "")
        by_seed: dict[Key, list[NDArray[np.float64]]] = {}
        for (objective, _), of in zip(todo, found, strict=True):
            for kind in KINDS:
                by_seed.setdefault((objective, kind), []).append(of[place][kind])
        stacked = {key: np.stack(values) for key, values in by_seed.items()}
        rows += _metric_rows(stacked, name) + _claim_rows(stacked, _clusters(corpus), name)
    return Measured(rows)


@lru_cache(maxsize=2)
def _corpus(seed: int, train: int, val: int, test: int) -> Corpus:
    return Pedestrians(seed=seed, num_identities={"train": train, "val": val, "test": test})


def trained(
    objective: str, seed: int, corpus: Corpus, *, epochs: int = 0, fresh: bool = False
) -> Path:
    """Folder of the heads of one run, trained now unless the same run is in the cache directory.

    ``epochs``: 0 for the recipe's; ``fresh``: trained in any case.
    """
    heads_recipe, recipe = alignment_heads.RECIPES["person"], RECIPES.get(objective)
    if epochs:
        heads_recipe = replace(heads_recipe, epochs=epochs)
        recipe = recipe and replace(recipe, epochs=epochs)
    before = objective == BEFORE or recipe is None
    what: list[Any] = [heads_recipe] if before else [OBJECTIVES[objective], recipe]
    key = [objective, *map(asdict, what), describe_data(corpus), seed]
    digest = key_of(json.dumps(key, sort_keys=True))

    def make(folder: Path) -> None:
        if before:
            alignment_heads.run("person", seed=seed, out=folder, corpus=corpus, recipe=heads_recipe)
        else:
            train(objective, seed, out=folder, corpus=corpus, recipe=recipe)

    return HEADS.entry(f"{objective}-{seed}-{digest}", make, fresh=fresh)


def _figures_on(folder: Path, corpus: Corpus) -> QueryFigures:
    """Figures of trained heads on the test split of a corpus, cached."""
    key = key_of(json.dumps([folder.name, describe_data(corpus)], sort_keys=True))

    def make(path: Path) -> None:
        heads = read_heads(folder / "heads-person.safetensors")
        data = split_data(corpus, "test")
        found = query_figures(
            embed(heads["text"], data.text), embed(heads["media"], data.media), data
        )
        save_file({kind or PLAIN: values for kind, values in found.items()}, path)

    stored = load_file(FIGURES.entry(f"{key}.safetensors", make))
    return {kind: stored[kind or PLAIN] for kind in KINDS}


def query_figures(
    text: NDArray[np.float32], media: NDArray[np.float32], data: SplitData
) -> dict[str, NDArray[np.float64]]:
    """:data:`METRICS` of each query, float64 ``[queries, 5]``, under each of :data:`KINDS`."""
    identity, owner = data.identity.numpy(), data.caption_item.numpy()
    relevant = identity[owner][:, None] == identity[None, :]
    scores = text @ media.T
    of_text, of_images = nearest(text, media, NEIGHBOURS), nearest(media, media, NEIGHBOURS)
    candidates = np.broadcast_to(of_images, (*scores.shape, NEIGHBOURS))
    return {
        kind: _figures(reranked(scores, of_text, candidates, weight), relevant)
        for kind, weight in KINDS.items()
    }


def _figures(scores: NDArray[Any], relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.stack(list(per_query(scores, relevant, METRICS).values()), axis=1)


def _clusters(corpus: Corpus) -> NDArray[np.int64]:
    """Queries of one person share their right answers, so persons are resampled: int64 ``[queries]``."""
    people = [item.identity for item in corpus.items("test") for _ in item.captions]
    number = {name: n for n, name in enumerate(dict.fromkeys(people))}
    return np.array([number[name] for name in people])


def _metric_rows(figures: Mapping[Key, NDArray[np.float64]], corpus: str) -> list[Row]:
    return [
        Row(
            metric=metric,
            **over_seeds(list(values[:, :, column].mean(axis=1))),
            method=objective,
            task="person",
            corpus=corpus,
            split="test",
            variant=kind or None,
            condition=kind or None,
        )
        for (objective, kind), values in figures.items()
        for column, metric in enumerate(METRICS)
    ]


def _claim_rows(
    figures: Mapping[Key, NDArray[np.float64]],
    clusters: NDArray[np.int64],
    corpus: str,
) -> list[Row]:
    """Differences of Rank-1 and mAP, each query's mean over the seeds, persons resampled."""
    rows = []
    for a, b in CLAIMS:
        if a not in figures or b not in figures:
            continue
        for metric in ("r_at_1", "map"):
            column = METRICS.index(metric)
            of_a, of_b = (figures[key][:, :, column].mean(axis=0) for key in (a, b))
            mean, ci95 = paired_difference(of_a, of_b, clusters)
            rows.append(
                Row(
                    metric=f"{metric}_difference",
                    mean=mean,
                    ci95=ci95,
                    seeds=min(len(figures[a]), len(figures[b])),
                    method=a[0],
                    task="person",
                    corpus=corpus,
                    split="test",
                    variant=f"{_name(a)} vs {_name(b)}",
                    baseline=_name(b),
                    condition=a[1] or None,
                )
            )
    return rows


def _name(key: Key) -> str:
    return " ".join(key).rstrip()
