"""Adding and removing items over the wire: what is asked is checked, encoded, kept and found from then on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from receiver.encoding import encode_items
from receiver.gallery import gallery_of
from receiver.user_items import AddedItem
from semlink.deadlines import check_deadline
from semlink.errors import InvalidField
from semlink.semantics.media import DecodedMedia, EncodedMedia, MediaDecoder
from semlink.semantics.spaces import space_of, task_of
from semlink.telemetry import timed
from semlink.v1 import receiver_pb2

MAX_ITEMS: Final = 256
MAX_CAPTIONS: Final = 20
MAX_CHARACTERS: Final = 2000
_ITEM_ID: Final = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,127}")
_NONE: Final = np.empty(0, dtype=np.float32)


async def add_items(
    request: receiver_pb2.AddItemsRequest, decoder: MediaDecoder
) -> receiver_pb2.AddItemsResponse:
    """Add items, all or none. Raises NotFound (corpus), AlreadyExists, InvalidField naming ``items[i].field``."""
    items, task = await asyncio.to_thread(_addable, request)
    decoded = await decoder.decode(
        [
            EncodedMedia(task, item.data, item.content_type, f"items[{i}].media")
            for i, item in enumerate(request.items)
        ]
    )
    check_deadline("the items were encoded")
    return await asyncio.to_thread(_add, request, items, decoded)


def _addable(request: receiver_pb2.AddItemsRequest) -> tuple[list[AddedItem], str]:
    """The items of a request, checked but for their media, and the task of their corpus."""
    gallery = gallery_of(request.corpus)
    if not 1 <= len(request.items) <= MAX_ITEMS:
        raise InvalidField(f"{len(request.items)} items, allowed: 1…{MAX_ITEMS}", field="items")
    items = [_checked(item, field=f"items[{i}]") for i, item in enumerate(request.items)]
    ids = [item.item_id for item in items]
    _check_distinct(ids)
    if not request.replace:
        gallery.require_free(ids)  # before the costly part; adding asks again
    return items, task_of(space_of(request.corpus))


def _add(
    request: receiver_pb2.AddItemsRequest,
    items: Sequence[AddedItem],
    decoded: Sequence[DecodedMedia],
) -> receiver_pb2.AddItemsResponse:
    gallery = gallery_of(request.corpus)
    media = [item.data for item in request.items]
    with timed("receiver.encode_items"):
        encoded = encode_items(items, media, decoded, space_of(request.corpus))
    added, replaced = gallery.add(encoded, media, replacing=request.replace)
    return receiver_pb2.AddItemsResponse(added=added, replaced=replaced, size=len(gallery))


def remove_items(request: receiver_pb2.RemoveItemsRequest) -> receiver_pb2.RemoveItemsResponse:
    """Remove items, all or none. Raises NotFound naming ``corpus`` or ``item_id``."""
    gallery = gallery_of(request.corpus)
    _check_distinct(request.item_ids)
    gallery.remove(list(request.item_ids))
    return receiver_pb2.RemoveItemsResponse(size=len(gallery))


def _check_distinct(ids: Sequence[str]) -> None:
    seen = set[str]()
    for n, item_id in enumerate(ids):
        if item_id in seen:
            raise InvalidField(f"item {item_id!r} is given twice", field=f"items[{n}].item_id")
        seen.add(item_id)


def _checked(item: receiver_pb2.NewItem, *, field: str) -> AddedItem:
    if not _ITEM_ID.fullmatch(item.item_id):
        raise InvalidField(
            f"{field}.item_id is {item.item_id!r}, allowed: 1…128 of A-Z a-z 0-9 . _ ~ -, not starting with a dot",
            field=f"{field}.item_id",
        )
    if len(item.captions) > MAX_CAPTIONS:
        raise InvalidField(
            f"{field}.captions are {len(item.captions)}, allowed: at most {MAX_CAPTIONS}",
            field=f"{field}.captions",
        )
    for n, caption in enumerate(item.captions):
        if not caption.strip() or len(caption) > MAX_CHARACTERS:
            raise InvalidField(
                f"{field}.captions[{n}] has {len(caption.strip())} characters, "
                f"allowed: 1…{MAX_CHARACTERS}",
                field=f"{field}.captions[{n}]",
            )
    if len(item.identity) > MAX_CHARACTERS:
        raise InvalidField(
            f"{field}.identity has {len(item.identity)} characters, allowed: {MAX_CHARACTERS}",
            field=f"{field}.identity",
        )
    return AddedItem(
        item_id=item.item_id,
        identity=item.identity,
        captions=tuple(item.captions),
        content_type=item.content_type,
        media_name="",
        components=_NONE,
        caption_components=_NONE,
        made_with="",
    )
