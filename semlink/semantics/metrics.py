"""Retrieval metrics, vectorised over queries. Shares are in 0…1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from semlink.errors import InvalidField

CUTOFFS: Final = (1, 5, 10)
MAP_CUTOFF: Final = 10


def ranked_relevance(scores: NDArray[Any], relevant: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Relevance in order of falling score, ``[num_queries, num_gallery]``, bool.

    ``scores``: ``[num_queries, num_gallery]``, finite, greater is better; ``relevant``: the same shape, bool, at least
    one True a row. Among equal scores the irrelevant come first: a scorer that says nothing earns nothing. Raises
    InvalidField otherwise.
    """
    if scores.shape != relevant.shape or scores.ndim != 2 or not scores.size:
        raise InvalidField(
            f"scores have shape {scores.shape} and relevant {relevant.shape}, "
            "expected the same [num_queries, num_gallery]",
            field="scores",
        )
    if not np.isfinite(scores).all():
        raise InvalidField("scores hold values that are not finite", field="scores")
    if not relevant.any(axis=1).all():
        row = int(np.argmin(relevant.any(axis=1)))
        raise InvalidField(f"query {row} has no relevant item in the gallery", field="relevant")
    order = np.lexsort((relevant, -scores), axis=-1)
    ranked: NDArray[np.bool_] = np.take_along_axis(relevant, order, axis=1)
    return ranked


def average_precision(ranked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Average precision of each query over the whole gallery: float64 ``[num_queries]``.

    ``ranked``: see :func:`ranked_relevance`.
    """
    precision: NDArray[np.float64] = _precision_at_hits(ranked).sum(axis=1) / ranked.sum(axis=1)
    return precision


def _precision_at_hits(ranked: NDArray[np.bool_]) -> NDArray[np.float64]:
    places = np.arange(1, ranked.shape[1] + 1)
    precision: NDArray[np.float64] = ranked * np.cumsum(ranked, axis=1) / places
    return precision


def _hit(ranked: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    return np.asarray(ranked[:, :k].any(axis=1), dtype=np.float64)


def _inverse_negative_penalty(ranked: NDArray[np.bool_]) -> NDArray[np.float64]:
    last = ranked.shape[1] - np.argmax(ranked[:, ::-1], axis=1)
    return np.asarray(ranked.sum(axis=1) / last, dtype=np.float64)


def _precision_to_cutoff(ranked: NDArray[np.bool_]) -> NDArray[np.float64]:
    top = _precision_at_hits(ranked[:, :MAP_CUTOFF]).sum(axis=1)
    return np.asarray(top / np.minimum(ranked.sum(axis=1), MAP_CUTOFF), dtype=np.float64)


METRICS: Final[Mapping[str, Callable[[NDArray[np.bool_]], NDArray[np.float64]]]] = {
    **{f"r_at_{k}": partial(_hit, k=k) for k in CUTOFFS},
    "map": average_precision,
    "minp": _inverse_negative_penalty,
    "map_at_10": _precision_to_cutoff,
}
"""Of each query, float64 ``[num_queries]``, by name; what they are: :func:`retrieval_metrics`."""


def per_query(
    scores: NDArray[Any], relevant: NDArray[np.bool_], names: Iterable[str] = tuple(METRICS)
) -> dict[str, NDArray[np.float64]]:
    """Some of :data:`METRICS` of each query; arguments and errors as of :func:`ranked_relevance`."""
    ranked = ranked_relevance(scores, relevant)
    return {name: METRICS[name](ranked) for name in names}


def retrieval_metrics(scores: NDArray[Any], relevant: NDArray[np.bool_]) -> dict[str, float]:
    """R@1/5/10, mAP, mINP and mAP@10 over all queries; arguments as in :func:`ranked_relevance`.

    - ``r_at_k``: share of queries with any relevant item among the first k (person search: Rank-k by identity;
      audio to text: best of the captions).
    - ``map``: mean over queries of the average precision over the whole gallery.
    - ``minp``: mean of |relevant| / rank of the last relevant item (Ye et al., arXiv 2001.04193).
    - ``map_at_10``: Σ of the precision at hits among the first 10, divided by the number of relevant items (at most
      10): 1/rank for one relevant item, /5 for five captions.
    """
    return {name: float(values.mean()) for name, values in per_query(scores, relevant).items()}
