"""The REST client against the running services."""

from __future__ import annotations

import inspect
import io
import textwrap
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image
from tests_live import Live

import semlink.client
from semlink.client import (
    AsyncClient,
    Client,
    Feedback,
    LinkConfig,
    Media,
    NewItem,
    Problem,
    Query,
)
from semlink.errors import AlreadyExists, InvalidField, NotFound

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def png() -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (96, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_queries_and_links(live: Live) -> None:
    query = Query("person", text="a man in a red jacket", method="deepsc-mimo", seed=3, top_k=4)
    with Client(live.url) as client:
        found = client.query(query)
        again = client.query(query)
        assert found.results == again.results
        assert (len(found.results), found.seed, found.corpus) == (4, 3, "pedestrians")
        assert found.link is not None
        assert found.link.snr_db == 10.0
        item = client.item(found.corpus, found.results[0].item_id)
        assert item.item_id == found.results[0].item_id
        media = client.media(found.corpus, item.item_id)
        assert media.content_type == item.media_type
        assert media.data

        link = client.open_link(LinkConfig(snr_db=2.0, feedback=Feedback(bits=32)))
        assert (link.config.snr_db, link.config.feedback.bits) == (2.0, 32)
        batch = client.query_batch(
            [
                Query("person", text=t, method="deepsc-mimo", link=link.id)
                for t in ("a man", "a bag")
            ]
        )
        assert [a.link.snr_db for a in batch.answers if a.link] == [2.0, 2.0]
        assert client.link(link.id).slot > link.slot
        assert link.id in [one.id for one in client.links()]
        csi = client.csi(link.id)
        assert np.shape(csi.true) == (8, 2, 16)
        client.close_link(link.id)
        with pytest.raises(NotFound, match=link.id) as caught:
            client.query(Query("person", text="a", link=link.id))
        assert caught.value.field == "link.id"


async def test_items_and_the_rest(live: Live) -> None:
    async with AsyncClient(live.url) as client:
        new = NewItem("client-1", Media("image/png", png()), captions=["a field of noise"])
        try:
            added = await client.add_items("pedestrians", [new])
            assert added.added == 1
            with pytest.raises(AlreadyExists):
                await client.add_items("pedestrians", [new])
            assert (await client.put_item("pedestrians", new)).size == added.size
            assert (await client.item("pedestrians", "client-1")).captions == ("a field of noise",)
        finally:
            await client.delete_item("pedestrians", "client-1")
        with pytest.raises(NotFound):
            await client.item("pedestrians", "client-1")
        assert {c.name for c in await client.corpora()} >= {"pedestrians", "scenes", "soundscapes"}
        assert "sc-lmkb" in {m.name for m in await client.methods()}
        assert (await client.health()).status == "ok"
        ready = await client.ready()
        assert set(ready.services) == {"transmitter", "channel", "receiver", "knowledge"}
        assert "semlink_requests_total" in await client.metrics()
        with pytest.raises(InvalidField, match="symbols") as caught:
            await client.query(Query("person", text="a", symbols=63))
        assert isinstance(caught.value, Problem)
        assert (caught.value.status, caught.value.field) == (422, "symbols")


def test_the_example_of_the_docstring_runs(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEMLINK_URL", live.url)
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    soundfile.write("rain.wav", noise, 16_000)
    lines = inspect.getdoc(semlink.client).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("    from semlink.client"))
    end = next(i for i, line in enumerate(lines) if i > start and line and line[0] != " ")
    exec(textwrap.dedent("\n".join(lines[start:end])), {})
    printed = capsys.readouterr().out
    assert "query_id" in printed
    assert "soundscapes" in printed


def test_another_host_is_refused_on_the_wire(live: Live) -> None:
    evil = {"Host": "evil.example"}
    refused = live.http.delete("/v1/corpora/pedestrians/items/x", headers=evil)
    assert (refused.status_code, refused.json()["field"]) == (421, "Host")
    assert live.http.get("/metrics", headers=evil).status_code == 200
    home = httpx.get(f"{live.url}/", follow_redirects=True)
    assert home.url.path == "/docs"
    assert home.status_code == 200
