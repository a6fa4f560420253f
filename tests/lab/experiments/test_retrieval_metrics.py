"""Rows out of outcomes: outage and goodput as a reader would count them."""

import numpy as np
import pytest

from lab.experiments.retrieval_metrics import against_ideal_rows, difference_row, metric_rows
from lab.experiments.retrieval_sweep import Outcome
from lab.experiments.sweep import IDEAL, JSCC, Point, Sampling

SAMPLING = Sampling("person", seeds=3, queries=40, links=8)
POINT = Point(JSCC, num_users=4, symbols=16, snr_db=0.0)


def _outcome(seed: int, better: float = 0.0) -> Outcome:
    rng = np.random.default_rng(seed)
    rank = rng.integers(1, 30, (3, 40)) * (1.0 - better)
    figures = (1 / np.maximum(rank, 1), rank <= 1, rank <= 10, rank < 0)
    return Outcome(np.stack(figures).astype(np.float32))


def test_outage_counts_what_the_link_lost_of_the_first_ten() -> None:
    here, ideal = _outcome(0), _outcome(1)
    rows = {r.metric: r for r in against_ideal_rows(POINT, here, ideal, SAMPLING)}
    counted = [
        sum(bool(i) and not bool(h) for i, h in zip(*pair, strict=True)) / 40
        for pair in zip(ideal.per_query("r_at_10"), here.per_query("r_at_10"), strict=True)
    ]
    assert rows["outage"].values == pytest.approx(counted)
    assert 0 < rows["outage"].mean < 1
    same = {r.metric: r for r in against_ideal_rows(POINT, ideal, ideal, SAMPLING)}
    assert same["outage"].mean == 0
    assert same["map_share_of_ideal"].mean == pytest.approx(1)


def test_goodput_is_right_answers_a_second_in_a_kilohertz() -> None:
    """A kilohertz carries 1000 complex symbols a second, for each user that shares them."""
    here = _outcome(0)
    rows = {r.metric: r for r in against_ideal_rows(POINT, here, _outcome(1), SAMPLING)}
    answers = 1000 / POINT.symbols * POINT.num_users
    (first,) = (r for r in metric_rows(POINT, here, SAMPLING) if r.metric == "r_at_1")
    assert rows["goodput"].mean == pytest.approx(answers * first.mean)
    assert rows["goodput"].seeds == 3


def test_rows_stand_at_their_corpus_and_split() -> None:
    (row, *_) = metric_rows(Point(IDEAL), _outcome(0), SAMPLING)
    assert (row.corpus, row.split, row.scenario) == ("pedestrians", "test", None)
    better = Point(JSCC, snr_db=0.0, num_users=1)
    found = difference_row(better, POINT, {better: _outcome(0, 0.5), POINT: _outcome(0)}, SAMPLING)
    assert found.mean > 0
    assert found.ci95 is not None
    assert found.ci95[0] < found.mean < found.ci95[1]
