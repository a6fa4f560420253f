"""Small pictures of items, for pages and figures: of a sound its spectrogram."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semlink.corpora.corpus import AudioCorpus, ImageCorpus
from semlink.corpora.registry import corpus_named
from semlink.decibels import lin_to_db
from semlink.errors import InvalidField

HEIGHT: Final = 144
"""Pixels of a picture; a sound's spectrogram is lower and wider."""
SPECTROGRAM: Final = (160, 96)
"""Width and height in pixels of a spectrogram."""
FRAME: Final = 512
HOP: Final = 256
FLOOR_DB: Final = -80.0
"""Quieter than so far below the loudest is black."""


@lru_cache(maxsize=1024)
def thumbnail(corpus_name: str, item_id: str) -> Image.Image:
    """An item as a small RGB picture. Raises NotFound for an unknown corpus or item, InvalidField for other media."""
    corpus = corpus_named(corpus_name)
    if isinstance(corpus, ImageCorpus):
        picture = Image.fromarray(corpus.pixels(item_id))
        width = max(1, round(picture.width * HEIGHT / picture.height))
        return picture.resize((width, HEIGHT), Image.Resampling.LANCZOS)
    if isinstance(corpus, AudioCorpus):
        return spectrogram(corpus.waveform(item_id))
    raise InvalidField(
        f"corpus {corpus_name!r} holds {corpus.info.media_type}, allowed: pictures and sounds",
        field="corpus",
    )


def spectrogram(waveform: NDArray[np.float32]) -> Image.Image:
    """Short-time spectrum of a 16 kHz waveform: time to the right, 0…8 kHz upwards, 80 dB from black to yellow."""
    import matplotlib as mpl

    padded = np.pad(waveform, (0, max(0, FRAME - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME), axis=1)) ** 2
    level_db = lin_to_db(np.maximum(power / max(float(power.max()), 1e-12), 1e-12))
    shade = np.clip(1.0 - level_db / FLOOR_DB, 0.0, 1.0).T[::-1]
    rgb = (mpl.colormaps["inferno"](shade)[..., :3] * 255).astype(np.uint8)
    return Image.fromarray(rgb).resize(SPECTROGRAM, Image.Resampling.BOX)


@lru_cache(maxsize=1024)
def data_uri(corpus_name: str, item_id: str) -> str:
    """:func:`thumbnail` as a JPEG inside an URI."""
    buffer = io.BytesIO()
    thumbnail(corpus_name, item_id).save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
