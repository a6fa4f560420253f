"""Schedule queries that are in flight on one opened link into shared slots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from semlink.batching import Waiting, answers_of, queued
from semlink.deadlines import deadline
from semlink.errors import DeadlineExceeded, NotFound, Overloaded, Unavailable
from semlink.telemetry import BATCH_SIZE, QUEUE_DEPTH

T = TypeVar("T")
R = TypeVar("R")

SHARED_ERRORS: Final = (DeadlineExceeded, NotFound, Overloaded, Unavailable)
"""Errors of the link or a service, not of one item: all items of the batch share them."""


@dataclass(slots=True)
class _Queue(Generic[T, R]):
    """One key's waiting items and running batches."""

    waiting: dict[asyncio.Future[R], Waiting[T, R]] = field(default_factory=dict)
    running: set[asyncio.Task[None]] = field(default_factory=set)
    runner: asyncio.Task[None] | None = None


class SlotScheduler(Generic[T, R]):
    """Runs an asynchronous ``fn`` (items → results, same order and length) on items of one ``key`` that are ready now.

    No item waits for others: it leaves with those that are ready in the same turn of the event loop. Only while
    ``max_in_flight`` batches of its key are on their way do items wait, and then form the next batch.

    An error that is an item's own is not delivered to its mates: the items of the batch run again one by one, each to
    its own result or error. ``fn`` must therefore be repeatable. A batch runs under the latest deadline of its items;
    each caller waits no longer than its own. A batch that nobody waits for any more is cancelled.

    ``name`` labels the metrics. Use from one event loop at a time.
    """

    def __init__(
        self,
        fn: Callable[[list[T]], Awaitable[Sequence[R]]],
        *,
        key: Callable[[T], Hashable],
        name: str,
        max_batch: int,
        max_queue: int,
        max_in_flight: int = 2,
    ) -> None:
        self._fn = fn
        self._key = key
        self._name = name
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._max_in_flight = max_in_flight
        self._queues: dict[Hashable, _Queue[T, R]] = {}
        self._waiting = 0
        self._draining = False
        self._depth = QUEUE_DEPTH.labels(name)
        self._sizes = BATCH_SIZE.labels(name)

    async def submit_many(self, items: Sequence[T]) -> list[R]:
        """Results in the order of the items, which may leave in different batches, beside other callers' items.

        Raises Overloaded if not all of them fit into the queue (then none is queued), DeadlineExceeded when the
        caller's deadline passes first, Unavailable while draining, and what ``fn`` raises: of several errors the
        first. Cancelling the caller takes its waiting items out of the queue.
        """
        if self._draining:
            raise Unavailable(f"{self._name} is shutting down")
        if self._waiting + len(items) > self._max_queue:
            raise Overloaded(
                f"{self._name} has {self._waiting} items waiting, {len(items)} more do not fit "
                f"into its queue of {self._max_queue}"
            )
        waiting: list[Waiting[T, R]] = queued(items, self._name)
        for one in waiting:
            self._enqueue(self._key(one.item), one)
        return await answers_of(waiting, self._name)

    async def drain(self) -> None:
        """Refuse new items and return when all that were queued are done."""
        self._draining = True
        while tasks := [
            task
            for queue in self._queues.values()
            for task in (queue.runner, *queue.running)
            if task is not None and not task.done()
        ]:
            await asyncio.wait(tasks)

    def _enqueue(self, key: Hashable, one: Waiting[T, R]) -> None:
        queue = self._queues.setdefault(key, _Queue())
        queue.waiting[one.answer] = one
        self._count(1)

        def dequeue(answer: asyncio.Future[R]) -> None:
            if queue.waiting.pop(answer, None) is not None:
                self._count(-1)

        one.answer.add_done_callback(dequeue)
        self._start_if_allowed(key, queue)

    def _count(self, change: int) -> None:
        self._waiting += change
        self._depth.set(self._waiting)

    def _start_if_allowed(self, key: Hashable, queue: _Queue[T, R]) -> None:
        """Send off who waits, if they may leave; forget a key that nobody uses."""
        if queue.runner is not None:
            return
        if queue.waiting and len(queue.running) < self._max_in_flight:
            queue.runner = asyncio.create_task(self._run(key, queue), name=f"{self._name} {key}")
        elif not queue.waiting and not queue.running:
            self._queues.pop(key, None)

    async def _run(self, key: Hashable, queue: _Queue[T, R]) -> None:
        while queue.waiting and len(queue.running) < self._max_in_flight:
            await asyncio.sleep(0)  # let every caller that is ready now join
            batch: list[Waiting[T, R]] = []
            now = time.monotonic()
            while queue.waiting and len(batch) < self._max_batch:
                one = queue.waiting.pop(next(iter(queue.waiting)))
                self._count(-1)
                if not one.answer.done() and (one.deadline is None or one.deadline > now):
                    batch.append(one)
            if batch:
                self._start_batch(key, queue, batch)
        queue.runner = None
        self._start_if_allowed(key, queue)

    def _start_batch(self, key: Hashable, queue: _Queue[T, R], batch: list[Waiting[T, R]]) -> None:
        def done(task: asyncio.Task[None]) -> None:
            queue.running.discard(task)
            self._start_if_allowed(key, queue)

        task = asyncio.create_task(self._run_batch(batch), name=f"{self._name} {key}")
        queue.running.add(task)
        task.add_done_callback(done)

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
            results = await self._fn([one.item for one in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{self._name}: {len(results)} results for {len(batch)} items")
        except Exception as error:  # noqa: BLE001  # whatever it is belongs to the callers
            if len(batch) > 1 and not isinstance(error, SHARED_ERRORS):
                await asyncio.gather(
                    *(
                        asyncio.create_task(self._run_batch([one]))
                        for one in batch
                        if not one.answer.done()
                    )
                )
                return
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        for one, result in zip(batch, results, strict=True):
            if not one.answer.done():
                one.answer.set_result(result)
