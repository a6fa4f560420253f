"""The JSON lists of Karpathy and Fei-Fei (CVPR 2015): ``dataset_coco.json``, ``dataset_flickr30k.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from semlink.corpora.corpus import Split
from semlink.corpora.layouts import (
    IMAGE_TYPES,
    file_name,
    json_entries,
    read_json,
    text_of,
    texts_of,
    wrong,
)

SPLIT_OF: Mapping[str, Split] = {
    **{"train": "train", "restval": "train", "val": "val", "test": "test"}
}
"""``restval`` is what of COCO's validation pictures is neither val nor test: by custom it is trained on."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One entry: where the picture lies under the root, its split, its captions as published, and its place."""

    folder: str
    filename: str
    split: Split
    captions: tuple[str, ...]
    where: str


def read_pictures(path: Path) -> Iterator[Picture]:
    """The entries of ``images`` in their order; ``folder`` is empty where there is no ``filepath`` (Flickr30k).

    :raises InvalidField: for an entry that is wrong, or a path that leaves the root; the message names the file and
        the entry's number from 0.
    """
    listed = read_json(path)
    if not isinstance(listed, dict):
        raise wrong(path, "expected an object with images")
    for where, entry in json_entries(str(path), listed.get("images")):
        name = file_name(text_of(entry, "filename", where), IMAGE_TYPES, where, "filename")
        folder = text_of(entry, "filepath", where) if "filepath" in entry else ""
        if folder and ("/" in folder or "\\" in folder or folder in (".", "..")):
            raise wrong(where, f"filepath is {folder!r:.120}, expected the name of a folder")
        split = entry.get("split")
        if not isinstance(split, str) or split not in SPLIT_OF:
            raise wrong(where, f"split is {split!r:.80}, allowed: {', '.join(SPLIT_OF)}")
        sentences = json_entries(f"{where}, sentences", entry.get("sentences"))
        captions = texts_of({"raw": [said.get("raw") for _, said in sentences]}, "raw", where)
        yield Picture(folder, name, SPLIT_OF[split], tuple(captions), where)
