"""Queries and their answers as a page that needs nothing else: right and wrong are marked by more than colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.evaluation.templating import render
from lab.evaluation.word_importance import words_of
from lab.experiments.qualitative.run import HALLUCINATIONS, KINDS, Candidate, Example, QueryResult
from lab.experiments.qualitative.thumbnails import data_uri


@dataclass(frozen=True, slots=True)
class Way:
    """A query's answer by one method; ``words``: its words with their importance for the item found first."""

    title: str
    result: QueryResult
    words: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class ShownQuery:
    """A query as shown. ``number``: its place in the draw, from 0."""

    example: Example
    number: int
    ways: tuple[Way, ...]

    @property
    def text(self) -> str:
        """What is asked."""
        return self.example.queries[self.number].text

    @property
    def wanted(self) -> str:
        """A right item."""
        return self.example.queries[self.number].right[0]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Of the first method that had any."""
        return next((way.result.candidates for way in self.ways if way.result.candidates), ())


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
    """Query ``number`` of an example by the methods of ``titles``, in their order.

    ``importances``: of the words, by number and method, float32 ``[num_words]``; none where nothing was found.
    """
    words, none = words_of(example.queries[number].text), np.zeros(0, dtype=np.float32)
    return ShownQuery(
        example,
        number,
        tuple(
            Way(
                title,
                example.answers[method][number],
                tuple(zip(words, importances.get((number, method), none).tolist(), strict=False)),
            )
            for method, title in titles.items()
        ),
    )


def write_page(path: Path, sections: Sequence[Section], **facts: Any) -> None:
    """A page that needs nothing else; ``facts``: what the template asks for beside the sections."""
    page = render(
        "fig11.html.j2",
        sections=sections,
        picture=data_uri,
        kinds=KINDS,
        hallucinations=HALLUCINATIONS,
        top_k=facts["plan"].top_k,
        **facts,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)
