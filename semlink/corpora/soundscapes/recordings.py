"""The CC0 source recordings: where each sounds, which split may use it, and its decoded samples."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import lfilter

from semlink.corpora.corpus import AUDIO_SAMPLE_RATE_HZ, SPLITS, Split
from semlink.decibels import db_to_amplitude

RECORDINGS_DIR = Path(__file__).resolve().parent.parent / "assets" / "esc10-cc0"

SHARE_OF_VAL = 0.15
SHARE_OF_TEST = 0.2


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of a recording that may be played: one bark, or the whole of a rain recording.

    ``start`` and ``end`` are samples at 16 kHz, ``0 ≤ start < end``.
    """

    file_name: str
    sound: str
    start: int
    end: int

    @property
    def num_samples(self) -> int:
        """Length in samples."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Recording:
    """One row of ``clips.csv``: a clip, what it holds, and whom to thank."""

    file_name: str
    sound: str
    title: str
    author: str
    source_url: str
    licence: str


@lru_cache(maxsize=1)
def recordings() -> Mapping[str, Recording]:
    """Every shipped clip by file name, in the order of ``clips.csv``."""
    columns = ("file_name", "category", "source_title", "author", "source_url", "licence")
    with (RECORDINGS_DIR / "clips.csv").open(encoding="utf-8", newline="") as lines:
        found = (Recording(*(row[c] for c in columns)) for row in csv.DictReader(lines))
        return {recording.file_name: recording for recording in found}


@lru_cache(maxsize=1)
def split_of_recordings() -> Mapping[str, Split]:
    """The split that each clip belongs to: the same for every seed, so that no two corpora mix them.

    Within a sound, all clips by one author stay together. That is stricter than keeping the takes of one source
    recording together: the same dog recorded twice by its owner does not end up on both sides either.
    """
    by_author: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for recording in recordings().values():
        by_author[recording.sound][recording.author].append(recording.file_name)
    splits: dict[str, Split] = {}
    for sound, authors in by_author.items():
        # Authors of few clips first: small ones fill val and test closely, large ones serve training.
        order = sorted(authors, key=lambda name: (len(authors[name]), _digest(f"{sound}|{name}")))
        num_clips = sum(len(clips) for clips in authors.values())
        wanted: dict[Split, float] = {"test": SHARE_OF_TEST * num_clips}
        wanted |= {"val": SHARE_OF_VAL * num_clips, "train": num_clips}
        filling = iter(wanted)
        split = next(filling)
        taken = 0
        for author in order:
            if taken >= wanted[split]:
                split, taken = next(filling), 0
            splits.update(dict.fromkeys(authors[author], split))
            taken += len(authors[author])
    return splits


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode()).digest()


@lru_cache(maxsize=1)
def regions() -> Mapping[Split, Mapping[str, Sequence[Sequence[Region]]]]:
    """Playable regions by split and sound, one inner sequence per clip (clips without any are left out).

    Read from ``regions.csv``, which ``python -m semlink.corpora.soundscapes.segment`` makes from the recordings.
    """
    by_clip: dict[str, list[Region]] = defaultdict(list)
    with (RECORDINGS_DIR / "regions.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            name = row["file_name"]
            start, end = int(row["start_sample"]), int(row["end_sample"])
            by_clip[name].append(Region(name, recordings()[name].sound, start, end))
    split_of = split_of_recordings()
    table: dict[Split, dict[str, list[tuple[Region, ...]]]] = {s: defaultdict(list) for s in SPLITS}
    for name, of_clip in by_clip.items():
        table[split_of[name]][of_clip[0].sound].append(tuple(of_clip))
    return {split: dict(by_sound) for split, by_sound in table.items()}


@dataclass(frozen=True, slots=True)
class Samples:
    """A decoded recording at 16 kHz.

    ``plain``: ``[num_samples]``, float32. ``weighted``: the same after K-weighting, from which levels are taken.
    Both are read-only: they are shared between threads.
    """

    plain: NDArray[np.float32]
    weighted: NDArray[np.float32]


@lru_cache(maxsize=256)
def decode(file_name: str) -> Samples:
    """Decode one shipped clip (OGG/Vorbis, 16 kHz mono)."""
    plain, rate = soundfile.read(RECORDINGS_DIR / "audio" / file_name, dtype="float32")
    if rate != AUDIO_SAMPLE_RATE_HZ or plain.ndim != 1:
        raise ValueError(f"{file_name}: expected 16 kHz mono, got {rate} Hz, shape {plain.shape}")
    samples = Samples(plain, k_weighted(plain))
    samples.plain.setflags(write=False)
    samples.weighted.setflags(write=False)
    return samples


def k_weighted(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """K-weighting of ITU-R BS.1770-4 (head shelf, then high pass), redesigned for 16 kHz.

    The analogue prototypes are those of Mansbridge, Finn and Reiss (AES 2012), as the 48 kHz coefficients of the
    Recommendation cannot be used at another rate. ``[num_samples]`` in and out, float32.
    """
    out: Any = samples
    for numerator, denominator in _K_FILTERS:
        out = lfilter(numerator, denominator, out)
    return cast("NDArray[np.float32]", np.asarray(out, dtype=np.float32))


def _filter(
    frequency_hz: float, quality: float, shelf_gain_db: float | None = None
) -> tuple[list[float], list[float]]:
    """Numerator and denominator of a high pass, or of a high shelf with that gain."""
    k = float(np.tan(np.pi * frequency_hz / AUDIO_SAMPLE_RATE_HZ))
    a0 = 1 + k / quality + k * k
    denominator = [1.0, 2 * (k * k - 1) / a0, (1 - k / quality + k * k) / a0]
    if shelf_gain_db is None:
        return [1.0, -2.0, 1.0], denominator
    high = db_to_amplitude(shelf_gain_db)
    band = high**0.4996667741545416 * k / quality
    first, last = (high + band + k * k) / a0, (high - band + k * k) / a0
    return [first, 2 * (k * k - high) / a0, last], denominator


_K_FILTERS = (
    _filter(1681.974450955533, 0.7071752369554196, 3.999843853973347),
    _filter(38.13547087602444, 0.5003270373238773),
)
