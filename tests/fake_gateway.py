"""A gateway that answers at once or as a test says, and notes what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Reply = tuple[int, dict[str, str], Any]


def answer_to(query: dict[str, Any], item_id: str = "nothing", slot: int = 200) -> dict[str, Any]:
    """A whole answer to a query, with ``item_id`` found first."""
    return {
        "results": [{"item_id": item_id}],
        "link": {
            **{"channel_uses": query["symbols"], "feedback_bits": 64, "slot": slot},
            **{"erased": False, "co_scheduled": 0},
        },
        "timings_ms": {"transmitter.encode": 3.0, "gateway.total": 5.0},
        "emulated_ms": {"slot_wait": 0.0, "air_time": 1 / 14},
        "degraded": [],
    }


@dataclass(slots=True)
class FakeGateway:
    """``answer`` replies to a query or batch; ``asked``: every request as (method, path, body)."""

    answer: Callable[[str, dict[str, Any]], Awaitable[Reply]]
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    url: str = ""
    in_flight: int = 0
    most_in_flight: int = 0
    links: int = 0
    connections: int = 0

    def bodies(self, path: str = "/v1/queries") -> list[Any]:
        """Bodies that were sent to a path."""
        return [body for method, at, body in self.asked if (method, at) == ("POST", path)]

    async def reply(self, method: str, path: str, body: Any) -> Reply:
        """What a request is answered."""
        self.asked.append((method, path, body))
        if method == "POST" and path.startswith("/v1/queries"):
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            try:
                return await self.answer(path, body)
            finally:
                self.in_flight -= 1
        if (method, path) == ("POST", "/v1/links"):
            self.links += 1
            return 201, {}, {"id": f"l-{self.links}"}
        if path.startswith(("/v1/links/", "/v1/load-run")):
            return 204, {}, None
        return 404, {}, {"title": "no such path"}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, path, _ = head.split(b" ", 2)
                fields = {
                    name.lower(): value.strip()
                    for name, _, value in (
                        line.partition(b":") for line in head.split(b"\r\n")[1:] if line
                    )
                }
                content = await reader.readexactly(int(fields.get(b"content-length", b"0")))
                body = json.loads(content) if content else None
                status, headers, value = await self.reply(method.decode(), path.decode(), body)
                text = b"" if value is None else json.dumps(value).encode()
                lines = [f"HTTP/1.1 {status} X", f"content-length: {len(text)}"]
                lines += [f"{name}: {one}" for name, one in headers.items()]
                writer.write("\r\n".join([*lines, "", ""]).encode() + text)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def at_once(path: str, body: dict[str, Any]) -> Reply:
    """Answer every query without delay."""
    if path == "/v1/queries":
        return 200, {}, answer_to(body)
    return 200, {}, {"answers": [answer_to(query) for query in body["queries"]]}


@asynccontextmanager
async def gateway(
    answer: Callable[[str, dict[str, Any]], Awaitable[Reply]] = at_once,
) -> AsyncIterator[FakeGateway]:
    """A gateway on a free port in the running event loop."""
    fake = FakeGateway(answer)
    server = await asyncio.start_server(fake._serve, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        server.close()
