"""Fine-tuning of a text head on noisy texts (ItrievalKD, Liu et al. 2023, §3.3)."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F

from lab.training.checkpoint import Checkpoint
from lab.training.features import FrozenFeatures
from lab.training.losses import contrastive_loss
from lab.training.sentence_student import MAX_NOISE, NoisySplit, Table
from lab.training.trainer import TrainerConfig
from lab.training.trainer import train as optimise
from semlink.corpora.noisy import NOISE_KINDS, NoisyText
from semlink.semantics.heads import Head

FINE_EPOCHS: Final = 2
FINE_BATCH: Final = 128


def fine_tuned(
    head: Head,
    train: NoisySplit,
    logit_scale: float,
    rate: float,
    seed: int,
    *,
    epochs: int = FINE_EPOCHS,
    checkpoint: Checkpoint | None = None,
) -> Head:
    """The text head trained on noisy texts of both kinds, 0 to 3 noise sentences, against the pictures' features.

    Symmetric InfoNCE at ``logit_scale``; the media head stays (a gallery is not made anew).
    """
    torch.manual_seed(seed)
    tuned = copy.deepcopy(head).requires_grad_(True)
    media = torch.from_numpy(train.media)
    states = train.table.frozen()

    def batches(epoch: int) -> Iterator[list[NoisyText]]:
        order = np.random.default_rng((seed, epoch))
        for kind, n_noise in itertools.product(NOISE_KINDS, range(MAX_NOISE + 1)):
            texts = train.texts(kind, n_noise, 20_011 * seed + epoch)
            texts = [texts[i] for i in order.permutation(len(texts))[: train.num_pooled]]
            yield from (texts[i : i + FINE_BATCH] for i in range(0, len(texts), FINE_BATCH))

    def loss(texts: list[NoisyText]) -> torch.Tensor:
        queries = _trainable_means(tuned, states, train.table, texts)
        pictures = media[[train.place[t.item_id] for t in texts]]
        right = torch.eye(len(texts), dtype=torch.bool)
        return contrastive_loss(logit_scale * queries @ pictures.T, right)

    sets = epochs * len(NOISE_KINDS) * (MAX_NOISE + 1)
    config = TrainerConfig(
        title=f"text head, rate {rate:g}, seed {seed}",
        epochs=epochs,
        num_steps=sets * -(-train.num_pooled // FINE_BATCH),
        learning_rate=rate,
        seed=seed,
        weight_decay=0.01,
        decay="none",
        clip_norm=None,
        reseed="never",
    )
    optimise(tuned, batches, loss, config, checkpoint=checkpoint)
    return tuned.requires_grad_(False)


def _trainable_means(
    head: Head, states: FrozenFeatures, table: Table, texts: Sequence[NoisyText]
) -> torch.Tensor:
    """:func:`lab.training.sentence_student.mean_features` of whole texts, with gradients: [texts, 256]."""
    rows = [table.rows(t) for t in texts]
    features = head.encode(states.batch([r for of_text in rows for r in of_text]))
    owner = torch.tensor([n for n, of_text in enumerate(rows) for _ in of_text])
    sums = torch.zeros(len(texts), features.shape[1]).index_add(0, owner, features)
    return F.normalize(sums, dim=1)
