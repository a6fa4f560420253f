"""The gallery: what can be found, searched exactly by cosine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import faiss
import numpy as np
from numpy.typing import NDArray

from semlink.corpora.corpus import Corpus, Item
from semlink.corpora.registry import corpus_named
from semlink.errors import NotFound
from semlink.semantics.gallery import GalleryEmbeddings


@dataclass(frozen=True, slots=True)
class Hit:
    """One found entry: an item's id, or ``item#n`` for the n-th caption of an item; its cosine and captions."""

    item_id: str
    score: float
    captions: tuple[str, ...]
    similarity: float = 0.0


class Gallery:
    """One corpus's test gallery with an exact index over the items and one over their captions."""

    def __init__(self, corpus: Corpus, embeddings: GalleryEmbeddings) -> None:
        self.corpus = corpus
        self._items: dict[str, Item] = {item.item_id: item for item in corpus.items("test")}
        self._entries: dict[bool, list[tuple[str, tuple[str, ...]]]] = {
            False: [(i, self._items[i].captions) for i in embeddings.item_ids],
            True: [
                (f"{i}#{n}", (caption,))
                for i in embeddings.item_ids
                for n, caption in enumerate(self._items[i].captions)
            ],
        }
        self.feature_size = embeddings.items.shape[1]
        self._index = {False: _exact(embeddings.items), True: _exact(embeddings.captions)}

    def __len__(self) -> int:
        """Number of items."""
        return len(self._items)

    def search(
        self,
        components: NDArray[np.float32],
        top_k: int,
        *,
        captions: bool,
        scoring: str = "global",
        reranked: bool = False,
    ) -> list[list[Hit]]:
        """The ``top_k`` entries nearest to each query (``[batch, num_components, feature_size]``, unit norm), best first.

        ``captions`` searches the items' captions (audio to text) instead of the items.
        """
        if scoring != "global" or reranked:
            raise NotImplementedError
        entries = self._entries[captions]
        features = np.ascontiguousarray(components[:, 0])
        scores, rows = self._index[captions].search(features, min(top_k, len(entries)))
        return [
            [
                Hit(entries[row][0], score, entries[row][1], score)
                for row, score in zip(r, s, strict=True)
            ]
            for r, s in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def item(self, item_id: str) -> Item:
        """An item, also by the id of one of its captions. Raises NotFound."""
        item = self._items.get(item_id.partition("#")[0])
        if item is None:
            raise NotFound(
                f"item {item_id!r} is not in corpus {self.corpus.info.name!r}", field="item_id"
            )
        return item


def _exact(vectors: NDArray[np.float32]) -> faiss.IndexFlatIP:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    return index


@lru_cache(maxsize=8)
def gallery_of(corpus_name: str) -> Gallery:
    """The gallery of an embedded corpus, loaded once a process. Raises NotFound."""
    corpus = corpus_named(corpus_name)
    return Gallery(corpus, GalleryEmbeddings.load(corpus_name))
