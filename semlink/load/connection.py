"""HTTP/1.1 with as little work as possible: a client that costs more than the system under test measures itself.

``docs/load.md`` has its cost beside that of locust.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self, cast
from urllib.parse import urlsplit

import httptools

from semlink.errors import InvalidField

IDLE_S: Final = 4.0
"""Longest idle time of a connection that is used again: the gateway closes one after 5 s."""
CONNECT_S: Final = 5.0


@dataclass(slots=True)
class Response:
    """What came back; ``retry_after_s`` None where the gateway did not say."""

    status: int = 0
    retry_after_s: float | None = None
    body: bytearray = field(default_factory=bytearray)


class _Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self.idle_since = time.monotonic()
        self.usable = True
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Response] | None = None
        self._response = Response()
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(ConnectionError(f"no HTTP/1.1 answer: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionResetError("the connection was closed"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        if name.lower() == b"retry-after":
            try:
                self._response.retry_after_s = max(0.0, float(value))
            except ValueError:
                self._response.retry_after_s = None

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._response.body += body

    def on_message_complete(self) -> None:
        """See httptools."""
        self._response.status = self._parser.get_status_code()
        self.usable = self.usable and self._parser.should_keep_alive()
        self.idle_since = time.monotonic()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._response)
        self._answer = None

    def _fail(self, error: Exception) -> None:
        self.usable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self._answer = None

    async def ask(self, request: bytes) -> Response:
        """Send and wait. Raises ConnectionError where the connection ends before the answer does."""
        assert self._transport is not None
        if not self.usable:
            raise ConnectionResetError("the connection was closed")
        self._response = Response()
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._answer = answer
        self._transport.write(request)
        try:
            return await answer
        except asyncio.CancelledError:
            self.usable = False  # what comes back would be taken for the next answer
            raise

    def close(self) -> None:
        """Close at once."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()


class Gateway:
    """Asks one gateway over as many connections as there are requests in flight; use as an async context manager.

    ``url``: ``http://HOST:PORT`` or ``https://…``; no proxy is used. Raises InvalidField for a URL that is none.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise InvalidField(
                f"url is {url!r}, allowed: http://HOST:PORT or https://…", field="url"
            )
        self._host = parts.hostname
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/")
        self._authority = parts.netloc.rpartition("@")[2]
        self._idle: list[_Connection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # so that transports are gone before the loop is

    async def ask(self, method: str, path: str, body: bytes = b"") -> Response:
        """Send a request whose body is JSON. Raises OSError where no whole answer comes."""
        head = (
            f"{method} {self._prefix}{path} HTTP/1.1\r\nHost: {self._authority}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection = self._take() or await self._connect()
        try:
            return await connection.ask(head.encode() + body)
        finally:
            if connection.usable:
                self._idle.append(connection)
            else:
                connection.close()

    def _take(self) -> _Connection | None:
        """The connection that was used last: those above the need grow old and are closed."""
        newest = time.monotonic() - IDLE_S
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since > newest:
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S):  # TimeoutError is an OSError
            _, connection = await loop.create_connection(
                _Connection, self._host, self._port, ssl=self._ssl
            )
        return connection
