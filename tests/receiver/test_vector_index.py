"""Every kind of index: finds what a scan finds, keeps its word while it is changed, survives a delete as it is
built."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from receiver import index as index_module
from receiver.building import build_index
from receiver.index import VectorIndex, kind_for
from receiver.segments import INDEX_KINDS, IndexKind, IndexParameters
from semlink.errors import InvalidField
from semlink.settings import Settings

DIM = 32
QUICK = IndexParameters(
    links=16, ef_construction=64, ef_search=200, lists=16, code_bytes=16, probes=16
)


def unit(rng: np.random.Generator, n: int, dim: int = DIM) -> np.ndarray:  # type: ignore[type-arg]
    x = rng.normal(size=(n, dim)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def scan(queries, ids, vectors, k):  # type: ignore[no-untyped-def]
    """The answer by the definition."""
    scores = queries @ vectors.T
    order = np.lexsort((np.broadcast_to(ids, scores.shape), -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), ids[order]


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that some hundreds of vectors already make segments, merges and rebuilds."""
    monkeypatch.setattr(index_module, "SEGMENT_ROWS", 300)
    monkeypatch.setattr(index_module, "MIN_ROWS_FOR_LISTS", 200)
    monkeypatch.setattr(index_module, "MAX_SEGMENTS", 3)


def filled(kind: IndexKind, n: int = 2000) -> tuple[VectorIndex, np.ndarray]:  # type: ignore[type-arg]
    vectors = unit(np.random.default_rng(1), n)
    index = VectorIndex(kind, DIM, QUICK)
    for start in range(0, n, 250):
        index.add(np.arange(start, min(start + 250, n)), vectors[start : start + 250])
        index.wait_until_idle()
    return index, vectors


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_finds_what_a_scan_finds(kind: IndexKind) -> None:
    index, vectors = filled(kind)
    queries = unit(np.random.default_rng(2), 50)
    scores, ids = index.search(queries, 10)
    _, true_ids = scan(queries, np.arange(2000), vectors, 10)
    recall = (ids[:, :, None] == true_ids[:, None, :]).any(1).mean()
    assert recall >= (1.0 if kind == "exact" else 0.97)
    own = np.einsum("qd,qkd->qk", queries, vectors[ids])
    np.testing.assert_allclose(scores, own, atol=1e-5 if kind == "exact" else 1e-3)
    assert (np.diff(scores, axis=1) <= 0).all()
    if kind == "exact":
        np.testing.assert_array_equal(ids, true_ids)
    else:
        assert index._segments, "nothing was compacted: this test would not test the kind"


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_same_calls_same_answers(kind: IndexKind) -> None:
    queries = unit(np.random.default_rng(2), 50)
    one, two = (filled(kind)[0].search(queries, 10) for _ in range(2))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_follows_a_random_history(kind: IndexKind) -> None:
    """After any additions, removals and replacements the index holds exactly what a dictionary would."""
    rng = np.random.default_rng(3)
    index = VectorIndex(kind, DIM, QUICK)
    model: dict[int, np.ndarray] = {}  # type: ignore[type-arg]
    unused = 0
    for step in range(40):
        fresh = np.arange(unused, unused + 50)
        unused += 50
        vectors = unit(rng, 50)
        index.add(fresh, vectors)
        model |= dict(zip(fresh.tolist(), vectors, strict=True))
        gone = rng.choice(sorted(model), size=25, replace=False)
        index.remove(gone)
        for i in gone.tolist():
            del model[i]
        changed = rng.choice(sorted(model), size=min(10, len(model)), replace=False)
        vectors = unit(rng, len(changed))
        index.replace(changed, vectors)
        model |= dict(zip(changed.tolist(), vectors, strict=True))
        if step % 5 == 4:
            index.wait_until_idle()
        assert len(index) == len(model)
    ids = np.array(sorted(model))
    vectors = np.stack([model[i] for i in ids.tolist()])
    np.testing.assert_allclose(index.vectors(ids), vectors, atol=1e-3)
    scores, found = index.search(vectors, 3)
    # Each vector finds itself first: no stale one stands before it, none is lost.
    assert (found[:, 0] == ids).mean() >= (1.0 if kind == "exact" else 0.99)
    assert set(found.ravel().tolist()) <= set(model)
    np.testing.assert_allclose(scores[found[:, 0] == ids, 0], 1.0, atol=1e-3)
    index.wait_until_idle()
    everything = index.search(vectors[:1], len(model) + 5)[1][0]
    assert (everything >= 0).sum() <= len(model)
    if kind == "exact":
        assert set(everything.tolist()) == {*model, -1}


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_wrong_mutations_are_refused_and_change_nothing(kind: IndexKind) -> None:
    index, vectors = filled(kind, 600)
    before = index.search(vectors[:20], 5)
    for call in (
        lambda: index.add(np.array([5000, 3]), vectors[:2]),
        lambda: index.add(np.array([5000, 5000]), vectors[:2]),
        lambda: index.add(np.array([5000]), vectors[:2]),
        lambda: index.add(np.array([5000]), vectors[:1, :8]),
        lambda: index.remove(np.array([3, 5000])),
        lambda: index.replace(np.array([3, 5000]), vectors[:2]),
        lambda: index.vectors(np.array([5000])),
        lambda: index.search(vectors[:1], 0),
    ):
        with pytest.raises(InvalidField):
            call()  # type: ignore[no-untyped-call]
    after = index.search(vectors[:20], 5)
    np.testing.assert_array_equal(before[1], after[1])
    assert len(index) == 600


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_no_torn_answer_and_nothing_removed_while_threads_search(kind: IndexKind) -> None:
    """Sixteen ids swap eight places in one replacement: every answer has the one half of them or the other, whole.

    And what ``remove`` has taken out before a search began is never in its answer.
    """
    rng = np.random.default_rng(4)
    place, mark = unit(rng, 8), unit(rng, 1)
    index = VectorIndex(kind, DIM, QUICK)
    index.add(np.arange(10**9, 10**9 + 700), unit(rng, 700))
    index.add(np.arange(16), np.concatenate([place, -place]))
    removed = [100]  # ids up to here are out
    stop = threading.Event()
    failures: list[str] = []
    searches = [0]

    def search() -> None:
        while not stop.is_set():
            floor = removed[0]
            ids = index.search(np.concatenate([place, mark]), 1)[1][:, 0]
            searches[0] += 1
            if (ids[:8] != np.arange(8)).any() and (ids[:8] != np.arange(8, 16)).any():
                failures.append(f"torn: {ids}")
            if 100 <= ids[8] <= floor:
                failures.append(f"removed: {ids}, out up to {floor}")

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + 1.2
    swaps = 0
    while time.monotonic() < ends:
        swaps += 1
        halves = (place, -place) if swaps % 2 == 0 else (-place, place)
        index.replace(np.arange(16), np.concatenate(halves))
        marked = np.array([100 + swaps])
        index.add(marked, mark)
        index.remove(marked)
        removed[0] = 100 + swaps
        if swaps % 5 == 0:  # so that segments are compacted, worn and merged meanwhile
            extra = np.arange(100) + 10**6 + 100 * swaps
            index.add(extra, unit(rng, 100))
            index.remove(extra[:60])
    stop.set()
    for thread in threads:
        thread.join()
    index.wait_until_idle()
    assert not failures, failures[:3]
    assert searches[0] > 20
    assert swaps > 10
    assert (index.search(mark, 1)[1] >= 10**6).all()


def test_searches_go_on_while_a_segment_is_built() -> None:
    """Sealing 6,000 vectors takes a second; a search meanwhile takes milliseconds."""
    rng = np.random.default_rng(5)
    index = VectorIndex("hnsw", 64, IndexParameters(ef_construction=100))
    index.add(np.arange(6000), unit(rng, 6000, 64))
    assert index._compacting is not None
    longest = 0.0
    during = 0
    query = unit(rng, 1, 64)
    while index._compacting is not None:
        begun = time.perf_counter()
        index.search(query, 5)
        longest = max(longest, time.perf_counter() - begun)
        during += 1
    index.wait_until_idle()
    assert len(index._tail) == 0
    assert during >= 10
    assert longest < 1.0


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_saved_and_loaded(kind: IndexKind, tmp_path: Path) -> None:
    index, vectors = filled(kind, 900)
    index.remove(np.arange(0, 100))
    index.wait_until_idle()
    queries = vectors[::30]
    for _ in range(2):  # the second replaces the first
        index.save(tmp_path)
        again = VectorIndex.load(tmp_path, QUICK)
        assert (again.kind, len(again)) == (kind, 800)
        for a, b in zip(index.search(queries, 7), again.search(queries, 7), strict=True):
            np.testing.assert_array_equal(a, b)
        again.add(np.array([7]), vectors[7:8])
        index = again
        index.remove(np.array([7]))
    assert index.memory_bytes > 800 * DIM
    with pytest.raises(InvalidField, match="no finished index"):
        VectorIndex.load(tmp_path / "elsewhere")


def test_kind_by_size_and_by_setting() -> None:
    settings = Settings(gallery_exact_limit=1000)
    assert kind_for(1000, settings) == "exact"
    assert kind_for(1001, settings) == "hnsw"
    assert kind_for(settings.gallery_graph_limit, settings) == "hnsw"
    assert kind_for(settings.gallery_graph_limit + 1, settings) == "ivf-pq"
    assert kind_for(5, Settings(gallery_index="ivf-pq")) == "ivf-pq"


BUILD = """
    import sys, time
    import numpy as np
    from pathlib import Path
    from receiver.building import build_index
    from receiver.segments import IndexParameters
    vectors = np.load(sys.argv[1], mmap_mode="r")
    def slow(start, stop):
        time.sleep(0.02)
        return np.ascontiguousarray(vectors[start:stop])
    def report_progress(rows):
        print(rows, flush=True)
    build_index(Path(sys.argv[2]), slow, len(vectors), kind=sys.argv[3], label="test",
        parameters=IndexParameters(ef_construction=40, lists=16, code_bytes=16), chunk_rows=200,
        checkpoint_s=0.05, progress=report_progress)
"""


@pytest.mark.parametrize("kind", ["hnsw", "ivf-pq"])
def test_a_killed_build_goes_on_and_gives_the_same_index(kind: str, tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(6), 6000)
    source = tmp_path / "vectors.npy"
    np.save(source, vectors)
    command = [sys.executable, "-c", textwrap.dedent(BUILD), str(source)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, str(tmp_path / "killed"), kind],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 3000:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert not (tmp_path / "killed" / "index.json").exists()
    told: list[int] = []
    how = {"label": "test", "chunk_rows": 200, "progress": told.append}
    parameters = IndexParameters(ef_construction=40, lists=16, code_bytes=16)

    def rows(start: int, stop: int) -> np.ndarray:  # type: ignore[type-arg]
        return vectors[start:stop]

    resumed = build_index(
        tmp_path / "killed",
        rows,
        6000,
        kind=kind,
        parameters=parameters,
        **how,  # type: ignore[arg-type]
    )
    assert 0 < told[0] <= 3200, "it began anew, or was not killed"
    whole = build_index(
        tmp_path / "whole",
        rows,
        6000,
        kind=kind,
        parameters=parameters,
        **how,  # type: ignore[arg-type]
    )
    queries = unit(np.random.default_rng(7), 100)
    for a, b in zip(resumed.search(queries, 10), whole.search(queries, 10), strict=True):
        np.testing.assert_array_equal(a, b)
    told.clear()
    build_index(tmp_path / "whole", rows, 6000, kind=kind, parameters=parameters, **how)  # type: ignore[arg-type]
    assert told == [6000], "a finished index is built again"
    told.clear()
    how["label"] = "other vectors"
    build_index(tmp_path / "whole", rows, 6000, kind=kind, parameters=parameters, **how)  # type: ignore[arg-type]
    assert told[0] == 0
