"""From contents to features of the shared space, batched over whatever queries are there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semlink.batching import MicroBatcher
from semlink.grouping import run_grouped
from semlink.semantics.encoders import semantic_encoder
from semlink.semantics.text import text_warnings
from semlink.stages import Noted
from semlink.v1 import common_pb2, knowledge_pb2
from transmitter.extraction import Selected
from transmitter.queries import CheckedQuery

Components = NDArray[np.float32]
"""``[num_components, feature_size]``, unit norm each, the global feature first."""


@dataclass(frozen=True, slots=True)
class Content:
    """Something to encode in a space: see :class:`transmitter.queries.CheckedQuery`.

    Several texts are the key sentences of one: their components' means, of unit norm again, stand for it (chosen on
    val against joining them to one text: ``semlink experiment itrieval``).
    """

    space: str
    modality: str
    value: str | tuple[str, ...] | NDArray[Any]


Encoder = Callable[[list[Content]], list[Components]]
ContentBatcher = MicroBatcher[Content, Noted[Components]]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What of a query is sent: its components that the query's scoring asks for, fused with kept ``rewrites``."""

    selected: Selected
    components: Components
    rewrites: tuple[knowledge_pb2.Rewrite, ...] = ()

    @property
    def query(self) -> CheckedQuery:
        """The query."""
        return self.selected.query


async def encode_selected(
    encoder: ContentBatcher, selected: list[Selected]
) -> list[Noted[Meaning]]:
    """Encode what is sent; say of texts what the encoder may understand badly."""
    encoded = await encoder.submit_many(
        [
            Content(s.query.space, s.query.modality, s.key_sentences or s.text or s.query.content)
            for s in selected
        ]
    )
    texts = [one.key_sentences or ((one.text,) if one.text else ()) for one in selected]
    warnings = iter(text_warnings([text for own in texts for text in own]))
    doubts = [
        [common_pb2.Degradation(part="text", reason=r) for _ in own for r in next(warnings)]
        for own in texts
    ]
    return [
        found.then(Noted(Meaning(one, scored(one, found.value)), degraded=tuple(own)))
        for one, found, own in zip(selected, encoded, doubts, strict=True)
    ]


def scored(selected: Selected, components: Components) -> Components:
    """The components that the query's scoring asks for."""
    return components[:1] if selected.query.retrieval.scoring == "global" else components


def encode(contents: list[Content], device: str = "cpu") -> list[Components]:
    """Components of each content, in order."""
    return run_grouped(
        contents,
        lambda content: (content.space, content.modality),
        lambda alike: _encode_alike(alike, device),
    )


def _encode_alike(contents: list[Content], device: str) -> list[Components]:
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
