"""Train pooled heads (:mod:`semlink.semantics.pooled`) on a captioned set of real pictures or sounds.

``semlink train heads --corpus NAME``. Pooling and the canonical correlation are closed forms of seconds, the
contrastive view takes a minute on one core; the frozen features before them are the long part and are kept in shards.
Whatever is chosen is chosen on val, test is measured once if asked for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import nn

from lab.training.alignment_heads import captions_of, evaluate
from lab.training.checkpoint import Checkpoint, rounded, save_weights
from lab.training.data import (
    SplitData,
    caption_groups,
    describe_data,
    split_data,
    two_way_metrics,
)
from lab.training.features import FrozenFeatures
from lab.training.losses import contrastive_loss
from lab.training.trainer import Trained, TrainerConfig, train
from semlink.corpora.corpus import Corpus
from semlink.errors import NotFound
from semlink.progress import track
from semlink.semantics.heads import FEATURE_DIM
from semlink.semantics.int8_tensors import pack, unpack
from semlink.semantics.modalities import modality_of
from semlink.semantics.pooled import PooledConfig, PooledHead
from semlink.semantics.text import MAX_TOKENS

POOLING_BATCH: Final = 256
CHECKPOINT_EPOCHS: Final = 5
"""A state is a hundred megabytes, an epoch a few seconds."""
LEXICON_TOKENS: Final = 40_000
LEXICON_ROUNDS: Final = 6
HUB_CHOICES: Final = tuple((s, w) for s in (15.0, 20.0, 30.0) for w in (0.0, 0.3, 0.5, 0.7, 0.9))
"""Sharpness and weight of the querybank's correction, chosen on val."""
HUB_DEFAULT: Final = (20.0, 0.5)
"""Where there is no val split; what was chosen on Flickr8k's."""


@dataclass(frozen=True, slots=True)
class PooledRecipe:
    """Everything that decides what a run learns, besides data and seed. Chosen on Flickr8k's dev pictures."""

    ridge_media: float = 3.0
    ridge_text: float = 0.5
    correlation_power: float = 0.75
    """Canonical pairs are weighted by this power of their correlation."""
    epochs: int = 25
    batch: int = 512
    learning_rate: float = 4e-3
    weight_decay: float = 0.1
    warmup_steps: int = 20
    average_decay: float = 0.98
    logit_scale: float = 20.0
    media_dropout: float = 0.6
    text_dropout: float = 0.3
    hidden_dropout: float = 0.3
    hidden: int = 512
    lexicon: int = 1536
    bank: int = 2048
    media_tokens: int = 64


@dataclass(frozen=True, slots=True)
class _Pooled:
    """A split as pooled vectors, standardised: media [items, p], text [captions, q]."""

    media: torch.Tensor
    text: torch.Tensor
    caption_item: torch.Tensor
    captions: list[torch.Tensor]
    """Rows of ``text``, by item."""
    group: torch.Tensor
    """[items]: items of one identity, and items that are described by the very same captions, share a number."""


def run(
    corpus: Corpus,
    name: str,
    path: Path,
    *,
    seed: int = 0,
    recipe: PooledRecipe | None = None,
    measure_test: bool = False,
) -> dict[str, Any]:
    """Train on the corpus's train split and write ``path`` (safetensors) with its sidecar; returns the scores.

    An interrupted run goes on after its last checkpoint. Raises NotFound when the corpus has no train split.
    """
    if "train" not in corpus.splits:
        raise NotFound(f"corpus {name!r} has no train split to train on", field="corpus")
    recipe = recipe or PooledRecipe()
    data, val = split_data(corpus, "train"), None
    if "val" in corpus.splits:
        val = split_data(corpus, "val")
        val = replace(val, identity=caption_groups(val.items))
    started = time.monotonic()
    torch.manual_seed(seed)
    pair = _new_pair(corpus, data, recipe)
    pooled = _standardise(pair, data)
    _correlate(pair, pooled, recipe)
    checkpoint = Checkpoint(f"pooled-{name}", __name__, asdict(recipe), describe_data(corpus), seed)
    trained = _fit(pair, pooled, recipe, seed, checkpoint, name)
    pair = trained.module
    _join(pair, pooled)
    # As stored: the rounding to eight bits is part of what is measured.
    pair.load_state_dict(unpack(pack(pair.state_dict())))
    _correct_hubs(pair, pooled, val)
    heads = pair.heads
    scores: dict[str, Any] = {}
    if val is not None:
        scores["val"] = evaluate(heads["text"], heads["media"], val)
    if measure_test:
        scores["test"] = evaluate(heads["text"], heads["media"], split_data(corpus, "test"))
    save_weights(
        path,
        pack({f"{s}.{n}": t for s, head in heads.items() for n, t in head.state_dict().items()}),
        {
            "configs": json.dumps({side: head.shape.as_dict() for side, head in heads.items()}),
            "kind": "pooled",
        },
        {
            "command": f"semlink train heads --corpus {name}" + (f" --seed {seed}" if seed else ""),
            "data": describe_data(corpus),
            "recipe": asdict(recipe),
            "seed": seed,
            "hub": [round(value, 3) for value in heads["media"].get_buffer("hub").tolist()],
            "final_loss": round(trained.final_loss, 4),
            "scores": rounded(scores),
            "seconds": round(max(trained.seconds, time.monotonic() - started)),
        },
    )
    checkpoint.remove()
    return scores


class _Pair(nn.Module):
    """Both heads and the temperature."""

    def __init__(self, text: PooledConfig, media: PooledConfig, logit_scale: float) -> None:
        super().__init__()
        self.text, self.media = PooledHead(text), PooledHead(media)
        self.log_scale = nn.Parameter(torch.tensor(logit_scale).log())

    @property
    def heads(self) -> dict[str, PooledHead]:
        """By side."""
        return {"text": self.text, "media": self.media}


def _new_pair(corpus: Corpus, train: SplitData, recipe: PooledRecipe) -> _Pair:
    """Both heads with what is fixed before any fit: shapes, lift, lexicon."""
    text = PooledConfig(
        in_dim=train.text.values.shape[1],
        max_tokens=MAX_TOKENS,
        lexicon=recipe.lexicon,
        hidden=recipe.hidden,
        dropout=recipe.text_dropout,
        hidden_dropout=recipe.hidden_dropout,
    )
    media = PooledConfig(
        in_dim=train.media.values.shape[1],
        max_tokens=recipe.media_tokens,
        hidden=recipe.hidden,
        dropout=recipe.media_dropout,
        hidden_dropout=recipe.hidden_dropout,
        bank=min(recipe.bank, len(train.text)),
    )
    lift = modality_of(corpus.info.task).lift()
    if lift is not None:
        media = replace(media, lifted=lift[0].shape[0], lift_from=lift[0].shape[1])
    pair = _Pair(text, media, recipe.logit_scale)
    if lift is not None:
        pair.media.get_buffer("lift").copy_(lift[0])
        pair.media.get_buffer("lift_bias").copy_(lift[1])
    if recipe.lexicon:
        mean, directions = lexicon(train.text.values, recipe.lexicon)
        pair.text.get_buffer("token_mean").copy_(mean)
        pair.text.get_buffer("lexicon").copy_(directions)
    return pair


def lexicon(tokens: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of tokens [n, d] and ``size`` directions [size, d] around which they lie (spherical k-means)."""
    mean = tokens[:: max(1, len(tokens) // LEXICON_TOKENS)].float().mean(0)
    picked = torch.randperm(len(tokens))[:LEXICON_TOKENS]
    x = F.normalize(tokens[picked].float() - mean, dim=1)
    # With replacement where there are fewer tokens than directions: copies are harmless.
    centres = x[torch.randint(len(x), (size,))] if len(x) < size else x[:size].clone()
    for _ in range(LEXICON_ROUNDS):
        nearest = torch.cat([(part @ centres.T).argmax(1) for part in torch.split(x, 8192)])
        total = torch.zeros_like(centres).index_add_(0, nearest, x)
        # A centre without tokens stays where it is.
        centres = torch.where(total.any(1, keepdim=True), F.normalize(total, dim=1), centres)
    return mean, centres


@torch.no_grad()
def _standardise(pair: _Pair, train: SplitData) -> _Pooled:
    """Pool the train split once, set both heads' means and deviations by it."""
    parts = {}
    for side, features in (("media", train.media), ("text", train.text)):
        head = pair.heads[side]
        pooled = _pooled(head, features, f"pooling {side}")
        head.mean.copy_(pooled.mean(0))
        head.deviation.copy_(pooled.std(0).clamp_min(1e-3))
        parts[side] = head.deviations(pooled)
    group = caption_groups(train.items)
    return _Pooled(parts["media"], parts["text"], train.caption_item, captions_of(train), group)


def _pooled(head: PooledHead, features: FrozenFeatures, title: str) -> torch.Tensor:
    """All inputs pooled, [n, pooled_dim]."""
    pooled = torch.empty(len(features), head.shape.pooled_dim)
    # By length: little of a batch is padding.
    order = torch.argsort(features.offsets.diff(), stable=True)
    for picked in track(torch.split(order, POOLING_BATCH), title):
        tokens = features.batch(picked)
        pooled[picked] = head.pooled(tokens.values, tokens.mask)
    return pooled


@torch.no_grad()
def _correlate(pair: _Pair, data: _Pooled, recipe: PooledRecipe) -> None:
    """Regularised canonical correlation of media and text in closed form."""
    count = torch.zeros(len(data.media)).index_add_(
        0, data.caption_item, torch.ones(len(data.text))
    )
    caption = torch.zeros(len(data.media), data.text.shape[1])
    caption.index_add_(0, data.caption_item, data.text).div_(count.clamp_min(1)[:, None])
    for side, axes in zip(
        ("media", "text"),
        canonical_axes(data.media, caption, data.text, recipe),
        strict=True,
    ):
        pair.heads[side].get_buffer("correlated")[: axes.shape[1]] = axes.T


def canonical_axes(
    media: torch.Tensor, caption: torch.Tensor, text: torch.Tensor, recipe: PooledRecipe
) -> tuple[torch.Tensor, torch.Tensor]:
    """Axes [p, r] of media and [q, r] of text along which they correlate most, weighted by their correlation.

    ``media`` [n, p] and ``caption`` [n, q] belong together; ``text`` [m, q], all captions, gives the variance of one.
    r is 256, or less for tiny sets.
    """
    whiten_media = _whitening(media, recipe.ridge_media)
    whiten_text = _whitening(text, recipe.ridge_text)
    cross = whiten_media.T @ (media.T @ caption / len(media)) @ whiten_text
    kept = min(FEATURE_DIM, *cross.shape, len(media))
    # The randomised decomposition (Halko et al., 2011) of the few axes that are kept: a tenth of the whole one's time.
    left, correlation, right = torch.svd_lowrank(cross, min(kept + 44, *cross.shape), niter=6)
    weight = correlation[:kept].clamp_min(1e-12) ** recipe.correlation_power
    return whiten_media @ (left[:, :kept] * weight), whiten_text @ (right[:, :kept] * weight)


def _whitening(x: torch.Tensor, ridge: float) -> torch.Tensor:
    """W [d, d] with WᵀCW = 1 for the covariance C of x [n, d] plus the ridge."""
    covariance = x.T @ x / len(x)
    lower = torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance)))
    inverse: torch.Tensor = torch.linalg.solve_triangular(lower, torch.eye(len(lower)), upper=False)
    return inverse.T


def _fit(
    pair: _Pair,
    data: _Pooled,
    recipe: PooledRecipe,
    seed: int,
    checkpoint: Checkpoint,
    name: str,
) -> Trained[_Pair]:
    """Train the contrastive view; the heads keep the mean over steps."""
    num_items = len(data.media)
    batch = min(recipe.batch, num_items)
    an_epoch = num_items // batch

    def batches(_epoch: int) -> Sequence[torch.Tensor]:
        return torch.split(torch.randperm(num_items)[: an_epoch * batch], batch)

    def loss(picked: torch.Tensor) -> torch.Tensor:
        own = [data.captions[n] for n in picked.tolist()]
        sent = torch.stack([rows[torch.randint(len(rows), ())] for rows in own])
        media = pair.media.trained(data.media[picked])
        text = pair.text.trained(data.text[sent])
        positive = data.group[picked][:, None] == data.group[picked][None, :]
        return contrastive_loss(pair.log_scale.clamp(max=4.6).exp() * text @ media.T, positive)

    config = TrainerConfig.from_recipe(
        recipe,
        title=f"heads of {name}",
        num_steps=an_epoch * recipe.epochs,
        seed=seed,
        decayed_ndim=1,
        clip_norm=None,
        checkpoint_epochs=CHECKPOINT_EPOCHS,
    )
    return train(pair, batches, loss, config, checkpoint=checkpoint)


@torch.no_grad()
def _join(pair: _Pair, data: _Pooled) -> None:
    """The principal axes that both views of both sides have in common, most important first."""
    media = pair.media.views(data.media)
    text = pair.text.views(data.text)
    _, axes = torch.linalg.eigh(media.T @ media / len(media) + text.T @ text / len(text))
    for side in ("media", "text"):
        pair.heads[side].get_buffer("joint").copy_(axes.flip(1)[:, : FEATURE_DIM - 1].T)


@torch.no_grad()
def _correct_hubs(pair: _Pair, data: _Pooled, val: SplitData | None) -> None:
    """Fill the query bank with captions of the train split; sharpness and weight are chosen on val."""
    text, media = pair.text, pair.media
    bank = media.get_buffer("bank")
    picked = torch.linspace(0, len(data.text) - 1, len(bank)).round().long()
    # As it will be stored.
    bank.copy_(unpack(pack({"bank": text.together(data.text[picked])}))["bank"])
    vectors = media.together(data.media)

    def choose(sharpness: float, weight: float) -> None:
        hub = media.get_buffer("hub")
        hub.copy_(torch.tensor([sharpness, weight, 0.0]))
        hub[2] = media.hubness(vectors).mean()

    choose(*HUB_DEFAULT)
    if val is not None:
        queries = F.normalize(text.completed(_together(text, val.text)), dim=-1).numpy()
        items = _together(media, val.media)
        scored = []
        for sharpness, weight in HUB_CHOICES:
            choose(sharpness, weight)
            corrected = F.normalize(media.completed(items), dim=-1).numpy()
            found = two_way_metrics(queries, corrected, val)["text_to_media"]
            scored.append((found["r_at_1"] + found["r_at_10"], sharpness, weight))
        choose(*max(scored)[1:])
    media.get_buffer("hub").copy_(media.get_buffer("hub").half().float())


def _together(head: PooledHead, features: FrozenFeatures) -> torch.Tensor:
    return head.together(head.deviations(_pooled(head, features, "val")))
