"""Open and closed loop against a gateway of the tests: what is sent when, and what is noted of it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import numpy as np
import pytest
from fake_gateway import FakeGateway, Reply, answer_to, at_once, gateway

from semlink.errors import Unavailable
from semlink.load.figures import figures_of
from semlink.load.plan import Load, Mix, Plan
from semlink.load.queries import identities
from semlink.load.resources import Processes, Scraped
from semlink.load.run import Course, Measured, measure

NOTHING = Processes({})


async def run(fake: FakeGateway, load: Load, **values: Any) -> Measured:
    plan = Plan(url=fake.url, **{"seed": 1, "warm_up": 0, **values})
    return await measure(plan, Course((load,)), NOTHING)


async def test_an_open_loop_sends_at_the_times_of_a_poisson_process() -> None:
    async with gateway() as fake:
        measured = await run(fake, Load(rate=300.0), duration_s=2.0)
        again = await run(fake, Load(rate=300.0), duration_s=2.0)
    due = [one.due_s for one in measured.steps[0].step.samples]
    assert due == [one.due_s for one in again.steps[0].step.samples]
    gaps = np.diff([0.0, *due])
    # of a Poisson process: mean and standard deviation of the gaps are 1/rate (600 of them: ± 12 %)
    assert gaps.mean() == pytest.approx(1 / 300, rel=0.15)
    assert gaps.std() == pytest.approx(1 / 300, rel=0.2)
    assert max(due) < 2.0


async def test_a_closed_loop_has_as_many_calls_in_flight_as_users() -> None:
    async def slow(path: str, body: dict[str, Any]) -> Reply:
        await asyncio.sleep(0.05)
        return await at_once(path, body)

    async with gateway(slow) as fake:
        measured = await run(fake, Load(users=4), duration_s=1.0)
    figures = measured.steps[0]
    assert fake.most_in_flight == 4
    assert 60 <= figures.values["queries_per_s"] <= 80  # 4 users / 50 ms at most
    assert fake.connections <= 5  # each is used again


async def test_the_wait_before_sending_counts_when_the_gateway_stalls() -> None:
    """A gateway that stands still for a second delays every call that was due meanwhile, not one call."""
    begun = time.perf_counter()

    async def stalls(path: str, body: dict[str, Any]) -> Reply:
        await asyncio.sleep(max(0.0, begun + 1.3 - time.perf_counter()))
        return await at_once(path, body)

    async with gateway(stalls) as fake:
        measured = await run(fake, Load(rate=100.0), duration_s=2.0)
    latencies = sorted(one.latency_s for one in measured.steps[0].step.samples)
    slow = [s for s in latencies if s > 0.2]
    assert 60 < len(slow) < 160
    assert 0.4 < np.mean(slow) < 0.9


async def test_refusals_are_counted_apart_and_asked_again_only_where_that_is_wanted() -> None:
    first: set[int] = set()

    async def refuses_once(path: str, body: dict[str, Any]) -> Reply:
        if body["seed"] in first:
            return await at_once(path, body)
        first.add(body["seed"])
        return 429, {"Retry-After": "0.2"}, {"title": "Overloaded"}

    async with gateway(refuses_once) as fake:
        waits = await run(fake, Load(users=3), calls=9, honour_retry_after=True)
        gives_up = await run(fake, Load(users=3), calls=9, seed=2)
        too_late = await run(
            fake, Load(users=3), calls=9, seed=3, honour_retry_after=True, deadline_ms=100.0
        )
    patient = waits.steps[0]
    assert patient.statuses == {"200": 9}
    assert patient.values["answered_share"] == 1.0
    assert sum(one.refusals for one in patient.step.samples) == 9
    assert min(one.latency_s for one in patient.step.samples) >= 0.2
    for figures in (gives_up.steps[0], too_late.steps[0]):
        assert figures.statuses == {"429": 9}
        assert figures.values["refused_share"] == 1.0
        assert figures.values["failed_share"] == 0.0


async def test_right_answers_of_single_queries_and_batches_are_counted() -> None:
    by_identity = {identity: item for item, identity in identities("person").items()}

    async def every_other(path: str, body: dict[str, Any]) -> Reply:
        found = [answer_to(query) for query in body.get("queries", [body])]
        return 200, {}, {"answers": found} if path.endswith(":batch") else found[0]

    async with gateway(every_other) as fake:
        plan = Plan(url=fake.url, seed=1, warm_up=0, calls=20, batch=Mix.of(1, 4))
        wrong = (await measure(plan, Course((Load(users=2),)), NOTHING)).steps[0]

        from semlink.load.queries import Queries

        queries = Queries(plan)
        right_of = {
            json.loads(call.body).get("seed")
            or json.loads(call.body)["queries"][i]["seed"]: one.identity
            for call in (queries.call(n, stage="step 0") for n in range(20))
            for i, one in enumerate(call.asked)
        }

        async def all_right(path: str, body: dict[str, Any]) -> Reply:
            asked = body.get("queries", [body])
            found = [answer_to(q, by_identity[right_of[q["seed"]]]) for q in asked]
            return 200, {}, {"answers": found} if path.endswith(":batch") else found[0]

        fake.answer = all_right
        right = (await measure(plan, Course((Load(users=2),)), NOTHING)).steps[0]
    assert wrong.values["correct_share"] == 0.0
    assert right.values["correct_share"] == 1.0
    number = sum(len(one.asked) for one in right.step.samples)
    assert number > 20
    assert right.groups["1 a call"]["answers"] + right.groups["4 a call"]["answers"] == number
    assert right.values["correct_per_s"] == pytest.approx(number / right.step.seconds)


async def test_what_goes_wrong_has_a_name() -> None:
    kinds = iter(["500", "drop", "garbage", "slow", "200"] * 10)

    async def odd(path: str, body: dict[str, Any]) -> Reply:
        match next(kinds):
            case "500":
                return 500, {}, {"title": "Internal"}
            case "drop":
                raise ConnectionError
            case "garbage":
                return 200, {}, {"hello": "world"}
            case "slow":
                await asyncio.sleep(5)
        return await at_once(path, body)

    from semlink.load import generator

    async with gateway(odd) as fake:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generator, "MARGIN_S", 0.2)
            figures = (await run(fake, Load(users=1), calls=10, deadline_ms=300.0)).steps[0]
    assert figures.statuses == {
        **{"200": 2, "500": 2, "connection": 2, "timeout": 2, "unreadable": 2},
    }
    assert figures.values["answered_share"] == pytest.approx(0.2)
    assert figures.values["failed_share"] == pytest.approx(0.8)


async def test_a_gateway_that_is_away_is_an_error_before_the_clock_starts() -> None:
    async with gateway() as fake:
        url = fake.url
    plan = Plan(url=url, seed=1, warm_up=2)
    with pytest.raises(Unavailable, match="connection"):
        await measure(plan, Course((Load(users=1),)), NOTHING)


async def test_links_are_opened_used_and_closed_and_the_run_is_announced() -> None:
    async with gateway() as fake:
        await run(
            fake,
            Load(rate=40.0),
            duration_s=0.5,
            links=Mix.of("opened"),
            num_links=3,
            link={"snr_db": 5.0},
        )
    opened = fake.bodies("/v1/links")
    assert [body["snr_db"] for body in opened] == [5.0] * 3
    assert {body["link"]["id"] for body in fake.bodies()} == {"l-1", "l-2", "l-3"}
    deleted = [path for method, path, _ in fake.asked if method == "DELETE"]
    assert deleted == ["/v1/load-run", "/v1/links/l-1", "/v1/links/l-2", "/v1/links/l-3"]
    (announced,) = [body for method, _, body in fake.asked if method == "PUT"]
    assert announced == {"duration_s": 0.5, "queries_per_call": 1, "rate": 40.0}


async def test_the_warm_up_is_asked_first_and_not_measured() -> None:
    async with gateway() as fake:
        figures = (await run(fake, Load(users=2), calls=5, warm_up=7)).steps[0]
    assert len(fake.bodies()) == 12
    assert figures.statuses == {"200": 5}


async def test_a_service_that_cannot_be_read_is_left_out() -> None:
    async def metrics(path: str, body: dict[str, Any]) -> Reply:
        raise AssertionError

    async with gateway(metrics) as fake:
        read = await Scraped(
            {"gateway": f"{fake.url}/metrics", "gone": "http://127.0.0.1:1/"}
        ).read()
    assert read == {}
    figures = figures_of(
        (await _measured_by_scraping()).steps[0].step, Plan(url="http://127.0.0.1", seed=1)
    )
    assert np.isnan(figures.values["cpu_ms_per_query"])


async def _measured_by_scraping() -> Measured:
    async with gateway() as fake:
        plan = Plan(url=fake.url, seed=1, warm_up=0, calls=2)
        resources = Scraped({"gateway": f"{fake.url}/metrics"})
        return await measure(plan, Course((Load(users=1),)), resources)
