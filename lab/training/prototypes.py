"""Add prototypes (GPA) to a task's heads, and train the baseline they are measured against: ``semlink train gpa``.

Every row of the paper's tables is a :class:`GpaRecipe`: how a pair is scored (*dp*, the global cosine alone, or one of
the aggregators over prototypes), how prototypes are made, how many, and the loss. All rows start from the plain heads
of ``semlink train heads``, as the paper starts from pre-trained encoders. Their transformers stay frozen (ours: two
cores train three dozen rows); what stands on them is trained on: the pooling and the linear paths of the global feature
in every row, and prototypes and scorer where there are any. Data, epochs, batches, regularisation, side task (naming
the words of an item's captions from its media feature) and the choice of the epoch are the same for all rows; the
learning rate is chosen on val for the baseline and for GPA apart. A step sees one caption of each item, so a clip's
other captions are never negatives. The weights are an exponential mean over steps.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from lab.evaluation.cache import Cache, key_of, write_whole
from lab.evaluation.parallel import one_thread
from lab.training import alignment_heads
from lab.training.alignment_heads import thinned
from lab.training.checkpoint import Checkpoint, rounded, save_weights
from lab.training.data import SplitData, describe_data, phrase_targets, split_data, two_way
from lab.training.features import FrozenFeatures
from lab.training.losses import contrastive_loss, triplet_sum_loss
from lab.training.trainer import TrainerConfig, Validation, train
from semlink.corpora.corpus import Corpus, Split
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.corpora.soundscapes import Soundscapes
from semlink.errors import InvalidField
from semlink.progress import track
from semlink.semantics.encoders import heads_path, num_components, read_heads
from semlink.semantics.heads import FEATURE_DIM, Head
from semlink.semantics.int8_tensors import pack, unpack
from semlink.semantics.prototypes import (
    Aggregator,
    Generator,
    PrototypeConfig,
    PrototypeHead,
    PrototypeScorer,
    Side,
)
from semlink.semantics.spaces import weights_folder

Scoring = Literal["dp", "mean", "softmax", "lass"]
Loss = Literal["nt-xent", "triplet-sum"]
Start = Literal["plain", "installed"]
CACHE: Final = Cache("gpa", __name__)
LEARNING_RATES: Final[dict[tuple[str, str], float]] = {
    ("dp", "nt-xent"): 3e-3,
    ("dp", "triplet-sum"): 3e-3,
    ("gpa", "nt-xent"): 1e-3,
    ("gpa", "triplet-sum"): 1e-3,
}
"""Chosen on val for the baseline and for prototypes, for each loss."""
NUM_ITEMS: Final[dict[Split, int]] = {"train": 3_000, "val": 1_000, "test": 1_000}
"""Of soundscapes, see :func:`corpus_of`."""
SIDES: Final[tuple[Side, ...]] = get_args(Side)
_ENCODER: Final = ("mean", "deviation", "project.", "positions", "layers.", "norm.")
"""What the names of a head's frozen tensors start with."""


@dataclass(frozen=True, slots=True)
class GpaRecipe:
    """Everything that decides what a run learns, besides data, heads and seed. Raises InvalidField for a bad name."""

    scoring: Scoring = "lass"
    generator: Generator = "mask"
    num_prototypes: int = 3
    frozen_tokens: bool = True
    loss: Loss = "nt-xent"
    learning_rate: float = 1e-3
    epochs: int = 12
    batch: int = 128
    weight_decay: float = 0.05
    warmup_steps: int = 40
    token_dropout: float = 0.1
    state_dropout: float = 0.1
    phrase_weight: float = 0.5
    average_decay: float = 0.98
    global_weight: float = 1.0
    """Ours: weight of the same loss of the global cosines alone, beside that of eq. 9's scores. Chosen on val: without
    it the global feature, all that a short message carries, ranks worse, and so does the sum. The baseline has none.
    """
    margin: float = 0.2
    """Of triplet-sum, eq. 11."""
    temperature: float = 0.07
    """Where the learned temperature of NT-Xent, eq. 12, starts: the paper's."""
    start: Start = "plain"
    """Heads that training starts from: plain ones, or the installed ones less their prototypes, whose frozen part is
    the same: a start for smoke runs, where no plain heads are trained first."""

    def __post_init__(self) -> None:
        for name, kind in (("scoring", Scoring), ("loss", Loss), ("start", Start)):
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
            num_prototypes=self.num_prototypes,
            generator=self.generator,
            aggregator=aggregator,
            frozen_tokens=self.frozen_tokens,
        )


SHIPPED: Final = GpaRecipe()
"""Chosen on val."""


@dataclass(frozen=True, slots=True)
class States:
    """What the frozen part of a head makes of ``n`` inputs: ``tokens``, ragged ``[total, width]``, and ``pooled``.

    ``pooled``: float16 ``[n, (pooled_bands + 1)·in_dim]`` (:meth:`Head.pooled`).
    """

    tokens: FrozenFeatures
    pooled: torch.Tensor
    frozen: torch.Tensor
    """The standardised tokens themselves, float16 ``[total, in_dim]``."""

    def __len__(self) -> int:
        return len(self.pooled)

    def batch(
        self, rows: torch.Tensor, *, frozen: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Padded states ``[batch, num_tokens, width]``, mask, pooled tokens, and the tokens if ``frozen``; float32."""
        starts = self.tokens.offsets[rows]
        lengths = self.tokens.offsets[rows + 1] - starts
        place = torch.arange(int(lengths.max()))
        mask = place < lengths[:, None]
        tokens = torch.where(mask, starts[:, None] + place, starts[:, None])
        values = self.frozen[tokens].float() if frozen else None
        return self.tokens.values[tokens].float(), mask, self.pooled[rows].float(), values


@dataclass(frozen=True, slots=True)
class EncodedSplit:
    """The states of a split's captions and items, and what belongs to what."""

    data: SplitData
    text: States
    media: States


class GpaModel(nn.Module):
    """Both heads, the scorer (None for *dp*), the temperature and the side task's classifier."""

    def __init__(
        self,
        heads: Mapping[str, Head],
        prototypes: PrototypeConfig | None,
        num_phrases: int,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.scorer: PrototypeScorer | None = None
        self.text, self.media = (_on_top(heads[side], prototypes) for side in SIDES)
        if prototypes is not None:
            self.scorer = PrototypeScorer(prototypes)
        self.log_scale = nn.Parameter(torch.tensor(1.0 / temperature).log())
        self.phrases = nn.Linear(FEATURE_DIM, num_phrases)
        for head in (self.text, self.media):
            for name, parameter in head.named_parameters():
                parameter.requires_grad_(not name.startswith(_ENCODER))

    def scores(self, text: torch.Tensor, media: torch.Tensor) -> torch.Tensor:
        """Scores of all pairs: components ``[q, m, 256]`` of texts and ``[n, 1 + K, 256]`` of media to ``[q, n]``."""
        if self.scorer is None:
            return text[:, 0] @ media[:, 0].T
        return self.scorer.score(text, media)


@dataclass(frozen=True, slots=True)
class Components:
    """Components of a split's captions ``[captions, 1 + K, 256]`` and items ``[items, 1 + K, 256]``, float32."""

    text: torch.Tensor
    media: torch.Tensor


def run(
    task: str = "audio",
    *,
    seed: int = 0,
    out: Path | None = None,
    recipe: GpaRecipe | None = None,
    corpus: Corpus | None = None,
    measure_test: bool = False,
) -> dict[str, Any]:
    """Train prototypes on plain heads; write ``out/heads-{task}.safetensors`` and ``.json``, return the scores.

    ``out`` defaults to the weights directory. The frozen part is copied as stored. The scorer lies in the same file,
    its shape in the metadata.
    """
    recipe = recipe or SHIPPED
    corpus = corpus or corpus_of(task)
    model, sidecar = trained(recipe, corpus, seed)
    scores = dict(sidecar["scores"])
    if measure_test:
        scores["test"] = rounded(evaluate(model, encoded(corpus, "test")))
    tensors = stored_encoder(task)
    for part, module in (("text", model.text), ("media", model.media), ("scorer", model.scorer)):
        if module is not None:
            state = {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
            tensors |= {
                name: tensor
                for name, tensor in pack(state).items()
                if part == "scorer" or not name.removeprefix(f"{part}.").startswith(_ENCODER)
            }
    configs = {"text": model.text.config.as_dict(), "media": model.media.config.as_dict()}
    if recipe.prototypes is not None:
        configs["prototypes"] = recipe.prototypes.as_dict()
    before = json.loads(plain_heads(task).with_suffix(".json").read_text())
    save_weights(
        (out or weights_folder(task)) / f"heads-{task}.safetensors",
        tensors,
        {"configs": json.dumps(configs)},
        {
            "command": f"semlink train gpa --task {task}" + (f" --seed {seed}" if seed else ""),
            **sidecar,
            "scores": scores,
            "encoder": before,
        },
    )
    return scores


def corpus_of(task: str, num_items: Mapping[Split, int] | None = None) -> Corpus:
    """The task's embedded corpus; soundscapes with as many clips in val as in test, on which all choices are made.

    Its own 300 would leave 3 points of noise in R@1 from sound to text. ``num_items``: other numbers of soundscapes.
    """
    name = default_corpus(task)
    return (
        Soundscapes(num_items={**NUM_ITEMS, **(num_items or {})})
        if name == "soundscapes"
        else corpus_named(name)
    )


def evaluate(model: GpaModel, split: EncodedSplit) -> dict[str, dict[str, dict[str, float]]]:
    """Two-way retrieval metrics over the ideal link without a Sinkhorn bias: as trained, and by the global cosine."""
    found = components_of_split(model, split)
    scorers = {"prototypes": model.scorer} if model.scorer else {}
    return {
        name: two_way(score_matrix(scorer, found.text, found.media).numpy(), split.data)
        for name, scorer in {**scorers, "global": None}.items()
    }


def trained(recipe: GpaRecipe, corpus: Corpus, seed: int) -> tuple[GpaModel, dict[str, Any]]:
    """The model of a recipe, from the cache or trained now, and what its sidecar says (``scores.val``, ``history``).

    Weights are rounded to eight bits, as shipped ones are. An interrupted run goes on after its last whole epoch.
    """
    path = model_path(recipe, corpus, seed)
    if not path.is_file():
        with one_thread():
            _train(recipe, corpus, seed, path)
    heads = read_heads(start_heads(corpus.info.task, recipe.start))
    stored = unpack(load_file(path))
    model = GpaModel(heads, recipe.prototypes, len(stored["phrases.bias"]), recipe.temperature)
    model.load_state_dict(stored)
    sidecar: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return model.eval().requires_grad_(False), sidecar


def model_path(recipe: GpaRecipe, corpus: Corpus, seed: int) -> Path:
    """Where :func:`trained` keeps a model: a name by all that it depends on."""
    what = asdict(recipe)
    if recipe.start == "plain":
        # as models were named before there was another start
        del what["start"]
    encoder = encoder_digest(corpus.info.task, recipe.start)
    number = 2 if recipe.scoring == "dp" else 3
    key = json.dumps([number, what, describe_data(corpus), encoder, seed], sort_keys=True)
    name = f"{corpus.info.name}-{recipe.scoring}-{key_of(key)}.safetensors"
    return CACHE.path(name)


def plain_heads(task: str) -> Path:
    """The heads that all rows start from: plain ones, kept in the cache since the installed file gets prototypes.

    The installed heads where they are plain, else trained now as ``semlink train heads`` does.
    """
    path = CACHE.path(f"heads-{task}.safetensors")
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        if num_components(task) > 1:
            with one_thread():
                alignment_heads.run(task, out=path.parent)
        else:
            installed = heads_path(task)
            shutil.copy(installed.with_suffix(".json"), path.with_suffix(".json"))
            shutil.copy(installed, path)
    return path


def start_heads(task: str, start: Start) -> Path:
    """The heads that a recipe starts from."""
    return plain_heads(task) if start == "plain" else heads_path(task)


def stored_encoder(task: str, start: Start = "plain") -> dict[str, torch.Tensor]:
    """The frozen tensors of a task's heads, as stored."""
    with safe_open(start_heads(task, start), framework="pt") as file:
        return {
            name: file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118
            if name.partition(".")[2].startswith(_ENCODER) and name.partition(".")[0] in SIDES
        }


def encoder_digest(task: str, start: Start = "plain") -> str:
    """A digest of :func:`stored_encoder`: the same before and after prototypes are added to the heads."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(stored_encoder(task, start).items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def encoded(corpus: Corpus, split: Split, start: Start = "plain") -> EncodedSplit:
    """A split's states under the heads' frozen part, computed once and cached."""
    data = split_data(corpus, split)
    key = json.dumps([encoder_digest(corpus.info.task, start), describe_data(corpus), split])

    def make(path: Path) -> None:
        heads = read_heads(start_heads(corpus.info.task, start))
        with one_thread():
            found = {
                f"{side}.{name}": tensor
                for side, features in (("text", data.text), ("media", data.media))
                for name, tensor in _states(heads[side], features, f"{split} {side} states").items()
            }
        save_file(found, path)

    name = f"{corpus.info.name}-states-1-{split}-{key_of(key)}.safetensors"
    stored = load_file(CACHE.entry(name, make))
    text, media = (
        States(
            FrozenFeatures(stored[f"{side}.values"], stored[f"{side}.offsets"]),
            stored[f"{side}.pooled"],
            stored[f"{side}.frozen"],
        )
        for side in SIDES
    )
    return EncodedSplit(data, text, media)


@torch.inference_mode()
def _states(head: Head, features: FrozenFeatures, title: str) -> dict[str, torch.Tensor]:
    values, pooled, frozen, lengths = [], [], [], []
    for start in track(range(0, len(features), 128), title):
        tokens = features.batch(range(start, min(start + 128, len(features))))
        x, mask = head.standardised(tokens.values, tokens.mask)
        values.append(head.hidden(tokens.values, tokens.mask)[mask].half())
        pooled.append(head.pooled(x, mask).half())
        frozen.append(x[mask].half())
        lengths.append(mask.sum(1))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(lengths).cumsum(0)])
    return {
        "values": torch.cat(values),
        "offsets": offsets,
        "pooled": torch.cat(pooled),
        "frozen": torch.cat(frozen),
    }


@torch.inference_mode()
def components_of(head: Head, states: States, batch: int = 256) -> torch.Tensor:
    """Components of all inputs, ``[n, 1 + K, 256]``; K is 0 for a plain head."""
    head.eval()
    order = states.tokens.offsets.diff().argsort()
    frozen = isinstance(head, PrototypeHead) and head.prototypes.frozen_tokens
    parts = [
        _components(head, *states.batch(rows, frozen=frozen))[0]
        for rows in torch.split(order, batch)
    ]
    return torch.cat(parts)[order.argsort()]


def components_of_split(model: GpaModel, split: EncodedSplit) -> Components:
    """Components of a split's captions and items."""
    return Components(
        components_of(model.text, split.text), components_of(model.media, split.media)
    )


@torch.inference_mode()
def score_matrix(
    scorer: PrototypeScorer | None, text: torch.Tensor, media: torch.Tensor, chunk: int = 250
) -> torch.Tensor:
    """Scores ``[num_texts, num_items]`` of components, in chunks of texts; without a scorer the global cosines."""
    if scorer is None:
        return text[:, 0] @ media[:, 0].T
    return torch.cat([scorer.score(part, media) for part in torch.split(text, chunk)])


def _on_top(head: Head, prototypes: PrototypeConfig | None) -> Head:
    """A new head with the weights of ``head``, and fresh prototypes where wanted."""
    state = {
        n: t
        for n, t in head.state_dict().items()
        if not n.startswith(("prototype", "mask_of", "key."))
    }
    made = Head(head.config) if prototypes is None else PrototypeHead(head.config, prototypes)
    missing, unexpected = made.load_state_dict(state, strict=False)
    known = ("prototype", "mask_of.", "key.")
    if unexpected or not all(name.startswith(known) for name in missing):
        raise TypeError(f"heads of another shape: {missing}, {unexpected}")
    return made


def _components(
    head: Head,
    states: torch.Tensor,
    mask: torch.Tensor,
    pooled: torch.Tensor,
    values: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Components ``[batch, 1 + K, 256]`` and the global feature before normalisation."""
    if isinstance(head, PrototypeHead):
        return head.components_and_raw(states, mask, pooled, values)
    raw = head.readout(states, mask, pooled)
    return F.normalize(raw, dim=-1)[:, None], raw


def _loss(
    model: GpaModel,
    split: EncodedSplit,
    captions: torch.Tensor,
    picked: torch.Tensor,
    targets: torch.Tensor,
    recipe: GpaRecipe,
) -> torch.Tensor:
    frozen = recipe.frozen_tokens and model.scorer is not None
    batch = split.text.batch(captions, frozen=frozen)
    text, _ = _components(model.text, *_thinned(*batch, recipe))
    batch = split.media.batch(picked, frozen=frozen)
    media, raw = _components(model.media, *_thinned(*batch, recipe))
    identity = split.data.identity[picked]
    main = _ranking_loss(model, model.scores(text, media), identity, recipe)
    if recipe.global_weight and model.scorer is not None:
        alone = _ranking_loss(model, text[:, 0] @ media[:, 0].T, identity, recipe)
        main = main + recipe.global_weight * alone
    named = F.binary_cross_entropy_with_logits(model.phrases(raw), targets[picked])
    return main + recipe.phrase_weight * 10.0 * named


def _ranking_loss(
    model: GpaModel, scores: torch.Tensor, identity: torch.Tensor, recipe: GpaRecipe
) -> torch.Tensor:
    if recipe.loss == "triplet-sum":
        return triplet_sum_loss(scores, recipe.margin)
    scale = model.log_scale.clamp(max=float(np.log(100.0))).exp()
    return contrastive_loss(scale * scores, identity[:, None] == identity[None, :])


def _thinned(
    states: torch.Tensor,
    mask: torch.Tensor,
    pooled: torch.Tensor,
    values: torch.Tensor | None,
    recipe: GpaRecipe,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """A batch with a share of its tokens hidden, the first always kept, and a share of the states' channels dropped."""
    mask = thinned(mask, recipe.token_dropout)
    return F.dropout(states, recipe.state_dropout), mask, pooled, values


def _train(recipe: GpaRecipe, corpus: Corpus, seed: int, path: Path) -> None:
    data, val = (encoded(corpus, split, recipe.start) for split in ("train", "val"))
    items = data.data.items
    targets = phrase_targets(items)
    torch.manual_seed(seed)
    heads = read_heads(start_heads(corpus.info.task, recipe.start))
    model = GpaModel(heads, recipe.prototypes, targets.shape[1], recipe.temperature)
    steps_an_epoch = max(1, len(items) // recipe.batch)
    first_caption = torch.tensor([0, *np.cumsum([len(i.captions) for i in items])])

    def batches(_epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(items))[: steps_an_epoch * recipe.batch]
        for picked in torch.split(order, recipe.batch):
            count = first_caption[picked + 1] - first_caption[picked]
            yield first_caption[picked] + (torch.rand(len(picked)) * count).long(), picked

    def validate(average: GpaModel, epoch: int) -> Validation | None:
        # Measured in every third epoch and the last: a measurement costs half an epoch.
        if (recipe.epochs - 1 - epoch) % 3:
            return None
        ways = next(iter(evaluate(average, val).values()))
        return sum(way["r_at_1"] + way["map"] for way in ways.values()), {
            f"val_{name}": way["r_at_1"] for name, way in ways.items()
        }

    config = TrainerConfig.from_recipe(
        recipe,
        title=f"{recipe.scoring} {recipe.loss} {recipe.generator} K={recipe.num_prototypes} seed {seed}",
        num_steps=steps_an_epoch * recipe.epochs,
        seed=seed,
        decayed_ndim=2,
    )
    checkpoint = Checkpoint(path.stem, __name__, asdict(recipe))
    trained = train(
        model,
        batches,
        lambda batch: _loss(model, data, *batch, targets, recipe),
        config,
        validate=validate,
        checkpoint=checkpoint,
    )
    average = trained.module
    stored = pack(average.state_dict())
    average.load_state_dict(unpack(stored))
    sidecar = {
        "recipe": asdict(recipe),
        "data": describe_data(corpus),
        "seed": seed,
        "logit_scale": round(average.log_scale.exp().item(), 3),
        "scores": rounded({"val": evaluate(average, val)}),
        "history": rounded(trained.history),
        "seconds": round(trained.seconds),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(sidecar, indent=1) + "\n")
    write_whole(path, lambda part: save_file(stored, part))
    checkpoint.remove()
