"""Reader of AudioCaps in its public layouts (Kim et al., NAACL 2019; the retrieval variant of Mei et al., 2022)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from semlink.corpora.caption_table import (
    CAPTION_COLUMNS,
    Clip,
    audio_folders,
    captions_of,
    clip_name,
    found_table,
    listed_clips,
)
from semlink.corpora.corpus import SPLITS, Split
from semlink.corpora.layouts import AUDIO_TYPES, Row, item_id_of, table_rows, wrong
from semlink.corpora.listed import ListedSounds
from semlink.errors import NotFound

TABLE_FOLDERS = ("", "dataset", "csv_files")
AUDIO_FOLDERS = ("{part}", "waveforms/{part}", "audio/{part}", "waveforms", "audio")
READ_ORDER: tuple[Split, ...] = ("test", "val", "train")
"""A clip that two tables name is kept for the measure, not for training."""

_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_SECONDS = re.compile(r"\d+(\.\d+)?")


class AudioCaps(ListedSounds):
    """AudioCaps under ``root``: ``{train,val,test}.csv`` and the clips in a folder per split (or one for all).

    Tables may lie in ``root``, ``dataset/`` or ``csv_files/``, clips in ``{split}/``, ``waveforms/{split}/``,
    ``audio/{split}/``, ``waveforms/`` or ``audio/``. Two forms of table are read, told apart by their header:

    - as published, one row a caption: ``audiocap_id, youtube_id, start_time, caption``. Rows of one clip are put
      together; its file is ``Y<youtube_id>.wav`` or ``<youtube_id>.wav`` (or another sound ending).
    - the retrieval variant: ``file_name`` and ``caption_1 … caption_5`` or ``caption``, of which some may be empty;
      rows of one file are put together.

    The item id is the file's name without its ending, ``Y<youtube_id>`` for the first form. A table that is not there
    leaves its split out. ``skipped`` counts clips that are not on disk (many videos have gone), clips that two splits
    hold (kept in the first of test, val, train), and rows with another start time than their clip's first row.

    :raises NotFound: if all tables or all audio folders are missing, or no clip is left.
    :raises InvalidField: for a row that is wrong; the message names the file and the line.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        tables = {split: found_table(root, TABLE_FOLDERS, f"{split}.csv") for split in READ_ORDER}
        there = {split: path for split, path in tables.items() if path is not None}
        if not there:
            raise NotFound(f"{root}: no train.csv, val.csv or test.csv", field="root")
        folders = {split: audio_folders(root, AUDIO_FOLDERS, split) for split in SPLITS}
        if not any(folders[split] for split in there):
            expected = ", ".join(AUDIO_FOLDERS).replace("{part}", "{split}")
            raise NotFound(f"{root}: no audio folder, expected one of {expected}", field="root")
        skipped: Counter[str] = Counter()
        clips = {split: _clips(path, skipped) for split, path in there.items()}
        super().__init__(
            "audiocaps",
            root,
            listed_clips(clips, folders, skipped),
            skipped,
            licence="captions MIT; the sounds belong to their YouTube authors",
            description="Ten-second sounds of AudioSet, one caption each in train, five in val and test",
            absent={s: f"{s}.csv is not there" for s in SPLITS if s not in there},
        )


def _clips(table: Path, skipped: Counter[str]) -> Iterator[Clip]:
    """The table's clips, in the order of their first rows, with the captions of all their rows."""
    first_rows: dict[str, tuple[Row, Sequence[str]]] = {}
    captions: dict[str, list[str]] = {}
    for row in table_rows(table, ()):
        item_id, names, said = _named(row) if "file_name" in row.fields else _published(row)
        first, _ = first_rows.setdefault(item_id, (row, names))
        if row.fields.get("start_time") != first.fields.get("start_time"):
            skipped["caption of another part of a clip's video"] += 1
        else:
            captions.setdefault(item_id, []).extend(said)
    for item_id, (row, names) in first_rows.items():
        yield Clip(names, item_id, tuple(captions[item_id]), row.where, _attributes(row))


def _published(row: Row) -> tuple[str, Sequence[str], Sequence[str]]:
    missing = [c for c in ("youtube_id", "start_time", "caption") if c not in row.fields]
    if missing:
        raise wrong(row.where, f"the header has neither file_name nor {', '.join(missing)}")
    youtube_id, start = row.fields["youtube_id"], row.fields["start_time"]
    if not _YOUTUBE_ID.fullmatch(youtube_id):
        raise wrong(
            row.where, f"youtube_id is {youtube_id!r:.80}, expected eleven letters, digits, - or _"
        )
    if not _SECONDS.fullmatch(start):
        raise wrong(row.where, f"start_time is {start!r:.80}, expected seconds")
    stems = (f"Y{youtube_id}", youtube_id)
    names = [f"{stem}{ending}" for stem in stems for ending in AUDIO_TYPES]
    return f"Y{youtube_id}", names, captions_of(row, ["caption"])


def _named(row: Row) -> tuple[str, Sequence[str], Sequence[str]]:
    name = clip_name(row)
    captions = captions_of(row, ("caption", *CAPTION_COLUMNS))
    return item_id_of(name.rpartition(".")[0]), [name], captions


def _attributes(row: Row) -> Mapping[str, str]:
    return {c: row.fields[c] for c in ("youtube_id", "start_time") if c in row.fields}
