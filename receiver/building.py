"""Indices of many vectors, built chunk by chunk: killed at any moment, a build goes on from its last checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from receiver.index import VectorIndex, describe
from receiver.segments import (
    TRAINING_ROWS,
    IndexParameters,
    add_rows,
    empty_hnsw,
    read_index,
    trained_ivf_pq,
    write_index,
)
from semlink.errors import InvalidField

Source = Callable[[int, int], NDArray[np.float32]]
"""``source(start, stop)``: those rows, float32 ``[stop - start, dim]``, unit norm; a slice of a memmap will do."""

CHUNK_ROWS: Final = 8192
CHECKPOINT_S: Final = 60.0
_STATE: Final = "build.json"


def build_index(
    directory: Path,
    source: Source,
    num_vectors: int,
    *,
    kind: Literal["hnsw", "ivf-pq"],
    label: str,
    parameters: IndexParameters | None = None,
    progress: Callable[[int], None] = lambda _: None,
    chunk_rows: int = CHUNK_ROWS,
    checkpoint_s: float = CHECKPOINT_S,
) -> VectorIndex:
    """The index of rows ``0:num_vectors`` of a source under the ids 0, 1, …, kept in ``directory``.

    ``label`` names the vectors (a digest, a corpus and its heads): what was built or begun from others is begun anew.
    ``progress`` is told the rows that are in, at the start and after every chunk. Every ``checkpoint_s`` seconds what
    is built is written; an interrupted build gives, in the end, the same index as one that ran through. At most a
    chunk and, for "ivf-pq", the training sample are held beside the index.
    """
    parameters = parameters or IndexParameters()
    if num_vectors < 1 or chunk_rows < 1:
        raise InvalidField(
            f"num_vectors is {num_vectors}, expected at least 1", field="num_vectors"
        )
    directory.mkdir(parents=True, exist_ok=True)
    wanted = {
        "kind": kind,
        "label": label,
        "num_vectors": num_vectors,
        "chunk_rows": chunk_rows,
        **asdict(_of_building(parameters)),
    }
    if _read(directory / "built.json") == wanted:
        progress(num_vectors)
        return VectorIndex.load(directory, parameters)
    index, done = _resumed(directory, wanted)
    if index is None:
        index, done = _begun(source, num_vectors, kind, parameters), 0
    written = time.monotonic()
    progress(done)
    while done < num_vectors:
        stop = min(done + chunk_rows, num_vectors)
        add_rows(index, source(done, stop))
        done = stop
        if time.monotonic() - written >= checkpoint_s and done < num_vectors:
            _checkpoint(directory, index, wanted, done)
            written = time.monotonic()
        progress(done)
    return _finish(directory, index, wanted, parameters)


def _of_building(parameters: IndexParameters) -> IndexParameters:
    """The parameters without those that only a search takes."""
    plain = IndexParameters()
    return IndexParameters(
        **{
            **asdict(parameters),
            "ef_search": plain.ef_search,
            "probes": plain.probes,
            "rescored": plain.rescored,
        }
    )


def _begun(source: Source, num_vectors: int, kind: str, parameters: IndexParameters) -> Any:
    dim = source(0, 1).shape[1]
    if kind == "hnsw":
        return empty_hnsw(dim, parameters)
    rows = min(num_vectors, TRAINING_ROWS * parameters.lists_for(num_vectors))
    pieces = min(rows, 64)  # stretches spread over all the rows: a memmap is read in few places
    starts = np.linspace(0, num_vectors - rows // pieces, pieces).astype(int).tolist()
    sample = np.concatenate([source(s, s + rows // pieces) for s in starts])
    return trained_ivf_pq(sample, num_vectors, parameters)


def _checkpoint(directory: Path, index: Any, wanted: dict[str, Any], done: int) -> None:
    path = directory / f"build-{done}.faiss"
    write_index(index, path)
    _write(directory / _STATE, {**wanted, "done": done})
    for old in directory.glob("build-*.faiss"):
        if old != path:
            old.unlink()


def _resumed(directory: Path, wanted: dict[str, Any]) -> tuple[Any, int]:
    state = _read(directory / _STATE)
    if state is None:
        return None, 0
    done = int(state.pop("done"))
    path = directory / f"build-{done}.faiss"
    if state != wanted or not path.is_file():
        return None, 0
    index = read_index(path)
    if wanted["kind"] == "hnsw":
        index.hnsw.efConstruction = wanted["ef_construction"]
    return index, done


def _finish(
    directory: Path, index: Any, wanted: dict[str, Any], parameters: IndexParameters
) -> VectorIndex:
    write_index(index, directory / "segment-1-0.faiss")
    with (directory / "segment-1-0.npy").open("wb") as file:
        np.save(file, np.arange(index.ntotal, dtype=np.int64))
    describe(directory, 1, wanted["kind"], int(index.d), ["segment-1-0"], "")
    _write(directory / "built.json", wanted)
    (directory / _STATE).unlink(missing_ok=True)
    for path in directory.glob("build-*.faiss"):
        path.unlink()
    del index
    return VectorIndex.load(directory, parameters)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content))
    temporary.replace(path)
