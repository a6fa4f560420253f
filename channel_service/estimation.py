"""What a receiver learns of its channel: CSI-RS, least squares, then LMMSE across the subbands."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch

from semlink.decibels import db_to_lin
from semlink.grid import BLOCK_SLOTS
from semlink.links import Link
from semlink.seeds import stable_seed

CSI_RS_PER_SUBBAND: Final = 6
"""One element a port and physical resource block (density 1 of TS 38.211 clause 7.4.1.5), 6 blocks a subband."""
ZERO_POWER_ELEMENTS: Final = 96
"""Elements without any signal in a slot, from which a receiver measures its noise."""


def report_slots_of_block(config: Link, block_index: int) -> torch.Tensor:
    """Absolute slots of the block in which a report is made (multiples of the period): int64 ``[num_reports]``."""
    first = block_index * BLOCK_SLOTS
    period = config.feedback.report_period_slots
    return torch.arange(-(-first // period) * period, first + BLOCK_SLOTS, period)


def pilot_noise(
    config: Link, block_index: int, shape: torch.Size | tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise in the estimates of the reports of a block, and its measured variance.

    Every port sends its pilot with the whole transmit power ``P`` (orthogonal code- or frequency-division ports
    gather the same energy), so that a pilot's noise is ``N0/P = 1/SNR`` and ``CSI_RS_PER_SUBBAND`` of them average it.
    All noise of the block comes from one Philox keyed by (link seed, block): the reports are pure functions of
    (configuration, slot). The draws do not depend on the SNR, so sweeps share them.

    ``shape``: ``(num_users, num_reports, num_subbands, num_rx_ant, num_tx_ant)``. Returns complex64 of that shape, and
    the variance as measured from ``ZERO_POWER_ELEMENTS`` elements at each antenna, float32 ``[num_users,
    num_reports]``.
    """
    rng = np.random.Generator(np.random.Philox(key=stable_seed("csi-rs", config.seed, block_index)))
    level = 1 / (CSI_RS_PER_SUBBAND * db_to_lin(config.snr_db))
    parts = rng.standard_normal((*shape, 2), dtype=np.float32)
    parts *= math.sqrt(level / 2)
    # The mean power of n complex Gaussian elements is Gamma(n)/n distributed.
    elements = ZERO_POWER_ELEMENTS * shape[-2]
    measured = rng.gamma(elements, level / elements, size=tuple(shape[:2]))
    return torch.view_as_complex(torch.from_numpy(parts)), torch.from_numpy(measured).float()


def least_squares(
    h: torch.Tensor, config: Link, block_index: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Least-squares estimates from CSI-RS of every report slot of a block, and the measured noise of each.

    ``h``: complex64 ``[num_users, num_reports, num_subbands, num_rx_ant, num_tx_ant]``. Returns the estimates, of the
    same shape, and their error variance: see :func:`pilot_noise`.
    """
    noise, measured = pilot_noise(config, block_index, h.shape)
    return h + noise.to(h.device), measured.to(h.device)


def lmmse_over_subbands(estimate: torch.Tensor, error_variance: torch.Tensor) -> torch.Tensor:
    """Empirical LMMSE smoothing of least-squares estimates across subbands. Our definition.

    The covariance over subbands comes from the report's own antenna pairs; a channel that is stationary in frequency
    makes it Toeplitz, so its diagonals are averaged. Its eigenvectors (close to delay bins) are the basis; in it each
    component keeps the Wiener share ``max(q − σ², 0) / q`` of its measured power ``q``. Nothing is used that the
    receiver has not measured in this very slot. Measuring the gains, instead of taking the Toeplitz model's
    eigenvalues, costs nothing at low SNR and does no harm at high SNR, where the model is the larger error.

    ``estimate``: complex64 ``[..., num_subbands, num_rx_ant, num_tx_ant]``; ``error_variance``: float32 ``[...]``.
    Returns complex64 like ``estimate``.
    """
    pairs = estimate.flatten(-2)
    num_subbands, num_pairs = pairs.shape[-2:]
    sample = pairs @ pairs.mH / num_pairs
    lags = torch.stack([sample.diagonal(-k, -2, -1).mean(-1) for k in range(num_subbands)], dim=-1)
    subband = torch.arange(num_subbands, device=estimate.device)
    distance = subband[:, None] - subband
    below = lags[..., distance.abs()]
    _, basis = torch.linalg.eigh(torch.where(distance >= 0, below, below.conj()))
    components = basis.mH @ pairs
    power = components.abs().square().mean(-1)
    gain = (power - error_variance.unsqueeze(-1)).clamp_min(0.0) / power
    smoothed: torch.Tensor = basis @ (gain.unsqueeze(-1) * components)
    return smoothed.view(estimate.shape)


def estimate_reports(h: torch.Tensor, config: Link, block_index: int) -> torch.Tensor:
    """CSI estimates of all users in every report slot of a block.

    ``h``: complex64 ``[num_users, num_reports, num_subbands, num_rx_ant, num_tx_ant]``, the channel in the slots of
    :func:`report_slots_of_block`. Returns complex64 of the same shape.
    """
    return lmmse_over_subbands(*least_squares(h, config, block_index))
