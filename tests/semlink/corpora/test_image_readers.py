"""Flickr30k, MSCOCO and PhotoChat, on fixtures in exactly their layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semlink.corpora.corpus import SPLITS
from semlink.corpora.flickr30k import Flickr30k
from semlink.corpora.layouts import hashed_split
from semlink.corpora.mscoco import MsCoco
from semlink.corpora.photochat import PhotoChat
from semlink.errors import InvalidField, NotFound


def write_picture(path: Path, colour: tuple[int, int, int] = (90, 60, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), colour).save(path)


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    listed = json.loads(path.read_text())
    edit(listed)
    path.write_text(json.dumps(listed))


# ---- Flickr30k

NAMES = {
    "train": ["1000092795", "10002456", "1000268201"],
    "val": ["1000344755"],
    "test": ["1000366164", "1000523639"],
}


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    tokens = []
    for name in (n for names in NAMES.values() for n in names):
        write_picture(tmp_path / f"flickr30k-images/{name}.jpg", (int(name) % 200, 0, 100))
        tokens += [f"{name}.jpg#{n}\tCaption {n} of {name} ." for n in range(5)]
    (tmp_path / "results_20130124.token").write_text("\n".join(tokens) + "\n")
    return tmp_path


def write_lists(root: Path, ending: str = ".jpg") -> None:
    for split, names in NAMES.items():
        lines = "".join(f"{name}{ending}\n" for name in names)
        (root / f"flickr30k_{split}.txt").write_text(lines)


def write_karpathy(root: Path) -> None:
    images = [
        {
            "sentids": list(range(5)),
            "imgid": number,
            "sentences": [{"tokens": ["a"], "raw": "Karpathy's copy.", "imgid": 0, "sentid": 0}],
            "split": split,
            "filename": f"{name}.jpg",
        }
        for number, (split, name) in enumerate((s, n) for s in NAMES for n in NAMES[s])
    ]
    listed = {"images": images, "dataset": "flickr30k"}
    (root / "dataset_flickr30k.json").write_text(json.dumps(listed))


@pytest.mark.parametrize("ending", [".jpg", ""])
def test_flickr30k_reads_text_lists(flickr: Path, ending: str) -> None:
    write_lists(flickr, ending)
    corpus = Flickr30k(flickr)
    assert corpus.split_source == "text lists"
    assert {s: [i.item_id for i in corpus.items(s)] for s in SPLITS} == NAMES
    item = corpus.item("1000366164")
    assert item.captions == tuple(f"Caption {n} of 1000366164 ." for n in range(5))
    assert item.identity == item.item_id
    assert corpus.skipped == 0
    pixels = corpus.content("1000366164")
    assert pixels.shape == (10, 12, 3)
    assert np.abs(pixels.astype(int) - (1000366164 % 200, 0, 100)).max() < 8
    assert corpus.media("1000366164").content_type == corpus.info.media_type == "image/jpeg"


def test_flickr30k_reads_karpathys_json_and_the_other_folder_name(flickr: Path) -> None:
    write_karpathy(flickr)
    (flickr / "flickr30k-images").rename(flickr / "flickr30k_images")
    corpus = Flickr30k(flickr)
    assert corpus.split_source == "dataset_flickr30k.json"
    assert {s: [i.item_id for i in corpus.items(s)] for s in SPLITS} == NAMES
    assert corpus.item("1000344755").captions[0] == "Caption 0 of 1000344755 ."


def test_flickr30k_without_lists_splits_by_hash(flickr: Path) -> None:
    path = flickr / "results_20130124.token"
    names = [f"{number}.jpg" for number in range(200)]
    for name in names:
        write_picture(flickr / "flickr30k-images" / name)
    path.write_text("".join(f"{name}#0\tA caption .\n" for name in names))
    corpus = Flickr30k(flickr)
    assert corpus.split_source == "hash of the file name"
    share = 1 / 31
    for split in corpus.splits:
        of_split = {f"{item.item_id}.jpg" for item in corpus.items(split)}
        assert of_split == {n for n in names if hashed_split(n, val=share, test=share) == split}
    # Another set of pictures moves none of those that stay.
    path.write_text("".join(f"{name}#0\tA caption .\n" for name in names[::2]))
    smaller = Flickr30k(flickr)
    for split in smaller.splits:
        stay = [item for item in corpus.items(split) if int(item.item_id) % 2 == 0]
        assert list(smaller.items(split)) == stay


def test_hashed_splits_have_the_asked_shares() -> None:
    splits = [hashed_split(f"picture {n}", val=0.1, test=0.2) for n in range(20_000)]
    # Three standard deviations of a share of 20,000 draws are 0.9 points at most.
    assert splits.count("test") / len(splits) == pytest.approx(0.2, abs=0.009)
    assert splits.count("val") / len(splits) == pytest.approx(0.1, abs=0.009)


def test_flickr30k_without_one_list_lacks_that_split(flickr: Path) -> None:
    write_lists(flickr)
    (flickr / "flickr30k_val.txt").unlink()
    (flickr / "flickr30k-images/10002456.jpg").unlink()
    corpus = Flickr30k(flickr)
    assert corpus.splits == ("train", "test")
    with pytest.raises(NotFound, match=r"flickr30k_val\.txt is not there"):
        corpus.items("val")
    assert corpus.skipped_by_reason == {
        "listed picture that is not on disk": 1,
        "caption of a picture in no list": 5,
    }


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("results_20130124.token", "10002456.jpg#9 no tab", "not <img>.jpg#<n>"),
        ("results_20130124.token", "10002456.jpg#0\tagain", "given before"),
        ("results_20130124.token", "../../10002456.jpg#0\tout", "not <img>.jpg#<n>"),
        ("flickr30k_val.txt", "10002456.jpg", "already in train"),
        ("flickr30k_val.txt", "10002456.png", "not the file name"),
        ("flickr30k_val.txt", "../10002456.jpg", "not the file name"),
    ],
)
def test_flickr30k_names_the_wrong_line(flickr: Path, file: str, line: str, says: str) -> None:
    write_lists(flickr)
    path = flickr / file
    number = len(path.read_text().splitlines()) + 1
    with path.open("a") as lines:
        lines.write(line + "\n")
    with pytest.raises(InvalidField, match=says) as error:
        Flickr30k(flickr)
    assert f"{file}, line {number}:" in error.value.message


def test_flickr30k_names_what_is_missing(flickr: Path) -> None:
    (flickr / "results_20130124.token").unlink()
    with pytest.raises(NotFound, match=r"results_20130124\.token"):
        Flickr30k(flickr)
    with pytest.raises(NotFound, match="flickr30k-images or flickr30k_images"):
        Flickr30k(flickr / "nowhere")


# ---- MSCOCO

COCO = [
    ("train2014", 57870, "train"),
    ("val2014", 522418, "restval"),
    ("val2014", 184613, "val"),
    ("val2014", 391895, "test"),
    ("val2014", 60623, "test"),
]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    images = []
    for number, (folder, coco_id, split) in enumerate(COCO):
        name = f"COCO_{folder}_{coco_id:012d}.jpg"
        write_picture(tmp_path / folder / name, (40 * number, 20, 10))
        sentences = [
            {
                "tokens": ["a", "scene", str(n)],
                "raw": f"A scene, {n}. ",
                "imgid": number,
                "sentid": 5 * number + n,
            }
            for n in range(5)
        ]
        images.append(
            {
                "filepath": folder,
                "sentids": [s["sentid"] for s in sentences],
                "filename": name,
                "imgid": number,
                "split": split,
                "sentences": sentences,
                "cocoid": coco_id,
            }
        )
    listed = {"images": images, "dataset": "coco"}
    (tmp_path / "dataset_coco.json").write_text(json.dumps(listed))
    return tmp_path


def test_mscoco_reads_karpathys_splits_and_trains_on_restval(coco: Path) -> None:
    corpus = MsCoco(coco)
    assert {s: [i.item_id for i in corpus.items(s)] for s in SPLITS} == {
        "train": ["COCO_train2014_000000057870", "COCO_val2014_000000522418"],
        "val": ["COCO_val2014_000000184613"],
        "test": ["COCO_val2014_000000391895", "COCO_val2014_000000060623"],
    }
    item = corpus.items("val")[0]
    assert item.captions == tuple(f"A scene, {n}." for n in range(5))
    assert np.abs(corpus.content(item.item_id).astype(int) - (80, 20, 10)).max() < 8
    assert corpus.skipped == 0


def test_mscoco_counts_what_it_skips(coco: Path) -> None:
    (coco / "train2014/COCO_train2014_000000057870.jpg").unlink()
    change(
        coco / "dataset_coco.json",
        lambda listed: listed["images"][2].update(sentences=[{"raw": " ", "tokens": []}]),
    )
    corpus = MsCoco(coco)
    assert corpus.skipped_by_reason == {
        "listed picture that is not on disk": 1,
        "listed picture without a caption": 1,
    }
    assert corpus.splits == ("train", "test")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"split": "dev"}, "split is 'dev'"),
        ({"split": ["train"]}, "split is"),
        ({"filename": "../../secret.jpg"}, "expected a file name"),
        ({"filename": "/etc/secret.jpg"}, "expected a file name"),
        ({"filename": "..\\secret.jpg"}, "leaves the root"),
        ({"filename": "secret.txt"}, "expected an ending"),
        ({"filename": 3}, "filename is 3"),
        ({"filepath": ".."}, "expected the name of a folder"),
        ({"filepath": "/etc"}, "expected the name of a folder"),
        ({"filepath": "val2014/../.."}, "expected the name of a folder"),
        ({"filepath": None}, "filepath is None"),
        ({"sentences": None}, "sentences: expected a list"),
        ({"sentences": ["A scene."]}, "sentences, entry 0: 'A scene.' is not an object"),
        ({"sentences": [{"tokens": ["a"]}]}, "expected a list of texts"),
        ({"filename": "COCO_train2014_000000057870.jpg", "filepath": "train2014"}, "given before"),
    ],
)
def test_mscoco_names_the_wrong_entry(coco: Path, broken: dict[str, Any], says: str) -> None:
    change(coco / "dataset_coco.json", lambda listed: listed["images"][3].update(broken))
    with pytest.raises(InvalidField, match=says) as error:
        MsCoco(coco)
    assert "dataset_coco.json, entry 3" in error.value.message


def test_mscoco_names_what_is_missing(coco: Path) -> None:
    path = coco / "dataset_coco.json"
    path.write_text('{"images": [\n{"filename": }]}')
    with pytest.raises(InvalidField, match=r"dataset_coco\.json, line 2: not JSON"):
        MsCoco(coco)
    path.write_text("[]")
    with pytest.raises(InvalidField, match="expected an object with images"):
        MsCoco(coco)
    path.unlink()
    with pytest.raises(NotFound, match=r"dataset_coco\.json"):
        MsCoco(coco)
    with pytest.raises(NotFound, match="train2014 or val2014"):
        MsCoco(coco / "nowhere")


# ---- PhotoChat


def said(user: int, message: str) -> dict[str, Any]:
    return {"message": message, "share_photo": False, "user_id": user}


def shared(user: int) -> dict[str, Any]:
    return {"message": "", "share_photo": True, "user_id": user}


def dialogue(number: int, photo: str, turns: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "dialogue": turns,
        "dialogue_id": number,
        "photo_description": "Objects in the photo: Teapot, Kettle",
        "photo_url": f"https://example.org/5/{number}/{photo}",
        **more,
    }


TEAPOT = [
    said(0, "Hello!"),
    said(1, "Whats been going on?"),
    said(0, "Got my wife this teapot"),
    said(0, "  "),
    shared(0),
    said(1, "I love it"),
    said(0, "It is made of iron."),
]


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    parts = {
        "train/train_00": [dialogue(0, "11_a_o.jpg", TEAPOT)],
        "train/train_01": [
            dialogue(1, "22_b_o.jpg", [said(0, "Hi"), said(1, "Look at this!"), shared(1)]),
            dialogue(2, "11_a_o.jpg", [said(0, "Tea?"), shared(0)]),
        ],
        "dev/dev_00": [dialogue(0, "33_c_o.jpg", TEAPOT, photo_id="train/0a1b2c")],
        "test/test_00": [dialogue(0, "44%20d_o.png", TEAPOT)],
    }
    for name, dialogues in parts.items():
        path = tmp_path / f"photochat/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dialogues))
    for number, name in enumerate(("11_a_o.jpg", "22_b_o.jpg", "0a1b2c.jpg", "44 d_o.png")):
        write_picture(tmp_path / "photos" / name, (0, 60 * number, 0))
    return tmp_path


def test_photochat_asks_with_what_the_sharing_user_said_before(chats: Path) -> None:
    corpus = PhotoChat(chats)
    assert corpus.splits == ("train", "val", "test")
    teapot, other = corpus.items("train")
    assert teapot.item_id == "11_a_o.jpg"
    # Two dialogues share the photo: two captions of one item.
    assert teapot.captions == ("Hello! Got my wife this teapot.", "Tea?")
    assert teapot.attributes["turns"] == (("Hello!", "Got my wife this teapot"), ("Tea?",))
    assert other.captions == ("Look at this!",)
    assert "Teapot" in teapot.attributes["photo_description"]
    assert corpus.skipped == 0
    for split in corpus.splits:
        for item in corpus.items(split):
            text = " ".join(item.captions)
            assert "I love it" not in text
            assert "iron" not in text
            assert "Whats" not in text


def test_photochat_finds_photos_by_id_and_by_url(chats: Path) -> None:
    corpus = PhotoChat(chats)
    assert [item.item_id for item in corpus.items("val")] == ["0a1b2c.jpg"]
    (item,) = corpus.items("test")
    assert item.item_id.startswith("44-d_o.png-")
    assert corpus.media(item.item_id).content_type == "image/png"
    assert (corpus.content(item.item_id) == (0, 180, 0)).all()
    (chats / "photos/0a1b2c.jpg").rename(chats / "photos/33_c_o.jpg")
    assert [item.item_id for item in PhotoChat(chats).items("val")] == ["33_c_o.jpg"]


def test_photochat_counts_what_it_skips(chats: Path) -> None:
    (chats / "photos/22_b_o.jpg").unlink()
    change(
        chats / "photochat/train/train_00.json",
        lambda dialogues: dialogues.extend(
            [
                dialogue(3, "11_a_o.jpg", [said(0, "Bye")]),
                dialogue(4, "11_a_o.jpg", [said(1, "Show me"), shared(0), said(0, "Here")]),
                dialogue(5, "44 d_o.png", TEAPOT),
                dialogue(6, "no-name", TEAPOT),
            ]
        ),
    )
    corpus = PhotoChat(chats)
    assert corpus.skipped_by_reason == {
        "dialogue whose photo is not on disk": 2,
        "dialogue in which no photo is shared": 1,
        "dialogue whose sharing user said nothing before": 1,
        "dialogue whose photo another split holds": 1,
    }
    assert corpus.skipped == 5
    # The photo that train shares with test stays in test.
    assert [item.item_id for item in corpus.items("train")] == ["11_a_o.jpg"]
    assert len(corpus.items("test")) == 1


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"dialogue": None}, "entry 1, dialogue: expected a list"),
        ({"dialogue": ["Hi"]}, "entry 1, dialogue, entry 0: 'Hi' is not an object"),
        ({"dialogue": [said(0, "Hi"), {**shared(0), "message": None}]}, "entry 1: message is None"),
        ({"dialogue": [{**said(0, "Hi"), "share_photo": "no"}]}, "share_photo is 'no'"),
        ({"dialogue": [{**said(0, "Hi"), "user_id": 2}]}, "user_id is 2"),
        ({"photo_url": None}, "entry 1: photo_url is None"),
        ({"photo_id": 7}, "entry 1: photo_id is 7"),
    ],
)
def test_photochat_names_the_wrong_entry(chats: Path, broken: dict[str, Any], says: str) -> None:
    change(chats / "photochat/train/train_01.json", lambda listed: listed[1].update(broken))
    with pytest.raises(InvalidField, match=says) as error:
        PhotoChat(chats)
    assert "train_01.json, entry 1" in error.value.message


@pytest.mark.parametrize(
    "url", ["https://a.org/..", "https://a.org/x/%2e%2e%2fsecret.jpg", "..jpg"]
)
def test_photochat_never_leaves_the_photos(chats: Path, url: str) -> None:
    write_picture(chats / "secret.jpg")
    change(chats / "photochat/train/train_00.json", lambda d: d[0].update(photo_url=url))
    assert PhotoChat(chats).skipped_by_reason == {"dialogue whose photo is not on disk": 1}


def test_photochat_names_what_is_missing(chats: Path) -> None:
    for path in (chats / "photochat/dev").iterdir():
        path.unlink()
    corpus = PhotoChat(chats)
    with pytest.raises(NotFound, match=r"photochat/dev/\*\.json is not there"):
        corpus.items("val")
    for path in (chats / "photochat").rglob("*.json"):
        path.unlink()
    with pytest.raises(NotFound, match="photochat"):
        PhotoChat(chats)
    with pytest.raises(NotFound, match="photos"):
        PhotoChat(chats / "nowhere")
