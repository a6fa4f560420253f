"""Re-ranking by visual neighbours (Sew + MCM's test-time step, after NAFS, arXiv 2101.03036).

A right image not only lies near the text, it also shares its neighbourhood with it: to the cosine is added the
Jaccard index of the gallery images nearest to the text and of those nearest to the candidate image. Neighbours are
row numbers of gallery images on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from semlink.errors import InvalidField
from semlink.methods import Reranking

NEIGHBOURS: Final = 5
"""Neighbours compared, N5 of the paper."""
WEIGHTS: Final[Mapping[Reranking, float]] = {
    "none": 0.0,
    "neighbours": 1.0,
    "weighted-neighbours": 0.2,
}
"""What the Jaccard index counts beside the cosine: as in the paper, and ours, chosen on val of pedestrians.

At the paper's weight mAP gains and Rank-1 loses there, at 0.2 both gain (``semlink experiment sew-mcm``).
"""

_BLOCK_SCORES: Final = 1 << 24
"""Scores held at once by :func:`nearest`."""


def nearest(
    features: NDArray[Any], gallery: NDArray[Any], k: int = NEIGHBOURS
) -> NDArray[np.int64]:
    """Rows of ``gallery`` with the greatest dot product with each feature, best first: int64 ``[n, k]``.

    ``features``: ``[n, d]``; ``gallery``: ``[m, d]``; of unit norm, so that the dot product is the cosine. An image
    that stands in the gallery is its own first neighbour. Of equal ones the smaller row comes first. In a gallery of
    fewer than ``k`` images the rest is −1. Raises InvalidField where widths differ or ``k`` is below 1.
    """
    if k < 1:
        raise InvalidField(f"k is {k}, expected at least 1", field="k")
    if features.ndim != 2 or gallery.ndim != 2 or features.shape[1] != gallery.shape[1]:
        raise InvalidField(
            f"features have shape {features.shape} and gallery {gallery.shape}, "
            "expected [n, d] and [m, d]",
            field="features",
        )
    found = np.full((len(features), k), -1, dtype=np.int64)
    kept = min(k, len(gallery))
    if not kept:
        return found
    step = max(1, _BLOCK_SCORES // len(gallery))
    for start in range(0, len(features), step):
        scores = features[start : start + step] @ gallery.T
        # The k-th greatest score splits off few enough rows to sort; the sort settles what a partition leaves open.
        bar = -np.partition(-scores, kept - 1, axis=1)[:, kept - 1 : kept]
        rows, columns = np.nonzero(scores >= bar)
        order = np.lexsort((columns, -scores[rows, columns], rows))
        rows, columns = rows[order], columns[order]
        place = np.arange(len(rows)) - np.searchsorted(rows, rows, side="left")
        first = place < kept
        found[start + rows[first], place[first]] = columns[first]
    return found


def reranked(
    scores: NDArray[Any],
    query_neighbours: NDArray[np.int64],
    candidate_neighbours: NDArray[np.int64],
    weight: float = 1.0,
) -> NDArray[np.float64]:
    """``s' = cos + w · |N(t) ∩ N(v)| / |N(t) ∪ N(v)|``: float64 ``[q, c]``, in −1…1 + w.

    ``scores``: cosines ``[q, c]``; ``query_neighbours``: ``[q, k]``, the gallery images nearest to each query's feature
    (:func:`nearest`); ``candidate_neighbours``: ``[q, c, k]``, those nearest to each candidate's (a broadcast view will
    do where all queries have the same candidates). Row numbers of one gallery, distinct within a set; negative ones
    stand for no neighbour; ``weight``: w, 1 in the paper. Raises InvalidField where shapes disagree.
    """
    if (
        scores.ndim != 2
        or query_neighbours.ndim != 2
        or len(query_neighbours) != len(scores)
        or candidate_neighbours.ndim != 3
        or candidate_neighbours.shape[:2] != scores.shape
    ):
        raise InvalidField(
            f"scores have shape {scores.shape}, query_neighbours {query_neighbours.shape} and "
            f"candidate_neighbours {candidate_neighbours.shape}, expected [q, c], [q, k] and [q, c, k]",
            field="candidate_neighbours",
        )
    both = np.zeros(scores.shape, dtype=np.int64)
    # A pass for each of the few neighbours keeps the comparison at [q, c, k].
    for neighbour in query_neighbours.T:
        own = neighbour[:, None]
        both += (candidate_neighbours == own[..., None]).any(axis=2) & (own >= 0)
    either = (
        (query_neighbours >= 0).sum(axis=1)[:, None]
        + (candidate_neighbours >= 0).sum(axis=2)
        - both
    )
    improved: NDArray[np.float64] = scores + weight * (both / np.maximum(either, 1))
    return improved
