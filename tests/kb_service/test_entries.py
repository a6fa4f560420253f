"""Listing, searching, exchanging and deleting what is kept, in both stores; sentences are embedded by their letters."""

import time

import numpy as np
import pytest
from tests_store import count_knowledge, empty

from kb_service.entries import MAX_PAGE, Entries, entry_of, rewrites_of
from kb_service.rewriting import Task
from semlink.errors import InvalidField, NotFound
from semlink.store import MemoryStore, RedisStore
from semlink.v1 import knowledge_pb2 as pb

MODEL = "a model"


def _letters(texts):
    counts = np.zeros((len(texts), 384), np.float32)
    for row, text in zip(counts, texts, strict=True):
        for letter in text.lower():
            row[ord(letter) % 384] += 1
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture(params=["memory", "redis"])
async def store(request):
    if request.param == "memory":
        made = MemoryStore()
    else:
        made = RedisStore(request.getfixturevalue("redis_url"))
        await empty(made)
    yield made
    await made.close()


@pytest.fixture
def entries(store):
    return Entries(store, _letters)


def _found(*texts):
    return pb.RewriteSet(
        rewrites=[
            pb.Rewrite(text=t, similarity=0.5 + i / 10, reason="duplicate" if i else "")
            for i, t in enumerate(texts)
        ]
    )


async def _keep(store, task, *texts, model=MODEL):
    found = _found(*(texts or (f"{task.text} again.",)))
    entry = entry_of(task, model, found, _letters([task.text])[0])
    key = task.key(model)
    await store.put_knowledge({key: entry.SerializeToString()})
    return key


async def _keep_old(store, task):
    """As the version before kept it: the candidates alone."""
    key = task.key(MODEL)
    await store.put_knowledge({key: _found("An old one.").SerializeToString()})
    return key


async def _all(entries, size, **wanted):
    request = pb.ListEntriesRequest(filter=pb.EntryFilter(**wanted), page_size=size)
    pages = []
    while True:
        answer = await entries.list_entries(request)
        pages.append(list(answer.entries))
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            return pages


async def test_an_entry_holds_what_it_was_made_from(store, entries):
    task = Task("A red bus.", 3, 0.7, 9, "instruction")
    before = time.time()
    key = await _keep(store, task, "A bus, red.", "A red bus")
    entry = await entries.get_entry(pb.GetEntryRequest(key=key))
    assert (entry.key, entry.text, entry.strategy, entry.model) == (
        key,
        "A red bus.",
        "instruction",
        MODEL,
    )
    assert (entry.seed, entry.temperature, entry.num_candidates) == (9, 0.7, 3)
    assert before <= entry.made_unix_s <= time.time()
    assert [r.text for r in entry.rewrites] == ["A bus, red.", "A red bus"]
    with pytest.raises(NotFound) as caught:
        await entries.get_entry(pb.GetEntryRequest(key="rewrites:0"))
    assert caught.value.field == "key"


async def test_entries_of_the_version_before_still_serve_and_are_listed_as_such(store, entries):
    key = await _keep_old(store, Task("A bus.", 5, 0.4, 0))
    (stored,) = await store.knowledge([key])
    assert rewrites_of(stored) == _found("An old one.")
    await _keep(store, Task("A tram.", 5, 0.4, 0))
    ((old,),) = await _all(entries, 10, has_source=False)
    assert (old.key, old.text, old.model, old.made_unix_s) == (key, "", "", 0.0)
    ((new,),) = await _all(entries, 10, has_source=True)
    assert new.text == "A tram."
    found = await entries.statistics()
    assert (found.entries, found.without_source, found.rewrites) == (2, 1, 2)


async def test_bytes_that_are_no_entry_are_none(store, entries):
    await store.put_knowledge({"rewrites:bad": b"\xff\xff\xff"})
    assert rewrites_of(b"\xff\xff\xff") is None
    assert rewrites_of(None) is None
    ((entry,),) = await _all(entries, 10)
    assert entry.key == "rewrites:bad"
    assert not entry.rewrites


@pytest.mark.parametrize("size", [1, 7, 100, MAX_PAGE])
async def test_pages_hold_everything_once_and_no_more_than_asked(store, entries, size):
    keys = {await _keep(store, Task(f"A bus, number {i}.", 5, 0.4, 0)) for i in range(150)}
    pages = await _all(entries, size)
    listed = [entry.key for page in pages for entry in page]
    assert len(listed) == len(set(listed))
    assert set(listed) == keys
    # those of one bucket of the server's hash table come together: seven in Valkey, and what is chained to them
    assert max(map(len, pages)) <= max(size, 32)
    assert not any(entry.embedding for page in pages for entry in page)


async def test_filters(store, entries):
    a = await _keep(store, Task("A Red bus.", 5, 0.4, 0))
    b = await _keep(store, Task("A red tram.", 5, 0.4, 7, "instruction"))
    c = await _keep(store, Task("A cow.", 5, 0.4, 7), model="another model")
    old = await _keep_old(store, Task("A red horse.", 5, 0.4, 0))

    async def keys(**wanted):
        return {entry.key for page in await _all(entries, 10, **wanted) for entry in page}

    assert await keys() == {a, b, c, old}
    assert await keys(text="rEd") == {a, b}
    assert await keys(model=MODEL) == {a, b}
    assert await keys(strategy="few-shot") == {a, c}
    assert await keys(seed=7) == {b, c}
    assert await keys(seed=0) == {a}, "an entry without source has no known seed"
    assert await keys(text="red", seed=7) == {b}


async def test_search_finds_the_nearest_sources(store, entries):
    texts = ["aaaa", "aaab", "aabb", "bbbb", "zzzz"]
    for text in texts:
        await _keep(store, Task(text, 5, 0.4, 0))
    await _keep_old(store, Task("aaaa b", 5, 0.4, 0))
    answer = await entries.search_entries(pb.SearchEntriesRequest(text="aaaa", top_k=3))
    assert [f.entry.text for f in answer.found] == ["aaaa", "aaab", "aabb"]
    vectors = _letters(texts)
    expected = vectors[:3] @ vectors[0]
    assert [f.similarity for f in answer.found] == pytest.approx(expected.tolist(), abs=1e-3)
    assert answer.searched == 5
    assert not any(f.entry.embedding for f in answer.found)
    narrowed = await entries.search_entries(
        pb.SearchEntriesRequest(text="aaaa", filter=pb.EntryFilter(text="z"))
    )
    assert [f.entry.text for f in narrowed.found] == ["zzzz"]


async def test_export_and_import_is_the_same_knowledge(store, entries):
    for i, strategy in enumerate(("instruction", "few-shot", "attribute-preserving")):
        await _keep(
            store, Task("A man in a red coat.", 4, 0.4 + i / 10, i, strategy), "One.", "Two."
        )
    await _keep_old(store, Task("A bus.", 5, 0.4, 0))
    exported = [e async for e in entries.export_entries(pb.ExportEntriesRequest())]
    assert len(exported) == 4
    elsewhere = MemoryStore()
    other = Entries(elsewhere, _letters)
    request = pb.ImportEntriesRequest(entries=exported)
    answer = await other.import_entries(request)
    assert (answer.added, answer.replaced, answer.left, answer.outdated) == (4, 0, 0, 0)
    again = [e async for e in other.export_entries(pb.ExportEntriesRequest())]
    assert sorted(again, key=lambda e: e.key) == sorted(exported, key=lambda e: e.key)
    keys = [e.key for e in exported]
    assert list(map(rewrites_of, await elsewhere.knowledge(keys))) == list(
        map(rewrites_of, await store.knowledge(keys))
    )
    # what an import adds can be searched though embeddings are not exported
    found = await other.search_entries(pb.SearchEntriesRequest(text="A man in a red coat."))
    assert found.searched == 3
    assert found.found[0].similarity == pytest.approx(1.0, abs=1e-3)


async def test_import_leaves_or_replaces_what_is_there(store, entries):
    key = await _keep(store, Task("A bus.", 5, 0.4, 0), "Mine.")
    theirs = await entries.get_entry(pb.GetEntryRequest(key=key))
    theirs.rewrites[0].text = "Theirs."
    answer = await entries.import_entries(pb.ImportEntriesRequest(entries=[theirs]))
    assert (answer.added, answer.replaced, answer.left) == (0, 0, 1)
    assert (await entries.get_entry(pb.GetEntryRequest(key=key))).rewrites[0].text == "Mine."
    answer = await entries.import_entries(pb.ImportEntriesRequest(entries=[theirs], replace=True))
    assert (answer.added, answer.replaced, answer.left) == (0, 1, 0)
    assert (await entries.get_entry(pb.GetEntryRequest(key=key))).rewrites[0].text == "Theirs."


async def test_import_makes_the_key_itself_and_refuses_another(store, entries):
    task = Task("A bus.", 5, 0.4, 0)
    entry = entry_of(task, MODEL, _found("One."), _letters(["x"])[0])
    answer = await entries.import_entries(pb.ImportEntriesRequest(entries=[entry]))
    assert answer.added == 1
    assert (await entries.get_entry(pb.GetEntryRequest(key=task.key(MODEL)))).text == "A bus."
    # under this key queries for another caption would look
    entry.key = Task("A cow.", 5, 0.4, 0).key(MODEL)
    answer = await entries.import_entries(pb.ImportEntriesRequest(entries=[entry], replace=True))
    assert (answer.added, answer.replaced, answer.outdated) == (0, 0, 1)
    assert await count_knowledge(store) == 1


def _bad(**changes):
    entry = entry_of(Task("A bus.", 5, 0.4, 0), MODEL, _found("One."), _letters(["x"])[0])
    for name, value in changes.items():
        setattr(entry, name, value)
    return entry


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (_bad(strategy="magic"), "strategy"),
        (_bad(model=""), "model"),
        (_bad(temperature=9.0), "temperature"),
        (_bad(num_candidates=99), "num_candidates"),
        (_bad(text="x" * 3000), "text"),
        (_bad(text=""), "key"),
        (pb.KnowledgeEntry(text="A bus.", model=MODEL), "rewrites"),
        (pb.KnowledgeEntry(text="a", model=MODEL, rewrites=[pb.Rewrite()]), "rewrites[0].text"),
        (
            pb.KnowledgeEntry(
                text="a", model=MODEL, rewrites=[pb.Rewrite(text="b", similarity=float("nan"))]
            ),
            "rewrites[0].similarity",
        ),
        (
            pb.KnowledgeEntry(text="a", model=MODEL, rewrites=[pb.Rewrite(text="b", reason="x")]),
            "rewrites[0].reason",
        ),
    ],
)
async def test_bad_entries_are_named_and_nothing_is_kept(entry, field):
    store = MemoryStore()
    good = _bad()
    with pytest.raises(InvalidField) as caught:
        await Entries(store, _letters).import_entries(
            pb.ImportEntriesRequest(entries=[good, entry])
        )
    assert caught.value.field == f"entries[1].{field}"
    assert await count_knowledge(store) == 0


async def test_delete_by_key_and_by_filter_says_how_many(store, entries):
    keys = [await _keep(store, Task(f"A bus {i}.", 5, 0.4, i % 2)) for i in range(40)]
    answer = await entries.delete_entries(
        pb.DeleteEntriesRequest(keys=[keys[0], keys[2], "rewrites:no"])
    )
    assert answer.deleted == 2
    answer = await entries.delete_entries(pb.DeleteEntriesRequest(filter=pb.EntryFilter(seed=1)))
    assert answer.deleted == 20
    assert await count_knowledge(store) == 18
    answer = await entries.delete_entries(pb.DeleteEntriesRequest(everything=True))
    assert answer.deleted == 18
    assert await count_knowledge(store) == 0


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.DeleteEntriesRequest(), "everything"),
        (pb.DeleteEntriesRequest(filter=pb.EntryFilter()), "everything"),
        (pb.DeleteEntriesRequest(keys=["k"], everything=True), "keys"),
        (pb.DeleteEntriesRequest(keys=["k"], filter=pb.EntryFilter(seed=1)), "keys"),
        (pb.DeleteEntriesRequest(keys=["k"] * 1001), "keys"),
    ],
)
async def test_a_careless_deletion_is_refused(request_, field):
    store = MemoryStore()
    await _keep(store, Task("A bus.", 5, 0.4, 0))
    with pytest.raises(InvalidField) as caught:
        await Entries(store, _letters).delete_entries(request_)
    assert caught.value.field == field
    assert await count_knowledge(store) == 1


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda e: e.list_entries(pb.ListEntriesRequest(page_size=1001)), "page_size"),
        (lambda e: e.list_entries(pb.ListEntriesRequest(page_token="x")), "page_token"),
        (lambda e: e.list_entries(pb.ListEntriesRequest(page_token="-1")), "page_token"),
        (lambda e: e.search_entries(pb.SearchEntriesRequest(text=" ")), "text"),
        (lambda e: e.search_entries(pb.SearchEntriesRequest(text="a", top_k=101)), "top_k"),
        (
            lambda e: e.list_entries(pb.ListEntriesRequest(filter=pb.EntryFilter(text="x" * 3000))),
            "filter.text",
        ),
    ],
)
async def test_bad_questions_are_named(call, field):
    with pytest.raises(InvalidField) as caught:
        await call(Entries(MemoryStore(), _letters))
    assert caught.value.field == field


async def test_statistics_count_by_model_and_strategy(store, entries):
    for i in range(3):
        await _keep(store, Task(f"A bus {i}.", 5, 0.4, 0), "One.", "A bus")
    await _keep(store, Task("A cow.", 5, 0.4, 0, "instruction"), model="another")
    found = await entries.statistics()
    assert [(s.model, s.strategy, s.entries, s.rewrites, s.duplicates) for s in found.shares] == [
        (MODEL, "few-shot", 3, 6, 3),
        ("another", "instruction", 1, 1, 0),
    ]
    assert (found.entries, found.rewrites, found.duplicates) == (4, 7, 3)
    assert 0 < found.oldest_unix_s <= found.newest_unix_s <= time.time()
    assert found.bytes > 4 * 768
