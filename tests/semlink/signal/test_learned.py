"""The learned quantiser: its arithmetic coder, its tail, what it must keep and what it must not feel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from decoded import decoded_alike
from hypothesis import given, settings
from hypothesis import strategies as st

from channel_service.fading import ChannelKey, draw_rays, frequency_response
from semlink.errors import InvalidField
from semlink.signal.csi import arithmetic
from semlink.signal.csi.arithmetic import PRECISION, Decoder
from semlink.signal.csi.layers import WholeChannel
from semlink.signal.csi.learned import LearnedQuantizer, load_learned, weigh_direction
from semlink.signal.csi.rvq import RvqQuantizer, load_codebooks
from semlink.signal.csi.tail import LARGEST, TailModel
from semlink.signal.metrics import phase_aligned_nmse_db, sgcs
from semlink.weight_files import SHIPPED


@pytest.fixture(scope="module")
def channels() -> dict[str, torch.Tensor]:
    """Validation drops, 96 users a scenario."""
    found = {}
    for scenario in ("umi-los", "uma-nlos"):
        rays = draw_rays(ChannelKey(scenario, 3.5e9, 16, 2, 96, 1.0, 5_200_001))
        found[scenario] = frequency_response(rays, 0, 1)[:, 0]
    return found


@pytest.fixture(scope="module")
def tail() -> TailModel:
    return load_learned(SHIPPED, WholeChannel(2), 16).tail


def gaussian(batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, 8, 2, 16), dtype=torch.complex64, generator=generator)


def learned(bits: int) -> LearnedQuantizer:
    return LearnedQuantizer(2, 16, bits, load_learned(SHIPPED, WholeChannel(2), 16))


def round_trip(bits: int, h: torch.Tensor) -> torch.Tensor:
    q, index = learned(bits), torch.arange(len(h))
    return q.decode(q.encode(h, index), index)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    steps=st.integers(1, 80),
    alternatives=st.integers(2, 20),
    peaked=st.sampled_from([0.05, 0.5, 5.0]),
    spare=st.integers(0, 20),
)
def test_strings_of_symbols_cost_their_information_and_come_back(
    seed: int, steps: int, alternatives: int, peaked: float, spare: int
) -> None:
    """A string fits whenever its information content does, to one bit; what fits is decoded symbol by symbol."""
    rng = np.random.default_rng(seed)
    whole = 1 << PRECISION
    share = rng.dirichlet(np.full(alternatives, peaked))
    frequency = np.maximum(1, (share * (whole - alternatives)).astype(np.int64))
    frequency[frequency.argmax()] += whole - frequency.sum()
    start = frequency.cumsum() - frequency
    symbols = rng.choice(alternatives, p=frequency / whole, size=(steps, 6))
    information = -np.log2(frequency[symbols] / whole).sum(0)
    bits = max(1, math.ceil(information.mean()) + spare - 5)
    message, fits = arithmetic.encode(start[symbols], frequency[symbols], bits)
    assert message.shape == (6, bits)
    assert set(np.unique(message)) <= {0, 1}
    assert fits[information <= bits - 1.01].all()
    assert not fits[information > bits + 20].any()
    decoder, of_target = (
        Decoder(message[fits], steps),
        np.repeat(np.arange(alternatives), frequency),
    )
    for expected in symbols[:, fits]:
        found = of_target[decoder.target()]
        assert (found == expected).all()
        decoder.take(start[found], frequency[found])


def test_certain_symbols_cost_nothing() -> None:
    whole = np.full((50, 2), 1 << PRECISION)
    message, fits = arithmetic.encode(np.zeros_like(whole), whole, 1)
    assert fits.all()
    assert not message.any()


def test_decoder_survives_any_bits() -> None:
    """Bits that no encoder wrote decode to something, at every length."""
    rng = np.random.default_rng(3)
    for bits in (80, 81, 200, 1024):
        q = learned(bits)
        payload = torch.from_numpy(rng.integers(0, 256, (64, q.payload_bytes), dtype=np.uint8))
        payload[0], payload[1] = 0, 255
        payload[:, -1] &= 256 - (1 << (-bits % 8))
        decoded = q.decode(payload, torch.arange(64))
        assert torch.isfinite(torch.view_as_real(decoded)).all()


@pytest.mark.parametrize("bits", [40, 100, 700])
def test_tail_decodes_to_what_its_encoder_chose(tail: TailModel, bits: int) -> None:
    rng = np.random.default_rng(bits)
    x = (rng.standard_normal((9, 2, 256)) * rng.exponential(0.5, (9, 1, 256))).astype(np.float32)
    cell, row = rng.integers(0, 1024, 9), rng.integers(0, len(tail.step_start), 9)
    symbols, step = tail.chosen(x, cell, row, bits)
    values, decoded_step = tail.decode(tail.encode(x, cell, row, bits), cell, row)
    assert np.array_equal(step, decoded_step)
    assert np.array_equal(np.sign(values), np.sign(symbols))
    assert np.abs(symbols).max() <= LARGEST
    if bits == 700:
        assert np.square(x - values).sum() < 0.3 * np.square(x).sum()


@pytest.mark.parametrize("bits", [1, 7, 8, 9, 16, 61, 69, 70, 79, 80, 81, 127, 128, 333, 512, 1024])
def test_payload_is_exactly_its_bits(bits: int, channels: dict[str, torch.Tensor]) -> None:
    h = torch.cat([channels["umi-los"][:5], gaussian(3), torch.zeros(1, 8, 2, 16)])
    q, index = learned(bits), torch.arange(len(h))
    payload = q.encode(h, index)
    assert payload.dtype == torch.uint8
    assert payload.shape == (len(h), -(-bits // 8))
    assert not (payload[:, -1] & ((1 << (-bits % 8)) - 1)).any()
    decoded = q.decode(payload, index)
    assert decoded.shape == h.shape
    assert torch.isfinite(torch.view_as_real(decoded)).all()
    if bits % 8:
        payload[2, -1] |= 1
        with pytest.raises(InvalidField, match="spare bits") as error:
            q.decode(payload, index)
        assert error.value.field == "payload"


def test_sgcs_and_nmse_grow_with_bits(channels: dict[str, torch.Tensor]) -> None:
    for scenario, h in channels.items():
        by_bits = [round_trip(bits, h) for bits in (8, 24, 64, 160, 512, 1024)]
        cosines = [float(sgcs(h, x).mean()) for x in by_bits]
        errors = [float((10 ** (phase_aligned_nmse_db(h, x) / 10)).mean()) for x in by_bits]
        assert cosines == sorted(cosines), (scenario, cosines)
        assert errors == sorted(errors, reverse=True), (scenario, errors)


def test_it_beats_rvq_where_it_claims_to(channels: dict[str, torch.Tensor]) -> None:
    for h in channels.values():
        index = torch.arange(len(h))
        for bits in (64, 256, 512):
            q = RvqQuantizer(2, 16, bits, load_codebooks(SHIPPED, WholeChannel(2), 16))
            other = float(sgcs(h, q.decode(q.encode(h, index), index)).mean())
            assert float(sgcs(h, round_trip(bits, h)).mean()) > other + 0.01


@pytest.mark.parametrize("bits", [16, 64, 300])
def test_common_phase_does_not_matter(bits: int, channels: dict[str, torch.Tensor]) -> None:
    """The turned channel's report is as good; most payloads are the same to the bit."""
    h = torch.cat(list(channels.values()))
    q, index = learned(bits), torch.arange(len(h))
    turned = h * torch.polar(torch.tensor(1.0), torch.tensor(1.234))
    first, second = q.encode(h, index), q.encode(turned, index)
    assert (first == second).all(1).float().mean() > 0.95
    gap = sgcs(h, q.decode(first, index)) - sgcs(h, q.decode(second, index))
    assert abs(float(gap.mean())) < 0.005


@pytest.mark.parametrize("bits", [64, 256])
def test_second_quantisation_loses_less_than_the_first(
    bits: int, channels: dict[str, torch.Tensor]
) -> None:
    """Centroids and conditional means do not quantise to themselves; what was lost once is not lost again."""
    h = torch.cat(list(channels.values()))
    once = round_trip(bits, h)
    twice = round_trip(bits, once)
    assert float(sgcs(once, twice).mean()) > float(sgcs(h, once).mean()) + 0.01


@pytest.mark.parametrize("bits", [64, 200])
def test_batch_mates_do_not_matter(bits: int, channels: dict[str, torch.Tensor]) -> None:
    h = torch.cat([channels["umi-los"][:30], gaussian(7)])
    q, index = learned(bits), torch.arange(37)
    payload = q.encode(h, index)
    decoded = q.decode(payload, index)
    for part in (slice(0, 1), slice(5, 6), slice(20, 37), slice(36, 37)):
        alone = q.encode(h[part], index[part])
        assert torch.equal(alone, payload[part])
        assert decoded_alike(q.decode(alone, index[part]), decoded[part])


def test_level_is_kept(channels: dict[str, torch.Tensor]) -> None:
    """Half the amplitude comes back as half the amplitude, as far as the level's range goes."""
    h = channels["uma-nlos"]
    h = h / h.abs().square().mean((1, 2, 3), keepdim=True).sqrt()
    whole, half = round_trip(256, h), round_trip(256, 0.7 * h)
    ratio = half.abs().square().sum() / whole.abs().square().sum()
    assert float(ratio) == pytest.approx(0.49, rel=0.05)


def test_direction_weighting_is_that_of_the_singular_vectors() -> None:
    h = gaussian(4)
    u, s, vh = torch.linalg.svd(h, full_matrices=False)
    s = s * torch.tensor([1.0, 0.3])
    expected = (u * s[..., None, :].to(u.dtype)) @ vh
    assert torch.allclose(weigh_direction(h, 0.3), expected, atol=1e-4)
    again = weigh_direction(weigh_direction(h, 0.5), 2.0)
    assert torch.allclose(again, h, atol=1e-4)


def test_antennas_without_weights_are_refused_by_name() -> None:
    for num_rx_ant, num_tx_ant in ((4, 16), (2, 4)):
        with pytest.raises(InvalidField, match="16×2") as error:
            load_learned(SHIPPED, WholeChannel(num_rx_ant), num_tx_ant)
        assert error.value.field == "link.num_tx_ant"
