"""A load test announces itself; dashboards see numbers, and nobody can make more of it."""

from __future__ import annotations

import re
from typing import Any, cast

import httpx
import pytest

from gateway.app import ServiceClients, create_app
from gateway.load_runs import PARAMETERS, LoadRun
from gateway.schemas import LoadRunBody


@pytest.fixture
def http() -> httpx.AsyncClient:
    absent = cast(Any, None)  # no service is called
    app = create_app(ServiceClients(absent, absent, absent, absent, absent))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


async def gauges(http: httpx.AsyncClient) -> dict[str, float]:
    text = (await http.get("/metrics")).text
    found = re.findall(r"^semlink_load_run\{(.*)\} (.*)$", text, re.MULTILINE)
    return {label: float(value) for label, value in found}


async def test_a_run_is_seen_until_it_ends(http: httpx.AsyncClient) -> None:
    body = {"rate": 50.0, "duration_s": 60.0, "queries_per_call": 4}
    assert (await http.put("/v1/load-run", json=body)).status_code == 204
    assert await gauges(http) == {
        **{'parameter="rate"': 50.0, 'parameter="users"': 0.0},
        **{'parameter="duration_s"': 60.0, 'parameter="queries_per_call"': 4.0},
    }
    assert (await http.put("/v1/load-run", json={"users": 8, "duration_s": 5.0})).status_code == 204
    assert (await gauges(http))['parameter="rate"'] == 0.0
    assert (await http.delete("/v1/load-run")).status_code == 204
    assert set((await gauges(http)).values()) == {0.0}


async def test_what_is_announced_is_bounded(http: httpx.AsyncClient) -> None:
    for body in (
        *({"duration_s": 1e9}, {"duration_s": 60.0, "rate": 1e9}, {"duration_s": 60.0, "users": 0}),
        *({"duration_s": 60.0, "name": "x"}, {"duration_s": "60"}, {}),
    ):
        assert (await http.put("/v1/load-run", json=body)).status_code == 422
    for rate in range(1, 30):
        await http.put("/v1/load-run", json={"duration_s": 60.0, "rate": rate / 7})
    assert len(await gauges(http)) == len(PARAMETERS)
    await http.delete("/v1/load-run")


def test_a_run_whose_client_died_is_forgotten() -> None:
    now = 100.0
    run = LoadRun(lambda: now)
    run.announce(LoadRunBody(duration_s=30.0, users=3))
    now = 129.0
    assert run.value("users") == 3.0
    now = 130.0
    assert run.value("users") == 0.0
