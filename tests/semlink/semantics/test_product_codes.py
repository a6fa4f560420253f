"""Product codes: near what was coded, nearer with more bytes, the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from semlink.errors import InvalidField
from semlink.semantics.product_codes import ProductCodes


def vectors(count: int = 900, dim: int = 64, rank: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    found = rng.normal(size=(count, rank)) @ rng.normal(size=(rank, dim)) + 0.3
    unit: np.ndarray = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_more_bytes_are_nearer() -> None:
    x = vectors()
    errors = []
    for parts in (1, 4, 8, 16):
        coded = ProductCodes.fit(x, parts)
        assert coded.codes.shape == (len(x), parts)
        assert coded.vectors().shape == x.shape
        errors.append(float(((coded.vectors() - x) ** 2).sum(1).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]


def test_codes_say_the_nearest_centroid() -> None:
    x = vectors()
    coded = ProductCodes.fit(x, 5)
    turned = ((x - coded.mean.astype(np.float32)) @ coded.axes.astype(np.float32).T).reshape(
        -1, 5, 4
    )
    for part in range(5):
        distance = ((turned[:, part, None] - coded.codebooks[part].astype(np.float32)) ** 2).sum(-1)
        chosen = distance[np.arange(len(x)), coded.codes[:, part]]
        np.testing.assert_allclose(chosen, distance.min(1), atol=1e-5)


def test_the_same_input_gives_the_same_codes() -> None:
    assert np.array_equal(
        ProductCodes.fit(vectors(), 4).codes, ProductCodes.fit(vectors(), 4).codes
    )


def test_equal_vectors_are_coded_exactly() -> None:
    x = np.repeat(vectors(4), 100, axis=0)
    np.testing.assert_allclose(ProductCodes.fit(x, 2).vectors(), x, atol=5e-3)


@pytest.mark.parametrize(
    ("count", "parts", "field"), [(255, 4, "vectors"), (300, 0, "parts"), (300, 17, "parts")]
)
def test_bad_input_is_refused(count: int, parts: int, field: str) -> None:
    with pytest.raises(InvalidField) as refusal:
        ProductCodes.fit(vectors(count), parts)
    assert refusal.value.field == field
