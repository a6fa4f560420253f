"""Sew + MCM's ablation on `pedestrians`: ``semlink experiment sew-mcm`` (paper, tables 4, 5 and 6).

Every variant trains the same heads on the same frozen tokens with the same data, epochs and batches, for each seed;
what is trained already is kept in the cache directory. Test is read once, after all training.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lab import train_heads
from lab.experiments.bootstrap import paired_difference
from lab.results import Report, Row, over_seeds
from lab.train_heads import embed
from lab.train_person import OBJECTIVES, RECIPES, load_heads
from lab.train_person import run as train
from lab.training import SplitData, describe_data, split_data
from semlink.corpora.corpus import Corpus
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.errors import InvalidField
from semlink.models import cache_dir
from semlink.semantics.metrics import CUTOFFS, average_precision, ranked_relevance
from semlink.semantics.reranking import NEIGHBOURS, WEIGHTS, nearest, reranked

NAME: Final = "sew-mcm"
METRICS: Final = (*(f"r_at_{k}" for k in CUTOFFS), "map", "minp")
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
    """A line of the table: its name in :data:`lab.train_person.OBJECTIVES`, and the paper's Rank-1/5/10 in percent."""

    objective: str
    label: str
    paper: tuple[float, float, float] | None = None
    paper_reranked: tuple[float, float, float] | None = None


VARIANTS: Final = (
    Variant("cmpm-cmpc", "CMPM + CMPC (baseline)", (62.29, 81.25, 87.22)),
    Variant("sew-fixed", "Sew, fixed margin 0.5", (65.41, 82.56, 88.01)),
    Variant("sew-adaptive", "Sew, adaptive margin", (66.02, 83.33, 88.61)),
    Variant("mcm", "CMPM + CMPC + MCM", (65.16, 81.95, 87.93)),
    Variant("sew-mcm", "Sew, adaptive + MCM", (67.71, 84.57, 89.44), (71.09, 86.78, 91.23)),
)
"""The paper's table 4 on CUHK-PEDES, models 2 to 6."""
BEFORE: Final = "infonce-phrases"
COMPONENTS: Final = (
    Variant("cmpm-cmpc-shuffled", "CMPM + CMPC, batches as Sew's"),
    Variant(BEFORE, "InfoNCE + phrases (lab.train_heads), one seed"),
    Variant("mask-only", "CMPM + CMPC, words masked", (63.65, 81.84, 87.51)),
    Variant("mcm-without-image", "MCM without cross-attention", (64.28, 81.97, 87.75)),
)
"""The paper's table 5, less its row of attention without modelling: dropped at inference, it would train nothing.

Before it, the baseline over the batches that Sew trains on, and :mod:`lab.train_heads`'s larger heads.
"""
Key = tuple[str, str]
"""A variant's objective, and one of :data:`KINDS`."""
CLAIMS: Final[tuple[tuple[Key, Key, float | None], ...]] = (
    (("sew-fixed", ""), ("cmpm-cmpc", ""), 3.12),
    (("sew-adaptive", ""), ("sew-fixed", ""), 0.61),
    (("mcm", ""), ("cmpm-cmpc", ""), 2.87),
    (("sew-mcm", ""), ("sew-adaptive", ""), 1.69),
    (("sew-mcm", ""), ("mcm", ""), 2.55),
    (("sew-mcm", ""), ("cmpm-cmpc", ""), 5.42),
    (("sew-mcm", RERANKED), ("sew-mcm", ""), 3.38),
    (("sew-mcm", WEIGHTED), ("sew-mcm", ""), None),
    (("sew-mcm", WEIGHTED), ("cmpm-cmpc", WEIGHTED), None),
    (("sew-mcm", ""), ("cmpm-cmpc-shuffled", ""), None),
    (("sew-mcm", ""), (BEFORE, ""), None),
    (("mask-only", ""), ("cmpm-cmpc", ""), 1.36),
    (("mcm", ""), ("mcm-without-image", ""), 0.88),
)
"""Rank-1 of the first above the second, and by how many points in the paper where it says."""


def run(
    out: Path,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    corpus: Corpus | None = None,
    components: bool = False,
    others: Corpus | None = None,
    console: Console | None = None,
) -> Report:
    """Train what is missing, measure test, and write ``out/sew-mcm.json``, ``.csv`` and ``.md``.

    ``components`` adds table 5. ``others``: a corpus whose test split is a row of generalisation (table 6): heads of
    this one, people of that one. Raises InvalidField for no seeds.
    """
    if not seeds:
        raise InvalidField("seeds is empty, expected at least one", field="seeds")
    started = time.monotonic()
    console = console or Console()
    corpus = corpus or corpus_named(default_corpus("person"))
    variants = VARIANTS + (COMPONENTS if components else ())
    folders = {
        (variant.objective, seed): trained(variant.objective, seed, corpus)
        for seed in seeds
        for variant in variants
        if variant.objective != BEFORE or seed == seeds[0]
    }
    report = Report(NAME)
    figures = _all_figures(variants, seeds, folders, split_data(corpus, "test"))
    clusters = _clusters(split_data(corpus, "test"))
    report.rows += _metric_rows(figures, corpus.info.name)
    report.rows += _claim_rows(figures, clusters, corpus.info.name)
    if others is not None:
        data, name = split_data(others, "test"), f"{others.info.name}, other people"
        elsewhere = _all_figures(variants, seeds, folders, data)
        report.rows += _metric_rows(elsewhere, name)
        report.rows += _claim_rows(elsewhere, _clusters(data), name)
    report.seconds = time.monotonic() - started
    report.write(out, NAME)
    (out / f"{NAME}.md").write_text(_markdown(variants, report))
    _print(variants, report, console)
    return report


def trained(objective: str, seed: int, corpus: Corpus) -> Path:
    """Folder of the heads of one run, trained now unless the same run is in the cache directory."""
    before = objective == BEFORE
    what = [asdict(train_heads.RECIPES["person"])]
    if not before:
        what = [asdict(OBJECTIVES[objective]), asdict(RECIPES[objective])]
    key = [objective, *what, describe_data(corpus), seed]
    digest = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=8).hexdigest()
    folder = cache_dir() / NAME / f"{objective}-{seed}-{digest}"
    # The sidecar is written last.
    if (folder / "heads-person.json").is_file():
        return folder
    if before:
        train_heads.run("person", seed=seed, out=folder, corpus=corpus)
    else:
        train(objective, seed, out=folder, corpus=corpus, recipe=RECIPES[objective])
    return folder


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
    ranked = ranked_relevance(scores, relevant)
    last = ranked.shape[1] - np.argmax(ranked[:, ::-1], axis=1)
    figures = np.empty((len(ranked), len(METRICS)))
    for column, k in enumerate(CUTOFFS):
        figures[:, column] = ranked[:, :k].any(axis=1)
    figures[:, METRICS.index("map")] = average_precision(ranked)
    figures[:, METRICS.index("minp")] = ranked.sum(axis=1) / last
    return figures


def _all_figures(
    variants: Sequence[Variant],
    seeds: Sequence[int],
    folders: Mapping[tuple[str, int], Path],
    data: SplitData,
) -> dict[Key, NDArray[np.float64]]:
    """Per query figures, ``[seeds, queries, 5]``, of every variant under each of :data:`KINDS`."""
    figures: dict[Key, NDArray[np.float64]] = {}
    for variant in variants:
        found = []
        for seed in (s for s in seeds if (variant.objective, s) in folders):
            heads = load_heads(folders[variant.objective, seed])
            found.append(
                query_figures(
                    embed(heads["text"], data.text), embed(heads["media"], data.media), data
                )
            )
        for kind in KINDS:
            figures[variant.objective, kind] = np.stack([one[kind] for one in found])
    return figures


def _clusters(data: SplitData) -> NDArray[np.int64]:
    """Queries of one person share their right answers, so persons are resampled: int64 ``[queries]``."""
    clusters: NDArray[np.int64] = data.identity[data.caption_item].numpy()
    return clusters


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
    for a, b, _ in CLAIMS:
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
                )
            )
    return rows


def _name(key: Key) -> str:
    return " ".join(key).rstrip()


# --- what people read --------------------------------------------------------------------------


def _tables(variants: Sequence[Variant], report: Report) -> list[tuple[list[str], list[list[str]]]]:
    """Heads and lines of the tables: metrics with the paper's beside ours, then differences."""
    tables = []
    for corpus in dict.fromkeys(row.corpus for row in report.rows):
        here = [row for row in report.rows if row.corpus == corpus]
        lines = []
        for kind in KINDS:
            for variant in variants:
                found = {
                    row.metric: row
                    for row in here
                    if row.method == variant.objective
                    and row.variant == (kind or None)
                    and row.metric in METRICS
                }
                paper = {"": variant.paper, RERANKED: variant.paper_reranked}.get(kind)
                shown = " / ".join(f"{v:.2f}" for v in paper) if paper else ""
                lines.append(
                    [f"{variant.label}{', ' + kind if kind else ''}"]
                    + [_share(found[metric]) for metric in METRICS]
                    + [shown]
                )
        head = ["Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "paper: Rank-1 / 5 / 10"]
        tables.append(([f"{corpus}, test", *head], lines))
        paper_points = {f"{_name(a)} vs {_name(b)}": points for a, b, points in CLAIMS}
        differences = []
        for row in here:
            if row.metric.endswith("_difference") and row.ci95:
                low, high = row.ci95
                rank_1 = row.metric == "r_at_1_difference"
                points = paper_points[str(row.variant)]
                differences.append(
                    [
                        str(row.variant),
                        "Rank-1" if rank_1 else "mAP",
                        f"{100 * row.mean:+.2f}",
                        f"{100 * low:+.2f} … {100 * high:+.2f}",
                        "yes" if low > 0 else "no" if high < 0 else "open",
                        f"{points:+.2f}" if rank_1 and points is not None else "",
                    ]
                )
        tables.append(
            (["difference", "metric", "points", "95 % interval", "holds", "paper"], differences)
        )
    return tables


def _share(row: Row) -> str:
    return f"{100 * row.mean:.2f}" + ("" if row.sd is None else f" ± {100 * row.sd:.2f}")


def _markdown(variants: Sequence[Variant], report: Report) -> str:
    parts = [f"`{report.command}`"]
    for head, lines in _tables(variants, report):
        cells = [head, ["---"] * len(head), *lines]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in cells))
    return "\n\n".join(parts) + "\n"


def _print(variants: Sequence[Variant], report: Report, console: Console) -> None:
    for head, lines in _tables(variants, report):
        table = Table(*head)
        for line in lines:
            table.add_row(*line)
        console.print(table)
