"""LMMSE: against the textbook formula, by simulation, and one element at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semlink.errors import InvalidField
from semlink.signal.equalization import (
    equalize,
    lmmse,
    mean_sinr_db,
    noise_variance,
    over_subbands,
    subband_share,
)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.complex64, generator=generator)


@settings(max_examples=25, deadline=None)
@given(
    num_rx_ant=st.sampled_from([1, 2, 4]),
    num_layers=st.integers(1, 4),
    others=st.integers(0, 6),
    snr_db=st.floats(-20, 50),
    seed=st.integers(0, 1000),
)
def test_sinr_is_that_of_the_interference_covariance(num_rx_ant, num_layers, others, snr_db, seed):
    """Independent way: SINR_l = g_lᴴ (Σ_{j≠l} g_j g_jᴴ + N0 I)⁻¹ g_l."""
    num_layers = min(num_layers, num_rx_ant)
    g = gaussian(3, 8, num_rx_ant, num_layers + others, seed=seed)
    n0 = 10 ** (-snr_db / 10)
    weights, sinr = lmmse(g, torch.full((3,), n0), num_layers)
    wide = g.to(torch.complex128)
    for layer in range(num_layers):
        rest = torch.cat([wide[..., :layer], wide[..., layer + 1 :]], -1)
        covariance = rest @ rest.mH + n0 * torch.eye(num_rx_ant)
        own = wide[..., layer : layer + 1]
        expected = (own.mH @ torch.linalg.inv(covariance) @ own)[..., 0, 0].real
        torch.testing.assert_close(sinr[..., layer].double(), expected, rtol=1e-4, atol=1e-9)
        # unbiased: the own stream passes with gain 1
        gain = (weights[..., layer, None, :].to(torch.complex128) @ own)[..., 0, 0]
        torch.testing.assert_close(gain, torch.ones_like(gain), rtol=1e-4, atol=1e-4)


def test_error_variance_is_one_over_sinr():
    num_elements = 40_000
    g, n0 = gaussian(1, 8, 2, 3, seed=3), 0.3
    streams = gaussian(1, 3, num_elements, seed=4)
    noise = gaussian(1, 2, num_elements, seed=5) * math.sqrt(n0)
    weights, sinr = lmmse(g, torch.tensor([n0]), 1)
    error = equalize(over_subbands(streams, g) + noise, weights) - streams[:, :1]
    power = error.abs().square().view(1, -1, 8).mean((0, 1))
    torch.testing.assert_close(power, 1 / sinr[0, :, 0], rtol=0.06, atol=0)


def test_pilot_error_is_in_the_variance_when_the_length_is_known():
    """With noisy pilots the SINR that ignores their noise promises too much; with the length it holds."""
    trials, n0, length = 4000, 0.2, 12
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.complex64, generator=generator)

    g = draw(trials, 8, 2, 2)
    pilots = g + draw(trials, 8, 2, 2) * math.sqrt(n0 / length)
    streams = draw(trials, 2, 16)
    received = over_subbands(streams, g) + draw(trials, 2, 16) * math.sqrt(n0)
    level = torch.full((trials,), n0)
    ratios = []
    for known in (None, length):
        weights, sinr = lmmse(pilots, level, 1, known)
        error = (equalize(received, weights) - streams[:, :1]).abs().square()[:, 0]
        # normalised by what is promised: 1 when the promise holds
        ratios.append(float((error * sinr[:, torch.arange(16) % 8, 0]).mean()))
    assert ratios[0] > 1.1
    assert ratios[1] == pytest.approx(1.0, abs=0.08)


def test_equalize_is_the_product_of_each_element():
    samples, weights = gaussian(2, 2, 21, seed=6), gaussian(2, 8, 3, 2, seed=7)
    one_by_one = torch.stack(
        [torch.einsum("blr,br->bl", weights[:, i % 8], samples[:, :, i]) for i in range(21)], -1
    )
    torch.testing.assert_close(equalize(samples, weights), one_by_one)


def test_without_noise_the_symbols_come_back():
    g, u = gaussian(1, 8, 4, 4, seed=8), gaussian(1, 4, 40, seed=9)
    weights, _ = lmmse(g, torch.tensor([1e-9]), 4)
    torch.testing.assert_close(equalize(over_subbands(u, g), weights), u, rtol=1e-2, atol=1e-2)


def test_a_batch_mate_changes_nothing():
    g, samples = gaussian(5, 8, 2, 4, seed=10), gaussian(5, 2, 64, seed=11)
    n0 = torch.rand(5, generator=torch.Generator().manual_seed(0)) + 0.1
    weights, sinr = lmmse(g, n0, 2)
    alone, alone_sinr = lmmse(g[2:3], n0[2:3], 2)
    assert torch.equal(weights[2:3], alone)
    assert torch.equal(sinr[2:3], alone_sinr)
    assert torch.equal(equalize(samples, weights)[2:3], equalize(samples[2:3], alone))


def test_noise_variance_is_measured():
    noise = gaussian(3, 2, 96, seed=12) * torch.tensor([0.1, 1.0, 3.0])[:, None, None]
    torch.testing.assert_close(
        noise_variance(noise), torch.tensor([0.01, 1.0, 9.0]), rtol=0.25, atol=0
    )


def test_geometric_mean_weighs_each_subband_by_its_elements():
    sinr = torch.arange(1.0, 9.0)[None, :, None]
    per_element = [10 * math.log10(i % 8 + 1) for i in range(11)]
    assert float(mean_sinr_db(sinr, 11)) == pytest.approx(sum(per_element) / 11)
    assert float(subband_share(11).sum()) == pytest.approx(1.0)


def test_noise_must_be_positive():
    with pytest.raises(InvalidField) as error:
        lmmse(gaussian(2, 8, 2, 2), torch.tensor([1.0, 0.0]), 1)
    assert error.value.field == "noise_variance"
