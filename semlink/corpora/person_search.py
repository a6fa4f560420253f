"""Text-based person search: the JSON of CUHK-PEDES, ICFG-PEDES and RSTPReid, which differ in names only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from semlink.corpora.corpus import SPLITS, Item, Split
from semlink.corpora.layouts import (
    IMAGE_TYPES,
    Files,
    first_file,
    first_folder,
    inner_path,
    item_id_of,
    json_entries,
    read_json,
    text_of,
    texts_of,
)
from semlink.corpora.listed import Listed, ListedImages
from semlink.errors import InvalidField


class PersonSearch(ListedImages):
    """Pictures of persons under ``root``: ``imgs/`` and a JSON list of ``{split, captions, PATH_KEY, id}``.

    The identity is the person's ``id`` as published, the item id is the path under ``imgs`` with ``--`` for a slash.
    ``root`` may also be the folder that holds the set's own folder.

    ``skipped`` counts pictures that are listed but not on disk or without a caption.

    :param set_name: the set's own folder as published.
    :param lists: names of the JSON file, the first one there is read.
    :param path_key: the key of the path under ``imgs``.
    :raises NotFound: if the folder or the list is missing, or no picture is left.
    :raises InvalidField: for an entry that is wrong, a path that leaves the root, or a person in two splits; the
        message names the file and the entry's number from 0.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        name: str,
        set_name: str,
        lists: Sequence[str],
        path_key: str,
        licence: str,
        description: str,
    ) -> None:
        root = Path(root)
        if not (root / "imgs").is_dir() and (root / set_name / "imgs").is_dir():
            root = root / set_name
        images = first_folder(root, ["imgs"])
        skipped: Counter[str] = Counter()
        super().__init__(
            name,
            "person",
            root,
            _pictures(first_file(root, lists), images, path_key, skipped),
            skipped,
            licence=licence,
            description=description,
        )


def _pictures(path: Path, images: Path, path_key: str, skipped: Counter[str]) -> Iterator[Listed]:
    on_disk = Files(images)
    split_of: dict[str, Split] = {}
    for where, entry in json_entries(str(path), read_json(path)):
        split = _split(entry, where)
        identity = _identity(entry, where)
        if split_of.setdefault(identity, split) != split:
            raise InvalidField(
                f"{where}: id {identity} is in {split}, but was in {split_of[identity]} before",
                field="root",
            )
        place = inner_path(text_of(entry, path_key, where), IMAGE_TYPES, where, path_key)
        captions = tuple(texts_of(entry, "captions", where))
        if not captions:
            skipped["listed picture without a caption"] += 1
        elif place not in on_disk:
            skipped["listed picture that is not on disk"] += 1
        else:
            yield Listed(Item(item_id_of(place), identity, split, captions), images / place, where)


def _split(entry: Mapping[str, Any], where: str) -> Split:
    for split in SPLITS:
        if entry.get("split") == split:
            return split
    raise InvalidField(
        f"{where}: split is {entry.get('split')!r:.80}, allowed: {', '.join(SPLITS)}", field="root"
    )


def _identity(entry: Mapping[str, Any], where: str) -> str:
    number = entry.get("id")
    # JSON's true is Python's 1.
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise InvalidField(f"{where}: id is {number!r:.80}, expected a number from 0", field="root")
    return str(number)
