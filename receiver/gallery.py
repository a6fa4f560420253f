"""The gallery: what can be found. Two stages, candidates by an index and exact scores, over items that come and go.

Shipped vectors never change; what users add, replace or remove lies over them
(:class:`~receiver.user_items.UserItemStore`) and survives a restart. A search sees every change whole or not at all,
and none that was answered before is missing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from receiver.building import build_index
from receiver.encoding import encode_anew
from receiver.index import SEGMENT_ROWS, VectorIndex, kind_for
from receiver.locks import ReadersWriterLock
from receiver.modality_index import Entry, ModalityIndex, Neighbourhoods, Scorer
from receiver.user_items import AddedItem, UserItemStore
from semlink.corpora.corpus import Corpus, Item, Media
from semlink.corpora.registry import corpus_named, gallery_split
from semlink.errors import AlreadyExists, InvalidField, NotFound
from semlink.semantics.encoders import heads_path, load_scorer
from semlink.semantics.gallery import GalleryEmbeddings, gallery_path
from semlink.semantics.reranking import NEIGHBOURS, WEIGHTS
from semlink.semantics.reranking import reranked as with_neighbours
from semlink.semantics.spaces import space_of
from semlink.settings import Settings, current_settings

Vectors = NDArray[np.float32]

MIN_CANDIDATES: Final = 100
CANDIDATES_A_HIT: Final = 5
"""Candidates of stage 1: so many times ``top_k``, at least :data:`MIN_CANDIDATES`."""
SCORINGS: Final = ("global", "prototypes")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hit:
    """One found entry: an item's id, or ``item#n`` for the n-th caption of an item, and its captions.

    ``score``: what the answer is ordered by; ``similarity``: the cosine of the global features.
    """

    item_id: str
    score: float
    captions: tuple[str, ...]
    similarity: float = 0.0


@dataclass(frozen=True, slots=True)
class _Held:
    """An item, the slots that it takes, and where its media are kept if a user added it."""

    item: Item
    slot: int
    caption_slots: tuple[int, ...]
    added: AddedItem | None = None


class Gallery:
    """The items of one corpus and their captions, searched and changed by any number of threads."""

    def __init__(
        self,
        corpus: Corpus,
        embeddings: GalleryEmbeddings,
        *,
        user_items: UserItemStore | None = None,
        settings: Settings | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        settings = settings or Settings()
        self.name = embeddings.corpus  # an added corpus is not called as its reader is
        self.corpus = corpus
        self.feature_size = int(embeddings.items.shape[1])
        self._scorer = scorer
        self._user_items = user_items or UserItemStore(settings.data_dir / "galleries" / self.name)
        self._split = gallery_split(self.name)
        self._lock = ReadersWriterLock()
        self._mutating = threading.Lock()
        self._shipped = frozenset(embeddings.item_ids)
        items = {item.item_id: item for item in corpus.items(self._split)}
        self._items: dict[str, _Held] = {}
        self._sides = {
            False: ModalityIndex(
                self._index("items", embeddings.items, settings), embeddings.num_prototypes
            ),
            True: ModalityIndex(
                self._index("captions", embeddings.captions, settings), embeddings.num_prototypes
            ),
        }
        self._fill([items[i] for i in embeddings.item_ids], embeddings)
        self._near = Neighbourhoods(self._sides[False])
        removed = sorted(self._user_items.removed())
        self._apply([i for i in removed if i in self._items], [])
        self._apply([], self._user_items.items())

    def __len__(self) -> int:
        """Number of items."""
        return len(self._items)

    # --- asking --------------------------------------------------------------------------------

    def search(
        self,
        components: Vectors,
        top_k: int,
        *,
        captions: bool,
        scoring: str = "global",
        reranking: str = "none",
    ) -> list[list[Hit]]:
        """The ``top_k`` best entries for each query (``[batch, num_components, feature_size]``, unit norm), best first.

        ``captions`` searches the items' captions (audio to text) instead of the items. ``scoring`` "global": the
        cosine of the first components, which a caption's Sinkhorn bias may correct; "prototypes": GPA's eq. 9 over all
        components. ``reranking`` adds the Jaccard index of the query's and the item's five nearest items (Sew + MCM).
        Beyond plain cosines the exact scores are those of the candidates that the index gives.
        Raises InvalidField for a scoring that this gallery has no vectors for.
        """
        weight = self._check(scoring, captions=captions, reranking=reranking)
        side = self._sides[captions]
        features = np.ascontiguousarray(components[:, 0], dtype=np.float32)
        prototypes = scoring == "prototypes"
        with self._lock.reading():
            biased = side.has_bias if prototypes else side.has_bias_global
            wanted = min(top_k, len(side))
            if not wanted:
                return [[] for _ in features]
            rescored = prototypes or biased or weight > 0.0
            count = max(MIN_CANDIDATES, CANDIDATES_A_HIT * top_k) if rescored else wanted
            cosines, slots = side.index.search(features, min(count, len(side)))
            scores: NDArray[np.floating] = cosines
            if rescored:
                present = np.where(slots < 0, slots[:, :1], slots)
                if prototypes:
                    scores = self._prototype_scores(components, side.components(present), captions)
                if biased:
                    scores = scores + side.bias(present, prototypes=prototypes)
                if weight:
                    near = self._near.neighbours(present)
                    scores = with_neighbours(scores, slots[:, :NEIGHBOURS], near, weight)
                scores = np.where(slots < 0, -np.inf, scores)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :wanted]
            return [
                [
                    Hit(entry.label, float(scores[q, c]), entry.captions, float(cosines[q, c]))
                    for c in best
                    if (entry := side.entries[slots[q, c]] if slots[q, c] >= 0 else None)
                ]
                for q, best in enumerate(order)
            ]

    def item(self, item_id: str) -> Item:
        """An item, also by the id of one of its captions. Raises NotFound."""
        return self._held(item_id).item

    def media(self, item_id: str) -> Media:
        """An item's picture or sound, also by the id of one of its captions. Raises NotFound."""
        while (added := (held := self._held(item_id)).added) is not None:
            try:
                return self._user_items.media(added)
            except FileNotFoundError:
                if self._held(item_id) is held:  # else replaced or removed since: look again
                    raise
        return self.corpus.media(held.item.item_id)

    def __contains__(self, item_id: object) -> bool:
        """Whether there is an item of that id."""
        return item_id in self._items

    # --- changing ------------------------------------------------------------------------------

    def add(
        self, items: Sequence[AddedItem], media: Sequence[bytes], *, replacing: bool
    ) -> tuple[int, int]:
        """Add items with their media, all at once; how many were new and how many replaced another.

        Returns when they are on disk and every search from now on sees them. Raises AlreadyExists, unless
        ``replacing``, for an id that is taken; InvalidField for components of another shape than the gallery's.
        """
        self._check_shapes(items)
        ids = [item.item_id for item in items]
        with self._mutating:
            if not replacing:
                self.require_free(ids)
            taken = [item_id for item_id in ids if item_id in self._items]
            self._user_items.put(items, media)
            self._apply([], items)
        return len(items) - len(taken), len(taken)

    def require_free(self, item_ids: Sequence[str]) -> None:
        """Raise AlreadyExists if there is an item of one of these ids."""
        for n, item_id in enumerate(item_ids):
            if item_id in self._items:
                raise AlreadyExists(
                    f"item {item_id!r} is in corpus {self.name!r} already",
                    field=f"items[{n}].item_id",
                )

    def remove(self, item_ids: Sequence[str]) -> None:
        """Remove items, all at once; when it returns no search finds them. Raises NotFound, and then removes none."""
        with self._mutating:
            for item_id in item_ids:
                if item_id not in self._items:
                    raise self._unknown(item_id)
            gone = list(dict.fromkeys(item_ids))
            self._user_items.remove(gone, [i in self._shipped for i in gone])
            self._apply(gone, [])

    def wait_until_idle(self) -> None:
        """Wait until no index is being rebuilt."""
        for side in self._sides.values():
            side.index.wait_until_idle()

    def close(self) -> None:
        """Close the files."""
        self._user_items.close()

    # --- inside --------------------------------------------------------------------------------

    def _index(self, side: str, vectors: Vectors, settings: Settings) -> VectorIndex:
        kind = kind_for(len(vectors), settings)
        if kind == "exact" or len(vectors) < SEGMENT_ROWS:
            index = VectorIndex(kind, vectors.shape[1])
            index.add(np.arange(len(vectors)), vectors)
            index.wait_until_idle()
            return index
        label = f"{self.name} {side} {hash_of(vectors)}"

        def report_progress(rows: int) -> None:
            _log.info("gallery %s: %d of %d vectors indexed", label, rows, len(vectors))

        return build_index(
            settings.data_dir / "galleries" / self.name / f"{kind}-{side}",
            lambda start, stop: vectors[start:stop],
            len(vectors),
            kind=kind,
            label=label,
            progress=report_progress,
        )

    def _fill(self, items: Sequence[Item], embeddings: GalleryEmbeddings) -> None:
        self._sides[False].fill(
            [Entry(item.item_id, item.captions) for item in items],
            embeddings.item_prototypes,
            None,
            None,
        )
        self._sides[True].fill(
            [entry for item in items for entry in _caption_entries(item.item_id, item.captions)],
            embeddings.caption_prototypes,
            embeddings.caption_bias,
            embeddings.caption_bias_global,
        )
        start = 0
        for slot, item in enumerate(items):
            stop = start + len(item.captions)
            self._items[item.item_id] = _Held(item, slot, tuple(range(start, stop)))
            start = stop

    def _apply(self, removed: Sequence[str], added: Sequence[AddedItem]) -> None:
        """Change what searches see, at once."""
        if not removed and not added:
            return
        items, captions = self._sides[False], self._sides[True]
        leaving = [self._items[i] for i in removed]
        before = {a.item_id: self._items.get(a.item_id) for a in added}
        texts = [s for held in (*leaving, *before.values()) if held for s in held.caption_slots]
        fresh = items.new_slots(sum(held is None for held in before.values())).tolist()
        slots = [held.slot if (held := before[a.item_id]) else fresh.pop() for a in added]
        vectors = (
            np.stack([a.components for a in added])
            if added
            else np.empty((0, 1, self.feature_size), dtype=np.float32)
        )
        with self._lock.writing():
            if leaving:
                items.remove(np.array([held.slot for held in leaving]))
            if texts:
                captions.remove(np.array(texts))
            for item_id in removed:
                del self._items[item_id]
            if added:
                entries = [Entry(a.item_id, a.captions) for a in added]
                items.put(np.array(slots), entries, vectors)
            for a, slot in zip(added, slots, strict=True):
                own = captions.new_slots(len(a.captions))
                if len(own):
                    entries = list(_caption_entries(a.item_id, a.captions))
                    captions.put(own, entries, a.caption_components)
                item = Item(a.item_id, a.identity or a.item_id, self._split, a.captions)
                self._items[a.item_id] = _Held(item, slot, tuple(own.tolist()), a)
            changed = np.array([*slots, *(held.slot for held in leaving)], dtype=np.int64)
            self._near.forget(changed, np.ascontiguousarray(vectors[:, 0]))

    def _check(self, scoring: str, *, captions: bool, reranking: str) -> float:
        """The weight of the neighbours, if the gallery can do what is asked. Raises InvalidField otherwise."""
        if scoring not in SCORINGS:
            raise InvalidField(
                f"scoring is {scoring!r}, allowed: {', '.join(SCORINGS)}", field="retrieval.scoring"
            )
        made = self._scorer is not None and self._sides[captions].num_prototypes > 0
        if scoring == "prototypes" and not made:
            raise InvalidField(
                f"scoring is 'prototypes', but the heads of corpus {self.name!r} make none; allowed: global",
                field="retrieval.scoring",
            )
        weight = {str(name): value for name, value in WEIGHTS.items()}.get(reranking)
        if weight is None:
            raise InvalidField(
                f"reranking is {reranking!r}, allowed: {', '.join(WEIGHTS)}",
                field="retrieval.reranking",
            )
        if captions and weight:
            raise InvalidField(
                f"reranking is {reranking!r}, but captions are searched, which have no neighbours "
                "among pictures; allowed: none",
                field="retrieval.reranking",
            )
        return weight

    def _prototype_scores(self, query: Vectors, candidates: Vectors, captions: bool) -> Vectors:
        assert self._scorer is not None  # _check saw to it
        return self._scorer(query, candidates, captions=captions)

    def _check_shapes(self, items: Sequence[AddedItem]) -> None:
        count = 1 + self._sides[False].num_prototypes
        ids = [item.item_id for item in items]
        if len(set(ids)) < len(ids):
            twice = next(i for n, i in enumerate(ids) if i in ids[:n])
            raise InvalidField(f"item {twice!r} is given twice", field="items")
        for item in items:
            expected = (count, self.feature_size)
            captions = (len(item.captions), *expected)
            if item.components.shape != expected or item.caption_components.shape != captions:
                raise InvalidField(
                    f"item {item.item_id!r} has components {item.components.shape} and "
                    f"{item.caption_components.shape}, expected {expected} and {captions}",
                    field="items",
                )

    def _held(self, item_id: str) -> _Held:
        held = self._items.get(item_id.partition("#")[0])
        if held is None:
            raise self._unknown(item_id)
        return held

    def _unknown(self, item_id: str) -> NotFound:
        return NotFound(f"item {item_id!r} is not in corpus {self.name!r}", field="item_id")


def _caption_entries(item_id: str, captions: Sequence[str]) -> list[Entry]:
    return [Entry(f"{item_id}#{n}", (caption,)) for n, caption in enumerate(captions)]


def hash_of(vectors: Vectors) -> str:
    """A digest of some vectors."""
    return blake2b(np.ascontiguousarray(vectors).data, digest_size=8).hexdigest()


# --- the galleries of this process -------------------------------------------------------------

_loaded: dict[str, tuple[tuple[object, ...], Gallery]] = {}
_loading = threading.Lock()


def gallery_of(corpus_name: str) -> Gallery:
    """The gallery of a corpus, loaded when first asked for, and again when its file or its heads have changed.

    So a corpus that was added, or a gallery that was built anew, is there without a restart. Raises NotFound.
    """
    stamp = _stamp(corpus_name)
    known = _loaded.get(corpus_name)
    if known is not None and known[0] == stamp:
        return known[1]
    with _loading:
        known = _loaded.get(corpus_name)
        if known is None or known[0] != stamp:
            known = stamp, _load(corpus_name)
            _loaded[corpus_name] = known
        return known[1]


def _stamp(corpus_name: str) -> tuple[object, ...]:
    """Changes whenever the gallery's content on disk does."""
    stamps: list[object] = [str(current_settings().data_dir)]
    for path in (gallery_path(corpus_name), heads_path(space_of(corpus_name))):
        stat = path.stat()
        stamps += [str(path), stat.st_mtime_ns, stat.st_size]
    return tuple(stamps)


def _load(corpus_name: str) -> Gallery:
    space = space_of(corpus_name)
    corpus = corpus_named(corpus_name)
    user_items = UserItemStore(current_settings().data_dir / "galleries" / corpus_name)
    embeddings = GalleryEmbeddings.load(corpus_name)
    encode_anew(user_items, space)
    return Gallery(corpus, embeddings, user_items=user_items, scorer=scorer_of(space))


def scorer_of(space: str) -> Scorer | None:
    """The trained prototype scoring of a space; None where its heads make no prototypes."""
    trained = load_scorer(space)
    if trained is None:
        return None

    @torch.inference_mode()
    def score(query: Vectors, candidates: Vectors, *, captions: bool) -> Vectors:
        scores: Vectors = trained.score_candidates(
            torch.from_numpy(query),
            torch.from_numpy(candidates),
            query_side="media" if captions else "text",
        ).numpy()
        return scores

    return score


__all__ = ["Gallery", "Hit", "gallery_of", "scorer_of"]
