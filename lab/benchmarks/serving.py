"""`semlink bench serve`: what the services cost under `semlink load`, against the same queries in one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from gateway import schemas
from lab.evaluation.report import Report, Row
from semlink.load.figures import Figures, rows_of
from semlink.load.plan import Load, Mix, Plan
from semlink.load.queries import Queries
from semlink.load.resources import Processes, used
from semlink.load.run import Course, run
from semlink.settings import Settings
from semlink.v1 import transmitter_pb2

IN_FLIGHT: Final = (1, 16, 64)
BATCH: Final = 16
BATCHES_IN_FLIGHT: Final = 4
LINK_USERS: Final = 8
POISSON_SHARE: Final = 0.8
"""Of the rate in closed loop at the most in flight: that of Poisson arrivals."""
OVERLOADS: Final = (3, 10)
"""Times the rate in closed loop at the most in flight."""
OVERLOAD_DEADLINES_MS: Final = (1_000.0, 5_000.0, 30_000.0)
OVERLOAD_S: Final = 15.0
MAX_IDLE_WAIT_S: Final = 60
IDLE_CPU_SHARE: Final = 0.05
"""Of one core, over all services."""


@dataclass(frozen=True, slots=True)
class InProcess:
    """The same queries in one process, ``in_flight`` a batch; the time of a query is its batch's."""

    in_flight: int
    queries_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_query: float


class ServeBench:
    """Measures a running system at ``url`` whose services have ``pids``, then one process; prints as it goes.

    ``number``: queries at each load, a quarter of it where few are in flight.
    """

    def __init__(self, *, number: int = 640, console: Console | None = None) -> None:
        self._number = number
        self._console = console or Console()
        self._plan = Plan(url="http://127.0.0.1", seed=0)
        self._served: dict[int, Figures] = {}
        self._batched: Figures | None = None
        self._began = time.monotonic()
        self.report = Report("bench-serve")

    def services(self, url: str, pids: Mapping[str, int], *, overload: bool = False) -> None:
        """Load the services: single queries, batches, Poisson arrivals, new links; with ``overload`` too many."""
        self._plan = plan = replace(self._plan, url=url)
        resources = Processes(pids)
        _wait_until_idle(resources)

        def one(plan: Plan, load: Load, where: str) -> Figures:
            measured = run(plan, Course((load,)), resources)
            if measured.interrupted:
                raise KeyboardInterrupt
            self.report.rows += rows_of(measured.steps, plan, where=f"{where}, ")
            return measured.steps[0]

        shown: list[tuple[str, Figures]] = []
        for users in IN_FLIGHT:
            calls = self._number if users > 1 else max(1, self._number // 4)
            figures = one(replace(plan, calls=calls), Load(users=users), "single queries")
            self._served[users] = figures
            shown.append((f"single, {users} in flight", figures))
        calls = max(1, self._number // BATCH)
        batches = replace(plan, calls=calls, batch=Mix.of(BATCH), warm_up=4)
        self._batched = one(batches, Load(users=BATCHES_IN_FLIGHT), f"batches of {BATCH}")
        shown.append((f"batches of {BATCH}, {BATCHES_IN_FLIGHT} in flight", self._batched))
        peak = self._served[IN_FLIGHT[-1]].values["queries_per_s"]
        poisson = one(
            replace(plan, calls=self._number), Load(rate=POISSON_SHARE * peak), "Poisson arrivals"
        )
        shown.append((f"Poisson, {poisson.step.load}", poisson))
        few = replace(plan, calls=max(1, self._number // 4))
        links = {
            kind: one(replace(few, links=Mix.of(kind)), Load(users=LINK_USERS), f"{kind} links")
            for kind in ("shared", "new")
        }
        shown += [(f"{kind} links, {LINK_USERS} in flight", f) for kind, f in links.items()]
        self._print_services(shown)
        self._ratio(
            "p99 over p50, Poisson arrivals", poisson.values["p99_ms"], poisson.values["p50_ms"]
        )
        rates = [links[kind].values["queries_per_s"] for kind in ("new", "shared")]
        self._ratio("rate with a new link in every query over shared links", *rates)
        for deadline_ms in OVERLOAD_DEADLINES_MS if overload else ():
            for times in OVERLOADS:
                many = replace(plan, duration_s=OVERLOAD_S, deadline_ms=deadline_ms)
                where = f"{times} times the peak, deadline {deadline_ms / 1e3:g} s"
                figures = one(many, Load(rate=times * peak), where)
                self._print_overload(where, figures, peak)

    def in_process(self) -> None:
        """Measure the same queries in one process, with no service running beside, and compare."""
        settings = Settings(redis_url="memory://")
        alone = {
            n: self._one_process(n, self._number if n > 1 else self._number // 4, settings)
            for n in IN_FLIGHT
        }
        table = _table("in one process, batched")
        for one in alone.values():
            figures = (one.queries_per_s, one.p50_ms, one.p99_ms, one.cpu_ms_per_query)
            table.add_row(f"{one.in_flight} in flight", *(f"{x:.1f}" for x in figures), "")
            self._add(f"one process, {one.in_flight} in flight", one)
        self._console.print(table)
        most = IN_FLIGHT[-1]
        for n, one in alone.items():
            over = self._served[n].values["queries_per_s"]
            self._ratio(
                f"rate over the services over one process, {n} in flight", over, one.queries_per_s
            )
        cost = alone[most].cpu_ms_per_query
        for what, served in (
            ("single queries", self._served[most]),
            (f"batches of {BATCH}", self._batched),
        ):
            if served is not None:
                spent = served.values["cpu_ms_per_query"]
                self._ratio(
                    f"CPU-ms a query of one process over the services', {what}", cost, spent
                )
        added = self._served[1].values["p50_ms"] - alone[1].p50_ms
        self._console.print(f"added by the services at 1 in flight: {added:.1f} ms p50")
        self.report.rows.append(Row("added_p50_ms", added, variant="1 in flight"))
        self.report.seconds = time.monotonic() - self._began

    def _one_process(self, in_flight: int, number: int, settings: Settings) -> InProcess:
        from lab.evaluation.local_system import build_system

        system = build_system(settings)
        system.transmitter.warm_up()
        system.receiver.warm_up()
        queries = Queries(self._plan)

        def request(numbers: Iterable[int], stage: str) -> transmitter_pb2.RetrieveRequest:
            return transmitter_pb2.RetrieveRequest(
                queries=[_message(queries.call(n, stage=stage).body, str(n)) for n in numbers]
            )

        async def measured() -> InProcess:
            await system.transmitter.retrieve(request(range(self._plan.warm_up), "warm-up"))
            batches = [
                request(range(start, min(start + in_flight, number)), "step 0")
                for start in range(0, number, in_flight)
            ]
            seconds: list[float] = []
            begun, cpu = time.perf_counter(), time.process_time()
            for batch in batches:
                at = time.perf_counter()
                await system.transmitter.retrieve(batch)
                seconds += [time.perf_counter() - at] * len(batch.queries)
            total, spent = time.perf_counter() - begun, time.process_time() - cpu
            await system.close()
            p50, p99 = np.percentile(np.asarray(seconds) * 1e3, [50, 99])
            return InProcess(
                in_flight, number / total, float(p50), float(p99), 1e3 * spent / number
            )

        return asyncio.run(measured())

    def _print_services(self, shown: Iterable[tuple[str, Figures]]) -> None:
        table = _table("over the services (REST)")
        last: Figures | None = None
        for name, figures in shown:
            last, values = figures, figures.values
            columns = ("queries_per_s", "p50_ms", "p99_ms", "cpu_ms_per_query")
            others = sum(number for status, number in figures.statuses.items() if status != "200")
            table.add_row(name, *(f"{values[c]:.1f}" for c in columns), str(others or ""))
        self._console.print(table)
        if last is not None:
            services = last.step.services
            each = ", ".join(f"{name} {use.rss_mib:.0f} MiB" for name, use in services.items())
            self._console.print(f"memory: {each}; in all {last.values['memory_mib']:.0f} MiB")

    def _print_overload(self, where: str, figures: Figures, peak: float) -> None:
        """Goodput beside the peak, and what the generator took of the cores."""
        step, values = figures.step, figures.values
        lasted_s = max([step.seconds, *(one.ended_s for one in step.samples)])
        left = 1 - step.generator_cpu_s / (lasted_s * (psutil.cpu_count() or 1))
        goodput = values["timely_per_s"]
        self._console.print(
            f"{where}: goodput {goodput:.1f}/s, {100 * goodput / peak:.0f} % of the peak of {peak:.1f}/s; "
            f"the generator left {100 * left:.0f} % of the cores; refused {100 * values['refused_share']:.0f} %, "
            f"failed {100 * values['failed_share']:.0f} %"
        )
        self.report.rows.append(Row("goodput_over_peak", goodput / peak, variant=where))
        self.report.rows.append(Row("cores_left_share", left, variant=where))

    def _add(self, variant: str, one: InProcess) -> None:
        names = ("queries_per_s", "p50_ms", "p99_ms", "cpu_ms_per_query")
        method, task = str(self._plan.methods), str(self._plan.tasks)
        self.report.rows += [
            Row(name, getattr(one, name), method=method, task=task, variant=variant)
            for name in names
        ]

    def _ratio(self, what: str, part: float, whole: float) -> None:
        self._console.print(f"{what}: {part:.1f} / {whole:.1f} = {part / whole:.2f}")
        self.report.rows.append(Row("ratio", part / whole, variant=what))


def _wait_until_idle(resources: Processes) -> None:
    """Services that have just started still work in the background, which would count as the first queries' cost."""
    for _ in range(MAX_IDLE_WAIT_S):
        before = asyncio.run(resources.read())
        time.sleep(1)
        spent = used(before, asyncio.run(resources.read()))
        if sum(one.cpu_s for one in spent.values()) < IDLE_CPU_SHARE:
            return


def _message(body: bytes, query_id: str) -> transmitter_pb2.Query:
    """The query of a REST body as the gateway hands it on."""
    parsed = schemas.QueryBody.model_validate_json(body)
    return schemas.to_query(parsed, query_id, parsed.drawn_seed(), b"")


def _table(title: str) -> Table:
    table = Table(title=title)
    table.add_column("")
    for column in ("queries/s", "p50 ms", "p99 ms", "CPU-ms a query", "not answered"):
        table.add_column(column, justify="right")
    return table
