"""The captions' biases: they undo hubs where there are any, and are left out where they do not help on val."""

from __future__ import annotations

import numpy as np
import torch

from lab.training.sinkhorn_biases import biases, chosen_temperature
from semlink.semantics.prototypes import PrototypeConfig, PrototypeScorer


def world(seed: int, hubs: bool) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Sounds and their captions; a tenth of the captions leans to where all sounds lie, and wins too many queries."""
    rng = np.random.default_rng(seed)
    centre = np.zeros(256)
    centre[0] = 1.0
    sounds = 0.6 * centre + 0.12 * rng.normal(size=(200, 3, 256)) / 2
    captions = sounds + (0.1 if hubs else 0.02) * rng.normal(size=sounds.shape)
    if hubs:
        captions[::10] += 3.0 * centre
    return tuple(  # type: ignore[return-value]
        (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)
        for x in (sounds, captions)
    )


def cosine(captions, sounds):  # type: ignore[no-untyped-def]
    return torch.from_numpy(captions[:, 0] @ sounds[:, 0].T)


def right(sounds, captions, bias):  # type: ignore[no-untyped-def]
    return ((sounds[:, 0] @ captions[:, 0].T + bias).argmax(1) == np.arange(len(sounds))).mean()


def test_hubs_are_undone() -> None:
    scorer = PrototypeScorer(PrototypeConfig(num_prototypes=2, aggregator="mean"))
    training, _ = world(1, hubs=True)
    val_sounds, val_captions = world(2, hubs=True)
    sounds, captions = world(3, hubs=True)
    found = biases(
        scorer,
        training_sounds=training,
        val=(val_captions, val_sounds, np.arange(200)),
        gallery_captions=captions,
    )
    assert set(found) == {"caption_bias", "caption_bias_global"}
    bias = found["caption_bias_global"]
    assert bias.shape == (200,)
    assert bias[::10].mean() < bias.mean() - 0.01
    assert right(sounds, captions, bias) > right(sounds, captions, 0.0) + 0.05


def test_a_bias_that_does_not_help_is_left_out() -> None:
    sounds, captions = world(2, hubs=False)
    perfect = np.arange(200)
    assert right(sounds, captions, 0.0) == 1.0
    assert chosen_temperature(cosine, world(1, hubs=False)[0], captions, sounds, perfect) is None
