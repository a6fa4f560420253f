"""What a caption says, read by the lexicon: things, their attributes and places, negations, sounds in order.

Our definition, shared by the attribute test of :mod:`kb_service.filtering` and by the prompts that list what must stay.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from kb_service import lexicon
from kb_service.event_order import EventTimeline, Token, event_timeline

WORD: Final = re.compile(r"[a-z0-9]+(?:[-'][a-z0-9]+)*|[,.;]")
_NUMBERS: Final = "two three four five six seven eight nine ten"
_DIGITS: Final = {str(i): word for i, word in enumerate(_NUMBERS.split(), 2)}
_NEGATION_REACH: Final = 3
"""Words after "without" in which what is denied may stand."""
_NEGATION_ENDS: Final = frozenset({",", ".", ";", "but", "while", "then", "with", "wearing"})
_SIDES: Final = frozenset({"on the left", "on the right"})
_GRAMMAR: Final = lexicon.NEUTRAL | lexicon.BREAKS | lexicon.COPULAS | lexicon.NEGATIONS
_LONGEST: Final = max(map(len, lexicon.CONCEPT_OF))


@dataclass(frozen=True, slots=True)
class Reading:
    """What a caption says, as concepts of the lexicon.

    ``affirmed`` and ``denied`` map a concept to the word that names it; ``belongs`` maps (modifier, thing) pairs to
    their words; ``single``: the things of which there is one; ``placed``: (thing, relation, thing); ``timeline``: what
    is heard when; ``times``: how often each concept is named; ``joined``: who stands beside another of the same name;
    ``others``: words that no table holds and that are not neutral; ``sides``: what is "on the left", "on the right".
    """

    affirmed: Mapping[str, str]
    denied: Mapping[str, str]
    belongs: Mapping[tuple[str, str], str]
    single: frozenset[str]
    placed: frozenset[tuple[str, str, str]]
    timeline: EventTimeline
    times: Counter[str]
    joined: frozenset[str]
    others: tuple[str, ...]
    sides: Mapping[str, set[tuple[str, str]]]

    @property
    def beside(self) -> set[tuple[str, str]]:
        """Things and the sides on which they are."""
        pairs = [(a, c) for a, relation, c in self.placed if relation == "left of"]
        return {(a, "on the left") for a, _ in pairs} | {(c, "on the right") for _, c in pairs}


@lru_cache(maxsize=4096)
def read(caption: str) -> Reading:
    """Read a caption by the lexicon."""
    tokens = _tokens(caption)
    affirmed: dict[str, str] = {}
    denied: dict[str, str] = {}
    times: Counter[str] = Counter()
    joined: set[str] = set()
    sides: dict[str, set[tuple[str, str]]] = {}
    denied_until = -1
    for place, token in enumerate(tokens):
        if token.text in lexicon.NEGATIONS:
            denied_until = place + _NEGATION_REACH
        elif token.text in _NEGATION_ENDS:
            denied_until = -1
        concept = token.concept
        if not concept:
            if bare := _denied_by_ending(token.text):
                denied.setdefault(bare, token.text)
            continue
        if _says_nothing(tokens, place):
            continue
        if concept in _SIDES:
            sides.setdefault(concept, set()).add((_subject(tokens[:place]), concept))
        if place <= denied_until:
            denied.setdefault(concept, token.text)
            if token.kind in lexicon.THINGS:
                denied_until = -1
            continue
        affirmed.setdefault(concept, token.text)
        if times[concept] and _is_beside(tokens, place):
            joined.add(concept)
        times[concept] += 1
    # What is "over" another sound is louder, not higher.
    has_sounds = any(lexicon.class_of(concept) == "sound" for concept in affirmed)
    return Reading(
        affirmed,
        denied,
        belongs=_belongings(tokens),
        single=_single(tokens),
        placed=frozenset() if has_sounds else _places(tokens),
        timeline=event_timeline(tokens) if has_sounds else EventTimeline(),
        times=times,
        joined=frozenset(joined),
        others=tuple(word for token in tokens if not token.concept for word in _unknown(token)),
        sides=sides,
    )


@lru_cache(maxsize=4096)
def closure(concept: str) -> frozenset[str]:
    """The concept and all that it entails."""
    found: set[str] = set()
    todo = [concept]
    while todo:
        narrow = todo.pop()
        if narrow not in found:
            found.add(narrow)
            todo += lexicon.BROADER.get(narrow, ())
    return frozenset(found)


def same_thing(a: str, b: str) -> bool:
    """Whether one of two concepts entails the other."""
    return a in closure(b) or b in closure(a)


def _unknown(token: Token) -> list[str]:
    """Words of a token that neither the tables nor the list of neutral words hold."""
    parts = [part for word in token.words for part in re.split(r"[-']", word)]
    return [
        part
        for part in parts
        if len(part) > 2
        and part not in _GRAMMAR
        and not _concept((part,))
        and not _denied_by_ending(part)
    ]


def _denied_by_ending(word: str) -> str:
    """The concept that "hatless" denies, "" if there is none."""
    return _concept((word.removesuffix("less"),)) if word.endswith("less") else ""


def _says_nothing(tokens: Sequence[Token], place: int) -> bool:
    """The pair in "a pair of trousers"; the top in "on top of"; how a thing, not a person, is where it is."""
    token = tokens[place]
    if [t.text for t in tokens[max(0, place - 1) : place + 2]] == ["on", "top", "of"]:
        return True
    if token.concept in lexicon.POSTURES:
        return not _is_of_person(tokens, place)
    if token.kind == "position":
        if token.text == "in the background":
            return any(t.kind == "sound" for t in tokens)  # part of the order in time
        # "on the left of" is a relation, read elsewhere; "on the side of" is not.
        return token.concept in _SIDES and _text_at(tokens, place + 1) == "of"
    return _is_pair_of_garments(tokens, place)


def _text_at(tokens: Sequence[Token], place: int) -> str:
    return tokens[place].text if place < len(tokens) else ""


def _kind_at(tokens: Sequence[Token], place: int) -> str:
    return tokens[place].kind if place < len(tokens) else ""


def _is_beside(tokens: Sequence[Token], place: int) -> bool:
    """ "… walking along a thin woman": a person after "a" and a word of company."""
    if "person" not in closure(tokens[place].concept):
        return False
    before = place - 1
    while before > 0 and tokens[before].kind in lexicon.MODIFIERS:
        before -= 1
    article, company = tokens[before].text, tokens[before - 1].text if before else ""
    return article in {"a", "an", "another"} and company in lexicon.COMPANY


def _is_of_person(tokens: Sequence[Token], place: int) -> bool:
    """Whether the verb at ``place`` has a person for its subject: the last thing named, or the first to come."""
    before = [t for t in tokens[:place] if t.kind in lexicon.THINGS]
    after = [t for t in tokens[place:] if t.kind in lexicon.THINGS]
    if any("person" in closure(t.concept) for t in before) and before[-1].kind in lexicon.WORN:
        return True
    return any("person" in closure(t.concept) for t in (before[-1:] or after[:1]))


def _single(tokens: Sequence[Token]) -> frozenset[str]:
    """Things of which there is one, "a red car" or "barks once"; not "a pair of cars", nor "a dog" that barks twice."""
    found: set[str] = set()
    article = ""
    for place, token in enumerate(tokens):
        if token.text in {"a", "an", "one", "single"}:
            article = token.text
        elif token.text == "once":
            sound = _last_sound(tokens[:place])
            found |= {sound.concept} if sound else set()
        elif token.kind == "count" or token.text in lexicon.BREAKS or token.text == ",":
            article = ""
        elif article and token.kind in lexicon.THINGS and not _is_compound(tokens, place):
            if token.kind != "sound" or article in {"one", "single"}:
                found.add(token.concept)
            article = ""
    return frozenset(found)


def _last_sound(tokens: Sequence[Token]) -> Token | None:
    return next((t for t in reversed(tokens) if t.kind == "sound"), None)


def _belongings(tokens: Sequence[Token]) -> dict[tuple[str, str], str]:
    """Bind modifiers to the thing that follows them, or, after "is", to the one before."""
    found: dict[tuple[str, str], str] = {}

    def bind(modifier: Token, thing: Token) -> None:
        words = f"{modifier.text} {thing.text}"
        found.setdefault((modifier.concept, thing.concept), words)

    waiting: list[Token] = []
    thing: Token | None = None
    since: list[str] = []  # words since that thing
    skipped = 0
    for place, token in enumerate(tokens):
        kind = token.kind
        if _is_pair_of_garments(tokens, place):
            continue
        if kind == "count" and _is_multiplicative(token):
            if sound := _last_sound(tokens[:place]):
                bind(token, sound)
        elif kind in lexicon.MODIFIERS and not _names_pattern(tokens, place):
            after_copula = not waiting and _follows_copula(since)
            if thing and after_copula and _is_predicate(tokens, place):
                bind(token, thing)
                continue
            waiting.append(token)
            skipped = 0
        elif kind in lexicon.THINGS or kind == "pattern":
            if _is_compound(tokens, place):
                continue  # "two dog barks": the modifier is the last noun's
            for modifier in waiting:
                bind(modifier, token)
            waiting = []
            if kind == "pattern" and thing and thing.kind == "garment":
                bind(token, thing)
            else:
                thing, since = token, []
            continue
        elif token.text == "of" and waiting and tokens[place - 1] is waiting[-1]:
            pass  # "a pair of green trees"
        elif token.text in lexicon.BREAKS:
            waiting = []
        elif token.text not in {"and", ",", "or"}:
            skipped += 1
            if skipped > 2:
                waiting = []
        if [t.text for t in tokens[place : place + 2]] != ["in", "front"]:
            since.append(token.text)
    return found


def _is_pair_of_garments(tokens: Sequence[Token], place: int) -> bool:
    """ "a pair of trousers" counts no trousers."""
    if tokens[place].text != "pair" or _text_at(tokens, place + 1) != "of":
        return False
    nouns = (t for t in tokens[place + 2 :] if t.concept and t.kind not in lexicon.MODIFIERS)
    noun = next(nouns, None)
    return noun is not None and bool(closure(noun.concept) & lexicon.PAIRED)


def _is_compound(tokens: Sequence[Token], place: int) -> bool:
    """ "dog barks" in "two dog barks", not in "two dogs bark"."""
    word = tokens[place].words[-1]
    plural = word.endswith("s") and (word,) not in lexicon.CONCEPT_OF
    return not plural and _kind_at(tokens, place + 1) in lexicon.THINGS


def _is_predicate(tokens: Sequence[Token], place: int) -> bool:
    """Whether the modifiers from ``place`` on stand alone ("hair is long and blond"), not before a thing."""
    for token in tokens[place:]:
        if token.kind in lexicon.THINGS or token.kind == "pattern":
            return False
        modifies = token.kind in lexicon.MODIFIERS or token.kind == "loudness"
        if not modifies and token.text not in {"and", "of"}:
            return True
    return True


def _follows_copula(since: Sequence[str]) -> bool:
    """Whether the last words are "is" and what may stand between it and a modifier: "is long and", not "is near"."""
    words = (w for w in reversed(since) if w in lexicon.COPULAS or w in lexicon.BREAKS)
    return next(words, "") in lexicon.COPULAS


def _is_multiplicative(token: Token) -> bool:
    return token.text in {"twice", "thrice"} or token.words[-1] in {"times", "time"}


def _names_pattern(tokens: Sequence[Token], place: int) -> bool:
    """ "white dots", "a logo": the pattern as a noun, not before the thing that has it."""
    adjectives = {"striped", "checked", "plaid", "hooded"}
    if tokens[place].kind != "pattern" or tokens[place].words[-1] in adjectives:
        return False
    return _kind_at(tokens, place + 1) not in lexicon.THINGS | lexicon.MODIFIERS


def _places(tokens: Sequence[Token]) -> frozenset[tuple[str, str, str]]:
    """(thing, relation, thing) of every phrase of place."""
    words = [w for token in tokens for w in token.words]
    owners = [token for token in tokens for _ in token.words]
    found: set[tuple[str, str, str]] = set()
    for place in range(len(words)):
        for length in range(1, lexicon.LONGEST_RELATION + 1):
            phrase = tuple(words[place : place + length])
            if len(phrase) < length or phrase not in lexicon.RELATIONS:
                continue
            relation, reverse = lexicon.RELATIONS[phrase]
            before, following = _subject(owners[:place]), owners[place + length :]
            after = _first_thing(following, frozenset({".", ";", ","}))
            if length == 1 and phrase[0] in lexicon.SUPPORTS:
                after = _supporting(before, following)
                if relation == "wearing" and lexicon.class_of(after) not in {"object", "animal"}:
                    after = ""
                if _text_at(following, 0) in {"it", "them", "its"}:
                    after = _first_thing(t for t in reversed(owners[:place]) if t.concept != before)
            if before and after and not same_thing(before, after):
                first, second = (after, before) if reverse else (before, after)
                found.add((first, relation, second))
    return frozenset(found)


def _supporting(before: str, following: Sequence[Token]) -> str:
    """What something is on, over or in, "" for places, and for what is worn or used rather than a place."""
    if [t.text for t in following[:2]] == ["top", "of"]:
        return ""  # a phrase of its own
    for token in following:
        if token.kind in lexicon.THINGS:
            of_person = "person" in closure(before) or lexicon.class_of(before) in lexicon.WORN
            worn = of_person and token.kind in lexicon.WORN
            return "" if worn or token.concept == "phone" else token.concept
        modifies = token.kind in lexicon.MODIFIERS
        if not modifies and token.text not in {"a", "an", "the", "of", "and"}:
            return ""
    return ""


def _subject(tokens: Sequence[Token]) -> str:
    """The thing whose place is stated: the last one named, or whoever wears it."""
    thing = _first_thing(reversed(tokens))
    if lexicon.class_of(thing) in lexicon.WORN:
        wearer = (t.concept for t in reversed(tokens) if "person" in closure(t.concept))
        return next(wearer, thing)
    return thing


def _first_thing(tokens: Iterable[Token], ends: frozenset[str] = frozenset({".", ";"})) -> str:
    """Concept of the first thing or place before the sentence ends, "" if there is none."""
    for token in tokens:
        if token.text in ends:
            return ""
        if token.kind in lexicon.THINGS or token.kind == "place":
            return token.concept
    return ""


def _tokens(caption: str) -> list[Token]:
    """Words and phrases of the lexicon, longest first."""
    words = [_DIGITS.get(w, w) for w in WORD.findall(caption.lower().replace("’", "'"))]
    tokens: list[Token] = []
    place = 0
    while place < len(words):
        for length in range(min(_LONGEST, len(words) - place), 0, -1):
            phrase = tuple(words[place : place + length])
            concept = _concept(phrase)
            if concept or length == 1:
                tokens.append(Token(phrase, concept))
                place += length
                break
    return tokens


@lru_cache(maxsize=16384)
def _concept(phrase: tuple[str, ...]) -> str:
    """Concept of a phrase whose last word may be inflected, "" if the lexicon does not hold it."""
    for last in _lemmas(phrase[-1]):
        found = lexicon.CONCEPT_OF.get((*phrase[:-1], last))
        if found:
            return found
    for last in _verb_lemmas(phrase[-1]):
        found = lexicon.CONCEPT_OF.get((*phrase[:-1], last), "")
        # "dressed" is no dress and "tied" no tie.
        if lexicon.class_of(found) in lexicon.VERBS:
            return found
    return ""


def _lemmas(word: str) -> list[str]:
    """The word and what it may be the plural or third person of, the likeliest first."""
    forms = [word]
    if word in lexicon.IRREGULAR:
        forms.append(lexicon.IRREGULAR[word])
    return forms + _without(word, (("ies", ("y",)), ("es", ("", "e")), ("s", ("",))))


def _verb_lemmas(word: str) -> list[str]:
    """What the word may be a participle or past tense of."""
    forms = _without(word, (("ing", ("", "e")), ("ed", ("", "e"))))
    return forms + [f[:-1] for f in forms if len(f) > 3 and f[-1] == f[-2]]


def _without(word: str, endings: tuple[tuple[str, tuple[str, ...]], ...]) -> list[str]:
    return [
        word.removesuffix(ending) + replacement
        for ending, replacements in endings
        if word.endswith(ending) and len(word) > len(ending) + 2
        for replacement in replacements
    ]
