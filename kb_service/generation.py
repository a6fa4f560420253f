"""The queue before the LLM: what is generated next, in one thread, once however many ask for it.

Who waits goes first, even before what has begun: generation for nobody in particular stops between two tokens and
begins anew later. Then come captions of queries without budget, then bulk enrichment. What is generated is stored
before it is answered.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from prometheus_client import Counter

from kb_service.entries import Entries, entry_of
from kb_service.llm import MAX_ROWS, GenerationCancelled
from kb_service.rewriting import Embed, Rewriter, Task
from semlink.errors import InvalidField, SemlinkError, Unavailable
from semlink.telemetry import QUEUE_DEPTH, logger, timed
from semlink.v1 import knowledge_pb2 as pb

MAX_WAITING: Final = 512
"""Captions that may wait for the LLM; more are answered without, and not generated."""
LLM_NICENESS: Final = 5
"""Of the LLM's thread over the rest of the process, so that it takes only time that nobody else wants (Linux). With
more than one thread OpenVINO's pool helps it, whose threads are the whole process's and keep their priority."""
FAILURES: Final = Counter(
    "semlink_llm_failures", "Batches of captions that the LLM failed to rewrite"
)
SHUTTING_DOWN: Final = "the knowledge base is shutting down"

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task: its candidates, or why there are none. ``store_problem``: why they were not stored."""

    found: pb.RewriteSet | None
    problem: str = ""
    store_problem: str = ""


class Priority(IntEnum):
    """Who wants a job: somebody who waits, a query that has left, a bulk enrichment."""

    URGENT = 0
    BACKGROUND = 1
    BULK = 2


@dataclass(slots=True, eq=False)
class Job:
    """A task that waits for the LLM or is being rewritten."""

    key: str
    task: Task
    outcome: asyncio.Future[Outcome]
    priority: Priority
    enrichments: int = 0
    """Enrichments that wait for it."""


class GenerationQueue:
    """Has tasks rewritten and stored. Use from one event loop; ``stop``, then ``close``.

    ``model`` is the LLM's identity, part of the entries. ``load_rewriter`` loads the LLM; called once, in the LLM's
    thread. ``closing`` is set while the queue stops.
    """

    def __init__(
        self,
        entries: Entries,
        model: str,
        load_rewriter: Callable[[], Rewriter],
        embed: Embed,
        *,
        closing: threading.Event,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.problem = ""
        """Why the LLM cannot be used; "" where it can or was not tried yet. Installing it needs a restart."""
        self._entries = entries
        self._model = model
        self._load_rewriter = load_rewriter
        self._embed = embed
        self._max_waiting = max_waiting
        self._jobs: dict[str, Job] = {}
        self._current: list[Job] = []
        self._yield = threading.Event()
        self._closing = closing
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="knowledge.llm", initializer=_lower_priority
        )
        self._rewriter: Rewriter | None = None
        self._depth = QUEUE_DEPTH.labels("knowledge.rewrite")

    @property
    def num_waiting(self) -> int:
        """Captions that wait for the LLM or are being rewritten."""
        return len(self._jobs)

    @property
    def num_generating(self) -> int:
        """Captions that are being rewritten."""
        return len(self._current)

    def submit(self, key: str, task: Task, priority: Priority) -> Job:
        """The job that generates this task, begun if need be.

        Raises Unavailable where there is none: without the LLM, while closing, behind ``max_waiting`` others.
        """
        if self.problem or self._closing.is_set():
            raise Unavailable(self.problem or SHUTTING_DOWN)
        job = self._jobs.get(key)
        if job is None:
            # Enrichments hold back by themselves; they must not take the places of queries.
            waiting = sum(j.priority < Priority.BULK for j in self._jobs.values())
            if priority < Priority.BULK and waiting >= self._max_waiting:
                raise Unavailable(f"{waiting} captions wait for the LLM already; not generated")
            job = Job(key, task, asyncio.get_running_loop().create_future(), priority)
            self._jobs[key] = job
            self._depth.set(len(self._jobs))
        job.priority = min(job.priority, priority)
        if job.priority is Priority.URGENT and all(
            j.priority > Priority.URGENT for j in self._current
        ):
            self._yield.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(), name="knowledge.rewrite")
        return job

    def withdraw(self, jobs: Sequence[Job]) -> None:
        """An enrichment wants these no more; what nobody else wants is not generated."""
        for job in jobs:
            job.enrichments -= 1
            if job.priority is Priority.BULK and not job.enrichments:
                self._finish(job, Outcome(None, "the enrichment was cancelled"))
        if self._current and all(job.outcome.done() for job in self._current):
            self._yield.set()

    def warm_up(self, then: Callable[[], object]) -> None:
        """Begin to load the LLM without waiting for it, and call ``then`` in the same thread afterwards."""
        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._thread, self._loaded).add_done_callback(_log_load)
        loop.run_in_executor(self._thread, then)

    def stop(self) -> None:
        """Stop between two tokens, and take nothing more."""
        self._closing.set()

    async def close(self) -> None:
        """Answer those who wait and give the thread back."""
        self.stop()
        if self._worker is not None:
            await self._worker
        for job in list(self._jobs.values()):
            self._finish(job, Outcome(None, SHUTTING_DOWN))
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    async def _work(self) -> None:
        """Generate until nothing waits; jobs that somebody waits for come first."""
        while self._jobs and not self._closing.is_set():
            self._yield.clear()
            self._current = _batch(self._jobs.values())
            for job, outcome in await self._outcomes(self._current):
                self._finish(job, outcome)
            self._current = []

    def _finish(self, job: Job, outcome: Outcome) -> None:
        self._jobs.pop(job.key, None)
        self._depth.set(len(self._jobs))
        if not job.outcome.done():
            job.outcome.set_result(outcome)

    async def _outcomes(self, jobs: Sequence[Job]) -> list[tuple[Job, Outcome]]:
        """Generate and store; nothing where it gave way.

        Whatever goes wrong is said in the answers; the worker lives on. A task that the LLM refuses does not take its
        mates along.
        """
        try:
            made = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._generate, [job.task for job in jobs]
            )
        except GenerationCancelled:
            if not self._closing.is_set():
                return []
            problem = SHUTTING_DOWN
        except InvalidField as error:
            if len(jobs) > 1:
                return [pair for job in jobs for pair in await self._outcomes([job])]
            problem = error.message
        except SemlinkError as error:
            FAILURES.inc()
            _log.warning("no rewrites", why=error.message)
            problem = error.message
        except Exception:  # noqa: BLE001  # the worker's outermost frame: logged, said in the answers
            FAILURES.inc()
            _log.exception("generating rewrites failed")
            problem = "generating rewrites failed; the log says why"
        else:
            entries = {
                job.key: entry for job, entry in zip(jobs, made, strict=True) if entry.rewrites
            }
            store_problem = await self._entries.put(entries)
            return [
                (
                    job,
                    Outcome(pb.RewriteSet(rewrites=entry.rewrites), store_problem=store_problem)
                    if entry.rewrites
                    else Outcome(None, "the LLM's answers held no rewrite"),
                )
                for job, entry in zip(jobs, made, strict=True)
            ]
        return [(job, Outcome(None, problem)) for job in jobs]

    def _generate(self, tasks: list[Task]) -> list[pb.KnowledgeEntry]:
        """The entry of each task, with its candidates. Runs in the LLM's thread."""
        rewriter = self._loaded()
        sets = rewriter(tasks, cancelled=lambda: self._closing.is_set() or self._yield.is_set())
        vectors = self._embed([task.text for task in tasks])
        return [
            entry_of(task, self._model, found, vector)
            for task, found, vector in zip(tasks, sets, vectors, strict=True)
        ]

    def _loaded(self) -> Rewriter:
        """The rewriter, loaded at the first call. Runs in the LLM's thread."""
        if self.problem:
            raise Unavailable(self.problem)
        if self._rewriter is None:
            try:
                with timed("knowledge.load"):
                    self._rewriter = self._load_rewriter()
            except (SemlinkError, OSError, ImportError) as error:
                self.problem = f"the LLM cannot be used: {error}"
                raise Unavailable(self.problem) from error
        return self._rewriter


def _batch(waiting: Iterable[Job]) -> list[Job]:
    """The jobs to generate next, as many as one batch of the LLM holds: of the most pressing kind alone, in order.

    Others would slow down what somebody waits for, and would be kept from giving way.
    """
    jobs = list(waiting)
    priority = min(job.priority for job in jobs)
    chosen: list[Job] = []
    rows = 0
    for job in (j for j in jobs if j.priority is priority):
        rows += job.task.num_candidates
        if chosen and rows > MAX_ROWS:
            break
        chosen.append(job)
    return chosen


def _lower_priority() -> None:
    """Let this thread, and those that it starts, give way to all others of the process."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, niceness + LLM_NICENESS)


def _log_load(loading: asyncio.Future[Rewriter]) -> None:
    if loading.cancelled():
        return
    error = loading.exception()
    if error is None:
        _log.info("the LLM is loaded")
    else:
        _log.warning("the LLM cannot be loaded", why=str(error))
