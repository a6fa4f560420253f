"""Reader of ESC-50 in its public layout (Piczak, ACM Multimedia 2015)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from semlink.corpora.corpus import Item, Split
from semlink.corpora.layouts import (
    Files,
    Row,
    file_name,
    first_file,
    first_folder,
    item_id_of,
    table_rows,
    wrong,
)
from semlink.corpora.listed import Listed, ListedSounds
from semlink.errors import InvalidField

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
class _Clip:
    """One line of the table, checked."""

    filename: str
    fold: int
    target: int
    category: str


class Esc50(ListedSounds):
    """ESC-50 under ``root``: ``audio/*.wav`` or ``.ogg`` and ``meta/esc50.csv`` (or ``esc50.csv``).

    Splits are made by the official folds, which keep the clips of one source recording together: ``val_fold``,
    ``test_fold``, and all others train; folds that are not there leave their split out (see :attr:`splits`). Five
    captions are made from the category by templates, so that all clips of a category have the same ones: the identity
    is still the clip, and ``attributes`` holds ``category`` (words parted by spaces), ``target`` and ``fold`` for a
    measure by category.

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
        root = Path(root)
        audio = first_folder(root, ["audio"])
        table = first_file(root, TABLES)
        skipped: Counter[str] = Counter()
        super().__init__(
            "esc50",
            root,
            _clips(table, audio, {val_fold: "val", test_fold: "test"}, skipped),
            skipped,
            licence="CC BY-NC 3.0",
            description="Environmental sounds of fifty categories, five seconds each",
        )


def _clips(
    table: Path, audio: Path, split_of_fold: Mapping[int, Split], skipped: Counter[str]
) -> Iterator[Listed]:
    on_disk = Files(audio)
    seen: set[str] = set()
    for raw in table_rows(table, COLUMNS):
        row = _checked(raw)
        # The id is the name without its ending, so that must be unique as well.
        stem = Path(row.filename).stem
        if stem in seen:
            raise wrong(raw.where, f"{stem} was given before")
        seen.add(stem)
        if row.filename not in on_disk:
            skipped["clip in the table that is not on disk"] += 1
            continue
        item_id = item_id_of(stem)
        split = split_of_fold.get(row.fold, "train")
        attributes = {"category": row.category, "target": row.target, "fold": row.fold}
        item = Item(item_id, item_id, split, captions_of(row.category), attributes)
        yield Listed(item, audio / row.filename, raw.where)


def captions_of(category: str) -> tuple[str, ...]:
    """Five captions of a category; one that is not among the fifty is named by its own words."""
    phrase = PHRASES.get(category, category)
    made = (template.format(phrase) for template in TEMPLATES)
    return tuple(caption[0].upper() + caption[1:] for caption in made)


def _checked(row: Row) -> _Clip:
    filename, fold, target, category = (row.fields[column] for column in COLUMNS)
    file_name(filename, CONTENT_TYPES, row.where, "filename")
    if fold not in map(str, FOLDS):
        raise wrong(row.where, f"fold is {fold!r}, allowed are 1…5")
    if not target.isdecimal():
        raise wrong(row.where, f"target is {target!r}, expected a number")
    if not category.strip():
        raise wrong(row.where, "category is empty")
    return _Clip(filename, int(fold), int(target), category.replace("_", " ").strip())
