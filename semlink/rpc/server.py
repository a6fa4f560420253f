"""The server side: one function serves a service with health, reflection, metrics, typed errors and a graceful end."""

from __future__ import annotations

import asyncio
import inspect
import re
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias, cast

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from semlink.deadlines import deadline
from semlink.errors import CorruptTensor, InvalidField, SemlinkError, Unavailable
from semlink.rpc.limits import check_lists
from semlink.rpc.status import MAX_MESSAGE_BYTES, SERVICES, status_of
from semlink.settings import ServiceName, Settings
from semlink.telemetry import CRC_REJECTED, configure_logging, counted_request, logger, registry

Register: TypeAlias = Callable[[grpc.aio.Server], None]
"""Adds a service's servicer to the server, before it starts."""

NOTICE_S: Final = 0.25
_log = logger(__name__)
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # else a second server on the same port would start, silently
    # let clients find out quickly that this process is frozen
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    # a server that was starved of its processor reads the pings of a minute at once: that is no attack
    ("grpc.http2.max_ping_strikes", 0),
)


class _Health(health.aio.HealthServicer):  # type: ignore[misc]  # has no types
    """Health whose watchers do not hold up the end of the server: clients watch as long as they are connected."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = asyncio.Event()

    @property
    def watched(self) -> bool:
        """Whether any client balances its calls by this health."""
        return bool(self._server_watchers)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """Stream the status until the client leaves or the server closes."""
        if self.closing.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "shutting down")
        ends = (
            asyncio.ensure_future(super().Watch(request, context)),
            asyncio.ensure_future(self.closing.wait()),
        )
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)


class _Typed(grpc.aio.ServerInterceptor):
    """Around every call of ours: deadline, counters, errors as status codes, nothing internal leaked."""

    def __init__(self, service: str) -> None:
        self._service_name = service
        self.warm = False

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or not path.startswith("/semlink."):
            return handler
        method, parse = path.rpartition("/")[2], handler.request_deserializer or bytes
        if handler.unary_stream is not None:
            streaming = self._streaming(method, parse, handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(
                cast(Any, streaming), None, handler.response_serializer
            )
        behaviour = handler.unary_unary
        if behaviour is None:
            return handler

        async def call(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                with counted_request(self._service_name, method):
                    return await self._answer(data, context, parse, behaviour)
            except Exception as error:  # noqa: BLE001  # the outermost frame of a call
                refusal = self._refusal(error, method)
            return await context.abort(*refusal)

        # parsed by us: a message that does not parse is then counted and typed like every bad input
        return grpc.unary_unary_rpc_method_handler(
            cast(Any, call), None, handler.response_serializer
        )

    def _streaming(
        self, method: str, parse: Callable[[bytes], Any], behaviour: Callable[..., Any]
    ) -> Callable[..., AsyncIterator[Any]]:
        """A call whose answers are streamed: an error may come after some of them."""

        async def stream(
            data: bytes, context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[Any]:
            try:
                with counted_request(self._service_name, method):
                    async for answer in behaviour(self._request(data, context, parse), context):
                        yield answer
                return
            except Exception as error:  # noqa: BLE001  # the outermost frame of a call
                refusal = self._refusal(error, method)
            await context.abort(*refusal)

        return stream

    def _refusal(
        self, error: Exception, method: str
    ) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
        """Status of an error; what is not ours is logged under an id, not leaked."""
        if not isinstance(error, SemlinkError):
            error_id = uuid.uuid4().hex[:12]
            _log.error("internal error", method=method, error_id=error_id, exc_info=error)
            return grpc.StatusCode.INTERNAL, f"internal error {error_id}", ()
        # an error of a service further on has its gRPC error as cause, and was counted there
        if isinstance(error, CorruptTensor) and not isinstance(
            error.__cause__, grpc.aio.AioRpcError
        ):
            CRC_REJECTED.labels(self._service_name).inc()
        code, details, trailing = status_of(error)
        _log.info("refused", method=method, code=code.name, field=error.field, why=details)
        return code, details, trailing

    async def _answer(
        self,
        data: bytes,
        context: grpc.aio.ServicerContext[Any, Any],
        parse: Callable[[bytes], Any],
        behaviour: Callable[..., Any],
    ) -> Any:
        answer = behaviour(self._request(data, context, parse), context)
        return await answer if inspect.isawaitable(answer) else answer

    def _request(
        self,
        data: bytes,
        context: grpc.aio.ServicerContext[Any, Any],
        parse: Callable[[bytes], Any],
    ) -> Any:
        """The request; the caller's deadline is set from here on."""
        if not self.warm:
            raise Unavailable(f"{self._service_name} is not ready")
        try:
            request = parse(data)
        except DecodeError as error:
            raise InvalidField(f"request does not parse: {error}", field="request") from error
        left = context.time_remaining()
        deadline.set(None if left is None else time.monotonic() + left)
        return request


def _parsed(kind: Descriptor, data: bytes) -> Message:
    """The request, its lists within their limits. Raises InvalidField, DecodeError."""
    check_lists(data, kind)
    return GetMessageClass(kind).FromString(data)


def grpc_servicer(service_name: ServiceName, handler: object) -> Register:
    """The whole gRPC face of a service: each RPC of its service calls the method of the same name in snake case.

    Raises TypeError if the service lacks one.
    """
    service = SERVICES[service_name]
    handlers = {}
    for method in service.methods:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
        handle = getattr(handler, name, None)
        streams = method.server_streaming
        if not (inspect.isasyncgenfunction if streams else inspect.iscoroutinefunction)(handle):
            kind = "that yields" if streams else ""
            raise TypeError(f"{type(handler).__name__} has no `async def {name}` {kind}".rstrip())

        def behaviour(request: Message, _context: object, handle: Any = handle) -> Any:
            return handle(request)

        rpc_handler = (
            grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        )
        handlers[method.name] = rpc_handler(
            behaviour,
            request_deserializer=partial(_parsed, method.input_type),
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )

    def register(server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service.full_name, handlers),)
        )

    return register


@dataclass(slots=True)
class RunningServer:
    """A started server. ``port`` and ``metrics_port`` are the ones really bound."""

    port: int
    metrics_port: int
    _server: grpc.aio.Server
    _health: _Health
    _typed: _Typed
    _names: tuple[str, ...]
    _close_metrics: Callable[[], None]

    async def set_serving(self) -> None:
        """Say SERVING and accept calls: the service is warm."""
        self._typed.warm = True
        for name in self._names:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float) -> None:
        """Say NOT_SERVING, refuse new calls, let calls in flight end within ``grace_s`` seconds.

        Clients that watch the health have :data:`NOTICE_S` seconds to take their next calls elsewhere: a call that
        arrives while the server shuts down would be cancelled.
        """
        await self._health.enter_graceful_shutdown()
        if self._health.watched:
            await asyncio.sleep(NOTICE_S)
        self._health.closing.set()
        await self._server.stop(grace_s)
        await asyncio.to_thread(self._close_metrics)


async def start_server(
    service: ServiceName, register: Register, settings: Settings
) -> RunningServer:
    """Start to listen, NOT_SERVING. Raises Unavailable, naming the port, when it is taken."""
    typed = _Typed(service)
    server = grpc.aio.server(interceptors=(typed,), options=_OPTIONS)
    register(server)
    health_servicer = _Health()
    names = ("", SERVICES[service].full_name)
    for name in names:
        await health_servicer.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection(
        (SERVICES[service].full_name, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    wanted = f"{settings.host}:{settings.port(service)}"
    try:
        port = server.add_insecure_port(wanted)
    except RuntimeError as error:
        raise Unavailable(
            f"{service} cannot listen on {wanted}: {error}", field=f"{service}_port"
        ) from error
    wanted_metrics = settings.metrics_port(service)
    try:
        metrics, thread = start_http_server(wanted_metrics, addr=settings.host, registry=registry)
    except OSError as error:
        raise Unavailable(
            f"{service} cannot serve /metrics on {settings.host}:{wanted_metrics}: {error}",
            field=f"{service}_metrics_port",
        ) from error

    def close_metrics() -> None:
        metrics.shutdown()
        metrics.server_close()
        thread.join()

    await server.start()
    return RunningServer(
        port, metrics.server_port, server, health_servicer, typed, names, close_metrics
    )


async def serve(
    service: ServiceName,
    register: Register,
    settings: Settings,
    *,
    ready: Callable[[], Awaitable[None]],
    close: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve a service until SIGTERM or SIGINT; what a service's ``__main__`` runs.

    Sets up logs and torch's threads, listens, awaits ``ready`` (which warms the service: NOT_SERVING until it returns,
    calls are refused as UNAVAILABLE), serves, then drains for ``settings.drain_s`` and awaits ``close``.
    An exception of ``ready`` ends the process.
    """
    import torch

    from semlink import runtime

    configure_logging(service, settings)
    torch.set_num_threads(settings.num_threads)
    runtime.use(settings.runtime, settings.precision)
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    server = await start_server(service, register, settings)
    _log.info("listening", host=settings.host, port=server.port, metrics_port=server.metrics_port)
    stopping = asyncio.create_task(stop.wait())
    try:
        warming = asyncio.ensure_future(ready())
        started = time.monotonic()
        await asyncio.wait((warming, stopping), return_when=asyncio.FIRST_COMPLETED)
        if warming.done():
            warming.result()
            await server.set_serving()
            _log.info("ready", warm_up_s=round(time.monotonic() - started, 3))
            await stopping
        else:
            warming.cancel()
        _log.info("draining", grace_s=settings.drain_s)
    finally:
        stopping.cancel()
        await server.stop(settings.drain_s)
        if close is not None:
            await close()
    _log.info("stopped")
