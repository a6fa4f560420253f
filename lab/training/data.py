"""What every training run shares: data of a task, a schedule, and weights with a sidecar that says how they came."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from lab.training.features import (
    FrozenFeatures,
    caption_features,
    joined,
    media_features,
    other_takes,
)
from semlink.corpora.corpus import Corpus, Item, Split
from semlink.corpora.registry import EMBEDDED, generator_version
from semlink.semantics.int8_tensors import SCALE
from semlink.semantics.metrics import retrieval_metrics


@dataclass(frozen=True, slots=True)
class SplitData:
    """Frozen features of one split and what belongs to what.

    ``media`` holds the items in order, then, where asked for, all of them again for each other take.
    ``identity``: [num_items], int64; ``caption_item``: [num_captions], int64, the item of each caption.
    """

    items: Sequence[Item]
    media: FrozenFeatures
    text: FrozenFeatures
    identity: torch.Tensor
    caption_item: torch.Tensor


def split_data(corpus: Corpus, split: Split, takes: int = 0) -> SplitData:
    """Features of a split with ``takes`` other takes of each sound, computed once and cached."""
    items = corpus.items(split)
    names = {name: n for n, name in enumerate(dict.fromkeys(i.identity for i in items))}
    return SplitData(
        items=items,
        media=joined([media_features(corpus, split), *other_takes(corpus, split, takes)]),
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
        "generator_version": generator_version(corpus) if corpus.info.name in EMBEDDED else None,
        "seed": getattr(corpus, "seed", None),
        "items": {split: len(corpus.items(split)) for split in splits},
        "captions": {split: sum(len(i.captions) for i in corpus.items(split)) for split in splits},
    }


def two_way_metrics(
    text: NDArray[np.float32], media: NDArray[np.float32], data: SplitData
) -> dict[str, dict[str, float]]:
    """Metrics of text→media (all captions, any item of the identity) and media→text (any of its captions)."""
    scores = text @ media.T
    identity = data.identity.numpy()
    owner = data.caption_item.numpy()
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


def learning_rate_factor(step: int, num_steps: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def save_weights(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    sidecar: Mapping[str, Any],
) -> None:
    """Write ``path`` (safetensors, float16) and the sidecar ``path`` with ``.json``, each whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        name: (t.to(torch.float16) if t.is_floating_point() and not name.endswith(SCALE) else t)
        .contiguous()
        .cpu()
        for name, t in tensors.items()
    }
    temporary = path.with_suffix(".part")
    save_file(content, temporary, dict(metadata))
    # safetensors writes for the owner alone; an image's service runs as another user.
    temporary.chmod(0o644)
    temporary.replace(path)
    path.with_suffix(".json").write_text(json.dumps(sidecar, indent=1) + "\n")


def rounded(values: Any) -> Any:
    """The same structure with floats rounded to four places, for sidecars."""
    if isinstance(values, Mapping):
        return {key: rounded(value) for key, value in values.items()}
    return round(values, 4) if isinstance(values, float) else values
