"""Items over REST, through the gateway into a real receiver: added, found, replaced, removed, refused by name."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from gateway.app import ServiceClients, create_app
from receiver.gallery import gallery_of
from receiver.handler import Receiver
from semlink.corpora.registry import (
    corpus_named,
    embedded_corpora,
    register_corpus,
    unregister_corpus,
)
from semlink.semantics.encoders import semantic_encoder
from semlink.semantics.gallery import gallery_path
from semlink.settings import Settings
from semlink.v1 import channel_pb2, receiver_pb2
from semlink.wire import to_wire

SCENES = "/v1/corpora/scenes/items"


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEMLINK_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def receiver(data_dir: Path) -> Receiver:
    return Receiver(Settings(redis_url="memory://"))


@pytest.fixture
def http(receiver: Receiver) -> httpx.AsyncClient:
    async def health() -> dict[str, str]:
        return {}

    async def close() -> None:
        pass

    unused: Any = None
    services = ServiceClients(unused, unused, receiver, health, close)
    transport = httpx.ASGITransport(create_app(services), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


def picture(row: int = 0) -> bytes:
    """A training picture: none that the gallery holds."""
    corpus = corpus_named("scenes")
    return corpus.media(corpus.items("train")[row].item_id).data


def body(data: bytes, **values: Any) -> dict[str, Any]:
    media = {"content_type": "image/jpeg", "data": base64.b64encode(data).decode()}
    return {"media": media, "captions": ["a picture that was brought"], **values}


async def first(receiver: Receiver, vector: np.ndarray, top_k: int = 1) -> list[str]:  # type: ignore[type-arg]
    header = channel_pb2.FrameHeader(
        task="image",
        corpus="scenes",
        modality="image",
        symbols=64,
        top_k=top_k,
        num_streams=1,
        num_layers=1,
    )
    item = receiver_pb2.SearchItem(
        header=header.SerializeToString(), components=to_wire(vector.reshape(1, -1))
    )
    answer = await receiver.search(receiver_pb2.SearchRequest(items=[item]))
    return [m.item_id for m in answer.receptions[0].matches]


def vector(data: bytes) -> np.ndarray:  # type: ignore[type-arg]
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return semantic_encoder("image").components("image", [pixels])[0, 0]


async def test_an_item_comes_changes_and_goes(
    http: httpx.AsyncClient, receiver: Receiver, data_dir: Path
) -> None:
    one, two = picture(0), picture(1)
    answer = await http.put(f"{SCENES}/my-1", json=body(one))
    assert (answer.status_code, answer.json()["added"]) == (201, 1)
    size = answer.json()["size"]
    assert await first(receiver, vector(one)) == ["my-1"]
    media = await http.get(answer.json()["media_urls"][0])
    assert (media.content, media.headers["content-type"]) == (one, "image/jpeg")
    again = await http.get(f"{SCENES}/my-1/media", headers={"If-None-Match": media.headers["etag"]})
    assert again.status_code == 304
    item = (await http.get(f"{SCENES}/my-1")).json()
    assert (item["identity"], item["captions"]) == ("my-1", ["a picture that was brought"])

    answer = await http.put(f"{SCENES}/my-1", json=body(two, identity="who", captions=[]))
    assert (answer.status_code, answer.json()["size"]) == (200, size)
    assert await first(receiver, vector(two)) == ["my-1"]
    assert await first(receiver, vector(one)) != ["my-1"]
    changed = await http.get(
        f"{SCENES}/my-1/media", headers={"If-None-Match": media.headers["etag"]}
    )
    assert changed.content == two
    corpora = (await http.get("/v1/corpora")).json()["corpora"]
    assert next(c["size"] for c in corpora if c["name"] == "scenes") == size

    assert (await http.delete(f"{SCENES}/my-1")).status_code == 204
    assert "my-1" not in await first(receiver, vector(two), top_k=size)
    for answer in (
        await http.delete(f"{SCENES}/my-1"),
        await http.get(f"{SCENES}/my-1"),
        await http.get(f"{SCENES}/my-1/media"),
    ):
        assert answer.status_code == 404
        assert answer.json()["field"] == "item_id"
    assert (data_dir / "galleries" / "scenes" / "items.sqlite").is_file()


async def test_a_shipped_item_can_be_replaced_and_removed(
    http: httpx.AsyncClient, receiver: Receiver
) -> None:
    shipped = corpus_named("scenes").items("test")[3].item_id
    assert (await http.put(f"{SCENES}/{shipped}", json=body(picture(2)))).status_code == 200
    assert await first(receiver, vector(picture(2))) == [shipped]
    assert (await http.get(f"{SCENES}/{shipped}/media")).content == picture(2)
    assert (await http.delete(f"{SCENES}/{shipped}")).status_code == 204
    assert (await http.get(f"{SCENES}/{shipped}")).status_code == 404


async def test_many_are_added_all_or_none(http: httpx.AsyncClient, receiver: Receiver) -> None:
    items = [body(picture(n), item_id=f"many-{n}") for n in range(3)]
    answer = await http.post(SCENES, json={"items": items})
    assert (answer.status_code, answer.json()["added"]) == (201, 3)
    for n in range(3):
        assert await first(receiver, vector(picture(n))) == [f"many-{n}"]
    answer = await http.post(SCENES, json={"items": [body(picture(4), item_id="new"), items[1]]})
    assert answer.status_code == 409
    assert answer.json()["field"] == "items[1].item_id"
    assert (await http.get(f"{SCENES}/new")).status_code == 404
    answer = await http.post(SCENES, json={"items": [items[0], items[0]]})
    assert answer.status_code in (409, 422)


@pytest.mark.parametrize(
    ("path", "content", "status", "field"),
    [
        (f"{SCENES}/x", body(b"no picture"), 422, "media"),
        (
            f"{SCENES}/x",
            body(b"x", media={"content_type": "audio/ogg", "data": "eA=="}),
            422,
            "media",
        ),
        (
            f"{SCENES}/x",
            body(b"x", media={"content_type": "image/png", "data": "%"}),
            422,
            "media.data",
        ),
        (f"{SCENES}/x", body(b"x", captions=[""]), 422, "captions[0]"),
        (f"{SCENES}/x", body(b"x", captions=["  "]), 422, "captions[0]"),
        (f"{SCENES}/x", body(b"x", colour="red"), 422, "colour"),
        (f"{SCENES}/a%23b", body(b"x"), 422, "item_id"),
        (f"{SCENES}/a%20b", body(b"x"), 422, "item_id"),
        (f"{SCENES}/{'x' * 129}", body(b"x"), 422, "item_id"),
        ("/v1/corpora/flowers/items/x", body(b"x"), 404, "corpus"),
        (f"{SCENES}/x", body(b"0" * 8 * 2**20), 413, "body"),
    ],
)
async def test_what_is_wrong_is_refused_by_name(
    http: httpx.AsyncClient, path: str, content: dict[str, Any], status: int, field: str
) -> None:
    answer = await http.put(path, json=content)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["field"] == field


async def test_a_bad_item_among_many_is_named_and_none_is_added(http: httpx.AsyncClient) -> None:
    items = [body(picture(0), item_id="good"), body(b"no picture", item_id="bad")]
    answer = await http.post(SCENES, json={"items": items})
    assert (answer.status_code, answer.json()["field"]) == (422, "items[1].media")
    assert (await http.get(f"{SCENES}/good")).status_code == 404


async def test_a_corpus_added_while_the_receiver_runs_is_found_at_once(
    http: httpx.AsyncClient, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.training.build_gallery import run

    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(data_dir / "cache"))

    (data_dir / "Flickr8k").mkdir()
    unknown = await http.put("/v1/corpora/mine/items/x", json=body(picture(0)))
    assert unknown.status_code == 404
    root = tiny_flickr8k(data_dir / "Flickr8k")
    register_corpus("mine", "flickr8k", root, "test")
    missing = await http.put("/v1/corpora/mine/items/x", json=body(picture(0)))
    assert missing.status_code == 404, "registered, but its gallery is not built"
    assert "semlink train gallery --corpus mine" in missing.json()["detail"]
    listed = (await http.get("/v1/corpora")).json()["corpora"]
    assert {c["name"] for c in listed} == set(embedded_corpora()), (
        "one that is not built is not offered"
    )
    run("mine")
    before = gallery_of("mine")
    assert gallery_path("mine").is_relative_to(data_dir)
    added = await http.put("/v1/corpora/mine/items/x", json=body(picture(0)))
    assert (added.status_code, added.json()["size"]) == (201, len(before.corpus.items("test")) + 1)
    run("mine")  # the gallery is built anew: it is loaded again, with what was added
    after = gallery_of("mine")
    assert after is not before
    assert "x" in after
    listed = (await http.get("/v1/corpora")).json()["corpora"]
    assert {c["name"] for c in listed} == {*embedded_corpora(), "mine"}
    unregister_corpus("mine")
    assert (await http.get("/v1/corpora/mine/items/x")).status_code == 404


def tiny_flickr8k(root: Path) -> Path:
    """Five pictures in Flickr8k's public layout."""
    corpus = corpus_named("scenes")
    names = []
    (root / "Flicker8k_Dataset").mkdir(parents=True)
    lines = []
    for n, item in enumerate(corpus.items("test")[:5]):
        name = f"{n}.jpg"
        (root / "Flicker8k_Dataset" / name).write_bytes(corpus.media(item.item_id).data)
        lines += [f"{name}#{c}\t{caption}" for c, caption in enumerate(item.captions)]
        names.append(name)
    (root / "Flickr8k_text").mkdir()
    (root / "Flickr8k_text" / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    for split, own in (("train", names[:1]), ("dev", names[1:2]), ("test", names[2:])):
        (root / "Flickr8k_text" / f"Flickr_8k.{split}Images.txt").write_text("\n".join(own) + "\n")
    return root
