"""Which sentences of a text are sent: batched over whatever queries are there."""

from __future__ import annotations

from dataclasses import dataclass

from semlink.grouping import run_grouped
from semlink.semantics.sentences import ScoredSentence, extract


@dataclass(frozen=True, slots=True)
class Passage:
    """A text to choose from: the rule, the space whose student scores ("" without), κ (0: as validated)."""

    text: str
    rule: str
    student: str
    key_sentences: int


def extract_batch(passages: list[Passage], device: str = "cpu") -> list[list[ScoredSentence]]:
    """The sentences of each passage, scored, at least one kept; in order."""
    return run_grouped(
        passages,
        lambda passage: (passage.rule, passage.student, passage.key_sentences),
        lambda alike: extract(
            [passage.text for passage in alike],
            alike[0].rule,
            space=alike[0].student,
            key_sentences=alike[0].key_sentences,
            device=device,
        ),
    )
