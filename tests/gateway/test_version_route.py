"""``GET /v1/version`` says what runs."""

from __future__ import annotations

import platform
from typing import Any, cast

import httpx

from gateway.app import ServiceClients, create_app
from semlink.version import commit, version


async def test_the_version_is_the_installed_packages() -> None:
    absent = cast(Any, None)  # no service is called
    app = create_app(ServiceClients(absent, absent, absent, absent, absent))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        response = await http.get("/v1/version")
    assert response.status_code == 200
    assert response.json() == {
        "version": version(),
        "commit": commit(),
        "python": platform.python_version(),
    }
