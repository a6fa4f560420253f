"""Train the heads of person search: CMPM + CMPC, Sew, masked caption modelling (Sew + MCM), and InfoNCE beside them.

Both heads read frozen tokens (:mod:`lab.training.features`). In training their features pass a batch normalisation of
each modality (Sew + MCM, algorithm 1); it is linear once trained and is folded into a head's last layers, so that
what is stored and served is a plain head. The weights are an exponential mean over steps, those of the last step are
kept: val chooses nothing inside a run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lab.training import losses
from lab.training.alignment_heads import (
    HeadPair,
    captions_of,
    evaluate,
    new_head,
    save_heads,
    thinned,
)
from lab.training.checkpoint import Checkpoint
from lab.training.data import SplitData, describe_data, phrase_targets, split_data
from lab.training.features import FrozenFeatures
from lab.training.masked_captions import MaskedCaptionDecoder, MaskedCaptions, masked_captions
from lab.training.trainer import TrainerConfig, train
from semlink.corpora.corpus import Corpus
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.errors import InvalidField
from semlink.semantics.heads import FEATURE_DIM, Head
from semlink.semantics.int8_tensors import pack, unpack
from semlink.semantics.text import MAX_TOKENS
from semlink.semantics.tokens import Tokens

_CHUNK_TOKENS: Final = 1 << 14

LENGTH_QUANTILES: Final = (0.025, 0.975)
"""Of the training captions' lengths: T_min and T_max of Sew + MCM eq. 10."""

Matching = Literal["cmpm-cmpc", "sew", "infonce"]
Captions = Literal["whole", "masked", "modelled", "modelled-without-image"]


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised: a matching loss, and what becomes of the captions.

    ``margin_bounds`` and ``alpha``: of Sew; equal bounds are a fixed margin. ``captions``: "masked" hides words and
    asks for nothing (table 5, "mask"), "modelled" has the decoder name them.
    """

    matching: Matching
    margin_bounds: tuple[float, float] = (losses.FIXED_MARGIN, losses.FIXED_MARGIN)
    captions: Captions = "whole"
    alpha: float = losses.ALPHA


OBJECTIVES: Final[dict[str, Objective]] = {
    "cmpm-cmpc": Objective("cmpm-cmpc"),
    "cmpm-cmpc-shuffled": Objective("cmpm-cmpc"),
    "sew-fixed": Objective("sew"),
    "sew-adaptive": Objective("sew", losses.MARGIN_BOUNDS),
    "mcm": Objective("cmpm-cmpc", captions="modelled"),
    "sew-mcm": Objective("sew", losses.MARGIN_BOUNDS, "modelled"),
    "mask-only": Objective("cmpm-cmpc", captions="masked"),
    "mcm-without-image": Objective("cmpm-cmpc", captions="modelled-without-image"),
    "infonce": Objective("infonce"),
    "infonce-mcm": Objective("infonce", captions="modelled"),
}
"""By the name that the experiment and the command line know."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a run learns, besides objective, data and seed. Chosen on val."""

    epochs: int = 16
    batch: int = 128
    images_per_identity: int = 4
    """Pictures of one person in a batch; 1 draws pictures without regard to persons."""
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    warmup_steps: int = 40
    token_dropout: float = 0.1
    average_decay: float = 0.98
    dropout: float = 0.1
    width: int = 64
    num_layers: int = 1
    """Of each head's transformer."""
    text_bands: int = 1
    media_bands: int = 4
    identity_weight: float = 1.0
    """Of CMPC, or of the identity loss of Sew."""
    modelling_weight: float = 1.0
    """λ2 of Sew + MCM eq. 12."""
    matches_masked: bool = False
    """Whether the matching loss, too, reads the captions with hidden words (algorithm 1); else it reads them whole."""
    phrase_weight: float = 0.0
    """Of the side task of :mod:`lab.training.alignment_heads`."""


_PLAIN: Final = Recipe()
_SEW: Final = replace(_PLAIN, images_per_identity=1)
RECIPES: Final[dict[str, Recipe]] = {
    "cmpm-cmpc": _PLAIN,
    "cmpm-cmpc-shuffled": _SEW,
    "sew-fixed": _SEW,
    "sew-adaptive": _SEW,
    "mcm": replace(_PLAIN, modelling_weight=3.0),
    "sew-mcm": replace(_SEW, modelling_weight=10.0),
    "mask-only": _PLAIN,
    "mcm-without-image": replace(_PLAIN, modelling_weight=3.0),
    "infonce": _SEW,
    "infonce-mcm": replace(_SEW, modelling_weight=3.0),
}
"""Chosen on val. All train the same heads with the same data, epochs and rate; batches are what suits the loss.

CMPM + CMPC gains from batches of whole persons; Sew, whose pull then drives a person's pictures apart, loses.
"""


class Pair(HeadPair):
    """Both heads and everything that only training needs."""

    text_norm: nn.BatchNorm1d
    media_norm: nn.BatchNorm1d

    def __init__(self, train: SplitData, objective: Objective, recipe: Recipe, words: int) -> None:
        shape = {"width": recipe.width, "num_layers": recipe.num_layers, "dropout": recipe.dropout}
        text, media = train.text.values, train.media.values
        super().__init__(
            new_head(text, max_tokens=MAX_TOKENS, pooled_bands=recipe.text_bands, **shape),
            new_head(media, max_tokens=64, pooled_bands=recipe.media_bands, **shape),
        )
        self.text_norm = nn.BatchNorm1d(FEATURE_DIM)
        self.media_norm = nn.BatchNorm1d(FEATURE_DIM)
        identities = int(train.identity.max()) + 1
        self.identities = nn.Parameter(torch.randn(FEATURE_DIM, identities) * 0.05)
        self.phrases: nn.Linear | None = None
        if recipe.phrase_weight:
            self.phrases = nn.Linear(FEATURE_DIM, phrase_targets(train.items).shape[1])
        self.decoder: MaskedCaptionDecoder | None = None
        if objective.captions.startswith("modelled"):
            self.decoder = MaskedCaptionDecoder(
                self.text.config.width, words, sees_image=objective.captions == "modelled"
            )
        # What the text head reads in a hidden word's place (section 3.2: "a learnable token vector").
        self.hidden_word = nn.Parameter(torch.zeros(self.text.config.in_dim))


@dataclass(frozen=True, slots=True)
class _Batch:
    """``picked`` items [n] with a caption each: standardised tokens, whose they are, and the captions' lengths."""

    picked: torch.Tensor
    identity: torch.Tensor
    lengths: torch.Tensor
    media: Tokens
    whole: Tokens
    masked: Tokens | None
    """The captions with hidden words, which are ``words`` [n, num_tokens], −1 where seen."""
    words: torch.Tensor | None


class _Training:
    """Data and objective of one run."""

    def __init__(self, objective: Objective, recipe: Recipe, corpus: Corpus) -> None:
        self.objective = objective
        self.recipe = recipe
        self.data = split_data(corpus, "train")
        self.masked: MaskedCaptions | None = None
        if objective.captions != "whole":
            self.masked = masked_captions([c for i in self.data.items for c in i.captions])
        self.captions = captions_of(self.data)
        # [CLS] and [SEP] are no words.
        self.lengths = self.data.text.offsets.diff() - 2
        self.shortest, self.longest = (
            float(np.quantile(self.lengths.numpy(), share)) for share in LENGTH_QUANTILES
        )
        self.phrases = phrase_targets(self.data.items) if recipe.phrase_weight else None
        words = len(self.masked.vocabulary) if self.masked else 0
        self.pair = Pair(self.data, objective, recipe, words)
        # Standardised once, not at each step.
        self.text = _standardised(self.pair.text, self.data.text)
        self.media = _standardised(self.pair.media, self.data.media)
        if self.masked:
            features = _standardised(self.pair.text, self.masked.features)
            self.masked = replace(self.masked, features=features)

    def steps_an_epoch(self) -> int:
        return max(1, len(self.data.items) // self.recipe.batch)

    def batches(self, _epoch: int) -> Iterator[_Batch]:
        """One epoch of batches, each item at most once."""
        order = _order(self.data.identity, self.recipe.images_per_identity)
        for step in range(self.steps_an_epoch()):
            yield self._batch(order[step * self.recipe.batch : (step + 1) * self.recipe.batch])

    def _batch(self, picked: torch.Tensor) -> _Batch:
        chosen = torch.stack(
            [self.captions[n][torch.randint(len(self.captions[n]), ())] for n in picked.tolist()]
        )
        masked, words = self.masked.batch(chosen) if self.masked else (None, None)
        return _Batch(
            picked=picked,
            identity=self.data.identity[picked],
            lengths=self.lengths[chosen],
            media=self.media.batch(picked),
            whole=self.text.batch(chosen),
            masked=masked,
            words=words,
        )

    def loss(self, batch: _Batch) -> torch.Tensor:
        pair = self.pair
        raw_media, media_states, media_mask = self._passed(pair.media, batch.media)
        raw_text, named = None, None
        if batch.masked is not None and batch.words is not None:
            hidden = batch.words >= 0
            values = torch.where(hidden[..., None], pair.hidden_word, batch.masked.values)
            raw_text, states, mask = self._passed(pair.text, Tokens(values, batch.masked.mask))
            if pair.decoder is not None:
                logits = pair.decoder(states, mask, media_states, media_mask, hidden)
                named = F.cross_entropy(logits, batch.words[hidden])
        matches_masked = self.recipe.matches_masked or self.objective.captions == "masked"
        if raw_text is None or not matches_masked:
            raw_text, _, _ = self._passed(pair.text, batch.whole)
        total = self._matching(pair.media_norm(raw_media), pair.text_norm(raw_text), batch)
        if named is not None:
            total = total + self.recipe.modelling_weight * named
        if pair.phrases is not None and self.phrases is not None:
            named = F.binary_cross_entropy_with_logits(
                pair.phrases(raw_media), self.phrases[batch.picked]
            )
            total = total + self.recipe.phrase_weight * 10.0 * named
        return total

    def _passed(
        self, head: Head, tokens: Tokens
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Raw feature, token states, and which tokens are left after dropout."""
        mask = thinned(tokens.mask, self.recipe.token_dropout)
        return *_raw_and_states(head, tokens.values, mask), mask

    def _matching(self, media: torch.Tensor, text: torch.Tensor, batch: _Batch) -> torch.Tensor:
        pair, identity, weights = self.pair, batch.identity, self.pair.identities
        match self.objective.matching:
            case "cmpm-cmpc":
                by_identity = losses.cmpc(media, text, identity, weights)
                matched = losses.cmpm(media, text, identity)
            case "sew":
                margin = losses.adaptive_margin(
                    batch.lengths, self.shortest, self.longest, self.objective.margin_bounds
                )
                alpha = self.objective.alpha
                by_identity = losses.sew_identity(media, text, identity, weights, margin, alpha)
                matched = losses.sew_match(media, text, identity, margin, alpha)
            case "infonce":
                scores = pair.logits(F.normalize(text, dim=1), F.normalize(media, dim=1))
                return losses.contrastive_loss(scores, identity[:, None] == identity[None, :])
        return matched + self.recipe.identity_weight * by_identity


def run(
    objective: str,
    seed: int = 0,
    *,
    out: Path,
    corpus: Corpus | None = None,
    recipe: Recipe | None = None,
    measure_test: bool = False,
) -> dict[str, Any]:
    """Train and write ``out/heads-person.safetensors`` and ``.json``; returns the scores.

    ``objective``: a name in :data:`OBJECTIVES`; InvalidField otherwise. An interrupted run goes on after its last whole
    epoch. ``scores["val"]``, and ``scores["test"]`` with ``measure_test``:
    :func:`lab.training.alignment_heads.evaluate` of the heads as stored; ``scores["val_before_norm"]``: had inference
    read the features before the batch normalisation.
    """
    if objective not in OBJECTIVES:
        raise InvalidField(
            f"objective is {objective!r}, allowed: {', '.join(OBJECTIVES)}", field="objective"
        )
    recipe = recipe or RECIPES[objective]
    corpus = corpus or corpus_named(default_corpus("person"))
    torch.manual_seed(seed)
    training = _Training(OBJECTIVES[objective], recipe, corpus)
    checkpoint = Checkpoint(
        f"person-{objective}", __name__, asdict(recipe), describe_data(corpus), seed
    )
    config = TrainerConfig.from_recipe(
        recipe,
        title=f"{objective}, seed {seed}",
        num_steps=training.steps_an_epoch() * recipe.epochs,
        seed=seed,
        decayed_ndim=2,
    )
    trained = train(training.pair, training.batches, training.loss, config, checkpoint=checkpoint)
    average = trained.module
    heads = {
        "text": folded(average.text, average.text_norm),
        "media": folded(average.media, average.media_norm),
    }
    # As shipped: the rounding to eight bits is part of what is measured.
    for head in heads.values():
        head.load_state_dict(unpack(pack(head.state_dict())))
    val = split_data(corpus, "val")
    scores: dict[str, Any] = {
        "val": evaluate(heads["text"], heads["media"], val),
        "val_before_norm": evaluate(average.text, average.media, val),
    }
    if measure_test:
        test = split_data(corpus, "test")
        scores["test"] = evaluate(heads["text"], heads["media"], test)
    about = {
        "command": f"semlink train person --objective {objective}"
        + (f" --seed {seed}" if seed else ""),
        "data": describe_data(corpus),
        "objective": asdict(OBJECTIVES[objective]),
        "recipe": asdict(recipe),
        "seed": seed,
        "caption_length_bounds": [training.shortest, training.longest],
    }
    save_heads(out / "heads-person.safetensors", heads, about, scores, trained)
    checkpoint.remove()
    return scores


@torch.no_grad()
def folded(head: Head, norm: nn.BatchNorm1d) -> Head:
    """A head whose raw feature is ``norm`` of the given head's, with the statistics that ``norm`` has gathered."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("the batch normalisation has gathered no statistics")
    result = copy.deepcopy(head).eval()
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    result.out.weight.mul_(gain[:, None])
    result.out.bias.sub_(norm.running_mean).mul_(gain).add_(norm.bias)
    if result.skip is not None:
        (linear,) = (part for part in result.skip.modules() if isinstance(part, nn.Linear))
        linear.weight.mul_(gain[:, None])
        linear.bias.mul_(gain)
    return result


@torch.no_grad()
def _standardised(head: Head, features: FrozenFeatures) -> FrozenFeatures:
    """What the head makes of the values before it does anything else, float16 like they are."""
    values = torch.empty_like(features.values)
    for start in range(0, len(values), _CHUNK_TOKENS):
        part = features.values[start : start + _CHUNK_TOKENS].float()[:, None]
        ones = torch.ones(part.shape[:2], dtype=torch.bool)
        values[start : start + _CHUNK_TOKENS] = head.standardised(part, ones)[0][:, 0]
    return FrozenFeatures(values, features.offsets)


def _raw_and_states(
    head: Head, values: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A feature before normalisation and the token states it is pooled from, of standardised tokens, in one pass."""
    states: list[torch.Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        states.append(output)

    hook = head.norm.register_forward_hook(keep)
    raw = head.raw_of_standardised(values, mask)
    hook.remove()
    return raw, states[0]


def _order(identity: torch.Tensor, images_per_identity: int) -> torch.Tensor:
    """A random order of all items in which items of an identity stand together in groups of at most so many."""
    shuffled = torch.randperm(len(identity))
    if images_per_identity == 1:
        return shuffled
    groups: list[torch.Tensor] = []
    for person in range(int(identity.max()) + 1):
        own = shuffled[identity[shuffled] == person]
        groups += torch.split(own, images_per_identity)
    return torch.cat([groups[n] for n in torch.randperm(len(groups)).tolist()])
