"""Bodies that would cost far more than their bytes: refused by name, in little memory and a short answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from gateway import problems
from gateway.app import ServiceClients, create_app
from gateway.problems import BodyLimit


class Nobody:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a service was asked: {name}")


async def nothing() -> Any:
    return {}


def app() -> Any:
    return create_app(ServiceClients(Nobody(), Nobody(), Nobody(), nothing, nothing))


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(app(), raise_server_exceptions=False, base_url="http://localhost") as found:
        yield found


KEYS = ",".join(f'"{i:x}":0' for i in range(300_000))


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/queries", "{KEYS}", "body"),
        ("/v1/queries", '{"task":"image","query":{"text":"a"},"link":{KEYS}}', "link"),
        ("/v1/queries:batch", '{"queries":[{KEYS}]}', "queries[0]"),
        ("/v1/queries:batch", '{"queries":[ZEROS]}', "queries"),
        ("/v1/corpora/x/items", '{"items":[{KEYS}]}', "items[0]"),
        ("/v1/corpora/x/items", '{"items":[ZEROS]}', "items"),
        ("/v1/links", "{KEYS}", "body"),
        ("/v1/queries", "[" * 5_000_000, "body"),
    ],
)
def test_a_swollen_body_gets_a_short_answer(
    client: TestClient, path: str, body: str, field: str
) -> None:
    body = body.replace("KEYS", KEYS).replace("ZEROS", "0," * 1_000_000 + "0")
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert len(answer.content) < 10_000


def test_some_unknown_fields_are_each_named_and_not_too_many(client: TestClient) -> None:
    known = {"task": "image", "query": {"text": "a"}}
    answer = client.post("/v1/queries", json=known | {"colour": 1, "shape": 2})
    assert [e["field"] for e in answer.json()["errors"]] == ["colour", "shape"]
    answer = client.post("/v1/queries:batch", json={"queries": [{"x": 1}] * 200})
    assert len(answer.json()["errors"]) == problems.MAX_ERRORS


def arrays_of(schema: Any, schemas: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    if schema.get("type") == "array":
        yield path, schema
        yield from arrays_of(schema["items"], schemas, f"{path}[]")
    for name, part in schema.get("properties", {}).items():
        yield from arrays_of(part, schemas, f"{path}.{name}")
    for part in schema.get("anyOf", []):
        yield from arrays_of(part, schemas, path)


def test_every_list_of_a_rest_body_is_bounded() -> None:
    api = app().openapi()
    found = {}
    for path, methods in api["paths"].items():
        for method in methods.values():
            if "requestBody" in method:
                body = method["requestBody"]["content"]["application/json"]["schema"]
                found |= dict(arrays_of(body, api["components"]["schemas"], path))
    assert len(found) >= 4
    assert [path for path, array in found.items() if not array.get("maxItems")] == []


async def echo(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(len(message["body"])).encode()})


async def parts(count: int, size: int = 2**16, wait_s: float = 0.0) -> Any:
    for _ in range(count):
        yield bytes(size)
        await asyncio.sleep(wait_s)


async def test_bodies_of_all_requests_are_bounded_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(problems, "MAX_BODIES_BYTES", 3 * 2**20)
    transport = httpx.ASGITransport(BodyLimit(echo))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        answers = await asyncio.gather(
            *(http.post("/", content=parts(32, wait_s=0.001)) for _ in range(4)),
            http.post("/", content=b"a small one"),
        )
        codes = [a.status_code for a in answers]
        assert 1 <= codes[:4].count(429) <= 3
        assert codes[4] == 200
        refused = next(a for a in answers if a.status_code == 429)
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["field"] == "body"
        assert (await http.post("/", content=parts(40))).text == str(40 * 2**16)  # all given back


async def test_a_body_must_arrive_in_time_and_within_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(problems, "BODY_DEADLINE_S", 0.1)
    transport = httpx.ASGITransport(BodyLimit(echo))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        late = await http.post("/", content=parts(1000, size=1, wait_s=0.05))
        assert (late.status_code, late.json()["field"]) == (408, "body")
        large = await http.post("/", content=parts(161))
        assert (large.status_code, large.json()["field"]) == (413, "body")
