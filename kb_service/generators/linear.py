"""The best linear combination of reports: the predictor ``wiener``, and what trained generators start from."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch

SPREADS: Final = (0.0, 0.1, 0.5, 2.0)
"""``s_k``."""
PRIOR_SHARES: Final = (0.3, 0.3, 0.3, 0.1)
PRIOR_PAIRS: Final = 0.5
"""Weight of the prior in the fit, in pairs of reports."""
MAX_COHERENCE: Final = 0.99


class LinearFusion(NamedTuple):
    """Weights of the reports, float64 ``[..., num_reports]``, and the fitted shares, float64 ``[..., 4]``."""

    weights: torch.Tensor
    shares: torch.Tensor


def linear_fusion(
    reports: torch.Tensor, present: torch.Tensor, turns: torch.Tensor
) -> LinearFusion:
    """Linear MMSE weights of reports that have been turned to agree with the newest one. Our definition.

    The correlation of two reports, whose quantisation noise is partly the same, is modelled as

        ``C(τ) = Σ_k β_k exp(−s_k (π f_D τ)²)`` for τ ≠ 0, and 1 for a report with itself,

    ``f_D`` the Doppler shift of the link's speed; ``s = 1`` is Jakes' spectrum at small lags (``J0(x) ≈ exp(−x²/4)``),
    ``s = 0`` what does not fade at all (line of sight). ``β ≥ 0`` is fitted to the user's own correlations by least
    squares, shrunk towards ``PRIOR_SHARES``; ``g = Σ β`` < 1 where every report brings new quantisation noise. Then

        ``ĥ = Σ_p (R⁻¹ r)_p ĥ_p``, ``R[p, q] = C(t_p − t_q)``, ``r[p] = C(age_p) / √g``.

    It rests on reports being conditional means of their channels (``E⟨ĥ_p, h_p⟩ = E‖ĥ_p‖²``), as centroids are. With
    one report it is hold-last, shrunk.

    ``reports``: complex64 ``[..., num_reports, size]``, zeros where missing; ``present``: bool ``[..., num_reports]``;
    ``turns``: float64 ``[..., num_reports]``, ``π f_D age``. Weights of missing reports are 0.
    """
    pairs = _shapes(turns[..., :, None] - turns[..., None, :])
    shares = _fit(_correlation(reports), present, pairs)
    coherence = shares.sum(-1)
    both = present[..., :, None] & present[..., None, :]
    covariance = (pairs * shares[..., None, None, :]).sum(-1) * both
    diagonal = torch.eye(present.shape[-1], dtype=torch.bool, device=present.device)
    covariance = torch.where(diagonal, torch.ones_like(covariance), covariance)
    target = (_shapes(turns) * shares[..., None, :]).sum(-1)
    target = (target / coherence.sqrt()[..., None]) * present
    return LinearFusion(torch.linalg.solve(covariance, target), shares)


def _shapes(turns: torch.Tensor) -> torch.Tensor:
    """``exp(−s_k turns²)`` for every ``k``, in a new last dimension."""
    spreads = torch.tensor(SPREADS, dtype=torch.float64, device=turns.device)
    shapes: torch.Tensor = torch.exp(-spreads * turns[..., None].square())
    return shapes


def _correlation(reports: torch.Tensor) -> torch.Tensor:
    """Correlation of every pair of aligned reports, float64 ``[..., num_reports, num_reports]``."""
    flat = reports.flatten(0, -3)
    gram = torch.bmm(flat, flat.mH).real.double()
    power = gram.diagonal(dim1=1, dim2=2).clamp_min(1e-30)
    rho = gram / (power[:, :, None] * power[:, None, :]).sqrt()
    return rho.view(*reports.shape[:-2], *rho.shape[1:])


def _fit(rho: torch.Tensor, present: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Shares ``β`` of every user, float64 ``[..., len(SPREADS)]``: regularised least squares."""
    upper = torch.ones(rho.shape[-2:], dtype=torch.float64, device=rho.device).triu(1)
    weight = (present[..., :, None] & present[..., None, :]) * upper
    size = len(SPREADS)
    shapes = pairs.expand(*weight.shape, size).flatten(-3, -2)
    weighted = shapes * weight.flatten(-2)[..., None]
    prior = torch.tensor(PRIOR_SHARES, dtype=torch.float64, device=rho.device)
    eye = torch.eye(size, dtype=torch.float64, device=rho.device)
    left = (weighted[..., :, None] * shapes[..., None, :]).sum(-3) + PRIOR_PAIRS * eye
    right = (weighted * rho.flatten(-2)[..., None]).sum(-2) + PRIOR_PAIRS * prior
    shares: torch.Tensor = torch.linalg.solve(left, right).clamp_min(1e-3)
    coherence = shares.sum(-1, keepdim=True)
    return shares * (MAX_COHERENCE / coherence).clamp_max(1.0)
