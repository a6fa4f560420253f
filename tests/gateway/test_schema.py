"""Generated requests against the OpenAPI document: the gateway keeps what it documents, and nothing makes it fail."""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS

from gateway.app import ServiceClients, create_app
from semlink.corpora.registry import embedded_corpora
from semlink.links import Link
from semlink.messages import to_proto
from semlink.queries import Retrieval
from semlink.v1 import channel_pb2, receiver_pb2, transmitter_pb2

RETRIEVAL = to_proto(
    Retrieval(scoring="global", reranking="none", extraction="none"), transmitter_pb2.Retrieval()
)


class Obliging:
    """Answers whatever is well formed, as the services would."""

    async def retrieve(
        self, request: transmitter_pb2.RetrieveRequest
    ) -> transmitter_pb2.RetrieveResponse:
        return transmitter_pb2.RetrieveResponse(
            answers=[
                transmitter_pb2.Answer(
                    query_id=q.id,
                    retrieval=RETRIEVAL,
                )
                for q in request.queries
            ]
        )

    async def open_link(self, request: channel_pb2.OpenLinkRequest) -> channel_pb2.Link:
        return channel_pb2.Link(link_id="l-1", config=request.config, slot=128)

    async def get_link(self, request: channel_pb2.GetLinkRequest) -> channel_pb2.Link:
        return channel_pb2.Link(link_id=request.link_id, config=Link().to_proto(), slot=128)

    async def list_links(
        self, request: channel_pb2.ListLinksRequest
    ) -> channel_pb2.ListLinksResponse:
        return channel_pb2.ListLinksResponse()

    async def close_link(
        self, request: channel_pb2.CloseLinkRequest
    ) -> channel_pb2.CloseLinkResponse:
        return channel_pb2.CloseLinkResponse()

    async def get_csi(self, request: channel_pb2.GetCsiRequest) -> channel_pb2.GetCsiResponse:
        return channel_pb2.GetCsiResponse(slot=request.slot)

    async def list_corpora(
        self, request: receiver_pb2.ListCorporaRequest
    ) -> receiver_pb2.ListCorporaResponse:
        return receiver_pb2.ListCorporaResponse(
            corpora=[
                receiver_pb2.CorpusDescription(name=name, task=task)
                for name, task in embedded_corpora().items()
            ]
        )

    async def get_item(self, request: receiver_pb2.GetItemRequest) -> receiver_pb2.GalleryItem:
        return receiver_pb2.GalleryItem(corpus=request.corpus, item_id=request.item_id)

    async def get_media(
        self, request: receiver_pb2.GetMediaRequest
    ) -> receiver_pb2.GetMediaResponse:
        return receiver_pb2.GetMediaResponse(content_type="image/jpeg", data=b"\xff\xd8")

    async def add_items(
        self, request: receiver_pb2.AddItemsRequest
    ) -> receiver_pb2.AddItemsResponse:
        return receiver_pb2.AddItemsResponse(added=len(request.items), size=1)

    async def remove_items(
        self,
        request: receiver_pb2.RemoveItemsRequest,
    ) -> receiver_pb2.RemoveItemsResponse:
        return receiver_pb2.RemoveItemsResponse()

    async def health(self) -> dict[str, str]:
        return {"transmitter": "ok"}

    async def close(self) -> None:
        pass


_service_name: Any = Obliging()
_app = create_app(
    ServiceClients(
        _service_name, _service_name, _service_name, _service_name.health, _service_name.close
    ),
    trusted_hosts=["testserver"],  # as schemathesis calls it
)
schema = schemathesis.openapi.from_asgi("/openapi.json", _app)
_kept = (
    "not_a_server_error",
    "status_code_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)


@schema.parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_gateway_keeps_what_it_documents(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS.get_by_names(_kept))
