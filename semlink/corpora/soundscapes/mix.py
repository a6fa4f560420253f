"""From a scene to samples: level, fade, loop and add. Our definition."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from semlink.corpora.corpus import AUDIO_SAMPLE_RATE_HZ
from semlink.corpora.soundscapes.recordings import Samples, decode
from semlink.corpora.soundscapes.scene import MAX_COUNT, NUM_SAMPLES, Event, Play, Scene
from semlink.decibels import db_to_amplitude

PEAK = 0.9
"""No sample of a scene exceeds this; a scene that would is scaled as a whole."""
CREST_DB = 16.0
"""An event's peak is at most this far above its nominal level: a ticking clock would else be all peaks."""
LOOP_CROSSFADE = AUDIO_SAMPLE_RATE_HZ // 4
FADE_IN_S = {True: 0.005, False: 0.05}
FADE_OUT_S = {True: 0.04, False: 0.12}
"""Fades by whether the sound is countable: a bark has an attack, rain has none."""


def render(scene: Scene) -> NDArray[np.float32]:
    """The scene's samples, ``[160000]``, float32, peak ≤ 0.9."""
    mixed = np.zeros(NUM_SAMPLES, dtype=np.float32)
    for event in _sounding(scene):
        _add(mixed, event)
    peak = float(np.abs(mixed).max())
    if peak > PEAK:
        mixed *= np.float32(PEAK / peak)
    return mixed


def stems(scene: Scene) -> NDArray[np.float32]:
    """Every event alone, bed last if there is one: ``[num_events, 160000]``, float32, before peak scaling."""
    events = _sounding(scene)
    alone = np.zeros((len(events), NUM_SAMPLES), dtype=np.float32)
    for row, event in zip(alone, events, strict=True):
        _add(row, event)
    return alone


def _sounding(scene: Scene) -> list[Event]:
    return [*scene.events, *([scene.bed] if scene.bed else [])]


def _add(mixed: NDArray[np.float32], event: Event) -> None:
    for play in event.plays:
        mixed[play.start : play.start + play.num_samples] += _played(event, play)


def _played(event: Event, play: Play) -> NDArray[np.float32]:
    source = decode(play.region.file_name)
    taken = _taken(source, play)
    level = float(np.sqrt(np.mean(np.square(taken.weighted))))
    peak = float(np.abs(taken.plain).max())
    wanted = db_to_amplitude(event.level_db + play.gain_db)
    gain = min(wanted / max(level, 1e-9), wanted * db_to_amplitude(CREST_DB) / max(peak, 1e-9))
    countable = event.sound in MAX_COUNT
    fade_in = _ramp(int(FADE_IN_S[countable] * AUDIO_SAMPLE_RATE_HZ))
    fade_out = _ramp(int(FADE_OUT_S[countable] * AUDIO_SAMPLE_RATE_HZ))
    out = taken.plain * np.float32(gain)
    out[: len(fade_in)] *= fade_in
    out[len(out) - len(fade_out) :] *= fade_out[::-1]
    return out


def _taken(source: Samples, play: Play) -> Samples:
    """``play.num_samples`` of the region from ``play.offset`` on, looped where the region is shorter."""
    first, last = play.region.start, play.region.end
    start = first + play.offset
    if start + play.num_samples <= last:
        stretch = slice(start, start + play.num_samples)
        return Samples(source.plain[stretch], source.weighted[stretch])
    return Samples(
        _looped(source.plain[first:last], play.offset, play.num_samples),
        _looped(source.weighted[first:last], play.offset, play.num_samples),
    )


def _looped(stretch: NDArray[np.float32], offset: int, num_samples: int) -> NDArray[np.float32]:
    """Repeat ``stretch`` with equal-power cross-fades: its end is mixed into its start, then it is tiled."""
    overlap = min(LOOP_CROSSFADE, len(stretch) // 3)
    angle = np.linspace(0.0, np.pi / 2, overlap, dtype=np.float32)
    period = stretch[overlap:].copy()
    period[len(period) - overlap :] *= np.cos(angle)
    period[len(period) - overlap :] += stretch[:overlap] * np.sin(angle)
    # The first pass starts where the recording does, so that a cry keeps the start of its phrase.
    head = stretch[offset:overlap]
    skipped = max(0, offset - overlap)
    repeats = -(-(num_samples + skipped) // len(period))
    tiled = np.tile(period, repeats)[skipped:]
    return np.concatenate((head, tiled))[:num_samples]


@lru_cache(maxsize=8)
def _ramp(num_samples: int) -> NDArray[np.float32]:
    """Raised cosine from 0 to 1."""
    ramp = 0.5 - 0.5 * np.cos(np.linspace(0.0, np.pi, num_samples, dtype=np.float32))
    ramp.setflags(write=False)
    return ramp.astype(np.float32, copy=False)
