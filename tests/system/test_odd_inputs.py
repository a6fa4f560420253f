"""What users send besides a tidy caption or photograph: answered, answered with a doubt, or refused by name."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from tests_live import Live

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

LINK: dict[str, Any] = {"scenario": "umi-los", "snr_db": 20.0, "num_users": 1, "seed": 3}


def ask(live: Live, task: str, content: dict[str, Any], **changes: Any) -> Any:
    fixed = {"method": "deepsc-mimo", "seed": 11, "top_k": 5, "link": LINK}
    return live.http.post("/v1/queries", json={"task": task, "query": content} | fixed | changes)


def answered(live: Live, task: str, content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    response = ask(live, task, content, **changes)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    assert len(body["results"]) == 5
    return body


def media(data: bytes, content_type: str) -> dict[str, str]:
    return {"content_type": content_type, "data": base64.b64encode(data).decode()}


def picture(image: Image.Image, form: str) -> dict[str, str]:
    file = io.BytesIO()
    image.save(file, form)
    return media(file.getvalue(), f"image/{form.lower()}")


def sound(samples: np.ndarray[Any, Any], rate: int, subtype: str) -> dict[str, str]:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return media(file.getvalue(), "audio/wav")


LONG = " ".join(
    f"A {c} dog sits beside a {d} boat near the {e} lighthouse."
    for c, d, e in zip(
        ("brown", "white", "black", "tan", "grey", "spotted", "golden", "red", "small", "big") * 2,
        ("red", "blue", "green", "yellow", "orange", "wooden", "old", "new", "tiny", "huge") * 2,
        ("tall", "striped", "white", "round", "distant", "bright", "dark", "low", "far", "old") * 2,
        strict=True,
    )
)


def test_a_text_that_the_encoder_cannot_read_whole_is_answered_with_a_doubt(live: Live) -> None:
    body = answered(live, "image", {"text": LONG})
    assert [d["part"] for d in body["degraded"]] == ["text"]
    assert "first 128" in body["degraded"][0]["reason"]
    shortened = answered(
        live, "image", {"text": LONG}, retrieval={"extraction": "textrank", "key_sentences": 3}
    )
    assert not shortened["degraded"]
    sentences = shortened["retrieval"]["sentences"]
    assert len(sentences) == 20
    assert sum(s["kept"] for s in sentences) == 3


@pytest.mark.parametrize("rule", ["tf-idf", "textrank"])
def test_noise_that_is_left_out_is_not_sent(live: Live, rule: str) -> None:
    """What is found for a text is what is found for its kept sentences alone: the rest crosses nothing."""
    text = "Two dogs on a beach. The weather was nice last year. A dog near the sea, on the beach."
    chosen = {"extraction": rule, "key_sentences": 1}
    body = answered(live, "image", {"text": text}, retrieval=chosen)
    (kept,) = [s["text"] for s in body["retrieval"]["sentences"] if s["kept"]]
    alone = answered(live, "image", {"text": kept})
    assert [r["item_id"] for r in body["results"]] == [r["item_id"] for r in alone["results"]]
    assert body["retrieval"]["extraction"] == rule


@pytest.mark.parametrize(
    "text", ["一个穿红色外套的男人", "женщина в зелёном пальто", "12345 !!", "🙂🙂"]
)
def test_what_is_not_english_is_answered_with_a_doubt(live: Live, text: str) -> None:
    body = answered(live, "person", {"text": text})
    assert [d["part"] for d in body["degraded"]] == ["text"]


def test_several_sentences_and_accents_are_no_reason_for_doubt(live: Live) -> None:
    text = "A man in a naïve-looking red café jacket. He carries a bag.\nHe walks."
    assert not answered(live, "person", {"text": text})["degraded"]


@pytest.mark.parametrize("text", ["", "   \n\t "])
def test_an_empty_text_is_refused_by_name(live: Live, text: str) -> None:
    response = ask(live, "person", {"text": text})
    assert response.status_code == 422
    assert response.json()["field"].startswith("query")


@pytest.mark.parametrize(
    ("mode", "size", "form"),
    [("RGB", (1, 1), "PNG"), ("CMYK", (40, 80), "JPEG"), ("L", (3, 900), "PNG"), ("P", (64, 64), "PNG"),
     ("RGBA", (64, 128), "PNG"), ("I;16", (64, 128), "PNG")],
)  # fmt: skip
def test_odd_pictures_are_answered(live: Live, mode: str, size: tuple[int, int], form: str) -> None:
    answered(live, "person", {"image": picture(Image.new(mode, size), form)})


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"),
    [(8_000, 1, "PCM_U8"), (48_000, 2, "PCM_16"), (44_100, 2, "PCM_24"), (16_000, 1, "FLOAT"), (96_000, 1, "ULAW")],
)  # fmt: skip
def test_odd_sounds_are_answered(live: Live, rate: int, channels: int, subtype: str) -> None:
    tone = 0.3 * np.sin(np.arange(rate) * 2 * np.pi * 440 / rate)
    samples = np.repeat(tone[:, None], channels, axis=1)
    answered(live, "audio", {"audio": sound(samples, rate, subtype)})


def test_stereo_in_opposite_phase_is_heard_as_its_clip(live: Live) -> None:
    clip = 0.3 * np.sin(np.arange(32_000) * 2 * np.pi * 440 / 16_000)
    stereo = answered(live, "audio", {"audio": sound(np.stack([clip, -clip], 1), 16_000, "PCM_16")})
    mono = answered(live, "audio", {"audio": sound(clip, 16_000, "PCM_16")})
    assert stereo["results"] == mono["results"]


def test_a_picture_that_swells_is_refused_by_name(live: Live) -> None:
    response = ask(live, "image", {"image": picture(Image.new("1", (1, 100_000)), "PNG")})
    assert response.status_code == 422, response.text
    assert response.json()["field"] == "query.image"


def test_silence_is_refused_by_name(live: Live) -> None:
    response = ask(live, "audio", {"audio": sound(np.zeros(16_000), 16_000, "PCM_16")})
    assert response.status_code == 422
    assert response.json()["field"] == "query.audio"
    assert "silent" in response.json()["detail"]


@pytest.mark.parametrize(
    ("task", "changes", "field"),
    [
        ("person", {"method": "gpa"}, "method"),
        ("audio", {"method": "sew-mcm"}, "method"),
        ("person", {"retrieval": {"scoring": "prototypes"}}, "retrieval.scoring"),
        ("person", {"retrieval": {"extraction": "itrieval-kd"}}, "retrieval.extraction"),
        ("image", {"retrieval": {"extraction": "magic"}}, "retrieval.extraction"),
        ("image", {"retrieval": {"key_sentences": 51}}, "retrieval.key_sentences"),
    ],
)
def test_what_a_task_or_a_corpus_cannot_do_is_refused(
    live: Live, task: str, changes: dict[str, Any], field: str
) -> None:
    response = ask(live, task, {"text": "A dog barks. Then rain falls."}, **changes)
    assert response.status_code == 422, response.text
    assert response.json()["field"] == field
