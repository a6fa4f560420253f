"""Reader of Flickr8k in its public layout (Hodosh, Young and Hockenmaier, JAIR 2013)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from semlink.corpora.corpus import SPLITS, Split
from semlink.corpora.layouts import first_file, first_folder
from semlink.corpora.listed import ListedImages
from semlink.corpora.token_file import listed_pictures, read_captions, read_list
from semlink.errors import NotFound

IMAGE_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset")
"""The released folder's name is misspelt; some mirrors correct it."""
CAPTIONS = "Flickr8k_text/Flickr8k.token.txt"
LISTS: Mapping[Split, str] = {
    "train": "Flickr8k_text/Flickr_8k.trainImages.txt",
    "val": "Flickr8k_text/Flickr_8k.devImages.txt",
    "test": "Flickr8k_text/Flickr_8k.testImages.txt",
}


class Flickr8k(ListedImages):
    """Flickr8k under ``root``: ``Flicker8k_Dataset/*.jpg``, ``Flickr8k_text/Flickr8k.token.txt`` and the split lists.

    A token line is ``<img>.jpg#<n>\\t<caption>``. The official dev list is the split ``val``. A list that is not there
    leaves its split out (see :attr:`splits`); at least one must be there. The item id is the file name without
    ``.jpg``. Captions are given as published.

    ``skipped`` counts what was left out, ``skipped_by_reason`` says why: pictures that are listed but not on disk or
    without a caption, and captions of pictures in no list.

    :raises NotFound: if a folder, the captions, or all lists are missing.
    :raises InvalidField: for a line that is wrong; the message names the file and the line.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        images = first_folder(root, IMAGE_FOLDERS)
        captions = read_captions(first_file(root, [CAPTIONS]))
        there = {split: root / LISTS[split] for split in SPLITS if (root / LISTS[split]).is_file()}
        if not there:
            raise NotFound(f"{root}: none of {', '.join(LISTS.values())}", field="root")
        skipped: Counter[str] = Counter()
        lists = {split: read_list(path) for split, path in there.items()}
        super().__init__(
            "flickr8k",
            root,
            listed_pictures(lists, captions, images, skipped),
            skipped,
            licence="research and education only; the pictures belong to their Flickr authors",
            description="Photographs of people and animals in action, five captions each",
            absent={s: f"{LISTS[s]} is not there" for s in SPLITS if s not in there},
        )
