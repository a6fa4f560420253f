"""CDFC phase 1: which rewrites are kept and why the others are dropped.

Two tests. *Similarity* (arXiv 2604.05504; the threshold α is our definition): a rewrite stays if its sentence embedding
has a cosine of at least α to the source's. *Attributes* (our definition): a rewrite may leave things out, but what
it names — colours, garments, objects, animals, counts, places, sounds — must be entailed by the source, must belong to
the same thing, and must be denied where the source denies it. MiniLM hardly tells a red jacket from a black one. The
test reads words by a lexicon: what the lexicon does not hold is not judged, nor is order in time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from kb_service import lexicon
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
_NEGATION_REACH = 3
"""Words after "without" in which what is denied may stand."""


def judge(
    source: str,
    generated: knowledge_pb2.RewriteSet,
    *,
    min_similarity: float,
    attributes: bool = True,
) -> knowledge_pb2.RewriteSet:
    """The same rewrites with ``kept`` and ``reason`` set: "kept", "duplicate", "similarity 0.41 < 0.60" or what the
    attribute test objects to ("adds 'leather'"). ``min_similarity`` is α, −1…1; ``attributes`` switches the second
    test on. Duplicates are those that :func:`kb_service.rewriting.mark_duplicates` found.
    """
    judged = knowledge_pb2.RewriteSet()
    for rewrite in generated.rewrites:
        reason = rewrite.reason if rewrite.reason == DUPLICATE else ""
        if not reason and not rewrite.similarity >= min_similarity:
            reason = f"similarity {rewrite.similarity:.2f} < {min_similarity:.2f}"
        if not reason and attributes:
            reason = objection(source, rewrite.text)
        judged.rewrites.add(
            text=rewrite.text,
            kept=not reason,
            similarity=rewrite.similarity,
            reason=reason or KEPT,
        )
    return judged


def keep_all(generated: knowledge_pb2.RewriteSet) -> knowledge_pb2.RewriteSet:
    """Everything generated, kept: the baseline without CDFC. Even duplicates count."""
    kept = knowledge_pb2.RewriteSet()
    for rewrite in generated.rewrites:
        kept.rewrites.add(text=rewrite.text, kept=True, similarity=rewrite.similarity, reason=KEPT)
    return kept


@dataclass(slots=True)
class Reading:
    """What a caption says, as concepts of the lexicon.

    ``affirmed`` and ``denied`` map a concept to the word that names it; ``belongs`` holds (modifier, thing) pairs,
    ``placed`` (thing, relation, thing).
    """

    affirmed: dict[str, str] = field(default_factory=dict)
    denied: dict[str, str] = field(default_factory=dict)
    belongs: dict[tuple[str, str], str] = field(default_factory=dict)
    placed: set[tuple[str, str, str]] = field(default_factory=set)


def objection(source: str, rewrite: str) -> str:
    """Why the attribute test drops the rewrite, "" if it does not.

    The first objection counts: what is denied, what is added, whose an attribute is, how things are placed.
    """
    said, claimed = read(source), read(rewrite)
    entailed = {broader for concept in said.affirmed for broader in closure(concept)}
    for concept, word in claimed.denied.items():
        if concept not in said.denied:
            return f"denies '{word}'"
    for concept, word in claimed.affirmed.items():
        if concept in entailed:
            continue
        if any(concept in closure(d) or d in closure(concept) for d in said.denied):
            return f"adds '{word}', which the source denies"
        return f"adds '{word}'"
    for (modifier, thing), words in claimed.belongs.items():
        by_nature = any(_same_thing(c, thing) and modifier in closure(c) for c in said.affirmed)
        if not by_nature and not any(_supports(said, p, modifier, thing) for p in said.belongs):
            return f"changes whose attribute '{words}' is"
    for first, relation, second in claimed.placed:
        if any(
            _same_thing(first, c) and _same_thing(second, a) and relation == r
            for a, r, c in said.placed
        ):
            return f"turns '{relation}' round"
    return ""


def _supports(said: Reading, pair: tuple[str, str], modifier: str, thing: str) -> bool:
    """Whether ``pair`` of the source entails that ``thing`` has ``modifier``."""
    known, owner = pair
    if modifier not in closure(known):
        return False
    if _same_thing(owner, thing):
        return True
    # A pattern's colour and its garment's may change places: "white dots" on a jacket, a "white dotted jacket".
    patterned, plain = (owner, thing) if _class(owner) == "pattern" else (thing, owner)
    return _class(patterned) == "pattern" and any(
        pattern == patterned and _same_thing(garment, plain) for pattern, garment in said.belongs
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


@dataclass(frozen=True, slots=True)
class _Token:
    """A word or phrase; ``concept`` is "" where the lexicon does not hold it."""

    words: tuple[str, ...]
    concept: str = ""

    @property
    def text(self) -> str:
        return " ".join(self.words)


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
        if token.text.endswith("less") and not concept:
            bare = _concept((token.text.removesuffix("less"),))
            if bare:
                reading.denied.setdefault(bare, token.text)
        if concept:
            into = reading.denied if place <= denied_until else reading.affirmed
            into.setdefault(concept, token.text)
            if into is reading.denied and _class(concept) in lexicon.THINGS:
                denied_until = -1
    _read_belongings(tokens, reading)
    _read_places(tokens, reading)
    return reading


def _read_belongings(tokens: list[_Token], reading: Reading) -> None:
    """Bind modifiers to the thing that follows them, or, after "is", to the one before."""
    waiting: list[_Token] = []
    thing: _Token | None = None
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
            after_copula = not waiting and any(w in lexicon.COPULAS for w in since)
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
        since.append(token.text)


def _bind(reading: Reading, modifier: _Token, thing: _Token) -> None:
    reading.belongs.setdefault((modifier.concept, thing.concept), f"{modifier.text} {thing.text}")


def _is_pair_of_garments(tokens: list[_Token], place: int) -> bool:
    """ "a pair of trousers" counts no trousers."""
    if tokens[place].text != "pair" or tokens[place + 1 : place + 2] != [_Token(("of",))]:
        return False
    following = (t for t in tokens[place + 2 :] if _class(t.concept) not in lexicon.MODIFIERS)
    noun = next((t for t in following if t.concept), None)
    return noun is not None and _class(noun.concept) == "garment"


def _is_compound(tokens: list[_Token], place: int) -> bool:
    """ "dog barks" in "two dog barks", not in "two dogs bark"."""
    word = tokens[place].words[-1]
    plural = word.endswith("s") and (word,) not in _CONCEPT_OF
    following = tokens[place + 1].concept if place + 1 < len(tokens) else ""
    return not plural and _class(following) in lexicon.THINGS


def _is_predicate(tokens: list[_Token], place: int) -> bool:
    """Whether the modifiers from ``place`` on stand alone ("hair is long and blond"), not before a thing."""
    for token in tokens[place:]:
        kind = _class(token.concept)
        if kind in lexicon.THINGS or kind == "pattern":
            return False
        if kind not in lexicon.MODIFIERS and token.text != "and":
            return True
    return True


def _is_multiplicative(token: _Token) -> bool:
    return token.text in {"twice", "thrice"} or token.words[-1] in {"times", "time"}


def _names_pattern(token: _Token, tokens: list[_Token], place: int) -> bool:
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


def _read_places(tokens: list[_Token], reading: Reading) -> None:
    words = [w for token in tokens for w in token.words]
    owners = [token for token in tokens for _ in token.words]
    for place in range(len(words)):
        for phrase, (relation, reverse) in lexicon.RELATIONS.items():
            if tuple(words[place : place + len(phrase)]) != phrase:
                continue
            before = _first_thing(reversed(owners[:place]))
            after = _first_thing(owners[place + len(phrase) :])
            if before and after and not _same_thing(before, after):
                first, second = (after, before) if reverse else (before, after)
                reading.placed.add((first, relation, second))


def _first_thing(tokens: Iterable[_Token]) -> str:
    """Concept of the first thing or place before the sentence ends, "" if there is none."""
    for token in tokens:
        if token.text in {".", ";"}:
            return ""
        if _class(token.concept) in lexicon.THINGS | {"place"}:
            return token.concept
    return ""


def _class(concept: str) -> str:
    return _CLASS_OF.get(concept, "")


def _tokens(caption: str) -> list[_Token]:
    """Words and phrases of the lexicon, longest first."""
    words = [_DIGITS.get(w, w) for w in _WORD.findall(caption.lower().replace("’", "'"))]
    tokens: list[_Token] = []
    place = 0
    while place < len(words):
        for length in range(min(_LONGEST, len(words) - place), 0, -1):
            phrase = tuple(words[place : place + length])
            concept = _concept(phrase)
            if concept or length == 1:
                tokens.append(_Token(phrase, concept))
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
_LONGEST = max(map(len, _CONCEPT_OF))
