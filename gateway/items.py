"""Gallery items over REST: add, replace, remove."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import FastAPI, Path, Response
from pydantic import Field

from gateway import schemas
from semlink.errors import SemlinkError
from semlink.services import ReceiverService
from semlink.v1 import receiver_pb2

WRITE_DEADLINE_S: Final = 120.0
"""Media are encoded before an item is found: tens of milliseconds each on one core."""
_ITEM_ID: Final = r"^[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,127}$"

ItemId = Annotated[
    str, Path(pattern=_ITEM_ID, description="characters that need no escape in a URL")
]
Within = Callable[[float], AbstractAsyncContextManager[None]]
Decode = Callable[..., bytes]


class ItemContentBody(schemas.ClosedBody):
    """A gallery item as a user brings it."""

    media: schemas.MediaBody
    """picture or sound, of the corpus's kind"""
    captions: list[Annotated[str, Field(min_length=1, max_length=2_000)]] = Field(
        [], max_length=20, description="without any, the item is not found by its text"
    )
    identity: str = Field(
        "", max_length=200, description="whose picture it is; empty: the item's own id"
    )


class NewItemBody(ItemContentBody):
    """A new gallery item and its id."""

    item_id: str = Field(pattern=_ITEM_ID, description="characters that need no escape in a URL")


class NewItemsBody(schemas.ClosedBody):
    """New gallery items: all are added or none."""

    items: list[NewItemBody] = Field(min_length=1, max_length=256)
    """to add"""


class AddedBody(schemas.AnswerBody):
    """What was added."""

    added: int
    """how many were added, replaced ones counted"""
    size: int = Field(description="items in the gallery now")
    media_urls: list[str]
    """paths of their pictures or sounds"""


def add_item_routes(
    app: FastAPI,
    receiver: ReceiverService,
    *,
    within: Within,
    decode: Decode,
    errors: dict[int | str, dict[str, Any]],
) -> None:
    """Put the routes into the app.

    ``within``: gives a call a deadline in seconds; ``decode``: base64 media as bytes, errors naming ``field``.
    """

    @app.put(
        "/v1/corpora/{name}/items/{item_id}",
        responses={
            **errors,
            201: {"model": AddedBody, "description": "There was none of this id"},
        },
        tags=["corpora"],
    )
    async def put_item(
        name: str, item_id: ItemId, body: ItemContentBody, response: Response
    ) -> AddedBody:
        """Add an item, or replace the one of this id. Every search that begins after the answer sees it."""
        item = _new_item(item_id, body, decode(body.media, field="media.data"))
        request = receiver_pb2.AddItemsRequest(corpus=name, items=[item], replace=True)
        with _naming_one_item():
            async with within(WRITE_DEADLINE_S):
                done = await receiver.add_items(request)
        response.status_code = 201 if done.added else 200
        return _added(name, [item_id], done)

    @app.post(
        "/v1/corpora/{name}/items",
        status_code=201,
        responses={
            **errors,
            409: {**errors[404], "description": "There is an item of this id; nothing was added"},
        },
        tags=["corpora"],
    )
    async def post_items(name: str, body: NewItemsBody) -> AddedBody:
        """Add items, all or none. Every search that begins after the answer sees them."""
        items = [
            _new_item(item.item_id, item, decode(item.media, field=f"items[{i}].media.data"))
            for i, item in enumerate(body.items)
        ]
        request = receiver_pb2.AddItemsRequest(corpus=name, items=items)
        async with within(WRITE_DEADLINE_S):
            done = await receiver.add_items(request)
        return _added(name, [item.item_id for item in body.items], done)

    @app.delete(
        "/v1/corpora/{name}/items/{item_id}", status_code=204, responses=errors, tags=["corpora"]
    )
    async def delete_item(name: str, item_id: ItemId) -> None:
        """Remove an item. No search that begins after the answer finds it."""
        request = receiver_pb2.RemoveItemsRequest(corpus=name, item_ids=[item_id])
        async with within(WRITE_DEADLINE_S):
            await receiver.remove_items(request)


def media_url(corpus: str, item_id: str) -> str:
    """Where the gateway serves an item's media."""
    return f"/v1/corpora/{quote(corpus, safe='')}/items/{quote(item_id, safe='')}/media"


def _new_item(item_id: str, body: ItemContentBody, data: bytes) -> receiver_pb2.NewItem:
    return receiver_pb2.NewItem(
        item_id=item_id,
        identity=body.identity,
        captions=body.captions,
        content_type=body.media.content_type,
        data=data,
    )


def _added(corpus: str, item_ids: Sequence[str], done: receiver_pb2.AddItemsResponse) -> AddedBody:
    return AddedBody(
        added=done.added,
        size=done.size,
        media_urls=[media_url(corpus, item_id) for item_id in item_ids],
    )


@contextmanager
def _naming_one_item() -> Iterator[None]:
    """The body of one item has its fields at the top: what the receiver calls ``items[0].media`` is ``media``."""
    try:
        yield
    except SemlinkError as error:
        error.field = error.field.removeprefix("items[0].")
        error.message = error.message.replace("items[0].", "")
        raise
