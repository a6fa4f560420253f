"""Parts of an index that are built once: a faiss graph or inverted file, and which of its rows still count."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from semlink.errors import InvalidField

faiss: Any = _faiss
"""Untyped: its stubs know neither the search parameters nor the fields of the indices."""

IndexKind = Literal["exact", "hnsw", "ivf-pq"]
INDEX_KINDS: Final[tuple[IndexKind, ...]] = get_args(IndexKind)

TRAINING_ROWS: Final = 40
"""Training vectors for each inverted list, what faiss asks at least."""


@dataclass(frozen=True, slots=True)
class IndexParameters:
    """How an approximate index is built and searched.

    HNSW (Malkov and Yashunin, arXiv 1603.09320): ``links`` M of a node, breadth ``ef_construction`` and ``ef_search``.
    IVF-PQ (Jégou et al., doi 10.1109/TPAMI.2010.57): ``lists`` of the inverted file (0: 4·√n), ``code_bytes`` of the
    product quantiser a vector (four bits a subvector), ``probes`` lists searched, and ``rescored`` × k candidates whose
    inner product is computed anew from the stored float16 vectors.
    """

    links: int = 16
    ef_construction: int = 100
    ef_search: int = 128
    lists: int = 0
    code_bytes: int = 64
    probes: int = 192
    rescored: int = 20

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < (0 if name == "lists" else 1):
                raise InvalidField(f"{name} is {value}, allowed: 1 or more", field=name)

    def lists_for(self, num_vectors: int) -> int:
        """Inverted lists of a part of that size."""
        return self.lists or max(1, min(4 * round(num_vectors**0.5), num_vectors))


def empty_hnsw(dim: int, parameters: IndexParameters) -> Any:
    """An HNSW graph over float16 vectors, nothing in it."""
    index = faiss.IndexHNSWSQ(
        dim, faiss.ScalarQuantizer.QT_fp16, parameters.links, faiss.METRIC_INNER_PRODUCT
    )
    index.hnsw.efConstruction = parameters.ef_construction
    # A float16 scalar quantiser learns nothing from data, faiss only wants to be asked.
    index.train(np.zeros((1, dim), dtype=np.float32))
    return index


def trained_ivf_pq(
    sample: NDArray[np.float32], num_vectors: int, parameters: IndexParameters
) -> Any:
    """An inverted file of product-quantised residuals over float16 vectors, trained on a sample, nothing in it."""
    dim = sample.shape[1]
    lists = min(parameters.lists_for(num_vectors), len(sample))
    coarse = faiss.IndexFlatIP(dim)
    inverted = faiss.IndexIVFPQFastScan(
        coarse, dim, lists, 2 * parameters.code_bytes, 4, faiss.METRIC_INNER_PRODUCT
    )
    inverted.own_fields = True
    coarse.this.disown()
    inverted.cp.spherical = True
    inverted.cp.niter = 10
    inverted.cp.min_points_per_centroid = 1
    inverted.pq.cp.min_points_per_centroid = 1
    vectors = faiss.IndexScalarQuantizer(
        dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    index = faiss.IndexRefine(inverted, vectors)
    index.own_fields = index.own_refine_index = True
    inverted.this.disown()
    vectors.this.disown()
    index.train(sample)
    return index


def add_rows(index: Any, vectors: NDArray[np.float32]) -> None:
    """Append vectors to an index on one thread: with several, a graph's edges would depend on their race.

    The levels that HNSW draws are seeded by the row, so that a build that was interrupted draws them the same.
    """
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        if isinstance(index, faiss.IndexHNSW):
            index.hnsw.rng = faiss.RandomGenerator(12_345 + index.ntotal)
        index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    finally:
        faiss.omp_set_num_threads(threads)


class Segment:
    """A built index over rows with ids, some of which no longer count.

    Only :meth:`delete` changes it; the caller keeps that apart from searches.
    """

    def __init__(
        self,
        index: Any,
        ids: NDArray[np.int64],
        parameters: IndexParameters,
        alive: NDArray[np.bool_] | None = None,
    ) -> None:
        if index.ntotal != len(ids):
            raise ValueError(f"{index.ntotal} vectors, {len(ids)} ids")
        self.index = index
        self.ids = np.ascontiguousarray(ids, dtype=np.int64)
        self.parameters = parameters
        alive = np.ones(len(ids), dtype=np.bool_) if alive is None else alive
        self._alive_bits = np.packbits(alive, bitorder="little")
        self._order = (
            None if len(ids) < 2 or bool((np.diff(self.ids) > 0).all()) else np.argsort(self.ids)
        )
        self.num_alive = int(alive.sum())

    def __len__(self) -> int:
        """Rows, dead ones too."""
        return len(self.ids)

    @property
    def kind(self) -> IndexKind:
        """What was built."""
        return "hnsw" if isinstance(self.index, faiss.IndexHNSW) else "ivf-pq"

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Which rows count, ``[rows]``."""
        return np.unpackbits(self._alive_bits, count=len(self.ids), bitorder="little").astype(
            np.bool_
        )

    def rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The living row of each id, −1 where there is none."""
        if not len(self.ids):
            return np.full(len(ids), -1, dtype=np.int64)
        place = np.searchsorted(self.ids, ids, sorter=self._order).clip(max=len(self.ids) - 1)
        rows = place if self._order is None else self._order[place]
        living = (self._alive_bits[rows // 8] >> (rows % 8).astype(np.uint8)) & 1
        found: NDArray[np.int64] = np.where((self.ids[rows] == ids) & (living == 1), rows, -1)
        return found

    def delete(self, rows: NDArray[np.int64]) -> None:
        """These living, distinct rows count no longer."""
        np.bitwise_and.at(
            self._alive_bits, rows // 8, ~(np.uint8(1) << (rows % 8).astype(np.uint8))
        )
        self.num_alive -= len(rows)

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and ids ``[batch, k]`` of living rows, best first; −inf and −1 where there are fewer."""
        selector = None
        if self.num_alive < len(self.ids):
            selector = faiss.IDSelectorBitmap(self._alive_bits)
        p = self.parameters
        wanted = min(k, len(self.ids))
        if self.kind == "hnsw":
            how = faiss.SearchParametersHNSW(efSearch=max(p.ef_search, 2 * k), sel=selector)
        else:
            probing = faiss.SearchParametersIVF(nprobe=p.probes, sel=selector)
            how = faiss.IndexRefineSearchParameters(
                k_factor=float(p.rescored), base_index_params=probing
            )
        scores, rows = self.index.search(queries, wanted, params=how)
        missing = rows < 0
        ids = np.where(missing, -1, self.ids[rows])
        scores = np.where(missing, -np.inf, scores).astype(np.float32)
        short = ((0, 0), (0, k - wanted))
        return (
            np.pad(scores, short, constant_values=-np.inf),
            np.pad(ids, short, constant_values=-1),
        )

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The stored vectors of some rows, ``[len(rows), dim]``, as they were rounded to float16."""
        stored = self.index.storage if self.kind == "hnsw" else self.index.refine_index
        out: NDArray[np.float32] = faiss.downcast_index(stored).reconstruct_batch(rows)
        return out

    @property
    def memory_bytes(self) -> int:
        """Bytes of vectors, codes, links and ids."""
        own = int(self.ids.nbytes + self._alive_bits.nbytes)
        own += 0 if self._order is None else int(self._order.nbytes)
        return own + faiss_bytes(self.index)

    def write(self, path: Path) -> None:
        """Write the index to ``path`` and the ids beside it."""
        write_index(self.index, path)
        with path.with_suffix(".npy").open("wb") as file:
            np.save(file, self.ids)


def faiss_bytes(index: Any) -> int:
    """Bytes that a graph or an inverted file with its vectors takes in memory."""
    n = int(index.ntotal)
    if isinstance(index, faiss.IndexHNSW):
        links = int(index.hnsw.neighbors.size()) * 4 + int(index.hnsw.offsets.size()) * 8 + 4 * n
        return links + int(faiss.downcast_index(index.storage).codes.size())
    inverted = faiss.downcast_index(index.base_index)
    coarse = 4 * int(inverted.nlist) * int(index.d)
    return n * (int(inverted.code_size) + 8 + 2 * int(index.d)) + coarse


def write_index(index: Any, path: Path) -> None:
    """Write a faiss index, whole or not at all."""
    temporary = path.with_suffix(".part")
    faiss.write_index(index, str(temporary))
    temporary.replace(path)


def read_index(path: Path) -> Any:
    """Read a faiss index as its own type."""
    return faiss.read_index(str(path))
