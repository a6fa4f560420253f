"""Paired bootstrap over queries: intervals for "A beats B" and for shares of a gap."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

RESAMPLES: Final = 4000
LEVEL: Final = 0.95


def resampled_means(
    values: NDArray[Any], clusters: NDArray[np.int64], *, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Means of ``values`` over resampled clusters: float64 ``[resamples, columns]``.

    ``values``: ``[queries, columns]``, paired (a row is one query under every column's method); ``clusters``: int64
    ``[queries]``. Queries that rode on the same link saw the same channel, so whole links are drawn with replacement,
    not single queries: an interval over single queries would be too narrow. The draws are always the same.
    """
    _, member = np.unique(clusters, return_inverse=True)
    count = int(member.max()) + 1
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, member, values)
    sizes = np.bincount(member, minlength=count).astype(np.float64)
    drawn = np.random.default_rng(0).integers(0, count, (resamples, count))
    # How often each cluster was drawn turns all resamples into one product.
    times = np.zeros((resamples, count))
    np.add.at(times, (np.arange(resamples)[:, None], drawn), 1.0)
    means: NDArray[np.float64] = (times @ sums) / (times @ sizes)[:, None]
    return means


def interval(samples: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of resampled figures (percentile bootstrap)."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired_difference(
    a: NDArray[Any], b: NDArray[Any], clusters: NDArray[np.int64]
) -> tuple[float, tuple[float, float]]:
    """Mean of ``a − b`` over queries and its 95 % interval; A beats B where the interval lies above 0."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    means = resampled_means(difference[:, None], clusters)
    return float(difference.mean()), interval(means[:, 0])


def share_of_gap(
    better: NDArray[Any], worse: NDArray[Any], best: NDArray[Any], clusters: NDArray[np.int64]
) -> tuple[float, tuple[float, float]]:
    """``(better − worse) / (best − worse)`` of the means and its 95 % interval: how much of a gap is closed.

    Not a number where there is no gap.
    """
    parts = np.stack(
        [
            np.asarray(better, dtype=np.float64) - worse,
            np.asarray(best, dtype=np.float64) - worse,
        ],
        axis=1,
    )
    mean = parts.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = resampled_means(parts, clusters)
        share = float(mean[0] / mean[1]) if mean[1] else float("nan")
        return share, interval(means[:, 0] / means[:, 1])
