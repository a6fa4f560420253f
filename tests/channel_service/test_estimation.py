"""CSI-RS estimates: their noise, what smoothing gains, and what they depend on."""

import pytest
import torch
from channel_blocks import generate_block

from channel_service.estimation import (
    CSI_RS_PER_SUBBAND,
    estimate_reports,
    least_squares,
    lmmse_over_subbands,
    report_slots_of_block,
)
from semlink.grid import BLOCK_SLOTS
from semlink.links import Link
from semlink.signal.metrics import nmse_db


def link(**fields):
    return Link().replace(**fields)


def in_report_slots(config, block_index=0):
    slots = report_slots_of_block(config, block_index) - block_index * BLOCK_SLOTS
    return generate_block(config, block_index)[:, slots]


@pytest.mark.parametrize("snr_db", [-10.0, 10.0])
def test_least_squares_error_is_six_pilots_of_noise(snr_db):
    config = link(snr_db=snr_db)
    h = in_report_slots(config)
    estimate, measured = least_squares(h, config, 0)
    expected = 1 / (CSI_RS_PER_SUBBAND * 10 ** (snr_db / 10))
    assert float((estimate - h).abs().square().mean()) == pytest.approx(expected, rel=0.02)
    assert float(measured.mean()) == pytest.approx(expected, rel=0.01)
    # measured, not known: 96 elements at 2 antennas leave 7 % of uncertainty
    assert float(measured.std() / expected) == pytest.approx(192**-0.5, rel=0.1)


@pytest.mark.parametrize(
    ("scenario", "snr_db", "gain_db"),
    [
        ("umi-los", -10.0, 6.0),
        ("umi-los", 10.0, 2.0),
        ("uma-nlos", 0.0, 1.0),
        ("rayleigh", 0.0, 1.0),
    ],
)
def test_smoothing_over_subbands_gains(scenario, snr_db, gain_db):
    config = link(scenario=scenario, snr_db=snr_db, seed=4)
    h = in_report_slots(config)
    rough, measured = least_squares(h, config, 0)
    smooth = lmmse_over_subbands(rough, measured)
    assert float(nmse_db(h, smooth)) < float(nmse_db(h, rough)) - gain_db


@pytest.mark.parametrize("num_tx_ant", [1, 16])
def test_smoothing_does_no_harm_when_there_is_little_noise(num_tx_ant):
    config = link(
        scenario="uma-nlos", snr_db=30.0, num_tx_ant=num_tx_ant, num_rx_ant=1, num_users=1
    )
    h = in_report_slots(config)
    rough, measured = least_squares(h, config, 0)
    smooth = lmmse_over_subbands(rough, measured)
    assert float(nmse_db(h, smooth)) < float(nmse_db(h, rough)) + 0.3


def test_each_report_is_smoothed_by_itself():
    config = link(snr_db=0.0)
    rough, measured = least_squares(in_report_slots(config), config, 0)
    smooth = lmmse_over_subbands(rough, measured)
    alone = lmmse_over_subbands(rough[2:3, 7:8], measured[2:3, 7:8])
    torch.testing.assert_close(smooth[2:3, 7:8], alone, rtol=1e-4, atol=1e-5)
    disturbed = rough.clone()
    disturbed[0] = 9.0
    torch.testing.assert_close(lmmse_over_subbands(disturbed, measured)[1:], smooth[1:])


def test_estimates_are_pure_and_windows_differ():
    config = link()
    h = in_report_slots(config)
    assert torch.equal(estimate_reports(h, config, 0), estimate_reports(h, config, 0))
    first, _ = least_squares(h, config, 0)
    second, _ = least_squares(h, config, 1)
    assert not torch.allclose(first, second)
    # a sweep over the SNR sees the same noise, scaled
    louder, _ = least_squares(h, link(snr_db=30.0), 0)
    torch.testing.assert_close((louder - h) * 10, first - h, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("period", [1, 5, 7, 128])
def test_report_slots_of_all_windows_are_the_multiples_of_the_period(period):
    config = link()
    config = config.replace(report_period_slots=period)
    slots = torch.cat([report_slots_of_block(config, index) for index in range(3)])
    assert torch.equal(slots, torch.arange(0, 3 * BLOCK_SLOTS, period))
