"""The bit chain: what goes in comes out, garbage is noticed, the waterfall lies where link adaptation believes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semlink.errors import InvalidField
from semlink.semantics.codec import SYMBOL_COUNTS
from semlink.signal.coding import (
    MCS_TABLE,
    Scheme,
    constellation,
    demodulate,
    modulate,
    scheme_of,
    usable_mcs,
)
from semlink.signal.link_adaptation import bicm_information, load_calibration

ALL_SCHEMES = [scheme_of(m, k) for k in SYMBOL_COUNTS for m in usable_mcs(k)]
SOME_SCHEMES = [
    scheme_of(m, k) for k, m in ((8, 3), (8, 27), (16, 8), (32, 1), (64, 0), (64, 12), (128, 5))
]
name = "k{0.num_symbols}-mcs{0.mcs}".format


def payloads(count: int, scheme: Scheme, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, scheme.payload_bits)
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.uint8)


def noisy(symbols: torch.Tensor, snr_db: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    variance = torch.full(symbols.shape, 10 ** (-snr_db / 10))
    noise = torch.randn(symbols.shape, dtype=torch.complex64, generator=generator)
    return symbols + noise * variance.sqrt(), variance


def error_rate(scheme: Scheme, snr_db: float, blocks: int = 150) -> float:
    sent = payloads(blocks, scheme)
    found, passed = demodulate(*noisy(modulate(sent, scheme), snr_db), scheme)
    return float(1 - (passed & (found == sent).all(1)).float().mean())


def test_every_scheme_carries_its_bits_without_noise() -> None:
    for scheme in ALL_SCHEMES:
        sent = payloads(4, scheme)
        found, passed = demodulate(*noisy(modulate(sent, scheme), 45.0), scheme)
        assert passed.all(), scheme
        assert torch.equal(found, sent), scheme


def test_lengths_are_those_of_the_table() -> None:
    for scheme in ALL_SCHEMES:
        bits, rate = MCS_TABLE[scheme.mcs]
        assert scheme.coded_bits == scheme.num_symbols * bits
        assert scheme.block_bits <= scheme.coded_bits * rate / 1024
        # nothing is wasted but what the step from one CRC to the next costs
        lost = scheme.coded_bits * rate / 1024 - scheme.block_bits
        assert lost < 1 or (scheme.payload_bits == 19 and lost < 6)
    by_rate = [s.payload_bits for s in ALL_SCHEMES if s.num_symbols == 64]
    assert by_rate == sorted(by_rate)


@pytest.mark.parametrize("scheme", SOME_SCHEMES, ids=name)
def test_symbols_are_points_and_their_mean_power_is_one(scheme: Scheme) -> None:
    symbols = modulate(payloads(400, scheme), scheme)
    assert symbols.shape == (400, scheme.num_symbols)
    points = constellation(scheme.bits_per_symbol)
    assert (symbols[..., None] - points).abs().amin(-1).max() < 1e-6
    assert points.abs().square().mean() == pytest.approx(1.0, abs=1e-6)
    # 400 · k symbols of a variance of |x|² below 0.4: five standard deviations
    bound = 5 * (0.4 / symbols.numel()) ** 0.5
    assert symbols.abs().square().mean() == pytest.approx(1.0, abs=bound)


def test_a_constant_payload_is_scrambled_to_unit_power() -> None:
    scheme = scheme_of(20, 128)
    power = modulate(torch.zeros(1, scheme.payload_bits, dtype=torch.uint8), scheme).abs().square()
    assert power.mean() == pytest.approx(1.0, abs=0.3)
    assert len(power.unique()) > 8


@pytest.mark.parametrize("scheme", SOME_SCHEMES, ids=name)
def test_the_crc_catches_garbage(scheme: Scheme) -> None:
    generator = torch.Generator().manual_seed(1)
    garbage = torch.randn(250, scheme.num_symbols, dtype=torch.complex64, generator=generator)
    _, passed = demodulate(garbage, torch.ones(garbage.shape), scheme)
    missed = 2.0 ** -(6 if scheme.crc == "CRC6" else 11)
    assert passed.float().mean() <= missed + 5 * (missed / 250) ** 0.5


def test_silence_is_garbage() -> None:
    for scheme in SOME_SCHEMES:
        silence = torch.zeros(1, scheme.num_symbols, dtype=torch.complex64)
        _, passed = demodulate(silence, torch.ones(silence.shape), scheme)
        assert not passed.any(), scheme


@pytest.mark.parametrize("scheme", SOME_SCHEMES, ids=name)
def test_the_waterfall_lies_at_the_calibrated_threshold(scheme: Scheme) -> None:
    calibration = load_calibration()
    threshold = calibration.threshold_db[scheme.num_symbols][scheme.mcs]
    width = calibration.width_db[scheme.num_symbols][scheme.mcs]
    far_below, at_target, far_above = (
        error_rate(scheme, threshold + z * width) for z in (-2.3, 1.2816, 2.8)
    )
    assert far_below > 0.9
    assert 0.02 <= at_target <= 0.24  # 10 % by calibration; 150 blocks, the probit's misfit
    assert far_above < 0.05
    assert far_below > at_target > far_above - 1e-9


def test_thresholds_stay_above_the_mutual_information_of_long_codes() -> None:
    """No finite code beats the constellation's information; a threshold below it would be a faulty count of bits."""
    calibration = load_calibration()
    grid = np.arange(-30.0, 50.5, 0.5)
    for scheme in ALL_SCHEMES:
        if scheme.num_symbols < 64:
            continue  # so short that luck with the noise, not the mean, decides
        rate = scheme.payload_bits / scheme.num_symbols
        bound = np.interp(rate, bicm_information(scheme.bits_per_symbol), grid)
        threshold = calibration.threshold_db[scheme.num_symbols][scheme.mcs]
        assert bound - 0.3 < threshold < bound + 5.0, scheme


def test_information_of_qpsk_equals_two_binary_channels() -> None:
    """QPSK is two BPSKs of half the power each: recomputed by drawing noise."""
    rng = np.random.default_rng(0)
    for snr_db in (-5.0, 0.0, 5.0):
        ratio = 10 ** (snr_db / 10)
        llr = 2 * ratio + np.sqrt(4 * ratio / 2 * 2) * rng.standard_normal(400_000)
        expected = 2 * (1 - np.log2(1 + np.exp(-llr)).mean())
        found = np.interp(snr_db, np.arange(-30.0, 50.5, 0.5), bicm_information(2))
        assert found == pytest.approx(expected, abs=0.01)


def test_unequal_noise_is_used() -> None:
    """A symbol that is known to be worthless costs less than one that is believed."""
    scheme = scheme_of(3, 64)
    sent = payloads(100, scheme)
    variance = torch.full((100, 64), 0.05)
    variance[:, ::4] = 30.0
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(100, 64, dtype=torch.complex64, generator=generator)
    received = modulate(sent, scheme) + noise * variance.sqrt()
    _, told = demodulate(received, variance, scheme)
    _, untold = demodulate(received, variance.mean().expand(100, 64).contiguous(), scheme)
    assert told.float().mean() > 0.95
    assert untold.float().mean() < 0.8


def test_batch_mates_change_nothing() -> None:
    for scheme in SOME_SCHEMES:
        sent = payloads(9, scheme)
        threshold = load_calibration().threshold_db[scheme.num_symbols][scheme.mcs]
        received, variance = noisy(modulate(sent, scheme), float(threshold))
        together = demodulate(received, variance, scheme)
        for i in range(9):
            alone = demodulate(received[i : i + 1], variance[i : i + 1], scheme)
            assert torch.equal(alone[0][0], together[0][i])
            assert torch.equal(alone[1][0], together[1][i])


@pytest.mark.parametrize(("mcs", "symbols"), [(-1, 64), (28, 64), (0, 8), (2, 8)])
def test_schemes_that_carry_nothing_are_named(mcs: int, symbols: int) -> None:
    with pytest.raises(InvalidField, match="allowed with"):
        scheme_of(mcs, symbols)


def test_shapes_are_checked() -> None:
    scheme = scheme_of(3, 64)
    with pytest.raises(InvalidField):
        modulate(payloads(2, scheme)[:, 1:], scheme)
    with pytest.raises(InvalidField):
        demodulate(torch.zeros(2, 63, dtype=torch.complex64), torch.ones(2, 63), scheme)
