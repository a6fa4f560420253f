"""Train a task's heads on its embedded corpus: ``semlink train heads --task person``.

The backbones stay frozen: their tokens are computed once (:mod:`lab.training.features`). Both heads are trained
together by a symmetric InfoNCE loss with a learned temperature (van den Oord et al., arXiv 1807.03748; Radford et
al., arXiv 2103.00020), in which all items of an identity are positives, and a side task that must name the words of
an item's captions from its media feature (our definition). The weights are an exponential mean over steps; the epoch
with the best R@1 on val is kept, and test is measured once at the end.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from lab.training.data import (
    SplitData,
    describe_data,
    learning_rate_factor,
    phrase_targets,
    rounded,
    save_weights,
    split_data,
    two_way_metrics,
)
from lab.training.features import FrozenFeatures
from semlink.corpora.corpus import Corpus
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.models import cache_dir
from semlink.progress import progress
from semlink.semantics.heads import FEATURE_DIM, Head, HeadConfig
from semlink.semantics.int8_tensors import pack, unpack
from semlink.semantics.text import MAX_TOKENS
from semlink.settings import Settings


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a run learns, besides data and seed."""

    epochs: int = 24
    batch: int = 128
    captions_per_item: int = 2
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: int = 40
    token_dropout: float = 0.1
    phrase_weight: float = 0.5
    average_decay: float = 0.98
    dropout: float = 0.1
    max_media_tokens: int = 64
    media_input_dropout: float = 0.0
    text_bands: int = 0
    media_bands: int = 0
    """``pooled_bands`` of the heads."""
    takes: int = 0
    """Other takes of each sound (:mod:`lab.training.augmentation`); pictures have none."""


RECIPES: Final[dict[str, Recipe]] = {
    "person": Recipe(epochs=12, text_bands=1, media_bands=4),
    "image": Recipe(epochs=14, text_bands=1, media_bands=1),
    "audio": Recipe(epochs=14, text_bands=1, media_bands=2, dropout=0.15, media_input_dropout=0.2),
}
"""What ships, chosen on val."""


class _Pair(nn.Module):
    """Both heads, the temperature, and the side task's classifier."""

    def __init__(self, text: HeadConfig, media: HeadConfig, num_phrases: int) -> None:
        super().__init__()
        self.text = Head(text)
        self.media = Head(media)
        self.log_scale = nn.Parameter(torch.tensor(1.0 / 0.07).log())
        self.phrases = nn.Linear(FEATURE_DIM, num_phrases)


def run(
    task: str,
    *,
    seed: int = 0,
    out: Path | None = None,
    path: Path | None = None,
    recipe: Recipe | None = None,
    corpus: Corpus | None = None,
    measure_test: bool = False,
) -> dict[str, Any]:
    """Train and write ``out/heads-{task}.safetensors`` and ``.json``; returns the scores.

    ``out`` defaults to the weights directory, ``path`` names another file. An interrupted run goes on after its last
    whole epoch.
    """
    recipe = recipe or RECIPES[task]
    corpus = corpus or corpus_named(default_corpus(task))
    torch.manual_seed(seed)
    train, val = split_data(corpus, "train", recipe.takes), split_data(corpus, "val")
    started = time.monotonic()
    pair = _new_pair(train, recipe)
    average = copy.deepcopy(pair).eval()
    best, history, seconds = _fit(pair, average, train, val, task, seed, recipe, corpus)
    # As shipped: the rounding to eight bits is part of what is measured.
    average.load_state_dict(unpack(pack(best)))
    scores: dict[str, Any] = {"val": evaluate(average.text, average.media, val)}
    if measure_test:
        scores["test"] = evaluate(average.text, average.media, split_data(corpus, "test"))
    _save(
        path or (out or Settings().weights_dir) / f"heads-{task}.safetensors",
        task,
        average,
        corpus,
        recipe,
        seed,
        scores,
        history,
        seconds + time.monotonic() - started,
    )
    return scores


def evaluate(text: Head, media: Head, data: SplitData) -> dict[str, dict[str, float]]:
    """Two-way retrieval metrics of a split over the ideal link."""
    return two_way_metrics(embed(text, data.text), embed(media, data.media), data)


@torch.inference_mode()
def embed(head: Head, features: FrozenFeatures, batch: int = 256) -> NDArray[np.float32]:
    """Vectors of all inputs, [n, 256], float32."""
    head.eval()
    parts = [
        head.encode(features.batch(range(i, min(i + batch, len(features)))))
        for i in range(0, len(features), batch)
    ]
    vectors: NDArray[np.float32] = torch.cat(parts).numpy()
    return vectors


def contrastive_loss(scores: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE of logits [n, m] with targets spread evenly over ``positive`` [n, m], bool."""
    weight = positive.float()
    rows = -(F.log_softmax(scores, 1) * weight).sum(1) / weight.sum(1)
    columns = -(F.log_softmax(scores, 0) * weight).sum(0) / weight.sum(0)
    return 0.5 * (rows.mean() + columns.mean())


def _new_pair(train: SplitData, recipe: Recipe) -> _Pair:
    text = HeadConfig(
        in_dim=train.text.values.shape[1],
        max_tokens=MAX_TOKENS,
        dropout=recipe.dropout,
        pooled_bands=recipe.text_bands,
    )
    media = HeadConfig(
        in_dim=train.media.values.shape[1],
        max_tokens=recipe.max_media_tokens,
        dropout=recipe.dropout,
        input_dropout=recipe.media_input_dropout,
        pooled_bands=recipe.media_bands,
    )
    pair = _Pair(text, media, phrase_targets(train.items).shape[1])
    for head, features in ((pair.text, train.text), (pair.media, train.media)):
        sample = features.values[:: max(1, len(features.values) // 50_000)].float()
        head.mean.copy_(sample.mean(0))
        head.deviation.copy_(sample.std(0).clamp_min(1e-3))
    return pair


def _fit(
    pair: _Pair,
    average: _Pair,
    train: SplitData,
    val: SplitData,
    task: str,
    seed: int,
    recipe: Recipe,
    corpus: Corpus,
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]], float]:
    """Weights of the best epoch, the history, and the seconds of runs before this one."""
    targets = phrase_targets(train.items)
    captions = [torch.where(train.caption_item == n)[0] for n in range(len(train.items))]
    decayed = [p for p in pair.parameters() if p.ndim > 1]
    others = [p for p in pair.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
    )
    steps_an_epoch = max(1, len(train.items) // recipe.batch)
    num_steps = steps_an_epoch * recipe.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(step, num_steps, recipe.warmup_steps)
    )
    checkpoint = Checkpoint(f"heads-{task}", seed, recipe, corpus)
    state = checkpoint.load()
    first, history, best, best_score, seconds = 0, [], average.state_dict(), -1.0, 0.0
    if state is not None:
        first, history, best, best_score = (
            state["epoch"],
            state["history"],
            state["best"],
            state["best_score"],
        )
        seconds = state["seconds"]
        pair.load_state_dict(state["pair"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
    started = time.monotonic()
    with progress() as bar:
        line = bar.add_task(f"heads of {task}", total=num_steps, completed=first * steps_an_epoch)
        for epoch in range(first, recipe.epochs):
            # A stream of its own for each epoch: a resumed run draws what the whole one would have drawn.
            torch.manual_seed(seed * 100_003 + epoch)
            order = torch.randperm(len(train.items))
            pair.train()
            losses = []
            for start in range(0, steps_an_epoch * recipe.batch, recipe.batch):
                loss = _loss(
                    pair, train, captions, targets, order[start : start + recipe.batch], recipe
                )
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(pair.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                follow(average, pair, recipe.average_decay)
                losses.append(loss.item())
                bar.advance(line)
            scores = evaluate(average.text, average.media, val)
            score = scores["text_to_media"]["r_at_1"] + scores["text_to_media"]["map"]
            if score > best_score:
                best, best_score = copy.deepcopy(average.state_dict()), score
            history.append(
                {
                    "epoch": epoch,
                    "loss": float(np.mean(losses)),
                    "val_r_at_1": scores["text_to_media"]["r_at_1"],
                }
            )
            bar.print(
                f"{task} epoch {epoch}: loss {np.mean(losses):.3f}, "
                f"val R@1 {scores['text_to_media']['r_at_1']:.3f} back {scores['media_to_text']['r_at_1']:.3f}"
            )
            checkpoint.save(
                {
                    "epoch": epoch + 1,
                    "history": history,
                    "best": best,
                    "best_score": best_score,
                    "seconds": seconds + time.monotonic() - started,
                    "pair": pair.state_dict(),
                    "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                }
            )
    checkpoint.remove()
    return best, history, seconds


def _loss(
    pair: _Pair,
    train: SplitData,
    captions: list[torch.Tensor],
    targets: torch.Tensor,
    picked: torch.Tensor,
    recipe: Recipe,
) -> torch.Tensor:
    chosen = torch.cat(
        [
            captions[n][torch.randperm(len(captions[n]))[: recipe.captions_per_item]]
            for n in picked.tolist()
        ]
    )
    takes = torch.randint(len(train.media) // len(train.items), picked.shape)
    text_tokens = train.text.batch(chosen)
    media_tokens = train.media.batch(takes * len(train.items) + picked)
    text = pair.text(text_tokens.values, thinned(text_tokens.mask, recipe.token_dropout))
    raw = pair.media.raw(media_tokens.values, thinned(media_tokens.mask, recipe.token_dropout))
    media = F.normalize(raw, dim=-1)
    scale = pair.log_scale.clamp(max=float(np.log(100.0))).exp()
    owner = train.caption_item[chosen]
    positive = train.identity[owner][:, None] == train.identity[picked][None, :]
    contrast = contrastive_loss(scale * text @ media.T, positive)
    named = F.binary_cross_entropy_with_logits(pair.phrases(raw), targets[picked])
    return contrast + recipe.phrase_weight * 10.0 * named


def thinned(mask: torch.Tensor, share: float) -> torch.Tensor:
    """The mask with a share of the tokens hidden; the first is always kept."""
    kept = torch.rand(mask.shape) >= share
    kept[:, 0] = True
    return mask & kept


@torch.no_grad()
def follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move the exponential mean of a module's parameters on by one step."""
    for mean, value in zip(average.parameters(), module.parameters(), strict=True):
        mean.lerp_(value, 1.0 - decay)


class Checkpoint:
    """Where a run stands, in the cache directory; another recipe (a dataclass) or corpus is another run."""

    def __init__(self, name: str, seed: int, recipe: Any, corpus: Corpus) -> None:
        self.key = json.dumps([asdict(recipe), describe_data(corpus), seed], sort_keys=True)
        run_id = hashlib.blake2b(self.key.encode(), digest_size=6).hexdigest()
        self.path = cache_dir() / "training" / f"{name}-{run_id}.pt"

    def load(self) -> dict[str, Any] | None:
        """The state after the last whole epoch; None where there is no such run."""
        if not self.path.is_file():
            return None
        state: dict[str, Any] = torch.load(self.path, weights_only=True)
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace what is kept, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".part")
        torch.save(state, temporary)
        temporary.replace(self.path)

    def remove(self) -> None:
        """The run is over."""
        self.path.unlink(missing_ok=True)


def _save(
    path: Path,
    task: str,
    pair: _Pair,
    corpus: Corpus,
    recipe: Recipe,
    seed: int,
    scores: dict[str, Any],
    history: list[dict[str, float]],
    seconds: float,
) -> None:
    tensors = {
        f"{side}.{name}": tensor
        for side, head in (("text", pair.text), ("media", pair.media))
        for name, tensor in head.state_dict().items()
    }
    configs = {"text": pair.text.config.as_dict(), "media": pair.media.config.as_dict()}
    save_weights(
        path,
        pack(tensors),
        {"configs": json.dumps(configs)},
        {
            "command": f"semlink train heads --task {task}" + (f" --seed {seed}" if seed else ""),
            "data": describe_data(corpus),
            "recipe": asdict(recipe),
            "seed": seed,
            "logit_scale": round(pair.log_scale.exp().item(), 3),
            "scores": rounded(scores),
            "history": rounded_history(history),
            "seconds": round(seconds),
        },
    )


def rounded_history(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The history with short numbers."""
    return [rounded(row) for row in history]
