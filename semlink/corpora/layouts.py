"""Reading the files of public layouts: lines, tables and JSON whose errors name the file and the place in it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from semlink.corpora.corpus import Split
from semlink.errors import InvalidField, NotFound

IMAGE_TYPES: Mapping[str, str] = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
}
AUDIO_TYPES: Mapping[str, str] = {
    ".wav": "audio/wav",
    ".ogg": "audio/ogg",
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
}
"""Endings of the files that the readers take, in small letters, and what they hold."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_HALF_LETTER = re.compile("[\ud800-\udfff]")
_UNSAFE_RUN = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a table: its fields by column, empty where the record is short, and ``FILE, line N``."""

    fields: Mapping[str, str]
    where: str


def wrong(where: object, what: str) -> InvalidField:
    """The error of a set's file that is wrong: the file and the place in it, then what is wrong there."""
    return InvalidField(f"{where}: {what}", field="root")


def first_folder(root: Path, names: Sequence[str]) -> Path:
    """The first of ``names`` that is a folder under ``root``. Raises NotFound naming them all."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise NotFound(f"{root}: no folder {' or '.join(names)}", field="root")


def first_file(root: Path, names: Sequence[str]) -> Path:
    """The first of ``names`` that is a file under ``root``. Raises NotFound naming them all."""
    for name in names:
        if (root / name).is_file():
            return root / name
    raise NotFound(f"{root}: no file {' or '.join(names)}", field="root")


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, a byte order mark left out. Raises InvalidField naming the line that is not UTF-8."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The position is that in the bytes after a byte order mark, which holds no line end.
        number = data[: error.start].count(b"\n") + 1
        raise wrong(f"{path}, line {number}", "not UTF-8") from error


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 file that are not blank, numbered from 1. Raises InvalidField as :func:`read_text`."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r")


def table_rows(path: Path, columns: Sequence[str], *, encoding: str = "utf-8") -> Iterator[Row]:
    """Records of a comma-separated file with a header; quoted fields may hold commas, quotes and line ends.

    :param columns: must all be in the header; others may be there as well.
    :raises InvalidField: for a header without a column, a record with more fields than the header, quotes that do not
        close, or text in another encoding; the message names the file and the record's first line.
    """
    text = read_text(path) if encoding == "utf-8" else path.read_bytes().decode(encoding)
    records = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    while True:
        where = f"{path}, line {records.line_num + 1}"
        try:
            record = next(records, None)
        except csv.Error as error:
            raise wrong(where, f"not comma-separated ({error})") from error
        if record is None:
            break
        if header is None:
            header = [name.strip() for name in record]
            missing = [column for column in columns if column not in header]
            if missing:
                raise wrong(where, f"no column {', '.join(missing)}")
        elif len(record) > len(header):
            raise wrong(where, f"{len(record)} fields, the header has {len(header)}")
        elif any(field.strip() for field in record):
            padded = record + [""] * (len(header) - len(record))
            yield Row(dict(zip(header, padded, strict=True)), where)
    if header is None:
        raise wrong(f"{path}, line 1", "the table is empty")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises InvalidField naming the line that is no JSON or not UTF-8."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise wrong(f"{path}, line {error.lineno}", f"not JSON ({error.msg})") from error


def json_entries(place: str, entries: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a JSON list, each with ``PLACE, entry N``, counted from 0 as in the list. Raises InvalidField."""
    if not isinstance(entries, list):
        raise wrong(place, "expected a list of objects")
    for index, entry in enumerate(entries):
        where = f"{place}, entry {index}"
        if not isinstance(entry, dict):
            raise wrong(where, f"{entry!r:.80} is not an object")
        yield where, entry


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a JSON value is text that can be written: JSON can spell halves of letters (``"\\ud83d"``)."""
    return isinstance(value, str) and not _HALF_LETTER.search(value)


def text_of(entry: Mapping[str, Any], key: str, where: str) -> str:
    """The text under ``key``, not blank. Raises InvalidField naming the place and the key."""
    value = entry.get(key)
    if not is_text(value) or not value.strip():
        raise wrong(where, f"{key} is {value!r:.80}, expected text")
    return value


def texts_of(entry: Mapping[str, Any], key: str, where: str) -> list[str]:
    """The texts in the list under ``key``, blank ones left out. Raises InvalidField naming the place and the key."""
    value = entry.get(key)
    if not isinstance(value, list) or not all(is_text(text) for text in value):
        raise wrong(where, f"{key} is {value!r:.80}, expected a list of texts")
    return [text.strip() for text in value if text.strip()]


def inner_path(relative: str, types: Mapping[str, str], where: str, key: str) -> str:
    """``relative``, checked to stay inside the folder that it is relative to and to end as one of ``types``.

    :raises InvalidField: for an absolute path, ``..``, a backslash, a control character or another ending.
    """
    parts = relative.split("/")
    inside = all(part not in ("", ".", "..") for part in parts)
    if not inside or any(letter == "\\" or ord(letter) < 32 for letter in relative):
        raise wrong(where, f"{key} is {relative!r:.120}, which leaves the root")
    if os.path.splitext(parts[-1])[1].lower() not in types:
        raise wrong(where, f"{key} is {relative!r:.120}, expected an ending of {', '.join(types)}")
    return relative


def file_name(name: str, types: Mapping[str, str], where: str, key: str) -> str:
    """``name``, checked to be a bare file name that ends as one of ``types``. Raises InvalidField."""
    if "/" in name:
        raise wrong(where, f"{key} is {name!r:.120}, expected a file name")
    return inner_path(name, types, where, key)


def item_id_of(name: str) -> str:
    """An item id from a file's name or path that is safe in a URL and the same for the same name (our definition).

    Letters, digits, ``.``, ``_`` and ``-`` stay, a slash becomes ``--``; a name with anything else keeps what it can
    and gets 10 hexadecimal digits of its SHA-256, so that names differ as ids do, except for a slash and two dashes.
    """
    flat = name.replace("/", "--")
    if _SAFE_NAME.fullmatch(flat):
        return flat
    kept = _UNSAFE_RUN.sub("-", flat).strip("-.")[:80]
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
    return f"{kept or 'item'}-{digest[:10]}"


def hashed_split(key: str, *, val: float = 0.1, test: float = 0.1) -> Split:
    """The split of ``key`` in a set without official splits (our definition).

    SHA-256 of the text as a number in 0…1: the lowest share ``test`` is the test split, the next ``val`` the
    validation split. The same on every machine, and no item moves when others come or go.
    """
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2.0**64
    if place < test:
        return "test"
    return "val" if place < test + val else "train"


class Files:
    """Which files a folder holds: each folder is listed once, which beats asking for a hundred thousand files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, frozenset[str]] = {}

    def __contains__(self, relative: str) -> bool:
        """Whether ``relative``, a path with slashes, is a file under the folder."""
        parent, _, name = relative.rpartition("/")
        if parent not in self._names:
            self._names[parent] = _file_names(self.folder / parent)
        return name in self._names[parent]


def _file_names(folder: Path) -> frozenset[str]:
    if not folder.is_dir():
        return frozenset()
    with os.scandir(folder) as entries:
        return frozenset(entry.name for entry in entries if entry.is_file())
