"""The corpus itself: ids, splits, captions, samples."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence

import numpy as np
import soundfile
from numpy.typing import NDArray

from semlink.corpora.corpus import (
    AUDIO_SAMPLE_RATE_HZ,
    Corpus,
    CorpusInfo,
    Item,
    Media,
    Split,
    checked_sizes,
)
from semlink.corpora.soundscapes import mix
from semlink.corpora.soundscapes.captions import Writer
from semlink.corpora.soundscapes.recordings import recordings
from semlink.corpora.soundscapes.scene import GENERATOR_VERSION, Draws, Scene, draw_scene
from semlink.errors import InvalidField, NotFound

DEFAULT_NUM_ITEMS: Mapping[Split, int] = {"train": 3_000, "val": 300, "test": 1_000}
MAX_ITEMS = 100_000
MAX_REDRAWS = 1_000


class Soundscapes(Corpus):
    """Ten-second scenes of 2–4 sound events, mixed from 188 real CC0 recordings; five captions each.

    An item is a pure function of (``GENERATOR_VERSION``, ``seed``, item id): ``num_items`` only says how many there
    are. Recordings of one author of one sound stay in one split, for every seed. No two items of a split have the same
    sounds in the same order with the same overlap and bed. Everything is deterministic and thread-safe.

    :param seed: 0 or more.
    :param num_items: how many sounds a split has, 1…100,000; splits left out have 3,000 / 300 / 1,000.
    :raises InvalidField: for a negative seed, an unknown split or a number out of range.
    """

    info = CorpusInfo(
        name="soundscapes",
        task="audio",
        # FLAC: every browser plays it, and the encoder is deterministic (a Vorbis stream carries a random serial).
        media_type="audio/flac",
        licence="CC0-1.0",
        source="188 recordings under CC0 from freesound.org by way of ESC-10 (assets/esc10-cc0/clips.csv)",
        description="Ten-second sound scenes with order, counts, loudness, overlap and background",
    )

    def __init__(self, seed: int = 0, num_items: Mapping[Split, int] | None = None) -> None:
        if seed < 0:
            raise InvalidField(f"seed is {seed}, allowed are 0 and more", field="seed")
        self.seed = seed
        self.num_items = checked_sizes("num_items", num_items, DEFAULT_NUM_ITEMS, 1, MAX_ITEMS)
        self._lock = threading.Lock()
        self._items: dict[Split, Sequence[Item]] = {}
        self._scenes: dict[str, Scene] = {}
        self._by_id: dict[str, Item] = {}

    def items(self, split: Split) -> Sequence[Item]:
        """Items of ``split``, ``sound-{split}-0000`` first. Raises NotFound for an unknown split."""
        if split not in self.num_items:
            raise NotFound(f"corpus soundscapes has no split {split!r}", field="split")
        with self._lock:
            if split not in self._items:
                self._items[split] = self._draw_split(split)
            return self._items[split]

    def item(self, item_id: str) -> Item:
        """One item. Raises NotFound for an unknown id."""
        self._scene(item_id)
        return self._by_id[item_id]

    def content(self, item_id: str) -> NDArray[np.float32]:
        """Mono samples at 16 kHz, ``[160000]``, float32, peak at most 0.9. Raises NotFound for an unknown id."""
        return mix.render(self._scene(item_id))

    def stems(self, item_id: str) -> NDArray[np.float32]:
        """Each event alone, in the order of ``attributes["events"]``, the bed last if there is one.

        ``[num_events, 160000]``, float32. Their sum is the waveform up to one common factor. Raises NotFound.
        """
        return mix.stems(self._scene(item_id))

    def media(self, item_id: str) -> Media:
        """The sound as FLAC, 16 bits. Raises NotFound for an unknown id."""
        encoded, samples = io.BytesIO(), self.content(item_id)
        soundfile.write(encoded, samples, AUDIO_SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
        return Media(self.info.media_type, encoded.getvalue())

    def attribution(self) -> Sequence[str]:
        """One line for every source recording: title, author, address, licence."""
        return [
            f"{r.file_name}: “{r.title}” by {r.author}, {r.source_url}, {r.licence}"
            for r in recordings().values()
        ]

    def _scene(self, item_id: str) -> Scene:
        parts = item_id.split("-")
        if len(parts) == 3 and parts[1] in self.num_items:
            self.items(parts[1])
        if item_id not in self._scenes:
            raise NotFound(f"corpus soundscapes has no item {item_id!r}", field="item_id")
        return self._scenes[item_id]

    def _draw_split(self, split: Split) -> Sequence[Item]:
        taken: set[tuple[str, ...]] = set()
        items = []
        for number in range(self.num_items[split]):
            item_id = f"sound-{split}-{number:04d}"
            for redraw in range(MAX_REDRAWS):
                draws = Draws(GENERATOR_VERSION, self.seed, item_id, redraw)
                scene = draw_scene(draws, split)
                if scene.structure not in taken:
                    break
            taken.add(scene.structure)
            captions = Writer(scene, draws).captions()
            item = Item(item_id, item_id, split, captions, scene.attributes())
            self._scenes[item_id] = scene
            self._by_id[item_id] = item
            items.append(item)
        return tuple(items)
