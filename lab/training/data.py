"""Data of a task for training: frozen features of a split, what belongs to what, and what a sidecar says of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lab.training.features import FrozenFeatures, caption_features, media_features
from semlink.corpora.corpus import Corpus, Item, Split
from semlink.corpora.registry import embedded_corpora, generator_version
from semlink.semantics.metrics import retrieval_metrics


@dataclass(frozen=True, slots=True)
class SplitData:
    """Frozen features of one split and what belongs to what.

    ``identity``: [num_items], int64; ``caption_item``: [num_captions], int64, the item of each caption.
    """

    items: Sequence[Item]
    media: FrozenFeatures
    text: FrozenFeatures
    identity: torch.Tensor
    caption_item: torch.Tensor


def split_data(corpus: Corpus, split: Split) -> SplitData:
    """Features of a split, computed once and cached."""
    items = corpus.items(split)
    names = {name: n for n, name in enumerate(dict.fromkeys(i.identity for i in items))}
    return SplitData(
        items=items,
        media=media_features(corpus, split),
        text=caption_features(corpus, split),
        identity=torch.tensor([names[i.identity] for i in items]),
        caption_item=torch.tensor([n for n, i in enumerate(items) for _ in i.captions]),
    )


def caption_groups(items: Sequence[Item]) -> torch.Tensor:
    """A number for each item, [num_items], int64: one an identity; one a category where captions say no more."""
    keys = [item.captions if "category" in item.attributes else item.identity for item in items]
    number = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    return torch.tensor([number[key] for key in keys])


def describe_data(corpus: Corpus) -> dict[str, Any]:
    """What a sidecar says of the data."""
    splits = corpus.splits
    return {
        "corpus": corpus.info.name,
        "generator_version": generator_version(corpus)
        if corpus.info.name in embedded_corpora()
        else None,
        "seed": getattr(corpus, "seed", None),
        "items": {split: len(corpus.items(split)) for split in splits},
        "captions": {split: sum(len(i.captions) for i in corpus.items(split)) for split in splits},
    }


def two_way_metrics(
    text: NDArray[np.float32], media: NDArray[np.float32], data: SplitData
) -> dict[str, dict[str, float]]:
    """Metrics of text→media (all captions, any item of the identity) and media→text (any of its captions)."""
    return two_way(text @ media.T, data)


def two_way(scores: NDArray[np.float32], data: SplitData) -> dict[str, dict[str, float]]:
    """:func:`two_way_metrics` of scores ``[num_captions, num_items]``."""
    identity, owner = data.identity.numpy(), data.caption_item.numpy()
    return {
        "text_to_media": retrieval_metrics(scores, identity[owner][:, None] == identity[None, :]),
        "media_to_text": retrieval_metrics(
            scores.T, np.arange(len(identity))[:, None] == owner[None, :]
        ),
    }


def phrases(captions: Sequence[str]) -> set[str]:
    """Words and pairs of neighbouring words of some captions, lower case."""
    found: set[str] = set()
    for caption in captions:
        words = re.findall(r"[a-z]+", caption.lower())
        found.update(words)
        found.update(f"{a} {b}" for a, b in pairwise(words))
    return found


def phrase_targets(items: Sequence[Item], fewest: int = 40, most: float = 0.6) -> torch.Tensor:
    """Which frequent words and word pairs each item's captions hold, [num_items, num_phrases], float32, 0 or 1.

    Kept: phrases of at least ``fewest`` items and at most the share ``most`` of them.
    """
    sets = [phrases(item.captions) for item in items]
    counts = Counter(phrase for found in sets for phrase in found)
    kept = sorted(p for p, n in counts.items() if fewest <= n <= most * len(items))
    column = {phrase: index for index, phrase in enumerate(kept)}
    targets = torch.zeros(len(items), len(kept))
    for row, found in enumerate(sets):
        targets[row, [column[p] for p in found if p in column]] = 1.0
    return targets
