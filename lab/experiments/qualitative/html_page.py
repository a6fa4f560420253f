"""Crossings as a page that needs nothing else: pictures inside, right and wrong marked by more than colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.evaluation.templating import render
from lab.evaluation.word_importance import words_of
from lab.experiments.qualitative.run import HALLUCINATIONS, KINDS, Candidate, Example, Match
from lab.experiments.qualitative.thumbnails import data_uri

Deletion = tuple[str, ...]
"""A line of the deletion test's table."""


@dataclass(frozen=True, slots=True)
class Pictured:
    """A found item with its picture as an URI."""

    item_id: str
    captions: tuple[str, ...]
    score: float
    right: bool
    picture: str


@dataclass(frozen=True, slots=True)
class Way:
    """A query's answer by one method; ``words``: its words with their importance for the item found first."""

    title: str
    rank: int | None
    erased: bool
    csi_source: str
    post_eq_snr_db: float
    found: tuple[Pictured, ...]
    words: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class ShownQuery:
    """A query as shown. ``number``: its place in the draw, from 1; ``wanted``: a picture of a right item."""

    task: str
    corpus: str
    number: int
    text: str
    wanted: str
    ways: tuple[Way, ...]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Queries shown together, and how they came to be shown."""

    title: str
    note: str
    shown: tuple[ShownQuery, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A task's groups, the unchosen first."""

    title: str
    groups: tuple[Group, ...]


def shown_query(
    example: Example,
    number: int,
    titles: Mapping[str, str],
    importances: Mapping[tuple[int, str], NDArray[np.float32]],
) -> ShownQuery:
    """Query ``number`` of a example by the methods of ``titles``, in their order.

    ``importances``: of the words, by number and method, float32 ``[num_words]``; none where nothing was found.
    """
    asked = example.queries[number]
    ways = []
    for method, title in titles.items():
        answer = example.answers[method][number]
        values = importances.get((number, method), np.zeros(0, dtype=np.float32))
        ways.append(
            Way(
                title=title,
                rank=answer.rank,
                erased=answer.erased,
                csi_source=answer.csi_source,
                post_eq_snr_db=answer.post_eq_snr_db,
                found=tuple(_pictured(example.corpus, one) for one in answer.found),
                words=tuple(zip(words_of(asked.text), values.tolist(), strict=False)),
            )
        )
    candidates = [example.answers[method][number].candidates for method in titles]
    return ShownQuery(
        task=example.task,
        corpus=example.corpus,
        number=number + 1,
        text=asked.text,
        wanted=data_uri(example.corpus, asked.right[0]),
        ways=tuple(ways),
        candidates=next((some for some in candidates if some), ()),
    )


def _pictured(corpus: str, one: Match) -> Pictured:
    return Pictured(one.item_id, one.captions, one.score, one.right, data_uri(corpus, one.item_id))


def write_page(path: Path, sections: Sequence[Section], **facts: Any) -> None:
    """A page that needs nothing else; ``facts``: what the template asks for beside the sections."""
    page = render(
        "fig11.html.j2",
        sections=sections,
        kinds=KINDS,
        hallucinations=HALLUCINATIONS,
        top_k=facts["plan"].top_k,
        **facts,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)
