"""Vectors of a corpus's test gallery, computed once with the installed heads and shipped beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from semlink.corpora.registry import EMBEDDED, corpus_named
from semlink.errors import NotFound, SemlinkError
from semlink.semantics.encoders import heads_sha256
from semlink.settings import Settings


class StaleGallery(SemlinkError):
    """A gallery that other heads or another generator made: its vectors mean something else."""


@dataclass(frozen=True, slots=True)
class GalleryEmbeddings:
    """Vectors of a corpus's test split.

    ``item_ids``: the items in the corpus's order; ``items``: [num_items, 256], ``captions``: [num_captions, 256],
    item by item in the order of their captions; both float32, unit norm. On disk items are float16, captions int8 with
    a scale each (a cosine error below 1e-4), which keeps a gallery small enough to ship.
    """

    corpus: str
    item_ids: tuple[str, ...]
    items: NDArray[np.float32]
    captions: NDArray[np.float32]

    @classmethod
    def load(cls, corpus: str) -> Self:
        """The shipped gallery of an embedded corpus.

        Raises NotFound for an unknown corpus or a missing file, StaleGallery when it was made with other heads or
        another version of the generator than the installed ones; both name the command that makes it anew.
        """
        path = gallery_path(corpus)
        with safe_open(path, framework="numpy") as file:
            made_with: dict[str, str] = file.metadata()
            expected = provenance(corpus)
            for name, value in expected.items():
                if made_with.get(name) != value:
                    raise StaleGallery(
                        f"{path.name} was made with {name} {made_with.get(name)}, installed is {value}: "
                        f"run `semlink train gallery --corpus {corpus}`",
                        field="corpus",
                    )
            items = _unit(file.get_tensor("items").astype(np.float32))
            scale = file.get_tensor("caption_scale").astype(np.float32)
            captions = _unit(file.get_tensor("captions").astype(np.float32) * scale[:, None])
            ids = bytes(file.get_tensor("item_ids")).decode().split("\n")
        return cls(corpus=corpus, item_ids=tuple(ids), items=items, captions=captions)

    def save(self, path: Path) -> None:
        """Write the vectors with their provenance, whole or not at all."""
        scale = np.abs(self.captions).max(axis=1) / 127.0
        content: dict[str, NDArray[Any]] = {
            "items": self.items.astype(np.float16),
            "captions": np.rint(self.captions / scale[:, None]).astype(np.int8),
            "caption_scale": scale.astype(np.float32),
            "item_ids": np.frombuffer("\n".join(self.item_ids).encode(), dtype=np.uint8),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        save_file(content, temporary, provenance(self.corpus))
        # safetensors writes for the owner alone; an image's service runs as another user.
        temporary.chmod(0o644)
        temporary.replace(path)


def gallery_path(corpus: str) -> Path:
    """File of a corpus's gallery. Raises NotFound for an unknown corpus or a missing file."""
    if corpus not in EMBEDDED:
        raise NotFound(
            f"corpus {corpus!r} is unknown, known: {', '.join(EMBEDDED)}", field="corpus"
        )
    path = Settings().weights_dir / f"gallery-{corpus}.safetensors"
    if not path.is_file():
        raise NotFound(
            f"{path} is missing: run `semlink train gallery --corpus {corpus}`", field="corpus"
        )
    return path


def provenance(corpus: str) -> dict[str, str]:
    """What a gallery's vectors depend on: corpus, the generator's version and seed, the heads' SHA-256."""
    made = corpus_named(corpus)
    return {
        "corpus": corpus,
        "generator_version": str(generator_version(made)),
        "seed": str(getattr(made, "seed", "")),
        "heads_sha256": heads_sha256(EMBEDDED[corpus]),
    }


def generator_version(corpus: object) -> int:
    """``GENERATOR_VERSION`` of the module or package that defines a corpus's class."""
    import importlib

    module = type(corpus).__module__
    for name in (module, module.rpartition(".")[0]):
        version = getattr(importlib.import_module(name), "GENERATOR_VERSION", None)
        if version is not None:
            return int(version)
    raise TypeError(f"{module} has no GENERATOR_VERSION")


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
