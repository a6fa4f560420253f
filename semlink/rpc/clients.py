"""The client side: services elsewhere, called like services here (the protocols of :mod:`semlink.services`).

A call is sent at most once, and only over a connection that stands to a replica that says SERVING (gRPC watches its
health). Until there is one (a service that starts, restarts or still warms up) the call waits, at most
``connect_timeout_s`` and never beyond its deadline, while gRPC reconnects with backoff; after that it fails as
Unavailable. What was sent is never sent again: a handler that was killed may have done its work already.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar, Final, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2

from semlink.deadlines import remaining_s
from semlink.errors import CorruptTensor, DeadlineExceeded, InvalidField, Unavailable
from semlink.rpc.status import MAX_MESSAGE_BYTES, SERVICES, error_of
from semlink.settings import ServiceName, Settings
from semlink.v1 import services

_Response = TypeVar("_Response", bound=Message)

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    # notice a peer that froze: keepalive asks, ping_timeout decides
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # connections of one process to the same address are not shared: each client closes its own
    ("grpc.use_local_subchannel_pool", 1),
)


class ServiceClient:
    """Calls the gRPC service ``service``. Connects at the first call; belongs to the event loop of that call."""

    service: ClassVar[ServiceName]

    def __init__(self, address: str, settings: Settings | None = None) -> None:
        settings = settings or Settings()
        self.address = address
        self._service = SERVICES[self.service].full_name
        self._default_deadline_s = settings.deadline_s
        self._connect_timeout_s = settings.connect_timeout_s
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    async def call(self, method: str, request: Message, answer: type[_Response]) -> _Response:
        """Call an RPC by its name in the contract.

        Raises the error that the service raised; Unavailable when it cannot be reached, DeadlineExceeded,
        InvalidField for a request over 16 MiB, CorruptTensor for an answer that does not parse.
        """
        data = _data(request)
        channel, left = await self._ready()
        rpc = self._calls.get(method)
        if rpc is None:
            rpc = channel.unary_unary(f"/{self._service}/{method}")
            self._calls[method] = rpc
        try:
            reply = await rpc(data, timeout=left)
        except grpc.aio.AioRpcError as error:
            raise error_of(error, callee=self.service) from error
        return self._parsed(reply, answer)

    async def stream(
        self, method: str, request: Message, answer: type[_Response]
    ) -> AsyncIterator[_Response]:
        """As :meth:`call`, for an RPC whose answers are streamed; leaving the loop ends the call."""
        data = _data(request)
        channel, left = await self._ready()
        rpc: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
            f"/{self._service}/{method}"
        )
        replies = rpc(data, timeout=left)
        try:
            async for reply in replies:
                yield self._parsed(reply, answer)
        except grpc.aio.AioRpcError as error:
            raise error_of(error, callee=self.service) from error
        finally:
            replies.cancel()

    def _parsed(self, reply: bytes, answer: type[_Response]) -> _Response:
        try:
            return answer.FromString(reply)
        except DecodeError as error:
            raise CorruptTensor(
                f"{self.service}'s answer does not parse: {error}", field="response"
            ) from error

    async def _ready(self) -> tuple[grpc.aio.Channel, float]:
        """The connected channel, and the seconds that are left for a call."""
        left = remaining_s()
        expires = time.monotonic() + (self._default_deadline_s if left is None else left)
        channel = await self._connected(expires)
        left = expires - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"the deadline passed before {self.service} was called")
        return channel, left

    async def _connected(self, expires: float) -> grpc.aio.Channel:
        """The channel once it is connected. Raises Unavailable, or DeadlineExceeded if that comes first."""
        if self._channel is None:
            # an address of several replicas (dns:///…): spread calls over all that say SERVING
            config = {
                "loadBalancingConfig": [{"round_robin": {}}],
                "healthCheckConfig": {"serviceName": self._service},
            }
            options = (*_OPTIONS, ("grpc.service_config", json.dumps(config)))
            self._channel = grpc.aio.insecure_channel(self.address, options=options)
        channel = self._channel
        state = channel.get_state(try_to_connect=True)
        if state is grpc.ChannelConnectivity.READY:
            return channel
        patience = min(self._connect_timeout_s, expires - time.monotonic())
        try:
            async with asyncio.timeout(patience):
                while state is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.SHUTDOWN:
                        raise Unavailable(f"{self.service}: this client is closed")
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError:
            if time.monotonic() >= expires:
                raise DeadlineExceeded(
                    f"the deadline passed before {self.service} was reached"
                ) from None
            raise Unavailable(f"{self.service} cannot be reached at {self.address}") from None
        return channel

    async def serving(self, timeout_s: float = 1.0) -> bool:
        """Whether the service's service answers grpc.health.v1 with SERVING within ``timeout_s`` seconds."""
        try:
            channel = await self._connected(time.monotonic() + timeout_s)
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            request = health_pb2.HealthCheckRequest(service=self._service)
            answer = await check(request, timeout=timeout_s)
        except (Unavailable, DeadlineExceeded, grpc.aio.AioRpcError):
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()


def _data(request: Message) -> bytes:
    data = request.SerializeToString()
    if len(data) > MAX_MESSAGE_BYTES:
        raise InvalidField(
            f"request has {len(data)} bytes, allowed: {MAX_MESSAGE_BYTES}", field="request"
        )
    return data


class TransmitterClient(ServiceClient, services.TransmitterCalls):
    """A transmitter elsewhere."""

    service: ClassVar[ServiceName] = "transmitter"


class ChannelClient(ServiceClient, services.ChannelCalls):
    """A channel service elsewhere."""

    service: ClassVar[ServiceName] = "channel"


class ReceiverClient(ServiceClient, services.ReceiverCalls):
    """A receiver elsewhere."""

    service: ClassVar[ServiceName] = "receiver"


class KnowledgeClient(ServiceClient, services.KnowledgeBaseCalls):
    """A knowledge base elsewhere."""

    service: ClassVar[ServiceName] = "knowledge"
