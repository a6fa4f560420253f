"""Bad input against the running services: refused with the field's name, and the services live on."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import soundfile
from tests_live import Live

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def media(content_type: str, data: bytes) -> dict[str, str]:
    return {"content_type": content_type, "data": base64.b64encode(data).decode()}


def wav(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(int(16_000 * seconds), np.float32), 16_000, format="WAV")
    return file.getvalue()


def link(**values: Any) -> dict[str, Any]:
    return {"task": "person", "query": {"text": "a man"}, "link": values}


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"task": "person", "query": {"text": "a"}, "symbols": 63}, 422, "symbols"),
        ({"task": "person", "query": {"text": "a"}, "method": "magic"}, 422, "method"),
        (
            {
                "task": "person",
                "query": {"text": "a"},
                "method": "llm4cp",
                "link": {"num_layers": 2},
            },
            422,
            "link.num_tx_ant",
        ),
        ({"task": "person", "query": {"text": "   "}}, 422, "query.text"),
        ({"task": "person", "query": {"text": "a"}, "corpus": "none"}, 404, "corpus"),
        ({"task": "person", "query": {"text": "a"}, "corpus": "scenes"}, 422, "corpus"),
        ({"task": "person", "query": {"text": "a"}, "link": {"id": "l-none"}}, 404, "link.id"),
        (
            {"task": "image", "query": {"image": media("image/png", b"no picture")}},
            422,
            "query.image",
        ),
        ({"task": "audio", "query": {"audio": media("audio/wav", wav(0.0))}}, 422, "query.audio"),
        ({"task": "audio", "query": {"audio": media("audio/wav", wav(31.0))}}, 422, "query.audio"),
        ({"task": "audio", "query": {"audio": media("audio/ogg", b"OggS")}}, 422, "query.audio"),
        ({"task": "person", "query": {"audio": media("audio/wav", wav(1.0))}}, 422, "query.audio"),
        (link(num_layers=2, num_rx_ant=1), 422, "link.num_layers"),
        (link(num_users=8, num_tx_ant=4), 422, "link.num_users"),
        (link(feedback={"quantizer": "rvq", "bits": 0}), 422, "link.feedback.bits"),
    ],
)
def test_refused_with_the_field(live: Live, body: Any, status: int, field: str) -> None:
    response = live.http.post("/v1/queries", json=body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["field"].startswith(field)
    assert live.http.get("/readyz").json()["status"] == "ok"


def test_an_impossible_deadline_is_504(live: Live) -> None:
    body = {"task": "person", "query": {"text": "a man"}, "deadline_ms": 0.5}
    response = live.http.post("/v1/queries", json=body)
    assert response.status_code == 504
    assert response.json()["field"] == "deadline_ms"
    assert live.http.get("/readyz").json()["status"] == "ok"


def test_what_every_service_offers(live: Live) -> None:
    methods = {m["name"]: m["available"] for m in live.http.get("/v1/methods").json()["methods"]}
    assert {"sc-lmkb", "deepsc-mimo", "ideal", "llm-sc", "llm4cp", "csi-llm"} <= set(methods)
    assert all(methods.values())
    corpora = live.http.get("/v1/corpora").json()["corpora"]
    assert {c["name"]: c["size"] for c in corpora} == {
        "pedestrians": 1000,
        "scenes": 1000,
        "soundscapes": 1000,
    }
    assert all(c["licence"] and c["source"] for c in corpora)
