"""Reader of PhotoChat in its public layout (Zang et al., ACL 2021)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from semlink.corpora.corpus import SPLITS, Item, Split
from semlink.corpora.layouts import (
    IMAGE_TYPES,
    Files,
    first_folder,
    is_text,
    item_id_of,
    json_entries,
    read_json,
    text_of,
    wrong,
)
from semlink.corpora.listed import Listed, ListedImages
from semlink.errors import NotFound

PARTS: Mapping[Split, str] = {"train": "train", "val": "dev", "test": "test"}
READ_ORDER: tuple[Split, ...] = ("test", "val", "train")
"""A photo that two splits share is kept for the measure, not for training."""
DIALOGUE_FOLDERS = ("photochat", "multimodalchat/photochat", ".")
PHOTOS = "photos"

NO_PHOTO = "dialogue whose photo is not on disk"
NOT_SHARED = "dialogue in which no photo is shared"
NOTHING_SAID = "dialogue whose sharing user said nothing before"
IN_TWO_SPLITS = "dialogue whose photo another split holds"


@dataclass(frozen=True, slots=True)
class _Dialogue:
    """A dialogue up to the shared photo: the sharing user's turns, and the names that its photo may have."""

    turns: tuple[str, ...]
    shared: bool
    photo_names: Sequence[str]
    description: str
    where: str


class PhotoChat(ListedImages):
    """PhotoChat under ``root``: ``photochat/{train,dev,test}/*_NN.json`` and the photos, which are given by URL only.

    The photos are expected in ``photos/``, each named by its ``photo_id`` or by the last part of its ``photo_url``;
    none is fetched. An item is a photo. A caption is the query that one dialogue makes for it: the turns before the
    photo is shared, of the user who shares it, each turn a sentence (a full stop is put where a turn ends without a
    mark). ``attributes`` holds ``turns``, for each caption its turns as published, and ``photo_description``.

    ``skipped`` counts dialogues whose photo is not on disk, in which nothing is shared or was said before by the user
    who shares, and whose photo another split holds (kept in the first of test, dev, train).

    :raises NotFound: if ``photos`` or the dialogues are missing, or no photo is left.
    :raises InvalidField: for an entry that is wrong; the message names the file and the entry's number from 0.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root)
        photos = first_folder(root, [PHOTOS])
        folders = [root / folder for folder in DIALOGUE_FOLDERS]
        files: dict[Split, list[Path]] = {}
        for split in READ_ORDER:
            listed = (sorted((folder / PARTS[split]).glob("*.json")) for folder in folders)
            if of_split := next((paths for paths in listed if paths), None):
                files[split] = of_split
        if not files:
            raise NotFound(f"{root}: no photochat/{{train,dev,test}}/*.json", field="root")
        skipped: Counter[str] = Counter()
        super().__init__(
            "photochat",
            root,
            _photos(files, photos, skipped),
            skipped,
            licence="dialogues CC BY 4.0; photos of Open Images, CC BY 2.0, each by its author",
            description="Photos shared in chats, asked for by what the sharing user said before",
            absent={
                s: f"photochat/{PARTS[s]}/*.json is not there" for s in SPLITS if s not in files
            },
        )


def _photos(
    files: Mapping[Split, Sequence[Path]], photos: Path, skipped: Counter[str]
) -> Iterator[Listed]:
    on_disk = Files(photos)
    split_of: dict[str, Split] = {}
    for split, paths in files.items():
        of_photo: dict[str, list[_Dialogue]] = {}
        for path in paths:
            for where, entry in json_entries(str(path), read_json(path)):
                dialogue = _dialogue(entry, where)
                name = next((n for n in dialogue.photo_names if n in on_disk), None)
                if not dialogue.shared:
                    skipped[NOT_SHARED] += 1
                elif not dialogue.turns:
                    skipped[NOTHING_SAID] += 1
                elif name is None:
                    skipped[NO_PHOTO] += 1
                elif split_of.setdefault(name, split) != split:
                    skipped[IN_TWO_SPLITS] += 1
                else:
                    of_photo.setdefault(name, []).append(dialogue)
        for name, dialogues in of_photo.items():
            item_id = item_id_of(name)
            turns = tuple(dialogue.turns for dialogue in dialogues)
            attributes = {"turns": turns, "photo_description": dialogues[0].description}
            item = Item(item_id, item_id, split, tuple(map(query_of, turns)), attributes)
            yield Listed(item, photos / name, dialogues[0].where)


def query_of(turns: Sequence[str]) -> str:
    """The turns as sentences of one text: each ends with a mark."""
    return " ".join(turn if turn[-1] in ".!?…" else f"{turn}." for turn in turns)


def _dialogue(entry: Mapping[str, Any], where: str) -> _Dialogue:
    turns: list[tuple[int, str]] = []
    sharer: int | None = None
    for turn_where, turn in json_entries(f"{where}, dialogue", entry.get("dialogue")):
        message, shares, user = turn.get("message"), turn.get("share_photo"), turn.get("user_id")
        if not is_text(message):
            raise wrong(turn_where, f"message is {message!r:.80}, expected text")
        if not isinstance(shares, bool):
            raise wrong(turn_where, f"share_photo is {shares!r:.80}, expected true or false")
        if not isinstance(user, int) or user not in (0, 1):
            raise wrong(turn_where, f"user_id is {user!r:.80}, allowed: 0, 1")
        if shares:
            sharer = user
            break
        turns.append((user, message.strip()))
    description = entry.get("photo_description", "")
    return _Dialogue(
        turns=tuple(message for user, message in turns if user == sharer and message),
        shared=sharer is not None,
        photo_names=_photo_names(entry, where),
        description=description if is_text(description) else "",
        where=where,
    )


def _photo_names(entry: Mapping[str, Any], where: str) -> Sequence[str]:
    """The file names that the photo may have. Only last parts are used, so none leaves the folder."""
    last_part = unquote(urlsplit(text_of(entry, "photo_url", where)).path).rpartition("/")[2]
    names = [last_part] if Path(last_part).suffix.lower() in IMAGE_TYPES else []
    if entry.get("photo_id") is not None:
        # Open Images' ids are given with or without their folder (train/0a1b…).
        stem = text_of(entry, "photo_id", where).rpartition("/")[2]
        names = [f"{stem}{ending}" for ending in IMAGE_TYPES] + names
    return names
