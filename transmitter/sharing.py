"""Queries in flight at once on one opened link leave together, so that they can share a slot."""

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

NOBODYS_FAULT: Final = (DeadlineExceeded, NotFound, Overloaded, Unavailable)
"""Errors of the way, not of an item: whoever goes the same way meets the same."""


@dataclass(slots=True)
class _Lane(Generic[T, R]):
    """Those of one key: who waits, and the batches that are on their way."""

    queue: dict[asyncio.Future[R], Waiting[T, R]] = field(default_factory=dict)
    flying: set[asyncio.Task[None]] = field(default_factory=set)
    runner: asyncio.Task[None] | None = None


class LeaveTogether(Generic[T, R]):
    """Runs an asynchronous ``fn`` (items → results, same order and length) on items of one ``key`` that are ready now.

    Nothing waits for company: an item leaves with whoever is ready in the same turn of the event loop. Only while
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
        self._lanes: dict[Hashable, _Lane[T, R]] = {}
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
            self._join(self._key(one.item), one)
        return await answers_of(waiting, self._name)

    async def drain(self) -> None:
        """Refuse new items and return when all that were queued are done."""
        self._draining = True
        while tasks := [
            task
            for lane in self._lanes.values()
            for task in (lane.runner, *lane.flying)
            if task is not None and not task.done()
        ]:
            await asyncio.wait(tasks)

    def _join(self, key: Hashable, one: Waiting[T, R]) -> None:
        lane = self._lanes.setdefault(key, _Lane())
        lane.queue[one.answer] = one
        self._count(1)

        def leave(answer: asyncio.Future[R]) -> None:
            if lane.queue.pop(answer, None) is not None:
                self._count(-1)

        one.answer.add_done_callback(leave)
        self._go_on(key, lane)

    def _count(self, change: int) -> None:
        self._waiting += change
        self._depth.set(self._waiting)

    def _go_on(self, key: Hashable, lane: _Lane[T, R]) -> None:
        """Send off who waits, if they may leave; forget a key that nobody uses."""
        if lane.runner is not None:
            return
        if lane.queue and len(lane.flying) < self._max_in_flight:
            lane.runner = asyncio.create_task(self._run(key, lane), name=f"{self._name} {key}")
        elif not lane.queue and not lane.flying:
            self._lanes.pop(key, None)

    async def _run(self, key: Hashable, lane: _Lane[T, R]) -> None:
        while lane.queue and len(lane.flying) < self._max_in_flight:
            await asyncio.sleep(0)  # let every caller that is ready now join
            batch: list[Waiting[T, R]] = []
            now = time.monotonic()
            while lane.queue and len(batch) < self._max_batch:
                one = lane.queue.pop(next(iter(lane.queue)))
                self._count(-1)
                if not one.answer.done() and (one.deadline is None or one.deadline > now):
                    batch.append(one)
            if batch:
                self._send_off(key, lane, batch)
        lane.runner = None
        self._go_on(key, lane)

    def _send_off(self, key: Hashable, lane: _Lane[T, R], batch: list[Waiting[T, R]]) -> None:
        def landed(task: asyncio.Task[None]) -> None:
            lane.flying.discard(task)
            self._go_on(key, lane)

        task = asyncio.create_task(self._run_batch(batch), name=f"{self._name} {key}")
        lane.flying.add(task)
        task.add_done_callback(landed)

    async def _run_batch(self, batch: list[Waiting[T, R]]) -> None:
        self._sizes.observe(len(batch))
        task = asyncio.current_task()
        assert task is not None

        def gone(_: asyncio.Future[R]) -> None:
            if all(one.answer.done() for one in batch):
                task.cancel()  # without effect where the answers are why it ends

        for one in batch:
            one.answer.add_done_callback(gone)
        deadlines = [one.deadline for one in batch if one.deadline is not None]
        deadline.set(max(deadlines) if len(deadlines) == len(batch) else None)
        try:
            results = await self._fn([one.item for one in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{self._name}: {len(results)} results for {len(batch)} items")
        except Exception as error:  # noqa: BLE001  # whatever it is belongs to the callers
            if len(batch) > 1 and not isinstance(error, NOBODYS_FAULT):
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
