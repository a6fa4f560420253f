"""Pictures and sounds of a request: decoded in few threads, within limits, down to what the encoders read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from numpy.typing import NDArray

from semlink.batching import BoundedPool
from semlink.corpora.media_io import (
    decode_audio,
    decode_image_to_fit,
    image_pixels,
)
from semlink.errors import InvalidField
from semlink.semantics.encoders import CANVAS
from semlink.settings import Settings
from semlink.tasks import Task


@dataclass(frozen=True, slots=True)
class EncodedMedia:
    """A picture or, for the task "audio", a sound as it was sent; ``field`` names it in errors."""

    task: Task
    data: bytes
    content_type: str
    field: str


@dataclass(frozen=True, slots=True)
class DecodedMedia:
    """What the encoders read of a picture or sound.

    ``content``: uint8 RGB pixels ``[height, width, 3]`` of the task's canvas, or float32 samples at 16 kHz
    ``[num_samples]``. ``source_values``: pixel components of the picture before it was fitted, or samples.
    """

    content: NDArray[Any]
    source_values: int


def decode_media(media: EncodedMedia) -> DecodedMedia:
    """Decode one picture or sound. Raises InvalidField naming ``media.field``."""
    if media.task == "audio":
        samples = decode_audio(media.data, media.content_type, media.field)
        return DecodedMedia(samples, len(samples))
    canvas = CANVAS[media.task]
    pixels, (height, width) = decode_image_to_fit(
        media.data, media.content_type, media.field, height=canvas.height, width=canvas.width
    )
    return DecodedMedia(pixels, 3 * height * width)


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
        """Read the headers of all pictures before any is decoded."""
        total = 0
        for one in media:
            if one.task == "audio":
                continue
            total += image_pixels(one.data, one.content_type, one.field)
            if total > self._max_pixels:
                raise InvalidField(
                    f"{one.field}: the pictures of the request have over {self._max_pixels:,} pixels together",
                    field=one.field,
                )
