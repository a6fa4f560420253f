"""What the benchmarks share: the fastest of several runs, a number of threads, the report and its table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from lab.evaluation.report import Report


def fastest_s(work: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of the fastest of ``repeats`` runs after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use ``number`` threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def report_of(experiment: str, num_threads: int) -> Iterator[Report]:
    """A report to fill within the block, measured with ``num_threads`` threads; it says how long that took."""
    started = time.monotonic()
    report = Report(experiment)
    with threads(num_threads):
        yield report
    report.seconds = time.monotonic() - started
