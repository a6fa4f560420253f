"""Each query is counted and logged as it ended; nothing that a request chooses becomes a label; logs are bounded."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway import query_records
from gateway.app import ServiceClients, create_app
from gateway.query_records import LineBudget, record, recorded
from semlink.errors import NotFound, Unavailable
from semlink.links import Link
from semlink.telemetry import registry
from semlink.v1 import transmitter_pb2 as pb


class Ending:
    """A transmitter whose calls end as the text of the first query says."""

    async def retrieve(self, request: pb.RetrieveRequest) -> pb.RetrieveResponse:
        if request.queries[0].text == "away":
            raise Unavailable("transmitter is away")
        if request.queries[0].text == "late":
            await asyncio.sleep(10)
        return pb.RetrieveResponse(answers=map(_answer, request.queries))


class NoLinks:
    """A channel on which no link is open."""

    async def get_link(self, request: Any) -> None:
        raise NotFound(f"there is no link {request.link_id!r}", field="link_id")


def _answer(query: pb.Query) -> pb.Answer:
    answer = pb.Answer(
        query_id=query.id,
        retrieval=pb.Retrieval(
            scoring=pb.SCORING_GLOBAL,
            reranking=pb.RERANKING_NONE,
            extraction=pb.EXTRACTION_NONE,
        ),
    )
    if query.text == "degraded":
        answer.degraded.add(part="store", reason="away")
    return answer


@pytest.fixture(autouse=True)
def _plenty_of_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_records, "_lines", LineBudget())


@pytest.fixture
async def client() -> Any:
    async def health() -> dict[str, str]:
        return {}

    async def close() -> None:
        pass

    unused: Any = None
    app = create_app(ServiceClients(Ending(), NoLinks(), unused, health, close))  # type: ignore[arg-type]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        yield http


def _body(text: str, **more: Any) -> dict[str, Any]:
    return {"task": "person", "query": {"text": text}, "method": "deepsc-mimo", **more}


def _counted(result: str, task: str = "person", method: str = "deepsc-mimo") -> float:
    labels = {"task": task, "method": method, "result": result}
    return registry.get_sample_value("semlink_queries_total", labels) or 0.0


def _timed() -> float:
    labels = {"task": "person", "method": "deepsc-mimo"}
    return registry.get_sample_value("semlink_query_seconds_count", labels) or 0.0


@pytest.mark.parametrize(
    ("text", "more", "status", "result"),
    [
        ("a man", {}, 200, "ok"),
        ("degraded", {}, 200, "degraded"),
        ("away", {}, 503, "Unavailable"),
        ("late", {"deadline_ms": 50}, 504, "DeadlineExceeded"),
    ],
)
async def test_a_query_is_counted_and_logged_as_it_ended(
    client: httpx.AsyncClient, text: str, more: dict[str, Any], status: int, result: str
) -> None:
    before, timed = _counted(result), _timed()
    link = {"scenario": "uma-nlos", "snr_db": 7, "seed": 5}
    with capture_logs() as lines:
        answer = await client.post("/v1/queries", json=_body(text, link=link, **more))
    assert answer.status_code == status
    assert _counted(result) == before + 1
    assert _timed() == timed + (status == 200)
    (line,) = [line for line in lines if line["event"] == "query"]
    assert re.fullmatch("[0-9a-f]{32}", line["id"])
    assert answer.json().get("id", line["id"]) == line["id"]
    assert line["ms"] > 0
    assert {name: line[name] for name in ("task", "method", "link", "result")} == {
        "task": "person",
        "method": "deepsc-mimo",
        "link": "uma-nlos 7 dB, seed 5",
        "result": result,
    }
    assert "skipped" not in line


async def test_a_batch_is_as_many_queries(client: httpx.AsyncClient) -> None:
    before = _counted("ok"), _counted("degraded")
    queries = [_body("one"), _body("degraded", link={"id": "opened"}), _body("two")]
    with capture_logs() as lines:
        answer = await client.post("/v1/queries:batch", json={"queries": queries})
    assert answer.status_code == 200
    assert (_counted("ok"), _counted("degraded")) == (before[0] + 2, before[1] + 1)
    logged = [line for line in lines if line["event"] == "query"]
    assert [line["id"] for line in logged] == [one["id"] for one in answer.json()["answers"]]
    assert logged[1]["link"] == "opened"


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ZeroDivisionError()])
def test_what_ends_otherwise_is_counted_too(error: BaseException) -> None:
    result = "cancelled" if isinstance(error, asyncio.CancelledError) else "internal"
    before = _counted(result)
    query = pb.Query(task="person", method="deepsc-mimo", link_config=Link().to_proto())
    with pytest.raises(type(error)), recorded([query]):
        raise error
    assert _counted(result) == before + 1


def test_names_that_a_client_makes_up_become_one_label() -> None:
    before = _counted("Overloaded", "other", "other")
    for i in range(50):
        record(f"task {i}", f"method {i}", "Overloaded")
    assert _counted("Overloaded", "other", "other") == before + 50


async def test_no_request_chooses_a_label(client: httpx.AsyncClient) -> None:
    made_up = "made-up"
    await client.post("/v1/queries", json=_body("a", method=made_up))
    await client.post("/v1/queries", json=_body("a", task=made_up))
    await client.post("/v1/queries", json=_body("a", link={"id": made_up}))
    await client.post("/v1/queries", json=_body("a", corpus=made_up))
    await client.request(made_up.upper(), "/v1/queries")
    await client.get(f"/{made_up}")
    assert (await client.get(f"/v1/links/{made_up}")).status_code == 404
    text = (await client.get("/metrics")).text
    assert "unmatched" in text
    assert 'method="other unmatched"' in text
    assert made_up not in text.lower()


def _seconds() -> Iterator[float]:
    yield from (0.0,) * query_records.MAX_LINES_PER_S
    yield from (0.5, 0.9, 1.1, 1.2)


def test_lines_of_a_second_are_bounded_and_those_skipped_are_told() -> None:
    seconds = _seconds()
    budget = LineBudget(lambda: next(seconds))
    assert [budget.take() for _ in range(query_records.MAX_LINES_PER_S)] == [0] * 100
    assert [budget.take() for _ in range(4)] == [None, None, 2, 0]
