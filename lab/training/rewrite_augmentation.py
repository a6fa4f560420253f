"""SDG at training time: heads trained with captions replaced by rewrites.

With probability β a training caption is read as one of its rewrites (arXiv 2604.05504; β ≈ 0.2 in the same group's
LLM-DA). What rewriting is for is a set with few captions, and an LLM's rewrites of one cost seconds here: all rows
train on the same few items with one caption each, for the same steps, with the loss, the rate and the heads of
:mod:`lab.training.alignment_heads` without its side task. The items are those of val that the cache holds rewrites
of; nothing is chosen here, and test is what is measured. Far below the shipped heads, which none of these replaces.
Our definition.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from kb_service.filtering import accept_all, filter_rewrites
from lab.evaluation.cache import Cache
from lab.evaluation.rewrite_cache import RewriteCache, Source
from lab.training.alignment_heads import RECIPES, HeadPair, evaluate, recipe_heads, thinned
from lab.training.data import SplitData, split_data
from lab.training.features import FrozenFeatures
from lab.training.losses import contrastive_loss
from lab.training.trainer import TrainerConfig, train
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.progress import track
from semlink.semantics.encoders import text_tokens
from semlink.semantics.tokens import Tokens, pad

STEPS: Final = 100
BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class Augmentation:
    """One row: β, and whether the filter drops hallucinations first."""

    beta: float
    filtered: bool = True

    @property
    def label(self) -> str:
        """The row's ``variant``."""
        if not self.beta:
            return "training, captions alone"
        return f"training, beta {self.beta:g}, {'filtered' if self.filtered else 'unfiltered'}"


ROWS: Final = (
    Augmentation(0.0),
    Augmentation(0.2),
    Augmentation(0.5),
    Augmentation(0.2, filtered=False),
    Augmentation(0.5, filtered=False),
)


@dataclass(frozen=True, slots=True)
class Few:
    """A task's small training set: tokens of media, captions and rewrites, and the items' identities.

    ``kept`` and ``every``: rows of ``rewrites`` that belong to each caption, with and without the filter.
    """

    task: str
    media: FrozenFeatures
    identity: torch.Tensor
    captions: list[torch.Tensor]
    rewrites: list[torch.Tensor]
    kept: list[list[int]]
    every: list[list[int]]


def few(
    task: str, train: SplitData, chosen: Sequence[Source], cache: RewriteCache, alpha: float
) -> Few:
    """The items of ``chosen`` with one caption each and the bank's rewrites of it, duplicates left out."""
    number = {item.item_id: n for n, item in enumerate(train.items)}
    rows = [number[source.item.item_id] for source in chosen]
    texts: list[str] = []
    kept: list[list[int]] = []
    every: list[list[int]] = []
    for source in chosen:
        found = cache.rewrites(source.text)
        judged = filter_rewrites(source.text, found, min_similarity=alpha)
        fresh = [n for n, r in enumerate(found.rewrites) if not r.reason]
        first = len(texts)
        texts += [accept_all(found).rewrites[n].text for n in fresh]
        every.append([first + place for place in range(len(fresh))])
        kept.append([first + p for p, n in enumerate(fresh) if judged.rewrites[n].kept])
    return Few(
        task,
        media=_taken(train.media, rows),
        identity=train.identity[torch.tensor(rows)],
        captions=_tokens([source.text for source in chosen]),
        rewrites=_tokens(texts),
        kept=kept,
        every=every,
    )


def _taken(features: FrozenFeatures, rows: Sequence[int]) -> FrozenFeatures:
    parts = [features.values[features.offsets[r] : features.offsets[r + 1]] for r in rows]
    lengths = torch.tensor([0, *map(len, parts)])
    return FrozenFeatures(torch.cat(parts), lengths.cumsum(0))


def _tokens(texts: Sequence[str]) -> list[torch.Tensor]:
    return [torch.from_numpy(row) for row in text_tokens(texts).rows()]


def fit(data: Few, row: Augmentation, seed: int, *, steps: int = STEPS) -> HeadPair:
    """Train; every row of a seed starts from the same heads and sees the same pictures in the same order."""
    torch.manual_seed(seed)
    recipe = RECIPES[data.task]
    pair = HeadPair(*recipe_heads(recipe, torch.cat(data.captions), data.media.values))
    order = np.random.default_rng(seed)
    draws = np.random.default_rng([seed, 1])

    def batches(_epoch: int) -> Iterator[tuple[Tokens, Tokens, torch.Tensor]]:
        for _ in range(steps):
            picked = order.permutation(len(data.captions))[:BATCH]
            rows = [_caption(data, row, int(n), draws) for n in picked]
            items = torch.from_numpy(picked)
            yield pad(rows), data.media.batch(items), data.identity[items]

    def loss(batch: tuple[Tokens, Tokens, torch.Tensor]) -> torch.Tensor:
        text, media, identity = batch
        sent = pair.text(text.values, thinned(text.mask, recipe.token_dropout))
        seen = pair.media(media.values, thinned(media.mask, recipe.token_dropout))
        return contrastive_loss(pair.logits(sent, seen), identity[:, None] == identity[None, :])

    config = TrainerConfig.from_recipe(
        recipe, title="", epochs=1, num_steps=steps, seed=seed, reseed="never"
    )
    return train(pair, batches, loss, config).module


def _caption(data: Few, row: Augmentation, n: int, draws: np.random.Generator) -> torch.Tensor:
    """The caption of item n, or with probability β one of its rewrites."""
    replaced, which = draws.random() < row.beta, draws.random()
    rewrites = (data.kept if row.filtered else data.every)[n]
    if replaced and rewrites:
        return data.rewrites[rewrites[int(which * len(rewrites))]].float()
    return data.captions[n].float()


def compare(
    task: str,
    chosen: Sequence[Source],
    cache: RewriteCache,
    alpha: float,
    *,
    seeds: int,
    steps: int = STEPS,
    fresh: bool = False,
) -> dict[Augmentation, list[dict[str, float]]]:
    """Each row's R@1, mAP and more on test, text to media, for each seed; ``fresh``: trained though they are kept."""
    corpus = corpus_named(default_corpus(task))
    (split,) = {source.item.split for source in chosen}
    data = few(task, split_data(corpus, split), chosen, cache, alpha)
    test = split_data(corpus, "test")
    return {
        row: [_cached_scores(data, row, seed, steps, test, fresh=fresh) for seed in range(seeds)]
        for row in track(ROWS, f"{task}: training with rewrites")
    }


def _cached_scores(
    data: Few, row: Augmentation, seed: int, steps: int, test: SplitData, *, fresh: bool
) -> dict[str, float]:
    """Train and measure, or read what an earlier run measured: an interrupted comparison goes on."""
    digest = hashlib.blake2b(digest_size=10)
    for token in (*data.captions, *data.rewrites, data.media.values):
        digest.update(token.numpy().tobytes())
    recipe = RECIPES[data.task]
    digest.update(repr((data.task, row, seed, steps, BATCH, data.kept, recipe)).encode())

    def make(path: Path) -> None:
        path.write_text(json.dumps(_scores(fit(data, row, seed, steps=steps), test)))

    path = Cache("augmented", __name__).entry(f"{digest.hexdigest()}.json", make, fresh=fresh)
    found: dict[str, float] = json.loads(path.read_text())
    return found


def _scores(pair: HeadPair, data: SplitData) -> dict[str, float]:
    return evaluate(pair.text, pair.media, data)["text_to_media"]
