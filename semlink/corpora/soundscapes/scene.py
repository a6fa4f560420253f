"""What happens in a scene: drawn from a hash of (seed, item id), before any sample is read.

A scene is ten seconds of 2–4 events of different sounds in groups, one group after the other. A group is one event, or
a continuous event with another one during it. A quiet bed may run below the whole scene. Our definition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, TypeVar

import numpy as np

from semlink.corpora.corpus import AUDIO_SAMPLE_RATE_HZ, Split
from semlink.corpora.soundscapes.recordings import Region, regions

GENERATOR_VERSION = 3
"""Raised whenever the same (seed, item id) would give another scene, caption or waveform."""

DURATION_S = 10.0
NUM_SAMPLES = int(DURATION_S * AUDIO_SAMPLE_RATE_HZ)

Loudness = Literal["faint", "normal", "loud"]
Length = Literal["short", "medium", "long"]

MAX_COUNT: Mapping[str, int] = {"dog bark": 4, "person sneeze": 3, "rooster": 2}
"""Countable sounds and their largest count."""
CONTINUOUS = (
    *("rain", "sea waves", "baby cry", "clock tick", "helicopter", "chainsaw", "fire crackling"),
)
SOUNDS = (*MAX_COUNT, *CONTINUOUS)
BEDS = ("rain", "sea waves", "clock tick", "helicopter", "fire crackling")

NUM_EVENTS = ((2, 0.12), (3, 0.58), (4, 0.30))
LOUDNESS = (("faint", 0.18), ("normal", 0.64), ("loud", 0.18))
LENGTH = (("short", 0.3), ("medium", 0.4), ("long", 0.3))
SHARE_WITH_BED = 0.5
SHARE_WITH_OVERLAP = 0.2

LEVEL_DB: Mapping[Loudness, float] = {"faint": -35.0, "normal": -25.0, "loud": -17.0}
"""K-weighted RMS of an event over its own duration, dB re full scale."""
LEVEL_JITTER_DB = 1.0
BED_LEVEL_DB = -36.0
BASE_OF_OVERLAP_DB = -5.0
"""The continuous event of an overlap is this much below normal, so that the other one is heard."""
LENGTH_S: Mapping[Length, tuple[float, float]] = {
    "short": (1.1, 1.5),
    "medium": (2.0, 2.5),
    "long": (3.6, 4.6),
}
GAP_OF_REPEATS_S: Mapping[str, tuple[float, float]] = {
    "dog bark": (0.15, 0.35),
    "person sneeze": (0.25, 0.5),
    "rooster": (0.2, 0.4),
}
OVERLAP_LEAD_S = (0.35, 0.7)
"""How long the base of an overlap sounds alone before, and after, the other event."""
GAP_OF_GROUPS_S = (0.12, 0.45)
EDGE_S = 0.1
MAX_ATTEMPTS = 200

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Play:
    """One stretch of a region put into the scene; continuous stretches may loop. Offsets are samples."""

    region: Region
    start: int
    num_samples: int
    offset: int
    gain_db: float


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a scene. ``length`` is None for countable sounds, ``count`` is None for continuous ones."""

    sound: str
    count: int | None
    loudness: Loudness
    length: Length | None
    level_db: float
    plays: tuple[Play, ...]

    @property
    def start(self) -> int:
        """First sample of the event."""
        return self.plays[0].start

    @property
    def end(self) -> int:
        """One past the last sample of the event."""
        return self.plays[-1].start + self.plays[-1].num_samples


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene: groups of one or two simultaneous events in order of time, and a bed below them."""

    groups: tuple[tuple[Event, ...], ...]
    bed: Event | None

    @property
    def events(self) -> tuple[Event, ...]:
        """All events but the bed, group by group; in a pair the base comes first."""
        return tuple(event for group in self.groups for event in group)

    @property
    def structure(self) -> tuple[str, ...]:
        """Which sounds in which order, what overlaps and what lies below: no two items of a split share it."""
        return (
            self.bed.sound if self.bed else "",
            *("+".join(event.sound for event in group) for group in self.groups),
        )

    def attributes(self) -> Mapping[str, Any]:
        """The complete ground truth, ready for JSON; times in seconds, levels in dB re full scale."""
        groups = enumerate(self.groups)
        return {
            "duration_s": DURATION_S,
            "structure": list(self.structure),
            "bed": _described(self.bed, None) if self.bed else None,
            "events": [_described(event, number) for number, group in groups for event in group],
        }


def _described(event: Event, group: int | None) -> dict[str, Any]:
    rate = AUDIO_SAMPLE_RATE_HZ
    return {
        "sound": event.sound,
        "group": group,
        "count": event.count,
        "loudness": event.loudness,
        "length": event.length,
        "level_db": round(event.level_db, 2),
        "start_s": event.start / rate,
        "end_s": event.end / rate,
        "onsets_s": [play.start / rate for play in event.plays],
        "source": event.plays[0].region.file_name,
    }


class Draws:
    """Random draws that depend on the given words alone (BLAKE2b → PCG64)."""

    def __init__(self, *words: object) -> None:
        digest = hashlib.blake2b("|".join(map(str, words)).encode(), digest_size=16).digest()
        generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
        self.unit: Callable[[], float] = generator.random

    def chance(self, share: float) -> bool:
        """True with probability ``share``."""
        return self.unit() < share

    def between(self, low: float, high: float) -> float:
        """Uniform in ``[low, high)``."""
        return low + (high - low) * self.unit()

    def below(self, limit: int) -> int:
        """Uniform in ``0 … limit − 1``."""
        return int(self.unit() * limit)

    def one_of(self, choices: Sequence[T]) -> T:
        """One of ``choices``, all alike."""
        return choices[int(self.unit() * len(choices))]

    def weighted(self, choices: Sequence[tuple[T, float]]) -> T:
        """One of ``choices`` with the given shares, which sum to one."""
        point = self.unit()
        for choice, share in choices:
            point -= share
            if point < 0:
                return choice
        return choices[-1][0]

    def shuffled(self, choices: Sequence[T]) -> list[T]:
        """``choices`` in random order (Fisher–Yates)."""
        order = list(choices)
        for last in range(len(order) - 1, 0, -1):
            other = int(self.unit() * (last + 1))
            order[last], order[other] = order[other], order[last]
        return order


@dataclass(slots=True)
class _Plan:
    """An event before it has a place in time."""

    sound: str
    loudness: Loudness
    level_db: float
    length: Length | None
    pieces: list[tuple[Region, int, int]]
    """(region, samples of silence before it, samples to play) of every repeat."""
    offset: int

    @property
    def num_samples(self) -> int:
        return sum(silence + played for _, silence, played in self.pieces)

    def placed(self, start: int, draws: Draws) -> Event:
        plays = []
        for region, silence, played in self.pieces:
            start += silence
            wobble = draws.between(-1.5, 1.5) if len(self.pieces) > 1 else 0.0
            plays.append(Play(region, start, played, self.offset, wobble))
            start += played
        count = len(plays) if self.sound in MAX_COUNT else None
        return Event(self.sound, count, self.loudness, self.length, self.level_db, tuple(plays))


def draw_scene(draws: Draws, split: Split) -> Scene:
    """Draw one scene from the recordings of ``split``."""
    sounds = draws.shuffled(SOUNDS)[: draws.weighted(NUM_EVENTS)]
    pair = _overlapping_pair(draws, sounds)
    bed_sounds = [sound for sound in BEDS if sound not in sounds]
    bed_sound = draws.one_of(bed_sounds) if draws.chance(SHARE_WITH_BED) and bed_sounds else None
    room = NUM_SAMPLES - 2 * _samples(EDGE_S)
    for attempt in range(MAX_ATTEMPTS):
        # The later the attempt, the more modest: a scene of four long sounds does not fit.
        groups = _draw_groups(draws, split, sounds, pair, modest=attempt > MAX_ATTEMPTS // 2)
        gaps = [_samples(draws.between(*GAP_OF_GROUPS_S)) for _ in groups[1:]]
        spare = room - sum(gaps) - sum(_group_samples(group) for group in groups)
        if spare >= 0:
            break
    else:
        raise RuntimeError(f"no scene of {sounds} fits into {DURATION_S} s")
    bed = _draw_bed(draws, split, bed_sound) if bed_sound else None
    return Scene(_place(draws, groups, gaps, spare), bed)


def _samples(seconds: float) -> int:
    return int(seconds * AUDIO_SAMPLE_RATE_HZ)


def _overlapping_pair(draws: Draws, sounds: list[str]) -> int | None:
    """Index of the first of two neighbours that sound together, reordered so that the base comes first."""
    if len(sounds) < 3 or not draws.chance(SHARE_WITH_OVERLAP):
        return None
    pairs = [i for i, pair in enumerate(pairwise(sounds)) if not {*pair}.isdisjoint(CONTINUOUS)]
    if not pairs:
        return None
    pair = draws.one_of(pairs)
    if sounds[pair] not in CONTINUOUS:
        sounds[pair], sounds[pair + 1] = sounds[pair + 1], sounds[pair]
    return pair


def _draw_groups(
    draws: Draws, split: Split, sounds: Sequence[str], pair: int | None, *, modest: bool
) -> list[list[_Plan]]:
    groups: list[list[_Plan]] = []
    for index, sound in enumerate(sounds):
        if pair is not None and index == pair + 1:
            base = groups[-1][0]
            other = _draw_event(draws, split, sound, overlapped=True, modest=True)
            region, _, _ = base.pieces[0]
            num_samples = other.num_samples + 2 * _samples(OVERLAP_LEAD_S[1])
            base.pieces = [(region, 0, num_samples)]
            base.length = None
            base.offset = _draw_offset(draws, region, num_samples)
            groups[-1].append(other)
        else:
            event = _draw_event(draws, split, sound, overlapped=index == pair, modest=modest)
            groups.append([event])
    return groups


def _draw_event(draws: Draws, split: Split, sound: str, *, overlapped: bool, modest: bool) -> _Plan:
    loudness: Loudness = "normal" if overlapped else draws.weighted(LOUDNESS)  # type: ignore[arg-type]
    level_db = LEVEL_DB[loudness] + draws.between(-LEVEL_JITTER_DB, LEVEL_JITTER_DB)
    clip = draws.one_of(regions()[split][sound])
    if sound in MAX_COUNT:
        most = min(2, MAX_COUNT[sound]) if modest else MAX_COUNT[sound]
        pieces = []
        for repeat in range(1 + draws.below(most)):
            region = draws.one_of(clip)
            silence = _samples(draws.between(*GAP_OF_REPEATS_S[sound])) if repeat else 0
            pieces.append((region, silence, region.num_samples))
        return _Plan(sound, loudness, level_db, None, pieces, 0)
    region = draws.one_of(clip)
    length: Length = "short" if modest else draws.weighted(LENGTH)  # type: ignore[arg-type]
    num_samples = _samples(draws.between(*LENGTH_S[length]))
    offset = _draw_offset(draws, region, num_samples)
    named = None if overlapped else length
    return _Plan(sound, loudness, level_db, named, [(region, 0, num_samples)], offset)


def _draw_offset(draws: Draws, region: Region, num_samples: int) -> int:
    """Where to start in the region. A cry starts at a phrase, which is where its regions start."""
    if region.sound == "baby cry":
        return 0
    return draws.below(max(1, region.num_samples - num_samples))


def _draw_bed(draws: Draws, split: Split, sound: str) -> Event:
    region = draws.one_of(draws.one_of(regions()[split][sound]))
    level_db = BED_LEVEL_DB + draws.between(-LEVEL_JITTER_DB, LEVEL_JITTER_DB)
    play = Play(region, 0, NUM_SAMPLES, _draw_offset(draws, region, NUM_SAMPLES), 0.0)
    return Event(sound, None, "faint", None, level_db, (play,))


def _group_samples(group: Sequence[_Plan]) -> int:
    return max(plan.num_samples for plan in group)


def _place(
    draws: Draws, groups: Sequence[Sequence[_Plan]], gaps: Sequence[int], spare: int
) -> tuple[tuple[Event, ...], ...]:
    # Spare time goes before, between (at most half a second more a gap) and after the groups.
    shares = [draws.unit() for _ in range(len(groups) + 1)]
    total = sum(shares)
    extra = [int(spare * share / total) for share in shares]
    start = _samples(EDGE_S) + min(extra[0], _samples(0.6))
    placed = []
    for number, group in enumerate(groups):
        base = group[0].placed(start, draws)
        events = [base]
        if len(group) == 2:
            lead = _samples(draws.between(*OVERLAP_LEAD_S))
            events[0] = replace(base, level_db=base.level_db + BASE_OF_OVERLAP_DB)
            events.append(group[1].placed(start + lead, draws))
        placed.append(tuple(events))
        start += _group_samples(group)
        if number < len(gaps):
            start += gaps[number] + min(extra[number + 1], _samples(0.5))
    return tuple(placed)
