"""Train heads with prototypes (GPA), and the baseline they are measured against: ``semlink train gpa --task audio``.

Every row of the paper's tables is a :class:`GpaRecipe`: how a pair is scored (*dp*, the global cosine alone, or one of
the aggregators over prototypes), how prototypes are made, how many, and the loss. Data, epochs, batches, encoder,
regularisation, side task (naming the words of an item's captions from its media feature) and the choice of the epoch
are the same for all rows; the learning rate is each scoring's own, chosen on val. A step sees one caption of each item,
so a clip's other captions are never negatives. The weights are an exponential mean over steps.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from lab.features import FrozenFeatures
from lab.progress import progress
from lab.train_heads import contrastive_loss
from lab.training import (
    SplitData,
    describe_data,
    learning_rate_factor,
    phrase_targets,
    rounded,
    save_weights,
    split_data,
)
from semlink.corpora.corpus import Corpus
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.errors import InvalidField
from semlink.models import cache_dir
from semlink.semantics.eight_bits import pack, unpack
from semlink.semantics.heads import FEATURE_DIM, Head, HeadConfig
from semlink.semantics.metrics import retrieval_metrics
from semlink.semantics.prototypes import (
    Aggregator,
    Generator,
    PrototypeConfig,
    PrototypeHead,
    PrototypeScorer,
)
from semlink.semantics.text import MAX_TOKENS
from semlink.semantics.tokens import Tokens
from semlink.settings import Settings

Scoring = Literal["dp", "mean", "softmax", "lass"]
Loss = Literal["nt-xent", "triplet-sum"]
VERSION: Final = 1
"""Raised whenever the same recipe, data and seed would train another model."""
LEARNING_RATES: Final[dict[tuple[str, str], float]] = {
    ("dp", "nt-xent"): 2e-3,
    ("dp", "triplet-sum"): 2e-3,
    ("gpa", "nt-xent"): 2e-3,
    ("gpa", "triplet-sum"): 2e-3,
}
"""Chosen on val for the baseline and for prototypes, for each loss."""
_TEXT_GROUPS: Final = 3
"""Captions of a step, sorted by length, run in so many groups: a third of the tokens of one batch are padding."""


@dataclass(frozen=True, slots=True)
class GpaRecipe:
    """Everything that decides what a run learns, besides data and seed. Raises InvalidField for an unknown name."""

    scoring: Scoring = "lass"
    generator: Generator = "mask"
    num_prototypes: int = 3
    loss: Loss = "nt-xent"
    learning_rate: float = 2e-3
    epochs: int = 8
    batch: int = 128
    weight_decay: float = 0.05
    warmup_steps: int = 40
    token_dropout: float = 0.1
    phrase_weight: float = 0.5
    average_decay: float = 0.98
    dropout: float = 0.15
    max_media_tokens: int = 64
    media_input_dropout: float = 0.2
    text_bands: int = 1
    media_bands: int = 2
    margin: float = 0.2
    """Of triplet-sum, eq. 11."""
    temperature: float = 0.07
    """Where the learned temperature of NT-Xent, eq. 12, starts: the paper's."""

    def __post_init__(self) -> None:
        for name, kind in (("scoring", Scoring), ("loss", Loss)):
            if getattr(self, name) not in get_args(kind):
                raise InvalidField(
                    f"{name} is {getattr(self, name)!r}, allowed: {', '.join(get_args(kind))}",
                    field=name,
                )

    @property
    def prototypes(self) -> PrototypeConfig | None:
        """Shape of the prototypes; None for the baseline, which has none."""
        if self.scoring == "dp":
            return None
        aggregator: Aggregator = self.scoring
        return PrototypeConfig(
            num_prototypes=self.num_prototypes, generator=self.generator, aggregator=aggregator
        )


class GpaModel(nn.Module):
    """Both heads, the scorer (None for *dp*), the temperature and the side task's classifier."""

    def __init__(
        self,
        text: HeadConfig,
        media: HeadConfig,
        prototypes: PrototypeConfig | None,
        num_phrases: int,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.scorer: PrototypeScorer | None = None
        if prototypes is None:
            self.text, self.media = Head(text), Head(media)
        else:
            self.text = PrototypeHead(text, prototypes)
            self.media = PrototypeHead(media, prototypes)
            self.scorer = PrototypeScorer(prototypes)
        self.log_scale = nn.Parameter(torch.tensor(1.0 / temperature).log())
        self.phrases = nn.Linear(FEATURE_DIM, num_phrases)

    def scores(self, text: torch.Tensor, media: torch.Tensor) -> torch.Tensor:
        """Scores of all pairs: components ``[q, m, 256]`` of texts and ``[n, 1 + K, 256]`` of media to ``[q, n]``."""
        if self.scorer is None:
            return text[:, 0] @ media[:, 0].T
        return self.scorer.score(text, media)


@dataclass(frozen=True, slots=True)
class Components:
    """Components of a split's captions ``[num_captions, 1 + K, 256]``, items ``[num_items, 1 + K, 256]``; float32."""

    text: torch.Tensor
    media: torch.Tensor


def trained(
    recipe: GpaRecipe, corpus: Corpus, seed: int, *, val: SplitData | None = None
) -> tuple[GpaModel, dict[str, Any]]:
    """The model of a recipe, from the cache or trained now, and what its sidecar says (``scores.val``, ``history``).

    Weights are rounded to eight bits, as shipped ones are. An interrupted run goes on after its last whole epoch.
    """
    path = _model_path(recipe, corpus, seed)
    train = split_data(corpus, "train")
    if not path.is_file():
        _train(recipe, corpus, seed, train, val or split_data(corpus, "val"), path)
    model = _new_model(train, recipe)
    model.load_state_dict(unpack(load_file(path)))
    sidecar: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return model.eval().requires_grad_(False), sidecar


def is_trained(recipe: GpaRecipe, corpus: Corpus, seed: int) -> bool:
    """Whether :func:`trained` finds the model in the cache."""
    return _model_path(recipe, corpus, seed).is_file()


def run(
    task: str = "audio",
    *,
    seed: int = 0,
    out: Path | None = None,
    recipe: GpaRecipe | None = None,
    corpus: Corpus | None = None,
    measure_test: bool = False,
) -> dict[str, Any]:
    """Train heads with prototypes and write ``out/heads-{task}.safetensors`` and ``.json``; returns the scores.

    ``out`` defaults to the weights directory. The scorer lies in the same file, and its shape in the metadata.
    """
    recipe = recipe or GpaRecipe()
    corpus = corpus or corpus_named(default_corpus(task))
    model, sidecar = trained(recipe, corpus, seed)
    scores = dict(sidecar["scores"])
    if measure_test:
        scores["test"] = rounded(evaluate(model, split_data(corpus, "test")))
    tensors = {
        f"{part}.{name}": tensor
        for part, module in (("text", model.text), ("media", model.media), ("scorer", model.scorer))
        if module is not None
        for name, tensor in module.state_dict().items()
    }
    configs = {"text": model.text.config.as_dict(), "media": model.media.config.as_dict()}
    if recipe.prototypes is not None:
        configs["prototypes"] = recipe.prototypes.as_dict()
    save_weights(
        (out or Settings().weights_dir) / f"heads-{task}.safetensors",
        pack(tensors),
        {"configs": json.dumps(configs)},
        {
            "command": f"semlink train gpa --task {task}" + (f" --seed {seed}" if seed else ""),
            **sidecar,
            "scores": scores,
        },
    )
    return scores


def evaluate(model: GpaModel, data: SplitData) -> dict[str, dict[str, float]]:
    """Two-way retrieval metrics of a split over the ideal link, scored as the model was trained; no Sinkhorn bias."""
    found = components_of_split(model, data)
    return two_way(score_matrix(model.scorer, found.text, found.media), data)


@torch.inference_mode()
def components_of(head: Head, features: FrozenFeatures, batch: int = 128) -> torch.Tensor:
    """Components of all inputs, ``[n, 1 + K, 256]``; K is 0 for a plain head."""
    head.eval()
    order = features.offsets.diff().argsort()
    parts = []
    for rows in torch.split(order, batch):
        tokens = gathered(features, rows)
        parts.append(_components(head, Tokens(*head.standardised(tokens.values, tokens.mask)))[0])
    return torch.cat(parts)[order.argsort()]


def components_of_split(model: GpaModel, data: SplitData) -> Components:
    """Components of a split's captions and items (first takes only)."""
    return Components(components_of(model.text, data.text), components_of(model.media, data.media))


@torch.inference_mode()
def score_matrix(
    scorer: PrototypeScorer | None, text: torch.Tensor, media: torch.Tensor, chunk: int = 250
) -> torch.Tensor:
    """Scores ``[num_texts, num_items]`` of components, in chunks of texts."""
    if scorer is None:
        return text[:, 0] @ media[:, 0].T
    return torch.cat([scorer.score(part, media) for part in torch.split(text, chunk)])


def two_way(scores: torch.Tensor, data: SplitData) -> dict[str, dict[str, float]]:
    """Metrics of scores ``[num_captions, num_items]``: text→media, and media→text with the best of its captions."""
    owner, identity = data.caption_item, data.identity
    relevant = identity[owner][:, None] == identity[None, :]
    own = owner[None, :] == torch.arange(len(identity))[:, None]
    return {
        "text_to_media": retrieval_metrics(scores.numpy(), relevant.numpy()),
        "media_to_text": retrieval_metrics(scores.T.numpy(), own.numpy()),
    }


def gathered(features: FrozenFeatures, rows: torch.Tensor) -> Tokens:
    """Those inputs as one padded float32 batch, in one gather; what is padding is masked, not zero."""
    starts = features.offsets[rows]
    lengths = features.offsets[rows + 1] - starts
    place = torch.arange(int(lengths.max()))
    mask = place < lengths[:, None]
    tokens = torch.where(mask, starts[:, None] + place, starts[:, None])
    return Tokens(features.values[tokens].float(), mask)


def triplet_sum_loss(scores: torch.Tensor, margin: float) -> torch.Tensor:
    """Eq. 11: ``1/B Σ_i Σ_{j≠i} [m + R_ij − R_ii]₊ + [m + R_ji − R_ii]₊`` of scores ``[B, B]``."""
    own = scores.diagonal()
    others = ~torch.eye(len(scores), dtype=torch.bool)
    rows = (margin + scores - own[:, None]).relu()[others]
    columns = (margin + scores - own[None, :]).relu()[others]
    return (rows.sum() + columns.sum()) / len(scores)


class _WordDropout(nn.Module):
    """Dropout whose mask is drawn eight elements at a time; the share is rounded to 1/256.

    Drawing single floats for 5 million inputs took a fifth of a step.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.level = round(share * 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.level == 0:
            return x
        words = torch.randint(-(2**63), 2**63 - 1, (-(-x.numel() // 8),))
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.level
        return x * torch.where(kept, 256.0 / (256 - self.level), 0.0)


def _new_model(train: SplitData, recipe: GpaRecipe) -> GpaModel:
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
    return GpaModel(
        text, media, recipe.prototypes, phrase_targets(train.items).shape[1], recipe.temperature
    )


def _standardise(model: GpaModel, train: SplitData) -> SplitData:
    """Set the heads' means and deviations; the split's data standardised by them, so that no step has to."""
    standard = {}
    for side, head, features in (
        ("text", model.text, train.text),
        ("media", model.media, train.media),
    ):
        sample = features.values[:: max(1, len(features.values) // 50_000)].float()
        head.mean.copy_(sample.mean(0))
        head.deviation.copy_(sample.std(0).clamp_min(1e-3))
        # As inputs of one token each, which a head does not cut.
        parts = [
            head.standardised(part[:, None].float(), torch.ones(len(part), 1, dtype=torch.bool))[0]
            for part in torch.split(features.values, 16_384)
        ]
        values = torch.cat([part[:, 0].to(features.values.dtype) for part in parts])
        standard[side] = replace(features, values=values)
    return replace(train, text=standard["text"], media=standard["media"])


def _with_fast_dropout(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, _WordDropout(child.p))


def _components(head: Head, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Of standardised tokens: components ``[batch, 1 + K, 256]`` and the global feature before normalisation."""
    if isinstance(head, PrototypeHead):
        return head.components_and_raw(tokens.values, tokens.mask)
    raw = head.raw_of_standardised(tokens.values, tokens.mask)
    return F.normalize(raw, dim=-1)[:, None], raw


def _loss(
    model: GpaModel,
    train: SplitData,
    captions: torch.Tensor,
    picked: torch.Tensor,
    targets: torch.Tensor,
    recipe: GpaRecipe,
) -> torch.Tensor:
    order = (train.text.offsets[captions + 1] - train.text.offsets[captions]).argsort()
    groups = [
        _components(
            model.text, _thinned(gathered(train.text, captions[rows]), recipe.token_dropout)
        )[0]
        for rows in order.tensor_split(_TEXT_GROUPS)
    ]
    text = torch.cat(groups)[order.argsort()]
    media, raw = _components(
        model.media, _thinned(gathered(train.media, picked), recipe.token_dropout)
    )
    scores = model.scores(text, media)
    if recipe.loss == "triplet-sum":
        main = triplet_sum_loss(scores, recipe.margin)
    else:
        scale = model.log_scale.clamp(max=float(np.log(100.0))).exp()
        positive = train.identity[picked][:, None] == train.identity[picked][None, :]
        main = contrastive_loss(scale * scores, positive)
    named = F.binary_cross_entropy_with_logits(model.phrases(raw), targets[picked])
    return main + recipe.phrase_weight * 10.0 * named


def _thinned(tokens: Tokens, share: float) -> Tokens:
    """The tokens with a share of them hidden; the first is always kept."""
    kept = torch.rand(tokens.mask.shape) >= share
    kept[:, 0] = True
    return Tokens(tokens.values, tokens.mask & kept)


def _train(
    recipe: GpaRecipe,
    corpus: Corpus,
    seed: int,
    train: SplitData,
    val: SplitData,
    path: Path,
) -> None:
    torch.manual_seed(seed)
    model = _new_model(train, recipe)
    train = _standardise(model, train)
    average = copy.deepcopy(model).eval()
    _with_fast_dropout(model)
    targets = phrase_targets(train.items)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
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
    first_caption = torch.tensor([0, *np.cumsum([len(i.captions) for i in train.items])])
    stored = path.with_suffix(".part.pt")
    first, history, seconds = 0, [], 0.0
    best, best_score = average.state_dict(), -1.0
    if stored.is_file():
        state = torch.load(stored, weights_only=True)
        first, history, seconds = state["epoch"], state["history"], state["seconds"]
        best, best_score = state["best"], state["best_score"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
    started = time.process_time()
    title = (
        f"{recipe.scoring} {recipe.loss} {recipe.generator} K={recipe.num_prototypes} seed {seed}"
    )
    with progress() as bar:
        line = bar.add_task(title, total=num_steps, completed=first * steps_an_epoch)
        for epoch in range(first, recipe.epochs):
            # A stream of its own for each epoch: a resumed run draws what the whole one would have drawn.
            torch.manual_seed(seed * 100_003 + epoch)
            order = torch.randperm(len(train.items))
            model.train()
            losses = []
            for picked in torch.split(order[: steps_an_epoch * recipe.batch], recipe.batch):
                count = first_caption[picked + 1] - first_caption[picked]
                captions = first_caption[picked] + (torch.rand(len(picked)) * count).long()
                loss = _loss(model, train, captions, picked, targets, recipe)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                with torch.no_grad():
                    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
                        mean.lerp_(value, 1.0 - recipe.average_decay)
                losses.append(loss.item())
                bar.advance(line)
            row: dict[str, float] = {"epoch": epoch, "loss": float(np.mean(losses))}
            # The mean of the weights lags in the first half, which never holds the best epoch.
            if epoch >= recipe.epochs // 2:
                scores = evaluate(average, val)
                row["val_text_to_media"] = scores["text_to_media"]["r_at_1"]
                row["val_media_to_text"] = scores["media_to_text"]["r_at_1"]
                score = sum(way["r_at_1"] + way["map"] for way in scores.values())
                if score > best_score:
                    best, best_score = copy.deepcopy(average.state_dict()), score
            history.append(row)
            bar.print(title + ": " + " ".join(f"{k} {v:.4g}" for k, v in row.items()))
            stored.parent.mkdir(parents=True, exist_ok=True)
            temporary = stored.with_suffix(".new")
            torch.save(
                {
                    "epoch": epoch + 1,
                    "history": history,
                    "seconds": seconds + time.process_time() - started,
                    "best": best,
                    "best_score": best_score,
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                },
                temporary,
            )
            temporary.replace(stored)
    average.load_state_dict(unpack(pack(best)))
    sidecar = {
        "recipe": asdict(recipe),
        "data": describe_data(corpus),
        "seed": seed,
        "logit_scale": round(average.log_scale.exp().item(), 3),
        "scores": rounded({"val": evaluate(average, val)}),
        "history": [rounded(row) for row in history],
        "cpu_seconds": round(seconds + time.process_time() - started),
    }
    path.with_suffix(".json").write_text(json.dumps(sidecar, indent=1) + "\n")
    whole = path.with_suffix(".new.safetensors")
    save_file(pack(best), whole)
    whole.replace(path)
    stored.unlink(missing_ok=True)


def _model_path(recipe: GpaRecipe, corpus: Corpus, seed: int) -> Path:
    key = json.dumps([VERSION, asdict(recipe), describe_data(corpus), seed], sort_keys=True)
    digest = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    return cache_dir() / "gpa" / f"{corpus.info.name}-{recipe.scoring}-{digest}.safetensors"
