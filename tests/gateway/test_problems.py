"""The REST face over services that answer, fail or hang on command: every error is a problem that names the field."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import httpx
import pytest

from gateway.app import ServiceClients, create_app
from gateway.problems import MAX_BODY_BYTES, rest_field
from gateway.schemas import LinkConfigBody
from semlink.deadlines import remaining_s
from semlink.errors import (
    CorruptTensor,
    DeadlineExceeded,
    InvalidField,
    NotFound,
    Overloaded,
    Unavailable,
)
from semlink.links import Link, checked_link
from semlink.messages import to_proto
from semlink.queries import Retrieval
from semlink.v1 import channel_pb2, common_pb2, receiver_pb2, transmitter_pb2

QUERY: dict[str, Any] = {"task": "person", "query": {"text": "a man in a red jacket"}}


RETRIEVAL = to_proto(
    Retrieval(scoring="global", reranking="none", extraction="none"), transmitter_pb2.Retrieval()
)


class Scripted:
    """Stands for every service: raises ``error`` if set, hangs if ``hang``, else answers with one match a query."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hang = False
        self.report = channel_pb2.LinkReport()
        self.seen: list[transmitter_pb2.Query] = []
        self.left_s: float | None = None
        self.healthy = {"transmitter": "ok", "channel": "ok"}

    async def retrieve(
        self, request: transmitter_pb2.RetrieveRequest
    ) -> transmitter_pb2.RetrieveResponse:
        self.seen, self.left_s = list(request.queries), remaining_s()
        if self.hang:
            await asyncio.sleep(60)
        if self.error:
            raise self.error
        return transmitter_pb2.RetrieveResponse(
            answers=[
                transmitter_pb2.Answer(
                    query_id=q.id,
                    matches=[receiver_pb2.Match(item_id="sound-test-0001#2", score=0.5)],
                    link=self.report,
                    retrieval=RETRIEVAL,
                )
                for q in request.queries
            ]
        )

    async def get_link(self, request: channel_pb2.GetLinkRequest) -> channel_pb2.Link:
        raise NotFound(f"link {request.link_id!r} is not open", field="link_id")

    async def get_media(
        self, request: receiver_pb2.GetMediaRequest
    ) -> receiver_pb2.GetMediaResponse:
        raise NotFound(f"corpus {request.corpus!r} is unknown", field="corpus")

    async def health(self) -> dict[str, str]:
        return self.healthy

    async def close(self) -> None:
        pass


@pytest.fixture
def service() -> Scripted:
    return Scripted()


@pytest.fixture
def http(service: Scripted) -> httpx.AsyncClient:
    services: Any = ServiceClients(service, service, service, service.health, service.close)  # type: ignore[arg-type]
    transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


def assert_problem(response: httpx.Response, status: int, field: str | None) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body.get("field") == field
    assert "Traceback" not in response.text


def changed(**changes: Any) -> dict[str, Any]:
    return QUERY | changes


MEDIA = {"content_type": "image/png", "data": base64.b64encode(b"x").decode()}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (changed(task="video"), "task"),
        (changed(link={"snr_db": 60.1}), "link.snr_db"),
        (changed(link={"snr_db": -30.1}), "link.snr_db"),
        (changed(link={"feedback": {"bits": -1}}), "link.feedback.bits"),
        (changed(link={"feedback": {"bits": 1025}}), "link.feedback.bits"),
        (changed(link={"scenario": "moon"}), "link.scenario"),
        (changed(link={"num_tx_ant": 3}), "link.num_tx_ant"),
        (changed(link={"speed_kmh": -1}), "link.speed_kmh"),
        (changed(link={"delay_spread_ns": 0.5}), "link.delay_spread_ns"),
        (changed(link={"power_allocation": "all"}), "link.power_allocation"),
        (changed(link={"feedback": {"memory": "long"}}), "link.feedback.memory"),
        (changed(link={"feedback": {"quantizer": "type3"}}), "link.feedback.quantizer"),
        (changed(link={"snr": 5}), "link.snr"),
        (changed(link={"id": "l-1", "snr_db": 5}), "link"),
        (changed(query={"text": ""}), "query.text"),
        (changed(query={"text": "x" * 2001}), "query.text"),
        (changed(query={}), "query"),
        (changed(query={"text": "a", "image": MEDIA}), "query"),
        (changed(query={"image": MEDIA | {"data": "not base64!"}}), "query.image.data"),
        (changed(top_k=0), "top_k"),
        (changed(top_k="five"), "top_k"),
        (changed(seed=-1), "seed"),
        (changed(deadline_ms=0), "deadline_ms"),
        (changed(colour="red"), "colour"),
        ({"task": "person"}, "query"),
        ([], "body"),
    ],
)
async def test_what_does_not_validate_is_422_and_named(
    http: httpx.AsyncClient, service: Scripted, body: Any, field: str
) -> None:
    assert_problem(await http.post("/v1/queries", json=body), 422, field)
    assert service.seen == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
async def test_numbers_that_are_none_are_422(http: httpx.AsyncClient, number: str) -> None:
    body = json.dumps(changed(link={"snr_db": 1.5})).replace("1.5", number)
    response = await http.post(
        "/v1/queries", content=body, headers={"content-type": "application/json"}
    )
    assert_problem(response, 422, "link.snr_db")


async def test_what_is_no_json_is_422(http: httpx.AsyncClient) -> None:
    response = await http.post(
        "/v1/queries", content=b"{", headers={"content-type": "application/json"}
    )
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("error", "status", "field"),
    [
        (InvalidField("no", field="queries[0].image"), 422, "query.image"),
        (InvalidField("no", field="queries[0].symbols"), 422, "symbols"),
        (InvalidField("no", field="queries[0].link.speed_kmh"), 422, "link.speed_kmh"),
        (NotFound("no", field="queries[0].corpus"), 404, "corpus"),
        (NotFound("no", field="link_id"), 404, "link.id"),
        (Unavailable("away"), 503, None),
        (DeadlineExceeded("late", field="deadline_ms"), 504, "deadline_ms"),
        (Overloaded("full"), 429, None),
        (CorruptTensor("bits flipped", field="frames[0].symbols"), 502, "frames[0].symbols"),
    ],
)
async def test_errors_of_services_keep_status_and_field(
    http: httpx.AsyncClient, service: Scripted, error: Exception, status: int, field: str | None
) -> None:
    service.error = error
    response = await http.post("/v1/queries", json=QUERY)
    assert_problem(response, status, field)
    assert ("retry-after" in response.headers) == (status in (429, 503))


async def test_the_unexpected_leaks_nothing(http: httpx.AsyncClient, service: Scripted) -> None:
    service.error = RuntimeError("secret of /etc/passwd")
    response = await http.post("/v1/queries", json=QUERY)
    assert_problem(response, 500, None)
    assert "secret" not in response.text


async def test_a_batch_names_the_query(http: httpx.AsyncClient, service: Scripted) -> None:
    body = {"queries": [QUERY, changed(link={"snr_db": 99})]}
    assert_problem(await http.post("/v1/queries:batch", json=body), 422, "queries[1].link.snr_db")
    service.error = InvalidField("no", field="queries[1].image")
    response = await http.post("/v1/queries:batch", json={"queries": [QUERY, QUERY]})
    assert_problem(response, 422, "queries[1].query.image")


async def test_a_body_over_the_limit_is_413(http: httpx.AsyncClient) -> None:
    large = changed(query={"image": MEDIA | {"data": "A" * MAX_BODY_BYTES}})
    assert_problem(await http.post("/v1/queries", json=large), 413, "body")

    async def stream() -> Any:
        for _ in range(11):
            yield b" " * 2**20

    response = await http.post("/v1/queries", content=stream())  # no Content-Length
    assert_problem(response, 413, "body")


async def test_the_deadline_is_504_and_travels(http: httpx.AsyncClient, service: Scripted) -> None:
    service.hang = True
    response = await http.post("/v1/queries", json=changed(deadline_ms=50))
    assert_problem(response, 504, "deadline_ms")
    assert service.left_s is not None
    assert 0 < service.left_s <= 0.05


async def test_what_is_not_there_is_404(http: httpx.AsyncClient) -> None:
    assert_problem(await http.get("/v1/links/l-none"), 404, "link.id")
    assert_problem(await http.get("/v1/corpora/none/items/x/media"), 404, "corpus")
    assert (await http.get("/v1/none")).headers["content-type"] == "application/problem+json"
    assert (await http.get("/v1/queries")).status_code == 405


async def test_an_answer_carries_a_seed_that_repeats_it(
    http: httpx.AsyncClient, service: Scripted
) -> None:
    first = (await http.post("/v1/queries", json=QUERY)).json()
    assert service.seen[0].seed == first["seed"]
    await http.post("/v1/queries", json=changed(seed=first["seed"]))
    assert service.seen[0].seed == first["seed"]
    assert first["results"][0]["media_url"].endswith("/items/sound-test-0001%232/media")


async def test_a_link_is_handed_on_in_the_units_of_rest(
    http: httpx.AsyncClient, service: Scripted
) -> None:
    await http.post("/v1/queries", json=changed(link={"speed_kmh": 36.0, "snr_db": 3.0}))
    assert service.seen[0].link_config.speed_kmh == 36.0
    assert service.seen[0].link_config.snr_db == 3.0


async def test_a_link_comes_back_as_it_was_written() -> None:
    """Every field through the contract and back; the defaults are those of a link that names none."""
    assert LinkConfigBody().to_link() == Link()
    assert LinkConfigBody.from_link(Link()) == LinkConfigBody()
    body = LinkConfigBody.model_validate(
        {
            "scenario": "cdl-c",
            "snr_db": -3.5,
            "speed_kmh": 60.0,
            "carrier_frequency_hz": 2.4e9,
            "num_tx_ant": 32,
            "num_rx_ant": 4,
            "num_layers": 3,
            "num_users": 2,
            "power_allocation": "water-filling",
            "delay_spread_ns": 363.0,
            "feedback": {
                "quantizer": "learned",
                "bits": 48,
                "report_period_slots": 10,
                "delay_slots": 4,
                "memory": "predictive",
            },
            "seed": 9,
        }
    )
    proto = body.to_link().to_proto()
    assert proto.delay_spread_ns == 363.0
    assert proto.power_allocation == common_pb2.POWER_ALLOCATION_WATER_FILLING
    assert proto.feedback.memory == common_pb2.FEEDBACK_MEMORY_PREDICTIVE
    assert LinkConfigBody.from_link(checked_link(proto)) == body


async def test_the_answer_says_who_else_was_in_the_slot(
    http: httpx.AsyncClient, service: Scripted
) -> None:
    plain = (await http.post("/v1/queries", json=QUERY)).json()["link"]
    assert (plain["user"], plain["co_scheduled"], plain["erased"]) == (0, 0, False)
    service.report = channel_pb2.LinkReport(user=2, co_scheduled=3, erased=True)
    link = (await http.post("/v1/queries", json=QUERY)).json()["link"]
    assert (link["user"], link["co_scheduled"], link["erased"]) == (2, 3, True)


async def test_ready_only_when_every_service_is(http: httpx.AsyncClient, service: Scripted) -> None:
    assert (await http.get("/readyz")).status_code == 200
    service.healthy["channel"] = "unavailable"
    response = await http.get("/readyz")
    assert response.status_code == 503
    assert response.json()["services"]["channel"] == "unavailable"


async def test_metrics_name_routes_not_ids(http: httpx.AsyncClient) -> None:
    await http.get("/v1/links/l-secret-id")
    text = (await http.get("/metrics")).text
    assert 'method="GET /v1/links/{link_id}"' in text
    assert "l-secret-id" not in text


async def test_docs_need_no_other_host(http: httpx.AsyncClient) -> None:
    page = (await http.get("/docs")).text
    assert "https://" not in page.replace("https://fastapi", "")
    assert (await http.get("/static/swagger/swagger-ui-bundle.js")).status_code == 200
    assert (await http.get("/openapi.json")).json()["paths"]["/v1/queries"]


@pytest.mark.parametrize(
    ("field", "batch", "expected"),
    [
        ("queries[3].text", True, "queries[3].query.text"),
        ("queries[3].text", False, "query.text"),
        ("queries[0].link.feedback.bits", False, "link.feedback.bits"),
        ("slot", False, "slot"),
        ("config.num_users", False, "num_users"),
        ("queries[1].link.delay_spread_ns", True, "queries[1].link.delay_spread_ns"),
        ("", False, ""),
    ],
)
def test_field_paths(field: str, batch: bool, expected: str) -> None:
    assert rest_field(field, batch=batch) == expected


async def test_a_forgotten_content_type_and_broken_json_are_said(http: httpx.AsyncClient) -> None:
    body = json.dumps({"task": "image", "query": {"text": "a dog"}})
    for headers in ({"content-type": "application/x-www-form-urlencoded"}, {}):
        answer = await http.post("/v1/queries", content=body, headers=headers)
        assert answer.status_code == 415
        assert answer.json()["field"] == "content-type"
        assert "application/json" in answer.json()["detail"]
    broken = await http.post(
        "/v1/queries", content="{bad", headers={"content-type": "application/json"}
    )
    assert broken.status_code == 422
    assert broken.json()["field"] == "body"
    assert "at character 1" in broken.json()["detail"]
