"""Re-ranking by visual neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from semlink.errors import InvalidField
from semlink.semantics.reranking import NEIGHBOURS, nearest, reranked


def _unit(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    unit: NDArray[np.float32] = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return unit


def _jaccard(a: NDArray[Any], b: NDArray[Any]) -> float:
    one, other = {int(i) for i in a if i >= 0}, {int(i) for i in b if i >= 0}
    return len(one & other) / len(one | other) if one | other else 0.0


def test_nearest_is_the_head_of_a_full_sort() -> None:
    features, gallery = _unit(40, 16), _unit(300, 16, seed=1)
    expected = np.argsort(-(features @ gallery.T), axis=1, kind="stable")[:, :NEIGHBOURS]
    assert np.array_equal(nearest(features, gallery, NEIGHBOURS), expected)


def test_nearest_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features, gallery = _unit(23, 8), _unit(50, 8, seed=1)
    whole = nearest(features, gallery, 4)
    monkeypatch.setattr("semlink.semantics.reranking._BLOCK_SCORES", 50 * 7)
    assert np.array_equal(nearest(features, gallery, 4), whole)


def test_of_equal_images_the_smaller_row_comes_first() -> None:
    gallery = np.repeat(_unit(3, 8), 4, axis=0)
    found = nearest(gallery[4:5], gallery, 6)[0]
    assert found[:4].tolist() == [4, 5, 6, 7]
    assert found[4] < found[5]


def test_an_image_is_its_own_first_neighbour() -> None:
    gallery = _unit(60, 16)
    assert np.array_equal(nearest(gallery, gallery, 3)[:, 0], np.arange(60))


def test_small_and_empty_galleries_leave_places_open() -> None:
    assert nearest(_unit(2, 4), _unit(3, 4, seed=1), 5)[:, 3:].tolist() == [[-1, -1]] * 2
    assert (nearest(_unit(2, 4), np.zeros((0, 4)), 5) == -1).all()
    assert nearest(np.zeros((0, 4)), _unit(3, 4), 5).shape == (0, 5)


def test_reranked_is_the_jaccard_index_of_sets_on_top() -> None:
    texts, images = _unit(30, 12), _unit(80, 12, seed=1)
    scores = texts @ images.T
    of_texts, of_images = nearest(texts, images, 5), nearest(images, images, 5)
    shared = np.broadcast_to(of_images, (30, 80, 5))
    expected = [
        [scores[t, v] + _jaccard(of_texts[t], of_images[v]) for v in range(80)] for t in range(30)
    ]
    found = reranked(scores, of_texts, shared)
    assert np.allclose(found, expected, atol=1e-6)
    assert (found - scores).max() > 0.2, "the fixture has neighbourhoods that meet"


def test_candidates_of_a_query_may_be_any() -> None:
    rng = np.random.default_rng(3)
    queries = np.stack([rng.permutation(20)[:5] for _ in range(6)])
    candidates = np.stack([[rng.permutation(20)[:5] for _ in range(9)] for _ in range(6)])
    candidates[0, 0, 2:] = -1
    queries[1, 3:] = -1
    scores = rng.uniform(-1, 1, (6, 9))
    expected = [
        [scores[q, c] + _jaccard(queries[q], candidates[q, c]) for c in range(9)] for q in range(6)
    ]
    assert np.allclose(reranked(scores, queries, candidates), expected)


def test_limits() -> None:
    same = np.arange(5)[None]
    assert reranked(np.array([[0.25]]), same, same[None])[0, 0] == 1.25
    assert reranked(np.array([[0.25]]), same, same[None] + 5)[0, 0] == 0.25
    nobody = np.full((1, 5), -1)
    assert reranked(np.array([[0.25]]), nobody, nobody[None])[0, 0] == 0.25


def test_a_neighbourhood_lifts_its_images_over_a_nearer_stranger() -> None:
    """Five images of one person near the text; another person's image that is a little nearer, its others far."""
    rng = np.random.default_rng(0)
    centre, one, other = np.eye(16)[:3]
    person = centre + 0.3 * one + 0.01 * rng.standard_normal((5, 16))
    stranger = centre + np.array([[0.25], [0.5], [0.52], [0.54], [0.56]]) * other
    gallery = np.vstack([person, stranger])
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    text = centre[None]
    scores = text @ gallery.T
    assert scores[0].argmax() == 5
    lifted = reranked(
        scores,
        nearest(text, gallery, 5),
        nearest(gallery, gallery, 5)[None],
    )
    assert lifted[0].argmax() < 5
    # What is added is the index times its weight, whatever the weight.
    near = (nearest(text, gallery, 5), nearest(gallery, gallery, 5)[None])
    assert np.allclose(reranked(scores, *near, 0.2) - scores, 0.2 * (lifted - scores))
    assert np.array_equal(reranked(scores, *near, 0.0), scores)


@pytest.mark.parametrize(
    ("scores", "of_texts", "of_images"),
    [((2, 3), (3, 5), (2, 3, 5)), ((2, 3), (2, 5), (3, 2, 5)), ((2, 3), (2, 5), (3, 5))],
)
def test_shapes_that_disagree_are_refused(
    scores: tuple[int, ...], of_texts: tuple[int, ...], of_images: tuple[int, ...]
) -> None:
    with pytest.raises(InvalidField, match="expected"):
        reranked(np.zeros(scores), np.zeros(of_texts, np.int64), np.zeros(of_images, np.int64))


def test_nearest_refuses_other_widths_and_no_neighbours() -> None:
    with pytest.raises(InvalidField, match="expected"):
        nearest(np.zeros((2, 4)), np.zeros((2, 5)), 5)
    with pytest.raises(InvalidField, match="at least 1"):
        nearest(np.zeros((2, 4)), np.zeros((2, 4)), 0)
