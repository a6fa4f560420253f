"""Train a task's heads on its embedded corpus: ``semlink train heads --task person``.

The backbones stay frozen: their tokens are computed once (:mod:`lab.training.features`). Both heads are trained
together by a symmetric InfoNCE loss with a learned temperature (van den Oord et al., arXiv 1807.03748; Radford et
al., arXiv 2103.00020), in which all items of an identity are positives, and a side task that must name the words of
an item's captions from its media feature (our definition). The weights are an exponential mean over steps; the epoch
with the best R@1 on val is kept, and test is measured once at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from lab.training.checkpoint import Checkpoint, rounded, save_weights
from lab.training.data import (
    SplitData,
    describe_data,
    phrase_targets,
    split_data,
    two_way_metrics,
)
from lab.training.features import FrozenFeatures
from lab.training.losses import contrastive_loss
from lab.training.trainer import Trained, TrainerConfig, Validation, train
from semlink.corpora.corpus import Corpus
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.semantics.heads import FEATURE_DIM, Head, HeadConfig
from semlink.semantics.int8_tensors import pack, unpack
from semlink.semantics.spaces import weights_folder
from semlink.semantics.text import MAX_TOKENS


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


RECIPES: Final[dict[str, Recipe]] = {
    "person": Recipe(epochs=12, text_bands=1, media_bands=4),
    "image": Recipe(epochs=14, text_bands=1, media_bands=1),
    "audio": Recipe(epochs=14, text_bands=1, media_bands=2, dropout=0.15, media_input_dropout=0.2),
}
"""What ships, chosen on val. Tasks of plug-ins take the default."""


class HeadPair(nn.Module):
    """Both heads and the temperature."""

    def __init__(self, text: Head, media: Head) -> None:
        super().__init__()
        self.text, self.media = text, media
        self.log_scale = nn.Parameter(torch.tensor(1.0 / 0.07).log())

    def logits(self, text: torch.Tensor, media: torch.Tensor) -> torch.Tensor:
        """Scaled cosines [n, m] of unit features [n, 256] and [m, 256]."""
        scale = self.log_scale.clamp(max=float(np.log(100.0))).exp()
        return scale * text @ media.T


class _Pair(HeadPair):
    """With the side task's classifier."""

    def __init__(self, train: SplitData, recipe: Recipe) -> None:
        super().__init__(*recipe_heads(recipe, train.text.values, train.media.values))
        self.phrases = nn.Linear(FEATURE_DIM, phrase_targets(train.items).shape[1])


def recipe_heads(recipe: Recipe, text: torch.Tensor, media: torch.Tensor) -> tuple[Head, Head]:
    """New heads for these tokens ``[total_tokens, width]``."""
    return new_head(
        text,
        max_tokens=MAX_TOKENS,
        dropout=recipe.dropout,
        pooled_bands=recipe.text_bands,
    ), new_head(
        media,
        max_tokens=recipe.max_media_tokens,
        dropout=recipe.dropout,
        input_dropout=recipe.media_input_dropout,
        pooled_bands=recipe.media_bands,
    )


def new_head(values: torch.Tensor, **shape: Any) -> Head:
    """A head that standardises by tokens ``[total_tokens, width]``; ``shape``: what :class:`HeadConfig` has besides."""
    head = Head(HeadConfig(values.shape[1], **shape))
    sample = values[:: max(1, len(values) // 50_000)].float()
    head.mean.copy_(sample.mean(0))
    head.deviation.copy_(sample.std(0).clamp_min(1e-3))
    return head


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

    ``out`` defaults to the folder of the task's weights, ``path`` names another file. An interrupted run goes on after
    its last whole epoch.
    """
    recipe = recipe or RECIPES.get(task, Recipe())
    corpus = corpus or corpus_named(default_corpus(task))
    torch.manual_seed(seed)
    data, val = split_data(corpus, "train"), split_data(corpus, "val")
    pair = _Pair(data, recipe)
    checkpoint = Checkpoint(f"heads-{task}", __name__, asdict(recipe), describe_data(corpus), seed)
    steps_an_epoch = max(1, len(data.items) // recipe.batch)

    def batches(_epoch: int) -> tuple[torch.Tensor, ...]:
        order = torch.randperm(len(data.items))
        return torch.split(order[: steps_an_epoch * recipe.batch], recipe.batch)

    def validate(average: _Pair, _epoch: int) -> Validation:
        ways = evaluate(average.text, average.media, val)
        there, back = ways["text_to_media"], ways["media_to_text"]
        return there["r_at_1"] + there["map"], {
            "val_r_at_1": there["r_at_1"],
            "val_r_at_1_back": back["r_at_1"],
        }

    config = TrainerConfig.from_recipe(
        recipe,
        title=f"heads of {task}",
        num_steps=steps_an_epoch * recipe.epochs,
        seed=seed,
        decayed_ndim=2,
    )
    trained = train(
        pair, batches, _loss(pair, data, recipe), config, validate=validate, checkpoint=checkpoint
    )
    average = trained.module
    # As shipped: the rounding to eight bits is part of what is measured.
    average.load_state_dict(unpack(pack(average.state_dict())))
    splits = {"val": val} | ({"test": split_data(corpus, "test")} if measure_test else {})
    scores = {name: evaluate(average.text, average.media, split) for name, split in splits.items()}
    about = {
        "command": f"semlink train heads --task {task}" + (f" --seed {seed}" if seed else ""),
        "data": describe_data(corpus),
        "recipe": asdict(recipe),
        "seed": seed,
        "logit_scale": round(average.log_scale.exp().item(), 3),
    }
    path = path or (out or weights_folder(task)) / f"heads-{task}.safetensors"
    save_heads(path, {"text": average.text, "media": average.media}, about, scores, trained)
    checkpoint.remove()
    return scores


def save_heads(
    path: Path,
    heads: Mapping[str, Head],
    about: Mapping[str, Any],
    scores: Mapping[str, Any],
    trained: Trained[Any],
) -> None:
    """Write heads by side, where :func:`semlink.semantics.encoders.read_heads` finds them, and their sidecar."""
    save_weights(
        path,
        pack({f"{s}.{n}": t for s, head in heads.items() for n, t in head.state_dict().items()}),
        {"configs": json.dumps({side: head.config.as_dict() for side, head in heads.items()})},
        {
            **about,
            "scores": rounded(scores),
            "history": rounded(trained.history),
            "seconds": round(trained.seconds),
        },
    )


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


def _loss(pair: _Pair, train: SplitData, recipe: Recipe) -> Callable[[torch.Tensor], torch.Tensor]:
    """InfoNCE and the side task of the items ``picked`` [n]."""
    targets = phrase_targets(train.items)
    captions = captions_of(train)

    def loss(picked: torch.Tensor) -> torch.Tensor:
        chosen = torch.cat(
            [
                captions[n][torch.randperm(len(captions[n]))[: recipe.captions_per_item]]
                for n in picked.tolist()
            ]
        )
        # Drawn for nothing, as shipped weights were: with other draws a training again would give others.
        torch.randint(1, picked.shape)
        text_tokens = train.text.batch(chosen)
        media_tokens = train.media.batch(picked)
        text = pair.text(text_tokens.values, thinned(text_tokens.mask, recipe.token_dropout))
        raw = pair.media.raw(media_tokens.values, thinned(media_tokens.mask, recipe.token_dropout))
        owner = train.caption_item[chosen]
        positive = train.identity[owner][:, None] == train.identity[picked][None, :]
        contrast = contrastive_loss(pair.logits(text, F.normalize(raw, dim=-1)), positive)
        named = F.binary_cross_entropy_with_logits(pair.phrases(raw), targets[picked])
        return contrast + recipe.phrase_weight * 10.0 * named

    return loss


def captions_of(data: SplitData) -> list[torch.Tensor]:
    """The captions of each item, int64."""
    return [torch.where(data.caption_item == n)[0] for n in range(len(data.items))]


def thinned(mask: torch.Tensor, share: float) -> torch.Tensor:
    """The mask with a share of the tokens hidden; the first is always kept."""
    kept = torch.rand(mask.shape) >= share
    kept[:, 0] = True
    return mask & kept
