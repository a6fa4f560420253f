"""The gateway answers to its own names: a page elsewhere reaches nothing by DNS rebinding."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httpx
import pytest

from gateway.app import ServiceClients, create_app
from semlink.hosts import host_name
from semlink.v1 import channel_pb2, receiver_pb2


class Recording:
    """Stands for the services and notes which calls arrive."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def remove_items(
        self, request: receiver_pb2.RemoveItemsRequest
    ) -> receiver_pb2.RemoveItemsResponse:
        self.calls.append("remove_items")
        return receiver_pb2.RemoveItemsResponse()

    async def list_links(
        self, request: channel_pb2.ListLinksRequest
    ) -> channel_pb2.ListLinksResponse:
        self.calls.append("list_links")
        return channel_pb2.ListLinksResponse()

    async def health(self) -> dict[str, str]:
        return {"transmitter": "ok"}

    async def close(self) -> None:
        pass


@pytest.fixture
def services() -> Recording:
    return Recording()


async def answer(
    services: Recording,
    hosts: list[bytes],
    path: str = "/v1/links",
    *,
    method: str = "GET",
    trusted: tuple[str, ...] = (),
) -> httpx.Response:
    """One request with exactly these Host headers, none if there is none: httpx would put its own."""
    double: Any = services
    app = create_app(
        ServiceClients(double, double, double, services.health, services.close),
        trusted_hosts=trusted,
    )
    sent: list[Any] = []
    body = asyncio.Queue[dict[str, Any]]()
    body.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", host) for host in hosts],
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 8000),
    }
    await app(scope, cast(Any, body.get), send)
    start = sent[0]
    content = b"".join(m.get("body", b"") for m in sent[1:])
    return httpx.Response(start["status"], headers=start["headers"], content=content)


@pytest.mark.parametrize(
    "host",
    [
        *(b"localhost", b"localhost:8000", b"LOCALHOST:8000", b"localhost.:8000", b"127.0.0.1"),
        *(b"127.0.0.1:8000", b"127.0.0.2:1", b"[::1]", b"[::1]:8000", b"[0:0:0:0:0:0:0:1]:8000"),
    ],
)
async def test_this_machine_is_trusted(services: Recording, host: bytes) -> None:
    assert (await answer(services, [host])).status_code == 200
    assert services.calls == ["list_links"]


@pytest.mark.parametrize(
    "host",
    [
        *(b"evil.example", b"evil.example:8000", b"EVIL.example.", b"localhost.evil.example"),
        *(b"127.0.0.1.evil.example", b"evil-localhost", b"10.0.0.1:8000", b"[2001:db8::1]:8000"),
        *(b"0.0.0.0:8000", b"gateway"),
    ],
)
async def test_another_host_is_refused_before_anything_is_done(
    services: Recording, host: bytes
) -> None:
    path = "/v1/corpora/scenes/items/x"
    response = await answer(services, [host], path, method="DELETE")
    assert response.status_code == 421
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["field"]) == (421, "Host")
    assert "SEMLINK_TRUSTED_HOSTS" in body["detail"]
    assert host_name(host.decode()) in body["detail"]
    assert services.calls == []
    assert (await answer(services, [b"localhost"], path, method="DELETE")).status_code == 204
    assert services.calls == ["remove_items"]


@pytest.mark.parametrize(
    "hosts",
    [
        *([], [b""], [b"a b"], [b"localhost@evil.example"], [b"evil.example/localhost"]),
        *([b"localhost, evil.example"], [b"localhost", b"evil.example"], [b"::1"], [b"\xff"]),
    ],
)
async def test_a_malformed_host_is_400(services: Recording, hosts: list[bytes]) -> None:
    response = await answer(services, hosts)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["field"] == "Host"
    assert services.calls == []


@pytest.mark.parametrize("hosts", [[b"evil.example"], [], [b"10.0.0.9:8000"], [b"a b"]])
async def test_probes_and_prometheus_may_use_any_host(
    services: Recording, hosts: list[bytes]
) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await answer(services, hosts, path)).status_code == 200
    for path in ("/metrics/", "/healthz/../v1/links", "/docs", "/openapi.json", "/"):
        assert (await answer(services, hosts, path)).status_code in (400, 421)


async def test_names_of_the_setting_are_trusted(services: Recording) -> None:
    trusted = ("gateway", "2001:db8::1")
    for host in (b"gateway", b"Gateway:8000", b"gateway.", b"[2001:DB8:0::1]:8000", b"localhost"):
        assert (await answer(services, [host], trusted=trusted)).status_code == 200
    assert (await answer(services, [b"gateway.evil.example"], trusted=trusted)).status_code == 421
    assert (await answer(services, [b"evil.example"], trusted=("*",))).status_code == 200
