"""One side of a gallery that is searched: its items, or their captions. Numbered slots, an index, exact scoring."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from receiver.index import VectorIndex
from semlink.semantics.reranking import NEIGHBOURS

Vectors = NDArray[np.float32]
Slots = NDArray[np.int64]


class Scorer(Protocol):
    """Scores queries ``[q, m, 256]`` against each one's candidates ``[q, c, 1 + K, 256]``: float32 ``[q, c]``.

    ``captions``: the candidates are captions, the queries media.
    """

    def __call__(self, query: Vectors, candidates: Vectors, *, captions: bool) -> Vectors:
        """See the class."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """What a slot holds: an item's id, or ``item#n`` for an item's n-th caption, and the captions to show with it."""

    label: str
    captions: tuple[str, ...]


class ModalityIndex:
    """Entries in slots 0, 1, … of an index, with their prototypes and biases. The gallery locks; this does not."""

    def __init__(self, index: VectorIndex, num_prototypes: int) -> None:
        self.index = index
        self.entries: list[Entry | None] = []
        self._free: list[int] = []
        self._prototypes = np.empty((0, num_prototypes, index.dim), dtype=np.float32)
        self._bias = np.empty(0, dtype=np.float32)
        self._bias_global = np.empty(0, dtype=np.float32)
        self.has_bias = self.has_bias_global = False

    def __len__(self) -> int:
        """Entries."""
        return len(self.entries) - len(self._free)

    @property
    def num_prototypes(self) -> int:
        """K: prototypes of each entry."""
        return int(self._prototypes.shape[1])

    def fill(
        self,
        entries: Sequence[Entry],
        prototypes: Vectors | None,
        bias: Vectors | None,
        bias_global: Vectors | None,
    ) -> None:
        """Take the shipped entries into slots 0, 1, …; their vectors are in the index already."""
        self.entries = list(entries)
        n = len(entries)
        if prototypes is not None:
            self._prototypes = prototypes.astype(np.float32)
        else:
            self._prototypes = np.empty((n, *self._prototypes.shape[1:]), dtype=np.float32)
        self.has_bias, self.has_bias_global = bias is not None, bias_global is not None
        self._bias = np.zeros(n, np.float32) if bias is None else bias.astype(np.float32)
        self._bias_global = (
            np.zeros(n, np.float32) if bias_global is None else bias_global.astype(np.float32)
        )

    def components(self, slots: Slots) -> Vectors:
        """Global feature and prototypes of slots of any shape, ``[…, 1 + K, 256]``."""
        flat, place = np.unique(slots, return_inverse=True)
        parts = np.concatenate([self.index.vectors(flat)[:, None], self._prototypes[flat]], axis=1)
        found: Vectors = parts[place.reshape(slots.shape)]
        return found

    def bias(self, slots: Slots, *, prototypes: bool) -> Vectors:
        """What Sinkhorn normalisation adds to the scores of slots of any shape."""
        return (self._bias if prototypes else self._bias_global)[slots]

    def new_slots(self, count: int) -> Slots:
        """Slots that :meth:`put` may fill next."""
        used = self._free[len(self._free) - count :] if count else []
        fresh = range(len(self.entries), len(self.entries) + count - len(used))
        return np.array([*used, *fresh], dtype=np.int64)

    def put(self, slots: Slots, entries: Sequence[Entry], components: Vectors) -> None:
        """Fill slots, each one of :meth:`new_slots` or one in use, whose entry is replaced.

        A caption's bias comes from the scores of all training queries over all captions. A new one has none of its
        own yet: it takes the mean, 0, until the gallery is built anew (our definition).
        """
        room = int(slots.max(initial=-1)) + 1 - len(self.entries)
        if room > 0:
            self.entries += [None] * room
            more = max(room, len(self._bias) // 2)
            if len(self._bias) < len(self.entries):
                self._prototypes = np.concatenate(
                    [self._prototypes, np.zeros((more, *self._prototypes.shape[1:]), np.float32)]
                )
                self._bias = np.concatenate([self._bias, np.zeros(more, np.float32)])
                self._bias_global = np.concatenate([self._bias_global, np.zeros(more, np.float32)])
        held = np.array([self.entries[s] is not None for s in slots.tolist()], dtype=np.bool_)
        vectors = np.ascontiguousarray(components[:, 0])
        self.index.replace(slots[held], vectors[held])
        self.index.add(slots[~held], vectors[~held])
        filled = set(slots[~held].tolist())
        self._free = [slot for slot in self._free if slot not in filled]
        for slot, entry in zip(slots.tolist(), entries, strict=True):
            self.entries[slot] = entry
        self._prototypes[slots] = components[:, 1:]
        self._bias[slots] = 0.0
        self._bias_global[slots] = 0.0

    def remove(self, slots: Slots) -> None:
        """Empty slots."""
        self.index.remove(slots)
        for slot in slots.tolist():
            self.entries[slot] = None
        self._free += slots.tolist()


class Neighbourhoods:
    """The items nearest to each item, N5(v) of re-ranking: found when first asked for, kept until something changes it.

    A change forgets only the items that it may touch: those that had a changed item among their neighbours, and those
    to which a new one is at least as near as their fifth.
    """

    def __init__(self, side: ModalityIndex) -> None:
        self._side = side
        self._lock = threading.Lock()
        self._kept: dict[int, tuple[Slots, float]] = {}

    def __len__(self) -> int:
        """Items whose neighbours are known."""
        return len(self._kept)

    def neighbours(self, slots: Slots) -> Slots:
        """Slots of the nearest items, itself first, of slots of any shape: ``[…, 5]``, −1 where there are fewer."""
        flat, place = np.unique(slots, return_inverse=True)
        with self._lock:
            unknown = np.array([s for s in flat.tolist() if s not in self._kept], dtype=np.int64)
        if len(unknown):
            index = self._side.index
            scores, found = index.search(index.vectors(unknown), NEIGHBOURS)
            with self._lock:
                for n, slot in enumerate(unknown.tolist()):
                    self._kept[slot] = (found[n], float(scores[n, -1]))
        with self._lock:
            rows = np.stack([self._kept[s][0] for s in flat.tolist()])
        near: Slots = rows[place.reshape(slots.shape)]
        return near

    def forget(self, changed: Slots, vectors: Vectors) -> None:
        """Slots were emptied or filled, ``vectors`` ``[n, 256]`` being what some of them hold now."""
        gone = set(changed.tolist())
        for slot in gone:
            self._kept.pop(slot, None)
        if not self._kept:
            return
        slots = np.fromiter(self._kept, dtype=np.int64, count=len(self._kept))
        near = np.stack([n for n, _ in self._kept.values()])
        touched = np.isin(near, changed).any(axis=1)
        if len(vectors):
            fifth = np.array([f for _, f in self._kept.values()])
            reach = (self._side.index.vectors(slots) @ vectors.T).max(axis=1)
            touched |= reach >= fifth - _SLACK
        for slot in slots[touched].tolist():
            del self._kept[slot]


_SLACK: Final = 1e-3
"""Scores of a float16 index are that exact."""
