"""SDG at training time: heads trained with captions replaced by rewrites.

With probability β a training caption is read as one of its rewrites (arXiv 2604.05504; β ≈ 0.2 in the same group's
LLM-DA). What rewriting is for is a set with few captions, and an LLM's rewrites of one cost seconds here: all rows
train on the same few items with one caption each, for the same steps, with the loss, the rate and the heads of
:mod:`lab.training.alignment_heads` without its side task. The items are those of val that the cache holds rewrites
of; nothing is chosen here, and test is what is measured. Far below the shipped heads, which none of these replaces.
Our definition.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from kb_service.filtering import accept_all, filter_rewrites
from lab.evaluation.cache import Cache
from lab.evaluation.rewrite_cache import RewriteCache, Source
from lab.training.alignment_heads import RECIPES, contrastive_loss, evaluate, follow, thinned
from lab.training.data import SplitData, learning_rate_factor, split_data
from lab.training.features import FrozenFeatures
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.progress import track
from semlink.semantics.encoders import text_tokens
from semlink.semantics.heads import Head, HeadConfig
from semlink.semantics.text import MAX_TOKENS
from semlink.semantics.tokens import Tokens, pad
from semlink.tasks import Task

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


def fit(data: Few, row: Augmentation, seed: int, *, steps: int = STEPS) -> _Pair:
    """Train; every row of a seed starts from the same heads and sees the same pictures in the same order."""
    torch.manual_seed(seed)
    recipe = RECIPES[data.task]
    pair = _Pair(data)
    average = copy.deepcopy(pair).eval()
    optimiser = torch.optim.AdamW(
        pair.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(step, steps, recipe.warmup_steps)
    )
    order = np.random.default_rng(seed)
    draws = np.random.default_rng([seed, 1])
    pair.train()
    for _ in range(steps):
        picked = order.permutation(len(data.captions))[:BATCH]
        rows = [_caption(data, row, int(n), draws) for n in picked]
        text, media = pad(rows), data.media.batch(torch.from_numpy(picked))
        identity = data.identity[torch.from_numpy(picked)]
        loss = _loss(pair, text, media, identity, recipe.token_dropout)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(pair.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        follow(average, pair, recipe.average_decay)
    return average.eval()


def _caption(data: Few, row: Augmentation, n: int, draws: np.random.Generator) -> torch.Tensor:
    """The caption of item n, or with probability β one of its rewrites."""
    replaced, which = draws.random() < row.beta, draws.random()
    rewrites = (data.kept if row.filtered else data.every)[n]
    if replaced and rewrites:
        return data.rewrites[rewrites[int(which * len(rewrites))]].float()
    return data.captions[n].float()


class _Pair(nn.Module):
    """Both heads and the temperature."""

    def __init__(self, data: Few) -> None:
        super().__init__()
        recipe = RECIPES[data.task]
        self.text = Head(
            HeadConfig(
                in_dim=data.captions[0].shape[1],
                max_tokens=MAX_TOKENS,
                dropout=recipe.dropout,
                pooled_bands=recipe.text_bands,
            )
        )
        self.media = Head(
            HeadConfig(
                in_dim=data.media.values.shape[1],
                max_tokens=recipe.max_media_tokens,
                dropout=recipe.dropout,
                input_dropout=recipe.media_input_dropout,
                pooled_bands=recipe.media_bands,
            )
        )
        self.log_scale = nn.Parameter(torch.tensor(1.0 / 0.07).log())
        for head, values in (
            (self.text, torch.cat(data.captions)),
            (self.media, data.media.values),
        ):
            head.mean.copy_(values.float().mean(0))
            head.deviation.copy_(values.float().std(0).clamp_min(1e-3))


def _loss(
    pair: _Pair, text: Tokens, media: Tokens, identity: torch.Tensor, dropout: float
) -> torch.Tensor:
    sent = pair.text(text.values, thinned(text.mask, dropout))
    seen = pair.media(media.values, thinned(media.mask, dropout))
    scale = pair.log_scale.clamp(max=float(np.log(100.0))).exp()
    return contrastive_loss(scale * sent @ seen.T, identity[:, None] == identity[None, :])


def compare(
    task: Task,
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


def _scores(pair: _Pair, data: SplitData) -> dict[str, float]:
    return evaluate(pair.text, pair.media, data)["text_to_media"]
