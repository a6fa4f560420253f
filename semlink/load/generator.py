"""Send the calls of a plan, open loop or closed loop, and note what came back of each."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Final

import numpy as np

from semlink.errors import Unavailable
from semlink.load.connection import Gateway, Response
from semlink.load.plan import Load, Plan
from semlink.load.queries import Asked, Call, Queries, identities, warming
from semlink.load.resources import Resources, ServiceUse, used
from semlink.seeds import stable_seed

MARGIN_S: Final = 10.0
"""Beyond its deadline that a call is waited for: the gateway should have said 504 by then."""
GRACE_S: Final = 2.0
"""That calls in flight have to end when the run is interrupted."""
_RETRY_STATUSES: Final = (429, 503)


@dataclass(frozen=True, slots=True)
class Answer:
    """What matters of one answer. ``slot`` is None for a method without a channel."""

    asked: Asked
    correct: bool
    degraded: bool
    erased: bool
    symbols: int = 0
    feedback_bits: int = 0
    slot: int | None = None
    co_scheduled: int = 0
    timings_ms: dict[str, float] = field(default_factory=dict)
    emulated_ms: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Sample:
    """One call. ``due_s``: when it was due, seconds after the step's start; ``latency_s`` counts from there.

    ``late_s``: how long after ``due_s`` the generator sent it. ``status``: of the last answer, or why none came
    ("timeout", "connection", "unfinished"; "unreadable": 200, but no answer of a gateway); "" while it is in flight.
    ``refusals``: answers 429 and 503, whether or not it was sent again.
    """

    due_s: float
    asked: tuple[Asked, ...]
    late_s: float = 0.0
    latency_s: float = 0.0
    status: str = ""
    refusals: int = 0
    answers: tuple[Answer, ...] = ()

    @property
    def ended_s(self) -> float:
        """When it ended, seconds after the step's start."""
        return self.due_s + self.latency_s


@dataclass(slots=True)
class Step:
    """What was measured at one load. ``seconds``: the time that rates refer to, see :meth:`window`.

    ``services`` by name; empty where nothing is known. ``generator_cpu_s``: CPU time of this process.
    """

    load: Load
    begun_unix_s: float
    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0
    services: dict[str, ServiceUse] = field(default_factory=dict)
    generator_cpu_s: float = 0.0
    interrupted: bool = False


Observer = Callable[[Step, float], None]
"""Is shown a step that goes on and how many seconds it has lasted, twice a second."""


class Generator:
    """Loads one gateway as a plan says; :meth:`step` once for each load."""

    def __init__(
        self,
        plan: Plan,
        gateway: Gateway,
        queries: Queries,
        resources: Resources,
        observer: Observer | None = None,
    ) -> None:
        self._plan = plan
        self._gateway = gateway
        self._queries = queries
        self._resources = resources
        self._observer = observer
        self._stopped = asyncio.Event()
        self._steps = count()
        self._error: BaseException | None = None

    def stop(self) -> None:
        """End the step that goes on; what is in flight has :data:`GRACE_S` seconds."""
        self._stopped.set()

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopped.is_set()

    async def warm_up(self) -> None:
        """Send the calls before the clock starts, 16 at a time. Raises Unavailable where none is answered."""
        if not self._plan.warm_up:
            return
        plan = warming(self._plan)
        queries = Queries(plan, self._queries.opened)
        numbers, samples = iter(range(plan.warm_up)), list[Sample]()

        async def user() -> None:
            for number in numbers:
                if self.stopped:
                    return
                call = queries.call(number, stage="warm-up")
                samples.append(sample := Sample(0.0, call.asked))
                await self._send(call, sample, time.perf_counter())

        await asyncio.gather(*(user() for _ in range(16)))
        statuses = sorted({sample.status for sample in samples})
        if samples and "200" not in statuses:
            raise Unavailable(f"no call of the warm-up was answered: {', '.join(statuses)}")

    async def step(self, load: Load) -> Step:
        """Load the gateway for the plan's duration, or until the plan's number of calls is sent."""
        stage = f"step {next(self._steps)}"
        step = Step(load, time.time())
        before, cpu = await self._resources.read(), time.process_time()
        begun = time.perf_counter()
        tasks: set[asyncio.Task[None]] = set()
        loop = self._open_loop if load.rate is not None else self._closed_loop
        watching = asyncio.create_task(self._watch(step, begun))
        try:
            await loop(step, stage, begun, tasks)
            await self._finish(tasks)
            if self._error is not None:
                raise self._error
        finally:
            watching.cancel()
            for task in tasks:
                task.cancel()
        step.interrupted = self.stopped
        step.seconds = self._window(step, time.perf_counter() - begun)
        step.generator_cpu_s = time.process_time() - cpu
        step.services = used(before, await self._resources.read())
        return step

    def _window(self, step: Step, lasted_s: float) -> float:
        """Seconds that rates refer to: the plan's duration, less where calls ran out or the run was interrupted."""
        if not step.interrupted and self._plan.calls is None:
            return self._plan.duration_s
        last_s = max((one.ended_s for one in step.samples), default=lasted_s)
        return min(last_s, lasted_s) if self._plan.calls is not None else lasted_s

    async def _open_loop(
        self, step: Step, stage: str, begun: float, tasks: set[asyncio.Task[None]]
    ) -> None:
        """Calls at the times of a Poisson process, whatever has become of those before."""
        assert step.load.rate is not None
        rng = np.random.default_rng(stable_seed("arrivals", self._plan.seed, stage))
        due_s = 0.0
        for number in self._numbers():
            due_s += float(rng.exponential(1 / step.load.rate))
            if due_s >= self._plan.duration_s and self._plan.calls is None:
                await self._wait_until(begun + self._plan.duration_s)
                return
            if await self._wait_until(begun + due_s):
                return
            call = self._queries.call(number, stage=stage)
            step.samples.append(sample := Sample(due_s, call.asked))
            task = asyncio.create_task(self._send(call, sample, begun))
            tasks.add(task)
            task.add_done_callback(partial(self._ended, tasks))

    async def _closed_loop(
        self, step: Step, stage: str, begun: float, tasks: set[asyncio.Task[None]]
    ) -> None:
        """Users, each of whom sends a call as soon as the one before has ended."""
        numbers = self._numbers()
        ends = begun + self._plan.duration_s

        async def user() -> None:
            for number in numbers:
                now = time.perf_counter()
                if self.stopped or (self._plan.calls is None and now >= ends):
                    return
                call = self._queries.call(number, stage=stage)
                step.samples.append(sample := Sample(now - begun, call.asked))
                await self._send(call, sample, begun)
                if not sample.answers and not sample.status.isdigit():
                    await asyncio.sleep(
                        0.1
                    )  # a gateway that is away must not be asked in a busy loop

        for _ in range(step.load.users or 0):
            task = asyncio.create_task(user())
            tasks.add(task)
            task.add_done_callback(partial(self._ended, tasks))
        stopping = asyncio.create_task(self._stopped.wait())
        users = asyncio.gather(*tasks, return_exceptions=True)
        waiting: set[asyncio.Future[Any]] = {stopping, users}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()

    def _ended(self, tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
        """Forget a task; an error that is no answer of the gateway ends the step and is raised there."""
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = error
            self.stop()

    def _numbers(self) -> Iterator[int]:
        return count() if self._plan.calls is None else iter(range(self._plan.calls))

    async def _wait_until(self, moment: float) -> bool:
        """Wait; True where the run was stopped meanwhile."""
        left_s = moment - time.perf_counter()
        if left_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._stopped.wait()
        return self.stopped

    async def _finish(self, tasks: set[asyncio.Task[None]]) -> None:
        """Wait for what is in flight: as long as it takes, at most the grace once the run is stopped."""
        while tasks:
            stopping = asyncio.create_task(self._stopped.wait())
            waiting: set[asyncio.Future[Any]] = {stopping, *tasks}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if self.stopped and tasks:
                await asyncio.wait(tasks, timeout=GRACE_S)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                return

    async def _watch(self, step: Step, begun: float) -> None:
        while self._observer is not None:
            self._observer(step, time.perf_counter() - begun)
            await asyncio.sleep(0.5)

    async def _send(self, call: Call, sample: Sample, begun: float) -> None:
        """Send one call, again where the plan says so, and note how it ended."""
        sample.late_s = time.perf_counter() - begun - sample.due_s
        gives_up_s = self._plan.deadline_ms / 1e3
        status = "unfinished"
        try:
            async with asyncio.timeout(gives_up_s + MARGIN_S):
                while True:
                    response = await self._gateway.ask("POST", call.path, call.body)
                    if response.status not in _RETRY_STATUSES:
                        break
                    sample.refusals += 1
                    spent_s = time.perf_counter() - begun - sample.due_s
                    pause_s = response.retry_after_s
                    if not self._plan.honour_retry_after or pause_s is None:
                        break
                    if spent_s + pause_s >= gives_up_s or self.stopped:
                        break
                    await asyncio.sleep(pause_s)
            status = str(response.status)
        except TimeoutError:
            status = "timeout"
        except OSError:
            status = "connection"
        finally:
            sample.latency_s = time.perf_counter() - begun - sample.due_s
            sample.status = status
        if status == "200":
            try:
                sample.answers = answers_of(call, response)
            except (ValueError, KeyError, TypeError, AttributeError):
                sample.status = "unreadable"


def answers_of(call: Call, response: Response) -> tuple[Answer, ...]:
    """Read the answers of a call. Raises ValueError, KeyError, … for what no gateway of this version says."""
    content = json.loads(response.body)
    found = content.get("answers", [content])
    return tuple(_answer(a, one) for a, one in zip(call.asked, found, strict=True))


def _answer(asked: Asked, content: dict[str, Any]) -> Answer:
    results, link = content["results"], content["link"] or {}
    first = identities(asked.task).get(results[0]["item_id"]) if results else None
    return Answer(
        asked,
        correct=first == asked.identity,
        degraded=bool(content["degraded"]),
        erased=bool(link.get("erased", False)),
        symbols=int(link.get("channel_uses", 0)),
        feedback_bits=int(link.get("feedback_bits", 0)),
        slot=link.get("slot"),
        co_scheduled=int(link.get("co_scheduled", 0)),
        timings_ms=content["timings_ms"],
        emulated_ms=content.get("emulated_ms", {}),
    )


@asynccontextmanager
async def opened_links(plan: Plan, gateway: Gateway) -> AsyncIterator[tuple[str, ...]]:
    """Open the links that a plan needs, and close them at the end. Raises Unavailable where that is refused."""
    needed = plan.num_links if "opened" in plan.links.values else 0
    ids: list[str] = []
    try:
        for number in range(needed):
            body = {**plan.link, "seed": number}
            response = await gateway.ask("POST", "/v1/links", json.dumps(body).encode())
            if response.status != 201:
                raise Unavailable(
                    f"opening a link was answered {response.status}: {bytes(response.body)[:300]!r}"
                )
            ids.append(json.loads(response.body)["id"])
        yield tuple(ids)
    finally:
        for link_id in ids:
            with suppress(OSError):
                await gateway.ask("DELETE", f"/v1/links/{link_id}")


@asynccontextmanager
async def announced(gateway: Gateway) -> AsyncIterator[Callable[[Plan, Load], Any]]:
    """Tell the gateway what runs, so that dashboards can show it, and at the end that nothing does any more.

    A gateway that does not know the route, or is away, is no error.
    """
    told = False

    async def announce(plan: Plan, load: Load) -> None:
        nonlocal told
        body = {
            "duration_s": plan.duration_s if plan.calls is None else 3600.0,
            "queries_per_call": max(plan.batch.values),
            **({"rate": load.rate} if load.rate is not None else {"users": load.users}),
        }
        with suppress(OSError):
            await gateway.ask("PUT", "/v1/load-run", json.dumps(body).encode())
            told = True

    try:
        yield announce
    finally:
        if told:
            with suppress(OSError):
                await gateway.ask("DELETE", "/v1/load-run")
