"""What a caption says is heard when: order, background, loudness and length of each sound. Our definition.

``event_timeline`` reads the events of a caption in the order in which they are named and turns them into an order in
time by the words between them: "then" goes on, "B after A" goes back, "A while B" stays, "with A in the background" is
outside the order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from kb_service import lexicon

_ONWARD: Final = frozenset(
    {
        *("then", "next", "followed", "follows", "finally", "afterwards", "later", "before"),
        *("ends", "ending", "finishes", "finishing", "continues", "continuing", "goes", "moves"),
        *("subsequently", "end"),
    }
)
_TOGETHER: Final = frozenset({"while", "as", "over", "together", "mixed", "during", "whilst"})
_BACKGROUND: Final = frozenset({"background", "in the background", "throughout"})


@dataclass(frozen=True, slots=True)
class Token:
    """A word or phrase; ``concept`` is "" where the lexicon does not hold it."""

    words: tuple[str, ...]
    concept: str = ""

    @property
    def text(self) -> str:
        """The words as they stand."""
        return " ".join(self.words)

    @property
    def kind(self) -> str:
        """The class of the concept, "" without one."""
        return lexicon.class_of(self.concept)


@dataclass(frozen=True, slots=True)
class EventTimeline:
    """Pairs of events (earlier, later); events heard together where it is said; those in the background; their manner.

    ``manner`` holds (event, concept of loudness or duration); ``first`` is what the recording is said to start with,
    ``repeated`` what is heard again after something else, ``following`` what is in the background and yet follows.
    """

    order: frozenset[tuple[str, str]] = frozenset()
    together: frozenset[frozenset[str]] = frozenset()
    background: frozenset[str] = frozenset()
    manner: frozenset[tuple[str, str]] = frozenset()
    first: str = ""
    repeated: frozenset[str] = frozenset()
    following: frozenset[str] = frozenset()
    events: frozenset[str] = frozenset()


def contradiction(source_reading: EventTimeline, claimed: EventTimeline) -> str:
    """What the claimed account says that the other does not entail, "" if nothing; events of only one do not count."""
    known = source_reading.events & claimed.events
    for earlier, later in sorted(claimed.order):
        if {earlier, later} <= known and (earlier, later) not in source_reading.order:
            return f"has '{earlier}' before '{later}'"
    if any(later == claimed.first for _, later in source_reading.order):
        return f"starts with '{claimed.first}'"
    for event in sorted(claimed.repeated - source_reading.repeated):
        return f"repeats '{event}'"
    for event in sorted(claimed.following - source_reading.following):
        return f"lets '{event}' follow in the background"
    for event in sorted(claimed.background & known):
        if event not in source_reading.background and any(
            event in pair for pair in source_reading.order
        ):
            return f"puts '{event}' into the background"
    for pair in claimed.together:
        earlier, later = sorted(pair)
        if {(earlier, later), (later, earlier)} & source_reading.order:
            return f"has '{earlier}' and '{later}' at once"
    for event, how in sorted(claimed.manner):
        if event in known and (event, how) not in source_reading.manner:
            return f"says '{how}' of '{event}'"
    return ""


@dataclass(slots=True)
class _Mention:
    event: str
    start: int
    end: int


def event_timeline(tokens: Sequence[Token]) -> EventTimeline:
    """Read a caption's events."""
    mentions = _mentions(tokens)
    background = _in_background(tokens, mentions)
    heard = [m for m in mentions if m.event not in background]
    times: dict[str, float] = {}
    repeated: set[str] = set()
    together: set[frozenset[str]] = set()
    backwards = False
    for number, mention in enumerate(heard):
        words = _between(tokens, heard[number - 1].end if number else -1, mention.start, mentions)
        if number == 0:
            # "Before the rain, a dog barks": what is named next came first.
            backwards = "before" in words
            times[mention.event] = 0.0
            continue
        if mention.event in times:
            if set(words) & _ONWARD:
                repeated.add(mention.event)
            continue
        last = times.get(heard[number - 1].event, max(times.values()))
        if backwards or _goes_back(words):
            times[mention.event] = last - 0.5
        elif set(words) & _TOGETHER and not set(words) & _ONWARD:
            times[mention.event] = last
            together.add(frozenset({heard[number - 1].event, mention.event}))
        elif set(words) & _ONWARD or _opens_with_after(tokens, heard, number):
            times[mention.event] = max(times.values()) + 1.0
        # Else it is listed with others ("a bark, rain and a bell"): nothing is said of when.
        backwards = False
    return EventTimeline(
        frozenset((a, b) for a, at in times.items() for b, bt in times.items() if at < bt),
        frozenset(together),
        frozenset(background),
        frozenset(_manner(tokens, mentions)),
        _opening(tokens, heard),
        frozenset(repeated),
        frozenset(_following(tokens, mentions, background)),
        frozenset(m.event for m in mentions),
    )


def _mentions(tokens: Sequence[Token]) -> list[_Mention]:
    """Stretches of tokens that name one event: "a dog" … "barks"."""
    found: list[_Mention] = []
    for place, token in enumerate(tokens):
        event = lexicon.EVENT_OF.get(token.concept, "")
        if not event and token.concept in _SOUNDS:
            event = token.concept
        if not event:
            continue
        again = {t.text for t in tokens[found[-1].end : place]} & _ONWARD if found else set()
        if found and found[-1].event == event and not again:
            found[-1].end = place
        else:
            found.append(_Mention(event, place, place))
    return found


def _in_background(tokens: Sequence[Token], mentions: Sequence[_Mention]) -> set[str]:
    """Events whose clause ends with "in the background" or "throughout"."""
    found = set()
    for number, mention in enumerate(mentions):
        end = mentions[number + 1].start if number + 1 < len(mentions) else len(tokens)
        for token in tokens[mention.end + 1 : end]:
            if token.text in _BACKGROUND:
                found.add(mention.event)
            if token.text in {",", ".", ";"}:
                break
    return found


def _following(
    tokens: Sequence[Token], mentions: Sequence[_Mention], background: set[str]
) -> Iterator[str]:
    """ "A, followed by B in the background"."""
    for before, mention in pairwise(mentions):
        words = {t.text for t in tokens[before.end + 1 : mention.start]}
        if mention.event in background and words & _ONWARD:
            yield mention.event


def _between(
    tokens: Sequence[Token], start: int, end: int, mentions: Sequence[_Mention]
) -> list[str]:
    """Words between two places, without the clauses of events named between them (those in the background)."""
    inner = [m for m in mentions if start < m.start and m.end < end]
    first = max((m.end for m in inner), default=start)
    head = tokens[start + 1 : inner[0].start] if inner else []
    return [t.text for t in (*head, *tokens[first + 1 : end])]


def _goes_back(words: Sequence[str]) -> bool:
    """ "B right after A", not "after that" and not ", then, after …"."""
    if "after" not in words or set(words) & _ONWARD:
        return False
    place = words.index("after")
    return words[place + 1 : place + 2] != ["that"]


def _opens_with_after(tokens: Sequence[Token], heard: Sequence[_Mention], number: int) -> bool:
    """ "After A, B": or "after that"."""
    words = [t.text for t in tokens[heard[number - 1].end + 1 : heard[number].start]]
    if "after" in words:
        return True
    before = [t.text for t in tokens[: heard[0].start]]
    return number == 1 and "after" in before


def _opening(tokens: Sequence[Token], heard: Sequence[_Mention]) -> str:
    """What "the clip starts with"."""
    if not heard:
        return ""
    words = {t.text for t in tokens[: heard[0].start]}
    return heard[0].event if words & {"starts", "begins", "opens"} else ""


def _manner(tokens: Sequence[Token], mentions: Sequence[_Mention]) -> set[tuple[str, str]]:
    """Loudness and length: an adverb is of the event before it, an adjective of the one after it."""
    found = set()
    for place, token in enumerate(tokens):
        if token.kind not in {"duration", "loudness"}:
            continue
        before = [m for m in mentions if m.start < place]
        after = [m for m in mentions if m.start > place]
        inside = [m for m in mentions if m.start < place <= m.end]
        adverb = token.kind == "duration" or token.words[-1].endswith("ly")
        # "A dog with four loud barks" is one mention.
        owner = inside[0] if inside and not adverb else None
        if owner is None:
            owner = before[-1] if adverb and before else after[0] if after else None
        if owner is None and before:
            owner = before[-1]
        if owner is not None:
            found.add((owner.event, token.concept))
    return found


_SOUNDS: Final = {c for c, kind in lexicon.CLASS_OF.items() if kind == "sound"} - {
    *("strike", "splash", "breathe")
}
