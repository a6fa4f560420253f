"""What a picture or a sound may cost: limits by the header, bounded memory, and the same pixels and samples as ever."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import textwrap
import zlib
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from PIL import Image, ImageOps

from semlink.corpora import media_io
from semlink.corpora.listed import _png_of_bmp
from semlink.corpora.media_io import (
    MAX_JPEG_SCANS,
    decode_audio,
    decode_image,
    decode_image_to_fit,
    fit_image,
    num_jpeg_scans,
)
from semlink.errors import InvalidField

CANVASES = [(256, 128), (224, 224)]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colour: int, data: bytes, more: bytes = b"") -> bytes:
    """A PNG with these zlib-compressed rows; ``more``: chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + more
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def flat_png(width: int, height: int, bits: int, colour: int, row_bytes: int) -> bytes:
    packer = zlib.compressobj(9)
    rows = [packer.compress(bytes(1 + row_bytes)) for _ in range(height)]
    return png(width, height, bits, colour, b"".join(rows) + packer.flush())


def saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


def wav(samples: np.ndarray[Any, Any], rate: int = 16_000, subtype: str = "FLOAT") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="WAV", subtype=subtype)
    return out.getvalue()


def peak_rise_mb(code: str, *files: bytes, tmp_path: Any) -> tuple[float, str]:
    """By how much the peak of a fresh process rises while it runs ``code`` on ``data`` (list of the files)."""
    paths = []
    for i, data in enumerate(files):
        paths.append(tmp_path / f"{i}.bin")
        paths[-1].write_bytes(data)
    script = textwrap.dedent("""
        import asyncio, resource, sys
        import numpy as np, soundfile, soxr, torch
        from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
        from semlink.errors import InvalidField
        from semlink.corpora.media_io import decode_audio, decode_image_to_fit
        from semlink.semantics.media import EncodedMedia, MediaDecoder
        from semlink.settings import Settings
        data = [open(path, "rb").read() for path in sys.argv[1:]]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    """)
    script += textwrap.dedent(code)
    script += "\nprint((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)], capture_output=True, text=True, check=True
    )
    *said, rise = done.stdout.strip().splitlines()
    return float(rise), "\n".join(said)


# ---- pictures


def test_a_picture_of_eighty_bytes_costs_nothing(tmp_path: Any) -> None:
    attacks = [
        png(1, 50_000_000, 1, 0, zlib.compress(bytes(100))),
        flat_png(50_000_000, 1, 1, 0, 6_250_000),
    ]
    assert len(attacks[0]) < 80
    code = """
    for one in data:
        try:
            decode_image_to_fit(one, "image/png", "query.image", height=256, width=128)
        except InvalidField as error:
            print(error.field, error.message)
    """
    rise, said = peak_rise_mb(code, *attacks, tmp_path=tmp_path)
    assert said.count("a side") == 2
    assert said.startswith("query.image query.image has 1 × 50000000 pixels")
    assert rise < 20


def test_four_large_pictures_at_once_cost_one_raster(tmp_path: Any) -> None:
    """50 million pixels of four bytes are 191 MiB in the decoder: no more than one of them at a time, and a plane."""
    attack = flat_png(8000, 6250, 8, 6, 4 * 8000)
    assert len(attack) < 389_000
    code = """
    async def main():
        decoder = MediaDecoder("test", Settings(max_decodes=4))
        media = [EncodedMedia("person", data[0], "image/png", f"queries[{i}].image") for i in range(4)]
        decoded = await decoder.decode(media)
        print(*{(one.content.shape, one.source_values) for one in decoded})
        await decoder.close()
    asyncio.run(main())
    """
    rise, said = peak_rise_mb(code, attack, tmp_path=tmp_path)
    assert said == "((256, 128, 3), 150000000)"
    assert rise < 400  # it was 5 GB


@pytest.mark.parametrize(("colour", "bits", "row_bytes"), [(0, 16, 16_000), (3, 8, 8000)])
def test_conversion_costs_little_beside_the_raster(
    colour: int, bits: int, row_bytes: int, tmp_path: Any
) -> None:
    attack = flat_png(8000, 6250, bits, colour, row_bytes)
    if colour == 3:
        attack = attack[:33] + chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", b"\x80") + attack[33:]
    code = 'decode_image_to_fit(data[0], "image/png", "f", height=224, width=224)'
    rise, _ = peak_rise_mb(code, attack, tmp_path=tmp_path)
    assert rise < 200


@pytest.mark.parametrize("size", [(32_769, 1), (1, 32_769), (7072, 7072)])
def test_a_picture_over_the_limits_is_refused_by_its_header(size: tuple[int, int]) -> None:
    data = png(*size, 8, 2, zlib.compress(b""))
    with pytest.raises(InvalidField, match="allowed are") as error:
        decode_image(data, "image/png", "query.image")
    assert error.value.field == "query.image"


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_a_picture_of_no_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidField):
        decode_image(png(*size, 8, 2, zlib.compress(b"")), "image/png", "f")


def test_a_bmp_over_the_limits_is_refused_by_its_header() -> None:
    data = bytearray(saved(Image.new("RGB", (2, 2)), "BMP"))
    data[18:26] = struct.pack("<ii", 40_000, 40_000)
    with pytest.raises(InvalidField, match=r"bomb|allowed"):
        _png_of_bmp(bytes(data), "a.bmp")
    data[18:26] = struct.pack("<ii", 40_000, 10)
    with pytest.raises(InvalidField, match="40000 × 10 pixels, allowed are 32,768 a side"):
        _png_of_bmp(bytes(data), "a.bmp")


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_of_a_long_animation_only_the_first_frame_is_decoded(image_format: str) -> None:
    frames = [Image.new("RGB", (64, 64), (i, 0, 0)) for i in range(0, 250, 2)]
    kind = f"image/{image_format.lower()}"
    options: dict[str, Any] = {"lossless": True} if image_format == "WEBP" else {}
    data = saved(frames[5], image_format, save_all=True, append_images=frames, **options)
    assert (decode_image(data, kind, "f") == (10, 0, 0)).all()
    with pytest.raises(InvalidField):
        decode_image(saved(frames[0], "GIF", save_all=True, append_images=frames), kind, "f")


@pytest.mark.parametrize("canvas", [(16_384, 16_384), (2**24, 255), (40_000, 100)])
def test_a_webp_canvas_over_the_limits_is_refused(canvas: tuple[int, int]) -> None:
    frames = [Image.new("RGB", (16, 16)), Image.new("RGB", (16, 16), "red")]
    data = bytearray(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    assert data[12:16] == b"VP8X"
    data[24:27] = (canvas[0] - 1).to_bytes(3, "little")
    data[27:30] = (canvas[1] - 1).to_bytes(3, "little")
    with pytest.raises(InvalidField):
        decode_image(bytes(data), "image/webp", "f")


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"many"])
def test_text_that_swells_is_refused(kind: bytes, tmp_path: Any) -> None:
    if kind == b"many":
        text = zlib.compress(bytes(10**6), 9)
        more = b"".join(chunk(b"zTXt", b"k%d\0\0" % i + text) for i in range(100))
    else:
        more = chunk(kind, b"a\0\0" + zlib.compress(bytes(300_000_000), 9))
    attack = png(1, 1, 8, 2, zlib.compress(bytes(4)), more)
    code = """
    try:
        decode_image_to_fit(data[0], "image/png", "f", height=224, width=224)
    except InvalidField:
        print("refused")
    """
    rise, said = peak_rise_mb(code, attack, tmp_path=tmp_path)
    assert said == "refused"
    assert rise < 100


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    data = saved(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG", progressive=True)
    assert num_jpeg_scans(data) == data.count(b"\xff\xda") > 5
    last = data[data.rindex(b"\xff\xda") : -2]
    assert num_jpeg_scans(data[:-2] + 3 * last + b"\xff\xd9") == num_jpeg_scans(data) + 3
    with pytest.raises(InvalidField, match="scans"):
        decode_image(data[:-2] + MAX_JPEG_SCANS * last + b"\xff\xd9", "image/jpeg", "f")


def test_what_lies_in_a_segment_of_a_jpeg_is_no_scan() -> None:
    plain = saved(Image.new("RGB", (8, 8)), "JPEG")
    thumbnails = b"\xff\xee" + struct.pack(">H", 2 + 400) + b"\xff\xda" * 200
    data = plain[:2] + thumbnails + plain[2:] + b"\xff\xda" * 200
    assert num_jpeg_scans(data) == num_jpeg_scans(plain) == 1
    np.testing.assert_array_equal(
        decode_image(data, "image/jpeg", "f"), decode_image(plain, "image/jpeg", "f")
    )


def reference(data: bytes) -> np.ndarray[Any, Any]:
    """The pixels as they were made before bands: the whole picture at once."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            grey = np.clip(np.rint(np.asarray(upright, np.float64) / 257.0), 0, 255)
            return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.array(upright.convert("RGB"))


def reference_fit(pixels: np.ndarray[Any, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    size = tuple(max(1, round(n * scale)) for n in (pixels.shape[1], pixels.shape[0]))
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    page = Image.new("RGB", (width, height), (127, 127, 127))
    page.paste(resized, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(page)


@pytest.mark.parametrize("band_pixels", [1, 1000, 2**20])
@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("size", [(301, 197), (64, 500), (1, 40), (128, 256), (224, 224), (20, 10)])
def test_bands_give_the_pixels_of_the_whole(
    size: tuple[int, int], canvas: tuple[int, int], band_pixels: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(media_io, "BAND_PIXELS", band_pixels)
    noise = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 4), np.uint8)
    rgba = Image.fromarray(noise)
    rgb, grey = rgba.convert("RGB"), Image.fromarray(noise[:, :, 0])
    grey16 = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257 + noise[:, :, 1])
    files = [saved(one, "PNG") for one in (rgba, rgb, grey, grey16, grey.convert("LA"))]
    files += [saved(grey.convert("1"), "PNG"), saved(rgb.quantize(64), "PNG", transparency=3)]
    files += [saved(rgb.convert("CMYK"), "JPEG"), saved(rgb, "JPEG", progressive=True)]
    files += [saved(rgba, "WEBP", lossless=True)]
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files.append(saved(rgb, "PNG", exif=exif))
    for data in files:
        whole = reference(data)
        np.testing.assert_array_equal(decode_image(data, "image/png", "f"), whole)
        fitted, own = decode_image_to_fit(data, "image/png", "f", height=canvas[0], width=canvas[1])
        assert own == whole.shape[:2]
        np.testing.assert_array_equal(fitted, reference_fit(whole, *canvas))
        np.testing.assert_array_equal(fit_image(whole, height=canvas[0], width=canvas[1]), fitted)


# ---- sounds


def test_the_widest_sound_costs_little(tmp_path: Any) -> None:
    """30 s of 8 channels at 192 kHz: 184 MB as float32, read in blocks."""
    noise = np.random.default_rng(0).integers(-9000, 9000, (30 * 192_000, 8), np.int16)
    code = 'print(decode_audio(data[0], "audio/wav", "f").shape)'
    rise, said = peak_rise_mb(code, wav(noise, 192_000, "PCM_16"), tmp_path=tmp_path)
    assert said == "(480000,)"
    assert rise < 120


@pytest.mark.parametrize("channels", range(1, 9))
@pytest.mark.parametrize("rate", [16_000, 44_101])
def test_blocks_give_the_samples_of_the_whole(channels: int, rate: int) -> None:
    frames = np.random.default_rng(channels).uniform(-0.9, 0.9, (150_001, channels))
    frames = frames.astype(np.float32)
    mono = frames.mean(axis=1, dtype=np.float64).astype(np.float32)
    if rate != 16_000:
        mono = np.asarray(soxr.resample(mono, rate, 16_000), dtype=np.float32)
        mono = mono / max(1.0, np.abs(mono).max())
    np.testing.assert_array_equal(decode_audio(wav(frames, rate), "audio/wav", "f"), mono)


@pytest.mark.parametrize(("field", "value"), [(22, 0xFFFF), (22, 0), (24, 1), (24, 10_000_000)])
def test_absurd_channels_and_rates_are_refused(field: int, value: int) -> None:
    data = bytearray(wav(np.zeros(100), subtype="PCM_16"))
    width = 2 if field == 22 else 4
    data[field : field + width] = value.to_bytes(width, "little")
    with pytest.raises(InvalidField) as error:
        decode_audio(bytes(data), "audio/wav", "query.audio")
    assert error.value.field == "query.audio"


@pytest.mark.parametrize("num_bytes", [0, 14, 2**31, 2**32 - 2])
def test_a_wav_whose_header_lies_of_its_length_is_read_as_far_as_it_goes(
    num_bytes: int,
) -> None:
    data = bytearray(wav(np.full(1000, 0.5), subtype="PCM_16"))
    data[40:44] = num_bytes.to_bytes(4, "little")
    if num_bytes:
        assert len(decode_audio(bytes(data), "audio/wav", "f")) == min(num_bytes // 2, 1000)
    else:
        with pytest.raises(InvalidField, match="0 s"):
            decode_audio(bytes(data), "audio/wav", "f")


def tone(seconds: float = 0.5) -> np.ndarray[Any, Any]:
    return 0.5 * np.sin(np.arange(int(16_000 * seconds)) * 0.2)


@pytest.mark.parametrize("gains", [(1, -1), (-1, 1), (1, -1, 1, -1), (1, -0.99), (1, -0.5, -0.5)])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_channels_that_cancel_are_heard_as_the_strongest(
    gains: tuple[float, ...], subtype: str
) -> None:
    clip = tone()
    heard = decode_audio(wav(np.outer(clip, gains), subtype=subtype), "audio/wav", "f")
    alone = decode_audio(wav(clip * gains[0], subtype=subtype), "audio/wav", "f")
    np.testing.assert_array_equal(heard, alone)


@pytest.mark.parametrize("gains", [(1, 0), (0, 0, 0, 0, 0, 0, 0, 1), (1, -0.8), (1, 1)])
def test_channels_that_do_not_cancel_are_averaged(gains: tuple[float, ...]) -> None:
    heard = decode_audio(wav(np.outer(tone(), gains)), "audio/wav", "f")
    np.testing.assert_allclose(heard, tone() * np.mean(gains), atol=1e-6)


def test_opposite_silence_is_silence() -> None:
    assert not decode_audio(wav(np.zeros((500, 2))), "audio/wav", "f").any()
