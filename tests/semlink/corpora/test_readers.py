"""Readers of public layouts, on fixtures in exactly those layouts, and on the real sets where they are."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from semlink.corpora.corpus import SPLITS
from semlink.corpora.esc50 import PHRASES, Esc50
from semlink.corpora.flickr8k import Flickr8k
from semlink.errors import InvalidField, NotFound

DATA = Path(
    os.environ.get("SEMLINK_DATA", Path(__file__).resolve().parents[3].parent / "shared" / "data")
)
NAMES = {"train": ["1_aa", "2_bb", "3_cc"], "dev": ["4_dd"], "test": ["5_ee", "6_ff"]}


# ---- Flickr8k


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    root = tmp_path / "flickr8k"
    (root / "Flicker8k_Dataset").mkdir(parents=True)
    (root / "Flickr8k_text").mkdir()
    tokens = []
    for number, name in enumerate(n for names in NAMES.values() for n in names):
        colour = (40 * number, 0, 200)
        Image.new("RGB", (20 + number, 16), colour).save(root / f"Flicker8k_Dataset/{name}.jpg")
        tokens += [f"{name}.jpg#{n}\tCaption {n} of picture {name} ." for n in range(5)]
    (root / "Flickr8k_text/Flickr8k.token.txt").write_text("\n".join(tokens) + "\n")
    for part, names in NAMES.items():
        lines = "".join(f"{name}.jpg\n" for name in names)
        (root / f"Flickr8k_text/Flickr_8k.{part}Images.txt").write_text(lines)
    return root


def test_flickr8k_reads_the_official_layout(flickr: Path) -> None:
    corpus = Flickr8k(flickr)
    assert corpus.splits == ("train", "val", "test")
    read = {split: [item.item_id for item in corpus.items(split)] for split in SPLITS}
    assert read == {"train": NAMES["train"], "val": NAMES["dev"], "test": NAMES["test"]}
    item = corpus.item("5_ee")
    assert item.split == "test"
    assert item.identity == "5_ee"
    assert item.captions == tuple(f"Caption {n} of picture 5_ee ." for n in range(5))
    assert corpus.skipped == 0
    pixels = corpus.content("5_ee")
    assert pixels.shape == (16, 24, 3)
    assert np.abs(pixels.astype(int) - (160, 0, 200)).max() < 8
    media = corpus.media("5_ee")
    assert media.content_type == "image/jpeg"
    assert Image.open(io.BytesIO(media.data)).size == (24, 16)


def test_flickr8k_captions_come_in_order_of_their_number(flickr: Path) -> None:
    path = flickr / "Flickr8k_text/Flickr8k.token.txt"
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    assert Flickr8k(flickr).item("1_aa").captions[0] == "Caption 0 of picture 1_aa ."


def test_flickr8k_without_a_list_lacks_that_split(flickr: Path) -> None:
    (flickr / "Flickr8k_text/Flickr_8k.testImages.txt").unlink()
    corpus = Flickr8k(flickr)
    assert corpus.splits == ("train", "val")
    assert len(corpus.items("train")) == 3
    with pytest.raises(NotFound, match="testImages"):
        corpus.items("test")
    assert corpus.skipped_by_reason == {"caption of a picture in no list": 10}
    assert corpus.skipped == 10


def test_flickr8k_takes_the_corrected_folder_name_and_windows_line_ends(flickr: Path) -> None:
    (flickr / "Flicker8k_Dataset").rename(flickr / "Flickr8k_Dataset")
    path = flickr / "Flickr8k_text/Flickr_8k.trainImages.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(Flickr8k(flickr).items("train")) == 3


def test_flickr8k_counts_what_it_skips(flickr: Path) -> None:
    (flickr / "Flicker8k_Dataset/2_bb.jpg").unlink()
    with (flickr / "Flickr8k_text/Flickr_8k.devImages.txt").open("a") as lines:
        lines.write("7_gg.jpg\n")
    with (flickr / "Flickr8k_text/Flickr8k.token.txt").open("a") as lines:
        # As in the released file: captions of a picture that was never released.
        lines.write("2258277193_586949ec62.jpg.1#0\tSome people .\n")
    corpus = Flickr8k(flickr)
    assert corpus.skipped_by_reason == {
        "listed picture that is not on disk": 1,
        "listed picture without a caption": 1,
        "caption of a picture in no list": 1,
    }
    assert corpus.skipped == 3
    assert [item.item_id for item in corpus.items("train")] == ["1_aa", "3_cc"]


@pytest.mark.parametrize(
    ("file", "line", "says"),
    [
        ("Flickr8k.token.txt", "1_aa.jpg#9 no tab here", "not <img>.jpg#<n>"),
        ("Flickr8k.token.txt", "1_aa.jpg\tno number", "not <img>.jpg#<n>"),
        ("Flickr8k.token.txt", "1_aa.jpg#x\tno number", "not <img>.jpg#<n>"),
        ("Flickr8k.token.txt", "1_aa.jpg#9\t   ", "not <img>.jpg#<n>"),
        ("Flickr8k.token.txt", "1_aa.jpg#0\tagain", "given before"),
        ("Flickr_8k.devImages.txt", "1_aa.jpg", "already in train"),
        ("Flickr_8k.devImages.txt", "4_dd.jpg", "already in val"),
        ("Flickr_8k.devImages.txt", "4_dd.png", "not the file name"),
        ("Flickr_8k.devImages.txt", "../secret.jpg", "not the file name"),
    ],
)
def test_flickr8k_names_the_wrong_line(flickr: Path, file: str, line: str, says: str) -> None:
    path = flickr / "Flickr8k_text" / file
    number = len(path.read_text().splitlines()) + 1
    with path.open("a") as lines:
        lines.write(line + "\n")
    with pytest.raises(InvalidField, match=says) as error:
        Flickr8k(flickr)
    assert f"{file}, line {number}:" in error.value.message


def test_flickr8k_names_the_line_that_is_not_utf8(flickr: Path) -> None:
    path = flickr / "Flickr8k_text/Flickr8k.token.txt"
    path.write_bytes(path.read_bytes().replace(b"Caption 1 of picture 1_aa", b"Caf\xe9"))
    with pytest.raises(InvalidField, match=r"line 2: not UTF-8"):
        Flickr8k(flickr)


def test_flickr8k_names_what_is_missing(flickr: Path) -> None:
    corpus = Flickr8k(flickr)
    for ask in (corpus.item, corpus.media, corpus.content):
        with pytest.raises(NotFound, match="nobody"):
            ask("nobody")
    (flickr / "Flicker8k_Dataset/1_aa.jpg").write_bytes(b"no picture")
    with pytest.raises(InvalidField, match=r"Flicker8k_Dataset/1_aa\.jpg"):
        corpus.content("1_aa")
    for path in (flickr / "Flickr8k_text").glob("*Images.txt"):
        path.unlink()
    with pytest.raises(NotFound, match="none of"):
        Flickr8k(flickr)
    (flickr / "Flickr8k_text/Flickr8k.token.txt").unlink()
    with pytest.raises(NotFound, match=r"Flickr8k\.token\.txt"):
        Flickr8k(flickr)
    with pytest.raises(NotFound, match="Flicker8k_Dataset"):
        Flickr8k(flickr / "nowhere")


# ---- ESC-50

HEADER = "filename,fold,target,category,esc10,src_file,take"


@pytest.fixture
def esc(tmp_path: Path) -> Path:
    root = tmp_path / "esc50"
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    rows = [HEADER]
    for fold in range(1, 6):
        for target, category in ((0, "dog"), (20, "crying_baby")):
            name = f"{fold}-10{fold}{target}-A-{target}.wav"
            time = np.arange(44_100) / 44_100
            wave = 0.4 * np.sin(2 * np.pi * (200 + 100 * fold) * time)
            soundfile.write(root / "audio" / name, wave, 44_100)
            rows.append(f"{name},{fold},{target},{category},True,10{fold}{target},A")
    (root / "meta/esc50.csv").write_text("\n".join(rows) + "\n")
    return root


def test_esc50_reads_the_official_layout(esc: Path) -> None:
    corpus = Esc50(esc)
    folds = {s: {item.attributes["fold"] for item in corpus.items(s)} for s in SPLITS}
    assert folds == {"train": {1, 2, 3}, "val": {4}, "test": {5}}
    assert [len(corpus.items(split)) for split in SPLITS] == [6, 2, 2]
    item = corpus.item("2-10220-A-20")
    assert item.attributes == {"category": "crying baby", "target": 20, "fold": 2}
    assert item.identity == item.item_id
    assert len(set(item.captions)) == 5
    assert all("baby" in caption and caption.endswith(".") for caption in item.captions)
    assert corpus.skipped == 0
    samples = corpus.content(item.item_id)
    assert samples.shape == (16_000,)
    assert np.argmax(np.abs(np.fft.rfft(samples))) == pytest.approx(400, abs=1)
    assert corpus.info.media_type == corpus.media(item.item_id).content_type == "audio/wav"
    assert corpus.media(item.item_id).data[:4] == b"RIFF"


def test_esc50_folds_are_chosen(esc: Path) -> None:
    corpus = Esc50(esc, val_fold=1, test_fold=2)
    folds = {s: {item.attributes["fold"] for item in corpus.items(s)} for s in SPLITS}
    assert folds == {"train": {3, 4, 5}, "val": {1}, "test": {2}}
    for wrong in ({"val_fold": 0}, {"test_fold": 6}, {"val_fold": 2, "test_fold": 2}):
        with pytest.raises(InvalidField) as error:
            Esc50(esc, **wrong)
        assert error.value.field in wrong


def test_esc50_takes_ogg_and_a_table_beside_the_audio(esc: Path) -> None:
    table = (esc / "meta/esc50.csv").read_text().replace(".wav", ".ogg")
    (esc / "meta/esc50.csv").unlink()
    (esc / "esc50.csv").write_text(table)
    for path in (esc / "audio").glob("*.wav"):
        samples, rate = soundfile.read(path)
        soundfile.write(path.with_suffix(".ogg"), samples, rate)
        path.unlink()
    corpus = Esc50(esc)
    assert corpus.info.media_type == corpus.media("1-1010-A-0").content_type == "audio/ogg"
    assert corpus.content("1-1010-A-0").shape == (16_000,)


def test_esc50_counts_clips_that_are_not_on_disk(esc: Path) -> None:
    for path in (esc / "audio").glob("5-*.wav"):
        path.unlink()
    corpus = Esc50(esc)
    assert corpus.skipped == 2
    assert corpus.skipped_by_reason == {"clip in the table that is not on disk": 2}
    assert corpus.splits == ("train", "val")
    with pytest.raises(NotFound, match="test"):
        corpus.items("test")
    for path in (esc / "audio").glob("*.wav"):
        path.unlink()
    with pytest.raises(NotFound, match="no clip"):
        Esc50(esc)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("1-7-A-0.mp3,1,0,dog,,,", "filename"),
        ("../1-7-A-0.wav,1,0,dog,,,", "filename"),
        ("1-7-A-0.wav,6,0,dog,,,", "fold is '6'"),
        ("1-7-A-0.wav,one,0,dog,,,", "fold is 'one'"),
        ("1-7-A-0.wav,1,-3,dog,,,", "target is '-3'"),
        ("1-7-A-0.wav,1,0,,,,", "category is empty"),
        ("1-7-A-0.wav,1", "target is ''"),
        ("1-1010-A-0.wav,1,0,dog,,,", "given before"),
        ("1-1010-A-0.ogg,1,0,dog,,,", "given before"),
    ],
)
def test_esc50_names_the_wrong_line(esc: Path, row: str, says: str) -> None:
    with (esc / "meta/esc50.csv").open("a") as lines:
        lines.write(row + "\n")
    with pytest.raises(InvalidField, match=says) as error:
        Esc50(esc)
    assert "esc50.csv, line 12:" in error.value.message


def test_esc50_names_what_is_missing(esc: Path) -> None:
    corpus = Esc50(esc)
    for ask in (corpus.item, corpus.media, corpus.content):
        with pytest.raises(NotFound, match="nobody"):
            ask("nobody")
    (esc / "audio/1-1010-A-0.wav").write_bytes(b"no sound")
    with pytest.raises(InvalidField, match=r"audio/1-1010-A-0\.wav"):
        corpus.content("1-1010-A-0")
    (esc / "meta/esc50.csv").write_text("filename,fold\n")
    with pytest.raises(InvalidField, match=r"line 1: no column target, category"):
        Esc50(esc)
    (esc / "meta/esc50.csv").unlink()
    with pytest.raises(NotFound, match=r"meta/esc50\.csv"):
        Esc50(esc)
    with pytest.raises(NotFound, match="audio"):
        Esc50(esc / "nowhere")


# ---- the real sets


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "flickr8k").is_dir(), reason="Flickr8k is not there")
def test_real_flickr8k() -> None:
    corpus = Flickr8k(DATA / "flickr8k")
    assert {"train", "val"} <= set(corpus.splits)
    for split in corpus.splits:
        items = corpus.items(split)
        assert all(len(item.captions) == 5 for item in items)
        for item in items[:20]:
            pixels = corpus.content(item.item_id)
            assert pixels.ndim == 3
            assert pixels.std() > 5
    ids = [item.item_id for split in corpus.splits for item in corpus.items(split)]
    assert len(set(ids)) == len(ids) > 0


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "esc50").is_dir(), reason="ESC-50 is not there")
def test_real_esc50() -> None:
    corpus = Esc50(DATA / "esc50")
    assert {"train", "val"} <= set(corpus.splits)
    recordings: dict[str, set[str]] = {}
    for split in corpus.splits:
        items = corpus.items(split)
        assert {item.attributes["category"] for item in items} <= set(PHRASES)
        assert len({item.attributes["category"] for item in items}) == 50
        recordings[split] = {item.item_id.split("-")[1] for item in items}
        for item in items[::40]:
            samples = corpus.content(item.item_id)
            assert samples.dtype == np.float32
            assert 0 < len(samples) <= 16_000 * 30
            assert np.abs(samples).max() <= 1.0
    assert not recordings["train"] & recordings["val"]
