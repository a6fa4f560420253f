"""LMMSE equalisation from pilots, and the SINR behind it.

Examples
--------
>>> g = torch.randn(2, NUM_SUBBANDS, 2, 4, dtype=torch.complex64)  # 2 antennas see 4 streams, ours is the first
>>> weights, sinr = lmmse(g, torch.tensor([0.1, 0.1]), num_layers=1)
>>> samples = torch.randn(2, 2, 30, dtype=torch.complex64)
>>> equalize(samples, weights).shape, sinr.shape
(torch.Size([2, 1, 30]), torch.Size([2, 8, 1]))
"""

from __future__ import annotations

import torch

from semlink.errors import InvalidField
from semlink.grid import NUM_SUBBANDS


def noise_variance(noise: torch.Tensor) -> torch.Tensor:
    """Noise power from zero-power elements: complex ``[batch, num_rx_ant, n]`` → float32 ``[batch]``."""
    return noise.abs().square().mean((-2, -1))


def lmmse(
    pilots: torch.Tensor,
    noise_variance: torch.Tensor,
    num_layers: int,
    pilot_length: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unbiased LMMSE weights of the first ``num_layers`` streams; the other streams are interference.

    With ``K = G Gᴴ + N I``, ``a = K⁻¹ g_l`` and ``μ = g_lᴴ a``: weights ``aᴴ / μ`` and SINR ``μ / (1 − μ)``, so that
    ``weights · y = u_l + error`` with error variance ``1 / SINR``. With ``pilot_length`` the channel ``G`` is taken
    as a pilot estimate whose error, ``N0 / pilot_length`` an element, acts on every unit-power stream:
    ``N = N0 (1 + num_streams / pilot_length)``; without, ``G`` is taken as exact, ``N = N0``.

    :param pilots: complex ``[batch, num_subbands, num_rx_ant, num_streams]``.
    :param noise_variance: float ``[batch]``, > 0.
    :returns: weights complex64 ``[batch, num_subbands, num_layers, num_rx_ant]`` and SINR float32 (linear)
        ``[batch, num_subbands, num_layers]``.
    :raises InvalidField: for a noise variance that is not positive.
    """
    if not bool((noise_variance > 0).all()):
        raise InvalidField(
            f"noise_variance is {noise_variance.min().item()}, allowed: > 0", field="noise_variance"
        )
    # Double precision: at 60 dB and an array gain of 15 dB, 1 − μ is below the resolution of float32.
    g = pilots.to(torch.complex128)
    num_rx_ant, num_streams = g.shape[-2:]
    level = noise_variance.double()
    if pilot_length is not None:
        level = level * (1 + num_streams / pilot_length)
    own = g[..., :num_layers]
    eye = torch.eye(num_rx_ant, dtype=g.dtype, device=g.device)
    covariance = g @ g.mH + level[:, None, None, None] * eye
    biased = torch.linalg.solve(covariance, own)
    bias = (own.conj() * biased).sum(-2).real
    weights = biased.mH / bias.unsqueeze(-1)
    sinr = bias / (1 - bias).clamp_min(1e-15)
    return weights.to(torch.complex64), sinr.float()


def equalize(samples: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Apply each subband's weights to its resource elements; element ``i`` lies in subband ``i mod num_subbands``.

    :param samples: complex64 ``[batch, num_rx_ant, n]``.
    :param weights: complex64 ``[batch, num_subbands, num_layers, num_rx_ant]``.
    :returns: symbols complex64 ``[batch, num_layers, n]``.
    """
    return over_subbands(samples, weights)


def over_subbands(elements: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Multiply every resource element by the matrix of its subband.

    :param elements: complex ``[batch, num_in, n]``.
    :param matrices: complex ``[batch, num_subbands, num_out, num_in]``.
    :returns: complex ``[batch, num_out, n]``. The one place where elements meet subbands, used by the air as well.
    """
    batch, num_in, n = elements.shape
    rows = -(-n // NUM_SUBBANDS)
    padded = torch.nn.functional.pad(elements, (0, rows * NUM_SUBBANDS - n))
    by_subband = padded.view(batch, num_in, rows, NUM_SUBBANDS).permute(0, 3, 1, 2)
    product = matrices @ by_subband
    return product.permute(0, 2, 3, 1).reshape(batch, -1, rows * NUM_SUBBANDS)[..., :n]


def subband_share(num_resource_elements: int) -> torch.Tensor:
    """Share of the elements that lie in each subband: float64 ``[num_subbands]``, sums to 1."""
    elements = torch.arange(num_resource_elements) % NUM_SUBBANDS
    return torch.bincount(elements, minlength=NUM_SUBBANDS).double() / num_resource_elements


def mean_sinr_db(sinr: torch.Tensor, num_resource_elements: int) -> torch.Tensor:
    """Geometric mean of the SINR over a frame's symbols: dB.

    :param sinr: linear ``[batch, num_subbands, num_layers]``.
    :returns: float64 ``[batch]``.
    """
    per_subband = 10 * torch.log10(sinr.double()).mean(-1)
    # a product and a sum of each row by itself: a matrix product rounds with the size of the batch
    return (per_subband * subband_share(num_resource_elements).to(sinr.device)).sum(-1)
