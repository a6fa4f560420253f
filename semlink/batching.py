"""A micro-batcher: calls that arrive one by one run together, in one tensor operation or one call of a service.

Own code because what exists is stale or has no bound: ours has a bounded queue, deadlines, cancellation and drain.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from semlink.deadlines import deadline
from semlink.errors import DeadlineExceeded, Overloaded, Unavailable
from semlink.grouping import grouped
from semlink.telemetry import BATCH_SIZE, QUEUE_DEPTH

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Waiting(Generic[T, R]):
    """An item in a queue, where its answer will appear, and until when (``time.monotonic``) somebody wants it."""

    item: T
    answer: asyncio.Future[R]
    deadline: float | None


def queued(items: Sequence[T], name: str) -> list[Waiting[T, R]]:
    """The items ready to wait under the caller's deadline. Raises DeadlineExceeded when that has passed."""
    expires = deadline.get()
    if expires is not None and expires <= time.monotonic():
        raise DeadlineExceeded(f"the deadline passed before {name}", field="deadline_ms")
    loop = asyncio.get_running_loop()
    return [Waiting(item, loop.create_future(), expires) for item in items]


async def answers_of(waiting: Sequence[Waiting[T, R]], name: str) -> list[R]:
    """The answers in order; those that are not wanted any more, after an error, a cancellation or the deadline, are
    cancelled.

    Raises DeadlineExceeded when the deadline passes first, and what stands for an answer: of several errors the first.
    """
    expires = min((one.deadline for one in waiting if one.deadline is not None), default=None)
    try:
        async with asyncio.timeout(None if expires is None else expires - time.monotonic()) as t:
            return list(await asyncio.gather(*(one.answer for one in waiting)))
    except TimeoutError as error:
        if not t.expired():  # an answer's own
            raise
        raise DeadlineExceeded(f"the deadline passed in {name}", field="deadline_ms") from error
    finally:
        for one in waiting:
            one.answer.cancel()


class Executor(ABC, Generic[T, R]):
    """Runs the batches of a :class:`MicroBatcher`."""

    @abstractmethod
    async def run(self, items: list[T]) -> Sequence[R]:
        """Results of one batch, in the order of its items. When cancelled, return when the batch has stopped."""

    def close(self) -> None:
        """Free what it holds; no batch follows."""


class ThreadExecutor(Executor[T, R]):
    """Runs a function on one batch at a time, in a thread of its own. A batch that runs cannot be stopped.

    :param name: of the thread, for profilers.
    """

    def __init__(self, fn: Callable[[list[T]], Sequence[R]], name: str = "batches") -> None:
        self._fn = fn
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, items: list[T]) -> Sequence[R]:
        """See the base class."""
        running = self._thread.submit(self._fn, items)
        results = asyncio.wrap_future(running)
        try:
            return await asyncio.shield(results)
        except asyncio.CancelledError:
            if not running.cancel():
                await asyncio.wait([results])
            raise

    def close(self) -> None:
        """See the base class."""
        self._thread.shutdown(wait=False)


class AsyncExecutor(Executor[T, R]):
    """Awaits an asynchronous function on batches, any number of them at once."""

    def __init__(self, fn: Callable[[list[T]], Awaitable[Sequence[R]]]) -> None:
        self._fn = fn

    async def run(self, items: list[T]) -> Sequence[R]:
        """See the base class."""
        return await self._fn(items)


@dataclass(slots=True)
class _Queue(Generic[T, R]):
    """One key's waiting items and its batches, of which one at most is still gathering."""

    waiting: dict[asyncio.Future[R], Waiting[T, R]] = field(default_factory=dict)
    batches: set[asyncio.Task[None]] = field(default_factory=set)
    gathering: asyncio.Task[None] | None = None


class MicroBatcher(Generic[T, R]):
    """Runs items that arrive one by one in batches of one ``key``.

    An item leaves with those of its key that are ready in the same turn of the event loop, and waits for no other.
    Only while ``max_in_flight`` batches of its key run do items wait, and then form the next batch: without load an
    item does not wait, under load batches grow by themselves. ``delay_s`` > 0 additionally waits so long for more
    items before each batch that is not full.

    An error of a batch of several is not delivered, but for ``shared_errors`` (of a link or a service, not of an
    item): its items run again one by one, so that each gets its own result or its own error and a bad one cannot
    poison its mates. What the executor runs must therefore be repeatable. It runs under the latest deadline of the
    batch's items; each caller waits no longer than its own. A batch that nobody waits for any more is cancelled.

    ``name`` labels the metrics ("receiver.decode"). Use from one event loop at a time.
    """

    def __init__(
        self,
        executor: Executor[T, R],
        *,
        name: str,
        max_batch: int,
        max_queue: int,
        key: Callable[[T], Hashable] = lambda _: None,
        max_in_flight: int = 1,
        delay_s: float = 0.0,
        shared_errors: tuple[type[Exception], ...] = (),
    ) -> None:
        self._executor = executor
        self._name = name
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._key = key
        self._max_in_flight = max_in_flight
        self._delay_s = delay_s
        self._shared_errors = shared_errors
        self._queues: dict[Hashable, _Queue[T, R]] = {}
        self._waiting = 0
        self._draining = False
        self._depth = QUEUE_DEPTH.labels(name)
        self._sizes = BATCH_SIZE.labels(name)

    async def submit(self, item: T) -> R:
        """The result for one item; see :meth:`submit_many`."""
        (result,) = await self.submit_many([item])
        return result

    async def submit_many(self, items: Sequence[T]) -> list[R]:
        """Results in the order of the items, which may run in different batches, beside other callers' items.

        Raises Overloaded if not all of them fit into the queue (then none is queued), DeadlineExceeded when the
        caller's deadline passes first (what waits is then not run), Unavailable while draining, and what the executor
        raises: of several errors the first. Cancelling the caller takes its waiting items out of the queue.
        """
        if self._draining:
            raise Unavailable(f"{self._name} is shutting down")
        if self._waiting + len(items) > self._max_queue:
            raise Overloaded(
                f"{self._name} has {self._waiting} items waiting, {len(items)} more do not fit "
                f"into its queue of {self._max_queue}"
            )
        waiting: list[Waiting[T, R]] = queued(items, self._name)
        places = []
        for key, members in grouped(waiting, lambda one: self._key(one.item)).items():
            queue = self._queues.setdefault(key, _Queue())
            queue.waiting.update((one.answer, one) for one in members)
            places.append((queue, members))
            self._count(len(members))
            self._start_if_allowed(key, queue)
        try:
            return await answers_of(waiting, self._name)
        finally:
            for queue, members in places:
                self._dequeue(queue, members)

    async def drain(self) -> None:
        """Refuse new items, return when all that were queued are done, and close the executor."""
        self._draining = True
        while batches := [b for queue in self._queues.values() for b in queue.batches]:
            await asyncio.wait(batches)
        self._executor.close()

    def _count(self, change: int) -> None:
        self._waiting += change
        self._depth.set(self._waiting)

    def _dequeue(self, queue: _Queue[T, R], members: Iterable[Waiting[T, R]]) -> None:
        self._count(-sum(queue.waiting.pop(one.answer, None) is not None for one in members))

    def _start_if_allowed(self, key: Hashable, queue: _Queue[T, R]) -> None:
        """Begin a batch of those that wait, if they may leave; forget a key that nobody uses."""
        queue.batches = {batch for batch in queue.batches if not batch.done()}
        if queue.gathering in queue.batches:
            return
        if queue.waiting and len(queue.batches) < self._max_in_flight:
            queue.gathering = asyncio.create_task(self._run(key, queue), name=self._name)
            queue.batches.add(queue.gathering)
            queue.gathering.add_done_callback(lambda _: self._start_if_allowed(key, queue))
        elif not queue.waiting and not queue.batches and self._queues.get(key) is queue:
            del self._queues[key]

    async def _run(self, key: Hashable, queue: _Queue[T, R]) -> None:
        """Gather a batch and run it."""
        # let every caller that is ready now join
        await asyncio.sleep(self._delay_s if len(queue.waiting) < self._max_batch else 0)
        leaving = list(islice(queue.waiting.values(), self._max_batch))
        self._dequeue(queue, leaving)
        queue.gathering = None
        self._start_if_allowed(key, queue)
        now = time.monotonic()
        batch = [
            one
            for one in leaving
            if not one.answer.done() and (one.deadline is None or one.deadline > now)
        ]
        if batch:
            await self._run_batch(batch)

    async def _run_batch(self, batch: list[Waiting[T, R]]) -> None:
        self._sizes.observe(len(batch))
        task = asyncio.current_task()
        assert task is not None

        def cancel_if_unwanted(_: asyncio.Future[R]) -> None:
            if all(one.answer.done() for one in batch):
                task.cancel()  # without effect where the answers are why it ends

        for one in batch:
            one.answer.add_done_callback(cancel_if_unwanted)
        deadlines = [one.deadline for one in batch if one.deadline is not None]
        deadline.set(max(deadlines) if len(deadlines) == len(batch) else None)
        try:
            results = await self._executor.run([one.item for one in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{self._name}: {len(results)} results for {len(batch)} items")
        except Exception as error:  # noqa: BLE001  # whatever it is belongs to the callers
            if len(batch) > 1 and not isinstance(error, self._shared_errors):
                left = [one for one in batch if not one.answer.done()]
                await asyncio.gather(*(asyncio.create_task(self._run_batch([one])) for one in left))
                return
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        for one, result in zip(batch, results, strict=True):
            if not one.answer.done():
                one.answer.set_result(result)


class BoundedPool(Generic[R]):
    """Runs calls in at most ``max_running`` threads; what waits is bounded by count and by bytes.

    A call whose caller's deadline has passed, or whose caller has gone, is not begun. One that runs cannot be stopped:
    it ends by itself, and until then its thread takes no other.

    ``name`` labels the metrics ("transmitter.media"). Use from one event loop at a time.
    """

    def __init__(
        self, *, name: str, max_running: int, max_queue: int, max_queue_bytes: int
    ) -> None:
        self._name = name
        self._max_queue = max_queue
        self._max_queue_bytes = max_queue_bytes
        self._threads = ThreadPoolExecutor(max_running, thread_name_prefix=name)
        self._calls = 0
        self._bytes = 0
        self._draining = False
        self._depth = QUEUE_DEPTH.labels(name)

    async def run_many(self, calls: Sequence[Callable[[], R]], num_bytes: int) -> list[R]:
        """Run the calls and return their results in order.

        :param num_bytes: what the calls hold while they wait, all of them together.
        :raises Overloaded: if not all of them fit into the queue; then none is run.
        :raises DeadlineExceeded: when the caller's deadline passes first.
        :raises Unavailable: while draining.

        Raises what the calls raise: of several errors the first; the calls that have not begun are then dropped.
        """
        if self._draining:
            raise Unavailable(f"{self._name} is shutting down")
        if self._calls + len(calls) > self._max_queue:
            raise Overloaded(
                f"{self._name} has {self._calls} items waiting, {len(calls)} more do not fit into "
                f"its queue of {self._max_queue}"
            )
        if self._calls and self._bytes + num_bytes > self._max_queue_bytes:
            raise Overloaded(
                f"{self._name} holds {self._bytes} bytes, {num_bytes} more do not fit into its "
                f"queue of {self._max_queue_bytes}"
            )
        waiting: list[Waiting[Callable[[], R], R]] = queued(calls, self._name)
        loop = asyncio.get_running_loop()
        answers = [
            Waiting(one.item, loop.run_in_executor(self._threads, one.item), one.deadline)
            for one in waiting
        ]
        self._count(len(calls), num_bytes)
        try:
            return await answers_of(answers, self._name)
        finally:
            self._count(-len(calls), -num_bytes)

    def _count(self, calls: int, num_bytes: int) -> None:
        self._calls += calls
        self._bytes += num_bytes
        self._depth.set(self._calls)

    async def drain(self) -> None:
        """Refuse new calls and return when all that were queued are done."""
        self._draining = True
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
