"""Precision and recall of the filter, recomputed by hand, and the rule by which α is chosen."""

import numpy as np
import pytest

from lab.evaluation.filter_calibration import ALPHAS, FAITHFUL_LOST, Judged, chosen_alpha, detection


def _judged(n=400, seed=0):
    rng = np.random.default_rng(seed)
    bad = rng.random(n) < 0.4
    similarity = np.where(bad, rng.uniform(0.3, 1.0, n), rng.uniform(0.6, 1.0, n))
    objected = np.where(bad, rng.random(n) < 0.9, rng.random(n) < 0.05)
    return Judged(bad, similarity.astype(np.float32), objected)


@pytest.mark.parametrize("attributes", [False, True])
@pytest.mark.parametrize("alpha", [None, 0.5, 0.8])
def test_figures_agree_with_counting(alpha, attributes):
    found = _judged()
    right = wrong = missed = 0
    for bad, similarity, objected in zip(
        found.hallucinated, found.similarity, found.objected, strict=True
    ):
        dropped = (alpha is not None and similarity < alpha) or (attributes and objected)
        right += bool(dropped and bad)
        wrong += bool(dropped and not bad)
        missed += bool(bad and not dropped)
    value = detection(found, alpha, attributes=attributes)
    assert value.recall == pytest.approx(right / (right + missed))
    if right + wrong:
        assert value.precision == pytest.approx(right / (right + wrong))
    else:
        assert np.isnan(value.precision)


def test_alpha_with_the_attribute_test_is_the_largest_that_loses_almost_nothing_faithful():
    found = _judged()
    alpha = chosen_alpha(found, attributes=True)
    faithful = found[~found.hallucinated].similarity
    assert (faithful < alpha).mean() <= FAITHFUL_LOST
    higher = [a for a in ALPHAS if a > alpha]
    assert (faithful < higher[0]).mean() > FAITHFUL_LOST


def test_alpha_alone_has_the_best_f1():
    found = _judged(seed=3)
    best = detection(found, chosen_alpha(found, attributes=False), attributes=False).f1
    assert all(detection(found, a, attributes=False).f1 <= best for a in ALPHAS)
