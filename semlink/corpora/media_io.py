"""Decode pictures and sounds that users send: bounded memory, one shape out, one error for whatever is wrong."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from PIL import Image, ImageOps

from semlink.corpora.corpus import AUDIO_SAMPLE_RATE_HZ
from semlink.errors import InvalidField

IMAGE_FORMATS = {
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
}
AUDIO_CONTENT_TYPES = (
    "audio/wav",
    "audio/x-wav",
    "audio/wave",
    "audio/vnd.wave",
    "audio/ogg",
    "application/ogg",
    "audio/opus",
    "audio/flac",
    "audio/x-flac",
    "audio/mpeg",
    "audio/mp3",
)
AUDIO_FORMATS = ("WAV", "WAVEX", "OGG", "FLAC", "MP3")

MAX_PIXELS = 50_000_000
MAX_SECONDS = 30.0
SAMPLE_RATES_HZ = (1_000, 192_000)
MAX_CHANNELS = 8
BLOCK_FRAMES = 65_536
ORIENTATION_TAG = 0x0112

# All that Pillow's parsers raise on broken files, found by fuzzing; anything else is a bug of ours and must surface.
_BROKEN_IMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def decode_image(data: bytes, content_type: str, field: str) -> NDArray[np.uint8]:
    """A JPEG, PNG or WebP picture as RGB pixels, ``[height, width, 3]``, uint8.

    The EXIF orientation is applied, transparency is laid over white, an animation gives its first frame, 16-bit grey
    is scaled to 8 bits. ``content_type`` must be one of the three; the bytes may be any of the three, since many
    programs mislabel them.

    :param field: name of the field for error messages, e.g. ``query.image``.
    :raises InvalidField: for another content type, bytes that do not decode, or more than 50 million pixels.
    """
    kind = _media_type(content_type)
    if kind not in IMAGE_FORMATS:
        raise InvalidField(
            f"{field} has content type {content_type!r}, allowed: {', '.join(IMAGE_FORMATS)}",
            field=field,
        )
    if not data:
        raise InvalidField(f"{field} is empty, expected a picture", field=field)
    try:
        with Image.open(io.BytesIO(data), formats=sorted(set(IMAGE_FORMATS.values()))) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InvalidField(
                    f"{field} has {width} × {height} pixels, allowed are {MAX_PIXELS:,} in all",
                    field=field,
                )
            image.load()
            return _rgb(_upright(image))
    except _BROKEN_IMAGE as error:
        raise InvalidField(
            f"{field} does not decode as JPEG, PNG or WebP ({error})", field=field
        ) from error


def decode_audio(data: bytes, content_type: str, field: str) -> NDArray[np.float32]:
    """A WAV, OGG (Vorbis, Opus), FLAC or MP3 sound as mono samples at 16 kHz, ``[num_samples]``, float32 in −1…1.

    Channels are averaged, any rate of 1–192 kHz is resampled (soxr, HQ), a sound whose peak exceeds one is scaled
    down as a whole.

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
    return samples[: int(MAX_SECONDS * AUDIO_SAMPLE_RATE_HZ)], is_cut


def _decode_audio(
    data: bytes,
    content_type: str,
    field: str,
    read: Callable[[Any, str], tuple[NDArray[np.float32], bool]],
) -> tuple[NDArray[np.float32], bool]:
    """Mono samples at 16 kHz of what ``read`` takes of the open sound, and whether it left any."""
    if _media_type(content_type) not in AUDIO_CONTENT_TYPES:
        raise InvalidField(
            f"{field} has content type {content_type!r}, allowed: {', '.join(AUDIO_CONTENT_TYPES)}",
            field=field,
        )
    if not data:
        raise InvalidField(f"{field} is empty, expected a sound", field=field)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            _check_format(sound, field)
            rate = int(sound.samplerate)
            frames, is_cut = read(sound, field)
    except soundfile.SoundFileError as error:
        raise InvalidField(
            f"{field} does not decode as WAV, OGG, FLAC or MP3 ({error})", field=field
        ) from error
    if not np.isfinite(frames).all():
        raise InvalidField(f"{field} holds samples that are not finite numbers", field=field)
    # The mean in float64: the sum of channels of a float file may exceed float32.
    mono = _at_most_one(frames.mean(axis=1, dtype=np.float64).astype(np.float32))
    if rate != AUDIO_SAMPLE_RATE_HZ:
        mono = _at_most_one(
            np.asarray(soxr.resample(mono, rate, AUDIO_SAMPLE_RATE_HZ), dtype=np.float32)
        )
    if len(mono) == 0:
        raise InvalidField(
            f"{field} lasts {len(frames) / rate:.6f} s, which is less than one sample at 16 kHz",
            field=field,
        )
    return mono, is_cut


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except _BROKEN_IMAGE:
        # As in browsers: metadata that cannot be read says nothing of the orientation.
        return image
    if orientation in (None, 1):
        return image
    return ImageOps.exif_transpose(image)


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # Pillow would clip 16-bit grey at 255 instead of scaling it, and would not see its transparent level.
        grey = np.asarray(image, dtype=np.float64)
        grey = np.where(grey == image.info.get("transparency"), 65535.0, grey) / 257.0
        eight_bit = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
        return np.repeat(eight_bit[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _check_format(sound: Any, field: str) -> None:
    if sound.format not in AUDIO_FORMATS:
        raise InvalidField(
            f"{field} is {sound.format}, allowed are WAV, OGG, FLAC and MP3", field=field
        )
    lowest, highest = SAMPLE_RATES_HZ
    if not lowest <= sound.samplerate <= highest:
        raise InvalidField(
            f"{field} has a sample rate of {sound.samplerate} Hz, allowed are {lowest}…{highest}",
            field=field,
        )
    if sound.channels > MAX_CHANNELS:
        raise InvalidField(
            f"{field} has {sound.channels} channels, allowed are 1…{MAX_CHANNELS}", field=field
        )


def _read_bounded(sound: Any, field: str) -> tuple[NDArray[np.float32], bool]:
    """All frames, ``[num_frames, num_channels]``, and False. Raises InvalidField for more than 30 s."""
    frames, is_cut = _read_start(sound, field)
    if is_cut:
        rate = int(sound.samplerate)
        seconds = max(len(frames) + 1, sound.frames) / rate
        raise InvalidField(
            f"{field} lasts {seconds:.2f} s, allowed are at most {MAX_SECONDS:.0f} s", field=field
        )
    return frames, False


def _read_start(sound: Any, field: str) -> tuple[NDArray[np.float32], bool]:
    """The frames of the first 30 s, ``[num_frames, num_channels]``, and whether there are more.

    Read block by block: a header can claim any length.
    """
    most_frames = int(MAX_SECONDS * sound.samplerate)
    blocks: list[NDArray[np.float32]] = []
    num_frames = 0
    while num_frames <= most_frames:
        block = sound.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
        num_frames += len(block)
        blocks.append(block)
        if len(block) < BLOCK_FRAMES:
            break
    if num_frames == 0:
        raise InvalidField(f"{field} lasts 0 s, it holds no samples", field=field)
    return np.concatenate(blocks)[:most_frames], num_frames > most_frames


def _at_most_one(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    peak = float(np.abs(samples).max(initial=0.0))
    return samples if peak <= 1.0 else cast("NDArray[np.float32]", samples / np.float32(peak))
