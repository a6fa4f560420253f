"""What Sinkhorn normalisation adds to a gallery's captions (GPA, eq. 10), from the scores of training sounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from semlink.semantics.metrics import retrieval_metrics
from semlink.semantics.prototypes import PrototypeScorer
from semlink.semantics.sinkhorn import sinkhorn_bias

TEMPERATURES: Final = (0.02, 0.05, 0.1, 0.2)
TRAINING_QUERIES: Final = 1_000
"""Sounds of the train split, evenly spaced, whose scores the bias is computed from."""

Components = NDArray[np.float32]
Scores = Callable[[Components, Components], torch.Tensor]
"""Of captions' components and sounds' components: ``[num_captions, num_sounds]``."""


def biases(
    scorer: PrototypeScorer,
    *,
    training_sounds: Components,
    val: tuple[Components, Components, NDArray[np.int64]],
    gallery_captions: Components,
) -> dict[str, Components]:
    """``caption_bias`` and ``caption_bias_global`` of a gallery; one that helps at no temperature on val is left out.

    ``val``: components of its captions and sounds, and the sound of each caption.
    """
    found = {}
    for name, scores in (
        ("caption_bias", _by_prototypes(scorer)),
        ("caption_bias_global", _cosine),
    ):
        temperature = chosen_temperature(scores, training_sounds, *val)
        if temperature is not None:
            against = scores(gallery_captions, training_sounds).T
            found[name] = sinkhorn_bias(against, temperature).numpy()
    return found


def chosen_temperature(
    scores: Scores,
    training_sounds: Components,
    captions: Components,
    sounds: Components,
    owner: NDArray[np.int64],
    temperatures: Sequence[float] = TEMPERATURES,
) -> float | None:
    """The temperature with the highest audio-to-text R@1 + mAP@10 on val; None where plain scores are as good."""
    own = owner[None, :] == np.arange(len(sounds))[:, None]
    plain = scores(captions, sounds).numpy()
    against = scores(captions, training_sounds).T

    def quality(bias: Components) -> float:
        metrics = retrieval_metrics((plain + bias[:, None]).T, own)
        return metrics["r_at_1"] + metrics["map_at_10"]

    best, chosen = quality(np.zeros(len(captions), dtype=np.float32)), None
    for temperature in temperatures:
        reached = quality(sinkhorn_bias(against, temperature).numpy())
        if reached > best:
            best, chosen = reached, temperature
    return chosen


@torch.inference_mode()
def _cosine(captions: Components, sounds: Components) -> torch.Tensor:
    return torch.from_numpy(captions[:, 0] @ sounds[:, 0].T)


def _by_prototypes(scorer: PrototypeScorer) -> Scores:
    @torch.inference_mode()
    def scores(captions: Components, sounds: Components) -> torch.Tensor:
        items = torch.from_numpy(sounds)
        parts = torch.split(torch.from_numpy(captions), 250)
        return torch.cat([scorer.score(part, items) for part in parts])

    return scores
