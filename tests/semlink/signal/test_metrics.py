"""Retrieval metrics against a second, slow computation and on cases one can do in the head."""

from __future__ import annotations

import numpy as np
import pytest

from semlink.errors import InvalidField
from semlink.semantics.metrics import retrieval_metrics


def slowly(scores: np.ndarray, relevant: np.ndarray) -> dict[str, float]:
    """The definitions, item by item."""
    sums: dict[str, list[float]] = {}
    for row, truth in zip(scores.tolist(), relevant.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda i: (-row[i], truth[i]))
        places = [place for place, i in enumerate(order, 1) if truth[i]]
        precisions = [hits / place for hits, place in enumerate(places, 1)]
        in_top = sum(p for p, place in zip(precisions, places, strict=True) if place <= 10)
        values = {f"r_at_{k}": float(places[0] <= k) for k in (1, 5, 10)}
        values |= {
            "map": sum(precisions) / len(places),
            "minp": len(places) / places[-1],
            "map_at_10": in_top / min(len(places), 10),
        }
        for name, value in values.items():
            sums.setdefault(name, []).append(value)
    return {name: sum(v) / len(v) for name, v in sums.items()}


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definitions_item_by_item(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Rounded, so that ties happen.
    scores = np.round(rng.normal(size=(30, 40)), 1).astype(np.float32)
    relevant = rng.random((30, 40)) < 0.1
    relevant[np.arange(30), rng.integers(0, 40, 30)] = True
    assert retrieval_metrics(scores, relevant) == pytest.approx(slowly(scores, relevant))


def test_one_relevant_item_at_rank_three() -> None:
    metrics = retrieval_metrics(
        np.array([[0.9, 0.8, 0.7, 0.6]]), np.array([[False, False, True, False]])
    )
    assert metrics["r_at_1"] == 0.0
    assert metrics["r_at_5"] == 1.0
    assert metrics["map"] == metrics["minp"] == metrics["map_at_10"] == pytest.approx(1 / 3)


def test_a_scorer_that_says_nothing_earns_nothing() -> None:
    relevant = np.eye(50, dtype=bool)
    assert retrieval_metrics(np.zeros((50, 50)), relevant)["r_at_10"] == 0.0


def test_the_order_of_the_gallery_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    scores, relevant = rng.normal(size=(20, 60)), rng.random((20, 60)) < 0.2
    relevant[:, 0] = True
    order = rng.permutation(60)
    assert retrieval_metrics(scores, relevant) == pytest.approx(
        retrieval_metrics(scores[:, order], relevant[:, order])
    )


@pytest.mark.parametrize(
    ("scores", "relevant", "field"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4), bool), "scores"),
        (np.full((2, 3), np.nan), np.ones((2, 3), bool), "scores"),
        (np.zeros((2, 3)), np.array([[True, False, False], [False] * 3]), "relevant"),
    ],
)
def test_bad_input_names_the_field(scores: np.ndarray, relevant: np.ndarray, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        retrieval_metrics(scores, relevant)
    assert caught.value.field == field
