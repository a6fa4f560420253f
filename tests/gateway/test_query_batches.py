"""Concurrent queries travel together, each under its own deadline and with its own error; what is late is refused."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from gateway import query_batches
from gateway.app import ServiceClients, create_app
from semlink.errors import InvalidField, NotFound, Unavailable
from semlink.v1 import channel_pb2
from semlink.v1 import transmitter_pb2 as pb


@dataclass
class Slow:
    """A transmitter that needs ``seconds`` a call, and 10 s for a call with any text that says so."""

    seconds: float = 0.05
    calls: list[list[str]] = field(default_factory=list)
    away: bool = False
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def retrieve(self, request: pb.RetrieveRequest) -> pb.RetrieveResponse:
        texts = [query.text for query in request.queries]
        self.calls.append(texts)
        if self.away:
            raise Unavailable("transmitter is away")
        for i, text in enumerate(texts):
            if text == "bad":
                raise InvalidField(f"queries[{i}].symbols is 5", field=f"queries[{i}].symbols")
        if any(query.knowledge_budget_ms for query in request.queries):
            await asyncio.sleep(10)
        async with self.one_at_a_time:
            await asyncio.sleep(self.seconds)
        return pb.RetrieveResponse(
            answers=[
                pb.Answer(
                    query_id=query.text,
                    retrieval=pb.Retrieval(
                        scoring=pb.SCORING_GLOBAL,
                        reranking=pb.RERANKING_NONE,
                        extraction=pb.EXTRACTION_NONE,
                    ),
                )
                for query in request.queries
            ]
        )


class NoLinks:
    """A channel service without opened links."""

    async def get_link(self, request: channel_pb2.GetLinkRequest) -> channel_pb2.Link:
        raise NotFound(f"link {request.link_id!r} is not open", field="link_id")


async def _health() -> dict[str, str]:
    return {}


async def _nothing() -> None:
    pass


def _client(transmitter: Slow) -> httpx.AsyncClient:
    unused: Any = None
    app = create_app(ServiceClients(transmitter, NoLinks(), unused, _health, _nothing))  # type: ignore[arg-type]
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=60
    )


async def _ask(client: httpx.AsyncClient, text: str, **more: Any) -> httpx.Response:
    body = {"task": "person", "query": {"text": text}, "method": "deepsc-mimo", **more}
    return await client.post("/v1/queries", json=body)


async def test_a_query_that_comes_alone_leaves_alone_and_at_once() -> None:
    transmitter = Slow(seconds=0)
    async with _client(transmitter) as client:
        await _ask(client, "first")
        started = time.monotonic()
        answer = await _ask(client, "second")
    assert answer.json()["id"] == "second"
    assert transmitter.calls == [["first"], ["second"]]
    assert time.monotonic() - started < 0.5


async def test_concurrent_queries_travel_in_few_calls_and_each_gets_its_own_answer() -> None:
    transmitter = Slow()
    async with _client(transmitter) as client:
        await _ask(client, "the link is known")
        transmitter.calls.clear()
        answers = await asyncio.gather(*(_ask(client, str(i)) for i in range(100)))
    assert [answer.json()["id"] for answer in answers] == [str(i) for i in range(100)]
    assert len(transmitter.calls) <= 5
    assert sorted((text for call in transmitter.calls for text in call), key=int) == [
        str(i) for i in range(100)
    ]


@pytest.mark.parametrize(
    "slow",
    [
        {"method": "sc-lmkb", "knowledge_budget_ms": 5000},
        {"link": {"id": "opened"}},
        {"link": {"seed": 77}},
        {"method": "ideal"},
        {"retrieval": {"extraction": "textrank"}},
    ],
)
async def test_what_may_be_slow_never_travels_with_others(slow: dict[str, Any]) -> None:
    transmitter = Slow()
    async with _client(transmitter) as client:
        await _ask(client, "the link is known")
        transmitter.calls.clear()
        held = asyncio.create_task(_ask(client, "slow", **slow))
        quick = await asyncio.gather(*(_ask(client, f"quick {i}") for i in range(20)))
        held.cancel()
    assert all(answer.status_code == 200 for answer in quick)
    assert ["slow"] in transmitter.calls
    assert all(len(call) == 1 or "slow" not in call for call in transmitter.calls)


async def test_each_query_has_its_own_deadline() -> None:
    transmitter = Slow(seconds=0.5)
    async with _client(transmitter) as client:
        await _ask(client, "the link is known")
        hasty = asyncio.create_task(_ask(client, "hasty", deadline_ms=100))
        patient = asyncio.create_task(_ask(client, "patient"))
        started = time.monotonic()
        late = await hasty
        waited = time.monotonic() - started
        answer = await patient
    assert (late.status_code, late.json()["field"]) == (504, "deadline_ms")
    assert waited < 0.4
    assert (answer.status_code, answer.json()["id"]) == (200, "patient")


async def test_a_bad_query_fails_alone() -> None:
    transmitter = Slow(seconds=0)
    async with _client(transmitter) as client:
        await _ask(client, "the link is known")
        answers = await asyncio.gather(*(_ask(client, t) for t in ("a", "bad", "b", "c")))
    assert [answer.status_code for answer in answers] == [200, 422, 200, 200]
    assert answers[1].json()["field"] == "symbols"
    assert [answers[i].json()["id"] for i in (0, 2, 3)] == ["a", "b", "c"]


async def test_a_service_that_is_away_is_asked_once() -> None:
    transmitter = Slow(away=True)
    async with _client(transmitter) as client:
        answers = await asyncio.gather(*(_ask(client, str(i)) for i in range(8)))
    assert {answer.status_code for answer in answers} == {503}
    assert len(transmitter.calls) <= 2


class TestAdmission:
    """Batches of 4 at most in 0.1 s a call, one call at a time: 40 queries a second, far below what clients cost."""

    @pytest.fixture(autouse=True)
    def _small_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(query_batches, "MAX_BATCH", 4)

    async def _warm(self, client: httpx.AsyncClient) -> None:
        await asyncio.gather(*(_ask(client, "warm") for _ in range(40)))

    async def test_what_cannot_end_in_time_is_refused_at_once_with_when_to_come_back(self) -> None:
        transmitter = Slow(seconds=0.1)
        async with _client(transmitter) as client:
            await self._warm(client)
            crowd = [asyncio.create_task(_ask(client, "in time")) for _ in range(120)]
            await asyncio.sleep(0.5)
            started = time.monotonic()
            late = await _ask(client, "late", deadline_ms=150)
            waited = time.monotonic() - started
            in_time = await asyncio.gather(*crowd)
        assert late.status_code == 429
        assert late.headers["content-type"] == "application/problem+json"
        assert late.json()["field"] == "deadline_ms"
        assert "150 ms" in late.json()["detail"]
        assert 1 <= int(late.headers["retry-after"]) <= 20
        assert waited < 0.1
        assert {answer.status_code for answer in in_time} == {200}

    async def test_what_is_admitted_is_answered_in_time(self) -> None:
        transmitter = Slow(seconds=0.1)
        async with _client(transmitter) as client:
            await self._warm(client)
            answers = await asyncio.gather(
                *(_ask(client, "crowd", deadline_ms=2000) for _ in range(300))
            )
        statuses = [answer.status_code for answer in answers]
        served = statuses.count(200)
        assert set(statuses) <= {200, 429, 504}
        assert served >= 0.5 * 40 * 2 / query_batches.MARGIN
        assert statuses.count(504) <= 0.5 * served

    async def test_afterwards_all_is_as_before(self) -> None:
        transmitter = Slow(seconds=0.1)
        async with _client(transmitter) as client:
            await self._warm(client)
            await asyncio.gather(*(_ask(client, "crowd", deadline_ms=300) for _ in range(200)))
            assert (await _ask(client, "one more", deadline_ms=500)).status_code == 200

    async def test_a_batch_counts_as_its_queries(self) -> None:
        transmitter = Slow(seconds=0.1)
        async with _client(transmitter) as client:
            await self._warm(client)
            crowd = [asyncio.create_task(_ask(client, "in time")) for _ in range(120)]
            await asyncio.sleep(0.5)
            one = {"task": "person", "query": {"text": "a"}, "method": "deepsc-mimo"}
            late = await client.post(
                "/v1/queries:batch", json={"queries": [one] * 20, "deadline_ms": 150}
            )
            await asyncio.gather(*crowd)
        assert (late.status_code, late.json()["field"]) == (429, "deadline_ms")

    async def test_bad_bodies_are_still_explained_under_load(self) -> None:
        transmitter = Slow(seconds=0.1)
        async with _client(transmitter) as client:
            await self._warm(client)
            crowd = [asyncio.create_task(_ask(client, "in time")) for _ in range(60)]
            await asyncio.sleep(0.05)
            for body in (b"", b"[", b"[]", b"null", b'{"query": 5}', b'{"query": {}}'):
                answer = await client.post(
                    "/v1/queries", content=body, headers={"content-type": "application/json"}
                )
                assert answer.status_code == 422, (body, answer.text)
            nested = b'{"query": ' + b"[" * 5000
            answer = await client.post(
                "/v1/queries", content=nested, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 422
            await asyncio.gather(*crowd)

    async def test_an_early_refusal_is_counted(self) -> None:
        transmitter = Slow(seconds=0.1)
        async with _client(transmitter) as client:
            await self._warm(client)
            crowd = [asyncio.create_task(_ask(client, "in time")) for _ in range(120)]
            await asyncio.sleep(0.5)
            assert (await _ask(client, "late", deadline_ms=100)).status_code == 429
            text = (await client.get("/metrics")).text
            await asyncio.gather(*crowd)
        assert 'code="429"' in text
        labels = 'method="deepsc-mimo",result="Overloaded",task="person"'
        assert f"semlink_queries_total{{{labels}}}" in text
        assert json.dumps("POST /v1/queries") in text


async def test_probes_and_scrapes_are_not_counted_as_requests() -> None:
    async with _client(Slow(seconds=0)) as client:
        await _ask(client, "counted")
        await client.get("/readyz")
        await client.get("/healthz")
        text = (await client.get("/metrics")).text
    gateway = [
        line
        for line in text.splitlines()
        if "semlink_requests_total" in line and 'service="gateway"' in line
    ]
    assert any("POST /v1/queries" in line for line in gateway)
    assert not any(path in line for line in gateway for path in ("readyz", "healthz", "metrics"))
