"""The services as their callers see them.

A service's own class and the gRPC client of that service both satisfy the same protocol, so the lab runs the system
in one process by handing services to each other, and the services run it over gRPC by handing clients: same logic, no
`if`. Every method may raise any :class:`semlink.errors.SemlinkError`. The caller's deadline travels in
:data:`semlink.rpc.deadline`, not in the signatures.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from semlink.v1 import channel_pb2, knowledge_pb2, receiver_pb2, transmitter_pb2


class TransmitterService(Protocol):
    """From queries to answers over a link."""

    async def retrieve(
        self, request: transmitter_pb2.RetrieveRequest
    ) -> transmitter_pb2.RetrieveResponse:
        """Send the queries, return the answers in their order."""
        ...


class ChannelService(Protocol):
    """Links, slots, transmission."""

    async def open_link(self, request: channel_pb2.OpenLinkRequest) -> channel_pb2.Link:
        """Open a link whose clock advances with every query."""
        ...

    async def get_link(self, request: channel_pb2.GetLinkRequest) -> channel_pb2.Link:
        """One open link."""
        ...

    async def list_links(
        self, request: channel_pb2.ListLinksRequest
    ) -> channel_pb2.ListLinksResponse:
        """Every open link."""
        ...

    async def close_link(
        self, request: channel_pb2.CloseLinkRequest
    ) -> channel_pb2.CloseLinkResponse:
        """Forget a link and its reports."""
        ...

    async def grant(self, request: channel_pb2.GrantRequest) -> channel_pb2.GrantResponse:
        """Grant slots; reports due by then are in the store afterwards."""
        ...

    async def transmit(self, request: channel_pb2.TransmitRequest) -> channel_pb2.TransmitResponse:
        """Carry frames to the receiver and its answers back."""
        ...

    async def get_csi(self, request: channel_pb2.GetCsiRequest) -> channel_pb2.GetCsiResponse:
        """Magnitudes of the channel as each party sees it."""
        ...


class ReceiverService(Protocol):
    """From samples to ranked items."""

    async def receive(self, request: receiver_pb2.ReceiveRequest) -> receiver_pb2.ReceiveResponse:
        """Equalise, decode, search."""
        ...

    async def search(self, request: receiver_pb2.SearchRequest) -> receiver_pb2.SearchResponse:
        """Search with features that crossed no channel (method `ideal`)."""
        ...

    async def list_corpora(
        self, request: receiver_pb2.ListCorporaRequest
    ) -> receiver_pb2.ListCorporaResponse:
        """The corpora whose galleries this receiver holds."""
        ...

    async def get_item(self, request: receiver_pb2.GetItemRequest) -> receiver_pb2.GalleryItem:
        """One item of a gallery."""
        ...

    async def get_media(
        self, request: receiver_pb2.GetMediaRequest
    ) -> receiver_pb2.GetMediaResponse:
        """An item's picture or sound."""
        ...

    async def add_items(
        self, request: receiver_pb2.AddItemsRequest
    ) -> receiver_pb2.AddItemsResponse:
        """Add or replace items of a gallery."""
        ...

    async def remove_items(
        self, request: receiver_pb2.RemoveItemsRequest
    ) -> receiver_pb2.RemoveItemsResponse:
        """Remove items of a gallery."""
        ...


class KnowledgeService(Protocol):
    """LLM rewrites and predicted CSI."""

    async def rewrite(self, request: knowledge_pb2.RewriteRequest) -> knowledge_pb2.RewriteResponse:
        """Rewrites of captions, filtered."""
        ...

    async def predict_csi(
        self, request: knowledge_pb2.PredictCsiRequest
    ) -> knowledge_pb2.PredictCsiResponse:
        """CSI of the slot of transmission from past reports."""
        ...


class KnowledgeEntryService(Protocol):
    """What is kept of rewrites: listed, searched, exchanged, made in bulk."""

    async def list_strategies(
        self, request: knowledge_pb2.ListStrategiesRequest
    ) -> knowledge_pb2.ListStrategiesResponse:
        """The ways to ask the LLM."""
        ...

    async def list_entries(
        self, request: knowledge_pb2.ListEntriesRequest
    ) -> knowledge_pb2.ListEntriesResponse:
        """A page of what is kept."""
        ...

    async def get_entry(
        self, request: knowledge_pb2.GetEntryRequest
    ) -> knowledge_pb2.KnowledgeEntry:
        """One entry."""
        ...

    async def search_entries(
        self, request: knowledge_pb2.SearchEntriesRequest
    ) -> knowledge_pb2.SearchEntriesResponse:
        """The entries whose captions are nearest to a text."""
        ...

    async def import_entries(
        self, request: knowledge_pb2.ImportEntriesRequest
    ) -> knowledge_pb2.ImportEntriesResponse:
        """Keep exported entries."""
        ...

    async def delete_entries(
        self, request: knowledge_pb2.DeleteEntriesRequest
    ) -> knowledge_pb2.DeleteEntriesResponse:
        """Forget entries."""
        ...

    async def get_statistics(
        self, request: knowledge_pb2.GetStatisticsRequest
    ) -> knowledge_pb2.KnowledgeStatistics:
        """How much is kept."""
        ...

    async def start_enrichment(
        self, request: knowledge_pb2.StartEnrichmentRequest
    ) -> knowledge_pb2.Enrichment:
        """Rewrite a corpus in the background."""
        ...

    async def get_enrichment(
        self, request: knowledge_pb2.GetEnrichmentRequest
    ) -> knowledge_pb2.Enrichment:
        """How far a job is."""
        ...

    async def list_enrichments(
        self, request: knowledge_pb2.ListEnrichmentsRequest
    ) -> knowledge_pb2.ListEnrichmentsResponse:
        """Every job."""
        ...

    async def cancel_enrichment(
        self, request: knowledge_pb2.CancelEnrichmentRequest
    ) -> knowledge_pb2.Enrichment:
        """Stop a job."""
        ...

    def export_entries(
        self, request: knowledge_pb2.ExportEntriesRequest
    ) -> AsyncIterator[knowledge_pb2.KnowledgeEntry]:
        """Everything that is kept."""
        ...
