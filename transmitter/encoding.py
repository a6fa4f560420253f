"""From contents to features of the shared space, batched over whatever queries are there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semlink.semantics.encoders import semantic_encoder


@dataclass(frozen=True, slots=True)
class Content:
    """Something to encode: see :class:`transmitter.queries.CheckedQuery`."""

    task: str
    modality: str
    value: str | NDArray[Any]


def encode(contents: list[Content], device: str = "cpu") -> list[NDArray[np.float32]]:
    """Features, ``[feature_size]`` float32 of unit norm each, in the order of the contents."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, content in enumerate(contents):
        groups.setdefault((content.task, content.modality), []).append(i)
    features: dict[int, NDArray[np.float32]] = {}
    for (task, modality), members in groups.items():
        encoder = semantic_encoder(task, device)
        run: Callable[[list[Any]], NDArray[np.float32]] = getattr(encoder, modality)
        rows = run([contents[i].value for i in members])
        features |= dict(zip(members, rows, strict=True))
    return [features[i] for i in range(len(contents))]
