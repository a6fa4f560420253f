"""Reader of Clotho v2.1 in its public layout (Drossos, Lipping and Virtanen, ICASSP 2020)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
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
from semlink.corpora.layouts import item_id_of, table_rows, wrong
from semlink.corpora.listed import ListedSounds
from semlink.errors import NotFound

PARTS: Mapping[Split, str] = {"train": "development", "val": "validation", "test": "evaluation"}
"""Our splits and the names that the set gives them."""
TABLE_FOLDERS = ("", "clotho_csv_files")
AUDIO_FOLDERS = (
    *("{part}", "clotho_audio_files/{part}", "clotho_audio_{part}/{part}", "clotho_audio_{part}"),
)
"""Where the archives' folder ``{part}`` lies, depending on where they were unpacked."""
METADATA = ("keywords", "sound_link", "manufacturer", "license")


class Clotho(ListedSounds):
    """Clotho v2.1 under ``root``: ``clotho_captions_{part}.csv`` and a folder of WAVs for each part.

    Parts are ``development``, ``validation`` and ``evaluation``, our train, val and test; a table that is not there
    leaves its split out. The columns are ``file_name, caption_1 … caption_5``. A file name can hold any letter and can
    recur in another split, so the item id is the split and the name made safe for a URL; ``attributes`` has the
    ``file_name`` as published and, where ``clotho_metadata_{part}.csv`` (ISO-8859-1) is there, the clip's keywords,
    link, author and licence.

    Clips last 15–30 s; longer ones are cut (:attr:`~semlink.corpora.listed.ListedSounds.cut`). ``skipped`` counts clips
    of the tables that are not on disk.

    :raises NotFound: if all tables or all audio folders are missing, or no clip is left.
    :raises InvalidField: for a row that is wrong, also one with fewer than five captions; the message names the file
        and the line.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        named = {split: f"clotho_captions_{PARTS[split]}.csv" for split in SPLITS}
        tables = {split: found_table(root, TABLE_FOLDERS, named[split]) for split in SPLITS}
        there = {split: path for split, path in tables.items() if path is not None}
        if not there:
            raise NotFound(f"{root}: no clotho_captions_development.csv nor another", field="root")
        folders = {split: audio_folders(root, AUDIO_FOLDERS, PARTS[split]) for split in SPLITS}
        if not any(folders[split] for split in there):
            wanted = ", ".join(PARTS[split] for split in there)
            raise NotFound(f"{root}: no audio folder of {wanted}", field="root")
        skipped: Counter[str] = Counter()
        clips = {split: _clips(root, split, path) for split, path in there.items()}
        super().__init__(
            "clotho",
            root,
            listed_clips(clips, folders, skipped),
            skipped,
            licence="captions: Tampere University, non-commercial; sounds: Creative Commons, each its own",
            description="Sounds of Freesound, 15 to 30 seconds, five captions each",
            absent={s: f"{named[s]} is not there" for s in SPLITS if s not in there},
        )


def _clips(root: Path, split: Split, table: Path) -> Iterator[Clip]:
    described = _metadata(found_table(root, TABLE_FOLDERS, f"clotho_metadata_{PARTS[split]}.csv"))
    for row in table_rows(table, ("file_name", *CAPTION_COLUMNS)):
        name = clip_name(row)
        captions = captions_of(row, CAPTION_COLUMNS)
        if len(captions) != len(CAPTION_COLUMNS):
            raise wrong(row.where, f"{len(captions)} captions, expected 5")
        stem = name.rpartition(".")[0]
        item_id = item_id_of(f"{split}/{stem}")
        attributes = {"file_name": name, **described.get(name, {})}
        yield Clip([name], item_id, captions, row.where, attributes)


def _metadata(table: Path | None) -> Mapping[str, Mapping[str, str]]:
    if table is None:
        return {}
    rows = table_rows(table, ("file_name",), encoding="iso-8859-1")
    return {
        row.fields["file_name"]: {c: row.fields[c] for c in METADATA if c in row.fields}
        for row in rows
    }
