"""From contents to features of the shared space, batched over whatever queries are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semlink.grouping import run_grouped
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
    return run_grouped(
        contents,
        lambda content: (content.space, content.modality),
        lambda alike: _encode_alike(alike, device),
    )


def _encode_alike(contents: list[Content], device: str) -> list[NDArray[np.float32]]:
    parts = [c.value if isinstance(c.value, tuple) else (c.value,) for c in contents]
    rows = semantic_encoder(contents[0].space, device).components(
        contents[0].modality, [part for several in parts for part in several]
    )
    ends = np.cumsum([len(several) for several in parts])
    return [own[0] if len(own) == 1 else _mean(own) for own in np.split(rows, ends[:-1])]


def _mean(components: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of ``[n, num_components, feature_size]`` over n, each component of unit norm again."""
    mean = components.mean(axis=0)
    unit: NDArray[np.float32] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit
