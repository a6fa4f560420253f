"""What all readers share: ids, splits, places in files, tables, and reading from many threads."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semlink.corpora.corpus import SPLITS, Item
from semlink.corpora.layouts import (
    AUDIO_TYPES,
    IMAGE_TYPES,
    Files,
    hashed_split,
    inner_path,
    item_id_of,
    numbered_lines,
    table_rows,
)
from semlink.corpora.listed import Listed, ListedImages, ListedSounds
from semlink.corpora.pedestrians import Pedestrians
from semlink.errors import InvalidField, NotFound

# Any name, also with halves of letters, which JSON can spell.
NAMES = st.text(st.characters(), min_size=1, max_size=120)


@given(name=NAMES)
def test_item_ids_need_no_escape_and_no_name_is_dots(name: str) -> None:
    item_id = item_id_of(name)
    assert item_id
    assert quote(item_id, safe="") == item_id
    assert item_id[0] not in ".-"
    assert len(item_id) <= max(2 * len(name), 100)
    assert item_id_of(name) == item_id


@given(names=st.sets(st.text("ab. -é_", min_size=1, max_size=4), min_size=2, max_size=40))
def test_different_names_have_different_ids(names: set[str]) -> None:
    assert len({item_id_of(name) for name in names}) == len(names)


def test_ids_of_paths() -> None:
    assert item_id_of("cam_a/000_45.bmp") == "cam_a--000_45.bmp"
    assert item_id_of("a b").startswith("a-b-")
    assert item_id_of("a b") != item_id_of("a  b")
    assert item_id_of("雨").startswith("item-")


@given(key=st.text(), val=st.floats(0, 0.5), test=st.floats(0, 0.5))
def test_hashed_splits_follow_their_definition(key: str, val: float, test: float) -> None:
    first = int(hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16], 16) / 16**16
    expected = "test" if first < test else "val" if first < test + val else "train"
    assert hashed_split(key, val=val, test=test) == expected


def test_a_corpus_has_all_splits_unless_it_says_otherwise() -> None:
    assert Pedestrians().splits == SPLITS == ("train", "val", "test")


@given(
    rows=st.lists(st.lists(st.text("ab,\"' é\n\r", max_size=6), min_size=3, max_size=3), max_size=8)
)
def test_tables_give_back_what_a_csv_writer_wrote(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(["a", "b", "c"])
    starts = []
    for row in rows:
        # The line on which the record starts, by the line ends written before it.
        starts.append(len(text.getvalue().replace("\r\n", "\n").replace("\r", "\n").split("\n")))
        writer.writerow(row)
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    path.write_bytes(text.getvalue().encode())
    read = list(table_rows(path, ["c", "a"]))
    kept = [(row, n) for row, n in zip(rows, starts, strict=True) if any(f.strip() for f in row)]
    assert [list(row.fields.values()) for row in read] == [row for row, _ in kept]
    assert [row.where for row in read] == [f"{path}, line {start}" for _, start in kept]


def test_tables_in_latin_1_and_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("a,b\nJosé,1\n".encode("iso-8859-1"))
    assert [r.fields["a"] for r in table_rows(path, ["a"], encoding="iso-8859-1")] == ["José"]
    with pytest.raises(InvalidField, match="line 2: not UTF-8"):
        list(table_rows(path, ["a"]))
    path.write_bytes("\ufeffa,b\nJosé,1\n".encode())
    assert [r.fields["a"] for r in table_rows(path, ["a"])] == ["José"]


def test_lines_are_numbered_as_an_editor_numbers_them(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    # Other marks that Python's splitlines() takes for line ends are part of a caption.
    path.write_bytes("one\r\n\r\n  \ntwo\u2028still two\x0bstill two\nthree".encode())
    assert list(numbered_lines(path)) == [
        (1, "one"),
        (4, "two\u2028still two\x0bstill two"),
        (5, "three"),
    ]


@given(path=st.text("ab./\\\n", max_size=8).map(lambda stem: f"{stem}x.jpg"))
def test_checked_paths_stay_inside(path: str) -> None:
    inside = Path("/root/folder")
    try:
        checked = inner_path(path, IMAGE_TYPES, "list, line 1", "file")
    except InvalidField:
        # Refused is what leaves, and what a file system would read as another path.
        usual = "\\" not in path and "\n" not in path and path == Path(path).as_posix()
        assert not usual or path.startswith("/") or ".." in path.split("/")
        return
    assert checked == path
    assert "\\" not in path
    # Compared with what a file system would make of it.
    assert Path(path).parts == tuple(path.split("/"))
    assert (inside / path).resolve().is_relative_to(inside)


def test_ordinary_paths_are_taken() -> None:
    for path in ("a.jpg", "cam_a/000_45.BMP", "train/0001/0001 (2).png", "é/..a.webp"):
        assert inner_path(path, IMAGE_TYPES, "here", "file") == path
    with pytest.raises(InvalidField, match="expected an ending"):
        inner_path("a.jpg", AUDIO_TYPES, "here", "file")


def test_files_are_found_by_path_and_folders_are_none(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c.wav").write_bytes(b"")
    (tmp_path / "link.wav").symlink_to(tmp_path / "a/b/c.wav")
    files = Files(tmp_path)
    assert "a/b/c.wav" in files
    assert "link.wav" in files
    for missing in ("a/b", "a", "c.wav", "a/c.wav", "x/y.wav", ""):
        assert missing not in files


def picture_item(number: int) -> Item:
    return Item(f"p{number}", f"p{number}", "train", (f"Picture {number}.",))


def test_a_listed_corpus_serves_many_threads(tmp_path: Path) -> None:
    listed = []
    for number in range(40):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (5, 4), (number, 2 * number, 3)).save(path)
        listed.append(Listed(picture_item(number), path, "list"))
    licence, description = "CC0", "Pictures"
    corpus = ListedImages(
        "set", tmp_path, listed, Counter(), licence=licence, description=description
    )
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(corpus.content, [f"p{n % 40}" for n in range(400)]))
    for number, pixels in enumerate(seen):
        assert (pixels == (number % 40, 2 * (number % 40), 3)).all()


def test_long_clips_are_counted_once_by_many_threads(tmp_path: Path) -> None:
    listed = []
    for number in range(4):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.zeros((30 + number) * 1_000), 1_000)
        listed.append(Listed(picture_item(number), path, "list"))
    corpus = ListedSounds("set", tmp_path, listed, Counter(), licence="CC0", description="Sounds")
    with ThreadPoolExecutor(4) as pool:
        lengths = {len(w) for w in pool.map(corpus.content, ["p0", "p1", "p2", "p3"] * 3)}
    assert lengths == {30 * 16_000}
    assert corpus.cut == 3


def test_a_listed_corpus_says_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (5, 4)).save(path)
    one = Listed(picture_item(1), path, "list, line 7")
    left_out = Counter({"gone": 2, "never": 0})
    corpus = ListedImages(
        "set",
        tmp_path,
        [one],
        left_out,
        licence="CC0",
        description="",
        absent={"val": "why"},
    )
    assert corpus.splits == ("train",)
    assert corpus.skipped_by_reason == {"gone": 2}
    assert corpus.skipped == 2
    with pytest.raises(NotFound, match="no split 'val': why"):
        corpus.items("val")
    with pytest.raises(NotFound, match="no split 'test': no item"):
        corpus.items("test")
    with pytest.raises(InvalidField, match="list, line 7: p1 was given before"):
        ListedImages("set", tmp_path, [one, one], left_out, licence="", description="")
    with pytest.raises(NotFound, match="no picture of set, left out: 2 × gone"):
        ListedImages("set", tmp_path, [], left_out, licence="", description="")
