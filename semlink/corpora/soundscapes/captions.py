"""Five captions of a scene, in varied wording. Our definition.

A caption names every event in order of time (but for the pattern "B after A"), most counts, loudnesses and lengths, and
nearly always the bed. Words are drawn by the item's own generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from semlink.corpora.soundscapes.scene import Draws, Event, Scene

CAPTIONS_PER_SOUND = 5
MIN_WORDS = 6
MAX_WORDS = 25
SHARE_NAMING_COUNT = 0.95
SHARE_NAMING_LOUDNESS = 0.9
SHARE_NAMING_LENGTH = 0.7
SHARE_NAMING_BED = 1.0


@dataclass(frozen=True, slots=True)
class Clause:
    """``subject verb complement``: "a helicopter" "flies" " overhead"; ``gerund`` stands for the verb in noun form."""

    subject: str
    verb: str
    gerund: str
    complement: str = ""


@dataclass(frozen=True, slots=True)
class Noun:
    """``article adjective head``: "the" "loud" "patter of rain". An empty article means none."""

    article: str
    head: str


@dataclass(frozen=True, slots=True)
class Words:
    """How one sound is named. ``plural`` holds heads that follow a number: "dog barks" in "two dog barks"."""

    clauses: tuple[Clause, ...]
    nouns: tuple[Noun, ...]
    plural: tuple[str, ...] = ()


WORDS: Mapping[str, Words] = {
    "dog bark": Words(
        clauses=(Clause("a dog", "barks", "barking"),),
        nouns=(Noun("a", "dog bark"), Noun("a", "bark of a dog"), Noun("a", "bark from a dog")),
        plural=("dog barks", "barks of a dog", "barks from a dog"),
    ),
    "rooster": Words(
        clauses=(
            Clause("a rooster", "crows", "crowing"),
            Clause("a cockerel", "crows", "crowing"),
        ),
        nouns=(Noun("a", "rooster crow"), Noun("a", "crow of a rooster")),
        plural=("rooster crows", "crows of a rooster", "crows from a cockerel"),
    ),
    "person sneeze": Words(
        clauses=(
            Clause("a person", "sneezes", "sneezing"),
            Clause("someone", "sneezes", "sneezing"),
        ),
        nouns=(Noun("a", "sneeze"), Noun("a", "human sneeze")),
        plural=("sneezes", "human sneezes", "sneezes of a person"),
    ),
    "rain": Words(
        clauses=(
            Clause("rain", "falls", "falling"),
            Clause("rain", "patters", "pattering", " down"),
            Clause("the rain", "comes", "coming", " down"),
        ),
        nouns=(Noun("", "rain"), Noun("the", "patter of rain"), Noun("the", "sound of rainfall")),
    ),
    "sea waves": Words(
        clauses=(
            Clause("waves", "wash", "washing", " ashore"),
            Clause("sea waves", "roll", "rolling", " ashore"),
            Clause("ocean waves", "break", "breaking", " on the shore"),
        ),
        nouns=(
            Noun("", "sea waves"),
            Noun("the", "wash of waves"),
            Noun("the", "sound of the sea"),
        ),
    ),
    "baby cry": Words(
        clauses=(
            Clause("a baby", "cries", "crying"),
            Clause("an infant", "cries", "crying"),
            Clause("a baby", "wails", "wailing"),
        ),
        nouns=(Noun("the", "cry of a baby"), Noun("the", "crying of an infant")),
    ),
    "clock tick": Words(
        clauses=(
            Clause("a clock", "ticks", "ticking"),
            Clause("a clock", "ticks", "ticking", " away"),
            Clause("a wall clock", "ticks", "ticking"),
        ),
        nouns=(Noun("the", "ticking of a clock"), Noun("the", "tick-tock of a clock")),
    ),
    "helicopter": Words(
        clauses=(
            Clause("a helicopter", "whirs", "whirring"),
            Clause("a helicopter", "flies", "flying", " overhead"),
            Clause("a helicopter", "hovers", "hovering"),
        ),
        nouns=(Noun("a", "helicopter"), Noun("the", "whir of a helicopter")),
    ),
    "chainsaw": Words(
        clauses=(
            Clause("a chainsaw", "runs", "running"),
            Clause("a chainsaw", "buzzes", "buzzing"),
            Clause("a chainsaw", "cuts", "cutting", " wood"),
        ),
        nouns=(Noun("a", "chainsaw"), Noun("the", "buzz of a chainsaw")),
    ),
    "fire crackling": Words(
        clauses=(
            Clause("a fire", "crackles", "crackling"),
            Clause("a campfire", "crackles", "crackling"),
            Clause("a fire", "burns", "burning"),
        ),
        nouns=(Noun("a", "crackling fire"), Noun("the", "crackle of a fire")),
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
        if way == 0:
            return f"{self._clause_of(base)} while {self._clause_of(other)}"
        if way == 1:
            return f"{self._clause_of(other)} while {self._clause_of(base)}"
        if way == 2:
            return f"{self._clause_of(other)} over {self._noun_of(base)}"
        return f"{self._clause_of(base)} as {self._clause_of(other)}"

    def noun(self, number: int) -> str:
        """Group ``number`` as a noun phrase."""
        group = self.scene.groups[number]
        if len(group) == 1:
            return self._noun_of(group[0])
        base, other = group
        way = self.draws.below(3)
        if way == 0:
            return f"{self._noun_of(other)} over {self._noun_of(base)}"
        if way == 1:
            return f"{self._noun_of(base)} together with {self._noun_of(other)}"
        return f"{self._noun_of(base)} mixed with {self._noun_of(other)}"

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
            number = ""
            if self._names(SHARE_NAMING_COUNT):
                number = NUMBERS[event.count] + " "
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
        way = self.draws.below(5)
        if way == 0:
            return f"{sentence}, with {named} in the background"
        if way == 1:
            return f"{sentence}, all while {finite} in the background"
        if way == 2:
            return f"with {named} in the background, {sentence}"
        if way == 3:
            return f"while {finite} throughout, {sentence}"
        return f"{sentence}, with {clause.subject} {clause.gerund}{clause.complement} throughout"


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
    text = f"after {writer.noun(0)}, {writer.clause(1)}"
    last = len(writer.scene.groups) - 1
    for number in range(2, last + 1):
        text += f", {'and ' if number == last else ''}then {writer.clause(number)}"
    return text


def _turned(writer: Writer) -> str:
    """B falls after A, and then C crows: the one pattern that names the second event first."""
    last = len(writer.scene.groups) - 1
    text = f"{writer.clause(1)} right after {writer.noun(0)}"
    for number in range(2, last + 1):
        text += f", {'and ' if number == last else ''}then {writer.clause(number)}"
    return text


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
    last = len(writer.scene.groups) - 1
    text = f"{writer.clause(0)} before {writer.clause(1)}"
    for number in range(2, last + 1):
        text += f", {'and ' if number == last else ''}then {writer.clause(number)}"
    return text


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
