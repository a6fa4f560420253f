"""Sentences of a query, and which of them speak of the medium: what the transmitter sends of a noisy text.

A text is split into sentences, each gets a score, the κ best are kept, in the order of the text; noise is never sent.
The rules are ItrievalKD's student (Liu et al. 2023, eq. 3) and the paper's two baselines, which ask no model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import networkx  # type: ignore[import-untyped]
import numpy as np

from semlink.errors import InvalidField
from semlink.sentence_splitting import WORD, split_sentences

EXTRACTIONS: Final = ("none", "tf-idf", "textrank", "itrieval-kd")
KEY_SENTENCES: Final = 3
"""κ of the rules without a student, and n_key of the noisy sets (Liu et al. 2023, §4.1)."""
DAMPING: Final = 0.85
"""Of TextRank's PageRank (Mihalcea & Tarau 2004)."""
ENGLISH_STOP_WORDS: Final = frozenset(
    """
    a about above across after afterwards again against all almost alone along already also although always am among
    amongst amoungst amount an and another any anyhow anyone anything anyway anywhere are around as at back be became
    because become becomes becoming been before beforehand behind being below beside besides between beyond bill both
    bottom but by call can cannot cant co con could couldnt cry de describe detail do done down due during each eg eight
    either eleven else elsewhere empty enough etc even ever every everyone everything everywhere except few fifteen
    fifty fill find fire first five for former formerly forty found four from front full further get give go had has
    hasnt have he hence her here hereafter hereby herein hereupon hers herself him himself his how however hundred i ie
    if in inc indeed interest into is it its itself keep last latter latterly least less ltd made many may me meanwhile
    might mill mine more moreover most mostly move much must my myself name namely neither never nevertheless next nine
    no nobody none noone nor not nothing now nowhere of off often on once one only onto or other others otherwise our
    ours ourselves out over own part per perhaps please put rather re same see seem seemed seeming seems serious several
    she should show side since sincere six sixty so some somehow someone something sometime sometimes somewhere still
    such system take ten than that the their them themselves then thence there thereafter thereby therefore therein
    thereupon these they thick thin third this those though three through throughout thru thus to together too top
    toward towards twelve twenty two un under until up upon us very via was we well were what whatever when whence
    whenever where whereafter whereas whereby wherein whereupon wherever whether which while whither who whoever whole
    whom whose why will with within without would yet you your yours yourself yourselves
    """.split()  # noqa: SIM905
)
"""scikit-learn's list (BSD-3-Clause, © 2007-2026 The scikit-learn developers), after the Glasgow Information Retrieval
Group's."""


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
    are the sentences of the text itself, or those of ``corpus`` where one is given, and the word "a". A sentence
    without words of theirs has 0.
    """
    documents = [_words(text) for text in (*(corpus or sentences), "a")]
    frequency = Counter(word for document in documents for word in set(document))
    # numpy's logarithm and a sum in alphabetical order: scikit-learn's values to the last bit
    inverse = np.log((len(documents) + 1) / (1.0 + np.array([*frequency.values()]))) + 1.0
    weight = dict(zip(frequency, inverse.tolist(), strict=True))
    return [_largest_share(_words(sentence), weight) for sentence in sentences]


def _largest_share(words: Sequence[str], weight: Mapping[str, float]) -> float:
    counts = Counter(word for word in words if word in weight)
    values = [counts[word] * weight[word] for word in sorted(counts)]
    squares = 0.0
    for value in values:
        squares += value * value
    return max(values) / math.sqrt(squares) if values else 0.0


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
