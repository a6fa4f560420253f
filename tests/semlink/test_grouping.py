"""What is alike runs together; every item gets its own result, whatever the order."""

from __future__ import annotations

import asyncio
import random

import pytest

from semlink.grouping import gather_grouped, grouped, run_grouped


def test_groups_keep_the_order_of_items_and_of_first_items() -> None:
    assert list(grouped("banana", lambda letter: letter).items()) == [
        ("b", ["b"]),
        ("a", ["a", "a", "a"]),
        ("n", ["n", "n"]),
    ]
    assert grouped([], len) == {}


def test_each_item_gets_its_own_result_from_one_run_a_key() -> None:
    items = [random.Random(3).randrange(1000) for _ in range(60)]
    seen: list[list[int]] = []

    def square(alike: list[int]) -> list[int]:
        seen.append(alike)
        return [item * item for item in alike]

    assert run_grouped(items, lambda item: item % 7, square) == [item * item for item in items]
    assert len(seen) == len({item % 7 for item in items})
    assert all(len({item % 7 for item in alike}) == 1 for alike in seen)
    assert run_grouped([], lambda item: item, square) == []


def test_a_run_that_loses_a_result_is_an_error_and_its_own_error_passes() -> None:
    with pytest.raises(ValueError, match="shorter"):
        run_grouped([1, 2, 3], lambda _: None, lambda alike: alike[1:])

    def refuse(alike: list[int]) -> list[int]:
        raise KeyError(alike[0])

    with pytest.raises(KeyError):
        run_grouped([1, 2], lambda item: item, refuse)


async def test_groups_that_wait_do_so_at_the_same_time() -> None:
    both = asyncio.Barrier(2)

    async def meet(alike: list[int]) -> list[str]:
        await both.wait()
        return [str(item) for item in alike]

    async with asyncio.timeout(5):
        found = await gather_grouped([4, 7, 2, 9], lambda item: item % 2, meet)
    assert found == ["4", "7", "2", "9"]
