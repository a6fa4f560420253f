"""CDFC phase 1: which rewrites are kept and why the others are dropped.

Two tests. *Similarity* (arXiv 2604.05504; the threshold α is our definition): a rewrite stays if its sentence embedding
has a cosine of at least α to the source's. *Attributes* (our definition): a rewrite may leave things out, but what
it names — colours, garments, objects, animals, counts, places, views, sounds — must be entailed by the source, must
belong to the same thing, must stand and follow each other as there, and must be denied where the source denies it.
MiniLM hardly tells a red jacket from a black one. The test reads words by a lexicon; a word that neither the lexicon
nor the source holds is news, unless it is one of those that state nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kb_service import lexicon
from kb_service.caption_reading import WORD, Reading, closure, read, same_thing
from kb_service.event_order import contradiction
from semlink.knowledge import DUPLICATE, KEPT
from semlink.v1 import knowledge_pb2

MAX_REPEATS: Final = 3
"""Times that a rewrite may name a thing beyond its source; a model that runs on and on lists more things than are."""


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
    :class:`kb_service.rewriting.Rewriter` marked.
    """

    def dropped(rewrite: knowledge_pb2.Rewrite) -> str:
        if rewrite.reason == DUPLICATE:
            return DUPLICATE
        if not rewrite.similarity >= min_similarity:
            return f"similarity {rewrite.similarity:.2f} < {min_similarity:.2f}"
        reason = contradiction_reason(source, rewrite.text) if attributes else ""
        return reason or (missing_content(source, rewrite.text) if complete else "")

    return _judged((rewrite, dropped(rewrite)) for rewrite in generated.rewrites)


def accept_all(generated: knowledge_pb2.RewriteSet) -> knowledge_pb2.RewriteSet:
    """Everything generated, kept: the baseline without CDFC. Even duplicates count."""
    return _judged((rewrite, "") for rewrite in generated.rewrites)


def _judged(
    reasons: Iterable[tuple[knowledge_pb2.Rewrite, str]],
) -> knowledge_pb2.RewriteSet:
    return knowledge_pb2.RewriteSet(
        rewrites=[
            knowledge_pb2.Rewrite(
                text=rewrite.text,
                kept=not reason,
                similarity=rewrite.similarity,
                reason=reason or KEPT,
            )
            for rewrite, reason in reasons
        ]
    )


def contradiction_reason(source: str, rewrite: str) -> str:
    """Why the attribute test drops the rewrite, "" if it does not.

    The first objection counts: what is denied, what is added, whose an attribute is, how many there are, how things
    are placed, what is heard when.
    """
    source_reading, claimed = read(source), read(rewrite)
    known = {_stem(word) for word in WORD.findall(source.lower())}
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
            same_thing(c, thing) and modifier in closure(c) for c in source_reading.affirmed
        )
        if not by_nature and not any(
            _supports(source_reading, p, modifier, thing) for p in source_reading.belongs
        ):
            return f"changes whose attribute '{words}' is"
    for thing in sorted(claimed.single - source_reading.single):
        if any(
            lexicon.class_of(modifier) == "count"
            and same_thing(thing, owner)
            and (lexicon.class_of(thing) == "sound") == (lexicon.class_of(owner) == "sound")
            for modifier, owner in source_reading.belongs
        ):
            return f"counts one '{thing}'"
    for concept in sorted(claimed.joined - source_reading.joined):
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
    """Places of one thing against another that the source does not state."""
    for first, relation, second in sorted(claimed.placed):
        known = [(a, c) for a, r, c in source_reading.placed if r == relation]
        if any(same_thing(first, a) and same_thing(second, c) for a, c in known):
            continue
        if any(same_thing(first, c) and same_thing(second, a) for a, c in known):
            return f"turns '{relation}' round"
        return f"adds that '{first}' is {relation} '{second}'"
    return ""


def _supports(source_reading: Reading, pair: tuple[str, str], modifier: str, thing: str) -> bool:
    """Whether ``pair`` of the source entails that ``thing`` has ``modifier``."""
    known, owner = pair
    if modifier not in closure(known):
        return False
    if same_thing(owner, thing):
        return True
    # A pattern's colour and its garment's may change places: "white dots" on a jacket, a "white dotted jacket".
    patterned, plain = (owner, thing) if lexicon.class_of(owner) == "pattern" else (thing, owner)
    return lexicon.class_of(patterned) == "pattern" and any(
        pattern == patterned and same_thing(garment, plain)
        for pattern, garment in source_reading.belongs
    )
