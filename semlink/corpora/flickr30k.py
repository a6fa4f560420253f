"""Reader of Flickr30k in its public layout (Young et al., TACL 2014)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from semlink.corpora.corpus import SPLITS, Split
from semlink.corpora.karpathy import read_pictures
from semlink.corpora.layouts import first_file, first_folder, hashed_split
from semlink.corpora.listed import ListedImages
from semlink.corpora.token_file import listed_pictures, read_captions, read_list

IMAGE_FOLDERS = ("flickr30k-images", "flickr30k_images")
CAPTIONS = ("results_20130124.token", "flickr30k/results_20130124.token")
LISTS: Mapping[Split, str] = {
    "train": "flickr30k_train.txt",
    "val": "flickr30k_val.txt",
    "test": "flickr30k_test.txt",
}
KARPATHY = "dataset_flickr30k.json"
HELD_OUT = 1 / 31
"""The share of each of val and test where there is no list: about the 1,000 pictures of the usual splits."""


class Flickr30k(ListedImages):
    """Flickr30k under ``root``: ``flickr30k-images/*.jpg`` (or ``flickr30k_images``) and ``results_20130124.token``.

    The set has no official splits. Taken are, in this order: Karpathy's as text lists
    ``flickr30k_{train,val,test}.txt`` (a file name a line, with or without ``.jpg``; a list that is not there leaves
    its split out), Karpathy's ``dataset_flickr30k.json``, or without either our own: 1/31 of the pictures each are test
    and val by :func:`~semlink.corpora.layouts.hashed_split` of the name. :attr:`split_source` says which.

    ``skipped`` counts pictures that are listed but not on disk or without a caption, and captions of pictures in no
    list.

    :raises NotFound: if the folder or the captions are missing, or no picture is left.
    :raises InvalidField: for a line or an entry that is wrong; the message names the file and the place.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        images = first_folder(root, IMAGE_FOLDERS)
        tokens = first_file(root, CAPTIONS)
        captions = read_captions(tokens)
        there = {split: root / LISTS[split] for split in SPLITS if (root / LISTS[split]).is_file()}
        lists: dict[Split, Iterator[tuple[str, str]]]
        if there:
            self.split_source = "text lists"
            lists = {split: read_list(path) for split, path in there.items()}
        elif (root / KARPATHY).is_file():
            self.split_source = KARPATHY
            lists = _karpathy_lists(root / KARPATHY)
        else:
            self.split_source = "hash of the file name"
            lists = _hashed_lists(captions, str(tokens))
        skipped: Counter[str] = Counter()
        super().__init__(
            "flickr30k",
            root,
            listed_pictures(lists, captions, images, skipped),
            skipped,
            licence="research and education only; the pictures belong to their Flickr authors",
            description="Photographs of people and animals in everyday life, five captions each",
            absent={s: f"{LISTS[s]} is not there" for s in SPLITS if there and s not in there},
        )


def _karpathy_lists(path: Path) -> dict[Split, Iterator[tuple[str, str]]]:
    names: dict[Split, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    for picture in read_pictures(path):
        names[picture.split].append((picture.filename, picture.where))
    return {split: iter(listed) for split, listed in names.items()}


def _hashed_lists(
    captions: Mapping[str, Sequence[str]], where: str
) -> dict[Split, Iterator[tuple[str, str]]]:
    names: dict[Split, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    for name in captions:
        names[hashed_split(name, val=HELD_OUT, test=HELD_OUT)].append((name, where))
    return {split: iter(listed) for split, listed in names.items()}
