"""The source side of the knowledge base, measured: the filter, fusion at query time, augmentation at training time.

``semlink experiment knowledge`` (arXiv 2604.05504; the figures asked are our definition). The filter on labelled
rewrites of embedded captions; R@1 and mAP over the ideal link when queries are fused with their rewrites, by every
rule, with and without the filter; heads trained with and without rewrites. α and τ_f come from val, test is reported.
Rewrites come from :mod:`lab.rewrite_bank`: ``python -m lab.rewrite_bank`` makes them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from kb_service.filtering import judge, keep_all
from lab.calibrate_filter import ALPHAS, Judged, chosen_alpha, detection, judged
from lab.experiments.bootstrap import interval, paired_difference, resampled_means
from lab.label_rewrites import Labelled, controlled, hallucinates, read_labels
from lab.progress import track
from lab.results import Report, Row, over_seeds
from lab.rewrite_bank import RewriteBank, Source, sources
from lab.train_augmented import Augmentation, compare
from lab.train_heads import embed
from lab.training import split_data
from semlink.corpora.corpus import Split, Task
from semlink.corpora.registry import TASKS, corpus_named, default_corpus
from semlink.methods import METHODS, Fusion
from semlink.semantics.encoders import load_heads, semantic_encoder
from semlink.semantics.fusion import fuse
from semlink.semantics.metrics import average_precision, ranked_relevance
from semlink.v1 import knowledge_pb2

NAME: Final = "knowledge"
TEMPERATURES: Final = (0.003, 0.01, 0.03, 0.1, 0.3)
VAL_QUERIES: Final = 100
TEST_QUERIES: Final = 50
"""Of each of three seeds' queries."""
TRAINING_TASKS: Final[tuple[Task, ...]] = ("person",)


@dataclass(frozen=True, slots=True)
class Way:
    """How queries meet their rewrites: the rule, the filter, whether what leaves something out stays, and τ_f."""

    rule: Fusion
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


def asked(task: str, split: Split, chosen: Sequence[Source], bank: RewriteBank) -> Asked:
    """Encode queries, rewrites and the split's gallery. Raises NotFound where the bank lacks rewrites."""
    sets = [bank.rewrites(source.text) for source in chosen]
    texts = [
        t
        for s, f in zip(chosen, sets, strict=True)
        for t in (s.text, *(r.text for r in f.rewrites))
    ]
    encoded = semantic_encoder(task).components("text", texts)[:, 0]
    ends = np.cumsum([1 + len(found.rewrites) for found in sets])
    corpus = corpus_named(default_corpus(task))
    data = split_data(corpus, split)
    gallery = embed(load_heads(task)["media"], data.media)[: len(data.items)]
    theirs = np.array([item.identity for item in data.items])
    return Asked(
        list(chosen),
        sets,
        np.split(encoded, ends[:-1]),
        gallery,
        np.array([source.item.identity for source in chosen])[:, None] == theirs[None, :],
    )


def fused_features(queries: Asked, way: Way, alpha: float) -> NDArray[np.float32]:
    """What each query would send, ``[queries, size]``: fused by what the transmitter runs."""
    rows = []
    for source, found, features in zip(queries.chosen, queries.sets, queries.features, strict=True):
        kept = keep_all(found)
        if way.filtered:
            kept = judge(source.text, found, min_similarity=alpha, complete=way.complete)
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
    ranked = ranked_relevance(
        fused_features(queries, way, alpha) @ queries.gallery.T, queries.relevant
    )
    return {"r_at_1": ranked[:, 0].astype(np.float64), "map": average_precision(ranked)}


def chosen_temperature(val: Mapping[Task, Asked], alpha: float, *, complete: bool) -> float:
    """τ_f with the best mAP on val, the mean of the tasks."""

    def score(tau: float) -> float:
        way = Way("similarity", complete=complete, temperature=tau)
        return float(np.mean([outcomes(q, way, alpha)["map"].mean() for q in val.values()]))

    return max(TEMPERATURES, key=score)


def ways(val: Mapping[Task, Asked], alpha: float) -> list[Way]:
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


def best_way(val: Mapping[Task, Asked], offered: Sequence[Way], alpha: float) -> Way:
    """The way with rewrites that has the best mAP on val, the mean of the tasks; within 0.001 the served rule."""

    def score(way: Way) -> tuple[float, bool]:
        found = np.mean([outcomes(q, way, alpha)["map"].mean() for q in val.values()])
        return round(float(found), 3), way.rule == METHODS["sc-lmkb"].fusion

    return max((w for w in offered if w.rule != "none" and w.filtered), key=score)


def query_rows(
    queries: Mapping[Task, Asked], split: Split, offered: Sequence[Way], ours: Way, alpha: float
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
                        **where,
                    )
                )
        rows += _kept_rows(q, alpha, where)
    return rows


def _kept_rows(queries: Asked, alpha: float, where: Mapping[str, Any]) -> list[Row]:
    """What becomes of the candidates, a query."""
    pairs = list(zip(queries.chosen, queries.sets, strict=True))
    plain = [judge(s.text, f, min_similarity=alpha) for s, f in pairs]
    whole = [judge(s.text, f, min_similarity=alpha, complete=True) for s, f in pairs]
    counts = {
        "candidates_made": [len(f.rewrites) for f in queries.sets],
        "candidates_duplicate": [sum(r.reason == "duplicate" for r in f.rewrites) for f in plain],
        "candidates_kept": [sum(r.kept for r in f.rewrites) for f in plain],
        "candidates_complete": [sum(r.kept for r in f.rewrites) for f in whole],
    }
    return [Row(name, float(np.mean(values)), **where) for name, values in counts.items()]


# --- the filter ----------------------------------------------------------------------------------


def labelled(split: Split) -> list[Labelled]:
    """Every labelled rewrite of a split: those read by eye and the controlled ones."""
    exact = [label for task in TASKS for label in controlled(task, split)]
    return [*read_labels(split), *exact]


def filter_rows(labels: Sequence[Labelled], split: Split, alpha: float, alone: float) -> list[Row]:
    """Precision and recall of each test, for each task, kind of label, and all together."""
    found = judged(labels)
    rows: list[Row] = []
    for task in (None, *TASKS):
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


def sweep_rows(labels: Sequence[Labelled]) -> list[Row]:
    """Precision and recall over α on val, with and without the attribute test."""
    found = judged(labels)
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
    for task in TASKS:
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
    task: Task, found: Mapping[Augmentation, Sequence[Mapping[str, float]]]
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
                label = f"{row.label} vs captions alone"
                rows.append(Row(f"{metric}_difference", variant=label, **where, **over_seeds(more)))
    return rows


def run(
    out: Path,
    *,
    seeds: int = 3,
    val_queries: int = VAL_QUERIES,
    test_queries: int = TEST_QUERIES,
    training_tasks: Sequence[Task] = TRAINING_TASKS,
    console: Console | None = None,
) -> Report:
    """Measure and write ``out/knowledge.{json,csv,md}``.

    ``test_queries``: of each of three seeds; ``training_tasks``: whose heads are trained with rewrites. Raises NotFound
    naming the command where rewrites are missing.
    """
    started = time.monotonic()
    console = console or Console()
    bank = RewriteBank()
    report = Report(NAME)
    val_labels = labelled("val")
    on_val = judged(val_labels)
    alpha = chosen_alpha(on_val, attributes=True)
    alone = chosen_alpha(on_val, attributes=False)
    report.rows.append(Row("alpha", alpha, split="val", variant="filter, with attributes"))
    report.rows.append(Row("alpha", alone, split="val", variant="filter, similarity alone"))
    report.rows += sweep_rows(val_labels)
    report.rows += filter_rows(val_labels, "val", alpha, alone)
    report.rows += filter_rows(labelled("test"), "test", alpha, alone)
    report.rows += agreement_rows("val") + agreement_rows("test")
    val = {
        task: asked(task, "val", sources(task, "val", val_queries), bank)
        for task in track(TASKS, "queries of val")
    }
    offered = ways(val, alpha)
    ours = best_way(val, offered, alpha)
    report.rows += query_rows(val, "val", offered, ours, alpha)
    test = {
        task: asked(task, "test", sources(task, "test", test_queries), bank)
        for task in track(TASKS, "queries of test")
    }
    report.rows += query_rows(test, "test", offered, ours, alpha)
    for task in training_tasks:
        few = sources(task, "val", val_queries)
        report.rows += training_rows(task, compare(task, few, bank, alpha, seeds=seeds))
    report.rows = list(dict.fromkeys(report.rows))
    report.seconds = time.monotonic() - started
    report.write(out, NAME)
    text = page(report)
    (out / f"{NAME}.md").write_text(text)
    console.print(text, markup=False, highlight=False)
    return report


def page(report: Report) -> str:
    """The report as tables."""
    lines = ["# Source knowledge: filter, fusion, augmentation", "", f"`{report.command}`", ""]
    lines += [
        "## Filter, test",
        "",
        "| task | labels and test | precision | recall | faithful kept |",
    ]
    lines += ["|---|---|---|---|---|"]
    tested = [
        r for r in report.rows if r.split == "test" and (r.variant or "").startswith("filter")
    ]
    for task, variant in dict.fromkeys((r.task, r.variant) for r in tested):
        cells = {r.metric: r for r in tested if (r.task, r.variant) == (task, variant)}
        shown = [_shown(cells.get(m)) for m in ("precision", "recall", "faithful_kept")]
        lines.append(f"| {task or 'all'} | {variant} | {' | '.join(shown)} |")
    for split in ("val", "test"):
        lines += ["", f"## Queries and training, {split}", "", "| task | variant | R@1 | mAP |"]
        lines += ["|---|---|---|---|"]
        here = [
            r
            for r in report.rows
            if r.split == split and (r.variant or "").startswith(("query", "training"))
        ]
        for task, variant in dict.fromkeys((r.task, r.variant) for r in here):
            cells = {
                r.metric.removesuffix("_difference"): r
                for r in here
                if (r.task, r.variant) == (task, variant)
            }
            shown = [_shown(cells.get(m)) for m in ("r_at_1", "map")]
            lines.append(f"| {task} | {variant} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _shown(row: Row | None) -> str:
    if row is None:
        return "–"
    bounds = f" [{row.ci95[0]:.3f}, {row.ci95[1]:.3f}]" if row.ci95 else ""
    return f"{row.mean:.3f}{bounds}"
