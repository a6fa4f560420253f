"""The three papers' systems and changing galleries, as a user meets them: over REST and all services."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from tests_live import Live

from semlink.corpora.registry import corpus_named

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

LINK: dict[str, Any] = {"scenario": "umi-los", "snr_db": 20.0, "num_users": 1, "seed": 3}


def answered(live: Live, task: str, content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    fixed = {"seed": 11, "top_k": 10, "link": LINK}
    response = live.http.post(
        "/v1/queries", json={"task": task, "query": content} | fixed | changes
    )
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def media_of(corpus: str, item_id: str) -> dict[str, str]:
    media = corpus_named(corpus).media(item_id)
    return {"content_type": media.content_type, "data": base64.b64encode(media.data).decode()}


def test_sew_mcm_ranks_again_by_shared_neighbours(live: Live) -> None:
    """Between the cosine and a fifth more, and in another order for at least one of ten captions."""
    items = corpus_named("pedestrians").items("test")[::100]
    moved = 0
    for item in items:
        again = answered(live, "person", {"text": item.captions[0]}, method="sew-mcm")
        plain = answered(
            live,
            "person",
            {"text": item.captions[0]},
            method="sew-mcm",
            retrieval={"reranking": "none"},
        )
        assert again["retrieval"]["reranking"] == "weighted-neighbours"
        scores = [r["score"] for r in again["results"]]
        assert scores == sorted(scores, reverse=True)
        for result in again["results"]:
            assert -1e-6 <= result["score"] - result["similarity"] <= 0.2 + 1e-6
        for result in plain["results"]:
            assert result["score"] == pytest.approx(result["similarity"], abs=1e-6)
        moved += [r["item_id"] for r in again["results"]] != [
            r["item_id"] for r in plain["results"]
        ]
    assert moved


def test_gpa_finds_sounds_for_texts_and_texts_for_sounds(live: Live) -> None:
    """Of ten items at least half are among the first ten, both ways; chance is one in a hundred."""
    items = corpus_named("soundscapes").items("test")[::100]
    there, back = 0, 0
    for item in items:
        sounds = answered(live, "audio", {"text": item.captions[0]}, method="gpa")
        assert sounds["retrieval"]["scoring"] == "prototypes"
        there += item.item_id in [r["item_id"] for r in sounds["results"]]
        texts = answered(
            live, "audio", {"audio": media_of("soundscapes", item.item_id)}, method="gpa"
        )
        back += item.item_id in [r["item_id"].partition("#")[0] for r in texts["results"]]
    assert there >= 5, there
    assert back >= 5, back


def test_prototypes_cost_no_channel_use_and_two_bytes_of_header(live: Live) -> None:
    caption = {"text": corpus_named("soundscapes").items("test")[0].captions[0]}
    with_them = answered(live, "audio", caption, method="gpa")
    without = answered(live, "audio", caption, method="gpa", retrieval={"scoring": "global"})
    assert with_them["link"]["channel_uses"] == without["link"]["channel_uses"] == 64
    assert with_them["link"]["header_bytes"] == without["link"]["header_bytes"] + 2


def test_itrieval_sends_what_speaks_of_the_picture(live: Live) -> None:
    """Captions of one picture among sentences of another's: its captions are kept more often than by chance."""
    items = corpus_named("scenes").items("test")
    kept = found = 0
    for item, other in zip(items[:200:20], items[500:700:20], strict=True):
        sentences = [
            other.captions[0],
            item.captions[0],
            item.captions[1],
            "The meeting was moved to Thursday afternoon.",
            item.captions[2],
        ]
        body = answered(live, "image", {"text": " ".join(sentences)}, method="itrieval-kd")
        assert len(body["retrieval"]["sentences"]) == 5
        sent = [s["text"] for s in body["retrieval"]["sentences"] if s["kept"]]
        assert len(sent) == 3
        kept += sum(s in item.captions for s in sent)
        found += body["results"][0]["item_id"] == item.item_id
    assert kept >= 24, kept  # of 30; 18 by chance
    assert found >= 6, found


def test_items_come_and_go_while_the_services_run(live: Live) -> None:
    """A picture put into another gallery place is found by itself, replaced, and gone after it was removed."""
    source = corpus_named("pedestrians").items("val")[0]
    picture = {"image": media_of("pedestrians", source.item_id)}
    body = {"media": picture["image"], "captions": list(source.captions), "identity": "someone"}
    place = "/v1/corpora/pedestrians/items/visitor-1"
    try:
        assert live.http.put(place, json=body).status_code in (200, 201)
        found = answered(live, "person", picture, method="ideal")["results"]
        assert found[0]["item_id"] == "visitor-1"
        assert found[0]["similarity"] == pytest.approx(1.0, abs=1e-3)
        assert live.http.get(f"{place}/media").content == base64.b64decode(body["media"]["data"])
        taken = live.http.post(
            "/v1/corpora/pedestrians/items", json={"items": [body | {"item_id": "visitor-1"}]}
        )
        assert taken.status_code == 409
    finally:
        assert live.http.delete(place).status_code in (200, 204)
    gone = answered(live, "person", picture, method="ideal")["results"]
    assert "visitor-1" not in [r["item_id"] for r in gone]
    assert live.http.get(place).status_code == 404
