"""Other takes of a sound or picture for training: another device, another pace, another view (our definition)."""

from __future__ import annotations

from typing import Final

import numpy as np
import soxr
from numpy.typing import NDArray
from PIL import Image

from semlink.corpora.corpus import AUDIO_SAMPLE_RATE_HZ
from semlink.decibels import db_to_amplitude
from semlink.seeds import stable_seed

SPEED: Final = (0.93, 1.12)
"""Pace and pitch together, as a tape at another speed; below one the end is cut, at most 0.7 s of 10."""
EQUALISER_DB: Final = 4.0
"""Deviation of the gain at each of eight frequencies from 60 Hz to 8 kHz."""

VIEW: Final = (0.72, 0.95)
"""Sides of the window that another view shows, as a share of the picture's."""


def another_view(pixels: NDArray[np.uint8], item_id: str, take: int) -> NDArray[np.uint8]:
    """The picture seen otherwise, ``[height, width, 3]``, uint8, same shape: odd takes in the mirror, all from nearer
    but the first.

    Deterministic in ``item_id`` and ``take``. Not for corpora whose captions tell left from right.
    """
    rng = np.random.Generator(np.random.Philox(key=stable_seed("view", 1, item_id, take)))
    view = pixels[:, ::-1] if take % 2 else pixels
    if take > 1:
        height, width = pixels.shape[:2]
        share = rng.uniform(*VIEW)
        rows, columns = max(1, round(height * share)), max(1, round(width * share))
        top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
        window = Image.fromarray(view[top : top + rows, left : left + columns])
        view = np.asarray(window.resize((width, height), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(view)


def another_take(waveform: NDArray[np.float32], item_id: str, take: int) -> NDArray[np.float32]:
    """The waveform at another speed through another microphone: same length, float32, peak at most one.

    Deterministic in ``item_id`` and ``take``. Relations between events (order, overlap, counts, loudness) stay.
    """
    rng = np.random.Generator(np.random.Philox(key=stable_seed("take", 1, item_id, take)))
    speed = float(np.exp(rng.uniform(*np.log(SPEED))))
    quicker = soxr.resample(waveform, AUDIO_SAMPLE_RATE_HZ * speed, AUDIO_SAMPLE_RATE_HZ)
    fitted = np.zeros_like(waveform)
    length = min(len(fitted), len(quicker))
    fitted[:length] = quicker[:length]
    spectrum = np.fft.rfft(fitted)
    frequencies = np.fft.rfftfreq(len(fitted), 1.0 / AUDIO_SAMPLE_RATE_HZ)
    knots = np.geomspace(60.0, AUDIO_SAMPLE_RATE_HZ / 2, 8)
    gain_db = np.interp(
        np.log(np.maximum(frequencies, knots[0])), np.log(knots), rng.normal(0.0, EQUALISER_DB, 8)
    )
    heard = np.fft.irfft(spectrum * db_to_amplitude(gain_db), len(fitted))
    return (heard / max(1.0, float(np.abs(heard).max()))).astype(np.float32)
