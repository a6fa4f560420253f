"""Frozen features of a corpus, computed once and kept in shards: what the heads are trained on.

A shard is an entry of the cache, named by a digest of what it is made from (generator version and seed of an embedded
corpus, the files of any other, item ids, captions, the backbone's SHA-256), so that an interrupted run goes on and a
set may move to another folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from lab.evaluation.cache import Cache, key_of, write_whole
from semlink.corpora.corpus import Corpus, Item, Split
from semlink.corpora.registry import embedded_corpora, generator_version
from semlink.models import MODELS
from semlink.progress import track
from semlink.semantics.encoders import text_tokens
from semlink.semantics.modalities import modality_of
from semlink.semantics.tokens import Tokens, pad

SHARD_ITEMS: Final = 128

TEXT_LAYOUT: Final = 1
"""Part of the names by which shards of texts are found since before sources were hashed; never raised."""
CACHE: Final = Cache("features", __name__)

Kind = Literal["media", "text"]


@dataclass(frozen=True, slots=True)
class FrozenFeatures:
    """Tokens of ``n`` inputs, ragged, float16.

    ``values``: [total_tokens, width]; ``offsets``: [n + 1], the tokens of input i are ``offsets[i]:offsets[i+1]``.
    """

    values: torch.Tensor
    offsets: torch.Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def batch(self, indices: Sequence[int] | torch.Tensor) -> Tokens:
        """Those inputs as one padded float32 batch."""
        rows = [
            self.values[self.offsets[i] : self.offsets[i + 1]].float() for i in map(int, indices)
        ]
        return pad(rows)


def media_features(corpus: Corpus, split: Split) -> FrozenFeatures:
    """Tokens of every item's picture or sound, in the order of ``corpus.items(split)``."""
    return _cached(corpus, split, "media")


def caption_features(corpus: Corpus, split: Split) -> FrozenFeatures:
    """Tokens of every caption, item by item, in the order of ``corpus.items(split)``."""
    return _cached(corpus, split, "text")


def _cached(corpus: Corpus, split: Split, kind: Kind) -> FrozenFeatures:
    items = corpus.items(split)
    groups = [items[i : i + SHARD_ITEMS] for i in range(0, len(items), SHARD_ITEMS)]
    return cached_features(
        [
            (
                f"{corpus.info.name}/{split}-{kind}-{_digest(corpus, group, kind)}",
                partial(_media_tokens, corpus, group)
                if kind == "media"
                else partial(text_tokens, [caption for i in group for caption in i.captions]),
            )
            for group in groups
        ],
        f"{corpus.info.name} {split} {kind} features",
    )


def cached_features(
    shards: Sequence[tuple[str, Callable[[], Tokens]]], title: str
) -> FrozenFeatures:
    """Tokens of all shards: under their names from the cache, or made now; what is interrupted goes on."""
    paths = [CACHE.path(f"{name}.safetensors") for name, _ in shards]
    missing = [(s[1], p) for s, p in zip(shards, paths, strict=True) if not p.is_file()]
    for make, path in track(missing, title):
        write_whole(path, partial(_save, make()))
    stored = [load_file(path) for path in paths]
    lengths = np.concatenate([shard["lengths"] for shard in stored])
    values = np.concatenate([shard["values"] for shard in stored])
    return FrozenFeatures(
        values=torch.from_numpy(values),
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])),
    )


def _digest(corpus: Corpus, group: Sequence[Item], kind: Kind) -> str:
    task = corpus.info.task
    media = kind == "media"
    layout, weights = (
        modality_of(task).fingerprint() if media else (TEXT_LAYOUT, MODELS["minilm"].sha256)
    )
    parts: list[object] = [layout, kind, task, weights]
    if media:
        parts += [*_origin(corpus, group), [i.item_id for i in group]]
    else:
        parts += [[item.captions for item in group]]
    return key_of(repr(parts), 10)


def _origin(corpus: Corpus, group: Sequence[Item]) -> list[object]:
    """What the media of a group come from: the generator, or for a corpus that was read the bytes of its files."""
    if corpus.info.name in embedded_corpora():
        return [generator_version(corpus), getattr(corpus, "seed", "")]
    content = hashlib.blake2b(digest_size=10)
    for item in group:
        content.update(hashlib.blake2b(corpus.media(item.item_id).data).digest())
    return [type(corpus).__name__, content.hexdigest()]


def _media_tokens(corpus: Corpus, group: Sequence[Item]) -> Tokens:
    modality = modality_of(corpus.info.task)
    # Fitted one by one: a group of photographs in full would be gigabytes.
    return modality.tokens([modality.fitted(corpus.content(item.item_id)) for item in group])


def _save(tokens: Tokens, path: Path) -> None:
    rows = tokens.rows()
    content: dict[str, np.ndarray[Any, np.dtype[Any]]] = {
        "values": np.concatenate(rows),
        "lengths": np.array([len(row) for row in rows], dtype=np.int64),
    }
    save_file(content, path)
