"""What reports describe: rows of the layers lose nothing that a precoder can use, and cost fewer bits."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch

from channel_service.fading import ChannelKey, draw_rays, frequency_response
from kb_service.prediction import untrained_predictors
from lab.training.channel_dataset import drop, fewer_antennas
from semlink.errors import InvalidField
from semlink.grid import NUM_SUBBANDS
from semlink.links import Link
from semlink.signal.csi import content_of, quantizer_for
from semlink.signal.csi.layers import LayerRows, WholeChannel, phase_factor, rows_of_layers
from semlink.signal.csi.predictive import PredictiveQuantizer
from semlink.signal.metrics import phase_aligned_nmse_db, sgcs

LINEAR = untrained_predictors()

VALIDATION_SEED = 5_000_000


def link(
    content: str = "layers",
    bits: int = 16,
    quantizer: str = "rvq",
    *,
    rx: int = 2,
    tx: int = 16,
    layers: int = 1,
    memory: str = "none",
    kmh: float = 3.0,
) -> Link:
    return Link().replace(
        num_rx_ant=rx,
        num_tx_ant=tx,
        num_layers=layers,
        num_users=1,
        speed_kmh=kmh,
        content=content,
        bits=bits,
        quantizer=quantizer,
        memory=memory,
    )


@lru_cache
def channels(rx: int = 2, tx: int = 16, scenario: str = "uma-nlos") -> torch.Tensor:
    """Validation channels ``[128, 8, rx, tx]``."""
    h = drop(scenario, VALIDATION_SEED, num_rx_ant=rx)
    return fewer_antennas(h, 2, tx) if rx == 2 else h


@lru_cache
def sequence(kmh: float, reports: int) -> torch.Tensor:
    """A channel each 5 slots: ``[8, reports, 8, 2, 16]``."""
    rays = draw_rays(ChannelKey("uma-nlos", 3.5e9, 16, 2, 8, kmh / 3.6, VALIDATION_SEED + 700))
    return frequency_response(rays, 0, 5 * reports)[:, ::5].contiguous()


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.complex64, generator=generator)


def coded(config: Link, h: torch.Tensor) -> torch.Tensor:
    quantizer, index = quantizer_for(config), torch.arange(len(h))
    return quantizer.decode(quantizer.encode(h, index), index)


def scrambled(csi: torch.Tensor, seed: int) -> torch.Tensor:
    """Another phase for every row of every subband of every report."""
    return csi * phase_factor(gaussian(*csi.shape[:-1], 1, seed=seed))


# --- the rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rx", "layers"), [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)])
def test_rows_keep_what_a_precoder_can_use(rx: int, layers: int) -> None:
    h = gaussian(5, NUM_SUBBANDS, rx, 16)
    rows = rows_of_layers(h, layers).numpy()
    assert rows.shape == (5, NUM_SUBBANDS, layers, 16)
    _, sigma, vh = np.linalg.svd(h.numpy().astype(np.complex128), full_matrices=False)
    strongest = sigma[..., :layers, None] * vh[..., :layers, :]
    gram = np.conj(np.swapaxes(rows, -1, -2)) @ rows
    expected = np.conj(np.swapaxes(strongest, -1, -2)) @ strongest
    assert np.abs(gram - expected).max() < 1e-4 * np.abs(expected).max()
    # Row by row, strongest first.
    for row in range(layers):
        inner = np.abs((rows[..., row, :].conj() * strongest[..., row, :]).sum(-1))
        assert np.allclose(inner, sigma[..., row] ** 2, rtol=1e-4)


def test_phases_continue_from_subband_to_subband() -> None:
    rows = rows_of_layers(channels(), 2)
    step = (rows[:, 1:] * rows[:, :-1].conj()).sum(-1)
    assert (step.imag.abs() < 1e-3 * step.abs() + 1e-5).all()
    assert (step.real > -1e-5).all()
    # One receive antenna: the row is the channel itself, but for these phases.
    alone = gaussian(4, NUM_SUBBANDS, 1, 8)
    assert torch.allclose(rows_of_layers(alone, 1).abs(), alone.abs(), atol=1e-6)
    assert torch.equal(rows_of_layers(alone, 1)[:, 0], alone[:, 0])


def test_batch_mates_do_not_turn_a_bit() -> None:
    for rx, layers, tx in ((1, 1, 16), (2, 1, 8), (2, 2, 32), (4, 2, 16)):
        h, reference = (
            gaussian(37, NUM_SUBBANDS, rx, tx),
            gaussian(37, NUM_SUBBANDS, rx, tx, seed=1),
        )
        content = LayerRows(layers, rx)
        rows, turned = content.rows(h), content.phase_aligned(h, reference)
        for part in (slice(0, 1), slice(3, 6), slice(36, 37), slice(5, 37)):
            assert torch.equal(content.rows(h[part]), rows[part])
            assert torch.equal(content.phase_aligned(h[part], reference[part]), turned[part])


def test_unit_phases_are_units_whatever_the_scale() -> None:
    z = gaussian(64)
    for scale in (1e-30, 1.0, 1e30):
        assert torch.allclose(phase_factor(scale * z), z / z.abs(), atol=1e-6)
    assert torch.equal(phase_factor(torch.zeros(3, dtype=torch.complex64)), torch.ones(3) + 0j)


@pytest.mark.parametrize(
    ("rx", "layers", "quantizer"),
    [(1, 1, "rvq"), (2, 1, "rvq"), (2, 2, "rvq"), (4, 1, "rvq"), (4, 2, "rvq"), (4, 2, "scalar")],
)
def test_csi_has_the_channels_shape_with_nothing_behind_the_rows(
    rx: int, layers: int, quantizer: str
) -> None:
    h = drop("umi-los", VALIDATION_SEED, 16, rx, moments=1)
    csi = coded(link(bits=64, quantizer=quantizer, rx=rx, layers=layers), h)
    assert csi.shape == h.shape
    assert csi[..., 0, :].abs().sum((1, 2)).min() > 0
    assert not csi[..., layers:, :].any()
    # As strong as what it describes, not as the scaled rows that the scheme codes; the level comes in cells of 1.5 dB.
    many = coded(link(bits=1024, quantizer="scalar", rx=rx, layers=layers), h)
    kept = rows_of_layers(h, layers).abs().square().sum((1, 2, 3))
    strength = many.abs().square().sum((1, 2, 3)) / kept
    assert abs(float(strength.mean()) - 1) < 0.1
    assert strength.min() > 0.75
    assert strength.max() < 1.25


# --- what is free ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quantizer", "bits"), [("rvq", 16), ("rvq", 128), ("scalar", 128)])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_receivers_rotation_and_phases_do_not_matter(
    layers: int, quantizer: str, bits: int
) -> None:
    """Unitary matrices at the receiver, another in every subband, leave the report as it is."""
    h = channels()[:64]
    unitary = torch.linalg.qr(gaussian(64, NUM_SUBBANDS, 2, 2, seed=2)).Q
    phase = phase_factor(gaussian(64, NUM_SUBBANDS, 1, 1, seed=3))
    scheme = quantizer_for(link(bits=bits, quantizer=quantizer, layers=layers))
    index = torch.zeros(64, dtype=torch.int64)
    plain = scheme.encode(h, index)
    # Schemes are blind to a common phase only: with two rows the first subband, where phases begin, stays as it is.
    turn = phase * unitary
    turn[:, 0] = torch.eye(2)
    turned = scheme.encode(turn @ h, index)
    assert (plain == turned).all(1).float().mean() > 0.9
    alike = sgcs(scheme.decode(plain, index), scheme.decode(turned, index))
    assert (alike > 0.999).float().mean() > 0.95
    if layers == 1:
        turned = scheme.encode(phase * unitary @ h, index)
        alike = sgcs(scheme.decode(plain, index), scheme.decode(turned, index))
        assert (alike > 0.999).float().mean() > 0.95
        # The whole channel is not so lucky.
        whole = link("channel", bits, quantizer)
        differ = sgcs(coded(whole, h), coded(whole, turn @ h))
        assert (differ > 0.999).float().mean() < 0.5


def test_nmse_is_that_of_what_is_described() -> None:
    h, csi = gaussian(6, NUM_SUBBANDS, 2, 16), gaussian(6, NUM_SUBBANDS, 2, 16, seed=1)
    csi = h + 0.3 * csi
    whole = WholeChannel(2).nmse_db(h, csi)
    assert torch.allclose(whole, phase_aligned_nmse_db(h, csi), atol=1e-3)
    content = LayerRows(1, 2)
    estimate = content.csi(content.rows(csi))
    found = content.nmse_db(h, estimate)
    assert torch.allclose(content.nmse_db(h, scrambled(estimate, 5)), found, atol=1e-3)
    unitary = torch.linalg.qr(gaussian(6, NUM_SUBBANDS, 2, 2, seed=2)).Q
    assert torch.allclose(content.nmse_db(unitary @ h, csi), found, atol=1e-3)
    # Recomputed from singular vectors: σv and τw without phases, (σ² + τ² − 2στ|vᴴw|) over Σσ².
    (_, s, vh), (_, t, wh) = (
        np.linalg.svd(x.numpy().astype(np.complex128), full_matrices=False) for x in (h, csi)
    )
    s, t = s[..., 0], t[..., 0]
    inner = np.abs((vh[..., 0, :].conj() * wh[..., 0, :]).sum(-1))
    error = (s**2 + t**2 - 2 * s * t * inner).sum(1) / (s**2).sum(1)
    assert np.allclose(found.numpy(), 10 * np.log10(error), atol=1e-3)


# --- what it is worth -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["umi-los", "uma-nlos"])
@pytest.mark.parametrize("bits", [16, 64])
def test_layers_need_fewer_bits_than_the_channel(scenario: str, bits: int) -> None:
    h = channels(scenario=scenario)
    layers, whole = (sgcs(h, coded(link(c, bits), h)).mean() for c in ("layers", "channel"))
    assert layers > whole + 0.02


@pytest.mark.parametrize(("quantizer", "most"), [("rvq", 512), ("scalar", 1024)])
def test_more_bits_tell_more(quantizer: str, most: int) -> None:
    h = channels()
    bits = [b for b in (16, 64, 256, 512, 1024) if b <= most]
    alike = [float(sgcs(h, coded(link(bits=b, quantizer=quantizer), h)).mean()) for b in bits]
    assert alike == sorted(alike)
    assert alike[-1] > 0.95


def test_both_layers_are_described() -> None:
    """At 64 bits each direction by itself is known better than from 64 bits of the whole channel."""
    h = channels()
    _, _, vh = torch.linalg.svd(h, full_matrices=False)
    layers, whole = (
        torch.linalg.svd(coded(link(content, 64, layers=2), h), full_matrices=False).Vh
        for content in ("layers", "channel")
    )
    for row in range(2):
        part = slice(row, row + 1)
        assert sgcs(vh[..., part, :], layers[..., part, :]).mean() > (
            sgcs(vh[..., part, :], whole[..., part, :]).mean() + 0.02
        )
    # A report of one layer knows that one better still.
    assert sgcs(h, coded(link(bits=64), h)).mean() > sgcs(vh[..., :1, :], layers[..., :1, :]).mean()


# --- memory -----------------------------------------------------------------------------------------------------------


def tracker(kmh: float = 3.0, layers: int = 1) -> PredictiveQuantizer:
    quantizer = quantizer_for(link(memory="predictive", layers=layers, kmh=kmh))
    assert isinstance(quantizer, PredictiveQuantizer)
    return quantizer


@pytest.mark.parametrize("layers", [1, 2])
def test_both_ends_stay_in_step(layers: int) -> None:
    quantizer, h = tracker(layers=layers), sequence(3.0, 40)
    ours, theirs = quantizer.start(8), quantizer.start(8)
    here = torch.ones(8, dtype=torch.bool)
    for t in range(40):
        payload = quantizer.encode_next(ours, h[:, t], t)
        quantizer.decode_next(theirs, payload, here, t)
        for name in ("now", "before", "p11", "p12", "p22", "power", "fading"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), (t, name)
    assert not quantizer.csi_of(theirs, torch.arange(len(h)))[..., layers:, :].any()


def test_a_still_channel_becomes_clear_and_beats_reports_alone() -> None:
    quantizer, described = tracker(kmh=0.3), LayerRows(1, 2)
    h = sequence(3.0, 1).expand(-1, 90, -1, -1, -1)
    payload = quantizer.encode_group(h, torch.arange(90))
    present = torch.ones((8, 90), dtype=torch.bool)
    csi = quantizer.decode_group(payload, present, torch.arange(90))
    errors = [float(described.nmse_db(h[:, t], csi[:, t]).mean()) for t in (0, 40, 89)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] - 5
    assert sgcs(h[:, -1], csi[:, -1]).mean() > sgcs(h[:, 0], coded(link(), h[:, 0])).mean() + 0.03


def test_a_tail_of_lost_reports_is_predicted() -> None:
    quantizer, h = tracker(), sequence(3.0, 80)
    payload = quantizer.encode_group(h, torch.arange(80))
    present = torch.ones((8, 80), dtype=torch.bool)
    lossless = quantizer.decode_group(payload, present, torch.arange(80))
    present[:, 78:] = False
    lossy = quantizer.decode_group(payload, present, torch.arange(80))
    assert torch.equal(lossy[:, :78], lossless[:, :78])
    assert torch.isfinite(torch.view_as_real(lossy)).all()
    kept, lost = (sgcs(h[:, -1], csi[:, -1]).mean() for csi in (lossless, lossy))
    assert lost > kept - 0.1
    present[:, 40:60:4] = False
    scattered = quantizer.decode_group(payload, present, torch.arange(80))
    assert sgcs(h[:, 77], scattered[:, 77]).mean() > sgcs(h[:, 77], lossless[:, 77]).mean() - 0.1


@pytest.mark.parametrize("name", sorted(LINEAR))
def test_predictors_are_blind_to_the_phases_of_rows(name: str) -> None:
    config = link(bits=64, layers=2, kmh=10.0)
    h = sequence(10.0, 8)
    reports = coded(config, h.flatten(0, 1)).view(1, *h.shape)
    present = torch.ones((1, 8, 8), dtype=torch.bool)
    ages = 43 - 5 * torch.arange(8)[None]
    plain, other = (
        LINEAR[name].predict(x, present, ages, config)[0] for x in (reports, scrambled(reports, 9))
    )
    for row in range(2):
        part = slice(row, row + 1)
        assert (sgcs(plain[..., part, :], other[..., part, :]) > 0.9999).all()
    assert torch.allclose(plain.abs(), other.abs(), atol=1e-3)
    # The whole channel's phases within a report do mean something, and predictors that combine reports mix them up.
    if name != "hold-last":
        config = config.replace(content="channel")
        mixed = LINEAR[name].predict(scrambled(reports, 9), present, ages, config)[0]
        assert (sgcs(plain, mixed) < 0.99).any()


# --- what is not offered -------------------------------------------------------------------------------------------


def test_content_of_a_link() -> None:
    described = content_of(link(layers=2, rx=4))
    assert isinstance(described, LayerRows)
    assert described.num_rows == 2
    assert isinstance(content_of(link("channel")), WholeChannel)


@pytest.mark.parametrize("quantizer", ["type1", "etype2"])
def test_codebooks_of_the_standard_describe_layers_only(quantizer: str) -> None:
    with pytest.raises(InvalidField, match="describes layers") as error:
        quantizer_for(link("channel", 64, quantizer))
    assert error.value.field == "link.feedback.content"


@pytest.mark.parametrize("memory", ["none", "fused", "predictive"])
def test_what_has_no_codebooks_is_refused_by_its_name(memory: str) -> None:
    for config, field in (
        (link(rx=4, layers=3, memory=memory), "link.num_layers"),
        (link("channel", rx=4, memory=memory), "link.num_rx_ant"),
        (link(tx=4, memory=memory), "link.num_tx_ant"),
    ):
        with pytest.raises(InvalidField, match="scalar works with every number") as error:
            quantizer_for(config)
        assert error.value.field == field
        assert f"{field} is " in error.value.message


def test_bits_that_scalar_cannot_spend_are_refused() -> None:
    with pytest.raises(InvalidField, match="layers, or receive antennas") as error:
        quantizer_for(link(bits=1, quantizer="scalar"))
    assert error.value.field == "link.feedback.bits"
