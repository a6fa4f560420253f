"""A micro-batcher: calls that arrive one by one run together in one tensor operation.

Own code because what exists is stale or has no bound: ours has a bounded queue, deadlines, cancellation and drain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from semlink.deadlines import deadline
from semlink.errors import DeadlineExceeded, Overloaded, Unavailable
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


class MicroBatcher(Generic[T, R]):
    """Runs ``fn`` (items → results, same order and length) on batches, in one worker thread of its own.

    Items that arrive while a batch runs form the next one: without load an item does not wait, under load batches grow
    by themselves. ``delay_s`` > 0 additionally waits so long for more items before each batch that is not full.

    An exception of a batch of several is not delivered: its items are run again one by one, so that each item gets its
    own result or its own error and a bad one cannot poison its mates. ``fn`` must therefore be repeatable.

    ``name`` labels the metrics ("receiver.receive"). Use from one event loop at a time.
    """

    def __init__(
        self,
        fn: Callable[[list[T]], Sequence[R]],
        *,
        name: str,
        max_batch: int,
        max_queue: int,
        delay_s: float = 0.0,
    ) -> None:
        self._fn = fn
        self._name = name
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._delay_s = delay_s
        self._queue: dict[asyncio.Future[R], Waiting[T, R]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._runner: asyncio.Task[None] | None = None
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
        caller's deadline passes first (what waits is then not run), Unavailable while draining, and what ``fn`` raises:
        of several errors the first. Cancelling the caller takes its waiting items out of the queue.
        """
        if self._draining:
            raise Unavailable(f"{self._name} is shutting down")
        if len(self._queue) + len(items) > self._max_queue:
            raise Overloaded(
                f"{self._name} has {len(self._queue)} items waiting, {len(items)} more do not fit "
                f"into its queue of {self._max_queue}"
            )
        waiting: list[Waiting[T, R]] = queued(items, self._name)
        self._queue.update((one.answer, one) for one in waiting)
        self._depth.set(len(self._queue))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.get_running_loop().create_task(
                self._run(), name=f"batcher {self._name}"
            )
        try:
            return await answers_of(waiting, self._name)
        finally:
            for one in waiting:
                self._queue.pop(one.answer, None)
            self._depth.set(len(self._queue))

    async def drain(self) -> None:
        """Refuse new items, return when all that were queued are done, and end the worker thread."""
        self._draining = True
        if self._runner is not None and not self._runner.done():
            await asyncio.shield(self._runner)
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        """Run batches until nothing waits."""
        while self._queue:
            # let every caller that is ready now join
            await asyncio.sleep(self._delay_s if len(self._queue) < self._max_batch else 0)
            now = time.monotonic()
            batch: list[Waiting[T, R]] = []
            while self._queue and len(batch) < self._max_batch:
                one = self._queue.pop(next(iter(self._queue)))
                if not one.answer.done() and (one.deadline is None or one.deadline > now):
                    batch.append(one)
            self._depth.set(len(self._queue))
            if batch:
                await self._run_batch(batch)

    async def _run_batch(self, batch: list[Waiting[T, R]]) -> None:
        loop = asyncio.get_running_loop()
        self._sizes.observe(len(batch))
        try:
            results = await loop.run_in_executor(self._thread, self._checked, batch)
        except Exception as error:  # noqa: BLE001  # whatever it is belongs to the callers
            if len(batch) > 1:
                for one in batch:
                    if not one.answer.done():
                        await self._run_batch([one])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        for one, result in zip(batch, results, strict=True):
            if not one.answer.done():
                one.answer.set_result(result)

    def _checked(self, batch: list[Waiting[T, R]]) -> Sequence[R]:
        results = self._fn([one.item for one in batch])
        if len(results) != len(batch):
            raise RuntimeError(f"{self._name}: {len(results)} results for {len(batch)} items")
        return results


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
