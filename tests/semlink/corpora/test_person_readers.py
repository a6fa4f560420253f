"""CUHK-PEDES, ICFG-PEDES and RSTPReid, on fixtures in exactly their layouts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semlink.corpora.person_search import CuhkPedes, IcfgPedes, PersonSearch, RstpReid
from semlink.errors import InvalidField, NotFound


def write_picture(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 20), colour).save(path)


def cuhk(root: Path) -> Path:
    places = [
        ("cam_a/000_45.bmp", 1, "train"),
        ("CUHK01/0363004.png", 1, "train"),
        ("CUHK03/4_258_2_6.png", 2, "train"),
        ("Market/0002_c1s1_000451_03.jpg", 3, "val"),
        ("train_query/p8123_s10897.jpg", 4, "val"),
        ("test_query/p11600_s14885.jpg", 5, "test"),
        ("cam_b/000_45.bmp", 5, "test"),
    ]
    entries: list[dict[str, Any]] = []
    for number, (place, person, split) in enumerate(places):
        write_picture(root / "imgs" / place, (30 * number, 100, 200))
        captions = [f"Caption {n} of {place}.  " for n in range(2)]
        entries.append(
            {
                "split": split,
                "captions": captions,
                "file_path": place,
                "processed_tokens": [caption.lower().split() for caption in captions],
                "id": person,
            }
        )
    (root / "reid_raw.json").write_text(json.dumps(entries))
    return root


def icfg(root: Path) -> Path:
    entries: list[dict[str, Any]] = []
    for person, split in ((0, "train"), (0, "train"), (1, "train"), (2, "test")):
        place = f"{split}/{person:04d}/{person:04d}_{len(entries):03d}_01_0303morning.jpg"
        write_picture(root / "imgs" / place, (200, 50 * person, 0))
        entries.append(
            {
                "split": split,
                "captions": ["A man in black."],
                "file_path": place,
                "processed_tokens": [["a", "man", "in", "black"]],
                "id": person,
            }
        )
    (root / "ICFG-PEDES.json").write_text(json.dumps(entries))
    return root


def rstp(root: Path) -> Path:
    entries: list[dict[str, Any]] = []
    for person, split in ((0, "train"), (3701, "val"), (3901, "test")):
        for camera in (1, 5):
            place = f"{person:04d}_c{camera}_0001.jpg"
            write_picture(root / "imgs" / place, (10 * camera, 0, 90))
            captions = [f"Person {person} walks.", f"Seen by camera {camera}."]
            entries.append({"id": person, "img_path": place, "captions": captions, "split": split})
    (root / "data_captions.json").write_text(json.dumps(entries))
    return root


SETS: list[tuple[Callable[[Path], Path], Callable[[Path], PersonSearch], str, str]] = [
    (cuhk, CuhkPedes, "reid_raw.json", "file_path"),
    (icfg, IcfgPedes, "ICFG-PEDES.json", "file_path"),
    (rstp, RstpReid, "data_captions.json", "img_path"),
]


def change(path: Path, edit: Callable[[list[Any]], None]) -> None:
    entries = json.loads(path.read_text())
    edit(entries)
    path.write_text(json.dumps(entries))


def test_cuhk_pedes_reads_the_official_layout(tmp_path: Path) -> None:
    corpus = CuhkPedes(cuhk(tmp_path))
    assert corpus.splits == ("train", "val", "test")
    assert [[i.identity for i in corpus.items(split)] for split in corpus.splits] == [
        ["1", "1", "2"],
        ["3", "4"],
        ["5", "5"],
    ]
    assert corpus.skipped == 0
    item = corpus.items("test")[0]
    assert item.item_id == "test_query--p11600_s14885.jpg"
    assert item.captions == tuple(f"Caption {n} of test_query/p11600_s14885.jpg." for n in range(2))
    assert corpus.info.task == "person"
    assert np.abs(corpus.content(item.item_id).astype(int) - (150, 100, 200)).max() < 8


def test_cuhk_pedes_gives_bmp_as_png_with_the_same_pixels(tmp_path: Path) -> None:
    corpus = CuhkPedes(cuhk(tmp_path))
    media = corpus.media("cam_b--000_45.bmp")
    assert media.content_type == "image/png"
    assert Image.open(io.BytesIO(media.data)).format == "PNG"
    assert (corpus.content("cam_b--000_45.bmp") == (180, 100, 200)).all()
    assert corpus.content("cam_b--000_45.bmp").shape == (20, 8, 3)
    (tmp_path / "imgs/cam_b/000_45.bmp").write_bytes(b"BMnonsense")
    with pytest.raises(InvalidField, match=r"imgs/cam_b/000_45\.bmp does not decode as BMP"):
        corpus.media("cam_b--000_45.bmp")


def test_item_ids_need_no_escape_in_a_url(tmp_path: Path) -> None:
    corpus = CuhkPedes(cuhk(tmp_path))
    ids = [item.item_id for split in corpus.splits for item in corpus.items(split)]
    assert len(set(ids)) == 7
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert all(set(item_id) <= allowed for item_id in ids)


@pytest.mark.parametrize("name", ["ICFG-PEDES.json", "ICFG_PEDES.json"])
def test_icfg_pedes_reads_both_file_names_and_has_no_val(tmp_path: Path, name: str) -> None:
    icfg(tmp_path).joinpath("ICFG-PEDES.json").rename(tmp_path / name)
    corpus = IcfgPedes(tmp_path)
    assert corpus.splits == ("train", "test")
    assert [item.identity for item in corpus.items("train")] == ["0", "0", "1"]
    assert corpus.items("test")[0].captions == ("A man in black.",)
    with pytest.raises(NotFound, match="no split 'val'") as error:
        corpus.items("val")
    assert error.value.field == "split"


def test_rstpreid_reads_img_path(tmp_path: Path) -> None:
    corpus = RstpReid(rstp(tmp_path))
    assert corpus.splits == ("train", "val", "test")
    assert [item.item_id for item in corpus.items("val")] == [
        "3701_c1_0001.jpg",
        "3701_c5_0001.jpg",
    ]
    assert corpus.items("val")[1].captions == ("Person 3701 walks.", "Seen by camera 5.")


@pytest.mark.parametrize(("write", "reader", "listed", "key"), SETS)
def test_the_folder_above_is_taken_as_well(
    tmp_path: Path,
    write: Callable[[Path], Path],
    reader: Callable[[Path], PersonSearch],
    listed: str,
    key: str,
) -> None:
    name = {"reid_raw.json": "CUHK-PEDES", "ICFG-PEDES.json": "ICFG-PEDES"}.get(listed, "RSTPReid")
    above, inside = reader(write(tmp_path / name).parent), reader(tmp_path / name)
    assert above.items("test") == inside.items("test")


@pytest.mark.parametrize(("write", "reader", "listed", "key"), SETS)
def test_what_is_skipped_is_counted(
    tmp_path: Path,
    write: Callable[[Path], Path],
    reader: Callable[[Path], PersonSearch],
    listed: str,
    key: str,
) -> None:
    root = write(tmp_path)
    before = len(reader(root).items("train"))
    entries = json.loads((root / listed).read_text())
    (root / "imgs" / entries[0][key]).unlink()
    change(root / listed, lambda entries: entries[-1].update(captions=["  ", ""]))
    corpus = reader(root)
    assert corpus.skipped_by_reason == {
        "listed picture that is not on disk": 1,
        "listed picture without a caption": 1,
    }
    assert corpus.skipped == 2
    assert len(corpus.items("train")) == before - 1


@pytest.mark.parametrize(("write", "reader", "listed", "key"), SETS)
@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"split": "dev"}, "split is 'dev'"),
        ({"split": None}, "split is None"),
        ({"captions": "one"}, "captions is 'one'"),
        ({"captions": ["one", 2]}, "expected a list of texts"),
        ({"captions": None}, "captions is None"),
        ({"captions": ["half a letter \ud83d"]}, "expected a list of texts"),
        ({"PATH": "\ud83d.jpg"}, "expected text"),
        ({"id": "7"}, "id is '7'"),
        ({"id": True}, "id is True"),
        ({"id": -1}, "id is -1"),
        ({"PATH": 7}, "is 7, expected text"),
        ({"PATH": ""}, "expected text"),
        ({"PATH": "../../secret.jpg"}, "leaves the root"),
        ({"PATH": "train/../../secret.jpg"}, "leaves the root"),
        ({"PATH": "/etc/secret.jpg"}, "leaves the root"),
        ({"PATH": "..\\secret.jpg"}, "leaves the root"),
        ({"PATH": "a\0.jpg"}, "leaves the root"),
        ({"PATH": "train//a.jpg"}, "leaves the root"),
        ({"PATH": "train/a.gif"}, "expected an ending"),
    ],
)
def test_a_wrong_entry_is_named(
    tmp_path: Path,
    write: Callable[[Path], Path],
    reader: Callable[[Path], PersonSearch],
    listed: str,
    key: str,
    broken: dict[str, Any],
    says: str,
) -> None:
    root = write(tmp_path)
    wrong = {key if name == "PATH" else name: value for name, value in broken.items()}
    change(root / listed, lambda entries: entries[2].update(wrong))
    with pytest.raises(InvalidField, match=says) as error:
        reader(root)
    assert f"{listed}, entry 2:" in error.value.message
    assert error.value.field == "root"


def test_a_person_in_two_splits_is_refused(tmp_path: Path) -> None:
    cuhk(tmp_path)
    change(tmp_path / "reid_raw.json", lambda entries: entries[5].update(id=1))
    with pytest.raises(InvalidField, match="entry 5: id 1 is in test, but was in train"):
        CuhkPedes(tmp_path)


def test_a_picture_given_twice_is_refused(tmp_path: Path) -> None:
    cuhk(tmp_path)
    change(tmp_path / "reid_raw.json", lambda entries: entries.append(entries[6]))
    with pytest.raises(InvalidField, match=r"entry 7: .* given before"):
        CuhkPedes(tmp_path)


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    path = cuhk(tmp_path) / "reid_raw.json"
    lines = json.dumps(json.loads(path.read_text()), indent=1).split("\n")
    path.write_text("\n".join([*lines[:3], "nonsense", *lines[3:]]))
    with pytest.raises(InvalidField, match=r"reid_raw\.json, line 4: not JSON"):
        CuhkPedes(tmp_path)
    path.write_text("{}")
    with pytest.raises(InvalidField, match="expected a list"):
        CuhkPedes(tmp_path)
    path.write_text('["one"]')
    with pytest.raises(InvalidField, match="entry 0: 'one' is not an object"):
        CuhkPedes(tmp_path)
    path.write_bytes(b"[\n\xff]")
    with pytest.raises(InvalidField, match="line 2: not UTF-8"):
        CuhkPedes(tmp_path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    corpus = CuhkPedes(cuhk(tmp_path))
    for ask in (corpus.item, corpus.media, corpus.content):
        with pytest.raises(NotFound, match="nobody"):
            ask("nobody")
    (tmp_path / "imgs/CUHK01/0363004.png").unlink()
    with pytest.raises(NotFound, match="has gone"):
        corpus.media("CUHK01--0363004.png")
    for path in (tmp_path / "imgs").rglob("*.*"):
        path.unlink()
    with pytest.raises(NotFound, match="no picture of cuhk-pedes, left out: 7 ×"):
        CuhkPedes(tmp_path)
    (tmp_path / "reid_raw.json").unlink()
    with pytest.raises(NotFound, match=r"reid_raw\.json"):
        CuhkPedes(tmp_path)
    with pytest.raises(NotFound, match="imgs"):
        CuhkPedes(tmp_path / "nowhere")
