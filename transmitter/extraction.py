"""Which sentences of a text are sent: batched over whatever queries are there."""

from __future__ import annotations

from dataclasses import dataclass

from semlink.grouping import run_grouped
from semlink.semantics.sentences import ScoredSentence, extract
from transmitter.queries import CheckedQuery


@dataclass(frozen=True, slots=True)
class Selected:
    """What of a query is sent. Noise never is: what is left out goes no further, not even to the knowledge base.

    ``text``: of a text all of it, or its ``key_sentences``, where they were chosen among ``sentences``; else "".
    """

    query: CheckedQuery
    text: str
    key_sentences: tuple[str, ...] = ()
    sentences: tuple[ScoredSentence, ...] = ()


def wants_extraction(query: CheckedQuery) -> bool:
    """Whether sentences are chosen."""
    return query.retrieval.extraction != "none"


def whole(query: CheckedQuery) -> Selected:
    """A query of which everything is sent."""
    return Selected(query, query.content if isinstance(query.content, str) else "")


def select(queries: list[CheckedQuery], device: str = "cpu") -> list[Selected]:
    """The key sentences of each text, at least one."""
    return run_grouped(
        queries,
        lambda q: (q.retrieval.extraction, q.student, q.retrieval.key_sentences),
        lambda alike: _select_alike(alike, device),
    )


def _select_alike(queries: list[CheckedQuery], device: str) -> list[Selected]:
    first = queries[0]
    extracted = extract(
        [whole(query).text for query in queries],
        first.retrieval.extraction or "none",
        space=first.student,
        key_sentences=first.retrieval.key_sentences,
        device=device,
    )
    kept = [tuple(s.text for s in sentences if s.kept) for sentences in extracted]
    return [
        Selected(query, " ".join(own), own, tuple(sentences))
        for query, own, sentences in zip(queries, kept, extracted, strict=True)
    ]
