"""From contents to features of the shared space, batched over whatever queries are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semlink.semantics.encoders import semantic_encoder


@dataclass(frozen=True, slots=True)
class Content:
    """Something to encode in a space: see :class:`transmitter.queries.CheckedQuery`.

    Several texts are the key sentences of one: their components' means, of unit norm again, stand for it (chosen on
    val against joining them to one text: ``semlink experiment itrieval``).
    """

    space: str
    modality: str
    value: str | tuple[str, ...] | NDArray[Any]


def encode(contents: list[Content], device: str = "cpu") -> list[NDArray[np.float32]]:
    """Components, ``[num_components, feature_size]`` float32 of unit norm, the global feature first; in order."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, content in enumerate(contents):
        groups.setdefault((content.space, content.modality), []).append(i)
    components: dict[int, NDArray[np.float32]] = {}
    for (space, modality), members in groups.items():
        parts = [
            value if isinstance(value := contents[i].value, tuple) else (value,) for i in members
        ]
        rows = semantic_encoder(space, device).components(
            modality, [part for several in parts for part in several]
        )
        ends = np.cumsum([len(several) for several in parts])
        for i, own in zip(members, np.split(rows, ends[:-1]), strict=True):
            components[i] = own[0] if len(own) == 1 else _mean(own)
    return [components[i] for i in range(len(contents))]


def _mean(components: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of ``[n, num_components, feature_size]`` over n, each component of unit norm again."""
    mean = components.mean(axis=0)
    unit: NDArray[np.float32] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit
