"""Items that users bring: their media and captions as components of the space that a gallery is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from receiver.user_items import AddedItem, UserItemStore, name_of
from semlink.semantics.encoders import heads_sha256, semantic_encoder
from semlink.semantics.media import DecodedMedia, EncodedMedia, decode_media
from semlink.semantics.spaces import task_of
from semlink.settings import Settings
from semlink.tasks import task_spec


def encode_items(
    items: Sequence[AddedItem], media: Sequence[bytes], decoded: Sequence[DecodedMedia], space: str
) -> list[AddedItem]:
    """The items with the components that the heads of ``space`` give, all of them in one batch.

    ``media``: of each as they were sent, ``decoded``: the same decoded.
    """
    modality = task_spec(task_of(space)).modality
    contents = [one.content for one in decoded]
    encoder = semantic_encoder(space, Settings().device)
    components = encoder.components(modality, contents)
    texts = [caption for item in items for caption in item.captions]
    of_captions: NDArray[np.float32] = (
        encoder.components("text", texts)
        if texts
        else np.empty((0, *components.shape[1:]), dtype=np.float32)
    )
    made_with = heads_sha256(space)
    encoded, start = [], 0
    for item, own, data in zip(items, components, media, strict=True):
        stop = start + len(item.captions)
        encoded.append(
            replace(
                item,
                components=own,
                caption_components=of_captions[start:stop],
                media_name=name_of(data),
                made_with=made_with,
            )
        )
        start = stop
    return encoded


def encode_anew(user_items: UserItemStore, space: str, batch: int = 64) -> None:
    """Give kept items that other heads encoded the components of today's, from their media."""
    made_with = heads_sha256(space)
    stale = [item for item in user_items.items() if item.made_with != made_with]
    for start in range(0, len(stale), batch):
        items = stale[start : start + batch]
        media = [user_items.media(item).data for item in items]
        task = task_of(space)
        decoded = [
            decode_media(EncodedMedia(task, data, item.content_type, f"item {item.item_id}"))
            for item, data in zip(items, media, strict=True)
        ]
        user_items.put(encode_items(items, media, decoded, space), [b""] * len(items))
