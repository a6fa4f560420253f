"""Random choices that are a pure function of (seed, name): the same on every machine, thread and run."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_BLOCK = 128


class Draws:
    """A stream of uniform numbers from a NumPy generator keyed by blake2b(seed, name).

    Numbers are drawn in blocks: a scalar call of a NumPy generator costs more than all else that a layout does.
    Not shared between threads; every use makes its own.
    """

    def __init__(self, seed: int, name: str) -> None:
        words = f"{seed}/{name}".encode()
        digest = blake2b(words, digest_size=16, person=b"semlink-scenes").digest()
        key = int.from_bytes(digest, "little")
        self._generator = np.random.Generator(np.random.Philox(key=key))
        self._block: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        if not self._block:
            self._block = self._generator.random(_BLOCK).tolist()
        return low + (high - low) * self._block.pop()

    def chance(self, probability: float) -> bool:
        """True with ``probability``."""
        return self.uniform() < probability

    def choice(self, options: Sequence[T]) -> T:
        """One of ``options``, all equally likely."""
        return options[int(self.uniform() * len(options))]

    def weighted(self, options: Sequence[tuple[T, float]]) -> T:
        """One of ``options``, with probabilities proportional to the second member of each pair."""
        total = 0.0
        for _, weight in options:
            total += weight
        threshold = self.uniform(0.0, total)
        for option, weight in options:
            threshold -= weight
            if threshold < 0.0:
                return option
        return options[-1][0]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """``options`` in a random order."""
        rest = list(options)
        return [rest.pop(int(self.uniform() * len(rest))) for _ in range(len(rest))]
