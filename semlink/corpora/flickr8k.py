"""Reader of Flickr8k in its public layout (Hodosh, Young and Hockenmaier, JAIR 2013)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from semlink.corpora.corpus import SPLITS, CorpusInfo, ImageCorpus, Item, Media, Split
from semlink.corpora.media_io import decode_image
from semlink.errors import InvalidField, NotFound

IMAGE_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset")
"""The released folder's name is misspelt; some mirrors correct it."""
CAPTIONS = "Flickr8k_text/Flickr8k.token.txt"
LISTS: Mapping[Split, str] = {
    "train": "Flickr8k_text/Flickr_8k.trainImages.txt",
    "val": "Flickr8k_text/Flickr_8k.devImages.txt",
    "test": "Flickr8k_text/Flickr_8k.testImages.txt",
}


class Flickr8k(ImageCorpus):
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
        self.root = Path(root)
        self.info = CorpusInfo(
            name="flickr8k",
            task="image",
            media_type="image/jpeg",
            licence="research and education only; the pictures belong to their Flickr authors",
            source=str(self.root.name),
            description="Photographs of people and animals in action, five captions each",
        )
        folders = [self.root / name for name in IMAGE_FOLDERS if (self.root / name).is_dir()]
        if not folders:
            raise NotFound(f"{self.root / IMAGE_FOLDERS[0]} is not there", field="root")
        self._images = folders[0]
        skipped: Counter[str] = Counter()
        captions = self._read_captions()
        self._items: dict[Split, tuple[Item, ...]] = {}
        split_of: dict[str, Split] = {}
        for split in SPLITS:
            path = self.root / LISTS[split]
            if path.is_file():
                self._items[split] = tuple(
                    self._read_list(path, split, captions, split_of, skipped)
                )
        if not self._items:
            raise NotFound(f"{self.root}: none of {', '.join(LISTS.values())}", field="root")
        unlisted = sum(len(said) for name, said in captions.items() if name not in split_of)
        if unlisted:
            skipped["caption of a picture in no list"] = unlisted
        self.skipped_by_reason: Mapping[str, int] = dict(skipped)
        self.skipped = skipped.total()
        self._by_id = {item.item_id: item for items in self._items.values() for item in items}

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits whose list is there."""
        return tuple(self._items)

    def items(self, split: Split) -> Sequence[Item]:
        """Items of ``split`` in the order of its list. Raises NotFound if the list is not there."""
        if split not in self._items:
            raise NotFound(
                f"flickr8k has no split {split!r}: {LISTS.get(split, 'an unknown list')} is not there",
                field="split",
            )
        return self._items[split]

    def item(self, item_id: str) -> Item:
        """One item. Raises NotFound for an unknown id."""
        if item_id not in self._by_id:
            raise NotFound(f"corpus flickr8k has no item {item_id!r}", field="item_id")
        return self._by_id[item_id]

    def media(self, item_id: str) -> Media:
        """The picture's file as it is. Raises NotFound for an unknown id."""
        name = f"{self.item(item_id).item_id}.jpg"
        return Media(self.info.media_type, (self._images / name).read_bytes())

    def pixels(self, item_id: str) -> NDArray[np.uint8]:
        """RGB pixels, ``[height, width, 3]``, uint8. Raises NotFound, or InvalidField if the file is broken."""
        media = self.media(item_id)
        return decode_image(media.data, media.content_type, f"{self._images.name}/{item_id}.jpg")

    def _read_captions(self) -> Mapping[str, Sequence[str]]:
        path = self.root / CAPTIONS
        if not path.is_file():
            raise NotFound(f"{path} is not there", field="root")
        captions: dict[str, dict[int, str]] = defaultdict(dict)
        for number, line in _lines(path):
            key, tab, caption = line.partition("\t")
            name, _, position = key.rpartition("#")
            if not (tab and name and position.isdecimal() and caption.strip()):
                raise InvalidField(
                    f"{path}, line {number}: {line[:80]!r} is not <img>.jpg#<n>, tab, caption",
                    field="root",
                )
            if int(position) in captions[name]:
                raise InvalidField(
                    f"{path}, line {number}: caption {position} of {name} was given before",
                    field="root",
                )
            captions[name][int(position)] = caption.strip()
        return {name: [said[n] for n in sorted(said)] for name, said in captions.items()}

    def _read_list(
        self,
        path: Path,
        split: Split,
        captions: Mapping[str, Sequence[str]],
        split_of: dict[str, Split],
        skipped: Counter[str],
    ) -> Iterator[Item]:
        for number, line in _lines(path):
            name = line.strip()
            if not name.endswith(".jpg") or Path(name).name != name:
                raise InvalidField(
                    f"{path}, line {number}: {name[:80]!r} is not the file name of a .jpg",
                    field="root",
                )
            if name in split_of:
                raise InvalidField(
                    f"{path}, line {number}: {name} is already in {split_of[name]}", field="root"
                )
            split_of[name] = split
            if name not in captions:
                skipped["listed picture without a caption"] += 1
            elif not (self._images / name).is_file():
                skipped["listed picture that is not on disk"] += 1
            else:
                item_id = name.removesuffix(".jpg")
                yield Item(item_id, item_id, split, tuple(captions[name]))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, numbered from 1."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        broken = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InvalidField(f"{path}, line {broken}: not UTF-8", field="root") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")
