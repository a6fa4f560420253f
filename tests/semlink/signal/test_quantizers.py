"""The CSI quantisers: bits, round trips, what must not matter, and that more bits say more."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from decoded import decoded_alike
from hypothesis import given, settings
from hypothesis import strategies as st

from channel_service.fading import ChannelKey, draw_rays, frequency_response
from semlink.errors import InvalidField
from semlink.grid import MAX_BITS, NUM_SUBBANDS
from semlink.links import NUM_RX_ANT, NUM_TX_ANT, Link
from semlink.quantizers import quantizer_spec, quantizer_specs
from semlink.signal.csi import CsiQuantizer, quantizer_for
from semlink.signal.csi.packing import pack, unpack
from semlink.signal.csi.rvq import (
    OFFERED_RX,
    block_matmul,
    gaussian_cells,
    spread_bits,
)
from semlink.signal.csi.transform import PANELS, from_angular_delay, to_angular_delay
from semlink.signal.metrics import phase_aligned_nmse_db, sgcs

ANY_LENGTH = [spec.name for spec in quantizer_specs() if spec.any_bits or spec.bound]
"""Schemes of any number of bits; the codebooks of TS 38.214 have a few (test_codebooks)."""


def quantizer(name: str, bits: int, num_rx_ant: int = 2, num_tx_ant: int = 16) -> CsiQuantizer:
    config = Link().replace(num_tx_ant=num_tx_ant, num_rx_ant=num_rx_ant, quantizer=name, bits=bits)
    # Codebooks describe layers; learned has weights for whole channels of 16 ports only.
    layers = name in ("type1", "etype2") or (name == "learned" and num_tx_ant != 16)
    config = config.replace(content="layers" if layers else "channel")
    return quantizer_for(config)


def gaussian(batch: int, num_rx_ant: int = 2, num_tx_ant: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, NUM_SUBBANDS, num_rx_ant, num_tx_ant)
    return torch.randn(shape, dtype=torch.complex64, generator=generator)


@pytest.fixture(scope="module")
def channels() -> dict[str, torch.Tensor]:
    """Channels of seeds far from those of training: two drops of 48 users for each scenario."""
    found = {}
    for scenario in ("umi-los", "uma-nlos"):
        drops = [
            frequency_response(draw_rays(ChannelKey(scenario, 3.5e9, 16, 2, 48, 1.0, s)), 0, 1)
            for s in (777_000_001, 777_000_002)
        ]
        found[scenario] = torch.cat(drops)[:, 0]
    return found


def round_trip(q: CsiQuantizer, h: torch.Tensor) -> torch.Tensor:
    index = torch.arange(len(h))
    return q.decode(q.encode(h, index), index)


def phase_aligned(h: torch.Tensor, radians: float) -> torch.Tensor:
    return h * torch.polar(torch.tensor(1.0), torch.tensor(radians))


@given(
    widths=st.lists(st.integers(0, 16), min_size=1, max_size=40),
    spare=st.integers(0, 20),
    seed=st.integers(0, 2**31),
)
def test_packing_is_a_big_endian_bit_string(widths: list[int], spare: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    values = torch.stack([torch.randint(0, 2**w, (3,), generator=rng) for w in widths], dim=1)
    bits = sum(widths) + spare
    payload = pack(values, widths, bits)
    for row, packed in zip(values.tolist(), payload.numpy(), strict=True):
        text = "".join(f"{v:0{w}b}" if w else "" for v, w in zip(row, widths, strict=True))
        text = text.ljust(8 * math.ceil(bits / 8), "0")
        assert packed.tobytes() == bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    assert torch.equal(unpack(payload, widths), values)


@pytest.mark.parametrize("num_tx_ant", NUM_TX_ANT)
@pytest.mark.parametrize("num_rx_ant", NUM_RX_ANT)
def test_angular_delay_transform_is_unitary_and_finds_plane_waves(
    num_rx_ant: int, num_tx_ant: int
) -> None:
    h = gaussian(3, num_rx_ant, num_tx_ant)
    x = to_angular_delay(h)
    assert torch.allclose(x.abs().square().sum(1), h.abs().square().sum((1, 2, 3)), rtol=1e-4)
    assert torch.allclose(from_angular_delay(x, num_rx_ant, num_tx_ant), h, atol=1e-5)
    _, columns, rows = PANELS[num_tx_ant]
    wave = torch.zeros(1, NUM_SUBBANDS, num_rx_ant, num_tx_ant, dtype=torch.complex64)
    port = torch.arange(columns * rows)
    phase = 2 * math.pi * (port // rows) / columns
    wave[:, :, 0, : columns * rows] = torch.polar(torch.ones(len(port)), phase)
    strongest = to_angular_delay(wave).abs().square().flatten().sort(descending=True).values
    polarised = PANELS[num_rx_ant][1] * PANELS[num_rx_ant][2]
    assert strongest[:polarised].sum() > 0.999 * strongest.sum()


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(["scalar", "rvq"]),
    bits=st.integers(1, MAX_BITS),
    num_rx_ant=st.sampled_from(NUM_RX_ANT),
    num_tx_ant=st.sampled_from(NUM_TX_ANT),
    batch=st.integers(0, 3),
)
def test_any_configuration_gives_exactly_its_bits_or_names_the_field(
    name: str, bits: int, num_rx_ant: int, num_tx_ant: int, batch: int
) -> None:
    taps = NUM_SUBBANDS * num_rx_ant * num_tx_ant
    position = int(math.log2(taps))
    offered = {
        "scalar": position <= bits <= position + 24 + 2 * 16 * (taps - 1),
        "rvq": num_tx_ant in quantizer_spec("rvq").num_tx_ant and num_rx_ant in OFFERED_RX,
    }[name]
    if not offered:
        with pytest.raises(InvalidField) as error:
            quantizer(name, bits, num_rx_ant, num_tx_ant)
        if name == "rvq":
            assert error.value.field in ("link.num_tx_ant", "link.num_rx_ant")
            return
        assert error.value.field == "link.feedback.bits"
        nearest = int(error.value.message.rsplit(":", 1)[1])
        assert quantizer(name, nearest, num_rx_ant, num_tx_ant).bits == nearest != bits
        return
    q = quantizer(name, bits, num_rx_ant, num_tx_ant)
    h = gaussian(batch, num_rx_ant, num_tx_ant)
    payload = q.encode(h, torch.arange(batch))
    assert payload.shape == (batch, math.ceil(bits / 8))
    assert payload.dtype == torch.uint8
    spare = 8 * q.payload_bytes - bits
    assert not (payload[:, -1] & ((1 << spare) - 1)).any()
    decoded = q.decode(payload, torch.arange(batch))
    assert decoded.shape == h.shape
    assert torch.isfinite(torch.view_as_real(decoded)).all()


def test_scalar_refuses_fewer_bits_than_a_position() -> None:
    with pytest.raises(InvalidField, match="nearest allowed: 8") as error:
        quantizer("scalar", 7)
    assert error.value.field == "link.feedback.bits"


@pytest.mark.parametrize("bits", [16, 64, 256])
@pytest.mark.parametrize("name", ["scalar", "rvq"])
def test_hardly_a_bit_is_padding(name: str, bits: int, channels: dict[str, torch.Tensor]) -> None:
    """Over many channels the declared bits take both values, but for a few leading bits of levels and amplitudes."""
    h = torch.cat([gaussian(512), *channels.values()])
    payload = quantizer(name, bits).encode(h, torch.arange(len(h)))
    message = (payload[:, :, None] >> torch.arange(7, -1, -1)) & 1
    means = message.flatten(1)[:, :bits].double().mean(0)
    assert ((means > 0) & (means < 1)).double().mean() > 0.93


@pytest.mark.parametrize("name", ["scalar", "rvq"])
@pytest.mark.parametrize("scenario", ["umi-los", "uma-nlos"])
def test_more_bits_say_more(name: str, scenario: str, channels: dict[str, torch.Tensor]) -> None:
    h = channels[scenario]
    decoded = [round_trip(quantizer(name, b), h) for b in (16, 64, 256, 1024)]
    similarity = [float(sgcs(h, d).mean()) for d in decoded]
    error = [float(phase_aligned_nmse_db(h, d).mean()) for d in decoded]
    assert similarity == sorted(similarity)
    assert error == sorted(error, reverse=True)
    # In line of sight the two polarisations are about equally strong and the dominant direction is sensitive.
    assert similarity[-1] > 0.85
    # Against chance: a random direction of 16 has 1/16.
    assert similarity[0] > 0.3


@pytest.mark.parametrize(("bits", "margin"), [(16, 0.02), (32, 0.02), (64, 0.02), (128, -0.01)])
def test_trained_codebooks_beat_scalar_taps(
    bits: int, margin: float, channels: dict[str, torch.Tensor]
) -> None:
    """Clearly up to 64 bits; at 128 in UMa-NLOS they are even."""
    for h in channels.values():
        trained = sgcs(h, round_trip(quantizer("rvq", bits), h)).mean()
        assert trained > sgcs(h, round_trip(quantizer("scalar", bits), h)).mean() + margin


@pytest.mark.parametrize("name", ["scalar", "rvq"])
@pytest.mark.parametrize("bits", [8, 64, 300])
def test_common_phase_does_not_reach_the_payload(
    name: str, bits: int, channels: dict[str, torch.Tensor]
) -> None:
    h, q = channels["uma-nlos"], quantizer(name, bits)
    index = torch.arange(len(h))
    one, other = q.encode(h, index), q.encode(phase_aligned(h, 2.345), index)
    # Rounding may tip a value that lies on the edge of a cell.
    assert (one == other).all(1).float().mean() > 0.95


@pytest.mark.parametrize("name", ["scalar", "rvq"])
def test_magnitude_is_kept(name: str, channels: dict[str, torch.Tensor]) -> None:
    """The level follows the channel's within a cell; shrinkage makes a coarse report weaker, never stronger."""
    h = channels["umi-los"]
    decoded = round_trip(quantizer(name, 256), h)
    power = [x.abs().square().mean((1, 2, 3)) for x in (h, decoded)]
    assert torch.corrcoef(torch.stack(power))[0, 1] > 0.8
    coarse = round_trip(quantizer(name, 64), channels["uma-nlos"])
    assert coarse.abs().square().mean() < channels["uma-nlos"].abs().square().mean()


def test_decoded_rvq_is_the_conditional_mean(channels: dict[str, torch.Tensor]) -> None:
    """⟨ĥ, h⟩ ≈ ‖ĥ‖² after phase alignment: the reported channel is shrunk as a precoder needs it."""
    for h in channels.values():
        decoded = round_trip(quantizer("rvq", 64), h)
        inner = (decoded.conj() * h).flatten(1).sum(1).abs().sum()
        assert 0.85 < inner / decoded.abs().square().sum() < 1.15


@pytest.mark.parametrize("bits", [16, 64, 256])
def test_requantising_scalar_changes_nothing(bits: int, channels: dict[str, torch.Tensor]) -> None:
    h, q = channels["uma-nlos"], quantizer("scalar", bits)
    once = round_trip(q, h)
    again = round_trip(q, once)
    assert phase_aligned_nmse_db(once, again).max() < -20


def test_requantising_rvq_changes_little(channels: dict[str, torch.Tensor]) -> None:
    """The search keeps a few paths, so that it may miss the exact one; what it finds is far nearer than the source."""
    h, q = channels["uma-nlos"], quantizer("rvq", 64)
    once = round_trip(q, h)
    again = phase_aligned_nmse_db(once, round_trip(q, once))
    assert again.median() < -12
    assert (again < phase_aligned_nmse_db(h, once)).float().mean() > 0.95


@pytest.mark.parametrize("name", [n for n in ANY_LENGTH if n != "none"])
@pytest.mark.parametrize("num_tx_ant", [8, 32])
def test_batch_mates_do_not_matter(name: str, num_tx_ant: int) -> None:
    q = quantizer(name, 200, 2, num_tx_ant)
    h = gaussian(37, 2, num_tx_ant)
    index = torch.arange(37)
    payload = q.encode(h, index)
    decoded = q.decode(payload, index)
    for part in (slice(0, 1), slice(5, 6), slice(20, 37), slice(36, 37)):
        alone = q.encode(h[part], index[part])
        assert torch.equal(alone, payload[part])
        assert decoded_alike(q.decode(alone, index[part]), decoded[part])


@pytest.mark.parametrize("name", ["scalar", "rvq"])
def test_silent_channel_is_coded_without_harm(name: str) -> None:
    decoded = round_trip(quantizer(name, 64), torch.zeros(2, 8, 2, 16, dtype=torch.complex64))
    assert torch.isfinite(torch.view_as_real(decoded)).all()
    assert decoded.abs().square().mean() < 0.3


def test_perfect_is_exact_and_little_endian() -> None:
    h, q = gaussian(4), quantizer("perfect", 0)
    payload = q.encode(h, torch.arange(4))
    assert payload[2].numpy().tobytes() == h[2].numpy().astype("<c8").tobytes()
    assert q.bits == 8 * payload.shape[1]
    assert torch.equal(q.decode(payload, torch.arange(4)), h)


def test_none_says_nothing() -> None:
    q = quantizer("none", 0)
    payload = q.encode(gaussian(4), torch.arange(4))
    assert payload.shape == (4, 0)
    assert not q.decode(payload, torch.arange(4)).any()


@pytest.mark.parametrize("name", ANY_LENGTH)
def test_wrong_length_is_refused(name: str) -> None:
    q = quantizer(name, 61)
    for length in {0, q.payload_bytes - 1, q.payload_bytes + 1} - {q.payload_bytes, -1}:
        with pytest.raises(InvalidField) as error:
            q.decode(torch.zeros(2, length, dtype=torch.uint8), torch.arange(2))
        assert error.value.field == "payload"


@pytest.mark.parametrize("name", ["scalar", "rvq"])
def test_spare_bits_are_refused(name: str) -> None:
    q = quantizer(name, 61)
    payload = q.encode(gaussian(3), torch.arange(3))
    payload[1, -1] |= 4
    with pytest.raises(InvalidField, match="spare bits") as error:
        q.decode(payload, torch.arange(3))
    assert error.value.field == "payload"


def test_bad_csi_is_refused() -> None:
    q, h = quantizer("rvq", 64), gaussian(2)
    with pytest.raises(InvalidField) as error:
        q.encode(h[..., :8], torch.arange(2))
    assert error.value.field == "csi"
    h[0, 0, 0, 0] = float("nan")
    with pytest.raises(InvalidField, match="NaN"):
        q.encode(h, torch.arange(2))


def test_block_matmul_equals_matmul() -> None:
    x, m = torch.randn(21, 5), torch.randn(5, 7)
    assert torch.allclose(block_matmul(x, m), x @ m, atol=1e-5)


def test_gaussian_cells_are_centroids() -> None:
    """Against a million samples: the mean of a cell is its centroid, the error shrinks by almost 6 dB a bit."""
    x = torch.randn(1_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    centroids, errors = gaussian_cells()
    for bits in (1, 2, 4):
        cell = (torch.special.ndtr(x / math.sqrt(3)) * 2**bits).floor().long()
        means = torch.zeros(2**bits, dtype=torch.float64).index_add_(0, cell, x)
        means /= torch.bincount(cell, minlength=2**bits)
        assert torch.allclose(means, centroids[bits].double(), atol=0.06)
        measured = float((x - centroids[bits].double()[cell]).square().mean())
        assert measured == pytest.approx(errors[bits], rel=0.02)
    assert errors[1] == pytest.approx(1 - 2 / math.pi, rel=1e-6)


@given(st.lists(st.floats(2**-10, 10, width=32), min_size=1, max_size=30), st.integers(0, 200))
def test_tail_bits_go_where_they_help_most(variance: list[float], bits: int) -> None:
    bits = min(bits, 6 * len(variance))
    # A row's bits depend on the row alone.
    rows = torch.tensor([variance, [1.0] * len(variance)])
    widths, even = spread_bits(rows, bits).tolist()
    assert sum(widths) == sum(even) == bits
    assert max(even) - min(even) <= 1
    pairs = sorted(zip(variance, widths, strict=True))
    for (small, few), (large, many) in itertools.pairwise(pairs):
        assert few <= many or small == large
