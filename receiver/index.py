"""Vectors by inner product behind one interface: exact, HNSW or IVF-PQ, changed while it is searched.

The index is a stack: immutable faiss :class:`~receiver.segments.Segment`\\ s, then a *tail* of plain vectors that is
searched exactly. New vectors go to the tail; a removed one is taken out of the tail, or marked dead in its segment,
which every search from then on skips. Of kind "exact" there is the tail alone. Otherwise a tail that has grown is
*compacted* into a segment, small segments are merged and those with many dead rows rebuilt, in a thread of its own,
from copies: faiss indices cannot grow while they are searched, so none is ever changed.

Searches share a lock that a mutation holds alone for as long as it takes to write a few rows. So a search sees all of
a mutation or nothing; and ``remove`` returns when no search that saw the removed rows is under way any more.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, Final, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from receiver.locks import ReadersWriterLock
from receiver.segments import (
    INDEX_KINDS,
    TRAINING_ROWS,
    IndexKind,
    IndexParameters,
    Segment,
    add_rows,
    empty_hnsw,
    read_index,
    trained_ivf_pq,
)
from semlink.errors import InvalidField
from semlink.settings import Settings

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]

SEGMENT_ROWS: Final = 8192
"""A tail of so many rows becomes a segment."""
MAX_SEGMENTS: Final = 6
"""More than these, and the smaller ones are merged."""
MAX_DELETED: Final = 0.25
"""A segment with a larger share of dead rows is rebuilt."""
MIN_ROWS_FOR_LISTS: Final = 4096
"""An inverted file of fewer vectors has nothing to gain over a scan: they wait in the tail."""
_DESCRIPTION: Final = "index.json"


def kind_for(num_vectors: int, settings: Settings) -> IndexKind:
    """The kind that settings choose for so many vectors.

    Exact up to ``gallery_exact_limit``, then HNSW, quicker than IVF-PQ at 100,000; beyond ``gallery_graph_limit``
    IVF-PQ, quicker and smaller at a million (``semlink bench gallery``).
    """
    if settings.gallery_index != "auto":
        return settings.gallery_index
    if num_vectors <= settings.gallery_exact_limit:
        return "exact"
    return "hnsw" if num_vectors <= settings.gallery_graph_limit else "ivf-pq"


class VectorIndex:
    """Vectors of unit norm under int64 ids, searched by inner product. Safe to call from several threads.

    Deterministic: the same sequence of calls, with :meth:`wait_until_idle` after each, gives the same answers.
    """

    def __init__(
        self, kind: IndexKind, dim: int, parameters: IndexParameters | None = None
    ) -> None:
        if kind not in INDEX_KINDS:
            raise InvalidField(f"kind is {kind!r}, allowed: {', '.join(INDEX_KINDS)}", field="kind")
        self.kind: IndexKind = kind
        self.dim = dim
        self.parameters = parameters or IndexParameters()
        self._lock = ReadersWriterLock()
        self._mutating = threading.RLock()  # one mutation or change of segments at a time
        self._segments: list[Segment] = []
        self._tail = _Tail(dim)
        self._compacting: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __len__(self) -> int:
        """Vectors that count."""
        with self._lock.reading():
            return sum(s.num_alive for s in self._segments) + len(self._tail)

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """The ``k`` greatest inner products of each query (``[batch, dim]``) and whose they are, best first.

        float32 and int64, ``[batch, k]``; −inf and −1 where there are fewer. Of kind "hnsw" and "ivf-pq" segments
        hold vectors in float16 (a score error below 1e-3) and may miss some. Raises InvalidField for a bad shape.
        """
        queries = self._checked(queries, field="queries")
        if k < 1:
            raise InvalidField(f"k is {k}, expected at least 1", field="k")
        with self._lock.reading():
            found = [segment.search(queries, k) for segment in self._segments]
            found.append(self._tail.search(queries, k))
        scores = np.concatenate([s for s, _ in found], axis=1)
        ids = np.concatenate([i for _, i in found], axis=1)
        order = np.lexsort((ids, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)

    def add(self, ids: Ids, vectors: Vectors) -> None:
        """Add vectors ``[n, dim]`` under new ids. Raises InvalidField for an id that is there, or twice among them."""
        ids, vectors = self._paired(ids, vectors)
        with self._mutating:
            there = self._contains(ids)
            if there.any():
                raise InvalidField(f"id {ids[there][0]} is in the index already", field="ids")
            self._tail.reserve(len(ids))
            with self._lock.writing():
                self._tail.add(ids, vectors)
            self._compact_if_due()

    def remove(self, ids: Ids) -> None:
        """Remove vectors; when it returns no search returns them any more. Raises InvalidField for an unknown id."""
        ids = self._distinct(ids)
        with self._mutating:
            self._require(ids)
            with self._lock.writing():
                self._delete(ids)
            self._compact_if_due()

    def replace(self, ids: Ids, vectors: Vectors) -> None:
        """Give ids other vectors; no search finds neither or both. Raises InvalidField for an unknown id."""
        ids, vectors = self._paired(ids, vectors)
        with self._mutating:
            self._require(ids)
            self._tail.reserve(len(ids))
            with self._lock.writing():
                self._delete(ids)
                self._tail.add(ids, vectors)
            self._compact_if_due()

    def vectors(self, ids: Ids) -> Vectors:
        """The stored vectors of some ids, float32 ``[n, dim]``. Raises InvalidField for an unknown id."""
        ids = np.asarray(ids, dtype=np.int64)
        out = np.empty((len(ids), self.dim), dtype=np.float32)
        with self._lock.reading():
            missing = ~self._tail.fetch(ids, out)
            for segment in self._segments:
                rows = segment.rows_of(ids)
                held = rows >= 0
                if held.any():
                    out[held] = segment.vectors(rows[held])
                    missing &= ~held
        if missing.any():
            raise InvalidField(f"id {ids[missing][0]} is not in the index", field="ids")
        return out

    @property
    def memory_bytes(self) -> int:
        """Bytes that vectors, codes, links and ids take."""
        with self._lock.reading():
            return sum(s.memory_bytes for s in self._segments) + self._tail.memory_bytes

    def search_with(self, parameters: IndexParameters) -> None:
        """Search with another breadth (``ef_search``, ``probes``, ``rescored``) from now on."""
        with self._mutating, self._lock.writing():
            self.parameters = parameters
            for segment in self._segments:
                segment.parameters = parameters

    def wait_until_idle(self) -> None:
        """Wait until nothing is being compacted or merged. Raises what went wrong in doing so."""
        while (thread := self._compacting) is not None:
            thread.join()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    # --- files ---------------------------------------------------------------------------------

    def save(self, directory: Path) -> None:
        """Write the index; a reader of the directory finds the old or the new one, whole."""
        self.wait_until_idle()
        directory.mkdir(parents=True, exist_ok=True)
        with self._mutating:
            version = _version(directory) + 1
            for number, segment in enumerate(self._segments):
                segment.write(directory / f"segment-{version}-{number}.faiss")
            alive = [s.alive for s in self._segments] or [np.zeros(0, dtype=np.bool_)]
            np.savez(
                directory / f"tail-{version}.npz",
                ids=self._tail.ids,
                vectors=self._tail.rows,
                alive=np.concatenate(alive),
            )
            describe(
                directory,
                version,
                self.kind,
                self.dim,
                [f"segment-{version}-{n}" for n in range(len(self._segments))],
                f"tail-{version}",
            )

    @classmethod
    def load(cls, directory: Path, parameters: IndexParameters | None = None) -> Self:
        """Read a saved or built index. Raises InvalidField when there is none."""
        path = directory / _DESCRIPTION
        if not path.is_file():
            raise InvalidField(f"{directory} holds no finished index", field="directory")
        about = json.loads(path.read_text())
        index = cls(about["kind"], about["dim"], parameters)
        alive = None
        if about["tail"]:
            with np.load(directory / f"{about['tail']}.npz") as tail:
                index._tail.add(tail["ids"], tail["vectors"])
                alive = tail["alive"]
        start = 0
        for name in about["segments"]:
            ids = np.load(directory / f"{name}.npy")
            living = None if alive is None else alive[start : start + len(ids)]
            faiss_index = read_index(directory / f"{name}.faiss")
            index._segments.append(Segment(faiss_index, ids, index.parameters, living))
            start += len(ids)
        return index

    # --- inside --------------------------------------------------------------------------------

    def _checked(self, vectors: Vectors, *, field: str) -> Vectors:
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise InvalidField(
                f"{field} has shape {vectors.shape}, expected [n, {self.dim}]", field=field
            )
        return vectors

    def _distinct(self, ids: Ids) -> Ids:
        ids = np.asarray(ids, dtype=np.int64)
        if ids.ndim != 1 or len(np.unique(ids)) != len(ids) or bool((ids < 0).any()):
            raise InvalidField("ids must be one row of distinct numbers from 0 on", field="ids")
        return ids

    def _paired(self, ids: Ids, vectors: Vectors) -> tuple[Ids, Vectors]:
        ids, vectors = self._distinct(ids), self._checked(vectors, field="vectors")
        if len(ids) != len(vectors):
            raise InvalidField(f"{len(vectors)} vectors, {len(ids)} ids", field="vectors")
        return ids, vectors

    def _contains(self, ids: Ids) -> NDArray[np.bool_]:
        there = self._tail.contains(ids)
        for segment in self._segments:
            there |= segment.rows_of(ids) >= 0
        return there

    def _require(self, ids: Ids) -> None:
        there = self._contains(ids)
        if not there.all():
            raise InvalidField(f"id {ids[~there][0]} is not in the index", field="ids")

    def _delete(self, ids: Ids) -> None:
        self._tail.remove(ids)
        for segment in self._segments:
            rows = segment.rows_of(ids)
            segment.delete(rows[rows >= 0])

    def _compact_if_due(self) -> None:
        """Start a thread that seals, merges or rebuilds, unless one runs or nothing is due."""
        if self.kind == "exact" or self._compacting is not None or self._due() is None:
            return
        self._compacting = threading.Thread(target=self._compact, name="semlink-index", daemon=True)
        self._compacting.start()

    def _due(self) -> list[Segment] | None:
        """The segments to build anew together with the tail; None when nothing is due."""
        ranked = sorted(self._segments, key=lambda s: s.num_alive)
        worn = [s for s in ranked if s.num_alive < (1.0 - MAX_DELETED) * len(s)]
        full = len(self._tail) >= SEGMENT_ROWS
        if full and len(ranked) >= MAX_SEGMENTS:
            return list(dict.fromkeys([*ranked[: MAX_SEGMENTS // 2], *worn]))
        return worn if full or worn else None

    def _compact(self) -> None:
        try:
            while True:
                with self._mutating:
                    gone = self._due()
                    if gone is None:
                        self._compacting = None
                        return
                    # Copies of what may change while the new segment is built; a segment's vectors never do.
                    tail = self._tail.ids.copy(), self._tail.rows.copy()
                    alive = [np.flatnonzero(s.alive) for s in gone]
                segments = list(zip(gone, alive, strict=True))
                ids = np.concatenate([tail[0], *(s.ids[rows] for s, rows in segments)])
                rows = np.concatenate([tail[1], *(s.vectors(rows) for s, rows in segments)])
                built = self._build(ids, rows)
                with self._mutating, self._lock.writing():
                    self._exchange(built, gone, rows)
        except BaseException as failure:
            self._failure, self._compacting = failure, None
            raise

    def _build(self, ids: Ids, rows: Vectors) -> Segment | None:
        if len(ids) < MIN_ROWS_FOR_LISTS:
            return None
        if self.kind == "hnsw":
            index = empty_hnsw(self.dim, self.parameters)
        else:
            index = trained_ivf_pq(
                training_sample(rows, self.parameters), len(rows), self.parameters
            )
        add_rows(index, rows)
        return Segment(index, ids, self.parameters)

    def _exchange(self, built: Segment | None, gone: list[Segment], rows: Vectors) -> None:
        """Put the new segment in the place of the old ones; what changed meanwhile stays changed."""
        kept = [s for s in self._segments if s not in gone]
        if built is None:  # too few are left for a segment: back to the tail
            for segment in gone:
                living = np.flatnonzero(segment.alive)
                self._tail.add(segment.ids[living], segment.vectors(living))
            self._segments = kept
            return
        tail = self._tail.rows_of(built.ids)
        same = np.zeros(len(built), dtype=np.bool_)
        held = tail >= 0
        # A row of the tail that is as it was moves; one replaced meanwhile stays in the tail.
        same[held] = (self._tail.rows[tail[held]] == rows[held]).all(axis=1)
        moved = built.ids[same]
        for segment in gone:
            same |= segment.rows_of(built.ids) >= 0
        built.delete(np.flatnonzero(~same))
        self._tail.remove(moved)
        self._segments = [*kept, built]


class _Tail:
    """Plain vectors with ids; no gaps: the last row moves to the place of a removed one. Not locked."""

    def __init__(self, dim: int) -> None:
        self._vectors = np.empty((0, dim), dtype=np.float32)
        self._ids = np.empty(0, dtype=np.int64)
        self._row: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._row)

    @property
    def ids(self) -> Ids:
        return self._ids[: len(self._row)]

    @property
    def rows(self) -> Vectors:
        return self._vectors[: len(self._row)]

    @property
    def memory_bytes(self) -> int:
        # A dict entry of two small integers takes about 100 bytes.
        return int(self._vectors.nbytes + self._ids.nbytes) + 100 * len(self._row)

    def rows_of(self, ids: Ids) -> Ids:
        return np.array([self._row.get(i, -1) for i in ids.tolist()], dtype=np.int64)

    def contains(self, ids: Ids) -> NDArray[np.bool_]:
        return self.rows_of(ids) >= 0

    def fetch(self, ids: Ids, out: Vectors) -> NDArray[np.bool_]:
        """Write the vectors of the ids that are here into their rows of ``out``; says which."""
        rows = self.rows_of(ids)
        held: NDArray[np.bool_] = rows >= 0
        out[held] = self._vectors[rows[held]]
        return held

    def reserve(self, more: int) -> None:
        """Room for so many more. Searches may go on: what they read stands in the old place and in the new one."""
        n = len(self._row)
        if n + more <= len(self._ids):
            return
        room = max(n + more, 2 * n)
        vectors = np.empty((room, self._vectors.shape[1]), dtype=np.float32)
        vectors[:n] = self.rows
        ids = np.empty(room, dtype=np.int64)
        ids[:n] = self.ids
        self._vectors, self._ids = vectors, ids

    def add(self, ids: Ids, vectors: Vectors) -> None:
        n, more = len(self._row), len(ids)
        self.reserve(more)
        self._vectors[n : n + more] = vectors
        self._ids[n : n + more] = ids
        self._row.update(zip(ids.tolist(), range(n, n + more), strict=True))

    def remove(self, ids: Ids) -> None:
        """Take out those ids that are here."""
        for i in ids.tolist():
            row = self._row.pop(i, None)
            if row is None:
                continue
            last = len(self._row)
            if row != last:
                self._vectors[row] = self._vectors[last]
                self._ids[row] = self._ids[last]
                self._row[int(self._ids[last])] = row

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        n = len(self._row)
        wanted = min(k, n)
        if not wanted or not len(queries):
            return (
                np.full((len(queries), k), -np.inf, dtype=np.float32),
                np.full((len(queries), k), -1, dtype=np.int64),
            )
        scores, rows = faiss.knn(queries, self.rows, wanted, metric=faiss.METRIC_INNER_PRODUCT)
        short = ((0, 0), (0, k - wanted))
        return (
            np.pad(scores, short, constant_values=-np.inf),
            np.pad(self._ids[rows], short, constant_values=-1),
        )


def training_sample(rows: Vectors, parameters: IndexParameters) -> Vectors:
    """Rows, evenly spread, on which an inverted file of ``rows`` is trained."""
    wanted = max(MIN_ROWS_FOR_LISTS, TRAINING_ROWS * parameters.lists_for(len(rows)))
    step = max(1, len(rows) // wanted)
    return np.ascontiguousarray(rows[::step], dtype=np.float32)


def describe(
    directory: Path, version: int, kind: IndexKind, dim: int, segments: list[str], tail: str
) -> None:
    """Make written files the directory's index, at once, and delete those of the one before."""
    about: dict[str, Any] = {
        "version": version,
        "kind": kind,
        "dim": dim,
        "segments": segments,
        "tail": tail,
    }
    temporary = directory / f"{_DESCRIPTION}.part"
    temporary.write_text(json.dumps(about))
    temporary.replace(directory / _DESCRIPTION)
    kept = {*segments, tail}
    for path in directory.iterdir():
        if path.stem not in kept and path.name.startswith(("segment-", "tail-")):
            path.unlink()


def _version(directory: Path) -> int:
    path = directory / _DESCRIPTION
    return int(json.loads(path.read_text())["version"]) if path.is_file() else 0
