"""The caption and list files of Flickr8k and Flickr30k, which have one form."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from semlink.corpora.corpus import Item, Split
from semlink.corpora.layouts import Files, item_id_of, numbered_lines, wrong
from semlink.corpora.listed import Listed

NO_CAPTION = "listed picture without a caption"
NOT_ON_DISK = "listed picture that is not on disk"
IN_NO_LIST = "caption of a picture in no list"


def read_captions(path: Path) -> Mapping[str, Sequence[str]]:
    """File name to captions, in order of their numbers, of lines ``<img>.jpg#<n>\\t<caption>``.

    :raises InvalidField: for a line that is wrong; the message names the file and the line.
    """
    captions: dict[str, dict[int, str]] = defaultdict(dict)
    for number, line in numbered_lines(path):
        key, tab, caption = line.partition("\t")
        name, _, position = key.rpartition("#")
        if not (tab and name and "/" not in name and position.isdecimal() and caption.strip()):
            raise wrong(
                f"{path}, line {number}", f"{line[:80]!r} is not <img>.jpg#<n>, tab, caption"
            )
        if int(position) in captions[name]:
            raise wrong(f"{path}, line {number}", f"caption {position} of {name} was given before")
        captions[name][int(position)] = caption.strip()
    return {name: [said[n] for n in sorted(said)] for name, said in captions.items()}


def read_list(path: Path) -> Iterator[tuple[str, str]]:
    """File names of a split list, a line each, and where: some lists leave ``.jpg`` out. Raises InvalidField."""
    for number, line in numbered_lines(path):
        where = f"{path}, line {number}"
        name = line.strip()
        if not Path(name).suffix:
            name = f"{name}.jpg"
        if not name.endswith(".jpg") or Path(name).name != name:
            raise wrong(where, f"{name[:80]!r} is not the file name of a .jpg")
        yield name, where


def listed_pictures(
    lists: Mapping[Split, Iterator[tuple[str, str]]],
    captions: Mapping[str, Sequence[str]],
    images: Path,
    skipped: Counter[str],
) -> Iterator[Listed]:
    """The pictures of the lists that have captions and are on disk; the others, and captions in no list, are counted.

    :param lists: split to (file name, where it is listed).
    :raises InvalidField: for a picture in two lists, or twice in one, naming the later place.
    """
    on_disk = Files(images)
    split_of: dict[str, Split] = {}
    for split, names in lists.items():
        for name, where in names:
            if name in split_of:
                raise wrong(where, f"{name} is already in {split_of[name]}")
            split_of[name] = split
            if name not in captions:
                skipped[NO_CAPTION] += 1
            elif name not in on_disk:
                skipped[NOT_ON_DISK] += 1
            else:
                item_id = item_id_of(name.removesuffix(".jpg"))
                item = Item(item_id, item_id, split, tuple(captions[name]))
                yield Listed(item, images / name, where)
    skipped[IN_NO_LIST] += sum(len(s) for name, s in captions.items() if name not in split_of)
