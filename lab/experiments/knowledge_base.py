"""The source side of the knowledge base, measured: the filter, fusion at query time, augmentation at training time.

``semlink experiment knowledge`` (arXiv 2604.05504; the figures asked are our definition). The filter on labelled
rewrites of embedded captions; R@1 and mAP over the ideal link when queries are fused with their rewrites, by every
rule, with and without the filter; heads trained with and without rewrites. α and τ_f come from val, test is reported.
Rewrites come from :mod:`lab.evaluation.rewrite_cache`; what it lacks the LLM makes, in seconds each, and the cache
keeps.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from kb_service.filtering import accept_all, filter_rewrites
from kb_service.rewriting import task_of
from lab.evaluation.bootstrap import interval, paired_difference, resampled_means
from lab.evaluation.cache import Cache, key_of
from lab.evaluation.filter_calibration import ALPHAS, Judged, chosen_alpha, detection, judged
from lab.evaluation.hallucination_labels import Labelled, controlled, hallucinates, read_labels
from lab.evaluation.parallel import one_thread
from lab.evaluation.report import Row, over_seeds
from lab.evaluation.rewrite_cache import (
    TEMPERATURE,
    RewriteCache,
    Source,
    item_of,
    load_rewriter,
    sources,
)
from lab.experiments.interface import Measured, Run
from lab.experiments.tables import print_rows
from lab.training.alignment_heads import embed
from lab.training.data import describe_data, split_data
from lab.training.rewrite_augmentation import STEPS, Augmentation, compare
from semlink.corpora.corpus import Split
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.errors import InvalidField
from semlink.methods import METHODS
from semlink.models import MODELS, file_sha256
from semlink.progress import track
from semlink.semantics.encoders import load_heads, semantic_encoder
from semlink.semantics.fusion import fuse
from semlink.semantics.metrics import per_query
from semlink.semantics.spaces import weights_of
from semlink.tasks import BUILT_IN
from semlink.v1 import knowledge_pb2

NAME: Final = "knowledge"
ENCODED: Final = Cache(NAME, semantic_encoder, split_data, embed)
JUDGED: Final = Cache(NAME, judged)
SPLITS: Final[tuple[Split, ...]] = ("val", "test")
TEMPERATURES: Final = (0.003, 0.01, 0.03, 0.1, 0.3)
VAL_QUERIES: Final = 100
TEST_QUERIES: Final = 50
"""Of each of three seeds' queries."""
TRAINING_TASKS: Final[tuple[str, ...]] = ("person",)
"""What judging labels and encoding texts depend on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured and trained."""

    seeds: int = 3
    """Trainings of each row with rewrites."""
    val_queries: int = VAL_QUERIES
    """Of val, which chooses."""
    test_queries: int = TEST_QUERIES
    """Of test, of each of three seeds' queries."""
    training_tasks: tuple[str, ...] = TRAINING_TASKS
    """Whose heads are trained with rewrites; none: no training."""
    training_steps: int = STEPS
    """Of each training."""
    labels: int = 0
    """Labelled rewrites of each task, split and kind of label, the first; 0: all."""

    def trained(self) -> list[str]:
        """The tasks of ``training_tasks``. Raises InvalidField for an unknown one."""
        if unknown := [task for task in self.training_tasks if task not in BUILT_IN]:
            raise InvalidField(
                f"training_tasks has {unknown[0]!r}, allowed: {', '.join(BUILT_IN)}",
                field="training_tasks",
            )
        return [task for task in BUILT_IN if task in self.training_tasks]


QUICK: Final[Mapping[str, Any]] = {
    "seeds": 1,
    "val_queries": 6,
    "test_queries": 2,
    "training_steps": 10,
    "labels": 4,
}
"""What ``--quick`` overrides: a smoke run, not a measurement."""


@dataclass(frozen=True, slots=True)
class Way:
    """How queries meet their rewrites: the rule, the filter, whether what leaves something out stays, and τ_f."""

    rule: str
    filtered: bool = True
    complete: bool = False
    temperature: float = 1.0

    @property
    def label(self) -> str:
        """The row's ``variant``."""
        if self.rule == "none":
            return "query, no rewrites"
        kept = "unfiltered"
        if self.filtered:
            kept = "filtered, complete" if self.complete else "filtered"
        tau = f", tau {self.temperature:g}" if self.rule == "similarity" else ""
        return f"query, {self.rule}{tau}, {kept}"


NO_REWRITES: Final = Way("none")
LLM_SC: Final = Way("mean", filtered=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries with features, their rewrites and the gallery: ``features[q]`` ``[1 + n, size]``, the source first."""

    chosen: list[Source]
    sets: list[knowledge_pb2.RewriteSet]
    features: list[NDArray[np.float32]]
    gallery: NDArray[np.float32]
    relevant: NDArray[np.bool_]


def asked(
    task: str, split: Split, chosen: Sequence[Source], cache: RewriteCache, *, fresh: bool = False
) -> Asked:
    """Queries and rewrites encoded, and the split's gallery: from the cache or encoded now.

    Makes what the cache lacks; raises NotFound with the command that installs the LLM where there is none.
    """
    if missing := [s.text for s in chosen if (s.text, TEMPERATURE) not in cache]:
        cache.generate(load_rewriter(), [task_of(item_of(t), field="text") for t in missing])
    sets = [cache.rewrites(source.text) for source in chosen]
    texts = [
        t
        for s, f in zip(chosen, sets, strict=True)
        for t in (s.text, *(r.text for r in f.rewrites))
    ]
    corpus = corpus_named(default_corpus(task))
    items = corpus.items(split)
    key = [task, split, texts, describe_data(corpus), file_sha256(weights_of(task, "heads"))]

    def make(path: Path) -> None:
        with one_thread():
            data = split_data(corpus, split)
            found = {
                "texts": semantic_encoder(task).components("text", texts)[:, 0].copy(),
                "gallery": embed(load_heads(task)["media"], data.media)[: len(items)].copy(),
            }
        save_file(found, path)

    name = f"encoded-{task}-{split}-{key_of(json.dumps(key))}.safetensors"
    encoded = load_file(ENCODED.entry(name, make, fresh=fresh))
    ends = np.cumsum([1 + len(found.rewrites) for found in sets])
    theirs = np.array([item.identity for item in items])
    return Asked(
        list(chosen),
        sets,
        np.split(encoded["texts"], ends[:-1]),
        encoded["gallery"],
        np.array([source.item.identity for source in chosen])[:, None] == theirs[None, :],
    )


def fused_features(queries: Asked, way: Way, alpha: float) -> NDArray[np.float32]:
    """What each query would send, ``[queries, size]``: fused by what the transmitter runs."""
    rows = []
    for source, found, features in zip(queries.chosen, queries.sets, queries.features, strict=True):
        kept = accept_all(found)
        if way.filtered:
            kept = filter_rewrites(source.text, found, min_similarity=alpha, complete=way.complete)
        similarity = torch.tensor([[r.similarity for r in found.rewrites]])
        rows.append(
            fuse(
                torch.from_numpy(features[:1]),
                torch.from_numpy(features[None, 1:]),
                similarity.reshape(1, -1),
                torch.tensor([[r.kept for r in kept.rewrites]], dtype=torch.bool).reshape(1, -1),
                rule=way.rule,
                temperature=way.temperature,
            ).numpy()[0]
        )
    return np.stack(rows)


def outcomes(queries: Asked, way: Way, alpha: float) -> dict[str, NDArray[np.float64]]:
    """R@1 and average precision of each query over the ideal link."""
    scores = fused_features(queries, way, alpha) @ queries.gallery.T
    return per_query(scores, queries.relevant, ("r_at_1", "map"))


def chosen_temperature(val: Mapping[str, Asked], alpha: float, *, complete: bool) -> float:
    """τ_f with the best mAP on val, the mean of the tasks."""

    def score(tau: float) -> float:
        way = Way("similarity", complete=complete, temperature=tau)
        return float(np.mean([outcomes(q, way, alpha)["map"].mean() for q in val.values()]))

    return max(TEMPERATURES, key=score)


def ways(val: Mapping[str, Asked], alpha: float) -> list[Way]:
    """Everything that is compared."""
    found = [NO_REWRITES, LLM_SC, Way("mean"), Way("mean", complete=True)]
    for complete in (False, True):
        tau = chosen_temperature(val, alpha, complete=complete)
        found.append(Way("similarity", complete=complete, temperature=tau))
    return [
        *found,
        Way("importance", filtered=False),
        Way("importance"),
        Way("importance", complete=True),
    ]


def best_way(val: Mapping[str, Asked], offered: Sequence[Way], alpha: float) -> Way:
    """The way with rewrites that has the best mAP on val, the mean of the tasks; within 0.001 the served rule."""

    def score(way: Way) -> tuple[float, bool]:
        found = np.mean([outcomes(q, way, alpha)["map"].mean() for q in val.values()])
        return round(float(found), 3), way.rule == METHODS["sc-lmkb"].fusion

    return max((w for w in offered if w.rule != "none" and w.filtered), key=score)


def query_rows(
    queries: Mapping[str, Asked], split: Split, offered: Sequence[Way], ours: Way, alpha: float
) -> list[Row]:
    """Metrics of every way, and the differences of ours to none and to llm-sc, paired over queries."""
    rows: list[Row] = []
    for task, q in queries.items():
        # A person's pictures are alike: whole identities are drawn anew.
        clusters = np.unique([s.item.identity for s in q.chosen], return_inverse=True)[1]
        by_way = {way: outcomes(q, way, alpha) for way in offered}
        where: dict[str, Any] = {
            "task": task,
            "corpus": default_corpus(task),
            "split": split,
            "method": "ideal",
        }
        for way, figures in by_way.items():
            for metric, values in figures.items():
                low, high = interval(resampled_means(values[:, None], clusters)[:, 0])
                rows.append(
                    Row(metric, float(values.mean()), ci95=(low, high), variant=way.label, **where)
                )
        for other, name in ((NO_REWRITES, "no rewrites"), (LLM_SC, "llm-sc")):
            for metric in ("r_at_1", "map"):
                mean, ci95 = paired_difference(
                    by_way[ours][metric], by_way[other][metric], clusters
                )
                rows.append(
                    Row(
                        f"{metric}_difference",
                        mean,
                        ci95=ci95,
                        variant=f"{ours.label} vs {name}",
                        baseline=name,
                        condition=ours.label,
                        **where,
                    )
                )
        rows += _cached_rows(q, alpha, where)
    return rows


def _cached_rows(queries: Asked, alpha: float, where: Mapping[str, Any]) -> list[Row]:
    """What becomes of the candidates, a query."""
    pairs = list(zip(queries.chosen, queries.sets, strict=True))
    plain = [filter_rewrites(s.text, f, min_similarity=alpha) for s, f in pairs]
    whole = [filter_rewrites(s.text, f, min_similarity=alpha, complete=True) for s, f in pairs]
    counts = {
        "candidates_made": [len(f.rewrites) for f in queries.sets],
        "candidates_duplicate": [sum(r.reason == "duplicate" for r in f.rewrites) for f in plain],
        "candidates_kept": [sum(r.kept for r in f.rewrites) for f in plain],
        "candidates_complete": [sum(r.kept for r in f.rewrites) for f in whole],
    }
    return [Row(name, float(np.mean(values)), **where) for name, values in counts.items()]


# --- the filter ----------------------------------------------------------------------------------


def labelled(split: Split, number: int = 0) -> list[Labelled]:
    """Labelled rewrites of a split, those read by eye and the controlled ones; the first ``number`` of each, or all."""
    exact = {task: controlled(task, split, number or None) for task in BUILT_IN}
    read = {task: [x for x in read_labels(split) if x.task == task] for task in BUILT_IN}
    last = number or None
    return [x for of in (read, exact) for task in BUILT_IN for x in of[task][:last]]


def judged_labels(labels: Sequence[Labelled], *, fresh: bool = False) -> Judged:
    """:func:`lab.evaluation.filter_calibration.judged`: from the cache or judged now."""
    key = [[label.source, label.text, label.hallucinated] for label in labels]

    def make(path: Path) -> None:
        with one_thread():
            save_file(asdict(judged(labels)), path)

    name = f"judged-{key_of(json.dumps([key, MODELS['minilm'].sha256]))}.safetensors"
    return Judged(**load_file(JUDGED.entry(name, make, fresh=fresh)))


def filter_rows(
    labels: Sequence[Labelled], found: Judged, split: Split, alpha: float, alone: float
) -> list[Row]:
    """Precision and recall of each test, for each task, kind of label, and all together; ``found``: of the labels."""
    rows: list[Row] = []
    for task in (None, *BUILT_IN):
        for origin in (None, "llm", "controlled"):
            chosen = np.array(
                [task in (None, x.task) and origin in (None, x.origin) for x in labels]
            )
            items = [x.source for x, c in zip(labels, chosen, strict=True) if c]
            clusters = np.unique(items, return_inverse=True)[1]
            here = found[chosen]
            for test, threshold, attributes in (
                (f"similarity < {alone:.2f}", alone, False),
                (f"similarity < {alpha:.2f}", alpha, False),
                ("attributes", None, True),
                (f"both, similarity < {alpha:.2f}", alpha, True),
            ):
                label = {"llm": "LLM's, read", "controlled": "controlled"}.get(origin or "", "all")
                where = {"task": task, "split": split, "variant": f"filter, {label}: {test}"}
                rows += _detection_rows(here, threshold, attributes, clusters, where)
    return rows


def _detection_rows(
    found: Judged,
    threshold: float | None,
    attributes: bool,
    clusters: NDArray[np.int64],
    where: Mapping[str, Any],
) -> list[Row]:
    value = detection(found, threshold, attributes=attributes)
    dropped = found.dropped(threshold, attributes=attributes)
    right = dropped & found.hallucinated
    # Ratios of means over resampled sources.
    columns = np.stack([right, dropped, found.hallucinated], axis=1).astype(np.float64)
    means = resampled_means(columns, clusters)
    rows = [Row("rewrites", float(len(dropped)), **where)]
    for metric, figure, of in (("precision", value.precision, 1), ("recall", value.recall, 2)):
        if not np.isfinite(figure):
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = means[:, 0] / means[:, of]
        ci95 = interval(shares[np.isfinite(shares)])
        rows.append(Row(metric, figure, ci95=ci95, **where))
    rows.append(Row("faithful_kept", value.kept, **where))
    return rows


def sweep_rows(found: Judged) -> list[Row]:
    """Precision and recall over α on val, with and without the attribute test."""
    rows = []
    for alpha in ALPHAS[::5]:
        for attributes in (False, True):
            value = detection(found, alpha, attributes=attributes)
            both = "both, " if attributes else ""
            label = f"filter, all: {both}similarity < {alpha:.2f}"
            for metric in ("precision", "recall"):
                figure = float(getattr(value, metric))
                if np.isfinite(figure):
                    rows.append(Row(metric, figure, split="val", variant=label))
    return list(dict.fromkeys(rows))


def agreement_rows(split: Split) -> list[Row]:
    """Share of the rewrites read by eye that the generators' word tables label alike."""
    rows = []
    for task in BUILT_IN:
        labels = [x for x in read_labels(split) if x.task == task]
        if labels:
            same = [hallucinates(task, x.source, x.text) == x.hallucinated for x in labels]
            rows.append(
                Row(
                    "agreement",
                    float(np.mean(same)),
                    task=task,
                    split=split,
                    variant="vocabulary and reader",
                )
            )
    return rows


# --- training ------------------------------------------------------------------------------------


def training_rows(
    task: str, found: Mapping[Augmentation, Sequence[Mapping[str, float]]]
) -> list[Row]:
    """Scores on test of the heads trained with each β, and what β adds to captions alone, seed by seed."""
    where: dict[str, Any] = {"task": task, "corpus": default_corpus(task), "split": "test"}
    alone = next(runs for row, runs in found.items() if not row.beta)
    rows = []
    for row, runs in found.items():
        for metric in ("r_at_1", "map"):
            values = [scores[metric] for scores in runs]
            rows.append(Row(metric, variant=row.label, **where, **over_seeds(values)))
            if row.beta:
                more = [v - scores[metric] for v, scores in zip(values, alone, strict=True)]
                rows.append(
                    Row(
                        f"{metric}_difference",
                        variant=f"{row.label} vs captions alone",
                        baseline="captions alone",
                        condition=row.label,
                        **where,
                        **over_seeds(more),
                    )
                )
    return rows


def measure(plan: Plan, run: Run) -> Measured:
    """Measure a plan; what is encoded, judged and trained is cached.

    Raises NotFound with the command that installs the LLM where rewrites are missing and it is, too.
    """
    cache, tasks, rows = RewriteCache(), plan.trained(), list[Row]()
    labels: dict[Split, list[Labelled]] = {}
    found: dict[Split, Judged] = {}
    for split in track(SPLITS, "labelled rewrites"):
        labels[split] = labelled(split, plan.labels)
        found[split] = judged_labels(labels[split], fresh=run.fresh)
    alpha = chosen_alpha(found["val"], attributes=True)
    alone = chosen_alpha(found["val"], attributes=False)
    rows.append(Row("alpha", alpha, split="val", variant="filter, with attributes"))
    rows.append(Row("alpha", alone, split="val", variant="filter, similarity alone"))
    rows += sweep_rows(found["val"])
    for split in SPLITS:
        rows += filter_rows(labels[split], found[split], split, alpha, alone)
    rows += agreement_rows("val") + agreement_rows("test")
    count: dict[Split, int] = {"val": plan.val_queries, "test": plan.test_queries}
    queries: dict[Split, dict[str, Asked]] = {split: {} for split in SPLITS}
    for split, task in track(list(itertools.product(SPLITS, BUILT_IN)), "queries and rewrites"):
        chosen = sources(task, split, count[split])
        queries[split][task] = asked(task, split, chosen, cache, fresh=run.fresh)
    with one_thread():
        offered = ways(queries["val"], alpha)
        ours = best_way(queries["val"], offered, alpha)
        for split in track(SPLITS, "fusion by every rule"):
            rows += query_rows(queries[split], split, offered, ours, alpha)
        for task in tasks:
            few = sources(task, "val", plan.val_queries)
            compared = compare(
                task,
                few,
                cache,
                alpha,
                seeds=plan.seeds,
                steps=plan.training_steps,
                fresh=run.fresh,
            )
            rows += training_rows(task, compared)
    rows = list(dict.fromkeys(rows))
    test = [row for row in rows if row.split == "test"]
    return Measured(rows, show=lambda: print_rows(test, run.console, quick=run.quick))
