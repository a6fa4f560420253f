"""Make a set of the user's own a corpus that can be asked: ``semlink corpora add NAME --root DIR``.

Read and registered, its frozen features computed, heads and codec trained on its train split, its gallery encoded.
Every step leaves a whole file or none and is skipped when its file is there and still fits, so that an interrupted run
goes on and a second one finds everything done. Running services find the corpus with their next query.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lab.training import alignment_heads, build_gallery, codec, pooled_heads, source_coders
from lab.training.data import caption_groups, split_data, two_way_metrics
from semlink.corpora.corpus import Corpus, Split, check_split
from semlink.corpora.registry import (
    READERS,
    corpus_named,
    gallery_split,
    register_corpus,
)
from semlink.errors import InvalidField, NotFound
from semlink.semantics.encoders import heads_sha256
from semlink.semantics.gallery import GalleryEmbeddings, StaleGallery
from semlink.semantics.spaces import Kind, space_of, weights_file
from semlink.tasks import task_spec


def run(
    name: str,
    root: Path,
    *,
    reader: str | None = None,
    split: str | None = None,
    train: bool = True,
    seed: int = 0,
    console: Console | None = None,
) -> None:
    """Register the set under ``root`` as corpus ``name`` and make all that queries need.

    ``reader``: a layout of :data:`semlink.corpora.registry.READERS`, by default the one called ``name``. ``split``:
    whose items the gallery holds, by default the last of train, val, test that there is. Without ``train``, or without
    a train split, the corpus is searched in its task's shipped space. Raises InvalidField for an unknown layout or
    split or a taken name, NotFound or InvalidField, naming the file and line, for a set that cannot be read.
    """
    console = console or Console(stderr=True)
    layout = reader or name
    if layout not in READERS:
        raise InvalidField(
            f"reader is {layout!r}, allowed: {', '.join(READERS)}"
            + ("" if reader else " (name one with --reader)"),
            field="reader",
        )
    # Read before it is registered: a set that cannot be read leaves no trace.
    corpus = READERS[layout].open(root)
    chosen = _gallery_split(corpus, split)
    skipped = getattr(corpus, "skipped_by_reason", {})
    sizes = ", ".join(f"{len(corpus.items(s)):,} {s}" for s in corpus.splits)
    console.print(f"{name}: {sizes} items; gallery of {chosen}")
    for reason, count in skipped.items():
        console.print(f"[yellow]skipped {count:,}:[/yellow] {escape(reason)}")
    record = register_corpus(name, layout, root, chosen)
    if train and "train" in corpus.splits:
        ensure_space(name, seed=seed, console=console)
    elif space_of(name) == name:
        console.print("heads and codec that were trained before serve it")
    else:
        why = "not asked to train" if "train" in corpus.splits else "there is no train split"
        console.print(f"searched in the shipped space of task {record.task!r}: {why}")
    if _gallery_fits(name):
        console.print("gallery: already there")
    else:
        build_gallery.run(name)
        console.print(f"gallery: {len(GalleryEmbeddings.load(name).item_ids):,} items")
    found = _scores(name, chosen)
    console.print(
        f"{chosen}, ideal link: R@1 {found['r_at_1']:.3f}, R@5 {found['r_at_5']:.3f}, "
        f"R@10 {found['r_at_10']:.3f}"
        + (" (of a split that was trained on)" if chosen == "train" else "")
    )
    console.print(f'ask it: semlink query "…" --task {record.task} --corpus {name}')


def _scores(name: str, split: Split) -> dict[str, float]:
    """Text to media over the ideal link; of a category, where captions say no more, any item is right."""
    gallery = GalleryEmbeddings.load(name)
    data = split_data(corpus_named(name), split)
    data = replace(data, identity=caption_groups(data.items))
    return two_way_metrics(gallery.captions, gallery.items, data)["text_to_media"]


def ensure_space(name: str, *, seed: int = 0, console: Console | None = None) -> None:
    """Train what is missing of an added corpus's own space: heads, then codec and source coders of these heads."""
    console = console or Console(stderr=True)
    if space_of(name) == name:
        console.print("heads: already there")
    else:
        scores = heads(name, seed=seed)
        if "val" in scores:
            console.print(f"heads: val R@1 {scores['val']['text_to_media']['r_at_1']:.3f}")
    if _fits(name, "codec"):
        console.print("codec: already there")
    else:
        codec_scores = codec.run(name, seed=seed)
        over = codec_scores["against_snr"]["relative_r_at_1"]["k=64"]["+10 dB"]
        console.print(
            f"codec: {100.0 * over:.1f} % of the ideal link's R@1 at 64 symbols and 10 dB"
        )
    if _fits(name, "vq"):
        console.print("source coders of the digital methods: already there")
        return
    captions = sum(len(item.captions) for item in corpus_named(name).items("train"))
    if captions < source_coders.MIN_CAPTIONS:
        console.print(
            f"source coders of the digital methods: left out, {captions} captions to train on, "
            f"they need {source_coders.MIN_CAPTIONS}"
        )
        return
    source_coders.run(name, seed=seed)
    console.print("source coders of the digital methods: made")


def heads(
    name: str, *, seed: int = 0, measure_test: bool = False
) -> dict[str, dict[str, dict[str, float]]]:
    """Train an added corpus's heads anew by the recipe of its task; returns the scores."""
    corpus = corpus_named(name)
    if "train" not in corpus.splits:
        raise NotFound(f"corpus {name!r} has no train split to train on", field="corpus")
    path = weights_file(name, "heads")
    task = task_spec(corpus.info.task)
    if task.added_heads == "aligned":
        if "val" not in corpus.splits:
            raise NotFound(f"corpus {name!r} has no val split to choose on", field="corpus")
        return alignment_heads.run(
            task.name, seed=seed, corpus=corpus, path=path, measure_test=measure_test
        )
    return pooled_heads.run(corpus, name, path, seed=seed, measure_test=measure_test)


def _gallery_split(corpus: Corpus, asked: str | None) -> Split:
    if asked is None:
        return corpus.splits[-1]
    split = check_split(asked)
    if split not in corpus.splits:
        raise InvalidField(
            f"split is {split!r}, the set has: {', '.join(corpus.splits)}", field="split"
        )
    return split


def _fits(name: str, kind: Kind) -> bool:
    """Whether there is a file of that kind, made with the present heads."""
    sidecar = weights_file(name, kind).with_suffix(".json")
    if not sidecar.is_file():
        return False
    made_with: str = json.loads(sidecar.read_text())["heads_sha256"]
    return made_with == heads_sha256(name)


def _gallery_fits(name: str) -> bool:
    """Whether the gallery holds the present items as the present heads see them."""
    try:
        gallery = GalleryEmbeddings.load(name)
    except (NotFound, StaleGallery):
        return False
    corpus = corpus_named(name)
    return gallery.item_ids == tuple(i.item_id for i in corpus.items(gallery_split(name)))
