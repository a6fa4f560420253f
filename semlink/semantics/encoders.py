"""Text, pictures and sounds of a task as unit vectors of one shared space: frozen backbones, trained heads."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from semlink.corpora.registry import corpus_named
from semlink.errors import InvalidField
from semlink.models import file_sha256
from semlink.runtime import FrozenNetwork
from semlink.semantics import text
from semlink.semantics.heads import FEATURE_DIM, Head, HeadConfig
from semlink.semantics.int8_tensors import unpack
from semlink.semantics.modalities import modality_of
from semlink.semantics.pooled import PooledConfig, PooledHead
from semlink.semantics.prototypes import PrototypeConfig, PrototypeHead, PrototypeScorer
from semlink.semantics.spaces import task_of, weights_of
from semlink.semantics.text import sentence_embeddings
from semlink.semantics.tokens import Tokens
from semlink.tasks import BUILT_IN, task_spec

__all__ = [
    "FEATURE_DIM",
    "SemanticEncoder",
    "heads_path",
    "heads_sha256",
    "load_heads",
    "load_scorer",
    "num_components",
    "prepare_networks",
    "semantic_encoder",
    "sentence_embeddings",
    "text_tokens",
]

_BATCH: Final = 256
_lock = threading.Lock()


def text_tokens(texts: Sequence[str], device: str = "cpu") -> Tokens:
    """Frozen tokens of texts, the same for every task."""
    return text.minilm(device).token_states(texts)


def heads_path(space: str) -> Path:
    """File of a space's trained heads. Raises NotFound, with the command that makes it, when it is missing."""
    return weights_of(space, "heads")


@lru_cache(maxsize=16)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001 - the key of the cache
    return file_sha256(path)


def heads_sha256(space: str) -> str:
    """SHA-256 of a space's heads file: what a gallery was made with."""
    path = heads_path(space)
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


def load_heads(space: str, device: str = "cpu") -> dict[str, Head]:
    """A space's heads, ``{"text": …, "media": …}``, in evaluation mode without gradients.

    Heads that were trained with prototypes are :class:`~semlink.semantics.prototypes.PrototypeHead`, those of small
    real sets :class:`~semlink.semantics.pooled.PooledHead`.
    """
    return read_heads(heads_path(space), device)


def read_heads(path: Path, device: str = "cpu") -> dict[str, Head]:
    """The heads in a file, as :func:`load_heads`."""
    heads: dict[str, Head] = {}
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata()
        state = unpack({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    configs = json.loads(metadata["configs"])
    for side in ("text", "media"):
        head = _new_head(metadata.get("kind"), configs, side)
        head.load_state_dict(_part(state, side))
        heads[side] = head.eval().requires_grad_(False).to(device)
    return heads


def _new_head(kind: str | None, configs: Mapping[str, Any], side: str) -> Head:
    if kind == "pooled":
        return PooledHead(PooledConfig(**configs[side]))
    config = HeadConfig(**configs[side])
    if "prototypes" in configs:
        return PrototypeHead(config, PrototypeConfig(**configs["prototypes"]))
    return Head(config)


def load_scorer(space: str, device: str = "cpu") -> PrototypeScorer | None:
    """What compares the components of a space; None where its heads have no prototypes."""
    with safe_open(heads_path(space), framework="pt") as file:
        config = json.loads(file.metadata()["configs"]).get("prototypes")
        if config is None:
            return None
        names = [n for n in file.keys() if n.startswith("scorer.")]  # noqa: SIM118
        state = unpack({name: file.get_tensor(name) for name in names})
    scorer = PrototypeScorer(PrototypeConfig(**config))
    scorer.load_state_dict(_part(state, "scorer"))
    return scorer.eval().requires_grad_(False).to(device)


def _part(state: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    prefix = f"{name}."
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def num_components(space: str) -> int:
    """Components that the heads of a space give: the global feature, and prototypes where they are trained."""
    path = heads_path(space)
    return _num_components(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _num_components(path: Path, made_ns: int) -> int:  # noqa: ARG001 - the key of the cache
    with safe_open(path, framework="pt") as file:
        prototypes = json.loads(file.metadata()["configs"]).get("prototypes")
    return 1 if prototypes is None else 1 + PrototypeConfig(**prototypes).num_prototypes


class SemanticEncoder:
    """The encoders of one space. Loaded on first use; safe to call from several threads.

    Every method takes a list and returns float32 ``[n, 256]`` of unit norm; an item's vector does not depend on the
    other items. Raises InvalidField for an unknown space or input, NotFound for missing models or weights.
    """

    def __init__(self, space: str, device: str = "cpu") -> None:
        self.space = space
        self.task = task_of(space)
        self.device = device
        self._heads: dict[str, Head] | None = None
        self._networks: dict[str, FrozenNetwork] = {}
        self._lock = threading.Lock()

    def text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts, not empty; beyond 128 word pieces a text is cut."""
        return self.components("text", texts)[:, 0]

    def media(self, contents: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Vectors of contents of the task's modality (:mod:`semlink.semantics.modalities`)."""
        return self.components(task_spec(self.task).modality, contents)[:, 0]

    def components(self, modality: str, contents: Sequence[Any]) -> NDArray[np.float32]:
        """What a message may carry of texts or of contents of the task's modality: ``[n, num_components, 256]``.

        The most important comes first: the feature that the other methods give, then the prototypes, if there are any.
        """
        allowed = task_spec(self.task).queries
        if modality not in allowed:
            raise InvalidField(
                f"task {self.task!r} takes {' or '.join(allowed)}, not {modality!r}",
                field=f"query.{modality}",
            )
        if modality == "text":
            side, tokens = "text", text_tokens(contents, self.device)
        else:
            side, tokens = "media", modality_of(self.task).tokens(contents, self.device)
        network = self._network(side)
        parts = [
            network(tokens.values[i : i + _BATCH], tokens.mask[i : i + _BATCH])
            for i in range(0, len(tokens), _BATCH)
        ]
        vectors: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        return vectors

    def head(self, side: str) -> Head:
        """The trained head of ``side``, "text" or "media"."""
        with self._lock:
            if self._heads is None:
                self._heads = load_heads(self.space, self.device)
            return self._heads[side]

    def _network(self, side: str) -> FrozenNetwork:
        head = self.head(side)
        with self._lock:
            if side not in self._networks:
                width = (head.shape if isinstance(head, PooledHead) else head.config).in_dim
                self._networks[side] = FrozenNetwork(
                    f"head-{side}",
                    partial(_Components, head),
                    example=lambda: (torch.randn(2, 3, width), torch.ones(2, 3, dtype=torch.bool)),
                    shapes=([-1, -1, width], [-1, -1]),
                    identity=f"{heads_sha256(self.space)} {side}",
                    device=self.device,
                )
            return self._networks[side]


class _Components(torch.nn.Module):
    """A head's components ``[batch, num_components, 256]`` of tokens and their mask."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if isinstance(self.head, PrototypeHead):
            return self.head.components(values, mask)
        out: torch.Tensor = self.head(values, mask)
        return out[:, None]


@lru_cache(maxsize=8)
def _semantic_encoder(space: str, device: str, made_ns: int) -> SemanticEncoder:  # noqa: ARG001
    return SemanticEncoder(space, device)


def semantic_encoder(space: str, device: str = "cpu") -> SemanticEncoder:
    """The process's encoder of a space: services and the lab share one. Heads that were trained anew are seen.

    Raises InvalidField for an unknown space, NotFound when it has no heads.
    """
    with _lock:
        return _semantic_encoder(space, device, heads_path(space).stat().st_mtime_ns)


def prepare_networks() -> None:
    """Convert the networks of the built-in tasks into the cache, where that was not done yet."""
    for task in BUILT_IN:
        encoder, corpus = semantic_encoder(task), corpus_named(task_spec(task).corpus)
        encoder.text(["a first text"])
        encoder.media([corpus.content(corpus.items("test")[0].item_id)])
