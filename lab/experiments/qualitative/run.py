"""Queries that cross the link one by one with what the receiver found for each: for pages that show single answers.

Where :mod:`lab.experiments.retrieval_sweep` keeps features and ranks whole galleries, here the receiver's own search
answers.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final

from rich.console import Console

from lab.evaluation.cache import Cache
from lab.evaluation.local_system import System, build_system
from lab.experiments.method_comparison import Plan, study
from lab.experiments.retrieval_sweep import draw_queries
from lab.experiments.sweep import Point
from semlink.progress import progress
from semlink.semantics.gallery import GalleryEmbeddings
from semlink.v1 import transmitter_pb2

KINDS: Final[Mapping[str, str]] = {
    "kept": "kept",
    "hallucination": "adds, changes or denies something",
    "similarity": "too far from the query",
    "omission": "leaves something out",
    "duplicate": "repeats another",
}
"""What the filter of the knowledge base may say of a candidate, in words."""
HALLUCINATIONS: Final = ("hallucination", "similarity")
"""Kinds that say something else than the query; an omission or a duplicate is faithful, but of no use."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rewrite that the LLM made of a query, and what the filter said of it."""

    text: str
    kept: bool
    similarity: float
    reason: str

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`, from the filter's reason."""
        if self.kept:
            return "kept"
        if self.reason.startswith("leaves out"):
            return "omission"
        first = self.reason.partition(" ")[0]
        return first if first in ("duplicate", "similarity") else "hallucination"


@dataclass(frozen=True, slots=True)
class Match:
    """One item that the receiver found. ``right``: it is of the identity that the query describes."""

    item_id: str
    captions: tuple[str, ...]
    score: float
    right: bool


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What became of a query: what was found, best first; nothing where the channel erased the message."""

    found: tuple[Match, ...]
    erased: bool
    candidates: tuple[Candidate, ...]
    csi_source: str
    post_eq_snr_db: float

    @property
    def rank(self) -> int | None:
        """Place of the first right item, None if there is none among those found."""
        return next((i for i, one in enumerate(self.found, 1) if one.right), None)


@dataclass(frozen=True, slots=True)
class Query:
    """A query by text. ``right``: the gallery's items that answer it, in the gallery's order."""

    text: str
    right: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A task's queries and, of each method, the answers in the same order. ``links``: the link seed of each query."""

    task: str
    corpus: str
    queries: tuple[Query, ...]
    answers: Mapping[str, tuple[QueryResult, ...]]
    links: tuple[int, ...]


def _key(request: transmitter_pb2.RetrieveRequest) -> str:
    return blake2b(request.SerializeToString(deterministic=True), digest_size=16).hexdigest()


def _answers(text: str) -> list[transmitter_pb2.Answer]:
    return list(transmitter_pb2.RetrieveResponse.FromString(base64.b64decode(text)).answers)


def collect_examples(
    plans: Sequence[Plan],
    console: Console,
    *,
    seed: int = 0,
    top_k: int = 5,
    symbols: int = 64,
    fresh: bool = False,
) -> list[Example]:
    """Send the queries of each plan's sampling by each of its methods, at the first of its SNRs, and let them be found.

    The queries are those that :func:`lab.experiments.retrieval_sweep.draw_queries` draws for ``seed``, on the links
    and in the slots of that seed. What crossed before is taken from ``cache_dir/answers`` unless ``fresh``. Raises
    RuntimeError for a degraded answer: it is no measurement.
    """
    return asyncio.run(_collect_examples(plans, console, seed, top_k, symbols, fresh=fresh))


async def _collect_examples(
    plans: Sequence[Plan], console: Console, seed: int, top_k: int, symbols: int, *, fresh: bool
) -> list[Example]:
    # a whole batch is one request, so that an answer never depends on what it was batched with before
    kept = Cache("answers", __name__, weights=[""]).table("answers")
    system = build_system()
    examples = []
    try:
        with progress() as bar:
            line = bar.add_task("fig11", total=sum(len(plan.methods) for plan in plans))
            for plan in plans:
                texts = draw_queries(plan.sampling, seed).texts
                answers: dict[str, list[transmitter_pb2.Answer]] = {}
                for method in plan.methods:
                    point = replace(plan.point(method, plan.snrs_db[0], plan.bits), symbols=symbols)
                    request = _request(plan, point, seed, top_k, texts)
                    place = _key(request)
                    if fresh or place not in kept:
                        response = await _send(system, plan, request, texts)
                        text = base64.b64encode(response.SerializeToString()).decode()
                        kept.put(text, place)
                    answers[method] = _answers(kept.get(place))
                    bar.advance(line)
                examples.append(_example(plan, seed, answers))
    finally:
        await system.close()
    for example in examples:
        erased = {m: sum(a.erased for a in found) for m, found in example.answers.items()}
        if any(erased.values()):
            console.print(f"{example.task}: erased by the channel: {erased}", markup=False)
    return examples


def _request(
    plan: Plan, point: Point, seed: int, top_k: int, texts: Iterable[str]
) -> transmitter_pb2.RetrieveRequest:
    sampling = plan.sampling
    return transmitter_pb2.RetrieveRequest(
        queries=[
            transmitter_pb2.Query(
                id=str(number),
                task=sampling.task,
                text=text,
                method=point.scheme.method,
                top_k=top_k,
                symbols=point.symbols,
                seed=sampling.query_seed(seed, number),
                link_config=point.link(sampling.link_seed(seed, number)).to_proto(),
            )
            for number, text in enumerate(texts)
        ]
    )


async def _send(
    system: System,
    plan: Plan,
    request: transmitter_pb2.RetrieveRequest,
    texts: Iterable[str],
) -> transmitter_pb2.RetrieveResponse:
    prepare = study(plan).prepare
    if prepare is not None:
        cached_rewrites = await asyncio.to_thread(prepare, texts)
        await system.store.put_knowledge(dict(cached_rewrites))
    response = await system.transmitter.retrieve(request)
    degraded = [d for answer in response.answers for d in answer.degraded]
    if degraded:
        raise RuntimeError(f"a degraded answer is no measurement: {degraded[0]}")
    for answer in response.answers:
        # How long it took is not part of what was found.
        del answer.timings[:]
    return response


def _example(
    plan: Plan, seed: int, answers: Mapping[str, Sequence[transmitter_pb2.Answer]]
) -> Example:
    sampling = plan.sampling
    queries = draw_queries(sampling, seed)
    corpus = sampling.corpus_name
    item_ids = GalleryEmbeddings.load(corpus).item_ids
    asked = tuple(
        Query(text, tuple(i for i, right in zip(item_ids, row, strict=True) if right))
        for text, row in zip(queries.texts, queries.relevant, strict=True)
    )
    return Example(
        task=sampling.task,
        corpus=corpus,
        queries=asked,
        answers={
            method: tuple(_query_result(a, q) for a, q in zip(found, asked, strict=True))
            for method, found in answers.items()
        },
        links=tuple(sampling.link_seed(seed, number) for number in range(len(asked))),
    )


def _query_result(answer: transmitter_pb2.Answer, asked: Query) -> QueryResult:
    return QueryResult(
        found=tuple(
            Match(m.item_id, tuple(m.captions), m.score, m.item_id in asked.right)
            for m in answer.matches
        ),
        erased=answer.link.erased,
        candidates=tuple(
            Candidate(r.text, r.kept, r.similarity, r.reason) for r in answer.rewrites
        ),
        csi_source=answer.csi_source,
        post_eq_snr_db=answer.link.post_eq_snr_db,
    )
