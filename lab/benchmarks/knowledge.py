"""How long the knowledge base takes: look-ups, managing what is kept, generating, and look-ups meanwhile.

Beside the clock's time stands the processor's time of this process: on a busy machine only that one is the code's own.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from kb_service.entries import entry_of
from kb_service.filtering import filter_rewrites
from kb_service.handler import KnowledgeBase
from kb_service.llm import MAX_ROWS, MODEL_NAME, Dialogue, LanguageModel, load_language_model
from kb_service.prompting import STRATEGIES
from kb_service.rewriting import DEFAULT_CANDIDATES, Rewriter, extract, prompt, task_of
from lab.benchmarks.timing import report_of
from lab.evaluation.report import Report, Row
from semlink.corpora.registry import corpus_named
from semlink.rpc import KnowledgeClient, grpc_servicer, start_server
from semlink.runtime import RuntimeName
from semlink.semantics.text import sentence_embeddings
from semlink.settings import Settings
from semlink.store import MemoryStore, RedisStore, Store
from semlink.v1 import knowledge_pb2 as pb
from transmitter.knowledge import MIN_SIMILARITY

CAPTIONS: Final = 256
REPEATS: Final = 2000
ENTRIES: Final = 10_000
TOKENS: Final = 24
ROWS: Final = (1, 8, MAX_ROWS)
GOOD_CAPTIONS: Final = 8
"""Of each task, from which good rewrites are counted."""
BAR_MS: Final = 2.0
"""What a look-up of a kept caption may take."""


def run(threads: int, console: Console, *, generate: bool = True) -> Report:
    """Measure with ``threads`` threads of torch, and print a table."""
    with report_of("bench-kb", threads) as report:
        report.rows += asyncio.run(_look_ups())
        if generate:
            report.rows += _generation()
            report.rows += asyncio.run(_meanwhile())
    load = f"{threads} threads, load {os.getloadavg()[0]:.1f}"
    table = Table("what", "metric", "value", title=f"knowledge base, {load}")
    for row in report.rows:
        table.add_row(row.variant, row.metric, f"{row.mean:.3f}")
    console.print(table)
    return report


# --- what is kept --------------------------------------------------------------------------------


async def _look_ups() -> list[Row]:
    async with _redis() as redis:
        return [*await _with_store("memory", MemoryStore()), *await _with_store("redis", redis)]


async def _with_store(name: str, store: Store) -> list[Row]:
    service = KnowledgeBase(store, Settings(redis_url="memory://"), embed=_vectors)
    texts = await _fill(store, CAPTIONS)
    rows = await _timed(
        f"warm look-up, {name}, in process", lambda i: service.rewrite(_ask(texts, i, 1))
    )
    rows += await _timed(
        f"warm look-up of 16, {name}, in process",
        lambda i: service.rewrite(_ask(texts, i, 16)),
        REPEATS // 8,
    )
    rows += await _over_grpc(name, service, texts)
    await _fill(store, ENTRIES)
    for what, call in _managing(service, texts).items():
        rows += await _timed(f"{what}, {ENTRIES} entries, {name}", call, 5)
    await service.close()
    return rows


async def _over_grpc(name: str, service: KnowledgeBase, texts: Sequence[str]) -> list[Row]:
    settings = Settings(knowledge_port=0, knowledge_metrics_port=0)
    server = await start_server("knowledge", grpc_servicer("knowledge", service), settings)
    await server.set_serving()
    async with KnowledgeClient(f"127.0.0.1:{server.port}", settings) as client:
        rows = await _timed(
            f"warm look-up, {name}, over gRPC", lambda i: client.rewrite(_ask(texts, i, 1))
        )
    await server.stop(0)
    return rows


def _managing(
    service: KnowledgeBase, texts: Sequence[str]
) -> dict[str, Callable[[int], Awaitable[object]]]:
    async def export() -> None:
        async for _ in service.export_entries(pb.ExportEntriesRequest()):
            pass

    return {
        "list 100": lambda _: service.list_entries(pb.ListEntriesRequest(page_size=100)),
        "search": lambda i: service.search_entries(pb.SearchEntriesRequest(text=texts[i])),
        "statistics": lambda _: service.get_statistics(pb.GetStatisticsRequest()),
        "export": lambda _: export(),
    }


def _ask(texts: Sequence[str], place: int, number: int) -> pb.RewriteRequest:
    chosen = [texts[(place * number + i) % CAPTIONS] for i in range(number)]
    items = [pb.RewriteItem(text=t, min_similarity=0.6, filter=True) for t in chosen]
    return pb.RewriteRequest(items=items)


async def _fill(store: Store, number: int) -> list[str]:
    """Keep entries as the service would: five rewrites, here other captions of the same person."""
    captions: list[str] = []
    entries: dict[str, bytes] = {}
    items = corpus_named("pedestrians").items("train")
    of = [(item.captions, i) for item in items for i in range(len(item.captions))]
    for number_made in range(number):
        (own, i), seed = of[number_made % len(of)], number_made // len(of)
        task = task_of(pb.RewriteItem(text=own[i], seed=seed), field="text")
        others = (own[(i + k) % len(own)] for k in range(1, 6))
        found = pb.RewriteSet(rewrites=[pb.Rewrite(text=o, similarity=0.9) for o in others])
        entry = entry_of(task, MODEL_NAME, found, _vectors([own[i]])[0])
        entries[task.key(MODEL_NAME)] = entry.SerializeToString()
        captions.append(own[i])
    keys = list(entries)
    for start in range(0, len(keys), 500):
        await store.put_knowledge({k: entries[k] for k in keys[start : start + 500]})
    return captions


def _vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """Stands for MiniLM, which takes 13 ms a sentence and is no part of a look-up."""
    rng = np.random.default_rng(len(texts[0]))
    vectors = rng.standard_normal((len(texts), 384)).astype(np.float32)
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


@asynccontextmanager
async def _redis() -> AsyncIterator[RedisStore]:
    """A store of our own, gone afterwards."""
    from semlink.deployment.processes import store_command

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "redis.sock"
        process = subprocess.Popen(store_command(path), stdout=subprocess.DEVNULL)
        store = RedisStore(f"unix://{path}", timeout_s=5)
        try:
            for _ in range(100):
                if path.exists():
                    break
                await asyncio.sleep(0.05)
            yield store
        finally:
            await store.close()
            process.terminate()
            process.wait()


# --- generating ----------------------------------------------------------------------------------


def _generation() -> list[Row]:
    """The embedded LLM by each runtime: tokens a second alone and in batches, good rewrites a second.

    Batches hold rows of one or of all strategies, at two temperatures. A rewrite is good where the filter keeps it and
    it leaves nothing out; seconds of the processor are those of generating alone.
    """
    rows: list[Row] = []
    for runs_on in get_args(RuntimeName):
        llm = load_language_model(Settings().cache_dir, runs_on=runs_on)
        rewriter = Rewriter(llm, sentence_embeddings)
        rows += _tokens(runs_on, llm)
        rows += _good(runs_on, llm, rewriter)
    return rows


def _tokens(runs_on: str, llm: LanguageModel) -> list[Row]:
    captions = [c for item in corpus_named("pedestrians").items("val")[:24] for c in item.captions]
    few_shot = STRATEGIES["few-shot"]
    # The first step of a kind compiles what it runs.
    llm.answer([Dialogue(few_shot.shared, few_shot.ask(captions[0]), 1, 0.4, 0, TOKENS)])
    rows: list[Row] = []
    for number in ROWS:
        for name in ("few-shot", "all strategies") if number == ROWS[-1] else ("few-shot",):
            strategies = [s for s in STRATEGIES.values() if name in (s.name, "all strategies")]
            dialogues = []
            for i in range(number):
                strategy, temperature = strategies[i % len(strategies)], (0.4, 0.7)[i % 2]
                asked = strategy.ask(captions[i % len(captions)])
                dialogues.append(Dialogue(strategy.shared, asked, 1, temperature, i, TOKENS))
            started, cpu = time.perf_counter(), time.process_time()
            answers = llm.answer(dialogues)
            seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
            tokens = sum(len(llm._tokens(text)) for (text,) in answers)
            what = f"{number} rows, {name}, at most {TOKENS} tokens, {runs_on}"
            rows += [
                Row("tokens_per_s", tokens / seconds, variant=what),
                Row("tokens_per_cpu_s", tokens / cpu_seconds, variant=what),
            ]
    return rows


def _good(runs_on: str, llm: LanguageModel, rewriter: Rewriter) -> list[Row]:
    corpora = [corpus_named(name) for name in ("pedestrians", "scenes", "soundscapes")]
    captions = [item.captions[0] for of in corpora for item in of.items("val")[:GOOD_CAPTIONS]]
    tasks = [task_of(pb.RewriteItem(text=caption), field="text") for caption in captions]
    number = MAX_ROWS // DEFAULT_CANDIDATES
    tokens = good = 0
    cpu_seconds = 0.0
    for start in range(0, len(tasks), number):
        batch = tasks[start : start + number]
        cpu = time.process_time()
        answers = llm.answer([prompt(task) for task in batch])
        cpu_seconds += time.process_time() - cpu
        tokens += sum(len(llm._tokens(text)) for texts in answers for text in texts)
        for task, texts in zip(batch, answers, strict=True):
            found = rewriter.measure(task, extract(task, texts))
            judged = filter_rewrites(task.text, found, min_similarity=MIN_SIMILARITY, complete=True)
            good += sum(rewrite.kept for rewrite in judged.rewrites)
    what = f"{len(tasks)} captions, {DEFAULT_CANDIDATES} candidates each, {runs_on}"
    return [
        Row("tokens_per_cpu_s", tokens / cpu_seconds, variant=what),
        Row("good_per_cpu_s", good / cpu_seconds, variant=what),
        Row("good_share", good / (len(tasks) * DEFAULT_CANDIDATES), variant=what),
    ]


async def _meanwhile() -> list[Row]:
    """Look-ups of kept captions, and of ones that are not, while the LLM rewrites others in its thread."""
    store = MemoryStore()
    service = KnowledgeBase(store, Settings(redis_url="memory://"))
    texts = await _fill(store, CAPTIONS)
    items = [
        pb.RewriteItem(text=caption, seed=99)
        for item in corpus_named("pedestrians").items("val")[:40]
        for caption in item.captions
    ]
    loading = await service.rewrite(pb.RewriteRequest(items=items[:1], budget_ms=600_000))
    if loading.sets[0].degraded:
        raise RuntimeError(loading.sets[0].degraded[0].reason)
    await service.rewrite(pb.RewriteRequest(items=items[1:]))
    await asyncio.sleep(1.0)

    def warm(i: int) -> Awaitable[object]:
        return service.rewrite(_ask(texts, i, 1))

    def cold(i: int) -> Awaitable[object]:
        item = pb.RewriteItem(text=f"A red bus, {i}.", filter=True)
        return service.rewrite(pb.RewriteRequest(items=[item]))

    rows = await _timed("warm look-up while the LLM generates", warm, 400, pause_s=0.02)
    what = "cold query without budget while the LLM generates"
    rows += await _timed(what, cold, 100, pause_s=0.02)
    await service.close()
    return rows


async def _timed(
    what: str,
    call: Callable[[int], Awaitable[object]],
    repeats: int = REPEATS,
    *,
    pause_s: float = 0.0,
) -> list[Row]:
    """Median, 99th percentile and worst of ``repeats`` calls one after the other, after some that do not count.

    ``cpu_ms``: mean processor time of the process, without pauses only: with them others would count.
    """
    spent, cpu = [], 0.0
    for i in range(repeats + 2):
        if i == 2:
            cpu = time.process_time()
        started = time.perf_counter()
        await call(i)
        spent.append((time.perf_counter() - started) * 1e3)
        if pause_s:
            await asyncio.sleep(pause_s)
    cpu_ms = (time.process_time() - cpu) * 1e3 / repeats
    counted = np.array(spent[2:])
    return [
        *([] if pause_s else [Row("cpu_ms", cpu_ms, variant=what)]),
        Row("p50_ms", float(np.median(counted)), variant=what),
        Row("p99_ms", float(np.percentile(counted, 99)), variant=what),
        Row("max_ms", float(counted.max()), variant=what),
    ]
