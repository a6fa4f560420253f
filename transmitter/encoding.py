"""From contents to features of the shared space, batched over whatever queries are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semlink.semantics.encoders import semantic_encoder


@dataclass(frozen=True, slots=True)
class Content:
    """Something to encode in a space: see :class:`transmitter.queries.CheckedQuery`."""

    space: str
    modality: str
    value: str | NDArray[Any]


def encode(contents: list[Content], device: str = "cpu") -> list[NDArray[np.float32]]:
    """Components, ``[num_components, feature_size]`` float32 of unit norm, the global feature first; in order."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, content in enumerate(contents):
        groups.setdefault((content.space, content.modality), []).append(i)
    components: dict[int, NDArray[np.float32]] = {}
    for (space, modality), members in groups.items():
        rows = semantic_encoder(space, device).components(
            modality, [contents[i].value for i in members]
        )
        components |= dict(zip(members, rows, strict=True))
    return [components[i] for i in range(len(contents))]
