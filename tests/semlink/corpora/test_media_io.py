"""Pictures and sounds that users send: every format, every mode, and every way to be broken."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semlink.corpora.media_io import (
    decode_audio,
    decode_audio_start,
    decode_image,
)
from semlink.errors import InvalidField
from semlink.settings import Settings

RATE = 16_000


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


def decoded_or_refused(
    decode: Callable[[bytes, str, str], np.ndarray], data: bytes, content_type: str
) -> np.ndarray | None:
    """What the decoder gives, None if it refuses by name; any other error fails the test."""
    try:
        return decode(data, content_type, "query.media")
    except InvalidField as error:
        if error.field != "query.media":
            raise AssertionError(f"the error names {error.field!r}") from error
        return None


def picture(width: int = 48, height: int = 32) -> Image.Image:
    """Left half red, right half blue: survives JPEG, and tells which way is up."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 255
    pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels)


def sound(
    samples: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str = "PCM_16"
) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=form, subtype=subtype)
    return out.getvalue()


def tone(seconds: float, rate: int = RATE, frequency: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


# ---- pictures


@pytest.mark.parametrize(
    ("image_format", "content_type", "tolerance"),
    [("PNG", "image/png", 0), ("JPEG", "image/jpeg", 40), ("WEBP", "image/webp; q=1", 40)],
)
def test_every_format_gives_its_pixels(
    image_format: str, content_type: str, tolerance: int
) -> None:
    pixels = decode_image(encoded(picture(), image_format), content_type, "query.image")
    assert pixels.shape == (32, 48, 3)
    assert pixels.dtype == np.uint8
    for column, colour in ((8, (255, 0, 0)), (40, (0, 0, 255))):
        assert np.abs(pixels[16, column].astype(int) - colour).max() <= tolerance


def test_a_mislabelled_picture_is_read_by_its_bytes() -> None:
    pixels = decode_image(encoded(picture(), "PNG"), "image/jpeg", "query.image")
    np.testing.assert_array_equal(pixels, np.asarray(picture()))


@pytest.mark.parametrize(
    ("mode", "image_format"),
    [
        *((mode, "PNG") for mode in ("1", "L", "P", "RGB", "LA", "RGBA")),
        *((mode, "JPEG") for mode in ("1", "L", "RGB", "CMYK")),
        *((mode, "WEBP") for mode in ("L", "RGB", "RGBA")),
    ],
)
def test_one_pixel_is_a_picture(mode: str, image_format: str) -> None:
    data = encoded(Image.new(mode, (1, 1)), image_format)
    pixels = decode_image(data, f"image/{image_format.lower()}", "query.image")
    assert pixels.dtype == np.uint8
    # Zero is black, no ink (CMYK), or transparent, which lies over white.
    white = mode in ("CMYK", "LA", "RGBA")
    np.testing.assert_allclose(pixels, np.full((1, 1, 3), 255 if white else 0), atol=3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA", "PA"])
def test_png_modes(mode: str) -> None:
    grey = Image.fromarray(np.full((4, 6), 255, np.uint8))
    image = grey.convert("RGBA").convert("P") if mode == "P" else grey.convert(mode)
    if mode == "PA":
        image = grey.convert("P")
        image.info["transparency"] = 0
    pixels = decode_image(encoded(image, "PNG"), "image/png", "query.image")
    assert pixels.shape == (4, 6, 3)
    assert (pixels == 255).all()


def test_cmyk_jpeg_keeps_its_colours() -> None:
    cmyk = picture().convert("CMYK")
    pixels = decode_image(encoded(cmyk, "JPEG", quality=95), "image/jpeg", "query.image").astype(
        int
    )
    assert np.abs(pixels[16, 8] - (255, 0, 0)).max() < 30
    assert np.abs(pixels[16, 40] - (0, 0, 255)).max() < 30


def test_transparency_lies_over_white() -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[:, 0] = (255, 0, 0, 255)
    rgba[:, 1] = (0, 0, 0, 0)
    rgba[:, 2] = (0, 0, 0, 51)
    pixels = decode_image(encoded(Image.fromarray(rgba), "PNG"), "image/png", "query.image")
    assert pixels[0].tolist() == [[255, 0, 0], [255, 255, 255], [204, 204, 204]]


def test_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    data = encoded(image, "PNG", transparency=0)
    assert decode_image(data, "image/png", "f").tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    pixels = decode_image(encoded(Image.fromarray(levels), "PNG"), "image/png", "f")
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]


def png_of_16_bit(samples: np.ndarray, colour_type: int, transparent: int | None = None) -> bytes:
    """A PNG of 16-bit samples ``[height, width, num_channels]``, written by the standard: Pillow writes grey only."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
        + (b"" if transparent is None else png_chunk(b"tRNS", struct.pack(">H", transparent)))
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def test_a_transparent_level_of_sixteen_bit_grey_is_white() -> None:
    levels = np.array([[[0], [257], [32896], [65535]]])
    assert decode_image(png_of_16_bit(levels, 0), "image/png", "f")[0, :, 0].tolist() == [
        0,
        1,
        128,
        255,
    ]
    pixels = decode_image(png_of_16_bit(levels, 0, transparent=257), "image/png", "f")
    assert pixels[0, :, 0].tolist() == [0, 255, 128, 255]


@pytest.mark.parametrize(
    ("colour_type", "sample", "seen"),
    [
        (2, (65535, 32896, 257), (255, 128, 1)),
        (4, (32896, 65535), (128, 128, 128)),
        (4, (32896, 0), (255, 255, 255)),
        (6, (65535, 0, 257, 65535), (255, 0, 1)),
        (6, (65535, 0, 257, 0), (255, 255, 255)),
    ],
)
def test_sixteen_bit_colour_and_alpha(
    colour_type: int, sample: tuple[int, ...], seen: tuple[int, int, int]
) -> None:
    pixels = decode_image(png_of_16_bit(np.array([[sample]]), colour_type), "image/png", "f")
    assert pixels.tolist() == [[list(seen)]]


def test_palette_entries_of_any_transparency_lie_over_white() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0, 0, 0, 0, 0, 0, 200])
    for column in range(3):
        image.putpixel((column, 0), column)
    data = encoded(image, "PNG", transparency=bytes([0, 51, 255]))
    assert decode_image(data, "image/png", "f").tolist() == [
        [[255, 255, 255], [204, 204, 204], [0, 0, 200]]
    ]


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, image_format: str) -> None:
    # Red is on the left of the stored picture; where it must be seen follows from the EXIF table.
    seen_on = dict(
        zip(
            range(1, 9),
            ["left", "right", "right", "left", "top", "top", "bottom", "bottom"],
            strict=True,
        )
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), image_format, exif=exif)
    pixels = decode_image(data, f"image/{image_format.lower()}", "f")
    assert pixels.shape == ((32, 48, 3) if orientation <= 4 else (48, 32, 3))
    middle = (pixels.shape[0] // 2, pixels.shape[1] // 2)
    spot = {
        "left": (middle[0], 4),
        "right": (middle[0], -4),
        "top": (4, middle[1]),
        "bottom": (-4, middle[1]),
    }[seen_on[orientation]]
    assert pixels[spot][0] > 200 > pixels[spot][2]


def test_unreadable_exif_does_not_spoil_the_picture() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert decode_image(data, "image/jpeg", "f").shape == (32, 48, 3)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [picture(), Image.new("RGB", (48, 32), "green")]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(data, "image/png", "f"), np.asarray(frames[0]))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width: int, height: int) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + png_chunk(b"IDAT", zlib.compress(b""))
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(10_000, 5_001), (60_000, 60_000), (2**31 - 1, 1)])
def test_a_decompression_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    assert width * height > Settings().max_image_pixels
    with pytest.raises(InvalidField) as error:
        decode_image(png_claiming(width, height), "image/png", "query.image")
    assert error.value.field == "query.image"


@pytest.mark.parametrize(
    ("data", "content_type", "says"),
    [
        (b"", "image/png", "empty"),
        (b"hello", "image/png", "does not decode"),
        (encoded(picture(), "GIF"), "image/png", "does not decode"),
        (encoded(picture(), "BMP"), "image/jpeg", "does not decode"),
        (encoded(picture(), "PNG"), "image/gif", "image/gif"),
        (encoded(picture(), "PNG"), "", "content type"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", "image/svg"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, content_type: str, says: str) -> None:
    with pytest.raises(InvalidField, match=says) as error:
        decode_image(data, content_type, "query.image")
    assert error.value.field == "query.image"
    assert "query.image" in error.value.message


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_every_truncation_is_refused(image_format: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), image_format)
    for end in range(0, int(len(data) * 0.9), 7):
        with pytest.raises(InvalidField):
            decode_image(data[:end], "image/png", "f")


IMAGES = [
    encoded(picture(16, 16), "JPEG"),
    encoded(
        picture(16, 16),
        "JPEG",
        exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00",
    ),
    encoded(picture(16, 16), "PNG"),
    encoded(picture(16, 16).convert("P"), "PNG", transparency=0),
    encoded(picture(16, 16), "WEBP"),
    encoded(picture(16, 16).convert("CMYK"), "JPEG"),
]


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_bytes_are_no_picture(data: bytes) -> None:
    with pytest.raises(InvalidField):
        decode_image(data, "image/png", "f")


@settings(max_examples=500, deadline=None)
@given(
    which=st.integers(0, len(IMAGES) - 1),
    edits=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damaged_pictures_decode_or_are_refused(which: int, edits: list[tuple[float, int]]) -> None:
    data = bytearray(IMAGES[which])
    for place, value in edits:
        data[int(place * len(data))] = value
    pixels = decoded_or_refused(decode_image, bytes(data), "image/png")
    if pixels is not None:
        assert pixels.ndim == 3
        assert pixels.dtype == np.uint8


# ---- sounds


@pytest.mark.parametrize(
    ("form", "subtype", "content_type"),
    [
        ("WAV", "PCM_16", "audio/wav"),
        ("WAV", "PCM_U8", "audio/x-wav"),
        ("WAV", "PCM_24", "audio/wav"),
        ("WAV", "FLOAT", "audio/wav"),
        ("WAV", "DOUBLE", "audio/wav"),
        ("WAVEX", "PCM_16", "audio/vnd.wave"),
        ("OGG", "VORBIS", "audio/ogg; codecs=vorbis"),
        ("OGG", "OPUS", "audio/ogg"),
        ("FLAC", "PCM_16", "audio/flac"),
        ("MP3", "MPEG_LAYER_III", "audio/mpeg"),
    ],
)
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2), (8_000, 1)])
def test_every_sound_format_becomes_mono_at_16_khz(
    form: str, subtype: str, content_type: str, rate: int, channels: int
) -> None:
    samples = np.repeat(tone(1.0, rate)[:, None], channels, axis=1)
    decoded = decode_audio(sound(samples, rate, form, subtype), content_type, "query.audio")
    assert decoded.dtype == np.float32
    assert decoded.ndim == 1
    assert len(decoded) == pytest.approx(RATE, abs=0.2 * RATE if form == "MP3" else 2)
    spectrum = np.abs(np.fft.rfft(decoded[2000:14000] * np.hanning(12000)))
    assert np.argmax(spectrum) * RATE / 12000 == pytest.approx(440, abs=3)
    assert np.abs(decoded[2000:14000]).max() == pytest.approx(0.5, abs=0.05)


def test_channels_are_averaged() -> None:
    left = tone(0.5)
    half = decode_audio(sound(np.stack([left, 0 * left], 1)), "audio/wav", "f")
    np.testing.assert_allclose(half, left / 2, atol=1e-4)


def test_16_khz_mono_is_untouched() -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000, dtype=np.int16)
    decoded = decode_audio(sound(samples), "audio/wav", "f")
    np.testing.assert_array_equal(decoded, samples.astype(np.float32) / 32768)


@pytest.mark.parametrize(
    ("subtype", "step"),
    [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-23), ("FLOAT", 0)],
)
def test_every_depth_keeps_its_samples(subtype: str, step: float) -> None:
    samples = np.array([0.0, 0.25, -0.5, 0.75, -1.0, 1 / 3])
    decoded = decode_audio(sound(samples, subtype=subtype), "audio/wav", "f")
    # One step of the depth, and float32's own rounding.
    np.testing.assert_allclose(decoded, samples, atol=step + 1e-7)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2), (8_000, 1)])
def test_silence_is_silent(subtype: str, rate: int, channels: int) -> None:
    data = sound(np.zeros((rate // 2, channels)), rate, subtype=subtype)
    decoded = decode_audio(data, "audio/wav", "f")
    assert decoded.shape == (RATE // 2,)
    assert not decoded.any()


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_one_sample_is_a_sound(channels: int) -> None:
    data = sound(np.full((1, channels), 0.5), subtype="FLOAT")
    assert decode_audio(data, "audio/wav", "f").tolist() == [0.5]


@pytest.mark.parametrize("peak", [1.5, 1e30, 3e38])
def test_a_float_file_above_one_is_scaled_as_a_whole(peak: float) -> None:
    wave = tone(0.2, 44_100) * 2
    decoded = decode_audio(sound(wave * peak, 44_100, "WAV", "FLOAT"), "audio/wav", "f")
    expected = decode_audio(sound(wave, 44_100, "WAV", "FLOAT"), "audio/wav", "f")
    assert np.abs(decoded).max() <= 1.0
    np.testing.assert_allclose(decoded, expected, atol=1e-3)


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_thirty_seconds_pass_and_more_do_not(rate: int) -> None:
    longest = np.zeros(30 * rate, np.int16)
    assert len(decode_audio(sound(longest, rate), "audio/wav", "f")) == 30 * RATE
    with pytest.raises(InvalidField, match=r"query\.audio lasts 31\.50 s"):
        decode_audio(sound(np.zeros(63 * rate // 2, np.int16), rate), "audio/wav", "query.audio")
    with pytest.raises(InvalidField, match="lasts"):
        decode_audio(sound(np.zeros(30 * rate + 1, np.int16), rate), "audio/wav", "f")


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_the_start_of_a_long_sound_is_its_first_thirty_seconds(rate: int) -> None:
    # A ramp tells every moment from every other.
    for seconds, is_long in ((30, False), (31, True), (60, True)):
        ramp = np.linspace(0.0, 0.01 * seconds, seconds * rate)
        data = sound(ramp, rate, subtype="FLOAT")
        samples, is_cut = decode_audio_start(data, "audio/wav", "f")
        assert is_cut is is_long
        assert samples.shape == (30 * RATE,)
        moments = np.arange(1, 30) * RATE
        np.testing.assert_allclose(samples[moments], 0.01 * moments / RATE, atol=1e-4)


def test_the_start_of_a_short_sound_is_the_sound() -> None:
    data = sound(tone(1.5, 44_100), 44_100)
    samples, is_cut = decode_audio_start(data, "audio/wav", "f")
    assert not is_cut
    np.testing.assert_array_equal(samples, decode_audio(data, "audio/wav", "f"))
    for broken in (b"", b"no sound", sound(np.zeros(0))):
        with pytest.raises(InvalidField):
            decode_audio_start(broken, "audio/wav", "f")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(value: float) -> None:
    samples = tone(0.1)
    samples[700] = value
    with pytest.raises(InvalidField, match="not finite"):
        decode_audio(sound(samples, RATE, "WAV", "FLOAT"), "audio/wav", "query.audio")


@pytest.mark.parametrize(
    ("data", "content_type", "says"),
    [
        (b"", "audio/wav", "empty"),
        (b"RIFFxxxxWAVE", "audio/wav", "does not decode|lasts 0 s"),
        (b"hello, world", "audio/mpeg", "does not decode"),
        (sound(np.zeros(0)), "audio/wav", "lasts 0 s"),
        (sound(np.zeros(1), 48_000), "audio/wav", "less than one sample|lasts"),
        (sound(tone(0.1)), "video/mp4", "video/mp4"),
        (sound(tone(0.1), form="AIFF"), "audio/wav", "AIFF"),
        (sound(np.zeros((100, 9))), "audio/wav", "9 channels"),
        (sound(np.zeros(100), rate=500), "audio/wav", "500 Hz"),
        (encoded(picture(), "PNG"), "audio/wav", "does not decode"),
    ],
)
def test_what_is_no_sound_is_refused(data: bytes, content_type: str, says: str) -> None:
    with pytest.raises(InvalidField, match=says) as error:
        decode_audio(data, content_type, "query.audio")
    assert error.value.field == "query.audio"


def test_a_header_that_claims_years_costs_nothing() -> None:
    data = bytearray(sound(tone(0.1), form="FLAC"))
    # STREAMINFO's 36-bit number of samples: its low 32 bits lie at bytes 22–25.
    data[22:26] = b"\xff\xff\xff\xff"
    tracemalloc.start()
    samples = decoded_or_refused(decode_audio, bytes(data), "audio/flac")
    _, most_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert samples is None or len(samples) <= 30 * RATE
    assert most_bytes < 4_000_000


SOUNDS = [
    sound(tone(0.05)),
    sound(tone(0.05), subtype="FLOAT"),
    sound(tone(0.05), form="FLAC"),
    sound(tone(0.05), form="OGG", subtype="VORBIS"),
    sound(tone(0.05), form="MP3", subtype="MPEG_LAYER_III"),
]


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_bytes_are_no_sound(data: bytes) -> None:
    with pytest.raises(InvalidField):
        decode_audio(data, "audio/wav", "f")


@settings(max_examples=500, deadline=None)
@given(
    which=st.integers(0, len(SOUNDS) - 1),
    end=st.floats(0.05, 1),
    edits=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
)
def test_damaged_and_truncated_sounds_decode_or_are_refused(
    which: int, end: float, edits: list[tuple[float, int]]
) -> None:
    data = bytearray(SOUNDS[which])
    for place, value in edits:
        data[int(place * len(data))] = value
    samples = decoded_or_refused(decode_audio, bytes(data[: int(end * len(data))]), "audio/wav")
    if samples is not None:
        assert samples.ndim == 1
        assert 0 < len(samples) <= 30 * RATE
        assert np.isfinite(samples).all()
        assert np.abs(samples).max() <= 1.0
