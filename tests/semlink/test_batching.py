"""The micro-batcher: batches form, nothing is lost, nobody poisons anybody, the queue is bounded."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from semlink.batching import AsyncExecutor, MicroBatcher, ThreadExecutor
from semlink.deadlines import deadline, deadline_in
from semlink.errors import DeadlineExceeded, InvalidField, NotFound, Overloaded, Unavailable
from semlink.telemetry import registry


class Work:
    """A batch function that can be held, and tells what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.go = threading.Event()
        self.go.set()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(list(items))
        self.threads.add(threading.get_ident())
        assert self.go.wait(10)
        for item in items:
            if item < 0:
                raise InvalidField(f"item is {item}", field="item")
        return [item * item for item in items]

    @property
    def items(self) -> list[int]:
        return [item for batch in self.batches for item in batch]


Make = Callable[..., MicroBatcher[int, int]]


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
async def make(work: Work) -> AsyncIterator[Make]:
    made: list[MicroBatcher[int, int]] = []

    def build(**options: Any) -> MicroBatcher[int, int]:
        made.append(
            MicroBatcher(
                ThreadExecutor(work),
                **({"name": "test", "max_batch": 8, "max_queue": 64} | options),
            )
        )
        return made[-1]

    yield build
    work.go.set()
    for batcher in made:
        await batcher.drain()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_every_caller_gets_its_own_result(make: Make, work: Work) -> None:
    batcher = make()
    results = await asyncio.gather(*(batcher.submit(item) for item in range(50)))
    assert results == [item * item for item in range(50)]
    assert work.items == list(range(50)), "the order of arrival was lost"
    assert await batcher.submit_many([3, 1, 2]) == [9, 1, 4]
    assert await batcher.submit_many([]) == []


async def test_what_arrives_while_a_batch_runs_forms_the_next_one(make: Make, work: Work) -> None:
    batcher = make()
    work.go.clear()
    first = asyncio.create_task(batcher.submit(100))
    await _until(lambda: work.batches == [[100]])
    others = [asyncio.create_task(batcher.submit(item)) for item in range(11)]
    await asyncio.sleep(0.02)
    work.go.set()
    assert await asyncio.gather(first, *others) == [10000, *(item * item for item in range(11))]
    assert work.batches == [[100], [*range(8)], [8, 9, 10]]
    assert len(work.threads) == 1
    assert threading.get_ident() not in work.threads


async def test_without_load_nobody_waits(make: Make) -> None:
    batcher = make()
    await batcher.submit(1)
    started = time.perf_counter()
    for _ in range(50):
        await batcher.submit(1)
    assert (time.perf_counter() - started) / 50 < 0.02


async def test_delay_gathers_company(make: Make, work: Work) -> None:
    batcher = make(delay_s=0.1)

    async def later(item: int) -> int:
        await asyncio.sleep(0.01 * item)
        return await batcher.submit(item)

    assert await asyncio.gather(*(later(item) for item in range(4))) == [0, 1, 4, 9]
    assert work.batches == [[0, 1, 2, 3]]


async def test_full_queue_refuses_and_takes_again_later(make: Make, work: Work) -> None:
    batcher = make(max_batch=1, max_queue=3)
    work.go.clear()
    running = asyncio.create_task(batcher.submit(0))
    await _until(lambda: work.batches == [[0]])
    waiting = [asyncio.create_task(batcher.submit(item)) for item in (1, 2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="2 items waiting, 2 more"):
        await batcher.submit_many([3, 4])  # all or none
    third = asyncio.create_task(batcher.submit(3))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await batcher.submit(4)
    work.go.set()
    assert await asyncio.gather(running, *waiting, third) == [0, 1, 4, 9]
    assert work.items == [0, 1, 2, 3], "a refused item was run"
    assert await batcher.submit(4) == 16


async def test_deadline_while_waiting(make: Make, work: Work) -> None:
    batcher = make(max_batch=1)
    work.go.clear()
    running = asyncio.create_task(batcher.submit(0))
    await _until(lambda: work.batches == [[0]])
    started = time.perf_counter()
    with deadline_in(0.05), pytest.raises(DeadlineExceeded):
        await batcher.submit(1)
    assert 0.04 < time.perf_counter() - started < 0.5
    work.go.set()
    assert await running == 0
    assert await batcher.submit(2) == 4
    assert work.items == [0, 2], "work was done for a caller who had gone"


async def test_deadline_that_has_passed_is_not_even_queued(make: Make, work: Work) -> None:
    batcher = make()
    with deadline_in(0.0), pytest.raises(DeadlineExceeded):
        await batcher.submit(1)
    assert work.batches == []


async def test_deadline_of_one_caller_is_not_the_others(make: Make, work: Work) -> None:
    batcher = make()
    work.go.clear()
    patient = asyncio.create_task(batcher.submit(2))
    await _until(lambda: work.batches == [[2]])

    async def hurried() -> int:
        with deadline_in(0.05):
            return await batcher.submit(3)

    mates = asyncio.gather(batcher.submit(4), hurried(), return_exceptions=True)
    await asyncio.sleep(0.1)
    work.go.set()
    assert await patient == 4
    four, late = await mates
    assert four == 16
    assert isinstance(late, DeadlineExceeded)
    assert 3 not in work.items


async def test_cancelled_callers_items_leave_the_queue(make: Make, work: Work) -> None:
    batcher = make(max_batch=2, max_queue=2)
    work.go.clear()
    running = asyncio.create_task(batcher.submit(0))
    await _until(lambda: work.batches == [[0]])
    quitter = asyncio.create_task(batcher.submit_many([1, 2]))
    await asyncio.sleep(0.01)
    quitter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await quitter
    stayer = asyncio.create_task(batcher.submit_many([3, 4]))  # fits only if the two are out
    await asyncio.sleep(0.01)
    work.go.set()
    assert await running == 0
    assert await stayer == [9, 16]
    assert work.items == [0, 3, 4]


async def test_cancelling_one_of_a_running_batch_leaves_the_others_alone(
    make: Make, work: Work
) -> None:
    batcher = make()
    work.go.clear()
    callers = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3)]
    await _until(lambda: len(work.items) == 3)
    callers[1].cancel()
    await asyncio.sleep(0)
    work.go.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert results[0] == 1
    assert isinstance(results[1], asyncio.CancelledError)
    assert results[2] == 9


async def test_bad_item_fails_alone(make: Make, work: Work) -> None:
    batcher = make()
    results = await asyncio.gather(*map(batcher.submit, (1, -2, 3, -4)), return_exceptions=True)
    assert (results[0], results[2]) == (1, 9)
    assert [type(results[n]) for n in (1, 3)] == [InvalidField, InvalidField]
    assert [str(results[n]) for n in (1, 3)] == ["item is -2", "item is -4"]
    assert work.batches == [[1, -2, 3, -4], [1], [-2], [3], [-4]]
    with pytest.raises(InvalidField, match="item is -7"):
        await batcher.submit_many([5, -7])
    assert await batcher.submit(6) == 36


async def test_wrong_number_of_results_is_an_error_not_a_mix_up() -> None:
    short = ThreadExecutor[int, int](lambda items: items[:-1])
    batcher = MicroBatcher(short, name="short", max_batch=4, max_queue=8)
    results = await asyncio.gather(*map(batcher.submit, (1, 2)), return_exceptions=True)
    assert all(isinstance(result, RuntimeError) for result in results)
    await batcher.drain()


async def test_drain_finishes_what_waits_and_refuses_the_rest(make: Make, work: Work) -> None:
    batcher = make(max_batch=2)
    work.go.clear()
    callers = [asyncio.create_task(batcher.submit(item)) for item in range(5)]
    await _until(lambda: bool(work.batches))
    draining = asyncio.create_task(batcher.drain())
    await asyncio.sleep(0.01)
    assert not draining.done()
    with pytest.raises(Unavailable):
        await batcher.submit(9)
    work.go.set()
    await draining
    assert await asyncio.gather(*callers) == [0, 1, 4, 9, 16]


def test_the_same_batcher_serves_one_event_loop_after_another(work: Work) -> None:
    batcher = MicroBatcher(ThreadExecutor(work), name="loops", max_batch=4, max_queue=8)
    for item in (2, 3):
        assert asyncio.run(batcher.submit(item)) == item * item
    asyncio.run(batcher.drain())


async def test_metrics_tell_batch_sizes_and_queue_depth(make: Make, work: Work) -> None:
    batcher = make(name="counted")
    work.go.clear()
    callers = [asyncio.create_task(batcher.submit(0))]
    await _until(lambda: work.batches == [[0]])
    callers += [asyncio.create_task(batcher.submit(item)) for item in range(5)]
    await asyncio.sleep(0.01)
    labels = {"batcher": "counted"}
    assert registry.get_sample_value("semlink_queue_depth", labels) == 5
    work.go.set()
    await asyncio.gather(*callers)
    assert registry.get_sample_value("semlink_queue_depth", labels) == 0
    assert registry.get_sample_value("semlink_batch_size_count", labels) == 2
    assert registry.get_sample_value("semlink_batch_size_sum", labels) == 6


async def test_a_thread_that_nobody_waits_for_ends_its_batch_before_the_next(
    make: Make, work: Work
) -> None:
    batcher = make()
    work.go.clear()
    quitter = asyncio.create_task(batcher.submit(1))
    await _until(lambda: work.batches == [[1]])
    quitter.cancel()
    await asyncio.sleep(0)
    others = [asyncio.create_task(batcher.submit(item)) for item in (2, 3)]
    await asyncio.sleep(0.01)
    others += [asyncio.create_task(batcher.submit(4))]
    await asyncio.sleep(0.01)
    work.go.set()
    assert await asyncio.gather(*others) == [4, 9, 16]
    assert work.batches == [[1], [2, 3, 4]]


# --- with an asynchronous function -------------------------------------------------------------


class Call:
    """Stands for a call of a service: notes who went with whom, and holds everybody until it is opened."""

    def __init__(self, *, open_: bool = True) -> None:
        self.batches: list[list[Any]] = []
        self.deadlines: list[float | None] = []
        self.gate = asyncio.Event()
        self.cancelled = 0
        if open_:
            self.gate.set()

    async def __call__(self, items: list[Any]) -> list[Any]:
        self.batches.append(items)
        self.deadlines.append(deadline.get())
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if "bad" in items:
            raise InvalidField("an item is bad", field="item")
        if "closed" in items:
            raise NotFound("there is no such link")
        return [f"{item}!" for item in items]

    def batcher(self, **options: Any) -> MicroBatcher[Any, Any]:
        fields = {"max_batch": 8, "max_queue": 100, "max_in_flight": 2} | options
        return MicroBatcher(AsyncExecutor(self), name="test.call", **fields)


async def test_callers_that_are_ready_together_go_together_in_order() -> None:
    call = Call()
    batcher = call.batcher()
    answers = await asyncio.gather(*(batcher.submit_many([i, i + 100]) for i in range(4)))
    assert answers == [[f"{i}!", f"{i + 100}!"] for i in range(4)]
    assert call.batches == [[0, 100, 1, 101, 2, 102, 3, 103]]
    assert await batcher.submit(9) == "9!"
    assert call.batches[1:] == [[9]]  # nobody there: nobody waited for
    assert not batcher._queues  # a key that nobody uses is forgotten


async def test_only_what_has_one_key_goes_together() -> None:
    call = Call()
    batcher = call.batcher(key=lambda item: item % 2)
    assert await batcher.submit_many([0, 1, 2, 3, 4]) == ["0!", "1!", "2!", "3!", "4!"]
    assert sorted(map(tuple, call.batches)) == [(0, 2, 4), (1, 3)]


async def test_a_slow_key_holds_no_other() -> None:
    gate = asyncio.Event()

    async def run(items: list[str]) -> list[str]:
        if "slow" in items:
            await gate.wait()
        return items

    batcher = MicroBatcher(
        AsyncExecutor(run), name="test.keys", max_batch=8, max_queue=8, key=lambda item: item
    )
    slow = asyncio.create_task(batcher.submit("slow"))
    await asyncio.sleep(0.005)
    async with asyncio.timeout(5):
        assert [await batcher.submit("quick") for _ in range(3)] == ["quick"] * 3
    assert not slow.done()
    gate.set()
    assert await slow == "slow"


async def test_at_most_so_many_batches_are_in_flight_and_the_next_gathers() -> None:
    call = Call(open_=False)
    batcher = call.batcher()
    tasks = []
    for i in range(6):
        tasks.append(asyncio.create_task(batcher.submit(i)))
        await asyncio.sleep(0.005)
    assert call.batches == [[0], [1]]
    call.gate.set()
    assert await asyncio.gather(*tasks) == [f"{i}!" for i in range(6)]
    assert call.batches == [[0], [1], [2, 3, 4, 5]]


async def test_what_does_not_fit_into_a_batch_goes_in_the_next_at_once() -> None:
    call = Call(open_=False)
    batcher = call.batcher(max_batch=3)
    tasks = [asyncio.create_task(batcher.submit(i)) for i in range(7)]
    await asyncio.sleep(0.005)
    assert call.batches == [[0, 1, 2], [3, 4, 5]]
    call.gate.set()
    assert await asyncio.gather(*tasks) == [f"{i}!" for i in range(7)]


async def test_a_bad_item_fails_alone() -> None:
    call = Call()
    batcher = call.batcher()
    answers = await asyncio.gather(
        *(batcher.submit(item) for item in ("a", "bad", "b")), return_exceptions=True
    )
    assert [answers[0], answers[2]] == ["a!", "b!"]
    assert isinstance(answers[1], InvalidField)
    assert sorted(map(len, call.batches)) == [1, 1, 1, 3]


async def test_a_shared_error_is_everybodys_and_the_batch_is_not_tried_again() -> None:
    call = Call()
    batcher = call.batcher(shared_errors=(NotFound,))
    answers = await asyncio.gather(
        *(batcher.submit(item) for item in ("a", "closed")), return_exceptions=True
    )
    assert [type(a) for a in answers] == [NotFound, NotFound]
    assert len(call.batches) == 1


async def test_each_caller_keeps_its_own_deadline_and_a_batch_the_latest() -> None:
    call = Call(open_=False)
    batcher = call.batcher()

    async def within(seconds: float, item: str) -> Any:
        with deadline_in(seconds):
            return await batcher.submit(item)

    hasty = asyncio.create_task(within(0.05, "hasty"))
    patient = asyncio.create_task(within(20.0, "patient"))
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await hasty
    assert time.monotonic() - began < 5
    call.gate.set()
    assert await patient == "patient!"
    assert call.batches == [["hasty", "patient"]]
    (at,) = call.deadlines
    assert at is not None
    assert 19 < at - began < 21
    with pytest.raises(DeadlineExceeded):
        await within(-1.0, "late")


async def test_a_batch_that_nobody_waits_for_is_cancelled_and_a_mates_is_not() -> None:
    call = Call(open_=False)
    batcher = call.batcher()
    first, second = (asyncio.create_task(batcher.submit(i)) for i in (1, 2))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.01)
    assert call.cancelled == 0
    second.cancel()
    await asyncio.sleep(0.01)
    assert call.cancelled == 1
    assert not batcher._queues


async def test_the_queue_of_all_keys_has_a_bound_and_an_end() -> None:
    call = Call(open_=False)
    batcher = call.batcher(max_queue=3, max_in_flight=1, key=lambda item: item % 2)
    running = [asyncio.create_task(batcher.submit(item)) for item in (0, 1)]
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(batcher.submit_many([2, 3]))
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await batcher.submit_many([4, 5])
    draining = asyncio.create_task(batcher.drain())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await batcher.submit(6)
    assert not draining.done()
    call.gate.set()
    await draining
    assert await asyncio.gather(*running) == ["0!", "1!"]
    assert await waiting == ["2!", "3!"]
