"""Precoders: power, zero interference, gains, and the figures that judge CSI."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semlink.errors import InvalidField
from semlink.links import Link
from semlink.signal.metrics import nmse_db, phase_aligned_nmse_db, precoding_gain_db, sgcs
from semlink.signal.precoding import (
    noise_power,
    open_loop_precoder,
    precoder,
    predicted_sinr_db,
)


def channel(batch: int, users: int, rx: int, tx: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, users, 8, rx, tx, dtype=torch.complex64, generator=generator)


@settings(max_examples=25, deadline=None)
@given(
    users=st.integers(1, 8),
    num_layers=st.integers(1, 2),
    rx=st.sampled_from([2, 4]),
    snr_db=st.floats(-30, 60),
    seed=st.integers(0, 1000),
)
def test_power_and_equal_streams(users, num_layers, rx, snr_db, seed):
    w = precoder(channel(2, users, rx, 16, seed), num_layers, torch.full((2,), snr_db))
    assert w.shape == (2, 8, 16, users * num_layers)
    norms = w.abs().square().sum(-2)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-4, atol=1e-4)


def test_alone_it_is_the_dominant_subspace():
    h = channel(3, 1, 4, 8)
    w = precoder(h, 2, torch.zeros(3))
    effective = h[:, 0] @ w
    singular = torch.linalg.svdvals(h[:, 0])[..., :2]
    torch.testing.assert_close(torch.linalg.svdvals(effective), singular, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        w.mH @ w, torch.eye(2, dtype=w.dtype).expand(3, 8, 2, 2), rtol=1e-4, atol=1e-4
    )


def test_regularised_zero_forcing_nulls_the_others_at_high_snr():
    h = channel(4, 4, 1, 16)
    received = h.squeeze(-2).transpose(1, 2) @ precoder(h, 1, torch.full((4,), 60.0))
    power = received.abs().square()
    own = power.diagonal(dim1=-2, dim2=-1)
    leaked = power.sum(-1) - own
    assert float((leaked / own).max()) < 1e-6
    # at low SNR it goes over to the matched filter
    matched = h.squeeze(-2).transpose(1, 2).mH
    matched = matched / matched.norm(dim=-2, keepdim=True)
    inner = (precoder(h, 1, torch.full((4,), -30.0)).conj() * matched).sum(-2).abs()
    assert float(inner.min()) > 0.999


def test_several_layers_a_user_do_not_meet_either():
    h = channel(2, 3, 2, 16, seed=5)
    w = precoder(h, 2, torch.full((2,), 60.0))
    for user in range(3):
        effective = h[:, user] @ w
        own = effective[..., 2 * user : 2 * user + 2]
        total = effective.abs().square().sum((-2, -1))
        assert float((1 - own.abs().square().sum((-2, -1)) / total).max()) < 1e-5


def test_csi_of_too_low_rank_still_gives_every_stream_its_power():
    direction = channel(1, 2, 1, 8)
    h = direction.expand(1, 2, 8, 2, 8)  # both antennas alike: rank 1
    w = precoder(h, 2, torch.tensor([10.0]))
    norms = w.abs().square().sum(-2)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-4, atol=1e-4)


def test_no_energy_no_precoder():
    h = channel(1, 2, 2, 8)
    h[0, 1, 3] = 0
    with pytest.raises(InvalidField):
        precoder(h, 1, torch.tensor([10.0]))


def test_batch_mates_change_nothing():
    h, snr_db = channel(4, 4, 2, 16), torch.tensor([-5.0, 0.0, 10.0, 25.0])
    assert torch.equal(precoder(h, 1, snr_db)[2:3], precoder(h[2:3], 1, snr_db[2:3]))


def test_predicted_sinr_alone_is_the_array_gain():
    """One user, one stream: SNR · σ₁²."""
    h = channel(2, 1, 2, 16)
    snr_db = torch.tensor([0.0, 20.0])
    predicted = predicted_sinr_db(h, precoder(h, 1, snr_db), snr_db, 1)[..., 0]
    gain_db = 20 * torch.log10(torch.linalg.svdvals(h[:, 0])[..., 0])
    torch.testing.assert_close(predicted, snr_db[:, None] + gain_db, rtol=0, atol=1e-3)


def test_noise_power_follows_total_power():
    assert float(noise_power(4, torch.tensor([10.0]))) == pytest.approx(0.4)


def test_open_loop_is_orthonormal_and_fixed_by_its_seed():
    config = Link()
    w = open_loop_precoder(config.num_tx_ant, config.num_users * config.num_layers, [3, 4])
    torch.testing.assert_close(
        w.mH @ w, torch.eye(4, dtype=w.dtype).expand(2, 8, 4, 4), rtol=1e-5, atol=1e-5
    )
    assert torch.equal(
        w[1:], open_loop_precoder(config.num_tx_ant, config.num_users * config.num_layers, [4])
    )
    assert not torch.equal(w[0], w[1])
    assert not torch.equal(w[0, 0], w[0, 1])


def test_figures_of_csi():
    h = channel(6, 1, 2, 16)[:, 0]
    noise = channel(6, 1, 2, 16, seed=1)[:, 0] * math.sqrt(0.1)
    assert float(nmse_db(h, h + noise)) == pytest.approx(-10, abs=0.5)
    assert float(nmse_db(h, torch.zeros_like(h))) == pytest.approx(0)
    turned = h * torch.polar(torch.tensor(1.0), torch.tensor(2.0))
    assert float(nmse_db(h, turned)) > 3
    assert float(phase_aligned_nmse_db(h, turned).max()) < -50
    torch.testing.assert_close(sgcs(h, 3 * turned), torch.ones(6))
    assert float(sgcs(h, channel(6, 1, 2, 16, seed=2)[:, 0]).mean()) < 0.3
    # one ratio of sums, not a mean of ratios
    loud = torch.cat([h, 10 * h])
    wrong = torch.cat([2 * h, 10 * h])
    assert float(nmse_db(loud, wrong)) == pytest.approx(10 * math.log10(1 / 101), abs=1e-3)


def test_precoding_gain_is_largest_with_the_truth():
    h = channel(50, 1, 2, 16)[:, 0]
    best = precoding_gain_db(h, h)
    expected = torch.linalg.svdvals(h)[..., 0].square().mean(-1) / h.abs().square().mean((1, 2, 3))
    torch.testing.assert_close(best, 10 * torch.log10(expected), rtol=1e-4, atol=1e-4)
    blind = precoding_gain_db(h, channel(50, 1, 2, 16, seed=9)[:, 0])
    assert float((best - blind).min()) > 0
    # without CSI: the two receive antennas, 3 dB
    assert float((10 ** (blind / 10)).mean()) == pytest.approx(2.0, rel=0.1)
