"""A small REST client for the command line, the demo and the benchmark."""

from __future__ import annotations

import base64
import mimetypes
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from semlink.errors import InvalidField, SemlinkError, Unavailable


class Problem(SemlinkError):
    """What the gateway answered instead of a result: its status, and the field that was wrong."""

    def __init__(self, status: int, detail: str, field: str) -> None:
        super().__init__(detail, field=field)
        self.status = status


def gateway_url(port: int | None = None) -> str:
    """Where the gateway is: ``port`` on this machine, ``SEMLINK_URL``, or port 8000 on this machine."""
    if port is not None:
        return f"http://127.0.0.1:{port}"
    return os.environ.get("SEMLINK_URL", "http://127.0.0.1:8000").rstrip("/")


def media_body(path: Path) -> dict[str, str]:
    """A file as the ``{content_type, data}`` of a query. Raises InvalidField for a file that cannot be read."""
    content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidField(f"{path} cannot be read: {error.strerror}", field="path") from error
    return {"content_type": content_type, "data": base64.b64encode(data).decode()}


class Client:
    """Raises Unavailable when no gateway answers and :class:`Problem` for every problem+json."""

    def __init__(self, url: str, *, timeout_s: float = 660.0) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=timeout_s)

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the connections back."""
        self._http.close()

    def query(self, body: dict[str, Any]) -> dict[str, Any]:
        """``POST /v1/queries``."""
        return self._json("POST", "/v1/queries", json=body)

    def get(self, path: str) -> dict[str, Any]:
        """Any resource as JSON."""
        return self._json("GET", path)

    def content(self, path: str) -> tuple[str, bytes]:
        """Media: content type and bytes."""
        response = self._request("GET", path)
        return response.headers["content-type"], response.content

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        body: dict[str, Any] = self._request(method, path, **options).json()
        return body

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise Unavailable(
                f"no gateway answers at {self.url} ({error}); start one with `semlink up`"
            ) from error
        if response.is_error:
            body = response.json() if "json" in response.headers.get("content-type", "") else {}
            raise Problem(
                response.status_code,
                str(body.get("detail", response.text[:200])),
                str(body.get("field", "")),
            )
        return response
