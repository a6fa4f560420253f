"""Which sentences of a text are sent: batched over whatever queries are there."""

from __future__ import annotations

from dataclasses import dataclass

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
    groups: dict[tuple[str, str, int], list[int]] = {}
    for i, passage in enumerate(passages):
        groups.setdefault((passage.rule, passage.student, passage.key_sentences), []).append(i)
    extracted: dict[int, list[ScoredSentence]] = {}
    for (rule, student, key_sentences), members in groups.items():
        found = extract(
            [passages[i].text for i in members],
            rule,
            space=student,
            key_sentences=key_sentences,
            device=device,
        )
        extracted |= dict(zip(members, found, strict=True))
    return [extracted[i] for i in range(len(passages))]
