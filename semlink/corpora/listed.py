"""Corpora whose items are listed once and whose media are files, read when asked for: what all readers share."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semlink.corpora.corpus import (
    SPLITS,
    Corpus,
    CorpusInfo,
    Item,
    Media,
    Split,
)
from semlink.corpora.layouts import AUDIO_TYPES, IMAGE_TYPES, wrong
from semlink.corpora.media_io import check_image_size, decode_audio_start, decode_image
from semlink.errors import InvalidField, NotFound
from semlink.tasks import modality_spec, task_spec


@dataclass(frozen=True, slots=True)
class Listed:
    """An item, its file, and where the list names it (``FILE, line N``)."""

    item: Item
    path: Path
    where: str


class ListedCorpus(Corpus):
    """Items of a list and their files.

    ``skipped`` counts what a reader left out, ``skipped_by_reason`` says why. Nothing of the media is read before it is
    asked for.

    :param listed: the items in the order of the list; it may count into ``skipped`` while it is read.
    :param absent: why a split without items has none, for the error message.
    :raises NotFound: if nothing is listed.
    :raises InvalidField: if an item id is given twice, naming the place.
    """

    task: str
    media_types: Mapping[str, str]
    """File ending to the content type that :meth:`media` gives."""

    def __init__(
        self,
        name: str,
        root: Path,
        listed: Iterable[Listed],
        skipped: Counter[str],
        *,
        licence: str,
        description: str,
        absent: Mapping[Split, str] | None = None,
    ) -> None:
        self.root = root
        self._absent: Mapping[Split, str] = absent or {}
        self._files: dict[str, Path] = {}
        self._cut: set[str] = set()
        self._by_id: dict[str, Item] = {}
        of_split: dict[Split, list[Item]] = {split: [] for split in SPLITS}
        for entry in listed:
            item_id = entry.item.item_id
            if item_id in self._by_id:
                raise wrong(entry.where, f"{item_id} was given before")
            self._by_id[item_id] = entry.item
            self._files[item_id] = entry.path
            of_split[entry.item.split].append(entry.item)
        self._items = {split: tuple(items) for split, items in of_split.items() if items}
        self.skipped_by_reason: Mapping[str, int] = {k: n for k, n in skipped.items() if n}
        self.skipped = skipped.total()
        if not self._by_id:
            reasons = (f"{n} × {reason}" for reason, n in self.skipped_by_reason.items())
            left_out = "; ".join(reasons) or "nothing"
            what = modality_spec(task_spec(self.task).modality).noun
            raise NotFound(f"{root} holds no {what} of {name}, left out: {left_out}", field="root")
        endings = Counter(path.suffix.lower() for path in self._files.values())
        self.info = CorpusInfo(
            name=name,
            task=self.task,
            # Sets of several formats are named by the one that most files have; media() tells each file's own.
            media_type=self.media_types[endings.most_common(1)[0][0]],
            licence=licence,
            source=root.name,
            description=description,
        )

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that hold any item, in the order train, val, test."""
        return tuple(self._items)

    def items(self, split: Split) -> Sequence[Item]:
        """Items of ``split`` in the order of its list. Raises NotFound for a split without items."""
        if split not in self._items:
            why = self._absent.get(split, "no item of it is listed and on disk")
            where = f"{self.info.name} under {self.root.name}"
            raise NotFound(f"{where} has no split {split!r}: {why}", field="split")
        return self._items[split]

    def item(self, item_id: str) -> Item:
        """One item. Raises NotFound for an unknown id."""
        if item_id not in self._by_id:
            raise NotFound(f"corpus {self.info.name} has no item {item_id!r}", field="item_id")
        return self._by_id[item_id]

    def media(self, item_id: str) -> Media:
        """The item's file as it is. Raises NotFound for an unknown id or a file that has gone since."""
        path = self._files[self.item(item_id).item_id]
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"{path} has gone", field="item_id") from error
        return Media(self.media_types[path.suffix.lower()], data)

    def _place(self, item_id: str) -> str:
        """The file as errors name it: by its path under the root."""
        path = self._files[item_id]
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)


class ListedImages(ListedCorpus):
    """A listed corpus of JPEG, PNG, WebP and BMP files; BMP is given as PNG, which browsers and queries take."""

    task = "image"
    media_types: Mapping[str, str] = {**IMAGE_TYPES, ".bmp": "image/png"}

    def media(self, item_id: str) -> Media:
        """The picture's file as it is, BMP as PNG. Raises NotFound, or InvalidField for a BMP that does not decode."""
        media = super().media(item_id)
        if self._files[item_id].suffix.lower() == ".bmp":
            return Media(media.content_type, _png_of_bmp(media.data, self._place(item_id)))
        return media

    def content(self, item_id: str) -> NDArray[np.uint8]:
        """RGB pixels, ``[height, width, 3]``, uint8. Raises NotFound, or InvalidField if the file is broken."""
        media = self.media(item_id)
        return decode_image(media.data, media.content_type, self._place(item_id))


class ListedSounds(ListedCorpus):
    """A listed corpus of WAV, OGG, FLAC and MP3 files. Of clips over 30 s the first 30 s are used (:attr:`cut`)."""

    task = "audio"
    media_types: Mapping[str, str] = AUDIO_TYPES

    @property
    def cut(self) -> int:
        """Clips that were over 30 s among those read so far: how long a clip is shows only when it is read."""
        return len(self._cut)

    def content(self, item_id: str) -> NDArray[np.float32]:
        """Mono samples at 16 kHz, ``[num_samples]``, float32 in −1…1, at most 30 s.

        :raises NotFound: for an unknown id. :raises InvalidField: for a broken file.
        """
        media = self.media(item_id)
        samples, is_cut = decode_audio_start(media.data, media.content_type, self._place(item_id))
        if is_cut:
            self._cut.add(item_id)
        return samples


def _png_of_bmp(data: bytes, field: str) -> bytes:
    png = io.BytesIO()
    try:
        with Image.open(io.BytesIO(data), formats=["BMP"]) as image:
            check_image_size(image.size, field)
            image.convert("RGB").save(png, "PNG")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidField(f"{field} does not decode as BMP ({error})", field=field) from error
    return png.getvalue()
