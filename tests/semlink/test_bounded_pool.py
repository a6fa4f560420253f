"""A bounded pool: never more calls at once than it may, a bounded queue, and the caller's deadline."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from semlink.batching import BoundedPool
from semlink.deadlines import deadline_in
from semlink.errors import DeadlineExceeded, InvalidField, Overloaded, Unavailable


def pool(running: int = 2, queue: int = 100, num_bytes: int = 1000) -> BoundedPool[int]:
    return BoundedPool(
        name="test.pool", max_running=running, max_queue=queue, max_queue_bytes=num_bytes
    )


async def test_at_most_so_many_run_at_once() -> None:
    lock = threading.Lock()
    running, most = 0, 0

    def call(i: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return i

    bounded = pool(running=3)
    requests = [
        bounded.run_many([lambda i=i: call(i) for i in range(5 * n, 5 * n + 5)], 1) for n in range(8)
    ]  # fmt: skip
    answers = await asyncio.gather(*requests)
    assert answers == [list(range(5 * n, 5 * n + 5)) for n in range(8)]
    assert most == 3
    await bounded.drain()
    with pytest.raises(Unavailable):
        await bounded.run_many([lambda: 1], 1)


async def test_what_does_not_fit_into_the_queue_is_refused_and_the_next_is_served() -> None:
    go_on = threading.Event()
    bounded = pool(running=1, queue=3, num_bytes=100)
    held = asyncio.create_task(bounded.run_many([lambda: int(go_on.wait())] * 2, 60))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="queue of 3"):
        await bounded.run_many([lambda: 1] * 2, 1)
    with pytest.raises(Overloaded, match="60 bytes, 50 more"):
        await bounded.run_many([lambda: 1], 50)
    go_on.set()
    assert await held == [1, 1]
    assert await bounded.run_many([lambda: 1] * 3, 500) == [1] * 3  # alone any size is taken
    await bounded.drain()


async def test_the_deadline_counts_and_what_has_not_begun_is_dropped() -> None:
    begun: list[int] = []
    go_on = threading.Event()

    def call(i: int) -> int:
        begun.append(i)
        go_on.wait()
        return i

    bounded = pool(running=1)
    with deadline_in(0.1), pytest.raises(DeadlineExceeded) as error:
        await bounded.run_many([lambda i=i: call(i) for i in range(5)], 1)
    assert error.value.field == "deadline_ms"
    go_on.set()
    assert await bounded.run_many([lambda: 7], 1) == [7]
    assert begun == [0]
    with deadline_in(0.0), pytest.raises(DeadlineExceeded):
        await bounded.run_many([lambda: 7], 1)
    await bounded.drain()


async def test_an_error_of_one_call_ends_the_request_alone() -> None:
    def bad() -> int:
        raise InvalidField("no picture", field="queries[1].image")

    bounded = pool(running=1)
    good = asyncio.create_task(bounded.run_many([lambda: 1], 1))
    with pytest.raises(InvalidField) as error:
        await bounded.run_many([lambda: 1, bad, bad], 1)
    assert error.value.field == "queries[1].image"
    assert await good == [1]
    await bounded.drain()
