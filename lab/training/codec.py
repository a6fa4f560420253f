"""Train a space's codec through realisations of the emulated link: ``semlink train codec --task person``.

A message is ``û = u + e``: u from the encoder under the SNR that the transmitter predicted, e and its estimated
variance from a dataset of frames that crossed the real chain (:mod:`lab.training.link_dataset`). Messages are
features of both modalities of the train split; the loss asks each decoded feature to rank the other modality as the
sent one should (InfoNCE against the frozen embeddings), to rank it as the sent one does (distillation), and to stay
near it (cosine). Lengths are drawn anew each step, so that every prefix is a message.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lab.training.build_gallery import components
from lab.training.checkpoint import Checkpoint, rounded, save_weights
from lab.training.data import SplitData, describe_data, split_data
from lab.training.link_dataset import LinkDataset, cached_link_dataset, link_dataset_path
from lab.training.losses import contrastive_loss
from lab.training.trainer import TrainerConfig, steps_of, train
from semlink.corpora.registry import corpus_named
from semlink.decibels import db_to_lin, lin_to_db
from semlink.semantics.codec import MAX_SYMBOLS, SYMBOL_COUNTS, Codec, CodecConfig
from semlink.semantics.encoders import heads_sha256, load_heads
from semlink.semantics.int8_tensors import pack, unpack
from semlink.semantics.metrics import retrieval_metrics
from semlink.semantics.spaces import train_command, training_corpus, weights_file
from semlink.tasks import task_names

SCORED_SNR_DB: Final = (-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0, 25.0)


LINK_DATASET: Final = {"frames_per_link": 96, "seeds": 2}
"""Size of the dataset that training draws from the emulated link: 9,216 frames."""
RAYLEIGH_FRAMES: Final = 9_216


@dataclass(frozen=True, slots=True)
class CodecRecipe:
    """Everything that decides what a run learns, besides data, dataset and seed."""

    steps: int = 1_000
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    warmup_steps: int = 100
    logit_scale: float = 30.0
    contrast_weight: float = 1.0
    distil_weight: float = 1.0
    cosine_weight: float = 2.0
    checkpoint_steps: int = 250


@dataclass(frozen=True, slots=True)
class Embedded:
    """Frozen vectors of a split, float32: text [captions, 256], media [items, 256], and whose they are.

    ``text_prototypes`` [captions, K, 256] and ``media_prototypes`` [items, K, 256] where the heads make them: the other
    components that a message may carry.
    """

    text: torch.Tensor
    media: torch.Tensor
    caption_item: torch.Tensor
    identity: torch.Tensor
    text_prototypes: torch.Tensor | None = None
    media_prototypes: torch.Tensor | None = None

    def drawn_component(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What messages of one step carry, text and media: the global feature every other time, else a prototype."""
        if self.text_prototypes is None or self.media_prototypes is None:
            return self.text, self.media
        count = self.text_prototypes.shape[1]
        place = int(torch.randint(2 * count, ()))
        if place >= count:
            return self.text, self.media
        return self.text_prototypes[:, place], self.media_prototypes[:, place]

    def sample(self) -> torch.Tensor:
        """Features of all kinds in equal number, [n, 256]: what a codec's linear part is fitted to."""
        picked = torch.randperm(len(self.text))[: len(self.media)]
        parts = [self.text[picked], self.media]
        if self.text_prototypes is not None and self.media_prototypes is not None:
            parts += [
                self.text_prototypes[picked].flatten(0, 1),
                self.media_prototypes.flatten(0, 1),
            ]
        return torch.cat(parts)


@dataclass(frozen=True, slots=True)
class LinkTensors:
    """A dataset as tensors, each [num_frames, 128]."""

    predicted_snr_db: torch.Tensor
    noise_variance: torch.Tensor
    error: torch.Tensor

    @classmethod
    def from_dataset(cls, dataset: LinkDataset) -> LinkTensors:
        """The tensors of a dataset."""
        return cls(
            torch.from_numpy(dataset.predicted_snr_db),
            torch.from_numpy(dataset.noise_variance),
            torch.from_numpy(dataset.error),
        )

    def draw(self, count: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``count`` random frames cut to k symbols, each error turned by a random common phase."""
        rows = torch.randint(len(self.error), (count,))
        turn = torch.polar(torch.ones(count, 1), torch.rand(count, 1) * 2 * torch.pi)
        return (
            self.predicted_snr_db[rows, :k],
            self.noise_variance[rows, :k],
            self.error[rows, :k] * turn,
        )


def rayleigh_dataset(num_frames: int, seed: int = 0) -> LinkDataset:
    """A dataset without a link: Rayleigh SINR per subband around −15…25 dB, predicted with an error of 0–6 dB.

    Our definition; for tests and for training where the emulated link is not wanted.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    mean_db = rng.uniform(-15.0, 25.0, (num_frames, 1))
    fading = rng.standard_exponential((num_frames, 8)).clip(0.02)
    snr_db = (mean_db + lin_to_db(fading))[:, np.arange(MAX_SYMBOLS) % 8]
    spread = rng.uniform(0.0, 6.0, (num_frames, 1))
    predicted = (
        snr_db + (spread * rng.standard_normal((num_frames, 8)))[:, np.arange(MAX_SYMBOLS) % 8]
    )
    variance = db_to_lin(-snr_db)
    noise = rng.standard_normal((2, num_frames, MAX_SYMBOLS))
    return LinkDataset(
        predicted_snr_db=predicted.astype(np.float32),
        noise_variance=variance.astype(np.float32),
        error=((noise[0] + 1j * noise[1]) * np.sqrt(variance / 2.0)).astype(np.complex64),
        snr_db=mean_db[:, 0].astype(np.float32),
    )


def run(
    space: str,
    *,
    seed: int = 0,
    out: Path | None = None,
    recipe: CodecRecipe | None = None,
    dataset: LinkDataset | None = None,
) -> dict[str, Any]:
    """Train a space's codec, write it to where both ends read it or into ``out``; returns val's scores.

    ``space``: a task, or an added corpus that has heads of its own. ``dataset`` defaults to :func:`_link_dataset`. An
    interrupted run goes on after its last checkpoint. A corpus without a val split is scored on train.
    """
    recipe = recipe or CodecRecipe()
    path = weights_file(space, "codec")
    source = "bank given by the caller"
    if dataset is None:
        dataset, source = _link_dataset(space)
    tensors = LinkTensors.from_dataset(dataset)
    corpus = corpus_named(training_corpus(space))
    data = embedded(space, split_data(corpus, "train"))
    val = embedded(space, split_data(corpus, "val")) if "val" in corpus.splits else data
    torch.manual_seed(seed)
    codec = Codec(CodecConfig())
    codec.start_from(data.sample())
    checkpoint = Checkpoint(
        f"codec-{space}",
        __name__,
        asdict(recipe),
        heads_sha256(space),
        seed,
        len(tensors.error),
        float(tensors.noise_variance[0, 0]),
    )
    config = TrainerConfig.from_recipe(
        recipe,
        title=f"codec of {space}",
        epochs=math.ceil(recipe.steps / recipe.checkpoint_steps),
        num_steps=recipe.steps,
        seed=seed,
        reseed="step",
    )
    trained = train(
        codec,
        lambda epoch: steps_of(epoch, recipe.checkpoint_steps, recipe.steps),
        lambda _: _loss(codec, data, tensors, recipe),
        config,
        checkpoint=checkpoint,
    )
    # as shipped: the rounding to eight bits is part of what is measured
    codec.load_state_dict(unpack(pack(codec.state_dict())))
    scores = {
        "against_snr": against_snr(codec, val),
        "over_the_bank": over_links(codec, val, tensors),
    }
    save_weights(
        out / path.name if out else path,
        pack(codec.state_dict()),
        {"config": json.dumps(codec.config.as_dict())},
        {
            "command": train_command(space, "codec") + (f" --seed {seed}" if seed else ""),
            "data": describe_data(corpus),
            "bank": {"source": source, "frames": len(tensors.error)},
            "heads_sha256": heads_sha256(space),
            "recipe": asdict(recipe),
            "seed": seed,
            "final_loss": round(trained.final_loss, 4),
            "scores": rounded(scores),
            "seconds": round(trained.seconds),
        },
    )
    checkpoint.remove()
    return scores


def _link_dataset(space: str) -> tuple[LinkDataset, str]:
    """What a space's codec is trained over, and what its sidecar says of it.

    A task's: the emulated link, drawn now where it is not kept yet (many minutes). An added corpus's: the same where it
    is kept, else Rayleigh fading of the same sizes and SNRs, which is there at once.
    """
    if space in task_names() or link_dataset_path(**LINK_DATASET).is_file():
        return cached_link_dataset(**LINK_DATASET), "emulated link (lab.training.link_dataset)"
    return rayleigh_dataset(
        RAYLEIGH_FRAMES
    ), "Rayleigh fading (lab.training.codec.rayleigh_dataset)"


def embedded(space: str, data: SplitData) -> Embedded:
    """The split's vectors by the space's heads."""
    heads = load_heads(space)
    text, media = (
        torch.from_numpy(components(heads[side], features))
        for side, features in (("text", data.text), ("media", data.media))
    )
    several = text.shape[1] > 1
    return Embedded(
        text=text[:, 0].contiguous(),
        media=media[:, 0].contiguous(),
        caption_item=data.caption_item,
        identity=data.identity,
        text_prototypes=text[:, 1:] if several else None,
        media_prototypes=media[:, 1:] if several else None,
    )


def _loss(codec: Codec, train: Embedded, dataset: LinkTensors, recipe: CodecRecipe) -> torch.Tensor:
    text, media = train.drawn_component()
    captions = torch.randint(len(text), (recipe.batch,))
    items = train.caption_item[captions]
    identity = train.identity[items]
    positive = identity[:, None] == identity[None, :]
    k = SYMBOL_COUNTS[int(torch.randint(len(SYMBOL_COUNTS), ()))]
    total = torch.zeros(())
    for sent, gallery in (
        (text[captions], media[items]),
        (media[items], text[captions]),
    ):
        snr_db, variance, error = dataset.draw(recipe.batch, k)
        received = codec.decode(codec.encode(sent, snr_db, k) + error, variance)
        scores = recipe.logit_scale * received @ gallery.T
        ideal = recipe.logit_scale * sent @ gallery.T
        contrast = contrastive_loss(scores, positive)
        distil = F.kl_div(
            F.log_softmax(scores, 1),
            F.log_softmax(ideal, 1),
            log_target=True,
            reduction="batchmean",
        )
        cosine = (1.0 - (received * sent).sum(1)).mean()
        total = (
            total
            + recipe.contrast_weight * contrast
            + recipe.distil_weight * distil
            + recipe.cosine_weight * cosine
        )
    return total / 2.0


def _text_to_media(text: torch.Tensor, data: Embedded) -> float:
    relevant = data.identity[data.caption_item][:, None] == data.identity[None, :]
    scores: NDArray[np.float32] = (text @ data.media.T).numpy()
    return retrieval_metrics(scores, relevant.numpy())["r_at_1"]


@torch.inference_mode()
def against_snr(codec: Codec, data: Embedded, seed: int = 0) -> dict[str, Any]:
    """Text→media R@1 over a flat link of known SNR for each k, as a share of R@1 without a channel."""
    generator = torch.Generator().manual_seed(seed)
    ideal = _text_to_media(data.text, data)
    table: dict[str, dict[str, float]] = {}
    for k in SYMBOL_COUNTS:
        row = {}
        for snr_db in SCORED_SNR_DB:
            variance = db_to_lin(-snr_db)
            noise = torch.randn(len(data.text), k, dtype=torch.complex64, generator=generator)
            symbols = codec.encode(data.text, torch.full((len(data.text), k), snr_db), k)
            received = codec.decode(
                symbols + noise * variance**0.5, torch.full((len(data.text), k), variance)
            )
            row[f"{snr_db:+.0f} dB"] = _text_to_media(received, data) / ideal
        table[f"k={k}"] = row
    return {"ideal_r_at_1": ideal, "relative_r_at_1": table}


@torch.inference_mode()
def over_links(
    codec: Codec, data: Embedded, dataset: LinkTensors, seed: int = 0
) -> dict[str, float]:
    """Text→media R@1 and mean cosine for each k over random frames of the dataset."""
    torch.manual_seed(seed)
    scores = {}
    for k in SYMBOL_COUNTS:
        snr_db, variance, error = dataset.draw(len(data.text), k)
        received = codec.decode(codec.encode(data.text, snr_db, k) + error, variance)
        scores[f"r_at_1 k={k}"] = _text_to_media(received, data)
        scores[f"cosine k={k}"] = float((received * data.text).sum(1).mean())
    return scores
