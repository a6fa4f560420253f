"""Split a text into sentences."""

from __future__ import annotations

import re
from typing import Final

import sentencex  # type: ignore[import-untyped]

WORD: Final = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_BULLET: Final = re.compile(r"^\s*(?:[-*•‣◦▪●–—]|\(?\d{1,3}[.)]|\(?[a-z]\))\s+")
_WRAPPED: Final = 60
"""Characters from which on a line may have been wrapped; short ones in lower case are lines of a list or a chat."""
_CLOSED: Final = re.compile(r"[.!?。！？…｡।॥؟۔።:;][\"'”’»)\]」』]*\s*$")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text in its order, without surrounding space or bullets; each holds a letter or a digit.

    Boundaries within a line are `sentencex`'s (abbreviations, quotes, numbers, the stops of some 300 languages). A line
    break ends a sentence too, unless the line is long and has no stop and the next one goes on in lower case (a wrapped
    line).
    What holds no letter or digit ("…", an emoji) stays with the sentence before it. A text without any stop is one
    sentence, a text of nothing but signs too; a blank text has none.
    """
    found: list[str] = []
    loose = ""
    for line in _unwrapped(text):
        for part in sentencex.segment("en", line):
            sentence = part.strip()
            if not sentence:
                continue
            if WORD.search(sentence):
                found.append(f"{loose} {sentence}".strip())
                loose = ""
            elif found:
                found[-1] += f" {sentence}"
            else:
                loose = f"{loose} {sentence}".strip()
    return found or ([loose] if loose else [])


def _unwrapped(text: str) -> list[str]:
    """Lines without bullets; a line that another one was wrapped into is one with it."""
    lines: list[str] = []
    joinable = False
    for raw in text.splitlines():
        bare = _BULLET.sub("", raw).strip()
        bulleted = bool(_BULLET.match(raw))
        if bare and joinable and not bulleted and bare[0].islower():
            lines[-1] += f" {bare}"
        elif bare:
            lines.append(bare)
        joinable = len(bare) >= _WRAPPED and not _CLOSED.search(bare)
    return lines
