"""Stages of a service: each makes new values of a batch of values; times and fallbacks are noted beside them.

A stage is an asynchronous function from a list of values to as many :class:`Noted` ones. None changes a value that it
was given, so a batch may run again, and none keeps accounts: :func:`follow` and :func:`beside` carry the notes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from semlink.batching import MicroBatcher, ThreadExecutor
from semlink.telemetry import timed
from semlink.v1 import common_pb2

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
V_co = TypeVar("V_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Noted(Generic[V_co]):
    """What a stage made of one query, the time that it took and what it had to do without."""

    value: V_co
    timings: tuple[common_pb2.Timing, ...] = ()
    degraded: tuple[common_pb2.Degradation, ...] = ()

    def then(self, later: Noted[B]) -> Noted[B]:
        """What a later stage made of it; what was noted so far stands first."""
        return Noted(later.value, self.timings + later.timings, self.degraded + later.degraded)

    def beside(self, other: Noted[B]) -> Noted[tuple[V_co, B]]:
        """Both values, with what was noted of both."""
        return self.then(Noted((self.value, other.value), other.timings, other.degraded))


Stage: TypeAlias = Callable[[list[A]], Awaitable[Sequence[Noted[B]]]]


async def follow(carried: Sequence[Noted[A]], stage: Stage[A, B]) -> list[Noted[B]]:
    """Run the next stage on what earlier ones made."""
    made = await stage([one.value for one in carried])
    return [one.then(later) for one, later in zip(carried, made, strict=True)]


def side_by_side(first: Stage[A, B], second: Stage[A, C]) -> Stage[A, tuple[B, C]]:
    """Two stages that run at the same time on the same values, as one."""

    async def both(values: list[A]) -> list[Noted[tuple[B, C]]]:
        made = await asyncio.gather(first(values), second(values))
        return [one.beside(other) for one, other in zip(*made, strict=True)]

    return both


def where(
    wanted: Callable[[A], bool], stage: Stage[A, B], otherwise: Callable[[A], B]
) -> Stage[A, B]:
    """A stage for the values that want it; the others become ``otherwise`` of themselves."""

    async def some(values: list[A]) -> list[Noted[B]]:
        chosen = [value for value in values if wanted(value)]
        made = iter(await stage(chosen) if chosen else ())
        return [next(made) if wanted(value) else Noted(otherwise(value)) for value in values]

    return some


def batched(
    name: str, fn: Callable[[list[A]], Sequence[B]], *, max_batch: int, max_queue: int
) -> MicroBatcher[A, Noted[B]]:
    """A micro-batcher of a function in a thread of its own, timed as step ``name`` ("receiver.decode").

    Its ``submit_many`` is a stage; each result has the time of its whole batch.
    """

    def run(values: list[A]) -> list[Noted[B]]:
        with timed(name) as clock:
            results = fn(values)
        return [Noted(result, (clock.timing(),)) for result in results]

    return MicroBatcher(
        ThreadExecutor(run, name), name=name, max_batch=max_batch, max_queue=max_queue
    )
