"""A gallery that is changed while it is asked: two stages, exact scores, neighbours kept right, nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from receiver import gallery as gallery_module
from receiver.gallery import Gallery
from receiver.user_items import AddedItem, UserItemStore, name_of
from semlink.corpora.corpus import Corpus, CorpusInfo, Item, Media, Split
from semlink.errors import AlreadyExists, InvalidField, NotFound
from semlink.semantics.gallery import GalleryEmbeddings
from semlink.semantics.reranking import nearest
from semlink.semantics.reranking import reranked as with_neighbours
from semlink.settings import Settings

DIM, K, N = 32, 2, 300


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:  # type: ignore[type-arg]
    x = rng.normal(size=(*shape, DIM)).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(autouse=True)
def small_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a gallery of 300 is worth an index that is built."""
    monkeypatch.setattr(gallery_module, "SEGMENT_ROWS", 100)


class Pictures(Corpus):
    """Items without pictures worth the name: what a gallery needs of a corpus."""

    info = CorpusInfo("scenes", "image", "image/png", "none", "none", "none")

    def items(self, split: Split) -> Sequence[Item]:
        return [Item(f"i{n}", f"i{n}", split, (f"one {n}", f"two {n}")) for n in range(N)]

    def item(self, item_id: str) -> Item:
        return self.items("test")[int(item_id[1:])]

    def media(self, item_id: str) -> Media:
        return Media("image/png", item_id.encode())

    def content(self, item_id: str) -> NDArray[np.uint8]:
        raise NotImplementedError


def embeddings(**values: object) -> GalleryEmbeddings:
    rng = np.random.default_rng(1)
    arrays = {
        "items": unit(rng, N),
        "captions": unit(rng, 2 * N),
        "item_prototypes": unit(rng, N, K),
        "caption_prototypes": unit(rng, 2 * N, K),
    }
    ids = tuple(f"i{n}" for n in range(N))
    return GalleryEmbeddings(corpus="scenes", item_ids=ids, **(arrays | values))  # type: ignore[arg-type]


def scorer(query, candidates, *, captions):  # type: ignore[no-untyped-def]
    """Another way than GPA's, and one that is told apart from the cosine: the sum of the best matches."""
    similarity = np.einsum("qmd,qckd->qcmk", query, candidates)
    return similarity.max(axis=3).sum(axis=2) * (2.0 if captions else 1.0)


def gallery(folder: Path, kind: str = "exact", **values: object) -> Gallery:
    settings = Settings(data_dir=folder, gallery_index=kind)  # type: ignore[arg-type]
    return Gallery(
        Pictures(),
        embeddings(**values),
        user_items=UserItemStore(folder / "g"),
        settings=settings,
        scorer=scorer,
    )


def new_item(item_id: str, seed: int, captions: int = 1) -> AddedItem:
    rng = np.random.default_rng([7, seed])
    return AddedItem(
        item_id=item_id,
        identity="",
        captions=tuple(f"caption {n} of {item_id}" for n in range(captions)),
        content_type="image/png",
        media_name=name_of(item_id.encode()),
        components=unit(rng, 1 + K),
        caption_components=unit(rng, captions, 1 + K),
        made_with="these heads",
    )


def put(g: Gallery, *items: AddedItem, replacing: bool = False) -> tuple[int, int]:
    return g.add(items, [i.item_id.encode() for i in items], replacing=replacing)


def found(g: Gallery, item: AddedItem, **how: object) -> list[str]:
    return [h.item_id for h in g.search(item.components[None], 3, captions=False, **how)[0]]  # type: ignore[arg-type]


def test_prototypes_are_scored_exactly_on_the_candidates(tmp_path: Path) -> None:
    e = embeddings(caption_bias=np.linspace(-1, 1, 2 * N, dtype=np.float32))
    g = gallery(tmp_path, caption_bias=e.caption_bias)
    rng = np.random.default_rng(2)
    for m in (1, 1 + K):
        queries = unit(rng, 4, m)
        for captions, vectors, prototypes in (
            (False, e.items, e.item_prototypes),
            (True, e.captions, e.caption_prototypes),
        ):
            hits = g.search(queries, 7, captions=captions, scoring="prototypes")
            cosines = queries[:, 0] @ vectors.T
            whole = np.concatenate([vectors[:, None], prototypes], axis=1)  # type: ignore[list-item]
            scores = scorer(queries, np.broadcast_to(whole, (4, *whole.shape)), captions=captions)
            if captions:
                scores = scores + e.caption_bias
            for q in range(4):
                candidates = np.argsort(-cosines[q])[:100]
                best = candidates[np.argsort(-scores[q, candidates])[:7]]
                labels = [f"i{b // 2}#{b % 2}" if captions else f"i{b}" for b in best]
                assert [h.item_id for h in hits[q]] == labels
                np.testing.assert_allclose([h.score for h in hits[q]], scores[q, best], atol=1e-5)
                np.testing.assert_allclose(
                    [h.similarity for h in hits[q]], cosines[q, best], atol=1e-5
                )


def reranked_by_definition(
    items: np.ndarray, ids: list[str], queries: np.ndarray
) -> list[list[str]]:  # type: ignore[type-arg]
    cosines = queries @ items.T
    near = nearest(items, items)
    scores = with_neighbours(
        cosines, nearest(queries, items), np.broadcast_to(near, (len(queries), *near.shape))
    )
    out = []
    for q in range(len(queries)):
        candidates = np.argsort(-cosines[q], kind="stable")[:100]
        order = np.argsort(-scores[q, candidates], kind="stable")[:10]
        out.append([ids[c] for c in candidates[order]])
    return out


def test_reranking_is_right_after_any_change(tmp_path: Path) -> None:
    """Neighbourhoods that were kept equal those computed anew, and most of them are kept."""
    g = gallery(tmp_path)
    e = embeddings()
    model = dict(zip(e.item_ids, e.items, strict=True))
    rng = np.random.default_rng(3)
    queries = unit(rng, 30, 1)

    def check() -> None:
        ids = list(model)
        expected = reranked_by_definition(np.stack(list(model.values())), ids, queries[:, 0])
        hits = g.search(queries, 10, captions=False, reranking="neighbours")
        assert [[h.item_id for h in row] for row in hits] == expected

    check()
    kept = 0
    for step in range(6):
        before = len(g._near)
        fresh = [new_item(f"n{step}-{n}", 10 * step + n) for n in range(3)]
        put(g, *fresh)
        model |= {i.item_id: i.components[0] for i in fresh}
        changed = new_item(str(rng.choice(list(model))), 1000 + step)
        put(g, changed, replacing=True)
        model[changed.item_id] = changed.components[0]
        gone = str(rng.choice(list(model)))
        g.remove([gone])
        del model[gone]
        kept += len(g._near)
        assert len(g._near) < before
        check()
    assert kept > 6 * N // 2, "a change forgets far more than it touches"


def test_items_come_change_and_go(tmp_path: Path) -> None:
    g = gallery(tmp_path)
    item = new_item("mine", 1, captions=2)
    assert put(g, item) == (1, 0)
    assert len(g) == N + 1
    assert found(g, item)[0] == "mine"
    assert found(g, item, scoring="prototypes")[0] == "mine"
    text = g.search(item.caption_components[1:2], 1, captions=True)[0][0]
    assert (text.item_id, text.captions) == ("mine#1", ("caption 1 of mine",))
    assert g.media("mine#1") == Media("image/png", b"mine")
    assert g.item("mine").identity == "mine"
    with pytest.raises(AlreadyExists, match="mine"):
        put(g, item)
    with pytest.raises(AlreadyExists):
        put(g, new_item("i5", 3))
    other = replace(new_item("i5", 4), identity="someone")
    assert put(g, other, new_item("also new", 5), replacing=True) == (1, 1)
    assert found(g, other)[0] == "i5"
    assert g.item("i5").identity == "someone"
    assert g.media("i5").data == b"i5"
    assert len(g.item("i5").captions) == 1
    g.remove(["mine", "i7"])
    assert "mine" not in found(g, item)
    labels = {h.item_id for h in g.search(item.components[None], 10**4, captions=True)[0]}
    assert not {"mine#0", "mine#1", "i7#0", "i5#1"} & labels
    assert {"i5#0", "i6#1"} <= labels
    for item_id in ("mine", "i7", "nobody"):
        with pytest.raises(NotFound):
            g.item(item_id)
        with pytest.raises(NotFound):
            g.remove(["i9", item_id])
    assert "i9" in g
    assert len(g) == N


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_changes_survive_a_restart(tmp_path: Path, kind: str) -> None:
    g = gallery(tmp_path, kind)
    assert (tmp_path / "galleries" / "scenes" / "hnsw-items").is_dir() == (kind == "hnsw")
    put(g, new_item("a", 1), new_item("b", 2))
    put(g, new_item("i3", 3), replacing=True)
    g.remove(["a", "i4"])
    g.close()
    again = gallery(tmp_path, kind)
    assert len(again) == N
    rng = np.random.default_rng(9)
    queries = unit(rng, 40, 1 + K)
    for how in ({}, {"scoring": "prototypes"}, {"reranking": "neighbours"}):
        assert g.search(queries, 20, captions=False, **how) == again.search(  # type: ignore[arg-type]
            queries,
            20,
            captions=False,
            **how,  # type: ignore[arg-type]
        )
    for item_id in ("a", "i4"):
        with pytest.raises(NotFound):
            again.item(item_id)
    assert again.media("b").data == b"b"
    assert not (tmp_path / "g" / "media" / name_of(b"a")).exists()
    put(again, new_item("i4", 5))  # what was removed may come back
    assert "i4" in gallery(tmp_path, kind)


def test_a_refused_change_changes_nothing(tmp_path: Path) -> None:
    g = gallery(tmp_path)
    wrong = replace(new_item("w", 1), components=np.ones((1, DIM), np.float32))
    for items in (
        [wrong],
        [new_item("x", 1), new_item("x", 2)],
        [new_item("y", 1), new_item("i1", 1)],
    ):
        with pytest.raises((InvalidField, AlreadyExists)):
            put(g, *items)
    assert len(g) == N == len(gallery(tmp_path))
    with pytest.raises(InvalidField, match="prototypes"):
        g.search(unit(np.random.default_rng(0), 1, 1), 5, captions=False, scoring="other")
    with pytest.raises(InvalidField, match="captions"):
        g.search(unit(np.random.default_rng(0), 1, 1), 5, captions=True, reranking="neighbours")


def test_a_gallery_without_prototypes_refuses_to_score_with_them(tmp_path: Path) -> None:
    g = gallery(tmp_path, item_prototypes=None, caption_prototypes=None)
    with pytest.raises(InvalidField, match="allowed: global"):
        g.search(unit(np.random.default_rng(0), 1, 1), 5, captions=False, scoring="prototypes")


def test_no_answer_is_torn_while_items_change(tmp_path: Path) -> None:
    """A pair of items is added and removed in one call each: an answer holds both or neither, and none that is out."""
    g = gallery(tmp_path)
    centre = new_item("centre", 1)
    stop = threading.Event()
    failures: list[str] = []
    removed = [0]
    asked = [0]

    def ask() -> None:
        while not stop.is_set():
            floor = removed[0]
            for how in ({"scoring": "prototypes"}, {"reranking": "neighbours"}, {}):
                labels = found(g, centre, **how)
                pairs = [x for x in labels if x.startswith("p")]
                generations = {int(x[1:-1]) for x in pairs}
                if len(pairs) not in (0, 2) or len(generations) > 1:
                    failures.append(f"torn {labels}")
                if generations and min(generations) <= floor:
                    failures.append(f"removed {labels}, out up to {floor}")
                asked[0] += 1

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + 2.0
    generation = 0
    while time.monotonic() < ends:
        generation += 1
        pair = [replace(centre, item_id=f"p{generation}{side}") for side in "ab"]
        put(g, *pair)
        put(g, *pair, replacing=True)
        g.remove([i.item_id for i in pair])
        removed[0] = generation
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]
    assert generation >= 3
    assert asked[0] >= 10


WRITER = """
    import sys
    sys.path.insert(0, sys.argv[2])
    from pathlib import Path
    from test_gallery_mutation import gallery, new_item, put
    g = gallery(Path(sys.argv[1]))
    print("ready", flush=True)
    for n in range(10_000):
        put(g, new_item(f"a{n}", 2 * n), new_item(f"b{n}", 2 * n + 1))
        print(n, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_answered(tmp_path: Path) -> None:
    """Killed while it adds pairs: every pair that was answered is there, and every pair is there whole."""
    here = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path), str(here)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=here.parents[1],
    )
    assert process.stdout is not None
    answered = -1
    for line in process.stdout:
        if line.strip() != "ready":
            answered = int(line)
        if answered >= 20:
            process.send_signal(signal.SIGKILL)
            break
    rest = process.stdout.read().split()
    process.wait()
    answered = max([answered, *map(int, rest)])
    g = gallery(tmp_path)
    for n in range(answered + 1):
        for item_id, seed in ((f"a{n}", 2 * n), (f"b{n}", 2 * n + 1)):
            assert found(g, new_item(item_id, seed))[0] == item_id
            assert g.media(item_id).data == item_id.encode()
    assert (f"a{answered + 1}" in g) == (f"b{answered + 1}" in g)
    assert len(g) in (N + 2 * (answered + 1), N + 2 * (answered + 2))
