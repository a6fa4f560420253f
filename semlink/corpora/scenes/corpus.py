"""The `scenes` corpus: pictures composed of public-domain cliparts, with five captions each."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semlink.corpora.corpus import (
    Corpus,
    CorpusInfo,
    Item,
    Media,
    Split,
    check_split,
    checked_sizes,
)
from semlink.corpora.scenes.captions import describe
from semlink.corpora.scenes.cliparts import cliparts
from semlink.corpora.scenes.draws import Draws
from semlink.corpora.scenes.layout import Group, Scene, compose, prepare
from semlink.corpora.scenes.render import render
from semlink.errors import NotFound

GENERATOR_VERSION = 2
"""Raised whenever the same (seed, item) gives another picture or caption."""

DEFAULT_NUM_ITEMS: dict[Split, int] = {"train": 4000, "val": 400, "test": 1000}
MAX_ITEMS = 9_999_999
JPEG_QUALITY = 85

_ITEM_ID = re.compile(r"scene-(train|val|test)-(\d{4,7})")


class Scenes(Corpus):
    """Pictures of 2–4 kinds of things in a setting; every item is a pure function of (seed, item id).

    Input: ``seed``; ``num_items`` per split (default 4,000 / 400 / 1,000). A split's first items do not depend on
    how many there are. Identity is the item itself. Test pictures also use cliparts that train and val never show
    (``attributes["objects"][i]["instances"][j]["held_out"]``).
    """

    def __init__(self, seed: int = 0, num_items: Mapping[Split, int] | None = None) -> None:
        self.seed = seed
        self.num_items = checked_sizes("num_items", num_items, DEFAULT_NUM_ITEMS, 0, MAX_ITEMS)
        self.info = CorpusInfo(
            name="scenes",
            task="image",
            media_type="image/jpeg",
            licence="public domain (cliparts); captions and pictures: Apache-2.0",
            source=f"generated from {cliparts().source_package}",
            description="Pictures composed of cliparts with counts, colours and relations; five captions each.",
        )
        self._vocabulary = prepare(cliparts())
        self._items: dict[Split, tuple[Item, ...]] = {}
        self._lock = threading.Lock()

    def items(self, split: Split) -> Sequence[Item]:
        """Items of ``split`` in order of their number. Raises InvalidField for an unknown split."""
        check_split(split)
        with self._lock:
            if split not in self._items:
                ids = (f"scene-{split}-{number:04d}" for number in range(self.num_items[split]))
                self._items[split] = tuple(self._make_item(item_id, split) for item_id in ids)
            return self._items[split]

    def item(self, item_id: str) -> Item:
        """One item. Raises NotFound for an unknown id."""
        split = self._split_of(item_id)
        made = self._items.get(split)
        if made is not None:
            return made[int(item_id.rsplit("-", 1)[1])]
        return self._make_item(item_id, split)

    def content(self, item_id: str) -> NDArray[np.uint8]:
        """RGB pixels ``[256, 256, 3]``, uint8. Raises NotFound for an unknown id."""
        scene = self.scene(item_id)
        return np.asarray(render(scene, Draws(self.seed, f"{item_id}/render")))

    def media(self, item_id: str) -> Media:
        """The picture as JPEG, quality 85. Raises NotFound for an unknown id."""
        picture = render(self.scene(item_id), Draws(self.seed, f"{item_id}/render"))
        buffer = BytesIO()
        picture.save(buffer, format="JPEG", quality=JPEG_QUALITY)
        return Media(content_type="image/jpeg", data=buffer.getvalue())

    def scene(self, item_id: str) -> Scene:
        """The item's ground truth with everything that rendering needs. Raises NotFound for an unknown id."""
        return self._compose(item_id, self._split_of(item_id))

    def _compose(self, item_id: str, split: Split) -> Scene:
        number = int(item_id.rsplit("-", 1)[1])
        return compose(Draws(self.seed, f"{item_id}/layout"), self._vocabulary, split, number)

    def _split_of(self, item_id: str) -> Split:
        if match := _ITEM_ID.fullmatch(item_id):
            split, number = check_split(match[1]), int(match[2])
            if number < self.num_items[split] and item_id == f"scene-{split}-{number:04d}":
                return split
        raise NotFound(f"scenes has no item {item_id!r}", field="item_id")

    def _make_item(self, item_id: str, split: Split) -> Item:
        scene = self._compose(item_id, split)
        captions = describe(Draws(self.seed, f"{item_id}/captions"), scene)
        return Item(item_id, item_id, split, captions, ground_truth(scene))


def ground_truth(scene: Scene) -> dict[str, Any]:
    """The scene as plain data: setting, objects (label, count, colour, boxes) and relations between their indices.

    Boxes are [x, y, width, height] in pixels. Relations are those of :mod:`semlink.corpora.scenes.layout`; their
    inverses (``right_of``, ``below``, ``under``, ``behind``) follow and are not listed.
    """
    relations = [
        {"subject": r.subject, "relation": r.name, "object": r.object} for r in scene.relations
    ]
    objects = [_described(group) for group in scene.groups]
    return {"setting": scene.setting.name, "objects": objects, "relations": relations}


def _described(group: Group) -> dict[str, Any]:
    label, instances = group.label, []
    for i in group.instances:
        box = [round(v, 1) for v in (i.x, i.y, i.width, i.height)]
        clip = {"clip": i.clip.file, "held_out": i.clip.held_out}
        instances.append({**clip, "box": box, "mirrored": i.mirrored})
    named = {"label": label.name, "category": label.category, "count": group.count}
    return {**named, "colour": group.colour, "zone": label.zone, "instances": instances}
