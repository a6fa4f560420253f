"""Encode a corpus's gallery with the installed heads: ``semlink train gallery --corpus pedestrians``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lab.training import sinkhorn_biases
from lab.training.checkpoint import rounded
from lab.training.data import describe_data, split_data, two_way_metrics
from lab.training.features import FrozenFeatures
from lab.training.prototypes import corpus_of
from semlink.corpora.registry import corpus_named, gallery_split, task_of_corpus
from semlink.semantics.encoders import heads_sha256, load_heads, load_scorer
from semlink.semantics.gallery import GalleryEmbeddings, gallery_file
from semlink.semantics.heads import Head
from semlink.semantics.prototypes import PrototypeHead, PrototypeScorer
from semlink.semantics.spaces import space_of, task_of
from semlink.tasks import task_spec


def run(corpus: str, *, out: Path | None = None) -> GalleryEmbeddings:
    """Write a corpus's gallery and its sidecar, to where the receiver reads them or into ``out``.

    An added corpus gives the split that it was registered with. Interrupted, it goes on where the frozen features
    (:mod:`lab.training.features`) ended, which are all but a few seconds of it. Raises NotFound for an unknown corpus
    or missing heads.
    """
    started = time.monotonic()
    path = gallery_file(corpus)
    space = space_of(corpus)
    heads = load_heads(space)
    data = split_data(corpus_named(corpus), gallery_split(corpus))
    items = components(heads["media"], data.media)
    captions = components(heads["text"], data.text)
    scorer = load_scorer(space)
    biases: dict[str, NDArray[np.float32]] = {}
    if scorer is not None and task_spec(task_of(space)).media_finds == "captions":
        biases = _biases(corpus, heads, scorer, captions)
    gallery = GalleryEmbeddings(
        corpus=corpus,
        item_ids=tuple(item.item_id for item in data.items),
        items=items[:, 0],
        captions=captions[:, 0],
        item_prototypes=items[:, 1:] if items.shape[1] > 1 else None,
        caption_prototypes=captions[:, 1:] if items.shape[1] > 1 else None,
        **biases,
    )
    path = out / path.name if out else path
    gallery.save(path)
    sidecar = {
        "command": f"semlink train gallery --corpus {corpus}",
        "data": describe_data(corpus_named(corpus)),
        "heads_sha256": heads_sha256(space),
        "scores": rounded(two_way_metrics(gallery.captions, gallery.items, data)),
        "seconds": round(time.monotonic() - started),
    }
    path.with_suffix(".json").write_text(json.dumps(sidecar, indent=1) + "\n")
    return gallery


def _biases(
    corpus: str, heads: dict[str, Head], scorer: PrototypeScorer, captions: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    # Soundscapes' own 300 clips of val are too few to choose by: see corpus_of.
    task = task_spec(task_of_corpus(corpus))
    made = corpus_of(task.name) if corpus == task.corpus else corpus_named(corpus)
    train = split_data(made, "train").media
    val = split_data(made, "val")
    sounds = components(heads["media"], train)
    return sinkhorn_biases.biases(
        scorer,
        training_sounds=sounds[:: max(1, len(sounds) // sinkhorn_biases.TRAINING_QUERIES)],
        val=(
            components(heads["text"], val.text),
            components(heads["media"], val.media),
            val.caption_item.numpy(),
        ),
        gallery_captions=captions,
    )


@torch.inference_mode()
def components(head: Head, features: FrozenFeatures, batch: int = 256) -> NDArray[np.float32]:
    """Global feature and prototypes of all inputs, ``[n, 1 + K, 256]``, float32; K is 0 for a plain head."""
    head.eval()
    parts = []
    for start in range(0, len(features), batch):
        tokens = features.batch(range(start, min(start + batch, len(features))))
        if isinstance(head, PrototypeHead):
            parts.append(head.encode_components(tokens))
        else:
            parts.append(head.encode(tokens)[:, None])
    vectors: NDArray[np.float32] = torch.cat(parts).numpy()
    return vectors
