"""A modality and a task registered outside the packages, one file: in this process, and in every service over REST."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from tests_live import Live, running

from lab.evaluation.local_system import build_system
from lab.experiments.qualitative.thumbnails import thumbnail
from lab.training import build_gallery
from semlink import tasks
from semlink.corpora.registry import embedded_corpora
from semlink.errors import InvalidField
from semlink.links import Link
from semlink.registry import load_plugins
from semlink.semantics.spaces import weights_file
from semlink.settings import Settings
from semlink.v1 import receiver_pb2
from semlink.v1 import transmitter_pb2 as pb

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"
CONTENT_TYPE = "text/x-morse"
SOS = b"... / ---"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """This process with the plug-in as if it had started so; its heads are the trained text head of image search."""
    folder = tmp_path_factory.mktemp("telegraph")
    shutil.copy(weights_file("image", "codec"), folder / "codec-telegram.safetensors")
    with safe_open(weights_file("image", "heads"), framework="pt") as file:
        config = json.loads(file.metadata()["configs"])["text"]
        head = {n: file.get_tensor(n) for n in file.keys() if n.startswith("text.")}  # noqa: SIM118
    media = {n.replace("text", "media", 1): t.clone() for n, t in head.items()}
    configs = {"configs": json.dumps({"text": config, "media": config})}
    save_file(head | media, folder / "heads-telegram.safetensors", configs)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SEMLINK_PLUGINS", "telegraph")
        monkeypatch.setenv("TELEGRAPH_WEIGHTS", str(folder))
        monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        monkeypatch.setenv("SEMLINK_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        python_path = [str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(python_path))
        monkeypatch.syspath_prepend(str(PLUGINS))
        for registry in (tasks.MODALITIES, tasks.TASKS):
            monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        load_plugins.cache_clear()
        assert tasks.task_names() == (*tasks.BUILT_IN, "telegram")
        build_gallery.run("archive")
        yield sys.modules["telegraph"]
    sys.modules.pop("telegraph", None)
    load_plugins.cache_clear()


def query(task: str = "telegram", **content: Any) -> pb.Query:
    link = Link().replace(snr_db=20.0).to_proto()
    return pb.Query(
        id="q",
        task=task,
        method="deepsc-mimo",
        top_k=6,
        symbols=64,
        seed=1,
        link_config=link,
        **content,
    )


def morse(data: bytes, modality: str = "morse") -> pb.EncodedMedia:
    return pb.EncodedMedia(modality=modality, content_type=CONTENT_TYPE, data=data)


async def _retrieve(*queries: pb.Query, items: list[receiver_pb2.NewItem]) -> list[pb.Answer]:
    system = build_system(Settings(redis_url="memory://"))
    try:
        if items:
            added = receiver_pb2.AddItemsRequest(corpus="archive", items=items, replace=True)
            await system.receiver.add_items(added)
        return list(
            (await system.transmitter.retrieve(pb.RetrieveRequest(queries=queries))).answers
        )
    finally:
        await system.close()


def retrieve(
    *queries: pb.Query, items: list[receiver_pb2.NewItem] | None = None
) -> list[pb.Answer]:
    return asyncio.run(_retrieve(*queries, items=items or []))


def test_queries_of_text_and_of_the_modality_find_its_items_over_the_link(plugin: Any) -> None:
    texts = [query(text=caption) for _, caption in plugin.TELEGRAMS]
    media = [query(media=morse(plugin.morse_of(text))) for text, _ in plugin.TELEGRAMS]
    answers = retrieve(*texts, *media)
    expected = [f"t{n}" for n in range(len(plugin.TELEGRAMS))]
    assert [a.matches[0].item_id for a in answers] == expected * 2
    assert not any(d for a in answers for d in a.degraded)
    marks = sum(mark in b".-" for mark in media[0].media.data)
    assert answers[len(texts)].link.bandwidth_ratio == pytest.approx(64 / marks)


def test_a_telegram_that_a_user_adds_is_found(plugin: Any) -> None:
    text = "a cook fries an egg in a pan"
    item = receiver_pb2.NewItem(
        item_id="new", content_type=CONTENT_TYPE, data=plugin.morse_of(text)
    )
    (answer,) = retrieve(query(text="An egg is fried by a cook."), items=[item])
    assert answer.matches[0].item_id == "new"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (query(media=morse(b"... ........")), "queries[0].morse"),
        (query(media=morse(b" / ")), "queries[0].morse"),
        (query(media=morse(SOS, "image")), "queries[0].image"),
        (query(media=morse(SOS, "")), "queries[0].media.modality"),
        (query("image", media=morse(SOS)), "queries[0].morse"),
    ],
)
@pytest.mark.usefixtures("plugin")
def test_what_is_no_query_of_it_is_refused_by_name(wrong: pb.Query, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        retrieve(wrong)
    assert caught.value.field == field


@pytest.mark.usefixtures("plugin")
def test_the_lab_shows_it() -> None:
    assert thumbnail("archive", "t0").mode == "RGB"


@pytest.mark.usefixtures("plugin")
def test_names_are_taken_once() -> None:
    spec = tasks.task_spec("telegram")
    for name, corpus in (
        ("telegram", "other"),
        ("other", "scenes"),
        ("image", "other"),
        ("A", "b"),
    ):
        with pytest.raises(InvalidField) as caught:
            tasks.register_task(
                tasks.TaskSpec(
                    name=name,
                    title=spec.title,
                    modality="morse",
                    corpus=corpus,
                    target="elsewhere:Archive",
                )
            )
        assert caught.value.field == "name"
    for name in ("text", "image", "morse"):
        with pytest.raises(InvalidField):
            tasks.register_modality(
                tasks.ModalitySpec(name=name, noun="", media_range="", target="elsewhere:Telegrams")
            )
    assert embedded_corpora()["archive"] == "telegram"


@pytest.fixture(scope="module")
def system(plugin: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with running(tmp_path_factory.mktemp("state")) as live:
        yield live


@pytest.mark.system
@pytest.mark.timeout(600)
def test_it_is_asked_for_over_rest(system: Live, plugin: Any) -> None:
    data = base64.b64encode(plugin.morse_of(plugin.TELEGRAMS[3][0])).decode()
    body = {
        "task": "telegram",
        "query": {"morse": {"content_type": CONTENT_TYPE, "data": data}},
        "method": "deepsc-mimo",
        "link": {"snr_db": 20.0},
    }
    answer = system.http.post("/v1/queries", json=body)
    assert answer.status_code == 200, answer.text
    first = answer.json()["results"][0]
    assert first["item_id"] == "t3"
    media = system.http.get(first["media_url"])
    assert media.headers["content-type"].startswith(CONTENT_TYPE)
    assert base64.b64encode(media.content).decode() == data
    body["query"] = {"morse": {"content_type": CONTENT_TYPE, "data": "Lg=="}, "text": "a dog"}
    assert system.http.post("/v1/queries", json=body).status_code == 422
    body["query"] = {"morse": {"content_type": CONTENT_TYPE, "data": "AAAA"}}
    assert system.http.post("/v1/queries", json=body).json()["field"] == "query.morse"
    schemas = system.http.get("/openapi.json").json()["components"]["schemas"]
    assert set(schemas["ContentBody"]["properties"]) == {"text", "image", "audio", "morse"}
    assert schemas["QueryBody"]["properties"]["task"]["enum"] == [*tasks.BUILT_IN, "telegram"]


def test_without_the_plugin_there_is_no_such_task(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (tasks.MODALITIES, tasks.TASKS):
        own = {k: v for k, v in registry._entries.items() if k not in ("morse", "telegram")}
        monkeypatch.setattr(registry, "_entries", own)
    with pytest.raises(InvalidField, match="allowed: person, image, audio") as caught:
        retrieve(query(text="a dog"))
    assert caught.value.field == "queries[0].task"
