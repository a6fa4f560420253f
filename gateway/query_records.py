"""What is counted and logged of each query: how it ended and how long its client waited for that.

A line a query, of at most :data:`MAX_LINES_PER_S` a second: an overloaded gateway must not spend its time on logs. The
next line that is written says in ``skipped`` how many were not. Every query is counted.
"""

from __future__ import annotations

import time
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import Final

from prometheus_client import Counter, Histogram

from semlink.errors import SemlinkError
from semlink.links import Link
from semlink.methods import METHODS
from semlink.tasks import task_names
from semlink.telemetry import logger, result_of
from semlink.v1 import transmitter_pb2 as pb

MAX_LINES_PER_S: Final = 100
OTHER: Final = "other"
"""Label of a name that is in no table of ours."""
QUERIES: Final = Counter(
    "semlink_queries",
    "Queries ended; result: ok, degraded, erased, cancelled, or the class of the error",
    ("task", "method", "result"),
)
QUERY_SECONDS: Final = Histogram(
    "semlink_query_seconds",
    "Time that the client of an answered query waited",
    ("task", "method"),
    buckets=(0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 3, 5, 10, 30),
)

_log = logger(__name__)


class LineBudget:
    """Lines that may still be written in this second; ``clock`` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._second = -1
        self._written = 0
        self._skipped = 0

    def take(self) -> int | None:
        """Lines skipped since the last one that was written, or None where this one has to be skipped too."""
        if (second := int(self._clock())) != self._second:
            self._second, self._written = second, 0
        if self._written >= MAX_LINES_PER_S:
            self._skipped += 1
            return None
        self._written += 1
        skipped, self._skipped = self._skipped, 0
        return skipped


_lines = LineBudget()


def record(
    task: str,
    method: str,
    result: str,
    *,
    query_id: str = "",
    link: str = "",
    seconds: float = 0.0,
    answered: bool = False,
) -> None:
    """Count a query that has ended, and log it. Names of no table are counted as :data:`OTHER`.

    ``query_id``, ``link``: "" for a query that was refused before it was read whole. ``answered``: its time counts.
    """
    task = task if task in task_names() else OTHER
    method = method if method in METHODS else OTHER
    QUERIES.labels(task, method, result).inc()
    if answered:
        QUERY_SECONDS.labels(task, method).observe(seconds)
    if (skipped := _lines.take()) is not None:
        _log.info(
            "query",
            id=query_id,
            task=task,
            method=method,
            link=link,
            result=result,
            ms=round(seconds * 1e3, 3),
            **({"skipped": skipped} if skipped else {}),
        )


@contextmanager
def recorded(queries: Sequence[pb.Query]) -> Iterator[list[pb.Answer]]:
    """Record queries when this block ends, which adds their answers to the list that it gets, or raises."""
    started = time.perf_counter()
    answers: list[pb.Answer] = []
    result = "internal"
    try:
        yield answers
    except CancelledError:
        result = "cancelled"
        raise
    except SemlinkError as error:
        result = type(error).__name__
        raise
    finally:
        seconds = time.perf_counter() - started
        results = map(result_of, answers) if answers else repeat(result)
        for query, how in zip(queries, results, strict=False):
            record(
                query.task,
                query.method,
                how,
                query_id=query.id,
                link=_link(query),
                seconds=seconds,
                answered=bool(answers),
            )


def _link(query: pb.Query) -> str:
    """An opened link by its id, one by value by what it is."""
    if query.link_id:
        return query.link_id
    config = query.link_config
    return f"{config.scenario or Link().scenario} {config.snr_db:g} dB, seed {config.seed}"
