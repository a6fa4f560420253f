"""Join concurrent queries into few calls of many, and admit only what can end before its deadline."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gateway.problems import SMALL_BODY_BYTES
from gateway.query_records import record
from gateway.schemas import DEFAULT_DEADLINE_MS
from semlink.batching import AsyncExecutor, MicroBatcher
from semlink.enums import enum_text
from semlink.errors import DeadlineExceeded, Overloaded, Unavailable
from semlink.methods import METHODS
from semlink.queries import QueryOptions
from semlink.services import TransmitterService
from semlink.v1 import transmitter_pb2 as pb

MAX_BATCH: Final = 64
MAX_IN_FLIGHT: Final = 2
"""Batches of one lane that are away at once: the services work on one while the next one is encoded."""
MAX_CALLS: Final = 4
"""Requests of many queries that are away at once; those that wait for the LLM are counted apart."""
MAX_QUEUE: Final = 8192
KNOWN_LINKS: Final = 4096
"""Links by value that are remembered as seen: their channel need not be generated any more."""
FORGET_S: Final = 1.0
"""Time constant with which the measured service rate forgets."""
MAX_SPEED_UP: Final = 4.0
MARGIN: Final = 1.2
"""The time that a query is expected to take is multiplied by it: rates vary."""
SHARED_ERRORS: Final = (DeadlineExceeded, Overloaded, Unavailable)
"""Errors of a service, not of one query."""
DEFAULT: Final = QueryOptions()


class Kind(NamedTuple):
    """What decides how long a query takes; queries of one kind share a service rate."""

    method: str
    content: str
    extraction: str
    waits_for_llm: bool


class Lane(NamedTuple):
    """Queries that may travel together: none of them holds up the others for long."""

    kind: Kind
    link: str
    """The opened link; "new" for a link by value whose channel has to be generated first, "known" otherwise."""


def kind_of(query: pb.Query) -> Kind:
    """Return the kind of a query that REST accepted. Names that clients make up are one kind."""
    return _kind(
        query.method,
        query.media.modality if query.HasField("media") else "text",
        enum_text(pb.Extraction, query.retrieval.extraction),
        query.knowledge_budget_ms,
    )


def _kind(name: str, content: str, extraction: str, budget_ms: float) -> Kind:
    method = METHODS.get(name)
    if method is None:
        return Kind("", content, extraction, waits_for_llm=False)
    return Kind(name, content, extraction, waits_for_llm=budget_ms > 0 and method.rewrites)


@dataclass(slots=True)
class ServiceRate:
    """How many queries of a kind end a second while any are in flight, and how many are.

    Measured over about :data:`FORGET_S`. Batches grow with the load until they are full: what was measured with few in
    flight says little of many, so a sudden crowd is expected to go up to :data:`MAX_SPEED_UP` times as fast until it
    is measured itself.
    """

    pending: int = 0
    _ended: float = 0.0
    _seconds: float = 0.0
    _in_flight: float = 0.0
    """Sum over those ended of how many were in flight then."""
    _since: float = field(default_factory=time.monotonic)

    def queries_per_s(self, count: int = 0) -> float:
        """The rate to expect with ``count`` more in flight; infinite before anything was measured."""
        if not self._seconds:
            return math.inf
        full = MAX_BATCH * MAX_IN_FLIGHT
        crowd = min(self.pending + count, full) / (2 * self._in_flight / self._ended)
        return self._ended / self._seconds * min(max(crowd, 1.0), MAX_SPEED_UP)

    def wait_s(self, count: int) -> float:
        """How long ``count`` more queries are expected to take from now on."""
        return MARGIN * (self.pending + count) / self.queries_per_s(count)

    def begin(self, count: int) -> None:
        """Note that queries are in flight."""
        if not self.pending:
            self._since = time.monotonic()
        self.pending += count

    def end(self, count: int, *, answered: bool) -> None:
        """Note that queries are over; those that were given up say nothing about the rate."""
        if answered:
            now = time.monotonic()
            passed, self._since = now - self._since, now
            left = math.exp(-passed / FORGET_S)
            self._ended = self._ended * left + count
            self._seconds = self._seconds * left + passed
            self._in_flight = self._in_flight * left + count * self.pending
        self.pending -= count


class QueryBatcher:
    """The way of queries to the transmitter: admitted by time, then joined with those that are ready now.

    An idle system waits for nobody: a query that comes alone leaves alone. Use from one event loop.
    """

    def __init__(self, transmitter: TransmitterService) -> None:
        self._transmitter = transmitter
        self._rates: dict[Kind, ServiceRate] = {}
        self._links: OrderedDict[bytes, None] = OrderedDict()
        self._calls = asyncio.Semaphore(MAX_CALLS)
        self._slow_calls = asyncio.Semaphore(MAX_CALLS)
        self._batcher: MicroBatcher[pb.Query, pb.Answer] = MicroBatcher(
            AsyncExecutor(self.retrieve),
            name="gateway.queries",
            key=self._lane,
            max_batch=MAX_BATCH,
            max_queue=MAX_QUEUE,
            max_in_flight=MAX_IN_FLIGHT,
            shared_errors=SHARED_ERRORS,
        )

    async def answer(self, query: pb.Query, deadline_s: float) -> pb.Answer:
        """Answer one query, together with others that are ready.

        Raises Overloaded, with the seconds after which to try again, for one that cannot end before its deadline.
        """
        with self._admitted([query], deadline_s):
            return await self._batcher.submit(query)

    async def answer_many(self, queries: Sequence[pb.Query], deadline_s: float) -> list[pb.Answer]:
        """Answer the queries of one request in one call. Raises as :meth:`answer`."""
        slow = any(kind_of(query).waits_for_llm for query in queries)
        with self._admitted(queries, deadline_s):
            async with self._slow_calls if slow else self._calls:
                return await self.retrieve(queries)

    async def retrieve(self, queries: Sequence[pb.Query]) -> list[pb.Answer]:
        """Call the transmitter."""
        response = await self._transmitter.retrieve(pb.RetrieveRequest(queries=queries))
        return list(response.answers)

    def refusal(self, body: bytes) -> Overloaded | None:
        """Refuse a single query by its bytes, before anything of it is checked; None for all that is not sure.

        Only what a valid query of a kind in flight would be refused for: a flood costs next to nothing that way.
        """
        # A large body (a picture, a sound) would be parsed twice for nothing.
        if len(body) > SMALL_BODY_BYTES or not any(r.pending for r in self._rates.values()):
            return None
        try:
            query = json.loads(body)
            kind = _kind(
                query.get("method", DEFAULT.method),
                next(iter(query["query"])),
                (query.get("retrieval") or {}).get("extraction") or "",
                query.get("knowledge_budget_ms", DEFAULT.knowledge_budget_ms),
            )
            deadline_s = float(query.get("deadline_ms", DEFAULT_DEADLINE_MS)) / 1e3
            rate = self._rates.get(kind)
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError):
            return None
        late = None if rate is None else _late(rate, 1, deadline_s)
        if late:
            record(str(query.get("task")), kind.method, type(late).__name__)
        return late

    @contextmanager
    def _admitted(self, queries: Sequence[pb.Query], deadline_s: float) -> Iterator[None]:
        counts: dict[Kind, int] = {}
        for query in queries:
            kind = kind_of(query)
            counts[kind] = counts.get(kind, 0) + 1
        rates = {kind: self._rates.setdefault(kind, ServiceRate()) for kind in counts}
        for kind, count in counts.items():
            if late := _late(rates[kind], count, deadline_s):
                raise late
        for kind, count in counts.items():
            rates[kind].begin(count)
        answered = False
        try:
            yield
            answered = True
        finally:
            for kind, count in counts.items():
                rates[kind].end(count, answered=answered)

    def _lane(self, query: pb.Query) -> Lane:
        kind = kind_of(query)
        if query.link_id:
            return Lane(kind, query.link_id)
        link = query.link_config.SerializeToString(deterministic=True)
        known = link in self._links
        self._links[link] = None
        self._links.move_to_end(link)
        if len(self._links) > KNOWN_LINKS:
            self._links.popitem(last=False)
        return Lane(kind, "known" if known else "new")


def _late(rate: ServiceRate, count: int, deadline_s: float) -> Overloaded | None:
    """The refusal of queries that would not end in time. What comes alone is always tried."""
    if not rate.pending or (wait_s := rate.wait_s(count)) <= deadline_s:
        return None
    return Overloaded(
        f"{rate.pending} queries are in flight, {rate.queries_per_s():.0f} end a second: "
        f"no answer within {deadline_s * 1e3:.0f} ms",
        field="deadline_ms",
        retry_after_s=wait_s - deadline_s,
    )
