"""`semlink bench serve`: what the services cost, against the same work batched in one process."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from lab.evaluation.report import Report, Row
from semlink.corpora.registry import corpus_named
from semlink.links import Link
from semlink.settings import Settings
from semlink.v1 import transmitter_pb2

IN_FLIGHT = (1, 16, 64)
METHOD = "deepsc-mimo"
LINKS = 8
"""Distinct links of the queries; their channel blocks are warm when the clock starts."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of a load measured."""

    in_flight: int
    queries_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int


def texts(number: int) -> list[str]:
    """Captions of the person task's test split, each used once before any is used again."""
    captions = [c for item in corpus_named("pedestrians").items("test") for c in item.captions]
    return [captions[i % len(captions)] for i in range(number)]


def rest_body(text: str, seed: int) -> dict[str, Any]:
    """The query as a client sends it."""
    return {
        "task": "person",
        "query": {"text": text},
        "method": METHOD,
        "seed": seed,
        "link": {"seed": seed % LINKS},
    }


def rest_load(host: str, port: int, in_flight: int, number: int) -> Load:
    """A closed loop of ``in_flight`` clients, each with its own connection, ``number`` queries in all."""
    queue, captions = count(), texts(number)
    seconds: list[float] = []
    errors = 0
    lock = threading.Lock()

    def client() -> None:
        nonlocal errors
        connection = http.client.HTTPConnection(host, port, timeout=120)
        while (i := next(queue)) < number:
            body = json.dumps(rest_body(captions[i], i))
            begin = time.perf_counter()
            connection.request("POST", "/v1/queries", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            spent = time.perf_counter() - begin
            with lock:
                seconds.append(spent)
                errors += response.status != 200
        connection.close()

    start = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _load(in_flight, seconds, errors, time.perf_counter() - start)


def _load(in_flight: int, seconds: Sequence[float], errors: int, total: float) -> Load:
    p50, p99 = np.percentile(np.asarray(seconds) * 1e3, [50, 99])
    return Load(in_flight, len(seconds) / total, float(p50), float(p99), errors)


def in_process_load(in_flight: int, number: int, settings: Settings) -> Load:
    """The same queries in one process, ``in_flight`` a batch; the time of a query is its batch's."""
    from lab.evaluation.local_system import build_system

    system = build_system(settings)
    system.transmitter.warm_up()
    system.receiver.warm_up()
    captions = texts(number)

    def request(start: int) -> transmitter_pb2.RetrieveRequest:
        queries = []
        for i in range(start, min(start + in_flight, number)):
            queries.append(
                transmitter_pb2.Query(
                    id=str(i),
                    task="person",
                    text=captions[i],
                    method=METHOD,
                    top_k=5,
                    symbols=64,
                    seed=i,
                    link_config=Link(seed=i % LINKS).to_proto(),
                )
            )
        return transmitter_pb2.RetrieveRequest(queries=queries)

    async def run() -> Load:
        for start in range(0, LINKS, in_flight):
            await system.transmitter.retrieve(request(start))
        seconds: list[float] = []
        begin = time.perf_counter()
        for start in range(0, number, in_flight):
            batch = request(start)
            at = time.perf_counter()
            await system.transmitter.retrieve(batch)
            seconds += [time.perf_counter() - at] * len(batch.queries)
        total = time.perf_counter() - begin
        await system.close()
        return _load(in_flight, seconds, 0, total)

    return asyncio.run(run())


def memory_mib(pids: Mapping[str, int]) -> dict[str, float]:
    """Resident memory of each service and its children, MiB."""
    found = {}
    for name, pid in pids.items():
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        found[name] = sum(p.memory_info().rss for p in family) / 2**20
    return found


def bench(
    port: int, pids: Mapping[str, int], *, number: int = 640, console: Console | None = None
) -> Report:
    """Measure a running system (gateway at ``port``) and, after it, one process; prints both."""
    console = console or Console()
    started = time.monotonic()
    report = Report("bench-serve")
    rest_load("127.0.0.1", port, 16, 64)  # windows and models warm
    served = {
        n: rest_load("127.0.0.1", port, n, number if n > 1 else number // 4) for n in IN_FLIGHT
    }
    memory = memory_mib(pids)
    for load in served.values():
        report.rows += _rows("over the services (REST)", load)
    for name, mib in memory.items():
        report.rows.append(Row(metric="rss_mib", mean=mib, variant=name))
    report.seconds = time.monotonic() - started
    _print(console, "over the services (REST, one client process)", served.values(), memory)
    return report


def add_in_process(report: Report, *, number: int = 640, console: Console | None = None) -> None:
    """Measure the same work in one process and the ratio of both, with no service running beside."""
    console = console or Console()
    settings = Settings(redis_url="memory://")
    alone = {n: in_process_load(n, number if n > 1 else number // 4, settings) for n in IN_FLIGHT}
    for load in alone.values():
        report.rows += _rows("in one process", load)
    _print(console, "in one process, batched", alone.values(), {})
    served = {r.variant: r.mean for r in report.rows if r.metric == "queries_per_s"}
    for n in IN_FLIGHT:
        over, alone_ = (
            f"{x}, {n} in flight" for x in ("over the services (REST)", "in one process")
        )
        ratio = served[over] / served[alone_]
        report.rows.append(Row(metric="throughput_ratio", mean=ratio, variant=f"{n} in flight"))
        console.print(f"services ÷ one process at {n} in flight: {ratio:.2f}")


def _rows(where: str, load: Load) -> list[Row]:
    variant = f"{where}, {load.in_flight} in flight"
    return [
        Row(metric, float(getattr(load, metric)), method=METHOD, task="person", variant=variant)
        for metric in ("queries_per_s", "p50_ms", "p99_ms", "errors")
    ]


def _print(
    console: Console, title: str, loads: Sequence[Load] | Any, memory: Mapping[str, float]
) -> None:
    table = Table(title=title)
    for column in ("in flight", "queries/s", "p50 ms", "p99 ms", "errors"):
        table.add_column(column, justify="right")
    for load in loads:
        figures = (f"{x:.1f}" for x in (load.queries_per_s, load.p50_ms, load.p99_ms))
        table.add_row(str(load.in_flight), *figures, str(load.errors))
    console.print(table)
    if memory:
        each = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in memory.items())
        console.print(f"memory: {each}; in all {sum(memory.values()):.0f} MiB")
