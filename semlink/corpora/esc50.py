"""Reader of ESC-50 in its public layout (Piczak, ACM Multimedia 2015)."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semlink.corpora.corpus import AudioCorpus, CorpusInfo, Item, Media, Split
from semlink.corpora.media_io import decode_audio
from semlink.errors import InvalidField, NotFound

TABLES = ("meta/esc50.csv", "esc50.csv")
COLUMNS = ("filename", "fold", "target", "category")
FOLDS = (1, 2, 3, 4, 5)
CONTENT_TYPES = {".wav": "audio/wav", ".ogg": "audio/ogg"}

PHRASES: Mapping[str, str] = {
    "airplane": "an airplane flying over",
    "breathing": "a person breathing",
    "brushing teeth": "someone brushing their teeth",
    "can opening": "a can being opened",
    "car horn": "a car horn honking",
    "cat": "a cat meowing",
    "chainsaw": "a chainsaw running",
    "chirping birds": "birds chirping",
    "church bells": "church bells ringing",
    "clapping": "people clapping their hands",
    "clock alarm": "an alarm clock going off",
    "clock tick": "a clock ticking",
    "coughing": "a person coughing",
    "cow": "a cow mooing",
    "crackling fire": "a fire crackling",
    "crickets": "crickets chirping",
    "crow": "a crow cawing",
    "crying baby": "a baby crying",
    "dog": "a dog barking",
    "door": "a wooden door creaking",
    "door knock": "someone knocking on a wooden door",
    "door wood creaks": "a wooden door creaking",
    "door wood knock": "someone knocking on a wooden door",
    "drinking": "someone drinking in sips",
    "drinking sipping": "someone drinking in sips",
    "engine": "an engine running",
    "fireworks": "fireworks going off",
    "footsteps": "footsteps of a person walking",
    "frog": "a frog croaking",
    "glass breaking": "glass breaking",
    "hand saw": "a hand saw cutting wood",
    "helicopter": "a helicopter flying",
    "hen": "a hen clucking",
    "insects": "insects buzzing",
    "keyboard typing": "someone typing on a keyboard",
    "laughing": "a person laughing",
    "mouse click": "a computer mouse clicking",
    "pig": "a pig grunting",
    "pouring water": "water being poured",
    "rain": "rain falling",
    "rooster": "a rooster crowing",
    "sea waves": "sea waves rolling in",
    "sheep": "a sheep bleating",
    "siren": "a siren wailing",
    "sneezing": "a person sneezing",
    "snoring": "a person snoring",
    "thunderstorm": "thunder rumbling in a storm",
    "toilet flush": "a toilet being flushed",
    "train": "a train passing by",
    "vacuum cleaner": "a vacuum cleaner running",
    "washing machine": "a washing machine running",
    "water drops": "drops of water falling",
    "wind": "wind blowing",
}
"""Each of the fifty categories as something one hears; three also go by a shorter name."""

TEMPLATES = (
    "{}.",
    "The sound of {}.",
    "A recording of {}.",
    "One can hear {}.",
    "This is what {} sounds like.",
)
"""Our own: ESC-50 has categories, not captions."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the table, checked."""

    filename: str
    fold: int
    target: int
    category: str


class Esc50(AudioCorpus):
    """ESC-50 under ``root``: ``audio/*.wav`` or ``.ogg`` and ``meta/esc50.csv`` (or ``esc50.csv``).

    Splits are made by the official folds, which keep the clips of one source recording together: ``val_fold``,
    ``test_fold``, and all others train. Five captions are made from the category by templates, so that all clips of a
    category have the same ones: the identity is still the clip, and ``attributes`` holds ``category`` (words parted
    by spaces), ``target`` and ``fold`` for a measure by category.

    ``skipped`` counts what was left out, ``skipped_by_reason`` says why: clips in the table that are not on disk.

    :param val_fold: 1…5. :param test_fold: 1…5, another one.
    :raises NotFound: if the audio folder or the table is missing, or no clip is left.
    :raises InvalidField: for a fold out of range or a line that is wrong; the message names the file and the line.
    """

    def __init__(self, root: str | Path, *, val_fold: int = 4, test_fold: int = 5) -> None:
        for field, fold in (("val_fold", val_fold), ("test_fold", test_fold)):
            if fold not in FOLDS:
                raise InvalidField(f"{field} is {fold}, allowed are 1…5", field=field)
        if val_fold == test_fold:
            raise InvalidField(f"test_fold is {test_fold}, as is val_fold", field="test_fold")
        self.root = Path(root)
        self._audio = self.root / "audio"
        if not self._audio.is_dir():
            raise NotFound(f"{self._audio} is not there", field="root")
        split_of_fold: dict[int, Split] = {val_fold: "val", test_fold: "test"}
        skipped: Counter[str] = Counter()
        items: dict[Split, list[Item]] = {"train": [], "val": [], "test": []}
        self._files: dict[str, Path] = {}
        for row in self._read_rows():
            path = self._audio / row.filename
            if not path.is_file():
                skipped["clip in the table that is not on disk"] += 1
                continue
            split = split_of_fold.get(row.fold, "train")
            self._files[path.stem] = path
            items[split].append(
                Item(
                    item_id=path.stem,
                    identity=path.stem,
                    split=split,
                    captions=captions_of(row.category),
                    attributes={
                        "category": row.category,
                        "target": row.target,
                        "fold": row.fold,
                    },
                )
            )
        if not self._files:
            raise NotFound(f"{self._audio} holds no clip of the table", field="root")
        self.skipped_by_reason: Mapping[str, int] = dict(skipped)
        self.skipped = skipped.total()
        self._items: dict[Split, tuple[Item, ...]] = {s: tuple(i) for s, i in items.items() if i}
        self._by_id = {item.item_id: item for of_split in items.values() for item in of_split}
        first = next(iter(self._files.values()))
        self.info = CorpusInfo(
            name="esc50",
            task="audio",
            media_type=CONTENT_TYPES[first.suffix],
            licence="CC BY-NC 3.0",
            source=self.root.name,
            description="Environmental sounds of fifty categories, five seconds each",
        )

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that hold any clip."""
        return tuple(self._items)

    def items(self, split: Split) -> Sequence[Item]:
        """Items of ``split`` in the order of the table. Raises NotFound if no clip of its folds is there."""
        if split not in self._items:
            raise NotFound(f"esc50 under {self.root.name} has no {split!r} clips", field="split")
        return self._items[split]

    def item(self, item_id: str) -> Item:
        """One item. Raises NotFound for an unknown id."""
        if item_id not in self._by_id:
            raise NotFound(f"corpus esc50 has no item {item_id!r}", field="item_id")
        return self._by_id[item_id]

    def media(self, item_id: str) -> Media:
        """The clip's file as it is, WAV or OGG. Raises NotFound for an unknown id."""
        path = self._files[self.item(item_id).item_id]
        return Media(CONTENT_TYPES[path.suffix], path.read_bytes())

    def waveform(self, item_id: str) -> NDArray[np.float32]:
        """Mono samples at 16 kHz, ``[num_samples]``, float32. Raises NotFound, or InvalidField for a broken file."""
        media = self.media(item_id)
        return decode_audio(media.data, media.content_type, f"audio/{self._files[item_id].name}")

    def _read_rows(self) -> Iterator[_Row]:
        tables = [self.root / name for name in TABLES if (self.root / name).is_file()]
        if not tables:
            raise NotFound(f"{self.root}: neither {TABLES[0]} nor {TABLES[1]}", field="root")
        seen: set[str] = set()
        with tables[0].open(encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines)
            missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
            if missing:
                raise InvalidField(
                    f"{tables[0]}, line 1: no column {', '.join(missing)}", field="root"
                )
            for raw in rows:
                row = _checked(raw, f"{tables[0]}, line {rows.line_num}")
                # The id is the name without its ending, so that must be unique as well.
                stem = Path(row.filename).stem
                if stem in seen:
                    raise InvalidField(
                        f"{tables[0]}, line {rows.line_num}: {stem} was given before", field="root"
                    )
                seen.add(stem)
                yield row


def captions_of(category: str) -> tuple[str, ...]:
    """Five captions of a category; one that is not among the fifty is named by its own words."""
    phrase = PHRASES.get(category, category)
    made = (template.format(phrase) for template in TEMPLATES)
    return tuple(caption[0].upper() + caption[1:] for caption in made)


def _checked(raw: Mapping[str, str | None], where: str) -> _Row:
    filename, fold, target, category = (raw[column] or "" for column in COLUMNS)
    if Path(filename).name != filename or Path(filename).suffix not in CONTENT_TYPES:
        raise InvalidField(
            f"{where}: filename is {filename!r}, expected a name ending in .wav or .ogg",
            field="root",
        )
    if fold not in map(str, FOLDS):
        raise InvalidField(f"{where}: fold is {fold!r}, allowed are 1…5", field="root")
    if not target.isdecimal():
        raise InvalidField(f"{where}: target is {target!r}, expected a number", field="root")
    if not category.strip():
        raise InvalidField(f"{where}: category is empty", field="root")
    words = category.replace("_", " ").strip()
    return _Row(filename, int(fold), int(target), words)
