"""Clotho, AudioCaps and Tux Paint's stamps, on fixtures in exactly their layouts; the stamps also as installed."""

from __future__ import annotations

import csv
import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from semlink.corpora import tuxpaint
from semlink.corpora.audiocaps import AudioCaps
from semlink.corpora.clotho import Clotho
from semlink.corpora.corpus import SPLITS
from semlink.corpora.tuxpaint import INSTALLED, TuxPaint, TuxPaintSounds
from semlink.errors import InvalidField, NotFound

URL_SAFE = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def write_sound(
    path: Path, seconds: float = 0.5, rate: int = 44_100, frequency: float = 440.0
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.4 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)
    soundfile.write(path, wave, rate)


def write_table(path: Path, rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as table:
        csv.writer(table).writerows(rows)


# ---- Clotho

CAPTIONS = [f"caption_{n}" for n in range(1, 6)]
CLIPS = {
    "development": ["Distorted AM Radio noise.wav", "Café ambience #2 (50%).wav", "rain.wav"],
    "validation": ["rain.wav"],
    "evaluation": ["Santa Motor.wav"],
}


@pytest.fixture
def clotho(tmp_path: Path) -> Path:
    for part, names in CLIPS.items():
        rows = [["file_name", *CAPTIONS]]
        for number, name in enumerate(names):
            said = [f"Caption {n}, of “{name}”." for n in range(5)]
            said[4] = 'Someone says "hello"\nand leaves'
            rows.append([name, *said])
            write_sound(tmp_path / part / name, 0.5, frequency=400 + 200 * number)
        write_table(tmp_path / f"clotho_captions_{part}.csv", rows)
        columns = "file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license"
        lines = [columns, *(f'{n},"a;b",1,link,"[0, 9]",Jos\u00e9,CC0' for n in names)]
        path = tmp_path / f"clotho_metadata_{part}.csv"
        path.write_bytes("\r\n".join(lines).encode("iso-8859-1"))
    return tmp_path


def test_clotho_reads_the_official_layout(clotho: Path) -> None:
    corpus = Clotho(clotho)
    assert corpus.splits == ("train", "val", "test")
    names = {s: [i.attributes["file_name"] for i in corpus.items(s)] for s in SPLITS}
    assert list(names.values()) == list(CLIPS.values())
    item = corpus.items("train")[0]
    assert item.captions[0] == "Caption 0, of “Distorted AM Radio noise.wav”."
    assert item.captions[4] == 'Someone says "hello"\nand leaves'
    assert len(item.captions) == 5
    assert item.attributes["manufacturer"] == "José"
    assert item.attributes["license"] == "CC0"
    assert corpus.skipped == corpus.cut == 0
    samples = corpus.content(item.item_id)
    assert samples.dtype == np.float32
    assert samples.shape == (8_000,)
    # Half a second: bins of 2 Hz.
    assert 2 * np.argmax(np.abs(np.fft.rfft(samples))) == pytest.approx(400, abs=2)
    assert corpus.media(item.item_id).content_type == corpus.info.media_type == "audio/wav"


def test_clotho_ids_are_safe_in_urls_and_differ_between_splits(clotho: Path) -> None:
    corpus = Clotho(clotho)
    ids = [item.item_id for split in corpus.splits for item in corpus.items(split)]
    assert len(set(ids)) == 5
    assert set("".join(ids)) <= URL_SAFE
    assert {"train--rain", "val--rain"} <= set(ids)
    assert [item.item_id for item in Clotho(clotho).items("train")] == ids[:3]


@pytest.mark.parametrize(
    "place",
    ["clotho_audio_files/{}", "clotho_audio_{}/{}", "clotho_audio_{}"],
)
def test_clotho_finds_the_folders_of_its_archives(clotho: Path, place: str) -> None:
    before = [item.item_id for split in SPLITS for item in Clotho(clotho).items(split)]
    for part in CLIPS:
        moved = clotho / place.format(part, part)
        moved.parent.mkdir(exist_ok=True)
        (clotho / part).rename(moved)
    (clotho / "clotho_csv_files").mkdir()
    for table in clotho.glob("*.csv"):
        table.rename(clotho / "clotho_csv_files" / table.name)
    corpus = Clotho(clotho)
    assert [item.item_id for split in SPLITS for item in corpus.items(split)] == before
    assert corpus.items("test")[0].attributes["license"] == "CC0"


def test_clotho_cuts_clips_at_thirty_seconds_and_counts_them(clotho: Path) -> None:
    long = clotho / "evaluation/Santa Motor.wav"
    rate = 8_000
    ramp = np.linspace(0, 0.9, 31 * rate)
    soundfile.write(long, ramp, rate, subtype="FLOAT")
    corpus = Clotho(clotho)
    (item,) = corpus.items("test")
    assert corpus.cut == 0
    for _ in range(2):
        samples = corpus.content(item.item_id)
        assert samples.shape == (30 * 16_000,)
        assert corpus.cut == 1
    # The first thirty seconds, not the last ones.
    assert samples[8_000] == pytest.approx(0.9 * 0.5 / 31, abs=1e-3)
    assert samples[29 * 16_000] == pytest.approx(0.9 * 29 / 31, abs=1e-3)
    corpus.content("train--rain")
    assert corpus.cut == 1


def test_clotho_counts_what_it_skips_and_lacks_what_has_no_table(clotho: Path) -> None:
    (clotho / "development/rain.wav").unlink()
    (clotho / "clotho_captions_validation.csv").unlink()
    corpus = Clotho(clotho)
    assert corpus.skipped_by_reason == {"clip in the table that is not on disk": 1}
    assert corpus.splits == ("train", "test")
    with pytest.raises(NotFound, match=r"clotho_captions_validation\.csv is not there"):
        corpus.items("val")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("../secret.wav,a,b,c,d,e", "expected a file name"),
        ("..\\secret.wav,a,b,c,d,e", "leaves the root"),
        ("secret.txt,a,b,c,d,e", "expected an ending"),
        ("new.wav,a,b,c,d", "4 captions, expected 5"),
        ("new.wav,a,b,,d,e", "4 captions, expected 5"),
        ("new.wav,a,b,c,d,e,f", "7 fields, the header has 6"),
        ("new.wav", "no caption"),
        ('new.wav,"a"b,b,c,d,e', "not comma-separated"),
        ('new.wav,"a,b,c,d,e', "not comma-separated"),
        ("rain.wav,a,b,c,d,e", "given before"),
    ],
)
def test_clotho_names_the_wrong_line(clotho: Path, line: str, says: str) -> None:
    path = clotho / "clotho_captions_development.csv"
    # Each of the three rows has a line end in its last caption.
    number = 1 + 2 * 3 + 1
    with path.open("a", encoding="utf-8") as table:
        table.write(line + "\n")
    with pytest.raises(InvalidField, match=says) as error:
        Clotho(clotho)
    assert f"clotho_captions_development.csv, line {number}:" in error.value.message


def test_clotho_names_what_is_missing(clotho: Path) -> None:
    path = clotho / "clotho_captions_development.csv"
    path.write_text("file_name,caption_1,caption_2\n")
    with pytest.raises(InvalidField, match="line 1: no column caption_3, caption_4, caption_5"):
        Clotho(clotho)
    path.write_text("")
    with pytest.raises(InvalidField, match="line 1: the table is empty"):
        Clotho(clotho)
    path.write_bytes(b"file_name\nCaf\xe9.wav")
    with pytest.raises(InvalidField, match="line 2: not UTF-8"):
        Clotho(clotho)
    path.unlink()
    for part in CLIPS:
        (clotho / part).rename(clotho / f"{part} elsewhere")
    with pytest.raises(NotFound, match="no audio folder of validation, evaluation"):
        Clotho(clotho)
    with pytest.raises(NotFound, match=r"no clotho_captions_development\.csv"):
        Clotho(clotho / "nowhere")


# ---- AudioCaps

PUBLISHED = ["audiocap_id", "youtube_id", "start_time", "caption"]


@pytest.fixture
def audiocaps(tmp_path: Path) -> Path:
    clips = {
        "train": [("-AheI8Epim4", 1), ("vfY_TJq7n_U", 1)],
        "val": [("tdWhHV3X25Q", 5)],
        "test": [("7fmOlUlwoNg", 5), ("6BJ455B1aAs", 5)],
    }
    for split, of_split in clips.items():
        rows = [PUBLISHED]
        # Captions of one clip are not beside each other, as published.
        for number in range(5):
            for clip, captions in of_split:
                if number < captions:
                    said = f"Caption {number}, with a comma"
                    rows.append([str(1000 + len(rows)), clip, "30", said])
        write_table(tmp_path / f"{split}.csv", rows)
        for clip, _ in of_split:
            write_sound(tmp_path / split / f"Y{clip}.wav", 0.2, 32_000)
    return tmp_path


def test_audiocaps_puts_the_captions_of_a_clip_together(audiocaps: Path) -> None:
    corpus = AudioCaps(audiocaps)
    assert {s: [i.item_id for i in corpus.items(s)] for s in SPLITS} == {
        "train": ["Y-AheI8Epim4", "YvfY_TJq7n_U"],
        "val": ["YtdWhHV3X25Q"],
        "test": ["Y7fmOlUlwoNg", "Y6BJ455B1aAs"],
    }
    assert corpus.splits == ("train", "val", "test")
    assert corpus.items("train")[0].captions == ("Caption 0, with a comma",)
    item = corpus.item("Y6BJ455B1aAs")
    assert item.captions == tuple(f"Caption {n}, with a comma" for n in range(5))
    assert item.attributes == {"youtube_id": "6BJ455B1aAs", "start_time": "30"}
    assert corpus.content("Y6BJ455B1aAs").shape == (3_200,)
    assert corpus.skipped == 0


def test_audiocaps_reads_the_retrieval_variant_with_ragged_captions(tmp_path: Path) -> None:
    write_table(
        tmp_path / "csv_files/train.csv",
        [["file_name", "caption"], ["Yaaa.wav", "One."], ["Ybbb.wav", "Two."]],
    )
    write_table(
        tmp_path / "csv_files/test.csv",
        [["file_name", *CAPTIONS], ["Yccc.wav", *"abcde"], ["Yddd.wav", "a", "", " ", "d"]],
    )
    for split, name in (("train", "Yaaa"), ("train", "Ybbb"), ("test", "Yccc"), ("test", "Yddd")):
        write_sound(tmp_path / f"waveforms/{split}/{name}.wav", 0.1)
    corpus = AudioCaps(tmp_path)
    assert [item.captions for item in corpus.items("train")] == [("One.",), ("Two.",)]
    assert [item.captions for item in corpus.items("test")] == [tuple("abcde"), ("a", "d")]
    with pytest.raises(NotFound, match=r"val\.csv is not there"):
        corpus.items("val")


def test_audiocaps_finds_clips_in_one_folder_and_in_other_formats(audiocaps: Path) -> None:
    (audiocaps / "audio").mkdir()
    for path in [p for split in SPLITS for p in (audiocaps / split).iterdir()]:
        samples, rate = soundfile.read(path)
        soundfile.write(audiocaps / "audio" / f"{path.stem[1:]}.flac", samples, rate)
        path.unlink()
    corpus = AudioCaps(audiocaps)
    assert [len(corpus.items(split)) for split in SPLITS] == [2, 1, 2]
    assert corpus.info.media_type == corpus.media("Y-AheI8Epim4").content_type == "audio/flac"
    assert corpus.content("Y-AheI8Epim4").shape == (3_200,)


def test_audiocaps_counts_what_it_skips(audiocaps: Path) -> None:
    (audiocaps / "test/Y7fmOlUlwoNg.wav").unlink()
    with (audiocaps / "train.csv").open("a") as table:
        table.write("9,6BJ455B1aAs,30,A clip of test\n9,vfY_TJq7n_U,40,Another part\n")
    corpus = AudioCaps(audiocaps)
    assert corpus.skipped_by_reason == {
        "clip in the table that is not on disk": 1,
        "clip that another split holds as well": 1,
        "caption of another part of a clip's video": 1,
    }
    assert corpus.skipped == 3
    assert corpus.item("YvfY_TJq7n_U").captions == ("Caption 0, with a comma",)
    assert corpus.item("Y6BJ455B1aAs").split == "test"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("9,tooshort,30,A caption", "youtube_id is 'tooshort'"),
        ("9,../../../ab,30,A caption", "youtube_id is"),
        ("9,AAAAAAAAAAA,,A caption", "start_time is ''"),
        ("9,AAAAAAAAAAA,-3,A caption", "start_time is '-3'"),
        ("9,AAAAAAAAAAA,30,", "no caption"),
        ("9,AAAAAAAAAAA,30", "no caption"),
        ("9,AAAAAAAAAAA,30,One, two", "5 fields, the header has 4"),
    ],
)
def test_audiocaps_names_the_wrong_line(audiocaps: Path, line: str, says: str) -> None:
    with (audiocaps / "val.csv").open("a") as table:
        table.write(line + "\n")
    with pytest.raises(InvalidField, match=says) as error:
        AudioCaps(audiocaps)
    assert "val.csv, line 7:" in error.value.message


def test_audiocaps_retrieval_variant_names_the_wrong_line(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    for row, says in (
        (["../x.wav", "a"], "expected a file name"),
        (["x.avi", "a"], "expected an ending"),
        (["x.wav", "", ""], "no caption"),
    ):
        write_table(tmp_path / "test.csv", [["file_name", *CAPTIONS], ["Yok.wav", "a"], row])
        with pytest.raises(InvalidField, match=says) as error:
            AudioCaps(tmp_path)
        assert "test.csv, line 3:" in error.value.message


def test_audiocaps_names_what_is_missing(audiocaps: Path) -> None:
    (audiocaps / "val.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InvalidField, match=r"val\.csv, line 2: .*youtube_id, start_time, caption"):
        AudioCaps(audiocaps)
    (audiocaps / "val.csv").unlink()
    for path in [p for split in SPLITS for p in (audiocaps / split).iterdir()]:
        path.unlink()
    with pytest.raises(NotFound, match="no clip of audiocaps, left out: 4 ×"):
        AudioCaps(audiocaps)
    for split in SPLITS:
        (audiocaps / split).rmdir()
    with pytest.raises(NotFound, match="no audio folder"):
        AudioCaps(audiocaps)
    with pytest.raises(NotFound, match=r"no train\.csv"):
        AudioCaps(audiocaps / "nowhere")


# ---- Tux Paint

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="2in" height="1in" viewBox="0 0 20 10">'
    '<rect width="10" height="10" fill="#00ff00"/></svg>'
)
RENDERS = importlib.util.find_spec("resvg_py") is not None


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    root = tmp_path / "stamps"
    (root / "animals/birds").mkdir(parents=True)
    (root / "symbols").mkdir()
    clear = Image.new("RGBA", (30, 20), (0, 0, 0, 0))
    clear.paste((250, 0, 0, 255), (0, 0, 15, 20))
    clear.save(root / "animals/birds/black bird.png")
    (root / "animals/birds/black bird.txt").write_text(
        "A blackbird.\nde.utf8=Eine Amsel.\npt_BR.utf8=Um melro.\nca@valencia.utf8=Una merla.\n"
        "fr.utf8=\n",
        encoding="utf-8",
    )
    (root / "animals/birds/black bird.dat").write_text("nomirror\n")
    rate = 11_025
    song = 0.3 * np.sin(2 * np.pi * 500 * np.arange(rate) / rate)
    soundfile.write(root / "animals/birds/black bird.ogg", song, rate)
    soundfile.write(root / "animals/birds/black bird_desc.ogg", song, rate)
    soundfile.write(root / "animals/birds/black bird_desc_de.ogg", song, rate)
    Image.new("RGB", (9, 9), (1, 2, 3)).save(root / "symbols/star.png")
    (root / "symbols/star.svg").write_text(SVG)
    (root / "symbols/star.txt").write_text("A star.\n")
    Image.new("RGB", (9, 9)).save(root / "symbols/star_mirror.png")
    (root / "symbols/flag.svg").write_text(SVG)
    (root / "symbols/flag.txt").write_text("A flag.\n")
    soundfile.write(root / "symbols/flag.wav", song, rate)
    (root / "symbols/gift.txt").write_text("A gift.\n")
    return root


def items_of(corpus: TuxPaint | TuxPaintSounds) -> dict[str, tuple[str, ...]]:
    return {i.item_id: i.captions for split in corpus.splits for i in corpus.items(split)}


def test_tuxpaint_reads_pictures_captions_and_translations(stamps: Path) -> None:
    corpus = TuxPaint(stamps)
    (bird,) = [item_id for item_id in items_of(corpus) if "bird" in item_id]
    assert set(bird) <= URL_SAFE
    item = corpus.item(bird)
    assert item.captions == ("A blackbird.",)
    assert item.attributes["category"] == "animals/birds"
    assert item.attributes["translations"] == {
        "de": "Eine Amsel.",
        "pt_BR": "Um melro.",
        "ca@valencia": "Una merla.",
    }
    pixels = corpus.content(bird)
    assert pixels[:, :15].reshape(-1, 3).tolist() == [[250, 0, 0]] * 300
    # Transparency is laid over white.
    assert (pixels[:, 15:] == 255).all()
    # Pixels are preferred to a drawing of the same stamp.
    assert (corpus.content("symbols--star") == (1, 2, 3)).all()
    assert items_of(TuxPaint(stamps.parent)) == items_of(corpus)


@pytest.mark.skipif(not RENDERS, reason="resvg_py is not installed")
def test_tuxpaint_renders_drawings(stamps: Path) -> None:
    corpus = TuxPaint(stamps)
    media = corpus.media("symbols--flag")
    assert media.content_type == "image/png"
    assert Image.open(io.BytesIO(media.data)).size == (192, 96)
    pixels = corpus.content("symbols--flag")
    assert (pixels[:, :95] == (0, 255, 0)).all()
    assert (pixels[:, 97:] == 255).all()
    (stamps / "symbols/flag.svg").write_text(SVG.replace("2in", "40in").replace("1in", "20in"))
    assert corpus.content("symbols--flag").shape == (256, 512, 3)
    (stamps / "symbols/flag.svg").write_text("<svg")
    with pytest.raises(InvalidField, match=r"symbols/flag\.svg does not render"):
        corpus.content("symbols--flag")
    (stamps / "symbols/flag.svg").unlink()
    with pytest.raises(NotFound, match="has gone"):
        corpus.content("symbols--flag")


def test_tuxpaint_counts_what_it_skips(stamps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = {"picture without a caption beside it": 1, "caption without a picture beside it": 1}
    monkeypatch.setattr(tuxpaint, "RENDERER", "no_such_renderer")
    corpus = TuxPaint(stamps)
    assert corpus.skipped_by_reason == {**skipped, tuxpaint.NO_RENDERER: 1}
    assert corpus.skipped == 3
    assert "symbols--flag" not in items_of(corpus)
    sounds = TuxPaintSounds(stamps)
    assert sounds.skipped_by_reason == {**skipped, "stamp without a sound": 1}


def test_tuxpaint_sounds_are_those_of_the_stamps_and_not_the_spoken_texts(stamps: Path) -> None:
    sounds = TuxPaintSounds(stamps)
    listed = items_of(sounds)
    assert sorted(listed.values()) == [("A blackbird.",), ("A flag.",)]
    for item_id in listed:
        samples = sounds.content(item_id)
        assert samples.shape[0] == pytest.approx(16_000, abs=2)
        assert np.argmax(np.abs(np.fft.rfft(samples))) == pytest.approx(500, abs=2)
    assert sounds.media("symbols--flag").content_type == "audio/wav"
    pictures = TuxPaint(stamps)
    for item_id in set(listed) & set(items_of(pictures)):
        assert pictures.item(item_id) == sounds.item(item_id)


def test_tuxpaint_stamps_of_one_caption_are_in_one_split(stamps: Path) -> None:
    for number in range(60):
        for copy in "abc":
            name = f"symbols/flower{number}{copy}"
            Image.new("RGB", (4, 4)).save(stamps / f"{name}.png")
            caption = f"Flower {number}." if copy != "c" else f"FLOWER {number}."
            (stamps / f"{name}.txt").write_text(caption)
    corpus = TuxPaint(stamps)
    assert set(corpus.splits) == set(SPLITS)
    seen = [{i.captions[0].casefold() for i in corpus.items(split)} for split in SPLITS]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


@pytest.mark.parametrize(
    ("text", "number", "says"),
    [
        (b"", 1, "no caption"),
        (b"\n\nA star.", 1, "no caption"),
        (b"A star.\nde.utf8 Ein Stern", 2, "not <language>"),
        (b"A star.\nde.utf8=Ein Stern\nno language", 3, "not <language>"),
        (b"A star.\nde.utf8=Caf\xe9", 2, "not UTF-8"),
    ],
)
def test_tuxpaint_names_the_wrong_line(stamps: Path, text: bytes, number: int, says: str) -> None:
    (stamps / "symbols/star.txt").write_bytes(text)
    for reader in (TuxPaint, TuxPaintSounds):
        with pytest.raises(InvalidField, match=says) as error:
            reader(stamps)
        assert f"star.txt, line {number}:" in error.value.message


def test_tuxpaint_names_what_is_missing(tmp_path: Path) -> None:
    for reader in (TuxPaint, TuxPaintSounds):
        with pytest.raises(NotFound, match="tuxpaint-stamps-default"):
            reader(tmp_path / "nowhere")
    with pytest.raises(NotFound, match="no picture of tuxpaint"):
        TuxPaint(tmp_path)
    with pytest.raises(NotFound, match="no clip of tuxpaint-sounds"):
        TuxPaintSounds(tmp_path)


@pytest.mark.data
@pytest.mark.skipif(not INSTALLED.is_dir(), reason="tuxpaint-stamps-default is not installed")
def test_installed_tuxpaint() -> None:
    pictures, sounds = TuxPaint(), TuxPaintSounds()
    assert pictures.splits == sounds.splits == SPLITS
    listed = [item for split in SPLITS for item in pictures.items(split)]
    assert len(listed) + pictures.skipped_by_reason.get(tuxpaint.NO_RENDERER, 0) > 900
    assert all(len(item.attributes["translations"]) > 10 for item in listed)
    for item in listed[::50]:
        pixels = pictures.content(item.item_id)
        assert pixels.ndim == 3
        assert max(pixels.shape) < 2_000
    heard = [item for split in SPLITS for item in sounds.items(split)]
    assert len(heard) > 100
    for item in heard[::10]:
        samples = sounds.content(item.item_id)
        assert 0 < len(samples) <= 30 * 16_000
        assert np.abs(samples).max() > 0.01
