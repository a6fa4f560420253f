"""Five captions of a scene, in varied wording. Our definition.

A caption names every event in order of time (but for the pattern "B after A"), most counts, loudnesses and lengths, and
nearly always the bed. Words are drawn by the item's own generator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from semlink.corpora.soundscapes.scene import Draws, Event, Scene

CAPTIONS_PER_SOUND = 5
MIN_WORDS = 6
MAX_WORDS = 25
SHARE_NAMING_COUNT = 0.95
SHARE_NAMING_LOUDNESS = 0.9
SHARE_NAMING_LENGTH = 0.7
SHARE_NAMING_BED = 1.0


class Clause(NamedTuple):
    """``subject verb complement``: "a helicopter" "flies" " overhead"; ``gerund`` stands for the verb in noun form."""

    subject: str
    verb: str
    gerund: str
    complement: str


class Noun(NamedTuple):
    """``article adjective head``: "the" "loud" "patter of rain". An empty article means none."""

    article: str
    head: str


class Words:
    """How one sound is named.

    :param clauses: "a helicopter flies/flying overhead": verb and gerund stand side by side.
    :param nouns: with or without an article.
    :param plural: heads that follow a number: "dog barks" in "two dog barks".
    """

    def __init__(
        self, clauses: Sequence[str], nouns: Sequence[str], plural: Sequence[str] = ()
    ) -> None:
        self.clauses = [Clause(*_CLAUSE.findall(clause)[0]) for clause in clauses]
        self.nouns = [Noun(*_NOUN.findall(noun)[0]) for noun in nouns]
        self.plural = plural


_CLAUSE = re.compile(r"(.+) (\w+)/(\w+)(.*)")
_NOUN = re.compile(r"(?:(a|the) )?(.+)")

WORDS: Mapping[str, Words] = {
    "dog bark": Words(
        ["a dog barks/barking"],
        ["a dog bark", "a bark of a dog", "a bark from a dog"],
        ["dog barks", "barks of a dog", "barks from a dog"],
    ),
    "rooster": Words(
        ["a rooster crows/crowing", "a cockerel crows/crowing"],
        ["a rooster crow", "a crow of a rooster"],
        ["rooster crows", "crows of a rooster", "crows from a cockerel"],
    ),
    "person sneeze": Words(
        ["a person sneezes/sneezing", "someone sneezes/sneezing"],
        ["a sneeze", "a human sneeze"],
        ["sneezes", "human sneezes", "sneezes of a person"],
    ),
    "rain": Words(
        ["rain falls/falling", "rain patters/pattering down", "the rain comes/coming down"],
        ["rain", "the patter of rain", "the sound of rainfall"],
    ),
    "sea waves": Words(
        [
            *("waves wash/washing ashore", "sea waves roll/rolling ashore"),
            "ocean waves break/breaking on the shore",
        ],
        ["sea waves", "the wash of waves", "the sound of the sea"],
    ),
    "baby cry": Words(
        ["a baby cries/crying", "an infant cries/crying", "a baby wails/wailing"],
        ["the cry of a baby", "the crying of an infant"],
    ),
    "clock tick": Words(
        ["a clock ticks/ticking", "a clock ticks/ticking away", "a wall clock ticks/ticking"],
        ["the ticking of a clock", "the tick-tock of a clock"],
    ),
    "helicopter": Words(
        [
            *("a helicopter whirs/whirring", "a helicopter flies/flying overhead"),
            "a helicopter hovers/hovering",
        ],
        ["a helicopter", "the whir of a helicopter"],
    ),
    "chainsaw": Words(
        ["a chainsaw runs/running", "a chainsaw buzzes/buzzing", "a chainsaw cuts/cutting wood"],
        ["a chainsaw", "the buzz of a chainsaw"],
    ),
    "fire crackling": Words(
        ["a fire crackles/crackling", "a campfire crackles/crackling", "a fire burns/burning"],
        ["a crackling fire", "the crackle of a fire"],
    ),
}

TIMES = {1: "once", 2: "twice", 3: "three times", 4: "four times"}
NUMBERS = {1: "single", 2: "two", 3: "three", 4: "four"}
LOUD_ADVERBS = {"loud": ("loudly", "noisily"), "faint": ("faintly", "quietly", "softly")}
LOUD_ADJECTIVES = {"loud": ("loud",), "faint": ("faint", "quiet", "soft")}
LENGTH_ADVERBS = {
    "short": ("briefly", "for a moment"),
    "long": ("for a long time", "for several seconds", "for a long while"),
}


class Writer:
    """Writes captions of one scene with one generator."""

    def __init__(self, scene: Scene, draws: Draws) -> None:
        self.scene = scene
        self.draws = draws
        self.naming = 1.0
        """Scales the chance that an attribute is named; falls while a caption is too long."""

    def captions(self) -> tuple[str, ...]:
        """Five different captions of 6–25 words."""
        patterns = self.draws.shuffled(PATTERNS)
        written: list[str] = []
        turn = 0
        while len(written) < CAPTIONS_PER_SOUND:
            caption = self._caption(patterns[turn % len(patterns)])
            turn += 1
            if caption is not None and caption not in written:
                written.append(caption)
        return tuple(written)

    def _caption(self, pattern: Callable[[Writer], str]) -> str | None:
        """One caption by ``pattern``, or None if it cannot be said in the allowed number of words."""
        bed = self.scene.bed is not None and self.draws.chance(SHARE_NAMING_BED)
        for self.naming in (1.0, 1.0, 0.7, 0.4, 0.2, 0.0, 0.0, 0.0):
            sentence = pattern(self)
            if bed and self.scene.bed is not None:
                sentence = self._with_bed(sentence, self.scene.bed)
            if MIN_WORDS <= sentence.count(" ") + 1 <= MAX_WORDS:
                return sentence[0].upper() + sentence[1:] + "."
        return None

    def clause(self, number: int) -> str:
        """Group ``number`` as a clause with a finite verb."""
        group = self.scene.groups[number]
        if len(group) == 1:
            return self._clause_of(group[0])
        base, other = group
        way = self.draws.below(4)
        if way == 2:
            return f"{self._clause_of(other)} over {self._noun_of(base)}"
        first, second = (other, base) if way == 1 else (base, other)
        joint = "as" if way == 3 else "while"
        return f"{self._clause_of(first)} {joint} {self._clause_of(second)}"

    def noun(self, number: int) -> str:
        """Group ``number`` as a noun phrase."""
        group = self.scene.groups[number]
        if len(group) == 1:
            return self._noun_of(group[0])
        base, other = group
        way = self.draws.below(3)
        first, second = (other, base) if way == 0 else (base, other)
        joint = ("over", "together with", "mixed with")[way]
        return f"{self._noun_of(first)} {joint} {self._noun_of(second)}"

    def _clause_of(self, event: Event) -> str:
        words = self.draws.one_of(WORDS[event.sound].clauses)
        return f"{words.subject} {words.verb}{words.complement}{self._adverbs(event)}"

    def _noun_of(self, event: Event) -> str:
        words = WORDS[event.sound]
        names_length = event.length in LENGTH_ADVERBS and self._names(SHARE_NAMING_LENGTH)
        if names_length or self.draws.chance(0.35):
            clause = self.draws.one_of(words.clauses)
            adverbs = self._adverbs(event, names_length=names_length)
            return f"{clause.subject} {clause.gerund}{clause.complement}{adverbs}"
        adjective = ""
        if event.loudness in LOUD_ADJECTIVES and self._names(SHARE_NAMING_LOUDNESS):
            adjective = self.draws.one_of(LOUD_ADJECTIVES[event.loudness]) + " "
        if event.count is not None and event.count > 1:
            number = f"{NUMBERS[event.count]} " if self._names(SHARE_NAMING_COUNT) else ""
            return f"{number}{adjective}{self.draws.one_of(words.plural)}"
        noun = self.draws.one_of(words.nouns)
        article = noun.article + " " if noun.article else ""
        if event.count == 1 and self.draws.chance(0.4):
            article += NUMBERS[1] + " "
        return f"{article}{adjective}{noun.head}"

    def _adverbs(self, event: Event, *, names_length: bool | None = None) -> str:
        adverbs = ""
        if event.loudness in LOUD_ADVERBS and self._names(SHARE_NAMING_LOUDNESS):
            adverbs += " " + self.draws.one_of(LOUD_ADVERBS[event.loudness])
        if event.count is not None and self._names(SHARE_NAMING_COUNT):
            adverbs += " " + TIMES[event.count]
        if event.length in LENGTH_ADVERBS:
            if names_length is None:
                names_length = self._names(SHARE_NAMING_LENGTH)
            if names_length:
                # "softly for a moment", but not "softly briefly".
                ways = LENGTH_ADVERBS[event.length][1 if adverbs else 0 :]
                adverbs += " " + self.draws.one_of(ways)
        return adverbs

    def _names(self, share: float) -> bool:
        return self.draws.unit() < share * self.naming

    def _with_bed(self, sentence: str, bed: Event) -> str:
        words = WORDS[bed.sound]
        clause = self.draws.one_of(words.clauses)
        noun = self.draws.one_of(words.nouns)
        named = f"{noun.article} {noun.head}" if noun.article else noun.head
        finite = f"{clause.subject} {clause.verb}{clause.complement}"
        ways = (
            f"{sentence}, with {named} in the background",
            f"{sentence}, all while {finite} in the background",
            f"with {named} in the background, {sentence}",
            f"while {finite} throughout, {sentence}",
            f"{sentence}, with {clause.subject} {clause.gerund}{clause.complement} throughout",
        )
        return self.draws.one_of(ways)


def _then(writer: Writer) -> str:
    """The clauses of the third group and of those after it."""
    last = len(writer.scene.groups) - 1
    numbers = range(2, last + 1)
    return "".join(f", {'and ' if n == last else ''}then {writer.clause(n)}" for n in numbers)


def _in_order(writer: Writer) -> str:
    """A barks, then B falls, and finally C crows."""
    last = len(writer.scene.groups) - 1
    text = writer.clause(0)
    for number in range(1, last):
        joint = writer.draws.one_of((", then", ", next", ", after that"))
        text += f"{joint} {writer.clause(number)}"
    joint = writer.draws.one_of((", then", ", and then", ", and finally" if last > 1 else ", then"))
    return f"{text}{joint} {writer.clause(last)}"


def _followed_by(writer: Writer) -> str:
    """First A barks, followed by B, then C."""
    last = len(writer.scene.groups) - 1
    text = writer.draws.one_of(("first ", "", "at first "))
    text += f"{writer.clause(0)}, followed by {writer.noun(1)}"
    for number in range(2, last):
        text += f", then {writer.noun(number)}"
    return f"{text} and finally {writer.noun(last)}" if last > 1 else text


def _after(writer: Writer) -> str:
    """After A, B falls, and then C crows."""
    return f"after {writer.noun(0)}, {writer.clause(1)}{_then(writer)}"


def _turned(writer: Writer) -> str:
    """B falls after A, and then C crows: the one pattern that names the second event first."""
    return f"{writer.clause(1)} right after {writer.noun(0)}{_then(writer)}"


def _listed(writer: Writer) -> str:
    """A, then B, and finally C."""
    last = len(writer.scene.groups) - 1
    parts = [writer.noun(number) for number in range(last + 1)]
    joint = writer.draws.one_of(
        (", and finally" if last > 1 else ", then", ", and then", ", followed by")
    )
    return ", then ".join(parts[:last]) + f"{joint} {parts[last]}"


def _recording(writer: Writer) -> str:
    """The recording starts with A, goes on to B and ends with C."""
    last = len(writer.scene.groups) - 1
    what = writer.draws.one_of(("the recording", "the clip", "it"))
    start = writer.draws.one_of(("starts", "begins", "opens"))
    text = f"{what} {start} with {writer.noun(0)}"
    if last > 1:
        text += f", {writer.draws.one_of(('goes on with', 'continues with', 'moves on to'))} "
        text += ", then ".join(writer.noun(number) for number in range(1, last))
    ends = writer.draws.one_of(("ends with", "finishes with"))
    return f"{text}{',' if last > 1 else ''} and {ends} {writer.noun(last)}"


def _heard(writer: Writer) -> str:
    """We hear A, then B, and finally C."""
    who = writer.draws.one_of(("we hear", "one can hear", "you hear"))
    return f"{who} {_listed(writer)}"


def _before(writer: Writer) -> str:
    """A barks before B falls, and then C crows."""
    return f"{writer.clause(0)} before {writer.clause(1)}{_then(writer)}"


PATTERNS: Sequence[Callable[[Writer], str]] = (
    _in_order,
    _followed_by,
    _after,
    _turned,
    _listed,
    _recording,
    _heard,
    _before,
)
