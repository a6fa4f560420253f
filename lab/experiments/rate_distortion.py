"""Gaussian rate–distortion reference: what a Gaussian source of the channels' covariance would allow."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from lab.training.channel_dataset import drop
from semlink.decibels import lin_to_db

TRAINING_DROPS = 48
FIRST_TRAINING_SEED = 900_000
"""Beside the drops that train quantisers, far from those that validate (5 000 000…) and test (10 000 000…)."""


def covariance_spectrum(channels: Iterable[torch.Tensor]) -> NDArray[np.float64]:
    """Eigenvalues of the CSI covariance, falling.

    ``channels``: complex tensors ``[n, num_subbands, num_rx_ant, num_tx_ant]``; the covariance is that of the whole
    report (subbands, receive and transmit antennas), of zero mean because the phase is uniform. Returns float64
    ``[num_subbands · num_rx_ant · num_tx_ant]``.
    """
    count, total = 0, None
    for h in channels:
        rows = h.flatten(1).to(torch.complex128)
        outer = rows.mT @ rows.conj()
        total = outer if total is None else total + outer
        count += len(rows)
    if total is None:
        raise ValueError("no channels, no covariance")
    values: NDArray[np.float64] = torch.linalg.eigvalsh(total / count).numpy()[::-1]
    return values.clip(min=0.0)


def training_spectrum(
    scenario: str, num_tx_ant: int, num_rx_ant: int, drops: int = TRAINING_DROPS
) -> NDArray[np.float64]:
    """:func:`covariance_spectrum` of a scenario, from training drops of 32 users at 2 moments each."""
    return covariance_spectrum(
        drop(scenario, FIRST_TRAINING_SEED + i, num_tx_ant, num_rx_ant, 2) for i in range(drops)
    )


def gaussian_nmse_db(spectrum: NDArray[np.float64], bits: float) -> float:
    """NMSE in dB of ``bits`` ≥ 0 bits a report by reverse water-filling (methods.md §6).

    ``D(θ) = Σ min(θ, λ_i)``, ``R(θ) = Σ log2⁺(λ_i / θ)``: circular complex components, hence no half. A reference, not
    a limit: CSI is a mixture and not Gaussian.
    """
    values = np.sort(spectrum[spectrum > 0])[::-1]
    # With the k strongest components active, log2 θ = (Σ_{i≤k} log2 λ_i − R) / k; the right k is the greatest one
    # whose own λ_k still lies above that level.
    active = np.arange(1, len(values) + 1)
    levels = (np.cumsum(np.log2(values)) - bits) / active
    above = np.log2(values) >= levels
    last = int(np.flatnonzero(above)[-1])
    distortion = np.minimum(2.0 ** levels[last], values).sum()
    return float(lin_to_db(distortion / values.sum()))
