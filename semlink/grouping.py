"""Group by key, run, scatter back: what is alike goes through one tensor operation, results keep their order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Return the items of each key in their order; keys in the order of their first item."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def run_grouped(
    items: Sequence[T], key: Callable[[T], Hashable], run: Callable[[list[T]], Sequence[R]]
) -> list[R]:
    """Run items of equal key together and return the results in the order of the items.

    :param run: items of one key → results, same order and length. What it raises ends the whole call.
    """
    groups = _indices(items, key)
    return _scattered(groups, [run([items[i] for i in members]) for members in groups])


async def gather_grouped(
    items: Sequence[T],
    key: Callable[[T], Hashable],
    run: Callable[[list[T]], Awaitable[Sequence[R]]],
) -> list[R]:
    """Do as :func:`run_grouped` with an asynchronous ``run``; the groups run concurrently."""
    groups = _indices(items, key)
    runs = (run([items[i] for i in members]) for members in groups)
    return _scattered(groups, await asyncio.gather(*runs))


def _indices(items: Sequence[T], key: Callable[[T], Hashable]) -> list[list[int]]:
    return list(grouped(range(len(items)), lambda i: key(items[i])).values())


def _scattered(groups: Sequence[Sequence[int]], results: Sequence[Sequence[R]]) -> list[R]:
    by_index = {
        i: result
        for members, found in zip(groups, results, strict=True)
        for i, result in zip(members, found, strict=True)
    }
    return [by_index[i] for i in range(len(by_index))]
