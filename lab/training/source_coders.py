"""Make a task's source coders of the digital methods: ``semlink train vq --task person``.

Principal axes, deviations and the stages of the residual vector quantiser come from features of the train split, as
many of texts as of media; what a payload is worth (mAP) is measured on val. No network is trained: a minute.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from lab.training.checkpoint import rounded, save_weights
from lab.training.codec import Embedded, embedded
from lab.training.data import describe_data, split_data
from semlink.corpora.registry import corpus_named
from semlink.errors import InvalidField
from semlink.semantics.digital import (
    DIGITAL_CODINGS,
    MAX_STAGE_COMPONENTS,
    NUM_COMPONENTS,
    QUALITY_BITS,
    STAGE_BITS,
    SourceCoder,
    Statistics,
)
from semlink.semantics.encoders import heads_sha256
from semlink.semantics.int8_tensors import pack
from semlink.semantics.metrics import retrieval_metrics
from semlink.semantics.spaces import train_command, training_corpus, weights_file

NUM_STAGES: Final = 12
K_MEANS_ROUNDS: Final = 30
MIN_CAPTIONS: Final = max(2**STAGE_BITS, NUM_COMPONENTS)
"""Vectors to fit: a word of a codebook is the mean of some, and there are as many axes as independent ones."""


def run(space: str, *, seed: int = 0, out: Path | None = None) -> dict[str, Any]:
    """Write the statistics and their sidecar; returns the scores on val (on train where there is no val).

    ``space``: a task, or an added corpus with heads of its own. ``out``: a folder other than the space's. Raises
    InvalidField for fewer than :data:`MIN_CAPTIONS` captions to train on.
    """
    corpus = corpus_named(training_corpus(space))
    train = embedded(space, split_data(corpus, "train"))
    if len(train.text) < MIN_CAPTIONS:
        raise InvalidField(
            f"{corpus.info.name} has {len(train.text)} captions to train on, expected at least {MIN_CAPTIONS}",
            field="corpus",
        )
    val = embedded(space, split_data(corpus, "val")) if "val" in corpus.splits else train
    path = weights_file(space, "vq")
    started = time.monotonic()
    statistics = with_quality(fit(train, seed), val)
    scores = {
        "r_at_1": against_bits(statistics, val, "r_at_1"),
        "map": against_bits(statistics, val, "map"),
    }
    scores["cosine"] = {
        coding: {
            f"{bits} bits": _cosine(SourceCoder(statistics, coding), val, bits)
            for bits in QUALITY_BITS[1:]
        }
        for coding in DIGITAL_CODINGS
    }
    save_weights(
        out / path.name if out else path,
        pack(statistics.tensors()),
        {},
        {
            "command": train_command(space, "vq") + (f" --seed {seed}" if seed else ""),
            "data": describe_data(corpus),
            "heads_sha256": heads_sha256(space),
            "stages": [int((row >= 0).sum()) for row in statistics.stages],
            "seed": seed,
            "scores": rounded(scores),
            "seconds": round(time.monotonic() - started),
        },
    )
    return scores


def fit(train: Embedded, seed: int = 0, num_stages: int = NUM_STAGES) -> Statistics:
    """Axes, deviations and stages for the features of a split; ``quality`` is zero. As stored: rounded."""
    generator = torch.Generator().manual_seed(seed)
    sides = [train.text, train.media]
    mean = torch.stack([side.mean(0) for side in sides])
    covariance = sum((s - m).T @ (s - m) / len(s) for s, m in zip(sides, mean, strict=True)) / 2
    _, axes = torch.linalg.eigh(torch.as_tensor(covariance))
    axes = axes.flip(1).T[:NUM_COMPONENTS].contiguous()
    components = [(side - m) @ axes.T for side, m in zip(sides, mean, strict=True)]
    # As many of one side as of the other, by repeating the fewer.
    most = max(len(c) for c in components)
    together = torch.cat([c[torch.arange(most) % len(c)] for c in components])
    stages, codebooks, residual = _fit_stages(together, num_stages, generator)
    statistics = Statistics(
        axes=axes,
        mean=mean,
        deviation=torch.stack([c.square().mean(0).sqrt() for c in components]),
        stages=stages,
        codebooks=codebooks,
        short=_fit_short(together[:, stages[0][stages[0] >= 0]], generator),
        residual=residual,
        quality=torch.zeros(len(DIGITAL_CODINGS), len(QUALITY_BITS)),
    )
    return as_stored(statistics)


def as_stored(statistics: Statistics) -> Statistics:
    """Rounded as the file rounds it, so that what is measured is what ships."""
    return Statistics.from_tensors(
        {
            name: t.half() if t.is_floating_point() and not name.endswith("scale") else t
            for name, t in pack(statistics.tensors()).items()
        }
    )


def _fit_stages(
    components: torch.Tensor, num_stages: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    left = components.clone()
    stages = torch.full((num_stages, MAX_STAGE_COMPONENTS), -1)
    codebooks = torch.zeros(num_stages, 2**STAGE_BITS, MAX_STAGE_COMPONENTS)
    residual = [left.square().mean(0).sqrt()]
    for stage in range(num_stages):
        places = worth_coding(left.square().mean(0).numpy())
        words = k_means(left[:, places], 2**STAGE_BITS, generator)
        stages[stage, : len(places)] = places
        codebooks[stage, :, : len(places)] = words
        left[:, places] -= words[_nearest(left[:, places], words)]
        residual.append(left.square().mean(0).sqrt())
    return stages, codebooks, torch.stack(residual)


def _fit_short(points: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Codebooks of 1…7 bits for the first stage's components ``[n, d]``, one after the other."""
    words = torch.cat([k_means(points, 2**bits, generator) for bits in range(1, STAGE_BITS)])
    return torch.nn.functional.pad(words, (0, MAX_STAGE_COMPONENTS - words.shape[1]))


def worth_coding(variance: NDArray[np.float32]) -> torch.Tensor:
    """Components that reverse water-filling gives a share of one stage's bits, in order; int64, 1…16 of them."""
    order = np.argsort(-variance, kind="stable")
    falling = np.log2(np.maximum(variance[order], 1e-12))
    # With the n strongest above the water, each gets (log2 λ − level) / 2 bits, STAGE_BITS in all.
    counts = np.arange(1, len(falling) + 1)
    level = (np.cumsum(falling) - 2 * STAGE_BITS) / counts
    above = int((falling > level).sum())
    return torch.from_numpy(np.sort(order[: max(1, min(above, MAX_STAGE_COMPONENTS))]).copy())


def k_means(points: torch.Tensor, num_words: int, generator: torch.Generator) -> torch.Tensor:
    """Centroids ``[num_words, d]`` of ``points`` ``[n, d]`` by Lloyd's iteration; empty cells move to far points."""
    words = points[torch.randperm(len(points), generator=generator)[:num_words]].clone()
    for _ in range(K_MEANS_ROUNDS):
        index = _nearest(points, words)
        count = torch.bincount(index, minlength=num_words)
        total = torch.zeros_like(words).index_add_(0, index, points)
        words = total / count.clamp_min(1)[:, None]
        empty = count == 0
        if bool(empty.any()):
            error = (points - words[index]).square().sum(1)
            words[empty] = points[error.topk(int(empty.sum())).indices]
    return words


def _nearest(points: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    return (points @ words.T - 0.5 * words.square().sum(1)).argmax(1)


def with_quality(statistics: Statistics, val: Embedded) -> Statistics:
    """The same with ``quality`` measured on val."""
    table = against_bits(statistics, val, "map")
    statistics.quality.copy_(
        torch.tensor([list(table[coding].values()) for coding in DIGITAL_CODINGS])
    )
    return as_stored(statistics)


def against_bits(
    statistics: Statistics, data: Embedded, metric: str
) -> dict[str, dict[str, float]]:
    """A metric of text→media without a channel for payloads of :data:`QUALITY_BITS`, for each coding."""
    relevant = (data.identity[data.caption_item][:, None] == data.identity[None, :]).numpy()
    table: dict[str, dict[str, float]] = {}
    for coding in DIGITAL_CODINGS:
        coder = SourceCoder(statistics, coding)
        row = {}
        for bits in QUALITY_BITS:
            sent = _through(coder, data.text, bits)
            row[f"{bits} bits"] = retrieval_metrics((sent @ data.media.T).numpy(), relevant)[metric]
        table[coding] = row
    return table


def _through(coder: SourceCoder, text: torch.Tensor, bits: int) -> torch.Tensor:
    return (
        coder.decode(coder.encode(text, "text", bits), "text") if bits else torch.zeros_like(text)
    )


def _cosine(coder: SourceCoder, data: Embedded, bits: int) -> float:
    return float((_through(coder, data.text, bits) * data.text).sum(1).mean())
