"""Sentences of a query, and which of them speak of the medium: what the transmitter sends of a noisy text.

A text is split into sentences, each gets a score, the κ best are kept, in the order of the text; noise is never sent.
The rules are ItrievalKD's student (Liu et al. 2023, eq. 3) and the paper's two baselines, which ask no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import networkx  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

from semlink.errors import InvalidField
from semlink.sentence_splitting import WORD, split_sentences

EXTRACTIONS: Final = ("none", "tf-idf", "textrank", "itrieval-kd")
KEY_SENTENCES: Final = 3
"""κ of the rules without a student, and n_key of the noisy sets (Liu et al. 2023, §4.1)."""
DAMPING: Final = 0.85
"""Of TextRank's PageRank (Mihalcea & Tarau 2004)."""


@dataclass(frozen=True, slots=True)
class ScoredSentence:
    """One sentence of a text. ``score``: greater is more to the point, on the rule's scale; ``kept``: it is sent."""

    text: str
    score: float
    kept: bool


def extract(
    texts: Sequence[str], rule: str, *, space: str, key_sentences: int = 0, device: str = "cpu"
) -> list[list[ScoredSentence]]:
    """The sentences of each text, scored, the κ best marked as kept; in the order of the text.

    ``rule`` is one of :data:`EXTRACTIONS`; "none" keeps all. ``space`` names the student; the others do not look at
    it. ``key_sentences`` is κ ≥ 1, or 0 for the rule's own: what was chosen on val when the student was trained,
    :data:`KEY_SENTENCES` for the rules without one. Of equal scores the earlier sentence wins. A text of at most κ
    sentences keeps all of them and is not scored (each has 1.0).

    Raises InvalidField for an unknown rule, a negative κ or a blank text, NotFound with the training command when the
    space has no student.
    """
    if rule not in EXTRACTIONS:
        raise InvalidField(
            f"query.retrieval.extraction is {rule!r}, allowed: {', '.join(EXTRACTIONS)}",
            field="query.retrieval.extraction",
        )
    if key_sentences < 0:
        raise InvalidField(
            f"query.retrieval.key_sentences is {key_sentences}, allowed: 0 (chosen on val) or more",
            field="query.retrieval.key_sentences",
        )
    split = [split_sentences(text) for text in texts]
    blank = next((i for i, sentences in enumerate(split) if not sentences), None)
    if blank is not None:
        raise InvalidField(f"text {blank} is empty", field="query.text")
    if rule == "none":
        return [[ScoredSentence(s, 1.0, True) for s in sentences] for sentences in split]
    kappa = key_sentences or KEY_SENTENCES
    if rule == "itrieval-kd":
        from semlink.semantics.student import student_of

        student = student_of(space, device)
        kappa = key_sentences or student.key_sentences
    longer = [sentences for sentences in split if len(sentences) > kappa]
    if rule == "itrieval-kd":
        scores = iter(student.scores(longer))
    else:
        score = tf_idf_scores if rule == "tf-idf" else textrank_scores
        scores = iter([score(sentences) for sentences in longer])
    return [
        selected(sentences, next(scores), kappa)
        if len(sentences) > kappa
        else [ScoredSentence(s, 1.0, True) for s in sentences]
        for sentences in split
    ]


def selected(
    sentences: Sequence[str], scores: Sequence[float], key_sentences: int
) -> list[ScoredSentence]:
    """Sentences with their scores, the ``key_sentences`` best of them kept."""
    order = sorted(range(len(sentences)), key=lambda i: (-scores[i], i))
    kept = set(order[:key_sentences])
    return [
        ScoredSentence(sentence, float(scores[i]), i in kept)
        for i, sentence in enumerate(sentences)
    ]


def tf_idf_scores(sentences: Sequence[str], corpus: Sequence[str] = ()) -> list[float]:
    """The largest tf-idf value of each sentence's words (Liu et al. 2023, §4.4).

    scikit-learn's definition: tf·(ln((1 + n)/(1 + df)) + 1), a sentence's values normalised to unit length. Documents
    are the sentences of the text itself, or those of ``corpus`` where one is given. A sentence without words has 0.
    """
    weigh = TfidfVectorizer(tokenizer=_words, token_pattern=None, lowercase=False)
    weigh.fit(
        [*(corpus or sentences), "a"]
    )  # a word that is always there: a vocabulary is never empty
    values = weigh.transform(list(sentences))
    return [float(v) for v in values.max(axis=1).toarray().ravel()]


def textrank_scores(sentences: Sequence[str]) -> list[float]:
    """PageRank of each sentence in the graph of shared words (TextRank: Mihalcea & Tarau 2004); they add up to 1.

    The edge of two sentences weighs |shared words| / (ln|S_i| + ln|S_j|), English stop words left out, and 0 where the
    divisor is 0; sentences that share nothing with any other rank last, all alike.
    """
    words = [[w for w in _words(s) if w not in ENGLISH_STOP_WORDS] for s in sentences]
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(sentences)))
    for i, j in combinations(range(len(sentences)), 2):
        shared = len({*words[i]} & {*words[j]})
        divisor = math.log(len(words[i])) + math.log(len(words[j])) if shared else 0.0
        if divisor:
            graph.add_edge(i, j, weight=shared / divisor)
    ranks = networkx.pagerank(graph, alpha=DAMPING)
    return [float(ranks[i]) for i in range(len(sentences))]


def _words(sentence: str) -> list[str]:
    """Words in lower case."""
    return [w.lower() for w in WORD.findall(sentence)]
