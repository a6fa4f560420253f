"""From a request to its rewrites in named stages: prompt → look up → generate → store → filter → answer.

Each stage takes the frozen values of those before it. Stored rewrites are looked up first, all of a request in one
round trip to the store. What is missing is generated and stored by :class:`kb_service.generation.GenerationQueue`; a
caller waits for it as long as the budget lasts. All candidates are stored: a query's own filter judges them when it
asks.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter

from kb_service.entries import Entries, Stored
from kb_service.filtering import accept_all, filter_rewrites
from kb_service.generation import GenerationQueue, Job, Outcome, Priority
from kb_service.rewriting import MAX_ITEMS, Task, task_of
from semlink.deadlines import remaining_s
from semlink.errors import InvalidField, Unavailable
from semlink.knowledge import DUPLICATE
from semlink.telemetry import record_degraded, timed
from semlink.v1 import common_pb2
from semlink.v1 import knowledge_pb2 as pb

ANSWER_MARGIN_S: Final = 0.05
"""Left of the caller's deadline when the wait for the LLM is given up, to answer in time."""
REWRITES: Final = "knowledge.rewrites"
REWRITE_SETS: Final = Counter(
    "semlink_rewrite_sets",
    "Captions whose rewrites were asked for; source: stored, generated while the caller waited, or none",
    ("source",),
)
REWRITES_JUDGED: Final = Counter(
    "semlink_rewrites_judged",
    "Rewrites that were answered; verdict: kept, duplicate (in the same words), or dropped by the filter",
    ("verdict",),
)


@dataclass(frozen=True, slots=True)
class Prompted:
    """An item of a request, the task that the LLM is asked, and the key of the task's entry."""

    item: pb.RewriteItem
    task: Task
    key: str


class RewritePipeline:
    """Answers requests for rewrites. ``attribute_filter`` switches the second test of :mod:`kb_service.filtering`."""

    def __init__(
        self, entries: Entries, queue: GenerationQueue, model: str, *, attribute_filter: bool
    ) -> None:
        self._entries = entries
        self._queue = queue
        self._model = model
        self._attribute_filter = attribute_filter

    async def rewrite(self, request: pb.RewriteRequest) -> pb.RewriteResponse:
        """Rewrites of each item, judged; degraded where there are none within the budget.

        Raises InvalidField naming ``items[i].…`` or ``budget_ms``.
        """
        prompted = self._prompt(request)
        tasks = {one.key: one.task for one in prompted}
        stored = await self._entries.look_up(tasks)
        missing = {key: task for key, task in tasks.items() if key not in stored.sets}
        outcomes = {key: Outcome(found) for key, found in stored.sets.items()}
        outcomes |= await self._generate(missing, stored, request.budget_ms / 1e3)
        answers = [
            self._answer(one, outcomes[one.key], cached=one.key in stored.sets) for one in prompted
        ]
        for answer in answers:
            record_degraded("knowledge", answer.degraded)
        return pb.RewriteResponse(sets=answers)

    def _prompt(self, request: pb.RewriteRequest) -> list[Prompted]:
        """Check a request and name what it asks for. Raises InvalidField."""
        if len(request.items) > MAX_ITEMS:
            raise InvalidField(
                f"items are {len(request.items)}, allowed: ≤ {MAX_ITEMS}", field="items"
            )
        if not (math.isfinite(request.budget_ms) and request.budget_ms >= 0):
            raise InvalidField(f"budget_ms is {request.budget_ms}, allowed: ≥ 0", field="budget_ms")
        tasks = [task_of(item, field=f"items[{i}]") for i, item in enumerate(request.items)]
        return [
            Prompted(item, task, task.key(self._model))
            for item, task in zip(request.items, tasks, strict=True)
        ]

    async def _generate(
        self, missing: Mapping[str, Task], stored: Stored, budget_s: float
    ) -> dict[str, Outcome]:
        """Have what is missing generated and stored; wait for it as long as the budget and the deadline allow."""
        if stored.problem and not budget_s:
            # Nobody waits and nothing could be stored: do not begin.
            return dict.fromkeys(missing, Outcome(None, stored.problem))
        outcomes: dict[str, Outcome] = {}
        jobs: list[Job] = []
        for key, task in missing.items():
            try:
                priority = Priority.URGENT if budget_s else Priority.BACKGROUND
                jobs.append(self._queue.submit(key, task, priority))
            except Unavailable as error:
                outcomes[key] = Outcome(None, error.message)
        if jobs and budget_s:
            left = remaining_s()
            wait_s = budget_s if left is None else min(budget_s, max(0.0, left - ANSWER_MARGIN_S))
            with timed("knowledge.wait"):
                await asyncio.wait([job.outcome for job in jobs], timeout=wait_s)
        why = (
            f"not generated within {budget_s * 1e3:.0f} ms; going on in the background"
            if budget_s
            else "not kept yet; generating in the background"
        )
        for job in jobs:
            outcomes[job.key] = job.outcome.result() if job.outcome.done() else Outcome(None, why)
        return outcomes

    def _answer(self, asked: Prompted, outcome: Outcome, *, cached: bool) -> pb.RewriteSet:
        REWRITE_SETS.labels(
            "none" if outcome.found is None else "stored" if cached else "generated"
        ).inc()
        if outcome.found is None:
            why = common_pb2.Degradation(part=REWRITES, reason=outcome.problem)
            return pb.RewriteSet(degraded=[why])
        judged = self._filter(asked, outcome.found)
        for rewrite in judged.rewrites:
            REWRITES_JUDGED.labels(_verdict(rewrite)).inc()
        return pb.RewriteSet(rewrites=judged.rewrites, cached=cached)

    def _filter(self, asked: Prompted, found: pb.RewriteSet) -> pb.RewriteSet:
        if not asked.item.filter:
            return accept_all(found)
        return filter_rewrites(
            asked.task.text,
            found,
            min_similarity=asked.item.min_similarity,
            attributes=self._attribute_filter,
            complete=asked.item.complete,
        )


def _verdict(rewrite: pb.Rewrite) -> str:
    if rewrite.kept:
        return "kept"
    return "duplicate" if rewrite.reason == DUPLICATE else "dropped"
