"""The pages of the gateway in a real browser: they render, and ask nothing of another host."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from pydantic import BaseModel

from gateway import schemas
from gateway.app import SWAGGER_UI, ServiceClients, create_app

TRUSTED = "semlink.example"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A gateway without services: its pages need none."""

    async def nothing() -> Any:
        return {}

    absent = cast(Any, None)
    app = create_app(
        ServiceClients(absent, absent, absent, nothing, nothing), trusted_hosts=[TRUSTED]
    )
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.02)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(20)


async def test_the_root_leads_to_the_page(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        response = await http.get("/")
        assert response.status_code == 307
        assert response.headers["location"] == "/docs"
        page = await http.get("/docs")
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert "http://" not in page.text
        assert "https://" not in page.text


@pytest.mark.parametrize("body", [schemas.QueryBody, schemas.BatchBody])
def test_what_the_page_offers_to_send_is_allowed(body: type[BaseModel]) -> None:
    (example,) = body.model_json_schema()["examples"]
    body.model_validate(example)


def test_every_file_of_the_page_is_there() -> None:
    names = {path.name for path in SWAGGER_UI.iterdir()}
    assert names >= {"LICENSE", "NOTICE", "README.md", "swagger-ui-bundle.js", "swagger-ui.css"}
    assert not [name for name in names if name.endswith(".map")]
    assert sum(path.stat().st_size for path in SWAGGER_UI.iterdir()) < 2.5 * 2**20


@dataclass
class Seen:
    """What the browser met while a page was open."""

    hosts: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def open_docs(url: str, screenshot: Path) -> tuple[str, Seen]:
    """The text of ``/docs`` once an operation is opened, and what the browser met."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is missing (Debian: apt-get install chromium)")
    seen = Seen()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                *("--no-sandbox", "--disable-gpu", "--disable-sync", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update"),
                *(f"--host-resolver-rules=MAP {TRUSTED} 127.0.0.1", "--no-proxy-server"),
            ],
        )
        try:
            page = browser.new_page(viewport={"width": 1200, "height": 1400})
            page.on("request", lambda request: seen.hosts.add(urlsplit(request.url).netloc))
            page.on(
                "response",
                lambda response: (
                    seen.failed.append(f"{response.status} {response.url}")
                    if response.status >= 400
                    else None
                ),
            )
            page.on(
                "console",
                lambda message: (
                    seen.errors.append(message.text)
                    if message.type in ("error", "warning")
                    else None
                ),
            )
            page.on("pageerror", lambda error: seen.errors.append(str(error)))
            page.goto(url)
            page.wait_for_selector(".opblock", timeout=30_000)
            page.click("#operations-queries-query_v1_queries_post .opblock-summary-control")
            page.wait_for_selector(".opblock-body .model-example", timeout=30_000)
            page.wait_for_load_state("networkidle")
            page.screenshot(path=screenshot)
            return page.inner_text("body"), seen
        finally:
            browser.close()


@pytest.mark.browser
@pytest.mark.parametrize("host", ["127.0.0.1", TRUSTED])
async def test_the_page_of_the_api_renders(port: int, host: str, tmp_path: Path) -> None:
    """Also under a name that is not loopback: Swagger UI asks a validator on the internet only then."""
    url = f"http://{host}:{port}/"
    text, seen = await asyncio.to_thread(open_docs, url, tmp_path / "docs.png")
    for path in ("/v1/queries", "/v1/links/{link_id}/csi", "/v1/corpora/{name}/items/{item_id}"):
        assert path in text.replace("\u200b", "")
    assert "Unable to render" not in text
    assert "a man in a red jacket" in text  # the example body of the opened operation
    assert seen.hosts <= {f"{host}:{port}", ""}  # "": data: URLs of the style sheet
    assert not seen.errors
    assert not seen.failed
