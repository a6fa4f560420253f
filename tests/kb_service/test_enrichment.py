"""Bulk jobs: progress, resuming, cancelling, giving way to queries; the LLM is scripted, store and service are real."""

import asyncio
import threading

import numpy as np
import pytest
from tests_store import count_knowledge

from kb_service.enrichment import WINDOW, tasks_of
from kb_service.handler import KnowledgeBase
from kb_service.llm import GenerationCancelled
from semlink.corpora.registry import corpus_named
from semlink.errors import InvalidField, NotFound, Unavailable
from semlink.store import MemoryStore
from semlink.v1 import common_pb2
from semlink.v1 import knowledge_pb2 as pb


def _vectors(texts):
    return np.ones((len(texts), 384), np.float32) / np.sqrt(384)


class ScriptedRewriter:
    """Rewrites at once, or, after ``stop_after`` calls, not before ``gate`` opens."""

    def __init__(self, stop_after=10**9):
        self.gate = threading.Event()
        self.stop_after = stop_after
        self.calls = []
        self.gave_way = 0
        self.error = None

    def __call__(self, tasks, *, cancelled=lambda: False):
        self.calls.append(list(tasks))
        while len(self.calls) > self.stop_after and not self.gate.wait(0.002):
            if cancelled():
                self.gave_way += 1
                raise GenerationCancelled("stopped")
        if self.error:
            raise self.error
        return [
            pb.RewriteSet(rewrites=[pb.Rewrite(text=f"{t.text} Again.", similarity=0.9)])
            for t in tasks
        ]


@pytest.fixture
def llm():
    return ScriptedRewriter()


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
async def service(store, llm):
    service = KnowledgeBase(store, load_rewriter=lambda: llm, embed=_vectors)
    yield service
    await service.close()


def _request(**changes):
    return pb.StartEnrichmentRequest(
        **{"corpus": "soundscapes", "split": common_pb2.SPLIT_VAL, "limit": 60, **changes}
    )


async def _ended(service, job_id):
    async with asyncio.timeout(20):
        while True:
            state = await service.get_enrichment(pb.GetEnrichmentRequest(id=job_id))
            if state.state != pb.ENRICHMENT_STATE_RUNNING:
                return state
            await asyncio.sleep(0.005)


async def _until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_job_makes_what_queries_then_find(service, store, llm):
    started = await service.start_enrichment(_request())
    assert (started.state, started.total) == (pb.ENRICHMENT_STATE_RUNNING, 60)
    ended = await _ended(service, started.id)
    assert (ended.state, ended.skipped, ended.generated, ended.failed) == (
        pb.ENRICHMENT_STATE_DONE,
        0,
        60,
        0,
    )
    assert ended.started_unix_s <= ended.ended_unix_s
    assert await count_knowledge(store) == 60
    items = corpus_named("soundscapes").items("val")
    captions = list(dict.fromkeys(c for item in items for c in item.captions))[:60]
    # exactly what the transmitter asks for a query
    asked = [
        pb.RewriteItem(text=c, num_candidates=5, temperature=0.4, min_similarity=0.6)
        for c in captions
    ]
    calls = len(llm.calls)
    answer = await service.rewrite(pb.RewriteRequest(items=asked))
    assert all(found.cached for found in answer.sets)
    assert len(llm.calls) == calls


async def test_begun_again_it_makes_only_what_is_missing(service, llm):
    first = await service.start_enrichment(_request(limit=20))
    await _ended(service, first.id)
    made = sum(map(len, llm.calls))
    second = await service.start_enrichment(_request(limit=50))
    ended = await _ended(service, second.id)
    assert second.id != first.id
    assert (ended.skipped, ended.generated) == (20, 30)
    assert sum(map(len, llm.calls)) == made + 30
    again = await service.start_enrichment(_request(limit=50))
    ended = await _ended(service, again.id)
    assert (ended.skipped, ended.generated) == (50, 0)


async def test_another_strategy_temperature_or_seed_is_other_knowledge(service):
    for changes in ({}, {"strategy": "instruction"}, {"temperature": 0.7}, {"seed": 3}):
        started = await service.start_enrichment(_request(limit=5, **changes))
        assert (await _ended(service, started.id)).generated == 5


async def test_the_running_job_is_answered_to_who_asks_again(store):
    llm = ScriptedRewriter(stop_after=0)
    service = KnowledgeBase(store, load_rewriter=lambda: llm, embed=_vectors)
    first = await service.start_enrichment(_request())
    second = await service.start_enrichment(_request())
    assert first.id == second.id
    assert len((await service.list_enrichments(pb.ListEnrichmentsRequest())).enrichments) == 1
    llm.gate.set()
    assert (await _ended(service, first.id)).generated == 60
    await service.close()


async def test_cancelled_between_two_tokens_and_resumed(store):
    llm = ScriptedRewriter(stop_after=2)
    service = KnowledgeBase(store, load_rewriter=lambda: llm, embed=_vectors)
    started = await service.start_enrichment(_request())
    await _until(lambda: len(llm.calls) == 3)
    async with asyncio.timeout(2):
        ended = await service.cancel_enrichment(pb.CancelEnrichmentRequest(id=started.id))
    assert ended.state == pb.ENRICHMENT_STATE_CANCELLED
    await _until(lambda: not service.queue.num_waiting and not service.queue.num_generating)
    assert llm.gave_way == 1
    kept = await count_knowledge(store)
    assert kept == sum(map(len, llm.calls[:2]))
    llm.gate.set()
    again = await service.start_enrichment(_request())
    ended = await _ended(service, again.id)
    assert (ended.state, ended.skipped, ended.generated) == (
        pb.ENRICHMENT_STATE_DONE,
        kept,
        60 - kept,
    )
    await service.close()


async def test_who_waits_does_not_wait_for_a_job(store):
    llm = ScriptedRewriter(stop_after=0)
    service = KnowledgeBase(store, load_rewriter=lambda: llm, embed=_vectors)
    started = await service.start_enrichment(_request())
    await _until(lambda: llm.calls)
    bulk = llm.calls[0]
    item = pb.RewriteItem(text="A red bus.")
    waiting = asyncio.create_task(
        service.rewrite(pb.RewriteRequest(items=[item], budget_ms=10_000))
    )
    await _until(lambda: len(llm.calls) == 2)
    assert llm.gave_way == 1, "the job's batch was not stopped"
    assert [t.text for t in llm.calls[1]] == ["A red bus."]
    llm.gate.set()
    assert (await waiting).sets[0].rewrites
    ended = await _ended(service, started.id)
    assert (ended.state, ended.generated) == (pb.ENRICHMENT_STATE_DONE, 60)
    assert llm.calls[2] == bulk, "what gave way begins anew"
    await service.close()


async def test_a_query_without_budget_goes_before_a_job_but_does_not_stop_it(store):
    llm = ScriptedRewriter(stop_after=0)
    service = KnowledgeBase(store, load_rewriter=lambda: llm, embed=_vectors)
    started = await service.start_enrichment(_request())
    await _until(lambda: llm.calls)
    await service.rewrite(pb.RewriteRequest(items=[pb.RewriteItem(text="A red bus.")]))
    llm.gate.set()
    await _ended(service, started.id)
    assert llm.gave_way == 0
    assert [t.text for t in llm.calls[1]] == ["A red bus."]
    await service.close()


async def test_a_job_takes_no_places_of_queries(store):
    llm = ScriptedRewriter(stop_after=0)
    service = KnowledgeBase(store, load_rewriter=lambda: llm, embed=_vectors, max_waiting=2)
    await service.start_enrichment(_request())
    await _until(lambda: service.queue.num_waiting == WINDOW)
    items = [pb.RewriteItem(text=t) for t in ("One bus.", "Two buses.", "Three buses.")]
    answer = await service.rewrite(pb.RewriteRequest(items=items))
    reasons = [found.degraded[0].reason for found in answer.sets]
    assert [r.startswith("not kept yet") for r in reasons] == [True, True, False]
    await service.close()


async def test_a_caption_of_a_job_that_a_query_wants_too_survives_the_cancelling(store):
    llm = ScriptedRewriter(stop_after=0)
    service = KnowledgeBase(store, load_rewriter=lambda: llm, embed=_vectors)
    started = await service.start_enrichment(_request())
    await _until(lambda: llm.calls)
    wanted = tasks_of(_request())[30]
    item = pb.RewriteItem(text=wanted.text)
    waiting = asyncio.create_task(
        service.rewrite(pb.RewriteRequest(items=[item], budget_ms=10_000))
    )
    await _until(lambda: len(llm.calls) == 2)
    await service.cancel_enrichment(pb.CancelEnrichmentRequest(id=started.id))
    llm.gate.set()
    assert (await waiting).sets[0].rewrites
    await service.close()


async def test_a_job_whose_llm_fails_gives_up_and_says_why(service, llm):
    llm.error = Unavailable("the endpoint is down")
    started = await service.start_enrichment(_request(limit=0))
    ended = await _ended(service, started.id)
    assert (ended.state, ended.generated) == (pb.ENRICHMENT_STATE_FAILED, 0)
    assert ended.reason == "the endpoint is down"
    assert ended.failed == 3 * WINDOW < ended.total
    llm.error = None
    again = await service.start_enrichment(_request(limit=10))
    assert (await _ended(service, again.id)).state == pb.ENRICHMENT_STATE_DONE


async def test_closing_ends_a_job(store):
    llm = ScriptedRewriter(stop_after=0)
    service = KnowledgeBase(store, load_rewriter=lambda: llm, embed=_vectors)
    started = await service.start_enrichment(_request())
    await _until(lambda: llm.calls)
    async with asyncio.timeout(3):
        await service.close()
    assert (
        await service.get_enrichment(pb.GetEnrichmentRequest(id=started.id))
    ).state == pb.ENRICHMENT_STATE_CANCELLED


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"split": 9}, "split"),
        ({"strategy": "magic"}, "strategy"),
        ({"num_candidates": 99}, "num_candidates"),
        ({"temperature": 3.0}, "temperature"),
        ({"limit": 2_000_000}, "limit"),
    ],
)
async def test_bad_requests_are_named(service, changes, field):
    with pytest.raises(InvalidField) as caught:
        await service.start_enrichment(_request(**changes))
    assert caught.value.field == field


async def test_what_is_not_there_is_said(service):
    with pytest.raises(NotFound, match="atlantis"):
        await service.start_enrichment(_request(corpus="atlantis"))
    for call in (
        service.get_enrichment(pb.GetEnrichmentRequest(id="no")),
        service.cancel_enrichment(pb.CancelEnrichmentRequest(id="no")),
    ):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.field == "id"
