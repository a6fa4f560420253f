"""Power over layers and subbands: optimal, constant for each user, and finite where a stream is switched off."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semlink.signal.precoding import (
    POWER_FLOOR,
    SINR_FLOOR,
    noise_power,
    precoder,
    predicted_sinr_db,
    water_filled,
    water_filling,
)


def channel(batch: int, users: int, rx: int, tx: int, seed: int = 0) -> torch.Tensor:
    """Subbands of very different strength, so that there is something to pour."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(batch, users, 8, rx, tx, dtype=torch.complex64, generator=generator)
    return h * torch.logspace(-1, 0.5, 8)[:, None, None]


def rate(gain: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    return torch.log2(1 + gain * power).sum(-1)


@settings(max_examples=100, deadline=None)
@given(
    decibels=st.lists(st.floats(-60, 60), min_size=1, max_size=32),
    seed=st.integers(0, 1000),
)
def test_no_other_split_carries_more(decibels: list[float], seed: int) -> None:
    gain = torch.pow(10.0, torch.tensor(decibels, dtype=torch.float64) / 10)
    power = water_filling(gain)
    assert bool((power >= 0).all())
    assert float(power.mean()) == pytest.approx(1.0, rel=1e-9)
    # Karush-Kuhn-Tucker: one water level over all that are on, none that is off lies below it
    on = power > 0
    level = (power + 1 / gain)[on]
    assert float(level.max() - level.min()) < 1e-6 * float(level.max())
    assert bool((1 / gain[~on] >= level.max() * (1 - 1e-9)).all())
    best = float(rate(gain, power))
    rng = np.random.default_rng(seed)
    for split in (np.ones(len(gain)), *rng.dirichlet(np.ones(len(gain)), 8) * len(gain)):
        assert best >= float(rate(gain, torch.from_numpy(split))) - 1e-6


def test_a_row_depends_on_itself_only() -> None:
    gain = torch.rand(5, 3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.equal(water_filling(gain)[3:4, 1:2], water_filling(gain[3:4, 1:2]))
    h, snr_db = channel(4, 3, 2, 16), torch.tensor([-5.0, 0.0, 10.0, 25.0])
    w = water_filled(h, precoder(h, 2, snr_db), snr_db, 2)
    alone = water_filled(h[2:3], precoder(h[2:3], 2, snr_db[2:3]), snr_db[2:3], 2)
    assert torch.equal(w[2:3], alone)


@pytest.mark.parametrize(("users", "num_layers"), [(1, 1), (1, 4), (2, 2), (4, 1), (8, 2)])
@pytest.mark.parametrize("snr", [-15.0, 5.0, 25.0])
def test_each_users_power_is_constant_and_all_stays_finite(
    users: int, num_layers: int, snr: float
) -> None:
    h, snr_db = channel(3, users, 4, 16), torch.full((3,), snr)
    equal = precoder(h, num_layers, snr_db)
    w = water_filled(h, equal, snr_db, num_layers)
    power = w.abs().square().sum(-2).view(3, 8, users, num_layers)
    total = power.sum(-1).mean(1)
    torch.testing.assert_close(total, torch.full_like(total, num_layers), rtol=1e-4, atol=1e-4)
    assert float(power.min()) >= POWER_FLOOR * 0.999
    # directions stay
    inner = (w.conj() * equal).sum(-2).abs().square()
    torch.testing.assert_close(inner.view_as(power), power, rtol=1e-3, atol=1e-5)
    for user in range(users):
        sinr = predicted_sinr_db(h, w, snr_db, num_layers, torch.full((3,), user))
        assert bool(sinr.isfinite().all())


def test_alone_it_raises_the_capacity_and_less_so_the_better_the_link() -> None:
    h = channel(50, 1, 4, 16)
    gains = []
    for snr in (-10.0, 5.0, 25.0):
        snr_db = torch.full((50,), snr)
        equal = precoder(h, 4, snr_db)
        poured = water_filled(h, equal, snr_db, 4)
        # log det of the true channel, nothing of ours
        capacities = []
        for w in (equal, poured):
            effective = (h[:, 0] @ w).to(torch.complex128)
            n0 = noise_power(4, snr_db)[:, None, None, None]
            gram = torch.eye(4) + effective.mH @ effective / n0
            capacities.append(float(torch.linalg.slogdet(gram)[1].mean()))
        gains.append(capacities[1] / capacities[0])
    assert gains[0] > gains[1] > gains[2] > 1 - 1e-3
    assert gains[0] > 1.3


def test_where_every_stream_is_alike_nothing_changes() -> None:
    """Orthogonal unit channels, the same in every subband."""
    h = torch.eye(4, dtype=torch.complex64)[:2].expand(1, 1, 8, 2, 4)
    snr_db = torch.tensor([0.0])
    w = precoder(h, 2, snr_db)
    torch.testing.assert_close(water_filled(h, w, snr_db, 2), w, rtol=1e-5, atol=1e-6)


def test_a_layer_without_energy_has_a_finite_prediction() -> None:
    h = torch.zeros(1, 1, 8, 2, 4, dtype=torch.complex64)
    h[..., 0, 0] = 1.0  # rank 1
    snr_db = torch.tensor([60.0])
    w = torch.eye(4, dtype=torch.complex64)[:, :2].expand(1, 8, 4, 2)
    sinr = predicted_sinr_db(h, w, snr_db, 2)
    assert bool(sinr.isfinite().all())
    assert float(sinr.min()) == pytest.approx(10 * math.log10(SINR_FLOOR))
    assert bool(water_filled(h, w, snr_db, 2).isfinite().all())
