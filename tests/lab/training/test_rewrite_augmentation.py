"""Training with rewrites: which text stands for a caption, and rows that differ in nothing else."""

import numpy as np
import pytest
import torch

from lab.training.features import FrozenFeatures
from lab.training.rewrite_augmentation import ROWS, Augmentation, Few, _caption, fit


def _features(n: int, tokens: int, seed: int) -> FrozenFeatures:
    values = torch.randn(n * tokens, 16, generator=torch.Generator().manual_seed(seed))
    return FrozenFeatures(values.half(), torch.arange(n + 1) * tokens)


@pytest.fixture
def data() -> Few:
    captions = [torch.full((3, 16), float(n)).half() for n in range(6)]
    rewrites = [torch.full((2, 16), 100.0 + n).half() for n in range(12)]
    every = [[2 * n, 2 * n + 1] for n in range(6)]
    kept = [[2 * n] if n != 3 else [] for n in range(6)]
    return Few("person", _features(6, 4, 0), torch.arange(6), captions, rewrites, kept, every)


def _read(data: Few, row: Augmentation, item: int, times: int = 400) -> list[float]:
    draws = np.random.default_rng(0)
    return [float(_caption(data, row, item, draws)[0, 0]) for _ in range(times)]


def test_without_beta_captions_stay(data):
    assert set(_read(data, Augmentation(0.0), 2)) == {2.0}


def test_beta_is_the_share_of_rewrites(data):
    read = _read(data, Augmentation(0.2, filtered=False), 2)
    assert np.mean(np.array(read) != 2.0) == pytest.approx(0.2, abs=0.06)
    assert set(read) == {2.0, 104.0, 105.0}


def test_the_filter_leaves_what_it_dropped_unread(data):
    assert set(_read(data, Augmentation(0.9), 2)) == {2.0, 104.0}
    assert set(_read(data, Augmentation(0.9), 3)) == {3.0}


def test_rows_differ_in_captions_alone(data):
    started = [fit(data, row, seed=1, steps=0) for row in ROWS]
    first = started[0].state_dict()
    assert all(
        torch.equal(first[name], other.state_dict()[name]) for other in started for name in first
    )
    trained = fit(data, ROWS[0], seed=1, steps=3)
    again = fit(data, ROWS[0], seed=1, steps=3)
    other = fit(data, Augmentation(0.9), seed=1, steps=3)
    name = "text.out.weight"
    assert torch.equal(trained.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(trained.state_dict()[name], other.state_dict()[name])


def test_weights_are_those_of_before_there_was_one_trainer(data):
    """Measured at c2b07b2, when this model had a loop of its own: sums of magnitudes after six steps."""
    state = fit(data, Augmentation(0.5), 1, steps=6).state_dict()
    sums = {
        name: float(state[name].double().abs().sum())
        for name in ("text.out.weight", "media.positions", "log_scale")
    }
    assert sums == pytest.approx(
        {
            "text.out.weight": 2895.220577,
            "media.positions": 131.168475,
            "log_scale": 2.659209,
        },
        rel=1e-5,
    )
