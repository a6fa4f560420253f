"""Readers of CUHK-PEDES, ICFG-PEDES and RSTPReid in their public layouts, which differ in names only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
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
    wrong,
)
from semlink.corpora.listed import Listed, ListedImages


class PersonSearch(ListedImages):
    """Pictures of persons under ``root``: ``imgs/`` and a JSON list of ``{split, captions, PATH_KEY, id}``.

    The identity is the person's ``id`` as published, the item id is the path under ``imgs`` with ``--`` for a slash.
    ``root`` may also be the folder that holds the set's own folder.

    ``skipped`` counts pictures that are listed but not on disk or without a caption.

    :raises NotFound: if the folder or the list is missing, or no picture is left.
    :raises InvalidField: for an entry that is wrong, a path that leaves the root, or a person in two splits; the
        message names the file and the entry's number from 0.
    """

    task = "person"
    set_name: str
    """The set's own folder as published; in small letters the corpus's name."""
    lists: tuple[str, ...]
    """Names of the JSON file, the first one there is read."""
    path_key: str
    """Of the path under ``imgs``."""
    description: str

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        if not (root / "imgs").is_dir() and (root / self.set_name / "imgs").is_dir():
            root = root / self.set_name
        images, skipped = first_folder(root, ["imgs"]), Counter[str]()
        super().__init__(
            self.set_name.lower(),
            root,
            _pictures(first_file(root, self.lists), images, self.path_key, skipped),
            skipped,
            licence="academic research only, on request from the authors",
            description=f"Surveillance pictures of persons from {self.description}",
        )


class CuhkPedes(PersonSearch):
    """CUHK-PEDES (Li et al., CVPR 2017): ``reid_raw.json`` and ``imgs/`` with the folders of the sets it is made of.

    They are ``cam_a``, ``cam_b``, ``CUHK01``, ``CUHK03``, ``Market``, ``test_query`` and ``train_query``.
    40,206 pictures of 13,003 persons, two captions each as a rule; ids start at 1. ``processed_tokens`` are not used.
    """

    set_name, lists, path_key = "CUHK-PEDES", ("reid_raw.json",), "file_path"
    description = "five re-identification sets, two captions each"


class IcfgPedes(PersonSearch):
    """ICFG-PEDES (Ding et al., 2021): ``imgs/{train,test}/`` and ``ICFG-PEDES.json`` or ``ICFG_PEDES.json``.

    54,522 pictures of 4,102 persons, one caption each; there is no validation split.
    """

    set_name, path_key = "ICFG-PEDES", "file_path"
    lists = ("ICFG-PEDES.json", "ICFG_PEDES.json")
    description = "MSMT17, one fine-grained caption each"


class RstpReid(PersonSearch):
    """RSTPReid (Zhu et al., ACM Multimedia 2021): ``imgs/`` and ``data_captions.json``, whose key is ``img_path``.

    20,505 pictures of 4,101 persons (3,701 train, 200 val, 200 test), five pictures a person, two captions each.
    """

    set_name, lists, path_key = "RSTPReid", ("data_captions.json",), "img_path"
    description = "MSMT17, five a person, two captions each"


def _pictures(path: Path, images: Path, path_key: str, skipped: Counter[str]) -> Iterator[Listed]:
    on_disk = Files(images)
    split_of: dict[str, Split] = {}
    for where, entry in json_entries(str(path), read_json(path)):
        split = _split(entry, where)
        identity = _identity(entry, where)
        if split_of.setdefault(identity, split) != split:
            raise wrong(
                where, f"id {identity} is in {split}, but was in {split_of[identity]} before"
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
    raise wrong(where, f"split is {entry.get('split')!r:.80}, allowed: {', '.join(SPLITS)}")


def _identity(entry: Mapping[str, Any], where: str) -> str:
    number = entry.get("id")
    # JSON's true is Python's 1.
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise wrong(where, f"id is {number!r:.80}, expected a number from 0")
    return str(number)
