"""Rows of a report out of what became of each query: metrics over seeds, shares of the ideal link, differences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lab.evaluation.bootstrap import paired_difference, share_of_gap
from lab.evaluation.report import Row, over_seeds
from lab.experiments.retrieval_sweep import METRICS, Outcome
from lab.experiments.sweep import Point, Sampling
from semlink.corpora.registry import gallery_split


def _coordinates(point: Point, sampling: Sampling) -> dict[str, object]:
    scheme = point.scheme
    over_link = scheme.method != "ideal"
    memory = f", {scheme.memory}" if scheme.memory else ""
    return {
        "task": sampling.task,
        "corpus": sampling.corpus_name,
        "split": gallery_split(sampling.corpus_name),
        "method": scheme.method,
        "scenario": point.scenario if over_link else None,
        "speed_kmh": point.speed_kmh if over_link else None,
        "snr_db": point.snr_db,
        "bits": scheme.bits or None,
        "symbols": point.symbols if over_link else None,
        "quantizer": scheme.quantizer if over_link else None,
        "variant": f"{point.num_users} users{memory}" if over_link else None,
        "num_users": point.num_users if over_link else None,
        "memory": scheme.memory or None,
        "condition": ", ".join(f"{name} {value}" for name, value in scheme.link) or None,
        "queries": sampling.queries,
    }


def _row(metric: str, figures: Mapping[str, object], coordinates: Mapping[str, object]) -> Row:
    return Row(metric=metric, **{**coordinates, **figures})  # type: ignore[arg-type]


def metric_rows(point: Point, outcome: Outcome, sampling: Sampling) -> list[Row]:
    """A point's metrics over seeds."""
    coordinates = _coordinates(point, sampling)
    return [_row(metric, over_seeds(outcome.per_seed(metric)), coordinates) for metric in METRICS]


def against_ideal_rows(
    point: Point, outcome: Outcome, ideal: Outcome, sampling: Sampling
) -> list[Row]:
    """What the link costs, seed by seed: ``map_share_of_ideal``, ``outage`` and ``goodput`` (ours, evaluation.md).

    Outage: share of queries with a right item in the first 10 over the ideal link and none over this one. Goodput:
    answers whose first item is right, in a second of 1 kHz: R@1 · users / k · 1000, as the users of a slot share its
    resource elements.
    """
    coordinates = _coordinates(point, sampling)
    lost = (ideal.per_query("r_at_10") > outcome.per_query("r_at_10")).mean(axis=1)
    per_khz = 1000.0 * point.num_users / point.symbols
    return [
        share_of_ideal_row(point, outcome, ideal, sampling),
        _row("outage", over_seeds([float(v) for v in lost]), coordinates),
        _row("goodput", over_seeds([per_khz * v for v in outcome.per_seed("r_at_1")]), coordinates),
    ]


def share_of_ideal_row(point: Point, outcome: Outcome, ideal: Outcome, sampling: Sampling) -> Row:
    """mAP as a share of what the ideal link gives, seed by seed: metric ``map_share_of_ideal``."""
    shares = np.array(outcome.per_seed("map")) / np.array(ideal.per_seed("map"))
    return _row("map_share_of_ideal", over_seeds(list(shares)), _coordinates(point, sampling))


def _clusters(sampling: Sampling) -> NDArray[np.int64]:
    """The link that each query rode on: int64 ``[seeds · queries]``."""
    return np.array(
        [sampling.link_seed(s, q) for s in range(sampling.seeds) for q in range(sampling.queries)]
    )


def difference_row(
    a: Point,
    b: Point,
    outcomes: Mapping[Point, Outcome],
    sampling: Sampling,
    metric: str = "map",
) -> Row:
    """A metric of A minus that of B, paired bootstrap: metric ``{metric}_difference``, at A's coordinates.

    The baseline is B's method or, where both have the same, B's label.
    """
    mean, ci95 = paired_difference(
        outcomes[a].per_query(metric).ravel(),
        outcomes[b].per_query(metric).ravel(),
        _clusters(sampling),
    )
    users = f"{a.num_users} users" if a.num_users == b.num_users else ""
    coordinates = _coordinates(a, sampling) | {
        "variant": f"{a.scheme.label} vs {b.scheme.label}, {users}".rstrip(", "),
        "baseline": b.scheme.label if a.scheme.method == b.scheme.method else b.scheme.method,
    }
    figures = {"mean": mean, "ci95": ci95, "seeds": sampling.seeds}
    return _row(f"{metric}_difference", figures, coordinates)


def gap_closed_row(
    point: Point, worse: Point, best: Point, outcomes: Mapping[Point, Outcome], sampling: Sampling
) -> Row:
    """Which share of the mAP gap from ``worse`` to ``best`` a point closes: metric ``map_gap_closed``."""
    of_point, of_worse, of_best = (
        outcomes[p].per_query("map").ravel() for p in (point, worse, best)
    )
    mean, ci95 = share_of_gap(of_point, of_worse, of_best, _clusters(sampling))
    coordinates = _coordinates(point, sampling) | {
        "variant": f"{point.scheme.label} of {worse.scheme.label} to {best.scheme.label}, "
        f"{point.num_users} users",
        "baseline": worse.scheme.label,
        "condition": f"gap to {best.scheme.label}",
    }
    return _row(
        "map_gap_closed", {"mean": mean, "ci95": ci95, "seeds": sampling.seeds}, coordinates
    )
