"""The paper's table of a method on a corpus: ``semlink evaluate --method gpa --corpus soundscapes --split test``.

Over the ideal link, with the heads of the corpus's space. Every figure carries a 95 % bootstrap interval over the items
that queries come from: captions of one item are drawn together. Where captions say no more than a category, as those
of ESC-50, each item of the category is right.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from lab.evaluation.bootstrap import interval, resampled_means
from lab.evaluation.report import Report, Row
from lab.experiments import linear_probe
from lab.experiments.tables import print_rows
from lab.training import add_corpus, sinkhorn_biases
from lab.training.build_gallery import components
from lab.training.data import SplitData, caption_groups, split_data
from semlink.corpora.corpus import Corpus, Split, check_split
from semlink.corpora.noisy import POOLED_CORPUS, draw, embedded_pool, read_texts
from semlink.corpora.registry import (
    READERS,
    added_corpora,
    corpus_named,
    register_corpus,
)
from semlink.errors import InvalidField, NotFound
from semlink.methods import check_task, method_named
from semlink.semantics.encoders import load_heads, load_scorer, semantic_encoder
from semlink.semantics.metrics import per_query
from semlink.semantics.reranking import WEIGHTS, nearest, reranked
from semlink.semantics.sentences import extract
from semlink.semantics.spaces import space_of
from semlink.tasks import task_spec

Directions = dict[str, NDArray[np.float32] | NDArray[np.float64]]
"""Scores: ``text_to_media`` [captions, items], ``media_to_text`` [items, captions], either where it is answered."""

Values = dict[str, NDArray[np.float64]]
"""A metric of each query by its name."""
METHODS: Final = ("global", "dp", "sew-mcm", "gpa", "itrieval-kd", "linear-probe")
"""``dp``, dual-path, is GPA's name for the cosine of global features."""
NUM_NOISE: Final = 3
RERANKING_BLOCK: Final = 256


def run(
    method: str,
    corpus: str,
    split: str,
    *,
    root: Path | None = None,
    noisy: Path | None = None,
    out: Path = Path("results"),
    console: Console | None = None,
) -> Report:
    """Measure, print the table and write ``out/evaluate-METHOD-CORPUS-SPLIT.{json,csv}``.

    With ``root``, ``corpus`` is a layout (:data:`~semlink.corpora.registry.READERS`); where retrieval asks for heads
    that the set has not got yet, it is registered and they are trained on its train split. ``noisy``: texts that
    ``make-noisy`` wrote, for itrieval-kd. Raises InvalidField for an
    unknown method, one that does not serve the corpus, or an unknown split; NotFound for an unknown corpus or missing
    weights.
    """
    console = console or Console()
    started = time.monotonic()
    if method not in METHODS:
        raise InvalidField(f"method is {method!r}, allowed: {', '.join(METHODS)}", field="method")
    asked = check_split(split)
    data = _corpus(method, corpus, root, console)
    if asked not in data.splits:
        raise NotFound(
            f"corpus {corpus!r} has no {asked!r} split, it has: {', '.join(data.splits)}",
            field="split",
        )
    report = Report(f"evaluate-{method}-{corpus}-{asked}")
    here = Row(metric="", mean=0.0, method=method, task=data.info.task, corpus=corpus, split=asked)
    if method == "linear-probe":
        report.rows = _linear_probe(data, asked, here, console)
    elif method == "itrieval-kd":
        report.rows = _noisy(data, corpus, asked, here, noisy, console)
    else:
        report.rows = _retrieval(method, data, corpus, asked, here)
    report.seconds = time.monotonic() - started
    print_rows(report.rows, console)
    console.print(f"written: {report.write(out, report.experiment)}")
    return report


def _per_query(scores: NDArray[Any], relevant: NDArray[np.bool_]) -> Values:
    """Every metric of each query, and ``sum``: R@1 + R@5 + R@10."""
    found = per_query(scores, relevant)
    return found | {"sum": found["r_at_1"] + found["r_at_5"] + found["r_at_10"]}


def rows_of(
    values: Values,
    clusters: NDArray[np.int64],
    columns: tuple[str, ...],
    here: Row,
) -> list[Row]:
    """A row for each column: its mean over queries and the interval over whole clusters of them."""
    table = np.stack([values[column] for column in columns], axis=1)
    means = resampled_means(table, clusters)
    return [
        replace(here, metric=column, mean=float(table[:, i].mean()), ci95=interval(means[:, i]))
        for i, column in enumerate(columns)
    ]


def _corpus(method: str, name: str, root: Path | None, console: Console) -> Corpus:
    if root is None:
        return corpus_named(name)
    if name not in READERS:
        raise InvalidField(
            f"corpus is {name!r}, with --root allowed: {', '.join(READERS)}", field="corpus"
        )
    if method == "linear-probe":
        return READERS[name].open(root)
    if name not in added_corpora():
        corpus = READERS[name].open(root)
        register_corpus(name, name, root, corpus.splits[-1])
        if "train" in corpus.splits:
            console.print(f"{name} has no heads yet: they are trained on its train split")
            add_corpus.heads(name)
    known = added_corpora()[name]
    if Path(known.root) != root.resolve():
        raise InvalidField(
            f"root is {root}, but {name} was added from {known.root}: leave --root out, or "
            f"remove it first (`semlink corpora remove {name}`)",
            field="root",
        )
    return corpus_named(name)


def _retrieval(method: str, data: Corpus, corpus: str, split: Split, here: Row) -> list[Row]:
    task = data.info.task
    if method == "sew-mcm":
        check_task(method_named(method), task)
    measured = split_data(data, split)
    heads = load_heads(space_of(corpus))
    text = components(heads["text"], measured.text)
    media = components(heads["media"], measured.media)
    variants: dict[str, Callable[[], Directions]] = {
        "global": lambda: _both_ways(text[:, 0] @ media[:, 0].T)
    }
    if method == "sew-mcm":
        variants |= {
            f"re-ranked, neighbours weigh {weight:g}": partial(
                _reranked_to_media, text[:, 0], media[:, 0], weight
            )
            for weight in WEIGHTS.values()
            if weight
        }
    if method == "gpa":
        variants |= _prototypes(corpus, data, text, media)
    rows = []
    for variant, directions in variants.items():
        for direction, scores in directions().items():
            group = caption_groups(measured.items).numpy()
            owner = measured.caption_item.numpy()
            relevant = group[owner][:, None] == group[None, :]
            to_media = direction == "text_to_media"
            values = _per_query(scores, relevant if to_media else relevant.T)
            clusters = owner if to_media else np.arange(len(group))
            place = replace(here, variant=f"{variant}, {direction.replace('_', ' ')}")
            rows += rows_of(values, clusters, task_spec(task).metrics, place)
    return rows


def _both_ways(scores: NDArray[np.float32]) -> Directions:
    return {"text_to_media": scores, "media_to_text": scores.T}


def _reranked_to_media(
    text: NDArray[np.float32], media: NDArray[np.float32], weight: float
) -> Directions:
    theirs, own = nearest(media, media), nearest(text, media)
    parts = []
    for start in range(0, len(text), RERANKING_BLOCK):
        rows = slice(start, start + RERANKING_BLOCK)
        scores = text[rows] @ media.T
        everyone = np.broadcast_to(theirs, (len(scores), *theirs.shape))
        parts.append(reranked(scores, own[rows], everyone, weight))
    return {"text_to_media": np.concatenate(parts)}


def _prototypes(
    corpus: str, data: Corpus, text: NDArray[np.float32], media: NDArray[np.float32]
) -> dict[str, Callable[[], Directions]]:
    space = space_of(corpus)
    scorer, heads = load_scorer(space), load_heads(space)
    if scorer is None:
        raise NotFound(
            f"the heads of space {space!r} have no prototypes: run `semlink train gpa`",
            field="method",
        )

    def plain() -> Directions:
        with torch.inference_mode():
            items = torch.from_numpy(media)
            parts = [scorer.score(part, items) for part in torch.split(torch.from_numpy(text), 250)]
        return _both_ways(torch.cat(parts).numpy())

    def normalised() -> Directions:
        val: SplitData = split_data(data, "val")
        sounds = components(heads["media"], split_data(data, "train").media)
        bias = sinkhorn_biases.biases(
            scorer,
            training_sounds=sounds[:: max(1, len(sounds) // sinkhorn_biases.TRAINING_QUERIES)],
            val=(
                components(heads["text"], val.text),
                components(heads["media"], val.media),
                val.caption_item.numpy(),
            ),
            gallery_captions=text,
        ).get("caption_bias", np.zeros(len(text), dtype=np.float32))
        return {"media_to_text": plain()["media_to_text"] + bias[None, :]}

    return {"prototypes": plain, "prototypes + sinkhorn": normalised}


def _noisy(
    data: Corpus, corpus: str, split: Split, here: Row, noisy: Path | None, console: Console
) -> list[Row]:
    """Noisy texts search all pictures of the split, whole and extracted.

    The texts are those of a file of ``make-noisy``; else, for the embedded pictures, three captions among three shipped
    continuations (of the pictures that have them); else captions of other pictures are the noise. As at the transmitter
    an extracted text is the normalised mean of its kept sentences' features, the raw text is read whole.
    """
    items = data.items(split)
    if noisy is not None:
        texts = read_texts(noisy)[1]
        known = {item.item_id for item in items}
        strangers = [t.item_id for t in texts if t.item_id not in known]
        if strangers:
            raise InvalidField(
                f"noisy has {strangers[0]!r}, which is not of split {split!r} of {corpus!r}",
                field="noisy",
            )
        noise = f"noise of {noisy.name}"
    elif corpus == POOLED_CORPUS:
        pool = embedded_pool(split)
        pooled = [i for i in items if len(pool.continuations.get(i.item_id, ())) >= NUM_NOISE]
        texts = draw(pooled, NUM_NOISE, seed=0, pool=pool)
        noise = f"{NUM_NOISE} noise sentences of the LLM"
    else:
        texts = draw(items, NUM_NOISE, seed=0, kind="other-captions")
        noise = f"{NUM_NOISE} captions of other pictures as noise"
    if len(texts) < len(items):
        console.print(f"{len(texts)} of {len(items)} pictures have a noisy text; all are searched")
    space = space_of(corpus)
    whole = [text.text for text in texts]
    kept: dict[str, list[list[str]]] = {"raw": [[text] for text in whole]}
    for rule in ("tf-idf", "textrank", "itrieval-kd"):
        chosen = extract(whole, rule, space=space)
        kept[rule] = [[s.text for s in found if s.kept] for found in chosen]
    kept["key"] = [
        [s for s, key in zip(text.sentences, text.key, strict=True) if key] for text in texts
    ]
    encoder = semantic_encoder(space)
    media = components(load_heads(space)["media"], split_data(data, split).media)[:, 0]
    place_of = {item.item_id: i for i, item in enumerate(items)}
    right = np.array([place_of[text.item_id] for text in texts])
    relevant = right[:, None] == np.arange(len(items))
    rows = []
    for name, said in kept.items():
        vectors = encoder.text([s for sentences in said for s in sentences])
        starts = np.cumsum([0, *(len(sentences) for sentences in said[:-1])])
        features = np.add.reduceat(vectors, starts, axis=0)
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        values = _per_query(features @ media.T, relevant)
        place = replace(here, variant=f"{name}, {noise}")
        rows += rows_of(values, np.arange(len(texts)), task_spec(data.info.task).metrics, place)
    return rows


def _linear_probe(data: Corpus, split: Split, here: Row, console: Console) -> list[Row]:
    """Accuracy on the split of a probe that all splits before it trained; on train, each fold held out in turn."""
    order: tuple[Split, ...] = ("train", "val", "test")
    before = tuple(s for s in order[: order.index(split)] if s in data.splits)
    if not before:
        clips = linear_probe.labelled(data, (split,))
        rotations = linear_probe.rotations(clips, console.print)
        share = [float(r["accuracy"]) for r in rotations]
        where = replace(here, variant="each fold held out in turn", metric="accuracy")
        return [replace(where, mean=float(np.mean(share)), sd=float(np.std(share, ddof=1)))]
    clips = linear_probe.labelled(data, (*before, split))
    trained_on = sum(len(data.items(s)) for s in before)
    known = np.arange(len(clips.labels)) < trained_on
    right, strength = linear_probe.accuracy(clips.where(known), clips.where(~known))
    place = replace(here, variant=f"trained on {' + '.join(before)}, ridge {strength:g}")
    values = {"accuracy": right.astype(np.float64)}
    return rows_of(values, np.arange(len(right)), ("accuracy",), place)
