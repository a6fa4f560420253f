"""CDFC phase 1: which rewrites are kept and why the others are dropped.

Two tests. *Similarity* (arXiv 2604.05504; the threshold α is our definition): a rewrite stays if its sentence embedding
has a cosine of at least α to the source's. *Attributes* (our definition): a rewrite may leave things out, but what
it names — colours, garments, objects, animals, counts, places, views, sounds — must be entailed by the source, must
belong to the same thing, must stand and follow each other as there, and must be denied where the source denies it.
MiniLM hardly tells a red jacket from a black one. The test reads words by a lexicon; a word that neither the lexicon
nor the source holds is news, unless it is one of those that state nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from kb_service import lexicon
from kb_service.event_order import EventTimeline, Token, contradiction, event_timeline
from semlink.v1 import knowledge_pb2

DUPLICATE: Final = "duplicate"
KEPT: Final = "kept"

_WORD = re.compile(r"[a-z0-9]+(?:[-'][a-z0-9]+)*|[,.;]")
_DIGITS = {
    str(i): w
    for i, w in enumerate(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"], 2
    )
}
MAX_REPEATS: Final = 3
"""Times that a rewrite may name a thing beyond its source; a model that runs on and on lists more things than are."""
_NEGATION_REACH = 3
"""Words after "without" in which what is denied may stand."""


def filter_rewrites(
    source: str,
    generated: knowledge_pb2.RewriteSet,
    *,
    min_similarity: float,
    attributes: bool = True,
    complete: bool = False,
) -> knowledge_pb2.RewriteSet:
    """The same rewrites with ``kept`` and ``reason`` set: "kept", "duplicate", "similarity 0.41 < 0.60" or what the
    attribute test objects to ("adds 'leather'"). ``min_similarity`` is α, −1…1; ``attributes`` switches the second
    test on; ``complete`` also drops what leaves something out. Duplicates are those that
    :func:`kb_service.rewriting.mark_duplicates` found.
    """
    judged = knowledge_pb2.RewriteSet()
    for rewrite in generated.rewrites:
        reason = rewrite.reason if rewrite.reason == DUPLICATE else ""
        if not reason and not rewrite.similarity >= min_similarity:
            reason = f"similarity {rewrite.similarity:.2f} < {min_similarity:.2f}"
        if not reason and attributes:
            reason = contradiction_reason(source, rewrite.text)
        if not reason and complete:
            reason = missing_content(source, rewrite.text)
        judged.rewrites.add(
            text=rewrite.text,
            kept=not reason,
            similarity=rewrite.similarity,
            reason=reason or KEPT,
        )
    return judged


def accept_all(generated: knowledge_pb2.RewriteSet) -> knowledge_pb2.RewriteSet:
    """Everything generated, kept: the baseline without CDFC. Even duplicates count."""
    kept = knowledge_pb2.RewriteSet()
    for rewrite in generated.rewrites:
        kept.rewrites.add(text=rewrite.text, kept=True, similarity=rewrite.similarity, reason=KEPT)
    return kept


@dataclass(slots=True)
class Reading:
    """What a caption says, as concepts of the lexicon.

    ``affirmed`` and ``denied`` map a concept to the word that names it; ``belongs`` holds (modifier, thing) pairs,
    ``single`` the things of which there is one, ``placed`` (thing, relation, thing); ``timeline`` is what is heard
    when; ``times`` how often each concept is named, ``joined`` who stands beside another of the same name.
    ``others``: words that no table holds and that are not neutral. ``sides``: what is "on the left" and "on the right".
    """

    affirmed: dict[str, str] = field(default_factory=dict)
    denied: dict[str, str] = field(default_factory=dict)
    belongs: dict[tuple[str, str], str] = field(default_factory=dict)
    single: set[str] = field(default_factory=set)
    placed: set[tuple[str, str, str]] = field(default_factory=set)
    timeline: EventTimeline = field(default_factory=EventTimeline)
    times: Counter[str] = field(default_factory=Counter)
    joined: set[str] = field(default_factory=set)
    others: list[str] = field(default_factory=list)
    sides: dict[str, set[tuple[str, str]]] = field(default_factory=dict)

    @property
    def beside(self) -> set[tuple[str, str]]:
        """Things and the sides on which they are told to be."""
        pairs = [(a, c) for a, relation, c in self.placed if relation == "left of"]
        return {(a, "on the left") for a, _ in pairs} | {(c, "on the right") for _, c in pairs}


def contradiction_reason(source: str, rewrite: str) -> str:
    """Why the attribute test drops the rewrite, "" if it does not.

    The first objection counts: what is denied, what is added, whose an attribute is, how many there are, how things
    are placed, what is heard when.
    """
    source_reading, claimed = read(source), read(rewrite)
    known = {_stem(word) for word in _WORD.findall(source.lower())}
    entailed = {broader for concept in source_reading.affirmed for broader in closure(concept)}
    for concept, word in claimed.denied.items():
        if concept not in source_reading.denied:
            return f"denies '{word}'"
    for concept, word in claimed.affirmed.items():
        if concept in entailed or claimed.sides.get(concept, set()) & source_reading.beside:
            continue
        if any(concept in closure(d) or d in closure(concept) for d in source_reading.denied):
            return f"adds '{word}', which the source denies"
        return f"adds '{word}'"
    for word in claimed.others:
        if _stem(word) not in known:
            return f"adds '{word}'"
    for (modifier, thing), words in claimed.belongs.items():
        by_nature = any(
            _same_thing(c, thing) and modifier in closure(c) for c in source_reading.affirmed
        )
        if not by_nature and not any(
            _supports(source_reading, p, modifier, thing) for p in source_reading.belongs
        ):
            return f"changes whose attribute '{words}' is"
    for thing in claimed.single - source_reading.single:
        if any(
            _class(modifier) == "count"
            and _same_thing(thing, owner)
            and (_class(thing) == "sound") == (_class(owner) == "sound")
            for modifier, owner in source_reading.belongs
        ):
            return f"counts one '{thing}'"
    for concept in claimed.joined - source_reading.joined:
        return f"adds another '{concept}'"
    for concept, times in claimed.times.items():
        if times > source_reading.times[concept] + MAX_REPEATS:
            return f"repeats '{claimed.affirmed[concept]}'"
    return _misplaced(source_reading, claimed) or contradiction(
        source_reading.timeline, claimed.timeline
    )


def missing_content(source: str, rewrite: str) -> str:
    """What a rewrite leaves out, "" for one that entails its source as the source entails it."""
    why = contradiction_reason(rewrite, source)
    if why.startswith("adds "):
        # What the source would add to the rewrite is what the rewrite lacks.
        return why.replace("adds", "leaves out", 1).replace("which the source", "which it")
    return f"leaves out: the source {why}" if why else ""


def _stem(word: str) -> str:
    """What inflected forms of a word share, roughly."""
    word = lexicon.IRREGULAR.get(word, word)
    for ending in ("ing", "ed", "es", "s", "e", "y", "ly"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            return word.removesuffix(ending)[:6]
    return word[:6]


def _misplaced(source_reading: Reading, claimed: Reading) -> str:
    """Places of one thing against another that the source does not tell."""
    for first, relation, second in claimed.placed:
        relations = {
            (_same_thing(first, a) and _same_thing(second, c))
            - 2 * (_same_thing(first, c) and _same_thing(second, a))
            for a, r, c in source_reading.placed
            if r == relation
        }
        if 1 in relations:
            continue
        if -2 in relations:
            return f"turns '{relation}' round"
        return f"adds that '{first}' is {relation} '{second}'"
    return ""


def _supports(source_reading: Reading, pair: tuple[str, str], modifier: str, thing: str) -> bool:
    """Whether ``pair`` of the source entails that ``thing`` has ``modifier``."""
    known, owner = pair
    if modifier not in closure(known):
        return False
    if _same_thing(owner, thing):
        return True
    # A pattern's colour and its garment's may change places: "white dots" on a jacket, a "white dotted jacket".
    patterned, plain = (owner, thing) if _class(owner) == "pattern" else (thing, owner)
    return _class(patterned) == "pattern" and any(
        pattern == patterned and _same_thing(garment, plain)
        for pattern, garment in source_reading.belongs
    )


def _same_thing(a: str, b: str) -> bool:
    return a in closure(b) or b in closure(a)


@lru_cache(maxsize=4096)
def closure(concept: str) -> frozenset[str]:
    """The concept and all that it entails."""
    found = {concept}
    todo = [concept]
    while todo:
        for broader in lexicon.BROADER.get(todo.pop(), ()):
            if broader not in found:
                found.add(broader)
                todo.append(broader)
    return frozenset(found)


@lru_cache(maxsize=4096)
def read(caption: str) -> Reading:
    """Read a caption by the lexicon. Do not change what it returns: it is cached."""
    tokens = _tokens(caption)
    reading = Reading()
    denied_until = -1
    for place, token in enumerate(tokens):
        if token.text in lexicon.NEGATIONS:
            denied_until = place + _NEGATION_REACH
        elif token.text in {",", ".", ";", "but", "while", "then", "with", "wearing"}:
            denied_until = -1
        concept = token.concept
        if not concept:
            reading.others += _unknown(token)
        if _says_nothing(tokens, place):
            continue
        if token.text.endswith("less") and not concept:
            bare = _concept((token.text.removesuffix("less"),))
            if bare:
                reading.denied.setdefault(bare, token.text)
        if concept:
            into = reading.denied if place <= denied_until else reading.affirmed
            into.setdefault(concept, token.text)
            if concept in {"on the left", "on the right"}:
                side = (_subject(tokens[:place]), concept)
                reading.sides.setdefault(concept, set()).add(side)
            if into is reading.affirmed:
                if reading.times[concept] and _is_beside(tokens, place):
                    reading.joined.add(concept)
                reading.times[concept] += 1
            if into is reading.denied and _class(concept) in lexicon.THINGS:
                denied_until = -1
    _read_belongings(tokens, reading)
    _read_single(tokens, reading)
    if any(_class(concept) == "sound" for concept in reading.affirmed):
        # What is "over" another sound is louder, not higher.
        reading.timeline = event_timeline(tokens)
    else:
        _read_places(tokens, reading)
    return reading


def _unknown(token: Token) -> list[str]:
    """Words of a token that neither the tables nor the list of neutral words hold."""
    parts = [part for word in token.words for part in re.split(r"[-']", word)]
    grammar = lexicon.NEUTRAL | lexicon.BREAKS | lexicon.COPULAS | lexicon.NEGATIONS
    return [
        part
        for part in parts
        if len(part) > 2
        and part not in grammar
        and not _concept((part,))
        and not (part.endswith("less") and _concept((part.removesuffix("less"),)))
    ]


def _says_nothing(tokens: list[Token], place: int) -> bool:
    """The pair in "a pair of trousers"; the top in "on top of"; how a thing, not a person, is where it is."""
    if [t.text for t in tokens[max(0, place - 1) : place + 2]] == ["on", "top", "of"]:
        return True
    if tokens[place].concept in lexicon.POSTURES:
        return not _is_of_person(tokens, place)
    if _class(tokens[place].concept) == "position":
        if tokens[place].text == "in the background":
            return any(_class(t.concept) == "sound" for t in tokens)  # told in order of time
        # "on the left of" is a relation, read elsewhere; "on the side of" is not.
        turned = tokens[place].concept in {"on the left", "on the right"}
        return turned and [t.text for t in tokens[place + 1 : place + 2]] == ["of"]
    return _is_pair_of_garments(tokens, place)


def _is_beside(tokens: list[Token], place: int) -> bool:
    """ "… walking along a thin woman": a person after "a" and a word of company."""
    if "person" not in closure(tokens[place].concept):
        return False
    before = place - 1
    while before > 0 and _class(tokens[before].concept) in lexicon.MODIFIERS:
        before -= 1
    article, company = tokens[before].text, tokens[before - 1].text if before else ""
    return article in {"a", "an", "another"} and company in lexicon.COMPANY


def _is_of_person(tokens: list[Token], place: int) -> bool:
    """Whether the verb at ``place`` has a person for its subject: the last thing named, or the first to come."""
    before = [c for t in tokens[:place] if _class(c := t.concept) in lexicon.THINGS]
    after = [c for t in tokens[place:] if _class(c := t.concept) in lexicon.THINGS]
    worn = {"garment", "body"}
    if any("person" in closure(c) for c in before) and _class(before[-1]) in worn:
        return True
    return any("person" in closure(c) for c in (before[-1:] or after[:1]))


def _read_single(tokens: list[Token], reading: Reading) -> None:
    """Things of which there is one, "a red car" or "barks once"; not "a pair of cars", nor "a dog" that barks twice."""
    waits = ""
    for place, token in enumerate(tokens):
        if token.text in {"a", "an", "one", "single"}:
            waits = token.text
        elif token.text == "once":
            heard = (t.concept for t in reversed(tokens[:place]) if _class(t.concept) == "sound")
            reading.single |= set(list(heard)[:1])
        elif _class(token.concept) == "count" or token.text in lexicon.BREAKS or token.text == ",":
            waits = ""
        elif waits and _class(token.concept) in lexicon.THINGS and not _is_compound(tokens, place):
            if _class(token.concept) != "sound" or waits in {"one", "single"}:
                reading.single.add(token.concept)
            waits = ""


def _read_belongings(tokens: list[Token], reading: Reading) -> None:
    """Bind modifiers to the thing that follows them, or, after "is", to the one before."""
    waiting: list[Token] = []
    thing: Token | None = None
    since: list[str] = []  # words since that thing
    skipped = 0
    for place, token in enumerate(tokens):
        kind = _class(token.concept)
        if _is_pair_of_garments(tokens, place):
            continue
        if kind == "count" and _is_multiplicative(token):
            sound = next(
                (t for t in reversed(tokens[:place]) if _class(t.concept) == "sound"), None
            )
            if sound:
                _bind(reading, token, sound)
        elif kind in lexicon.MODIFIERS and not _names_pattern(token, tokens, place):
            after_copula = not waiting and _follows_copula(since)
            if thing and after_copula and _is_predicate(tokens, place):
                _bind(reading, token, thing)
                continue
            waiting.append(token)
            skipped = 0
        elif kind in lexicon.THINGS or kind == "pattern":
            if _is_compound(tokens, place):
                continue  # "two dog barks": the modifier is the last noun's
            for modifier in waiting:
                _bind(reading, modifier, token)
            if kind == "pattern" and thing and _class(thing.concept) == "garment":
                _bind(reading, token, thing)
                waiting = []
                continue
            waiting, thing, since = [], token, []
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


def _bind(reading: Reading, modifier: Token, thing: Token) -> None:
    reading.belongs.setdefault((modifier.concept, thing.concept), f"{modifier.text} {thing.text}")


def _is_pair_of_garments(tokens: list[Token], place: int) -> bool:
    """ "a pair of trousers" counts no trousers."""
    if tokens[place].text != "pair" or tokens[place + 1 : place + 2] != [Token(("of",))]:
        return False
    following = (t for t in tokens[place + 2 :] if _class(t.concept) not in lexicon.MODIFIERS)
    noun = next((t for t in following if t.concept), None)
    return noun is not None and bool(closure(noun.concept) & lexicon.PAIRED)


def _is_compound(tokens: list[Token], place: int) -> bool:
    """ "dog barks" in "two dog barks", not in "two dogs bark"."""
    word = tokens[place].words[-1]
    plural = word.endswith("s") and (word,) not in _CONCEPT_OF
    following = tokens[place + 1].concept if place + 1 < len(tokens) else ""
    return not plural and _class(following) in lexicon.THINGS


def _is_predicate(tokens: list[Token], place: int) -> bool:
    """Whether the modifiers from ``place`` on stand alone ("hair is long and blond"), not before a thing."""
    for token in tokens[place:]:
        kind = _class(token.concept)
        if kind in lexicon.THINGS or kind == "pattern":
            return False
        if kind not in {*lexicon.MODIFIERS, "loudness"} and token.text not in {"and", "of"}:
            return True
    return True


def _follows_copula(since: list[str]) -> bool:
    """Whether the last words are "is" and what may stand between it and a modifier: "is long and", not "is near"."""
    for word in reversed(since):
        if word in lexicon.COPULAS:
            return True
        if word in lexicon.BREAKS:
            return False
    return False


def _is_multiplicative(token: Token) -> bool:
    return token.text in {"twice", "thrice"} or token.words[-1] in {"times", "time"}


def _names_pattern(token: Token, tokens: list[Token], place: int) -> bool:
    """ "white dots", "a logo": the pattern as a noun, not before the thing that has it."""
    if _class(token.concept) != "pattern" or token.words[-1] in {
        "striped",
        "checked",
        "plaid",
        "hooded",
    }:
        return False
    following = _class(tokens[place + 1].concept) if place + 1 < len(tokens) else ""
    return following not in lexicon.THINGS | lexicon.MODIFIERS


def _read_places(tokens: list[Token], reading: Reading) -> None:
    words = [w for token in tokens for w in token.words]
    owners = [token for token in tokens for _ in token.words]
    for place, word in enumerate(words):
        for phrase, (relation, reverse) in _RELATIONS_BY_WORD.get(word, ()):
            if tuple(words[place : place + len(phrase)]) != phrase:
                continue
            before, following = _subject(owners[:place]), owners[place + len(phrase) :]
            after = _first_thing(following, frozenset({".", ";", ","}))
            if phrase[0] in lexicon.SUPPORTS and len(phrase) == 1:
                after = _supporting(before, following)
                if relation == "wearing" and _class(after) not in {"object", "animal"}:
                    after = ""
                if following and following[0].text in {"it", "them", "its"}:
                    after = _first_thing(t for t in reversed(owners[:place]) if t.concept != before)
            if before and after and not _same_thing(before, after):
                first, second = (after, before) if reverse else (before, after)
                reading.placed.add((first, relation, second))


def _supporting(before: str, following: list[Token]) -> str:
    """What something is on, over or in, "" for places, and for what is worn or used rather than a place."""
    if [t.text for t in following[:2]] == ["top", "of"]:
        return ""  # a phrase of its own
    for token in following:
        kind = _class(token.concept)
        if kind in lexicon.THINGS:
            worn = kind in {"garment", "body"} and (
                "person" in closure(before) or _class(before) in {"garment", "body"}
            )
            return "" if worn or token.concept == "phone" else token.concept
        if kind not in lexicon.MODIFIERS and token.text not in {"a", "an", "the", "of", "and"}:
            return ""
    return ""


def _subject(tokens: list[Token]) -> str:
    """The thing that a place is told of: the last one named, or whoever wears it."""
    thing = _first_thing(reversed(tokens))
    if _class(thing) in {"garment", "body"}:
        wearer = (t.concept for t in reversed(tokens) if "person" in closure(t.concept))
        return next(wearer, thing)
    return thing


def _first_thing(tokens: Iterable[Token], ends: frozenset[str] = frozenset({".", ";"})) -> str:
    """Concept of the first thing or place before the sentence ends, "" if there is none."""
    for token in tokens:
        if token.text in ends:
            return ""
        if _class(token.concept) in lexicon.THINGS | {"place"}:
            return token.concept
    return ""


def _class(concept: str) -> str:
    return _CLASS_OF.get(concept, "")


def _tokens(caption: str) -> list[Token]:
    """Words and phrases of the lexicon, longest first."""
    words = [_DIGITS.get(w, w) for w in _WORD.findall(caption.lower().replace("’", "'"))]
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
        found = _CONCEPT_OF.get((*phrase[:-1], last))
        if found:
            return found
    for last in _verb_lemmas(phrase[-1]):
        found = _CONCEPT_OF.get((*phrase[:-1], last), "")
        # "dressed" is no dress and "tied" no tie.
        if _CLASS_OF.get(found) in lexicon.VERBS:
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


def _index() -> tuple[dict[tuple[str, ...], str], dict[str, str]]:
    concepts: dict[tuple[str, ...], str] = {}
    classes: dict[str, str] = {}
    for kind, table in lexicon.CLASSES.items():
        for entry in re.split(r"[;\n]", table.strip()):
            phrases = [p.strip() for p in entry.split("|")]
            classes[phrases[0]] = kind
            for phrase in phrases:
                known = concepts.setdefault(tuple(phrase.split()), phrases[0])
                if known != phrases[0]:
                    raise ValueError(f"lexicon: {phrase!r} names both {known!r} and {phrases[0]!r}")
    return concepts, classes


_CONCEPT_OF, _CLASS_OF = _index()
_RELATIONS_BY_WORD: Final = {
    word: [(p, r) for p, r in lexicon.RELATIONS.items() if p[0] == word]
    for word in {phrase[0] for phrase in lexicon.RELATIONS}
}
_LONGEST = max(map(len, _CONCEPT_OF))
