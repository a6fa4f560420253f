"""Bulk enrichment: jobs that have a corpus's captions rewritten while nobody else needs the LLM.

A job holds no results: what it makes is stored like every rewrite, and what is stored already is skipped. A job begun
again after an interruption therefore goes on where it was, and two jobs over the same captions share the work.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from kb_service.entries import Entries
from kb_service.generation import GenerationQueue, Job, Priority
from kb_service.rewriting import MAX_CHARACTERS, Task, task_of
from semlink.corpora.corpus import Split, check_split
from semlink.enums import enum_name, enum_text
from semlink.errors import InvalidField, NotFound, Overloaded, SemlinkError, Unavailable
from semlink.telemetry import logger
from semlink.v1 import common_pb2
from semlink.v1 import knowledge_pb2 as pb

MAX_RUNNING: Final = 4
MAX_ENDED: Final = 50
"""Ended jobs that are remembered."""
MAX_CAPTIONS: Final = 1_000_000
WINDOW: Final = 48
"""Captions handed over at once, of similar length: they end at about the same token, and share a batch."""
MAX_FAILURES: Final = 3
"""Windows in a row of which nothing could be made before a job gives up."""
RUNNING, DONE, CANCELLED, FAILED = (
    pb.ENRICHMENT_STATE_RUNNING,
    pb.ENRICHMENT_STATE_DONE,
    pb.ENRICHMENT_STATE_CANCELLED,
    pb.ENRICHMENT_STATE_FAILED,
)

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """What became of one window's tasks. ``reason``: of the last failure, "" without."""

    skipped: int
    generated: int
    failed: int
    reason: str = ""


@dataclass(slots=True)
class _Running:
    state: pb.Enrichment
    task: asyncio.Task[None]


class Enrichments:
    """The jobs of one service. Use from one event loop, and close."""

    def __init__(self, entries: Entries, queue: GenerationQueue, model: str) -> None:
        self._entries = entries
        self._queue = queue
        self._model = model
        self._running: dict[str, _Running] = {}
        self._ended: dict[str, pb.Enrichment] = {}

    async def start_enrichment(self, request: pb.StartEnrichmentRequest) -> pb.Enrichment:
        """Begin a job, or answer the running one of the same request.

        Raises InvalidField naming the request's field, NotFound for a corpus that is not there, Overloaded beside
        :data:`MAX_RUNNING` others, Unavailable where the LLM cannot be used.
        """
        if self._queue.problem:
            raise Unavailable(self._queue.problem)
        _check(request)
        job_id = hashlib.blake2b(
            request.SerializeToString(deterministic=True), digest_size=6
        ).hexdigest()
        if job_id in self._running:
            return _copy(self._running[job_id].state)
        if len(self._running) >= MAX_RUNNING:
            raise Overloaded(
                f"{len(self._running)} enrichments run already, allowed: {MAX_RUNNING}"
            )
        tasks = await asyncio.to_thread(tasks_of, request)
        if job_id in self._running:  # another caller was faster
            return _copy(self._running[job_id].state)
        state = pb.Enrichment(
            id=job_id,
            request=request,
            state=RUNNING,
            total=len(tasks),
            started_unix_s=time.time(),
        )
        self._ended.pop(job_id, None)
        self._running[job_id] = _Running(
            state, asyncio.create_task(self._run(state, tasks), name=f"enrichment {job_id}")
        )
        return _copy(state)

    async def get_enrichment(self, request: pb.GetEnrichmentRequest) -> pb.Enrichment:
        """How far a job is. Raises NotFound."""
        return self._state(request.id)

    async def list_enrichments(self, _: pb.ListEnrichmentsRequest) -> pb.ListEnrichmentsResponse:
        """Every job that is known, newest first."""
        states = [*(running.state for running in self._running.values()), *self._ended.values()]
        states.sort(key=lambda state: state.started_unix_s, reverse=True)
        return pb.ListEnrichmentsResponse(enrichments=states)

    async def cancel_enrichment(self, request: pb.CancelEnrichmentRequest) -> pb.Enrichment:
        """Stop a job; one that has ended stays as it is. Raises NotFound."""
        await self._cancel(request.id)
        return self._state(request.id)

    async def close(self) -> None:
        """Stop all jobs."""
        for job_id in list(self._running):
            await self._cancel(job_id)

    def _state(self, job_id: str) -> pb.Enrichment:
        running = self._running.get(job_id)
        state = running.state if running else self._ended.get(job_id)
        if state is None:
            raise NotFound(f"there is no enrichment {job_id!r}", field="id")
        return _copy(state)

    async def _cancel(self, job_id: str) -> None:
        if running := self._running.get(job_id):
            running.task.cancel()
            await asyncio.wait((running.task,))

    async def _run(self, state: pb.Enrichment, tasks: Sequence[Task]) -> None:
        try:
            await self._work(state, tasks)
        except asyncio.CancelledError:
            state.state = CANCELLED
            raise
        except SemlinkError as error:
            state.state, state.reason = FAILED, error.message
        except Exception:  # noqa: BLE001  # the job's outermost frame: logged, said in its state
            _log.exception("an enrichment failed", id=state.id)
            state.state, state.reason = FAILED, "internal error; the log says why"
        finally:
            state.ended_unix_s = time.time()
            self._running.pop(state.id, None)
            self._ended[state.id] = state
            while len(self._ended) > MAX_ENDED:
                self._ended.pop(next(iter(self._ended)))
            _log.info(
                "enrichment ended",
                id=state.id,
                state=enum_text(pb.EnrichmentState, state.state),
                why=state.reason,
            )

    async def _work(self, state: pb.Enrichment, tasks: Sequence[Task]) -> None:
        failures = 0
        for start in range(0, len(tasks), WINDOW):
            progress = await self._generate_window(tasks[start : start + WINDOW])
            state.skipped += progress.skipped
            state.generated += progress.generated
            state.failed += progress.failed
            state.reason = progress.reason or state.reason
            useless = progress.failed and not progress.generated
            failures = failures + 1 if useless else 0
            if failures >= MAX_FAILURES:
                state.state = FAILED
                return
        # Captions that failed stay missing: begun again, the job tries them again.
        state.state = FAILED if state.failed else DONE

    async def _generate_window(self, tasks: Sequence[Task]) -> Progress:
        """Have what is not stored of these generated and stored, behind all queries."""
        by_key = {task.key(self._model): task for task in tasks}
        stored = await self._entries.look_up(by_key)
        if stored.problem:
            return Progress(0, 0, len(tasks), stored.problem)
        jobs: list[Job] = []
        problems: list[str] = []
        for key, task in by_key.items():
            if key not in stored.sets:
                try:
                    jobs.append(self._queue.submit(key, task, Priority.BULK))
                except Unavailable as error:
                    problems.append(error.message)
        for job in jobs:
            job.enrichments += 1
        if jobs:
            try:
                await asyncio.wait([job.outcome for job in jobs])
            except asyncio.CancelledError:
                self._queue.withdraw(jobs)
                raise
        outcomes = [job.outcome.result() for job in jobs]
        problems += [o.problem or o.store_problem for o in outcomes if o.problem or o.store_problem]
        skipped = len(stored.sets)
        return Progress(
            skipped, len(tasks) - skipped - len(problems), len(problems), "".join(problems[-1:])
        )


def _check(request: pb.StartEnrichmentRequest) -> None:
    _split(request)
    if request.limit > MAX_CAPTIONS:
        raise InvalidField(f"limit is {request.limit}, allowed: ≤ {MAX_CAPTIONS}", field="limit")
    _task("a", request)


def _split(request: pb.StartEnrichmentRequest) -> Split:
    return check_split(enum_name(common_pb2.Split, request.split, default="", field="split"))


def tasks_of(request: pb.StartEnrichmentRequest) -> list[Task]:
    """A task for each different caption that a query may have, by length. Raises InvalidField, NotFound."""
    from semlink.corpora.registry import corpus_named

    items = corpus_named(request.corpus).items(_split(request))
    captions = dict.fromkeys(" ".join(c.split()) for item in items for c in item.captions)
    allowed = [c for c in captions if 1 <= len(c) <= MAX_CHARACTERS]
    chosen = allowed[: request.limit or MAX_CAPTIONS]
    return [_task(caption, request) for caption in sorted(chosen, key=lambda c: (len(c), c))]


def _task(caption: str, request: pb.StartEnrichmentRequest) -> Task:
    item = pb.RewriteItem(
        text=caption,
        num_candidates=request.num_candidates,
        temperature=request.temperature,
        seed=request.seed,
        strategy=request.strategy,
    )
    try:
        return task_of(item, field="item")
    except InvalidField as error:
        name = error.field.removeprefix("item.")
        raise InvalidField(error.message.replace("item.", "", 1), field=name) from error


def _copy(state: pb.Enrichment) -> pb.Enrichment:
    copy = pb.Enrichment()
    copy.CopyFrom(state)
    return copy
