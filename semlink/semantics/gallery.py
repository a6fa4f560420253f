"""Vectors of a corpus's gallery, computed once with the installed heads and kept beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from semlink.corpora.registry import (
    added_corpora,
    corpus_folder,
    corpus_named,
    embedded_corpora,
    generator_version,
    task_of_corpus,
)
from semlink.errors import InvalidField, NotFound, SemlinkError
from semlink.formats import FORMATS, GALLERY, check_format
from semlink.semantics.encoders import heads_sha256
from semlink.semantics.int8_tensors import SCALE
from semlink.semantics.product_codes import CENTROIDS, ProductCodes
from semlink.semantics.spaces import space_of, weights_folder

_VECTORS: Final = ("items", "captions", "item_prototypes", "caption_prototypes")
_CODED: Final = ("item_prototypes", "caption_prototypes")
_CODE_BYTES: Final = 16
"""Bytes of a prototype on disk, a sixteenth of its global feature's: they only re-order candidates."""
_MIN_CODED: Final = 4 * CENTROIDS
"""Fewer prototypes than this are stored as the other vectors are: the codebooks would be larger than they."""
_BIASES: Final = ("caption_bias", "caption_bias_global")


class StaleGallery(SemlinkError):
    """A gallery that other heads or another generator made: its vectors mean something else."""


@dataclass(frozen=True, slots=True)
class GalleryEmbeddings:
    """Vectors of the items of a corpus that its gallery holds, with their captions.

    ``item_ids``: the items in the corpus's order; ``items``: ``[num_items, 256]``; ``captions``:
    ``[num_captions, 256]``, item by item in the order of their captions. Where the heads make K prototypes:
    ``item_prototypes`` ``[num_items, K, 256]`` and ``caption_prototypes`` ``[num_captions, K, 256]``, else None. All
    float32, unit norm. ``caption_bias`` and ``caption_bias_global``, float32 ``[num_captions]`` or None: what Sinkhorn
    normalisation of the training queries' scores (GPA, eq. 10) adds to each caption's score, by prototypes and by
    global features.

    On disk vectors are int8 with a scale each (a cosine error near 1e-4) and prototypes, where there are many, product
    codes (:mod:`semlink.semantics.product_codes`), which keeps a gallery small enough to ship.
    """

    corpus: str
    item_ids: tuple[str, ...]
    items: NDArray[np.float32]
    captions: NDArray[np.float32]
    item_prototypes: NDArray[np.float32] | None = None
    caption_prototypes: NDArray[np.float32] | None = None
    caption_bias: NDArray[np.float32] | None = None
    caption_bias_global: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if len(self.items) != len(self.item_ids):
            raise InvalidField(
                f"{len(self.items)} items, {len(self.item_ids)} item ids", field="items"
            )
        if (self.item_prototypes is None) != (self.caption_prototypes is None):
            raise InvalidField(
                "prototypes must be given for items and captions alike", field="item_prototypes"
            )
        for name in (
            "item_prototypes",
            "caption_prototypes",
            "caption_bias",
            "caption_bias_global",
        ):
            array = getattr(self, name)
            expected = len(self.items) if name == "item_prototypes" else len(self.captions)
            if array is not None and len(array) != expected:
                raise InvalidField(f"{name} has {len(array)} rows, expected {expected}", field=name)

    @property
    def num_prototypes(self) -> int:
        """K: prototypes of each item and caption, 0 where the heads make none."""
        return 0 if self.item_prototypes is None else int(self.item_prototypes.shape[1])

    @classmethod
    def load(cls, corpus: str) -> Self:
        """The gallery of an embedded or added corpus.

        Raises NotFound for an unknown corpus or a missing file, StaleGallery when it was made with other heads or
        another version of the corpus than the installed ones; both name the command that makes it anew.
        """
        path = gallery_path(corpus)
        with safe_open(path, framework="numpy") as file:
            made_with: dict[str, str] = file.metadata()
            advice = f"run `semlink train gallery --corpus {corpus}`"
            check_format(GALLERY, made_with.get("format"), str(path), advice)
            for name, value in provenance(corpus).items():
                if made_with.get(name) != value:
                    raise StaleGallery(
                        f"{path} was made with {name} {made_with.get(name)}, installed is {value}: {advice}",
                        field="corpus",
                    )
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        vectors = {name: _restored(stored, name) for name in _VECTORS if name in stored}
        vectors |= {name: _decoded(stored, name) for name in _CODED if f"{name}@codes" in stored}
        biases = {name: stored[name] for name in _BIASES if name in stored}
        ids = tuple(bytes(stored["item_ids"]).decode().split("\n"))
        return cls(corpus=corpus, item_ids=ids, **vectors, **biases)

    def save(self, path: Path) -> None:
        """Write the vectors with their provenance, whole or not at all."""
        content: dict[str, NDArray[Any]] = {
            "item_ids": np.frombuffer("\n".join(self.item_ids).encode(), dtype=np.uint8)
        }
        for name in _VECTORS:
            vectors = getattr(self, name)
            if vectors is None:
                continue
            coded = name in _CODED and vectors.shape[0] * vectors.shape[1] >= _MIN_CODED
            content |= (_coded if coded else _packed)(name, vectors)
        for name in _BIASES:
            bias = getattr(self, name)
            if bias is not None:
                content[name] = np.ascontiguousarray(bias, dtype=np.float32)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        metadata = {"format": str(FORMATS[GALLERY]), **provenance(self.corpus)}
        save_file(content, temporary, metadata)
        # safetensors writes for the owner alone; an image's service runs as another user.
        temporary.chmod(0o644)
        temporary.replace(path)


def _packed(name: str, vectors: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Vectors as int8 and, under ``name@scale``, what each is to be multiplied by."""
    scale = np.maximum(np.abs(vectors).max(axis=-1, keepdims=True), 1e-12) / 127.0
    return {
        name: np.rint(vectors / scale).astype(np.int8),
        name + SCALE: scale.astype(np.float32),
    }


def _coded(name: str, vectors: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Prototypes ``[n, K, dim]`` as product codes, under ``name@codes`` and what turns codes into vectors."""
    codes = ProductCodes.fit(vectors.reshape(-1, vectors.shape[-1]), _CODE_BYTES)
    return {
        f"{name}@codes": codes.codes.reshape(*vectors.shape[:2], -1),
        f"{name}@codebooks": codes.codebooks,
        f"{name}@axes": codes.axes,
        f"{name}@mean": codes.mean,
    }


def _decoded(stored: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    codes = stored[f"{name}@codes"]
    found = ProductCodes(
        codes.reshape(-1, codes.shape[-1]),
        stored[f"{name}@codebooks"],
        stored[f"{name}@axes"],
        stored[f"{name}@mean"],
    )
    return _unit(found.vectors().reshape(*codes.shape[:2], -1))


def _restored(stored: Mapping[str, NDArray[Any]], name: str) -> NDArray[np.float32]:
    return _unit(stored[name].astype(np.float32) * stored[name + SCALE])


def gallery_file(corpus: str) -> Path:
    """Where a corpus's gallery lies or will lie. Raises NotFound for an unknown corpus."""
    task = task_of_corpus(corpus)
    if corpus in embedded_corpora():
        return weights_folder(task) / f"gallery-{corpus}.safetensors"
    return corpus_folder(corpus) / "gallery.safetensors"


def gallery_path(corpus: str) -> Path:
    """File of a corpus's gallery. Raises NotFound for an unknown corpus or a missing file."""
    path = gallery_file(corpus)
    if not path.is_file():
        raise NotFound(
            f"{path} is missing: run `semlink train gallery --corpus {corpus}`", field="corpus"
        )
    return path


def provenance(corpus: str) -> dict[str, str]:
    """What a gallery's vectors depend on: corpus, its version and seed or where it was read, the heads' SHA-256."""
    known = {"corpus": corpus, "heads_sha256": heads_sha256(space_of(corpus))}
    record = added_corpora().get(corpus)
    if record is not None:
        return known | {"reader": record.reader, "root": record.root, "split": record.split}
    made = corpus_named(corpus)
    return known | {
        "generator_version": str(generator_version(made)),
        "seed": str(getattr(made, "seed", "")),
    }


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
