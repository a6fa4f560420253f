"""The highest load that holds an objective, on a gateway whose capacity the test sets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fake_gateway import Reply, at_once, gateway

from semlink.load.figures import Figures
from semlink.load.generator import Step
from semlink.load.plan import Load, Plan, Rule
from semlink.load.resources import Processes
from semlink.load.run import ANSWERED, Course, Measured, _Search, measure

P99 = Rule("p99_ms", "<=", 500.0)


def tried(course: Course, capacity: float) -> tuple[list[float], Figures | None]:
    """Loads that a search tries where the objective holds up to ``capacity``."""
    search, sizes = _Search(course), list[float]()
    while (load := search.next_load()) is not None:
        sizes.append(load.size)
        values = {"p99_ms": 100.0 if load.size <= capacity else 900.0, "answered_share": 1.0}
        search.note(Figures(Step(load, 0.0), values, {}, {}, {}, {}))
        assert len(sizes) < 60
    return sizes, search.best


@pytest.mark.parametrize("capacity", [3.0, 17.0, 80.0, 1000.0])
def test_the_search_ends_within_its_precision(capacity: float) -> None:
    _, best = tried(Course((Load(rate=5.0),), (P99,), precision=0.05), capacity)
    assert best is not None
    assert best.step.load.size <= capacity
    assert best.step.load.size >= 0.95 * capacity - 5 / 64


def test_users_are_whole_and_the_search_ends_at_neighbours() -> None:
    sizes, best = tried(Course((Load(users=1),), (P99,), precision=0.01), 11.0)
    assert best is not None
    assert best.step.load.users == 11
    assert all(size == int(size) for size in sizes)
    assert len(set(sizes)) == len(sizes)


def test_where_nothing_holds_nothing_is_found() -> None:
    _, best = tried(Course((Load(users=1),), (P99,)), 0.5)
    assert best is None


def test_a_ramp_is_followed_until_the_objective_breaks() -> None:
    loads = tuple(Load(rate=r) for r in (10.0, 20.0, 40.0, 80.0, 160.0))
    sizes, best = tried(Course(loads, (P99,), precision=0.3), 50.0)
    assert sizes[:4] == [10.0, 20.0, 40.0, 80.0]
    assert 160.0 not in sizes
    assert best is not None
    assert 35.0 <= best.step.load.size <= 50.0
    assert tried(Course(loads), 50.0)[0] == [10.0, 20.0, 40.0, 80.0, 160.0]


def test_refusing_the_rest_does_not_hold_a_latency() -> None:
    assert Course((Load(users=1),), (P99,)).rules == (P99, ANSWERED)
    own = Rule("refused_share", "<", 0.5)
    assert Course((Load(users=1),), (P99, own)).rules == (P99, own)
    assert Course((Load(users=1),)).rules == ()


@pytest.mark.slow
async def test_the_rate_that_a_server_of_known_capacity_carries_is_found() -> None:
    """One server, 50 ms a query: at most 20 a second; the median wait is 300 ms above some 90 % of that."""
    busy = asyncio.Lock()

    async def one_at_a_time(path: str, body: dict[str, Any]) -> Reply:
        async with busy:
            await asyncio.sleep(0.05)
        return await at_once(path, body)

    async with gateway(one_at_a_time) as fake:
        plan = Plan(url=fake.url, seed=3, warm_up=2, duration_s=2.0)
        course = Course((Load(rate=5.0),), (Rule("p50_ms", "<=", 300.0),), precision=0.3)
        measured = await measure(plan, course, Processes({}))
    assert measured.held is not None
    assert 5 <= measured.held.step.load.size < 26
    assert any(one.step.load.size > 18 for one in measured.steps)
    found = Rule("highest_load", "<", measured.held.step.load.size + 1)
    assert measured.broken([found]) == ([found], [])


def test_where_no_load_held_the_highest_load_is_zero() -> None:
    measured = Measured(Plan(url="http://127.0.0.1", seed=1), [], objectives=(P99,))
    rule = Rule("highest_load", "<", 1.0)
    assert measured.broken([rule, P99]) == ([rule], [P99])
