"""What a gallery was given or lost since it was shipped: a small SQLite file and the media beside it.

Every change is one transaction in write-ahead logging, flushed before it is answered: after a crash each is there whole
or not at all. A media file is named by its content and written before the row that names it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from semlink.corpora.corpus import Media
from semlink.errors import Unavailable
from semlink.formats import FORMATS, USER_ITEMS, check_format

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS items (
    item_id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    removed INTEGER NOT NULL,
    identity TEXT NOT NULL DEFAULT '',
    captions TEXT NOT NULL DEFAULT '[]',
    content_type TEXT NOT NULL DEFAULT '',
    media TEXT NOT NULL DEFAULT '',
    made_with TEXT NOT NULL DEFAULT '',
    num_components INTEGER NOT NULL DEFAULT 0,
    components BLOB NOT NULL DEFAULT x'',
    caption_components BLOB NOT NULL DEFAULT x''
) WITHOUT ROWID
"""
_BUSY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class AddedItem:
    """An item that a user added or put in another's place.

    ``components``: ``[1 + K, 256]``, ``caption_components``: ``[num_captions, 1 + K, 256]``, float32, unit norm, of the
    heads whose SHA-256 is ``made_with``. ``media_name``: of the file that holds the picture or sound (:func:`name_of`).
    """

    item_id: str
    identity: str
    captions: tuple[str, ...]
    content_type: str
    media_name: str
    components: NDArray[np.float32]
    caption_components: NDArray[np.float32]
    made_with: str


def name_of(data: bytes) -> str:
    """The name under which media are kept: their SHA-256."""
    return hashlib.sha256(data).hexdigest()


class UserItemStore:
    """The changes to one gallery, kept in ``folder``. Safe to call from several threads; one process writes.

    Raises Unavailable where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    @property
    def exists(self) -> bool:
        """Whether anything was ever changed."""
        return (self.folder / "items.sqlite").is_file()

    def put(self, items: Sequence[AddedItem], media: Sequence[bytes]) -> None:
        """Keep items, each new or in the place of the one with its id; all of them or, on an error, none.

        ``media``: the picture or sound of each, empty where it is kept already.
        """
        with self._transaction() as cursor:
            for data in filter(None, media):
                self._keep(data)
            (last,) = cursor.execute("SELECT COALESCE(MAX(number), 0) FROM items").fetchone()
            cursor.executemany(
                "INSERT OR REPLACE INTO items VALUES (?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        item.item_id,
                        last + 1 + n,
                        item.identity,
                        json.dumps(item.captions),
                        item.content_type,
                        item.media_name,
                        item.made_with,
                        len(item.components),
                        item.components.astype("<f4").tobytes(),
                        item.caption_components.astype("<f4").tobytes(),
                    )
                    for n, item in enumerate(items)
                ],
            )

    def remove(self, item_ids: Sequence[str], shipped: Sequence[bool]) -> None:
        """Forget items. Of a shipped one (``shipped``) it is kept that it is gone."""
        with self._transaction() as cursor:
            cursor.executemany("DELETE FROM items WHERE item_id = ?", [(i,) for i in item_ids])
            cursor.executemany(
                "INSERT INTO items (item_id, number, removed) VALUES (?, 0, 1)",
                [(i,) for i, was in zip(item_ids, shipped, strict=True) if was],
            )
        self._sweep()

    def removed(self) -> set[str]:
        """Shipped items that are gone."""
        if not self.exists:
            return set()
        with self._transaction() as cursor:
            rows = cursor.execute("SELECT item_id FROM items WHERE removed").fetchall()
        return {item_id for (item_id,) in rows}

    def items(self) -> list[AddedItem]:
        """The added items in the order in which they came."""
        if not self.exists:
            return []
        with self._transaction() as cursor:
            rows = cursor.execute(
                "SELECT item_id, identity, captions, content_type, media, made_with, num_components,"
                " components, caption_components FROM items WHERE NOT removed ORDER BY number"
            ).fetchall()
        return [self._item(*row) for row in rows]

    def media(self, item: AddedItem) -> Media:
        """An item's picture or sound."""
        return Media(item.content_type, self._path(item.media_name).read_bytes())

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _item(
        self,
        item_id: str,
        identity: str,
        captions: str,
        content_type: str,
        media: str,
        made_with: str,
        count: int,
        components: bytes,
        caption_components: bytes,
    ) -> AddedItem:
        texts = tuple(json.loads(captions))
        vectors = np.frombuffer(components, dtype="<f4").reshape(count, -1)
        of_captions = np.frombuffer(caption_components, dtype="<f4")
        return AddedItem(
            item_id=item_id,
            identity=identity,
            captions=texts,
            content_type=content_type,
            media_name=media,
            components=vectors,
            caption_components=of_captions.reshape(len(texts), count, vectors.shape[1]),
            made_with=made_with,
        )

    def _keep(self, data: bytes) -> None:
        path = self._path(name_of(data))
        if path.is_file():
            return
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".part")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def _path(self, name: str) -> Path:
        return self.folder / "media" / name

    def _sweep(self) -> None:
        """Delete media that no item names any more."""
        with self._transaction() as cursor:
            rows = cursor.execute("SELECT DISTINCT media FROM items WHERE NOT removed").fetchall()
            named = {name for (name,) in rows}
            for path in (self.folder / "media").glob("*"):
                if path.name not in named:
                    path.unlink()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._opened()
                with self._connection:
                    yield self._connection.cursor()
            except (OSError, sqlite3.Error) as error:
                raise Unavailable(f"the gallery's changes cannot be kept: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        self.folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self.folder / "items.sqlite", timeout=_BUSY_S, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # 0: new, or of 7fb36b6
        found = connection.execute("PRAGMA user_version").fetchone()[0] or None
        name, advice = str(self.folder / "items.sqlite"), "start the semlink that wrote it"
        try:
            check_format(USER_ITEMS, found, name, advice)
        except Unavailable:
            connection.close()
            raise
        connection.execute(_SCHEMA)
        connection.execute(f"PRAGMA user_version = {FORMATS[USER_ITEMS]}")
        connection.commit()
        return connection
