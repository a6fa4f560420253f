"""Deflated tensors come back bit for bit, and broken ones are named."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semlink.errors import CorruptModel
from semlink.zlib_tensors import BYTES, deflate, inflate


@given(
    shape=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    signed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_nothing_is_lost(shape: list[int], signed: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.int8 if signed else torch.uint8
    low, high = (-128, 128) if signed else (0, 256)
    whole = torch.randint(low, high, shape, generator=generator).to(dtype)
    other = torch.randn(3, generator=generator)
    back = inflate(deflate({"whole": whole, "other": other}, ["whole"]))
    assert back.keys() == {"whole", "other"}
    assert back["whole"].dtype == dtype
    assert torch.equal(back["whole"], whole)
    assert torch.equal(back["other"], other)


def test_it_is_smaller_where_values_repeat() -> None:
    tensors = deflate({"x": torch.zeros(1000, dtype=torch.uint8)}, ["x"])
    assert sum(t.numel() * t.element_size() for t in tensors.values()) < 100


def test_floats_are_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        deflate({"x": torch.zeros(3)}, ["x"])


def test_damage_is_named() -> None:
    stored = deflate({"levels": torch.arange(200, dtype=torch.uint8)}, ["levels"])
    cut = {**stored, "levels" + BYTES: stored["levels" + BYTES][:-20]}
    with pytest.raises(CorruptModel, match="levels"):
        inflate(cut)
