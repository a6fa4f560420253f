"""Tables of clips and captions, as Clotho and AudioCaps publish them: one row a clip, or one row a caption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semlink.corpora.corpus import Item, Split
from semlink.corpora.layouts import AUDIO_TYPES, Files, Row, file_name, wrong
from semlink.corpora.listed import Listed

NOT_ON_DISK = "clip in the table that is not on disk"
IN_TWO_SPLITS = "clip that another split holds as well"
CAPTION_COLUMNS = tuple(f"caption_{number}" for number in range(1, 6))


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip of a table: the file names it may have, its id, captions, and where the table names it first."""

    names: Sequence[str]
    item_id: str
    captions: tuple[str, ...]
    where: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


def found_table(root: Path, folders: Iterable[str], name: str) -> Path | None:
    """The first table of that name in one of ``folders`` under ``root``."""
    paths = (root / folder / name for folder in folders)
    return next((path for path in paths if path.is_file()), None)


def audio_folders(root: Path, patterns: Iterable[str], part: str) -> Sequence[Path]:
    """The folders under ``root`` that are there and may hold the clips of ``part``."""
    folders = (root / pattern.format(part=part) for pattern in patterns)
    return [folder for folder in folders if folder.is_dir()]


def captions_of(row: Row, columns: Iterable[str]) -> tuple[str, ...]:
    """The captions of a row that are not blank, in the order of ``columns``. Raises InvalidField if there is none."""
    captions = tuple(text for c in columns if (text := row.fields.get(c, "").strip()))
    if not captions:
        raise wrong(row.where, "no caption")
    return captions


def clip_name(row: Row) -> str:
    """The row's ``file_name``, checked to be a bare name of a sound. Raises InvalidField."""
    return file_name(row.fields["file_name"], AUDIO_TYPES, row.where, "file_name")


def listed_clips(
    clips: Mapping[Split, Iterable[Clip]],
    folders: Mapping[Split, Sequence[Path]],
    skipped: Counter[str],
) -> Iterator[Listed]:
    """The clips that are on disk, in the first folder of their split that has one of their names.

    Others are counted, and so is a clip whose id an earlier split of ``clips`` holds.

    :raises InvalidField: for a clip given twice in one table.
    """
    split_of: dict[str, Split] = {}
    for split, of_split in clips.items():
        files = [Files(folder) for folder in folders[split]]
        for clip in of_split:
            earlier = split_of.setdefault(clip.item_id, split)
            found = [f.folder / name for f in files for name in clip.names if name in f]
            if earlier != split:
                skipped[IN_TWO_SPLITS] += 1
            elif not found:
                skipped[NOT_ON_DISK] += 1
            else:
                item = Item(clip.item_id, clip.item_id, split, clip.captions, clip.attributes)
                yield Listed(item, found[0], clip.where)
