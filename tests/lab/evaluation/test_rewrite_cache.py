"""The cache of rewrites: the captions that experiments ask, resumed files, a store that answers without waiting."""

import asyncio

import pytest

from kb_service.handler import KnowledgeBase
from kb_service.rewriting import task_of
from lab.evaluation.rewrite_cache import TEST_SEEDS, RewriteCache, item_of, sources
from lab.experiments.retrieval_sweep import draw_queries
from lab.experiments.sweep import Sampling
from semlink.errors import NotFound
from semlink.settings import Settings
from semlink.store import MemoryStore
from semlink.v1 import knowledge_pb2

CAPTION = "A dog barks twice, then rain falls."
OTHER = "A man in a red jacket walks."


class Copying:
    """Rewrites a caption as itself, numbered."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, tasks):
        self.asked += [task.text for task in tasks]
        return [
            knowledge_pb2.RewriteSet(
                rewrites=[
                    knowledge_pb2.Rewrite(text=f"{t.text} {n}", similarity=0.1 * n, reason="")
                    for n in range(t.num_candidates)
                ]
            )
            for t in tasks
        ]


def _tasks(*texts):
    return [task_of(item_of(text), field="text") for text in texts]


@pytest.mark.parametrize("task", ["person", "image"])
def test_sources_of_test_are_the_experiments_queries(task):
    ours = {s.text for s in sources(task, "test", 7)}
    theirs = {
        text
        for seed in range(TEST_SEEDS)
        for text in draw_queries(Sampling(task, queries=7), seed).texts
    }
    assert ours == theirs


@pytest.mark.parametrize("split", ["train", "val"])
def test_more_sources_begin_with_fewer_and_share_no_item(split):
    few, many = sources("person", split, 20), sources("person", split, 60)
    assert many[:20] == few
    assert len({s.item.item_id for s in many}) == 60
    assert all(s.text in s.item.captions for s in many)


def test_a_bank_goes_on_where_it_was_interrupted(tmp_path):
    path = tmp_path / "bank.jsonl"
    first = Copying()
    RewriteCache(path).generate(first, _tasks(CAPTION))
    with path.open("a") as file:
        file.write('{"text": "cut sh')
    again = Copying()
    cache = RewriteCache(path)
    cache.generate(again, _tasks(CAPTION, OTHER))
    assert (first.asked, again.asked) == ([CAPTION], [OTHER])
    assert [r.text for r in cache.rewrites(OTHER).rewrites] == [f"{OTHER} {n}" for n in range(5)]


def test_what_is_missing_names_the_command(tmp_path):
    with pytest.raises(NotFound, match=r"lab\.evaluation\.rewrite_cache"):
        RewriteCache(tmp_path / "none.jsonl").rewrites(CAPTION)


def test_stored_rewrites_answer_a_query_that_does_not_wait(tmp_path):
    async def ask():
        store = MemoryStore()
        cache = RewriteCache(tmp_path / "bank.jsonl")
        cache.generate(Copying(), _tasks(CAPTION))
        await store.put_knowledge(cache.entries(_tasks(CAPTION)))
        knowledge = KnowledgeBase(store, Settings(redis_url="memory://"))
        item = item_of(CAPTION)
        item.filter = False
        found = await knowledge.rewrite(knowledge_pb2.RewriteRequest(items=[item], budget_ms=0))
        await knowledge.close()
        return found.sets[0]

    found = asyncio.run(ask())
    assert found.cached
    assert not found.degraded
    assert [r.text for r in found.rewrites] == [f"{CAPTION} {n}" for n in range(5)]
