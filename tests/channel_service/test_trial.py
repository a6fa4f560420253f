"""The trial of methods §0: what CSI error costs alone and together, 16 ports, one antenna a user, UMa-NLOS."""

import math

import pytest
import torch

from channel_service.fading import ChannelKey, draw_rays, frequency_response
from semlink.links import Link
from semlink.signal.equalization import lmmse, mean_sinr_db
from semlink.signal.metrics import nmse_db
from semlink.signal.precoding import noise_power, precoder

DROPS = 160
TRIAL = {  # CSI error (NMSE, dB) -> users -> SINR in dB at SNR 5 and 25 dB
    None: {1: (16.4, 36.4), 2: (12.8, 32.7), 4: (8.5, 28.1)},
    -10.0: {1: (15.8, 35.8), 2: (11.5, 21.3), 4: (6.8, 14.0)},
    -5.0: {1: (14.4, 34.4), 2: (9.0, 15.4), 4: (4.2, 8.0)},
    -3.0: {1: (12.9, 32.9), 2: (7.0, 12.3), 4: (2.1, 4.9)},
}


@pytest.fixture(scope="module")
def drops() -> torch.Tensor:
    """Channels ``[DROPS, 4 users, num_subbands, 1, 16]``."""
    config = Link().replace(scenario="uma-nlos", num_rx_ant=1)
    slots = []
    for seed in range(DROPS):
        config = config.replace(seed=seed)
        slots.append(frequency_response(draw_rays(ChannelKey.from_config(config)), 500, 1)[:, 0])
    return torch.stack(slots)


def mean_sinr(h: torch.Tensor, error_db: float | None, snr_db: float) -> float:
    """Geometric mean over drops of the true SINR.

    The CSI errs as that of a quantiser does, uncorrelated with the CSI itself (the test channel of rate-distortion
    theory): ``Ĥ = (1 − D) H + √(D (1 − D)) N``, NMSE ``D``.
    """
    generator = torch.Generator().manual_seed(0)
    csi = h
    if error_db is not None:
        distortion = 10 ** (error_db / 10)
        noise = torch.randn(h.shape, dtype=h.dtype, generator=generator)
        csi = (1 - distortion) * h + math.sqrt(distortion * (1 - distortion)) * noise
        assert float(nmse_db(h, csi)) == pytest.approx(error_db, abs=0.3)
    level = torch.full((len(h),), snr_db)
    w = precoder(csi, 1, level)
    _, sinr = lmmse(h[:, 0] @ w, noise_power(w.shape[-1], level), 1)
    return float(mean_sinr_db(sinr, 64).mean())


@pytest.mark.slow
@pytest.mark.parametrize("error_db", TRIAL)
@pytest.mark.parametrize("users", [1, 2, 4])
def test_sinr_is_that_of_the_trial(drops, error_db, users):
    """Within 1 dB of the trial's figures (other drops, other topology)."""
    found = [mean_sinr(drops[:, :users], error_db, snr_db) for snr_db in (5.0, 25.0)]
    print(f"NMSE {error_db} dB, {users} users: {found[0]:.1f} / {found[1]:.1f} dB")
    assert found == pytest.approx(TRIAL[error_db][users], abs=1.0)
