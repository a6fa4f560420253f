"""Random draws that are a pure function of names: the same on every machine, thread and day."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_BLOCK = 96


def stable_generator(*parts: str | int) -> np.random.Generator:
    """Generator seeded by the BLAKE2b hash of ``parts`` (Python's own ``hash`` differs per process)."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


class Draws:
    """A stream of choices fed by uniform numbers drawn in blocks.

    One call of a numpy generator costs microseconds; a corpus makes a hundred choices per item, so the
    uniforms are fetched 96 at a time.
    """

    def __init__(self, *parts: str | int) -> None:
        self.generator = stable_generator(*parts)
        self._block: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """One number, uniform in [low, high)."""
        if not self._block:
            self._block = self.generator.random(_BLOCK).tolist()
        return low + (high - low) * self._block.pop()

    def chance(self, probability: float) -> bool:
        """True with ``probability``."""
        return self.uniform() < probability

    def integer(self, count: int) -> int:
        """Uniform in 0 … count−1."""
        return min(int(self.uniform() * count), count - 1)

    def choice(self, options: Sequence[T]) -> T:
        """One of ``options``, all equally likely."""
        return options[self.integer(len(options))]

    def weighted(self, options: Sequence[tuple[T, float]]) -> T:
        """One of ``(value, weight)`` pairs; weights need not sum to one."""
        mark = self.uniform() * sum(weight for _, weight in options)
        for value, weight in options:
            mark -= weight
            if mark < 0.0:
                return value
        return options[-1][0]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """``options`` in random order."""
        keyed = [(self.uniform(), index) for index in range(len(options))]
        return [options[index] for _, index in sorted(keyed)]
