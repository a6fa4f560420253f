"""Errors as RFC 9457 problem details that name the field; never a stack trace, never a 500 for bad input."""

from __future__ import annotations

import asyncio
import math
import re
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from http import HTTPMethod
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from gateway.schemas import Problem
from semlink.errors import (
    AlreadyExists,
    CorruptTensor,
    DeadlineExceeded,
    InvalidField,
    NotFound,
    Overloaded,
    SemlinkError,
    Unavailable,
)
from semlink.hosts import host_name, is_loopback
from semlink.tasks import modality_names
from semlink.telemetry import counted_request

MAX_BODY_BYTES: Final = 10 * 2**20
MAX_BODIES_BYTES: Final = 256 * 2**20
"""Of all requests that are being read or answered; only bodies over :data:`SMALL_BODY_BYTES` are refused for it."""
SMALL_BODY_BYTES: Final = 64 * 2**10
BODY_DEADLINE_S: Final = 60.0
"""For a body to arrive."""
MAX_ERRORS: Final = 20
"""Offending fields that one answer names."""
MEDIA_TYPE: Final = "application/problem+json"
QUERY_ROUTE: Final = ("POST", "/v1/queries")
METHODS: Final = frozenset(HTTPMethod)
ANY_HOST_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that answer whatever the ``Host`` header says."""

STATUS: Final[dict[type[SemlinkError], tuple[int, str]]] = {
    InvalidField: (422, "Invalid field"),
    NotFound: (404, "Not found"),
    AlreadyExists: (409, "Already exists"),
    Unavailable: (503, "Service unavailable"),
    DeadlineExceeded: (504, "Deadline exceeded"),
    Overloaded: (429, "Too many requests"),
    CorruptTensor: (502, "Corrupted in transit"),
}

_log = structlog.get_logger("gateway")


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    field: str | None = None,
    errors: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """A problem+json response."""
    body = Problem(title=title, status=status, detail=detail, field=field, errors=errors or [])
    return JSONResponse(
        body.model_dump(exclude_none=True), status, media_type=MEDIA_TYPE, headers=headers
    )


def refused(error: SemlinkError, *, batch: bool = False) -> JSONResponse:
    """The problem that an error is, with ``Retry-After`` where trying again helps."""
    status, title = STATUS.get(type(error), (500, "Internal error"))
    seconds = (error.retry_after_s if isinstance(error, Overloaded) else None) or 1.0
    headers = {"Retry-After": str(math.ceil(seconds))} if status in (429, 503) else None
    field = rest_field(error.field, batch=batch) or None
    return problem(status, title, error.message, field=field, headers=headers)


def rest_field(field: str, *, batch: bool) -> str:
    """A service's field path as the REST client wrote it.

    The services say ``queries[0].image`` and ``link_id`` where a client wrote ``query.image`` and ``link.id``.
    """
    match = re.match(r"queries\[(\d+)\]\.(.*)", field)
    prefix, rest = (f"queries[{match[1]}].", match[2]) if match and batch else ("", field)
    if match and not batch:
        rest = match[2]
    rest = re.sub(rf"^({'|'.join(modality_names())})\b", r"query.\1", rest)
    rest = re.sub(r"^config\.", "", rest)  # the body of an opened link is its configuration
    return prefix + rest.replace("link_id", "link.id")


def install(app: FastAPI) -> None:
    """Make every error of the app a problem."""

    @app.exception_handler(SemlinkError)
    async def _semlink(request: Request, error: SemlinkError) -> JSONResponse:
        return refused(error, batch=request.url.path.endswith(":batch"))

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [_described(e) for e in error.errors()[:MAX_ERRORS]]
        first = errors[0]
        if first["field"] == "body" and not _is_json(request):
            given = request.headers.get("content-type")
            return problem(
                415,
                "Unsupported media type",
                f"content-type is {given!r}, allowed: application/json",
                field="content-type",
            )
        return problem(
            422,
            "Invalid field",
            f"{first['field']}: {first['detail']}",
            field=first["field"],
            errors=errors,
        )

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:  # noqa: ARG001
        detail = str(error.detail)
        if error.status_code == 400:  # FastAPI's word for a body that is not UTF-8
            return problem(422, "Invalid field", f"the body is no JSON: {detail}", field="body")
        return problem(
            error.status_code,
            detail,
            detail,
            headers=dict(error.headers) if error.headers else None,
        )

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        incident = uuid.uuid4().hex[:12]
        _log.error("unexpected", incident=incident, path=request.url.path, exc_info=error)
        return problem(500, "Internal error", f"incident {incident}; see the gateway's log")


def _described(error: Mapping[str, Any]) -> dict[str, str]:
    """Field and detail of one error of validation; a body that is no JSON says where it stops to be."""
    if error["type"] == "json_invalid":
        reason, place = error["ctx"]["error"], error["loc"][-1]
        return {"field": "body", "detail": f"no JSON: {reason} at character {place}"}
    return {"field": _path(error["loc"]), "detail": str(error["msg"])}


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )


def _path(location: tuple[int | str, ...]) -> str:
    """``("body", "queries", 3, "link", "snr_db")`` as ``queries[3].link.snr_db``."""
    path = ""
    for part in location[1:] if location and location[0] in ("body", "query", "path") else location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".") or "body"


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class TrustedHosts:
    """ASGI middleware: refuses a request whose ``Host`` is neither this machine nor one of ``names``, or ``*``.

    A page of another site cannot reach the gateway under its own name by DNS rebinding then. Loopback addresses are
    always trusted. Paths in :data:`ANY_HOST_PATHS` answer every host: probes and Prometheus call by address.

    Starlette's TrustedHostMiddleware exempts no path, answers in plain text and knows no trailing dot.
    """

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], names: Collection[str]
    ) -> None:
        self._app = app
        self._names = frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, or answer 400 for a Host that is missing or malformed and 421 for an unknown one."""
        refusal = self._refusal(scope)
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        if scope["type"] != "http" or scope["path"] in ANY_HOST_PATHS or "*" in self._names:
            return None
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1:
            return problem(
                400,
                "Bad request",
                f"the request has {len(hosts)} Host headers, needed: one",
                field="Host",
            )
        try:
            name = host_name(hosts[0].decode("latin-1"))
        except ValueError as error:
            return problem(400, "Bad request", f"Host {error}", field="Host")
        if is_loopback(name) or name in self._names:
            return None
        return problem(
            421,
            "Host not trusted",
            f"this gateway does not answer to the host {name[:100]!r}; "
            "if it is meant to, add the name to the gateway's setting SEMLINK_TRUSTED_HOSTS (comma-separated)",
            field="Host",
        )


class BodyLimit:
    """ASGI middleware: bodies are bounded, declared or streamed, before they are held whole.

    413 for one over :data:`MAX_BODY_BYTES`, 429 where those of all requests are over :data:`MAX_BODIES_BYTES`, 408 for
    one that takes longer than :data:`BODY_DEADLINE_S`.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read at most the limit, then hand the body on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        try:
            refused = await self._read(scope, receive, body)
            if refused is not None:
                await refused(scope, receive, send)
                return
            await self._app(scope, _replaying(bytes(body), receive), send)
        except _Disconnected:
            return
        finally:
            self._held_bytes -= len(body)

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> JSONResponse | None:
        """Read the body into ``body``; the answer instead where it is refused. Raises _Disconnected."""
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
            return _too_large()
        more = True
        try:
            async with asyncio.timeout(BODY_DEADLINE_S):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Disconnected
                    part = message.get("body", b"")
                    body += part
                    self._held_bytes += len(part)
                    more = message.get("more_body", False)
                    if len(body) > MAX_BODY_BYTES:
                        return _too_large()
                    if len(body) > SMALL_BODY_BYTES and self._held_bytes > MAX_BODIES_BYTES:
                        return problem(
                            429,
                            STATUS[Overloaded][1],
                            f"requests hold {MAX_BODIES_BYTES} bytes already",
                            field="body",
                            headers={"Retry-After": "1"},
                        )
        except TimeoutError:
            return problem(
                408, "Request timeout", f"no body within {BODY_DEADLINE_S:.0f} s", field="body"
            )
        return None


class EarlyRefusal:
    """ASGI middleware below :class:`BodyLimit`: refuses queries that cannot end in time before they are checked.

    ``refusal`` returns the error of a body of ``POST /v1/queries``, None to go on.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        refusal: Callable[[bytes], SemlinkError | None],
    ) -> None:
        self._app = app
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at the body, which is here whole, and hand it on."""
        if scope["type"] == "http" and (scope["method"], scope["path"]) == QUERY_ROUTE:
            body = (await receive())["body"]
            if error := self._refusal(body):
                await refused(error)(scope, receive, send)
                return
            receive = _replaying(body, receive)
        await self._app(scope, receive, send)


class Measured:
    """ASGI middleware: counts and times every request under its route.

    Never under its path, nor under a word that is no method of HTTP: they would make endless series. Requests of
    probes and of Prometheus are not counted.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, and count how it was answered."""
        if scope["type"] != "http" or scope["path"] in ANY_HOST_PATHS:
            await self._app(scope, receive, send)
            return
        with counted_request("gateway", _route_of(scope)) as outcome:

            async def watched(message: MutableMapping[str, Any]) -> None:
                if message["type"] == "http.response.start" and message["status"] >= 400:
                    outcome.outcome, outcome.code = "error", str(message["status"])
                await send(message)

            await self._app(scope, receive, watched)


def _route_of(scope: Scope) -> str:
    matching = (
        str(getattr(route, "path", "mounted"))
        for route in scope["app"].routes
        if route.matches(scope)[0] is Match.FULL
    )
    method = scope["method"] if scope["method"] in METHODS else "other"
    return f"{method} {next(matching, 'unmatched')}"


class _Disconnected(Exception):
    """The client left before its body was here."""


def _too_large() -> JSONResponse:
    return problem(
        413,
        "Content too large",
        f"the body is over {MAX_BODY_BYTES} bytes (10 MiB)",
        field="body",
    )


def _replaying(body: bytes, receive: Receive) -> Receive:
    """What the app receives: the body at once, then whatever comes."""
    sent = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
