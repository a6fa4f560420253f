"""Reader of MSCOCO captions in Karpathy's splits (Lin et al., ECCV 2014; Karpathy and Fei-Fei, CVPR 2015)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from semlink.corpora.corpus import Item
from semlink.corpora.karpathy import read_pictures
from semlink.corpora.layouts import Files, first_file, first_folder, item_id_of
from semlink.corpora.listed import Listed, ListedImages

FOLDERS = ("train2014", "val2014")
LISTS = ("dataset_coco.json", "karpathy/dataset_coco.json", "annotations/dataset_coco.json")


class MsCoco(ListedImages):
    """MSCOCO under ``root``: ``train2014/``, ``val2014/`` and ``dataset_coco.json``.

    ``train`` and ``restval`` are the split ``train`` (113,287 pictures), ``val`` and ``test`` have 5,000 each. The item
    id is the file name without its ending, the captions are the ``raw`` sentences.

    ``skipped`` counts pictures of the list that are not on disk or have no caption.

    :raises NotFound: if the list or both folders are missing, or no picture is left.
    :raises InvalidField: for an entry that is wrong; the message names the file and the entry's number from 0.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        first_folder(root, FOLDERS)
        skipped: Counter[str] = Counter()
        super().__init__(
            "mscoco",
            root,
            _pictures(root, first_file(root, LISTS), skipped),
            skipped,
            licence="captions CC BY 4.0; the pictures belong to their Flickr authors",
            description="Photographs of everyday scenes, about five captions each, Karpathy's splits",
        )


def _pictures(root: Path, path: Path, skipped: Counter[str]) -> Iterator[Listed]:
    on_disk = Files(root)
    for picture in read_pictures(path):
        place = f"{picture.folder}/{picture.filename}" if picture.folder else picture.filename
        if not picture.captions:
            skipped["listed picture without a caption"] += 1
        elif place not in on_disk:
            skipped["listed picture that is not on disk"] += 1
        else:
            item_id = item_id_of(Path(picture.filename).stem)
            item = Item(item_id, item_id, picture.split, picture.captions)
            yield Listed(item, root / place, picture.where)
