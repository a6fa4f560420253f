"""Decode pictures and sounds that users send: bounded memory, one shape out, one error for whatever is wrong."""

from __future__ import annotations

import io
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any, Final, cast

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from semlink.corpora.corpus import AUDIO_SAMPLE_RATE_HZ
from semlink.errors import InvalidField
from semlink.settings import Settings

IMAGE_FORMATS = {
    **{"image/jpeg": "JPEG", "image/jpg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
}
AUDIO_CONTENT_TYPES = (
    *("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave", "audio/ogg", "application/ogg"),
    *("audio/opus", "audio/flac", "audio/x-flac", "audio/mpeg", "audio/mp3"),
)
AUDIO_FORMATS = ("WAV", "WAVEX", "OGG", "FLAC", "MP3")

BLOCK_FRAMES = 65_536
BAND_PIXELS: Final = 2**18
"""Pixels that are converted at once: what a picture costs beside its decoder's raster."""
LARGE_PIXELS: Final = 8_000_000
"""Larger pictures are decoded one at a time, however many threads decode."""
MAX_JPEG_SCANS: Final = 100
"""A progressive JPEG has about ten; each costs a pass over all pixels, and a few bytes are enough for one."""
CANCELLED_POWER: Final = 1e-3
"""Power of the mean over that of its channels below which they cancel: 1/8 for eight channels that do not agree."""
ORIENTATION_TAG = 0x0112
_TRANSPOSES: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture of each EXIF orientation upright; from 5 on its columns become rows."""
_FROM_THE_END: Final = (3, 4, 7, 8)
"""Orientations whose first upright rows are stored last."""
_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""A JPEG marker between or after entropy-coded data; stuffed zeros and restarts are part of the data."""
_large_picture = threading.Lock()
# Pillow's blocks of 16 MiB would come from the heap of each thread and stay there; from 32 MiB on (glibc) they are
# mapped and given back.
Image.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]  # documented, not exported

# All that Pillow's parsers raise on broken files, found by fuzzing; anything else is a bug of ours and must surface.
_BROKEN_IMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


def refused(field: str, why: str) -> InvalidField:
    """The error of a picture or sound in ``field`` that is not taken."""
    return InvalidField(f"{field} {why}", field=field)


@lru_cache(maxsize=1)
def media_limits() -> Settings:
    """Read the settings, and with them the limits of media, once for the process."""
    return Settings()


def decode_image(data: bytes, content_type: str, field: str) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG or WebP picture to RGB pixels, ``[height, width, 3]``, uint8.

    The EXIF orientation is applied, transparency is laid over white, an animation gives its first frame, 16-bit grey
    is scaled to 8 bits. ``content_type`` must be one of the three; the bytes may be any of the three, since many
    programs mislabel them.

    :param field: name of the field for error messages, e.g. ``query.image``.
    :raises InvalidField: for another content type, bytes that do not decode, or a picture over
        ``Settings.max_image_pixels`` or ``max_image_side`` (by its header, before it is decoded).
    """
    with _decoded(data, content_type, field) as image:
        width, height = _upright_size(image)
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        for start, band in _upright_bands(image):
            pixels[start : start + band.height] = np.asarray(band)
    return pixels


def decode_image_to_fit(
    data: bytes, content_type: str, field: str, *, height: int, width: int
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Decode a picture and shrink or grow it to fit ``height`` × ``width``, centred on grey.

    The pixels ``[height, width, 3]``, uint8, are those of :func:`decode_image` after :func:`fit_image`, without ever
    holding the picture in full beside the decoder's raster.

    :returns: the fitted pixels, and height and width of the picture itself.
    :raises InvalidField: as :func:`decode_image`.
    """
    with _decoded(data, content_type, field) as image:
        size = _upright_size(image)
        fitting = _fitting(size, (width, height))
        if image.mode == "RGB" and not image.has_transparency_data and _orientation(image) == 1:
            small = _resized(image, fitting)
        else:
            small = _resized_by_channel(image, size, fitting)
    return _centred(small, (width, height)), (size[1], size[0])


def fit_image(pixels: NDArray[np.uint8], *, height: int, width: int) -> NDArray[np.uint8]:
    """Shrink or grow RGB pixels ``[h, w, 3]``, uint8, to fit ``height`` × ``width``, centred on grey."""
    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(pixels)
    size = (width, height)
    return _centred(_resized(image, _fitting(image.size, size)), size)


def image_pixels(data: bytes, content_type: str, field: str) -> int:
    """Read the number of pixels from a picture's header. Raises InvalidField as :func:`decode_image`."""
    with _opened(data, content_type, field) as image:
        return image.width * image.height


def check_image_size(size: tuple[int, int], field: str) -> None:
    """Raise InvalidField for a picture of ``size`` (width, height) over the limits of :class:`Settings`."""
    limits = media_limits()
    width, height = size
    if max(size) > limits.max_image_side:
        raise refused(
            field, f"has {width} × {height} pixels, allowed are {limits.max_image_side:,} a side"
        )
    if width * height > limits.max_image_pixels:
        raise refused(
            field, f"has {width} × {height} pixels, allowed are {limits.max_image_pixels:,} in all"
        )


def decode_audio(data: bytes, content_type: str, field: str) -> NDArray[np.float32]:
    """Decode a WAV, OGG (Vorbis, Opus), FLAC or MP3 sound to mono at 16 kHz, ``[num_samples]``, float32 in −1…1.

    Channels are averaged; where they cancel (stereo in opposite phase) the one of most power stands for all. Any rate
    of 1–192 kHz is resampled (soxr, HQ), a sound whose peak exceeds one is scaled down as a whole.

    :param field: name of the field for error messages, e.g. ``query.audio``.
    :raises InvalidField: for another content type, bytes that do not decode, no samples at all, more than 30 s, more
        than 8 channels, or samples that are not finite.
    """
    samples, _ = _decode_audio(data, content_type, field, _read_bounded)
    return samples


def decode_audio_start(
    data: bytes, content_type: str, field: str
) -> tuple[NDArray[np.float32], bool]:
    """The first 30 s of a sound as :func:`decode_audio` gives them, and whether there was more.

    For corpora of longer clips; what users send is refused instead, so that nobody is answered on half a query.

    :raises InvalidField: as :func:`decode_audio`, except for the length.
    """
    samples, is_cut = _decode_audio(data, content_type, field, _read_start)
    return samples[: int(media_limits().max_audio_seconds * AUDIO_SAMPLE_RATE_HZ)], is_cut


def _decode_audio(
    data: bytes,
    content_type: str,
    field: str,
    read: Callable[[Any, str, int | None], tuple[NDArray[np.float32], bool, int | None]],
) -> tuple[NDArray[np.float32], bool]:
    """Mono samples at 16 kHz of what ``read`` takes of the open sound, and whether it left any."""
    if _media_type(content_type) not in AUDIO_CONTENT_TYPES:
        raise refused(
            field, f"has content type {content_type!r}, allowed: {', '.join(AUDIO_CONTENT_TYPES)}"
        )
    if not data:
        raise refused(field, "is empty, expected a sound")
    channel: int | None = None
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            _check_format(sound, field)
            rate = int(sound.samplerate)
            frames, is_cut, channel = read(sound, field, None)
        if channel is not None:
            with soundfile.SoundFile(io.BytesIO(data)) as sound:
                frames, is_cut, _ = read(sound, field, channel)
    except soundfile.SoundFileError as error:
        raise refused(field, f"does not decode as WAV, OGG, FLAC or MP3 ({error})") from error
    mono = _at_most_one(frames)
    if rate != AUDIO_SAMPLE_RATE_HZ:
        mono = _at_most_one(
            np.asarray(soxr.resample(mono, rate, AUDIO_SAMPLE_RATE_HZ), dtype=np.float32)
        )
    if len(mono) == 0:
        raise refused(
            field, f"lasts {len(frames) / rate:.6f} s, which is less than one sample at 16 kHz"
        )
    return mono, is_cut


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


@contextmanager
def _opened(data: bytes, content_type: str, field: str) -> Iterator[Image.Image]:
    """The picture with its header read and its size within the limits; what is raised within names ``field``."""
    kind = _media_type(content_type)
    if kind not in IMAGE_FORMATS:
        raise refused(
            field, f"has content type {content_type!r}, allowed: {', '.join(IMAGE_FORMATS)}"
        )
    if not data:
        raise refused(field, "is empty, expected a picture")
    try:
        with Image.open(io.BytesIO(data), formats=sorted(set(IMAGE_FORMATS.values()))) as image:
            check_image_size(image.size, field)
            yield image
    except UnidentifiedImageError as error:  # whose message holds an address in memory
        raise refused(field, "does not decode as JPEG, PNG or WebP") from error
    except _BROKEN_IMAGE as error:
        raise refused(field, f"does not decode as JPEG, PNG or WebP ({error})") from error


@contextmanager
def _decoded(data: bytes, content_type: str, field: str) -> Iterator[Image.Image]:
    """The picture with its pixels in the decoder's raster, as stored; of large ones one at a time."""
    with _opened(data, content_type, field) as image:
        if data[:2] == b"\xff\xd8" and num_jpeg_scans(data) > MAX_JPEG_SCANS:
            raise refused(field, f"is a JPEG of more than {MAX_JPEG_SCANS} scans")
        large = image.width * image.height > LARGE_PIXELS
        with _large_picture if large else nullcontext():
            image.load()
            yield image


def num_jpeg_scans(data: bytes) -> int:
    """Count the scans of a JPEG up to one more than :data:`MAX_JPEG_SCANS`."""
    scans, at = 0, 2
    while scans <= MAX_JPEG_SCANS and (found := _MARKER.search(data, at)):
        marker, at = data[found.end() - 1], found.end()
        if marker == 0xD9:
            break
        if marker == 0xDA:
            scans += 1
        elif marker not in (0x01, 0xD8):
            # The length of a segment counts its own two bytes; what lies in it (a thumbnail) is no scan.
            at += int.from_bytes(data[at : at + 2])
    return scans


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ORIENTATION_TAG, 1)
    except _BROKEN_IMAGE:
        # As in browsers: metadata that cannot be read says nothing of the orientation.
        return 1
    return found if found in _TRANSPOSES else 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once the EXIF orientation is applied."""
    return image.size if _orientation(image) < 5 else (image.height, image.width)


def _upright_bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The upright picture in RGB, in bands of rows from the top: first row and pixels of each."""
    orientation = _orientation(image)
    width, height = _upright_size(image)
    rows = max(1, BAND_PIXELS // width)
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        a, b = (height - stop, height - start) if orientation in _FROM_THE_END else (start, stop)
        band = image.crop((0, a, image.width, b) if orientation < 5 else (a, 0, b, image.height))
        if orientation in _TRANSPOSES:
            band = band.transpose(_TRANSPOSES[orientation])
        yield start, _rgb(band)


def _fitting(size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """The size, (width, height), of a picture of ``size`` that is brought to fit ``canvas``."""
    scale = min(canvas[1] / size[1], canvas[0] / size[0])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def _resized_by_channel(
    image: Image.Image, size: tuple[int, int], fitting: tuple[int, int]
) -> Image.Image:
    """The upright picture in RGB, resized. Of a large one a channel at a time lies beside the decoder's raster."""
    if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16"):
        passes: tuple[tuple[int, ...], ...] = ((0,),)  # grey, also over white
    else:
        large = size[0] * size[1] > LARGE_PIXELS
        passes = ((0,), (1,), (2,)) if large else ((0, 1, 2),)
    small: list[Image.Image] = []
    for channels in passes:
        planes = [Image.new("L", size) for _ in channels]
        for start, band in _upright_bands(image):
            for plane, channel in zip(planes, channels, strict=True):
                plane.paste(band.getchannel(channel), (0, start))
        small += [_resized(plane, fitting) for plane in planes]
    return Image.merge("RGB", small if len(small) == 3 else small * 3)


def _centred(image: Image.Image, canvas: tuple[int, int]) -> NDArray[np.uint8]:
    page = Image.new("RGB", canvas, (127, 127, 127))
    page.paste(image, ((canvas[0] - image.width) // 2, (canvas[1] - image.height) // 2))
    return np.array(page)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # Pillow would clip 16-bit grey at 255 instead of scaling it, and would not see its transparent level.
        grey = np.asarray(image, dtype=np.float64)
        grey = np.where(grey == image.info.get("transparency"), 65535.0, grey) / 257.0
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return image.convert("RGB")


def _check_format(sound: Any, field: str) -> None:
    if sound.format not in AUDIO_FORMATS:
        raise refused(field, f"is {sound.format}, allowed are WAV, OGG, FLAC and MP3")
    limits = media_limits()
    lowest, highest = limits.min_audio_rate_hz, limits.max_audio_rate_hz
    if not lowest <= sound.samplerate <= highest:
        raise refused(
            field, f"has a sample rate of {sound.samplerate} Hz, allowed are {lowest}…{highest}"
        )
    if sound.channels > limits.max_audio_channels:
        raise refused(
            field, f"has {sound.channels} channels, allowed are 1…{limits.max_audio_channels}"
        )


def _read_bounded(
    sound: Any, field: str, channel: int | None
) -> tuple[NDArray[np.float32], bool, int | None]:
    """As :func:`_read_start`. Raises InvalidField for more than ``Settings.max_audio_seconds``."""
    mono, is_cut, loudest = _read_start(sound, field, channel)
    if is_cut:
        rate = int(sound.samplerate)
        seconds = max(len(mono) + 1, sound.frames) / rate
        raise refused(
            field,
            f"lasts {seconds:.2f} s, allowed are at most {media_limits().max_audio_seconds:.0f} s",
        )
    return mono, False, loudest


def _read_start(
    sound: Any, field: str, channel: int | None
) -> tuple[NDArray[np.float32], bool, int | None]:
    """The start of a sound, at most ``Settings.max_audio_seconds``, as the mean of its channels or one ``channel``.

    Read and averaged block by block: a header can claim any length, and channels at a high rate are many bytes.

    :returns: ``[num_frames]``; whether there are more frames; the channel to read instead where the channels cancel.
    """
    max_frames = int(media_limits().max_audio_seconds * sound.samplerate)
    blocks: list[NDArray[np.float32]] = []
    num_frames = 0
    power = np.zeros(sound.channels)
    while num_frames <= max_frames:
        block = sound.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
        num_frames += len(block)
        if not np.isfinite(block).all():
            raise refused(field, "holds samples that are not finite numbers")
        power += np.square(block, dtype=np.float64).sum(axis=0)
        # The mean in float64: the sum of channels of a float file may exceed float32.
        mean = block.mean(axis=1, dtype=np.float64) if channel is None else block[:, channel]
        blocks.append(mean.astype(np.float32))
        if len(block) < BLOCK_FRAMES:
            break
    if num_frames == 0:
        raise refused(field, "lasts 0 s, it holds no samples")
    mono = np.concatenate(blocks)[:max_frames]
    own = float(np.square(mono, dtype=np.float64).sum())
    cancel = channel is None and own < CANCELLED_POWER * power.mean()
    # The first of those that are equally strong but for rounding.
    strongest = int(np.flatnonzero(power >= 0.99 * power.max())[0])
    return mono, num_frames > max_frames, strongest if cancel else None


def _at_most_one(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    peak = float(np.abs(samples).max(initial=0.0))
    return samples if peak <= 1.0 else cast("NDArray[np.float32]", samples / np.float32(peak))
