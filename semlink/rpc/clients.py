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
from typing import Any, Final, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2

from semlink.deadlines import remaining_s
from semlink.errors import CorruptTensor, DeadlineExceeded, InvalidField, Unavailable
from semlink.rpc.status import MAX_MESSAGE_BYTES, SERVICES, error_of
from semlink.settings import ServiceName, Settings
from semlink.v1 import channel_pb2, knowledge_pb2, receiver_pb2, transmitter_pb2

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
    """Calls one service's service. Connects at the first call; belongs to the event loop of that call."""

    def __init__(
        self, service: ServiceName, address: str, settings: Settings | None = None
    ) -> None:
        settings = settings or Settings()
        self.address = address
        self._service_name = service
        self._service = SERVICES[service].full_name
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
            raise error_of(error, callee=self._service_name) from error
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
            raise error_of(error, callee=self._service_name) from error
        finally:
            replies.cancel()

    def _parsed(self, reply: bytes, answer: type[_Response]) -> _Response:
        try:
            return answer.FromString(reply)
        except DecodeError as error:
            raise CorruptTensor(
                f"{self._service_name}'s answer does not parse: {error}", field="response"
            ) from error

    async def _ready(self) -> tuple[grpc.aio.Channel, float]:
        """The connected channel, and the seconds that are left for a call."""
        left = remaining_s()
        expires = time.monotonic() + (self._default_deadline_s if left is None else left)
        channel = await self._connected(expires)
        left = expires - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"the deadline passed before {self._service_name} was called")
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
                        raise Unavailable(f"{self._service_name}: this client is closed")
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError:
            if time.monotonic() >= expires:
                raise DeadlineExceeded(
                    f"the deadline passed before {self._service_name} was reached"
                ) from None
            raise Unavailable(f"{self._service_name} cannot be reached at {self.address}") from None
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


class TransmitterClient(ServiceClient):
    """:class:`semlink.services.TransmitterService` over gRPC."""

    async def retrieve(
        self, request: transmitter_pb2.RetrieveRequest
    ) -> transmitter_pb2.RetrieveResponse:
        """Call ``Retrieve``."""
        return await self.call("Retrieve", request, transmitter_pb2.RetrieveResponse)


class ChannelClient(ServiceClient):
    """:class:`semlink.services.ChannelService` over gRPC."""

    async def open_link(self, request: channel_pb2.OpenLinkRequest) -> channel_pb2.Link:
        """Call ``OpenLink``."""
        return await self.call("OpenLink", request, channel_pb2.Link)

    async def get_link(self, request: channel_pb2.GetLinkRequest) -> channel_pb2.Link:
        """Call ``GetLink``."""
        return await self.call("GetLink", request, channel_pb2.Link)

    async def list_links(
        self, request: channel_pb2.ListLinksRequest
    ) -> channel_pb2.ListLinksResponse:
        """Call ``ListLinks``."""
        return await self.call("ListLinks", request, channel_pb2.ListLinksResponse)

    async def close_link(
        self, request: channel_pb2.CloseLinkRequest
    ) -> channel_pb2.CloseLinkResponse:
        """Call ``CloseLink``."""
        return await self.call("CloseLink", request, channel_pb2.CloseLinkResponse)

    async def grant(self, request: channel_pb2.GrantRequest) -> channel_pb2.GrantResponse:
        """Call ``Grant``."""
        return await self.call("Grant", request, channel_pb2.GrantResponse)

    async def transmit(self, request: channel_pb2.TransmitRequest) -> channel_pb2.TransmitResponse:
        """Call ``Transmit``."""
        return await self.call("Transmit", request, channel_pb2.TransmitResponse)

    async def get_csi(self, request: channel_pb2.GetCsiRequest) -> channel_pb2.GetCsiResponse:
        """Call ``GetCsi``."""
        return await self.call("GetCsi", request, channel_pb2.GetCsiResponse)


class ReceiverClient(ServiceClient):
    """:class:`semlink.services.ReceiverService` over gRPC."""

    async def receive(self, request: receiver_pb2.ReceiveRequest) -> receiver_pb2.ReceiveResponse:
        """Call ``Receive``."""
        return await self.call("Receive", request, receiver_pb2.ReceiveResponse)

    async def search(self, request: receiver_pb2.SearchRequest) -> receiver_pb2.SearchResponse:
        """Call ``Search``."""
        return await self.call("Search", request, receiver_pb2.SearchResponse)

    async def list_corpora(
        self, request: receiver_pb2.ListCorporaRequest
    ) -> receiver_pb2.ListCorporaResponse:
        """Call ``ListCorpora``."""
        return await self.call("ListCorpora", request, receiver_pb2.ListCorporaResponse)

    async def get_item(self, request: receiver_pb2.GetItemRequest) -> receiver_pb2.GalleryItem:
        """Call ``GetItem``."""
        return await self.call("GetItem", request, receiver_pb2.GalleryItem)

    async def get_media(
        self, request: receiver_pb2.GetMediaRequest
    ) -> receiver_pb2.GetMediaResponse:
        """Call ``GetMedia``."""
        return await self.call("GetMedia", request, receiver_pb2.GetMediaResponse)

    async def add_items(
        self, request: receiver_pb2.AddItemsRequest
    ) -> receiver_pb2.AddItemsResponse:
        """Call ``AddItems``."""
        return await self.call("AddItems", request, receiver_pb2.AddItemsResponse)

    async def remove_items(
        self, request: receiver_pb2.RemoveItemsRequest
    ) -> receiver_pb2.RemoveItemsResponse:
        """Call ``RemoveItems``."""
        return await self.call("RemoveItems", request, receiver_pb2.RemoveItemsResponse)


class KnowledgeClient(ServiceClient):
    """:class:`semlink.services.KnowledgeService` and :class:`semlink.services.KnowledgeEntryService` over gRPC."""

    async def rewrite(self, request: knowledge_pb2.RewriteRequest) -> knowledge_pb2.RewriteResponse:
        """Call ``Rewrite``."""
        return await self.call("Rewrite", request, knowledge_pb2.RewriteResponse)

    async def predict_csi(
        self, request: knowledge_pb2.PredictCsiRequest
    ) -> knowledge_pb2.PredictCsiResponse:
        """Call ``PredictCsi``."""
        return await self.call("PredictCsi", request, knowledge_pb2.PredictCsiResponse)

    async def list_strategies(
        self, request: knowledge_pb2.ListStrategiesRequest
    ) -> knowledge_pb2.ListStrategiesResponse:
        """Call ``ListStrategies``."""
        return await self.call("ListStrategies", request, knowledge_pb2.ListStrategiesResponse)

    async def list_entries(
        self, request: knowledge_pb2.ListEntriesRequest
    ) -> knowledge_pb2.ListEntriesResponse:
        """Call ``ListEntries``."""
        return await self.call("ListEntries", request, knowledge_pb2.ListEntriesResponse)

    async def get_entry(
        self, request: knowledge_pb2.GetEntryRequest
    ) -> knowledge_pb2.KnowledgeEntry:
        """Call ``GetEntry``."""
        return await self.call("GetEntry", request, knowledge_pb2.KnowledgeEntry)

    async def search_entries(
        self, request: knowledge_pb2.SearchEntriesRequest
    ) -> knowledge_pb2.SearchEntriesResponse:
        """Call ``SearchEntries``."""
        return await self.call("SearchEntries", request, knowledge_pb2.SearchEntriesResponse)

    async def import_entries(
        self, request: knowledge_pb2.ImportEntriesRequest
    ) -> knowledge_pb2.ImportEntriesResponse:
        """Call ``ImportEntries``."""
        return await self.call("ImportEntries", request, knowledge_pb2.ImportEntriesResponse)

    async def delete_entries(
        self, request: knowledge_pb2.DeleteEntriesRequest
    ) -> knowledge_pb2.DeleteEntriesResponse:
        """Call ``DeleteEntries``."""
        return await self.call("DeleteEntries", request, knowledge_pb2.DeleteEntriesResponse)

    async def get_statistics(
        self, request: knowledge_pb2.GetStatisticsRequest
    ) -> knowledge_pb2.KnowledgeStatistics:
        """Call ``GetStatistics``."""
        return await self.call("GetStatistics", request, knowledge_pb2.KnowledgeStatistics)

    async def start_enrichment(
        self, request: knowledge_pb2.StartEnrichmentRequest
    ) -> knowledge_pb2.Enrichment:
        """Call ``StartEnrichment``."""
        return await self.call("StartEnrichment", request, knowledge_pb2.Enrichment)

    async def get_enrichment(
        self, request: knowledge_pb2.GetEnrichmentRequest
    ) -> knowledge_pb2.Enrichment:
        """Call ``GetEnrichment``."""
        return await self.call("GetEnrichment", request, knowledge_pb2.Enrichment)

    async def list_enrichments(
        self, request: knowledge_pb2.ListEnrichmentsRequest
    ) -> knowledge_pb2.ListEnrichmentsResponse:
        """Call ``ListEnrichments``."""
        return await self.call("ListEnrichments", request, knowledge_pb2.ListEnrichmentsResponse)

    async def cancel_enrichment(
        self, request: knowledge_pb2.CancelEnrichmentRequest
    ) -> knowledge_pb2.Enrichment:
        """Call ``CancelEnrichment``."""
        return await self.call("CancelEnrichment", request, knowledge_pb2.Enrichment)

    async def export_entries(
        self, request: knowledge_pb2.ExportEntriesRequest
    ) -> AsyncIterator[knowledge_pb2.KnowledgeEntry]:
        """Call ``ExportEntries``."""
        async for entry in self.stream("ExportEntries", request, knowledge_pb2.KnowledgeEntry):
            yield entry


def transmitter_client(address: str, settings: Settings | None = None) -> TransmitterClient:
    """A transmitter elsewhere."""
    return TransmitterClient("transmitter", address, settings)


def channel_client(address: str, settings: Settings | None = None) -> ChannelClient:
    """A channel service elsewhere."""
    return ChannelClient("channel", address, settings)


def receiver_client(address: str, settings: Settings | None = None) -> ReceiverClient:
    """A receiver elsewhere."""
    return ReceiverClient("receiver", address, settings)


def knowledge_client(address: str, settings: Settings | None = None) -> KnowledgeClient:
    """A knowledge base elsewhere."""
    return KnowledgeClient("knowledge", address, settings)
