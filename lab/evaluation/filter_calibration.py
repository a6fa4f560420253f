"""How well the filter of rewrites tells hallucinations: α swept on val, the tests alone and together, test once.

``semlink experiment knowledge`` writes these figures. Positives are hallucinations, *detected* means dropped. α is
chosen on val: with the attribute test, the largest one that costs no more than a hundredth of the faithful rewrites
(the test on attributes judges what it says; similarity is left what the lexicon does not hold: another subject
altogether). Alone, the one with the best F1. Our definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kb_service.filtering import contradiction_reason
from lab.evaluation.hallucination_labels import Labelled

ALPHAS: Final = tuple(round(float(a), 2) for a in np.arange(0.30, 1.0, 0.01))
FAITHFUL_LOST: Final = 0.01


@dataclass(frozen=True, slots=True)
class Judged:
    """What the two tests say of labelled rewrites, each ``[n]``."""

    hallucinated: NDArray[np.bool_]
    similarity: NDArray[np.float32]
    objected: NDArray[np.bool_]

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Judged:
        return Judged(self.hallucinated[chosen], self.similarity[chosen], self.objected[chosen])

    def dropped(self, alpha: float | None, *, attributes: bool) -> NDArray[np.bool_]:
        """Which rewrites the filter drops; ``alpha`` None switches the test on similarity off."""
        below = np.zeros(len(self.objected), bool) if alpha is None else self.similarity < alpha
        return below | self.objected if attributes else below


@dataclass(frozen=True, slots=True)
class Detection:
    """Precision and recall of "dropped" as the detection of hallucinations; not a number where nothing was dropped."""

    precision: float
    recall: float
    kept: float
    """Share of the faithful rewrites that stay."""

    @property
    def f1(self) -> float:
        """Harmonic mean, 0 where it is undefined."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total > 0 else 0.0


def judged(labels: Sequence[Labelled]) -> Judged:
    """Run both tests of :mod:`kb_service.filtering` over labelled rewrites."""
    from semlink.semantics.text import sentence_embeddings

    every = list(dict.fromkeys([text for la in labels for text in (la.source, la.text)]))
    row = {text: n for n, text in enumerate(every)}
    vectors = sentence_embeddings(every)
    return Judged(
        np.array([la.hallucinated for la in labels]),
        np.array([vectors[row[la.source]] @ vectors[row[la.text]] for la in labels], np.float32),
        np.array([bool(contradiction_reason(la.source, la.text)) for la in labels]),
    )


def detection(found: Judged, alpha: float | None, *, attributes: bool) -> Detection:
    """Precision and recall at a threshold."""
    dropped = found.dropped(alpha, attributes=attributes)
    right = int((dropped & found.hallucinated).sum())
    faithful = ~found.hallucinated
    return Detection(
        right / int(dropped.sum()) if dropped.any() else float("nan"),
        right / int(found.hallucinated.sum()) if found.hallucinated.any() else float("nan"),
        float((faithful & ~dropped).sum() / max(1, faithful.sum())),
    )


def chosen_alpha(val: Judged, *, attributes: bool) -> float:
    """α by the rule of this module, from val alone."""
    if not attributes:
        return max(ALPHAS, key=lambda alpha: detection(val, alpha, attributes=False).f1)
    faithful = val[~val.hallucinated]
    return max(
        (a for a in ALPHAS if float((faithful.similarity < a).mean()) <= FAITHFUL_LOST),
        default=ALPHAS[0],
    )
