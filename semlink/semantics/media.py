"""Pictures and sounds of a request: decoded in few threads, within limits, down to what the encoders read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from semlink.batching import BoundedPool
from semlink.errors import InvalidField
from semlink.semantics.modalities import DecodedMedia, modality_of
from semlink.settings import Settings

__all__ = ["DecodedMedia", "EncodedMedia", "MediaDecoder", "decode_media"]


@dataclass(frozen=True, slots=True)
class EncodedMedia:
    """Media of a task's modality as they were sent; ``field`` names them in errors."""

    task: str
    data: bytes
    content_type: str
    field: str


def decode_media(media: EncodedMedia) -> DecodedMedia:
    """Decode one item's media. Raises InvalidField naming ``media.field``."""
    return modality_of(media.task).decode(media.data, media.content_type, media.field)


class MediaDecoder:
    """Decodes the media of requests, at most ``Settings.max_decodes`` at once. Use from one event loop.

    :param service: whose decoder it is; labels the metrics.
    """

    def __init__(self, service: str, settings: Settings) -> None:
        self._max_pixels = settings.max_request_image_pixels
        self._pool: BoundedPool[Any] = BoundedPool(
            name=f"{service}.media",
            max_running=settings.max_decodes,
            max_queue=settings.max_queue,
            max_queue_bytes=settings.max_decode_queue_bytes,
        )

    async def decode(self, media: Sequence[EncodedMedia]) -> list[DecodedMedia]:
        """Decode the media of one request, in order.

        :raises InvalidField: naming the field of a picture or sound that does not decode or is over a limit, also the
            picture with which the request is over ``Settings.max_request_image_pixels``; no picture is decoded then.
        :raises Overloaded: when too many wait. :raises DeadlineExceeded: when the caller's deadline passes first.
        """
        if not media:
            return []
        num_bytes = sum(len(one.data) for one in media)
        await self._pool.run_many([partial(self._check_pixels, media)], num_bytes)
        return await self._pool.run_many([partial(decode_media, one) for one in media], num_bytes)

    async def close(self) -> None:
        """Finish what is queued."""
        await self._pool.drain()

    def _check_pixels(self, media: Sequence[EncodedMedia]) -> None:
        """Read the headers of all media before any is decoded."""
        total = 0
        for one in media:
            total += modality_of(one.task).num_pixels(one.data, one.content_type, one.field)
            if total > self._max_pixels:
                raise InvalidField(
                    f"{one.field}: the pictures of the request have over {self._max_pixels:,} pixels together",
                    field=one.field,
                )
