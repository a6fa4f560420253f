"""Find the playable regions of the source recordings: ``python -m semlink.corpora.soundscapes.segment``.

Writes ``regions.csv`` beside ``clips.csv``. The file is committed, so that a corpus starts without decoding all
recordings; a test runs this module again and compares.

Our definition. The envelope is the RMS in 10 ms frames, smoothed over three, in dB below its maximum. Frames above a
threshold are active; active frames closer than a gap belong together. Countable sounds (bark, crow, sneeze) need one
utterance per region, so their gap is short, and a region that is too long to be one utterance is left out. Continuous
sounds keep their longest active stretch; a baby's cry may start at any of its phrases.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from semlink.corpora.corpus import AUDIO_SAMPLE_RATE_HZ
from semlink.corpora.soundscapes.recordings import RECORDINGS_DIR, decode, recordings
from semlink.decibels import lin_to_db

FRAME = AUDIO_SAMPLE_RATE_HZ // 100


@dataclass(frozen=True, slots=True)
class Utterance:
    """What one utterance of a countable sound looks like (times in seconds, levels in dB below the peak)."""

    threshold_db: float
    gap_s: float
    shortest_s: float
    longest_s: float
    most_per_clip: int
    lead_s: float
    tail_s: float
    pulse_dip_db: float
    """Parts of an utterance that are parted by a deeper dip than this would be counted one by one."""


UTTERANCES = {
    "dog bark": Utterance(22, 0.08, 0.08, 0.5, 4, 0.02, 0.12, 9),
    "rooster": Utterance(25, 0.35, 1.0, 2.8, 1, 0.03, 0.25, np.inf),
    "person sneeze": Utterance(25, 0.25, 0.2, 1.4, 1, 0.05, 0.15, np.inf),
}
CONTINUOUS_THRESHOLD_DB = 40.0
CONTINUOUS_GAP_S = 1.0
SHORTEST_CONTINUOUS_S = 1.5
PHRASE_THRESHOLD_DB = 25.0
PHRASE_GAP_S = 0.3


def active_stretches(
    samples: NDArray[np.float32], threshold_db: float, gap_s: float
) -> list[tuple[int, int]]:
    """``(start, end)`` in samples of each stretch within ``threshold_db`` of the loudest frame."""
    envelope_db = _envelope_db(samples)
    active = np.flatnonzero(envelope_db > envelope_db.max() - threshold_db)
    breaks = np.flatnonzero(np.diff(active) > gap_s * AUDIO_SAMPLE_RATE_HZ / FRAME)
    starts = active[np.concatenate(([0], breaks + 1))]
    ends = active[np.concatenate((breaks, [len(active) - 1]))] + 1
    return [(int(a) * FRAME, int(b) * FRAME) for a, b in zip(starts, ends, strict=True)]


def _envelope_db(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    num_frames = len(samples) // FRAME
    power = (samples[: num_frames * FRAME].reshape(num_frames, FRAME) ** 2).mean(1)
    return np.convolve(lin_to_db(power + 1e-12), np.ones(3) / 3, "same")


def utterances(samples: NDArray[np.float32], kind: Utterance) -> list[tuple[int, int]]:
    """The loudest single utterances of a countable sound, in order of time, with lead and tail."""
    rate = AUDIO_SAMPLE_RATE_HZ
    stretches = active_stretches(samples, kind.threshold_db, kind.gap_s)
    # The limits of the neighbours: an utterance's tail must not run into the next one.
    floors = [0] + [(a[1] + b[0]) // 2 for a, b in pairwise(stretches)]
    ceilings = [*floors[1:], len(samples)]
    found = []
    for (start, end), floor, ceiling in zip(stretches, floors, ceilings, strict=True):
        # An utterance that the clip's edge cuts off is not a whole one, unless it is the only one.
        cut = (start == 0 or end >= len(samples) - FRAME) and len(stretches) > 1
        fits = kind.shortest_s * rate <= end - start <= kind.longest_s * rate
        if fits and not cut and num_pulses(samples[start:end], kind) == 1:
            energy = float((samples[start:end] ** 2).mean())
            lead, tail = int(kind.lead_s * rate), int(kind.tail_s * rate)
            found.append((energy, max(floor, start - lead), min(ceiling, end + tail)))
    loudest = sorted(found, reverse=True)[: kind.most_per_clip]
    # A bark in the distance is not the same utterance: stay within 10 dB of the loudest.
    return sorted((a, b) for energy, a, b in loudest if energy > 0.1 * loudest[0][0])


def num_pulses(samples: NDArray[np.float32], kind: Utterance) -> int:
    """Number of pulses in one utterance: a double bark has two, although no pause parts them."""
    envelope_db = _envelope_db(samples)
    loud = np.flatnonzero(envelope_db > envelope_db.max() - kind.pulse_dip_db)
    return 1 + int((np.diff(loud) > 2).sum())


def continuous(samples: NDArray[np.float32], *, by_phrase: bool) -> list[tuple[int, int]]:
    """The longest active stretch of a continuous sound; ``by_phrase``: one region per place to start at."""
    stretches = active_stretches(samples, CONTINUOUS_THRESHOLD_DB, CONTINUOUS_GAP_S)
    start, end = max(stretches, key=lambda stretch: stretch[1] - stretch[0])
    shortest = int(SHORTEST_CONTINUOUS_S * AUDIO_SAMPLE_RATE_HZ)
    if end - start < shortest:
        return []
    if not by_phrase:
        return [(start, end)]
    phrases = active_stretches(samples[start:end], PHRASE_THRESHOLD_DB, PHRASE_GAP_S)
    return [(start + a, end) for a, _ in phrases if end - start - a >= shortest]


def find_regions() -> Iterator[tuple[str, int, int]]:
    """``(file_name, start_sample, end_sample)`` of every playable region, in the order of ``clips.csv``."""
    for recording in recordings().values():
        samples = decode(recording.file_name).plain
        kind = UTTERANCES.get(recording.sound)
        found = (
            utterances(samples, kind)
            if kind
            else continuous(samples, by_phrase=recording.sound == "baby cry")
        )
        yield from ((recording.file_name, start, end) for start, end in found)


def main() -> None:
    """Write ``regions.csv``."""
    path = RECORDINGS_DIR / "regions.csv"
    with path.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["file_name", "start_sample", "end_sample"])
        writer.writerows(find_regions())
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
