"""This version on data that 7fb36b6 wrote (``data-7fb36b6/``, no format numbers), and on data of a later one.

Written by its own code: an added corpus without training (three pictures), an item added to it, a link, a report and
an entry in the store, the entry's export, frozen features. ``SET`` stands for the folder of the pictures.
"""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from tests_store import empty

from kb_service import channel_knowledge
from kb_service.entries import Entries
from kb_service.exchange import read_entries, to_json
from lab.evaluation.cache import parts, remove
from lab.training import features
from lab.training.checkpoint import Checkpoint
from receiver.gallery import gallery_of
from semlink import links_7fb36b6
from semlink.corpora.registry import (
    added_corpora,
    corpus_folder,
    corpus_named,
    register_corpus,
    unregister_corpus,
)
from semlink.errors import NotFound, Unavailable
from semlink.formats import FORMATS
from semlink.links import Link
from semlink.semantics.encoders import heads_sha256, semantic_encoder
from semlink.semantics.gallery import GalleryEmbeddings
from semlink.store import MemoryStore, RedisStore
from semlink.v1 import knowledge_pb2 as pb

OLD = Path(__file__).parent / "data-7fb36b6"
STORE = json.loads((OLD / "store.json").read_text())


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    """The store as 7fb36b6 left it, not yet asked."""
    made = RedisStore(redis_url, timeout_s=10.0)
    await empty(made)
    made._format_known = False
    for key, values in STORE.items():
        if isinstance(values, dict):
            fields = {field: base64.b64decode(value) for field, value in values.items()}
            await made._redis.hset(key, mapping=fields)
        else:
            await made._redis.sadd(key, *values)
    yield made
    await made.close()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder as 7fb36b6 left it, with the pictures here."""
    shutil.copytree(OLD / "data", tmp_path / "data")
    corpus = tmp_path / "data" / "corpora" / "mine"
    record, gallery = corpus / "corpus.json", corpus / "gallery.safetensors"
    record.write_text(record.read_text().replace("SET", str(OLD / "set")))
    with safe_open(gallery, framework="numpy") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # heads that are trained anew one day make every gallery stale; this is about the format
        made_with = file.metadata() | {
            "root": str(OLD / "set"),
            "heads_sha256": heads_sha256("image"),
        }
    save_file(stored, gallery, made_with)
    monkeypatch.setenv("SEMLINK_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


async def test_links_reports_and_entries_in_the_store_are_read(store: RedisStore) -> None:
    link = await store.link("ab12")
    expected = Link().replace(seed=7, snr_db=12.5)
    assert (Link.from_proto(link.config), link.slot) == (expected, 8)
    assert [link.link_id for link in await store.links()] == ["ab12"]
    ((report,),) = await store.reports([("ab12", [5])])
    assert (report.user, report.slot, report.bits, report.payload) == (1, 5, 16, b"\x01\x02")
    entries = Entries(store, lambda texts: np.ones((len(texts), 384), np.float32))
    found = [entry async for entry in entries.export_entries(pb.ExportEntriesRequest())]
    (line,) = (OLD / "entries.jsonl").read_text().splitlines()
    assert [to_json(entry) for entry in found] == [{"format": 1, **json.loads(line)}]
    assert await store._redis.get("semlink:format") == b"2", "marked for the versions to come"
    assert await store._redis.hget("semlink:link:ab12", "config") is None, "migrated"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"memory": "fused", "content": "channel", "power_allocation": "water-filling"},
        {"scenario": "cdl-c", "delay_spread_ns": 300.0, "speed_kmh": 60.0, "snr_db": 0.0},
    ],
)
def test_links_have_the_bytes_that_7fb36b6_wrote(values: dict[str, Any]) -> None:
    """They also seed the link dataset, so that codecs trained again equal those that are shipped."""
    stored = base64.b64decode(STORE["semlink:link:ab12"]["config"])
    assert links_7fb36b6.bytes_of(Link(seed=7, snr_db=12.5)) == stored
    link = Link().replace(**values)
    assert links_7fb36b6.link_of(links_7fb36b6.bytes_of(link)) == link


async def test_an_exported_entry_is_imported_under_its_key(store: RedisStore) -> None:
    lines = (OLD / "entries.jsonl").read_text().splitlines()
    ((first, parts),) = read_entries(lines, "old.jsonl")
    memory = MemoryStore()
    entries = Entries(memory, lambda texts: np.ones((len(texts), 384), np.float32))
    answer = await entries.import_entries(pb.ImportEntriesRequest(entries=parts))
    assert (first, answer.added, answer.outdated) == (1, 1, 0)
    (key,) = STORE["semlink:knowledge"]
    assert (await entries.get_entry(pb.GetEntryRequest(key=key))).rewrites[
        0
    ].text == "a car that is red"


async def test_a_store_of_another_format_is_refused_and_left_alone(store: RedisStore) -> None:
    await store._redis.set("semlink:format", 3)
    with pytest.raises(Unavailable, match=r"store \(Redis\) has format 3, .*SEMLINK_REDIS_URL"):
        await store.link("ab12")
    assert await store._redis.get("semlink:format") == b"3"
    await empty(store)


def test_an_added_corpus_is_served_with_the_items_that_were_added_to_it(data: Path) -> None:
    assert len(corpus_named("mine").items("test")) == 3
    gallery = gallery_of("mine")
    assert len(gallery) == 4
    query = semantic_encoder("image").components("text", ["A yellow wall.", "A blue wall."])
    yellow, blue = gallery.search(query, 1, captions=False)
    assert yellow[0].item_id == "yellow-1"
    assert blue[0].item_id == corpus_named("mine").items("test")[2].item_id
    assert gallery.item("yellow-1").captions == ("A yellow wall.",)
    assert gallery.media("yellow-1").data[:2] == b"\xff\xd8"
    gallery.close()
    with sqlite3.connect(data / "galleries" / "mine" / "items.sqlite") as file:
        assert file.execute("PRAGMA user_version").fetchone() == (1,)


def test_a_corpus_of_another_format_is_named_and_can_be_removed(data: Path) -> None:
    record = corpus_folder("mine") / "corpus.json"
    assert added_corpora()["mine"].reader == "flickr8k"
    register_corpus("mine", "flickr8k", OLD / "set", "test")
    content = json.loads(record.read_text())
    assert content["format"] == 1
    record.write_text(json.dumps(content | {"format": 2}))
    with pytest.raises(Unavailable, match=r"'mine' has format 2, .*semlink corpora remove mine"):
        corpus_named("mine")
    unregister_corpus("mine")
    assert not record.parent.exists()
    with pytest.raises(NotFound):
        unregister_corpus("../galleries")


def test_a_gallery_of_another_format_is_refused(data: Path) -> None:
    path = corpus_folder("mine") / "gallery.safetensors"
    gallery = GalleryEmbeddings.load("mine")
    gallery.save(path)
    with safe_open(path, framework="numpy") as file:
        assert file.metadata()["format"] == "1"
    assert GalleryEmbeddings.load("mine").item_ids == gallery.item_ids
    save_file({"a": np.zeros(1)}, path, {"format": "2"})
    with pytest.raises(Unavailable, match=r"format 2, .*semlink train gallery --corpus mine"):
        GalleryEmbeddings.load("mine")


def test_added_items_of_another_format_are_refused_and_left_alone(data: Path) -> None:
    path = data / "galleries" / "mine" / "items.sqlite"
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 2")
    with pytest.raises(Unavailable, match=r"items.sqlite has format 2"):
        gallery_of("mine")
    with sqlite3.connect(path) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (2,)


def test_an_export_of_another_format_is_refused_at_its_line() -> None:
    (line,) = (OLD / "entries.jsonl").read_text().splitlines()
    later = json.dumps(json.loads(line) | {"format": 2})
    with pytest.raises(Unavailable, match=r"a\.jsonl, line 2 has format 2"):
        list(read_entries([line, later], "a.jsonl"))


def test_a_refinement_of_another_format_is_refused(data: Path) -> None:
    path = channel_knowledge.keep("cdg", "umi-los", {"w": torch.ones(2)}, {})
    about = path.with_suffix(".json")
    content = json.loads(about.read_text())
    assert content.pop("format") == 1
    about.write_text(json.dumps(content))
    assert torch.equal(channel_knowledge.refined_weights("cdg", "umi-los")["w"], torch.ones(2))
    channel_knowledge.keep("cdg", "umi-los", {"w": torch.ones(2)}, {})
    about.write_text(json.dumps(content | {"format": 2}))
    with pytest.raises(Unavailable, match=r"format 2, .*--forget"):
        channel_knowledge.refined_weights("cdg", "umi-los")


def test_features_are_taken_over(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "cache"))
    shutil.copytree(OLD / "features", tmp_path / "cache" / "features" / "flickr8k")
    monkeypatch.setattr(features, "text_tokens", lambda _: pytest.fail("encoded again"))
    found = features.caption_features(corpus_named("mine"), "test")
    assert len(found) == 6
    with safe_open(next((OLD / "features").iterdir()), framework="pt") as file:
        assert torch.equal(found.values, file.get_tensor("values"))


def test_a_checkpoint_of_before_is_stale_and_one_of_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path))
    earlier = tmp_path / "training" / "heads-person-00112233.pt"
    earlier.parent.mkdir()
    torch.save({"epoch": 3, "pair": {}}, earlier)
    checkpoint = Checkpoint("heads-person", "lab.training.alignment_heads", 0)
    assert checkpoint.load() is None
    checkpoint.save({"step": 1})
    assert {(part.name, part.state) for part in parts()} == {
        ("training", "in use"),
        ("training", "stale"),
    }
    remove("training", stale=True)
    assert not earlier.exists()
    assert checkpoint.load() == {"format": 2, "step": 1}
    for other in ({"step": 1}, {"step": 1, "format": 3}):
        torch.save(other, checkpoint.path)
        with pytest.raises(Unavailable, match=r"has format (None|3), .*semlink cache rm training"):
            checkpoint.load()


def test_every_format_is_tested_here() -> None:
    assert len(FORMATS) == 8, "a new kind of data needs a test on what the version before wrote"
