"""The rewrites that come with semlink: what the file holds, and how they get into a store."""

import numpy as np
import pytest

from kb_service.exchange import is_shipped, shipped
from kb_service.handler import KnowledgeBase
from kb_service.llm import MODEL_NAME
from semlink.errors import NotFound, Unavailable
from semlink.settings import Settings
from semlink.store import MemoryStore
from semlink.v1 import knowledge_pb2 as pb
from tools.ship_rewrites import tasks


def _embed(texts):
    return np.eye(384, dtype=np.float32)[[len(text) % 384 for text in texts]]


def _no_llm():
    raise NotFound("no LLM here")


def _service(store, **settings):
    return KnowledgeBase(store, Settings(**settings), embed=_embed, load_rewriter=_no_llm)


def test_the_file_holds_what_the_demo_and_the_readme_ask():
    """Under the keys of today: else `python -m tools.ship_rewrites` is due."""
    wanted = {task.key(MODEL_NAME): task.text for task in tasks()}
    assert {entry.key: entry.text for entry in shipped()} == wanted
    assert len(wanted) >= 9
    for entry in shipped():
        assert entry.model == MODEL_NAME
        assert 1 <= len(entry.rewrites) <= 5
        assert entry.made_unix_s > 0


async def test_they_are_answered_at_once_and_by_no_llm():
    service = _service(MemoryStore())
    await service.warm_up()
    text = tasks()[0].text
    request = pb.RewriteRequest(items=[pb.RewriteItem(text=text, filter=True, min_similarity=0.5)])
    (found,) = (await service.rewrite(request)).sets
    assert found.cached
    assert [r.text for r in found.rewrites] == [r.text for r in shipped()[0].rewrites]
    stored = await service.get_entry(pb.GetEntryRequest(key=shipped()[0].key))
    assert is_shipped(stored)
    await service.close()


async def test_what_is_stored_already_stays():
    store = MemoryStore()
    own = pb.KnowledgeEntry()
    own.CopyFrom(shipped()[1])
    own.made_unix_s += 1
    del own.rewrites[1:]
    own.ClearField("key")
    await store.put_knowledge({shipped()[1].key: own.SerializeToString()})
    service = _service(store)
    await service.warm_up()
    stored = await service.get_entry(pb.GetEntryRequest(key=shipped()[1].key))
    assert len(stored.rewrites) == 1
    assert not is_shipped(stored)
    assert (await service.get_statistics(pb.GetStatisticsRequest())).entries == len(shipped())
    await service.close()


async def test_another_llm_gets_none_of_them():
    service = _service(
        MemoryStore(), llm="endpoint", llm_url="http://localhost:1/v1", llm_model="m"
    )
    await service.warm_up()
    assert (await service.get_statistics(pb.GetStatisticsRequest())).entries == 0
    await service.close()


async def test_a_store_that_is_away_does_not_stop_the_start(monkeypatch: pytest.MonkeyPatch):
    store = MemoryStore()

    async def away(_):
        raise Unavailable("the store is away")

    monkeypatch.setattr(store, "knowledge", away)
    service = _service(store)
    await service.warm_up()
    monkeypatch.undo()
    assert (await service.get_statistics(pb.GetStatisticsRequest())).entries == 0
    await service.close()
