"""Figures of merit of channel knowledge: NMSE, SGCS, precoding gain.

Examples
--------
>>> h = torch.randn(3, 8, 2, 16, dtype=torch.complex64)
>>> turned = 2j * h  # neither scale nor common phase matter to a precoder
>>> bool(torch.allclose(sgcs(h, turned), torch.ones(3), atol=1e-5))
True
>>> round(float(nmse_db(h, 0.9 * h)), 2)
-20.0
"""

from __future__ import annotations

import torch

from semlink.decibels import lin_to_db

_TINY = 1e-30


def nmse_db(h: torch.Tensor, h_hat: torch.Tensor) -> torch.Tensor:
    """NMSE of a whole test set, one ratio of sums: ``10·log10(Σ‖H−Ĥ‖² / Σ‖H‖²)``.

    :param h: complex, equal shapes of any rank; the sums run over everything.
    :param h_hat: complex, equal shapes of any rank; the sums run over everything.
    :returns: a scalar in dB. Our definition (not a mean of ratios, so that faded samples do not rule the figure).
    """
    error = (h - h_hat).abs().double().square().sum()
    return lin_to_db(error.clamp_min(_TINY) / h.abs().double().square().sum())


def phase_aligned_nmse_db(h: torch.Tensor, h_hat: torch.Tensor) -> torch.Tensor:
    """NMSE of each sample after the one phase common to all its elements has been removed.

    ``min_φ ‖H − e^{jφ}Ĥ‖² / ‖H‖² = (‖H‖² + ‖Ĥ‖² − 2·|⟨Ĥ, H⟩|) / ‖H‖²``: a precoder does not care about a phase that
    has turned in all antennas and subbands alike. Our definition.

    :param h: complex ``[..., num_subbands, num_rx_ant, num_tx_ant]``.
    :param h_hat: complex ``[..., num_subbands, num_rx_ant, num_tx_ant]``.
    :returns: float64 ``[...]`` in dB.
    """
    axes = (-3, -2, -1)
    power = h.abs().double().square().sum(axes)
    power_hat = h_hat.abs().double().square().sum(axes)
    inner = (h_hat.conj() * h).to(torch.complex128).sum(axes).abs()
    error = (power + power_hat - 2 * inner).clamp_min(_TINY)
    return lin_to_db(error / power)


def dominant_direction(h: torch.Tensor) -> torch.Tensor:
    """Dominant right singular vector: complex ``[..., num_rx_ant, num_tx_ant]`` → ``[..., num_tx_ant]``, unit norm."""
    vh: torch.Tensor = torch.linalg.svd(h, full_matrices=False).Vh
    return vh[..., 0, :].conj()


def direction_similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``|⟨a, b⟩|²`` of unit vectors, mean over subbands.

    Complex ``[..., num_subbands, num_tx_ant]`` → float ``[...]`` in 0…1.
    """
    inner = (a.conj() * b).sum(-1)
    return inner.abs().square().mean(-1).clamp(0.0, 1.0)


def sgcs(h: torch.Tensor, h_hat: torch.Tensor) -> torch.Tensor:
    """Squared generalised cosine similarity of true and assumed dominant directions, mean over subbands.

    3GPP's figure for CSI feedback (TR 38.843). Blind to scale and to a common phase.

    :param h: complex ``[..., num_subbands, num_rx_ant, num_tx_ant]``.
    :param h_hat: complex ``[..., num_subbands, num_rx_ant, num_tx_ant]``.
    :returns: float ``[...]`` in 0…1. Where the two largest singular values are equal (scenario ``awgn`` with
        several receive antennas) the direction is not unique and the figure has no meaning.
    """
    return direction_similarity(dominant_direction(h), dominant_direction(h_hat))


def direction_gain_db(h: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Gain of a rank-1 precoder over a single antenna pair, mean over subbands, then dB.

    ``10·log10 mean_s(‖H_s v_s‖² / mean|h_s|²)`` with a matched receiver. Our definition, as in the table of the
    feedback trial.

    :param h: complex ``[..., num_subbands, num_rx_ant, num_tx_ant]``.
    :param direction: unit vectors, complex ``[..., num_subbands, num_tx_ant]``.
    :returns: float ``[...]`` in dB.
    """
    received = (h @ direction.unsqueeze(-1)).abs().square().sum((-2, -1))
    return lin_to_db(received.mean(-1) / h.abs().square().mean((-3, -2, -1)))


def precoding_gain_db(h: torch.Tensor, h_hat: torch.Tensor) -> torch.Tensor:
    """:func:`direction_gain_db` of the dominant direction of the assumed channel.

    :param h: complex ``[..., num_subbands, num_rx_ant, num_tx_ant]``.
    :param h_hat: complex ``[..., num_subbands, num_rx_ant, num_tx_ant]``.
    :returns: float ``[...]`` in dB.
    """
    return direction_gain_db(h, dominant_direction(h_hat))
