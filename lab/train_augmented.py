"""SDG at training time: heads of person search trained with captions replaced by rewrites (methods of LLM-DA).

With probability β a training caption is read as one of its rewrites (arXiv 2604.05504 §SDG; β ≈ 0.2 in the same group's
LLM-DA). What rewriting is for is a set with few captions, and an LLM's rewrite costs a second here: all rows train on
the same ``num_items`` pictures with one caption each, those that the bank holds rewrites of, for the same steps, with
the recipe's loss (:func:`lab.train_heads.contrastive_loss`) and a learning rate of their own chosen on val. Reduced
against the shipped heads, which none of these replaces. Our definition.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from kb_service.filtering import judge, keep_all
from lab.features import FrozenFeatures
from lab.progress import track
from lab.rewrite_bank import RewriteBank, Source
from lab.train_heads import RECIPES, contrastive_loss, evaluate, follow, thinned
from lab.training import SplitData, learning_rate_factor, split_data
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.semantics.encoders import text_tokens
from semlink.semantics.heads import Head, HeadConfig
from semlink.semantics.text import MAX_TOKENS
from semlink.semantics.tokens import Tokens, pad

TASK: Final = "person"
STEPS: Final = 120
BATCH: Final = 64
RATES: Final = (2e-3, 4e-3)


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
    """The small training set: tokens of pictures and of captions, whose picture it is, and rewrites' tokens of each.

    ``kept`` and ``every``: rows of ``rewrites`` that belong to each caption, with and without the filter.
    """

    media: FrozenFeatures
    identity: torch.Tensor
    captions: list[torch.Tensor]
    rewrites: list[torch.Tensor]
    kept: list[list[int]]
    every: list[list[int]]


def few(train: SplitData, chosen: Sequence[Source], bank: RewriteBank, alpha: float) -> Few:
    """The items of ``chosen`` with one caption each and the bank's rewrites of it, duplicates left out."""
    number = {item.item_id: n for n, item in enumerate(train.items)}
    rows = [number[source.item.item_id] for source in chosen]
    texts: list[str] = []
    kept: list[list[int]] = []
    every: list[list[int]] = []
    for source in chosen:
        found = bank.rewrites(source.text)
        judged = judge(source.text, found, min_similarity=alpha)
        fresh = [n for n, r in enumerate(found.rewrites) if not r.reason]
        first = len(texts)
        texts += [keep_all(found).rewrites[n].text for n in fresh]
        every.append([first + place for place in range(len(fresh))])
        kept.append([first + p for p, n in enumerate(fresh) if judged.rewrites[n].kept])
    return Few(
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


def fit(data: Few, row: Augmentation, rate: float, seed: int, *, steps: int = STEPS) -> _Pair:
    """Train; every row of a seed starts from the same heads and sees the same pictures in the same order."""
    torch.manual_seed(seed)
    recipe = RECIPES[TASK]
    pair = _Pair(data)
    average = copy.deepcopy(pair).eval()
    optimiser = torch.optim.AdamW(pair.parameters(), lr=rate, weight_decay=recipe.weight_decay)
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
        loss = _loss(pair, text, media, data.identity[torch.from_numpy(picked)])
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
        recipe = RECIPES[TASK]
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


def _loss(pair: _Pair, text: Tokens, media: Tokens, identity: torch.Tensor) -> torch.Tensor:
    dropout = RECIPES[TASK].token_dropout
    sent = pair.text(text.values, thinned(text.mask, dropout))
    seen = pair.media(media.values, thinned(media.mask, dropout))
    scale = pair.log_scale.clamp(max=float(np.log(100.0))).exp()
    return contrastive_loss(scale * sent @ seen.T, identity[:, None] == identity[None, :])


def compare(
    chosen: Sequence[Source], bank: RewriteBank, alpha: float, *, seeds: int, steps: int = STEPS
) -> dict[Augmentation, list[dict[str, Any]]]:
    """Each row's scores for each seed: ``{"val": …, "test": …, "rate": …}`` of text to media.

    The rate is the row's best R@1 + mAP on val with seed 0; test is measured with it alone.
    """
    corpus = corpus_named(default_corpus(TASK))
    data = few(split_data(corpus, "train"), chosen, bank, alpha)
    val, test = split_data(corpus, "val"), split_data(corpus, "test")
    found: dict[Augmentation, list[dict[str, Any]]] = {}
    for row in track(ROWS, "training with rewrites"):
        tried = {rate: fit(data, row, rate, 0, steps=steps) for rate in RATES}
        scored = {rate: _scores(pair, val) for rate, pair in tried.items()}
        rate = max(RATES, key=lambda r: scored[r]["r_at_1"] + scored[r]["map"])
        pairs = [tried[rate], *(fit(data, row, rate, s, steps=steps) for s in range(1, seeds))]
        found[row] = [
            {"val": _scores(pair, val), "test": _scores(pair, test), "rate": rate} for pair in pairs
        ]
    return found


def _scores(pair: _Pair, data: SplitData) -> dict[str, float]:
    return evaluate(pair.text, pair.media, data)["text_to_media"]
