"""From the CSI the transmitter believes in to the precoder of all co-scheduled streams.

Examples
--------
>>> csi = torch.randn(2, 4, 8, 2, 16, dtype=torch.complex64)  # 4 users of 2 antennas
>>> snr_db = torch.tensor([10.0, 20.0])
>>> w = precoder(csi, num_layers=1, snr_db=snr_db)
>>> w.shape, bool(torch.allclose(w.norm(dim=2), torch.ones(2, 8, 4), atol=1e-5))
(torch.Size([2, 8, 16, 4]), True)
>>> predicted_sinr_db(csi, w, snr_db, 1, user=torch.tensor([0, 3])).shape
torch.Size([2, 8, 1])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from sionna.phy.mimo import rzf_precoding_matrix

from semlink.decibels import db_to_lin, lin_to_db
from semlink.errors import InvalidField
from semlink.grid import NUM_SUBBANDS
from semlink.seeds import stable_seed
from semlink.signal.equalization import lmmse

RANK_FLOOR: Final = 1e-3
POWER_FLOOR: Final = 1e-3
"""Power of a stream that water-filling switches off, over its equal share. Our definition."""
SINR_FLOOR: Final = 1e-10
"""Least SINR that is ever predicted (−100 dB): a layer without any energy still has a finite figure in dB."""


def noise_power(num_streams: int, snr_db: torch.Tensor) -> torch.Tensor:
    """``N0 = P / 10^(snr_db / 10)`` with the total transmit power ``P = num_streams``; float ``[batch]``."""
    return num_streams / db_to_lin(snr_db.double())


def precoder(csi: torch.Tensor, num_layers: int, snr_db: torch.Tensor) -> torch.Tensor:
    """SVD precoding of one user, regularised zero-forcing of several; equal power for each stream.

    One user: the ``num_layers`` dominant right singular vectors. Several: each user's channel is seen through its
    ``num_layers`` dominant left singular vectors (rows ``σ_l v_lᴴ``) and all rows together go through Sionna's
    ``rzf_precoding_matrix`` with ``α = num_streams / SNR`` (the MMSE regularisation ``K·N0/P``). Quantised CSI may
    have a lower rank than there are layers: a layer that it does not resolve gets some orthogonal direction, at
    ``RANK_FLOOR`` of the strongest singular value.

    :param csi: complex64 ``[batch, num_users, num_subbands, num_rx_ant, num_tx_ant]``.
    :param snr_db: float ``[batch]``.
    :returns: complex64 ``[batch, num_subbands, num_tx_ant, num_users·num_layers]``, user-major columns of unit
        norm, so ``‖W‖_F² = num_users·num_layers`` in each subband.
    :raises InvalidField: for a user whose CSI is zero in a subband: there is nothing to precode for (use
        :func:`open_loop_precoder`).
    """
    energy = csi.abs().square().sum((-2, -1))
    if not bool((energy > 0).all()):
        raise InvalidField("csi is zero for a user and subband, allowed: energy > 0", field="csi")
    batch, num_users, num_subbands, _, num_tx_ant = csi.shape
    svd = torch.linalg.svd(csi.to(torch.complex128), full_matrices=False)
    directions: torch.Tensor = svd.Vh[..., :num_layers, :]
    if num_users == 1:
        return directions[:, 0].mH.to(torch.complex64)
    floor = RANK_FLOOR * svd.S[..., :1]
    rows = torch.maximum(svd.S[..., :num_layers], floor).unsqueeze(-1) * directions
    num_streams = num_users * num_layers
    rows = rows.transpose(1, 2).reshape(batch, num_subbands, num_streams, num_tx_ant)
    alpha = noise_power(num_streams, snr_db.to(rows.device))
    columns: torch.Tensor = rzf_precoding_matrix(rows, alpha, precision="double")
    return columns.to(torch.complex64)


def open_loop_precoder(num_tx_ant: int, num_streams: int, seeds: Sequence[int]) -> torch.Tensor:
    """The precoder without any CSI: fixed pseudo-random orthonormal columns for each subband. Our definition.

    The Q factor of a Gaussian matrix drawn from a Philox of each seed, so that a frame's subbands see different
    directions (diversity).

    :param num_streams: at most ``num_tx_ant``.
    :param seeds: of each item.
    :returns: complex64 ``[len(seeds), num_subbands, num_tx_ant, num_streams]``.
    """
    shape = (2, NUM_SUBBANDS, num_tx_ant, num_streams)
    draws = np.stack(
        [
            np.random.Generator(np.random.Philox(key=stable_seed("open-loop", seed))).normal(
                size=shape
            )
            for seed in seeds
        ]
    )
    q, _ = np.linalg.qr(draws[:, 0] + 1j * draws[:, 1])
    return torch.from_numpy(q.astype(np.complex64))


def own_streams_first(columns: torch.Tensor, user: torch.Tensor, num_layers: int) -> torch.Tensor:
    """Turn user-major columns so that those of each item's ``user`` come first, the others behind in their order.

    :param columns: ``[batch, ..., num_streams]``.
    :param user: int64 ``[batch]``.
    :returns: a tensor like ``columns``.
    """
    num_streams = columns.shape[-1]
    place = torch.arange(num_streams, device=columns.device)
    turned = (place + user.to(columns.device)[:, None] * num_layers) % num_streams
    index = turned.view(len(columns), *(1,) * (columns.ndim - 2), num_streams)
    return columns.gather(-1, index.expand_as(columns))


def predicted_sinr_db(
    csi: torch.Tensor,
    precoder: torch.Tensor,
    snr_db: torch.Tensor,
    num_layers: int,
    user: torch.Tensor | None = None,
) -> torch.Tensor:
    """Post-equalisation SINR of ``user`` (int64 ``[batch]``, default 0) that the transmitter expects if its CSI were
    true, in dB.

    :param csi: complex64 ``[batch, num_users, num_subbands, num_rx_ant, num_tx_ant]``.
    :param precoder: complex64 ``[batch, num_subbands, num_tx_ant, num_streams]``.
    :param snr_db: float ``[batch]``.
    :returns: float32 ``[batch, num_subbands, num_layers]``, at least ``SINR_FLOOR``.
    """
    if user is None:
        user = torch.zeros(len(csi), dtype=torch.int64, device=csi.device)
    own = csi[torch.arange(len(csi), device=csi.device), user]
    effective = own_streams_first(own @ precoder, user, num_layers)
    _, sinr = lmmse(effective, noise_power(precoder.shape[-1], snr_db), num_layers)
    return lin_to_db(sinr.clamp_min(SINR_FLOOR))


def water_filled(
    csi: torch.Tensor, precoder: torch.Tensor, snr_db: torch.Tensor, num_layers: int
) -> torch.Tensor:
    """Pour each user's power over its layers and subbands: more where the CSI promises more (our definition).

    Water-filling ``p = max(0, μ − 1/γ)``, ``γ`` a stream's predicted SINR at equal power: ``σ²/N0`` of a user alone
    (Telatar, "Capacity of multi-antenna Gaussian channels", 1999); with several users the interference that they
    cause each other at equal power counts as noise. Then ``POWER_FLOOR`` of the equal share goes to every stream, so
    that a stream that is switched off keeps a pilot and a finite SINR: ``p' = f + (1 − f) p``.

    :param csi: complex64 ``[batch, num_users, num_subbands, num_rx_ant, num_tx_ant]``.
    :param precoder: complex64 ``[batch, num_subbands, num_tx_ant, num_streams]``, columns of unit norm.
    :param snr_db: float ``[batch]``.
    :returns: a precoder of the same shape; each user's ``‖W_u‖_F²`` in the mean over subbands stays ``num_layers``.
    """
    batch, num_users, num_subbands = csi.shape[:3]
    each = torch.arange(num_users, device=csi.device)
    sinr_db = predicted_sinr_db(
        csi.repeat_interleave(num_users, 0),
        precoder.repeat_interleave(num_users, 0),
        snr_db.repeat_interleave(num_users),
        num_layers,
        each.repeat(batch),
    )
    gain = db_to_lin(sinr_db.double()).view(batch, num_users, -1)
    power = POWER_FLOOR + (1 - POWER_FLOOR) * water_filling(gain)
    by_stream = power.view(batch, num_users, num_subbands, num_layers).transpose(1, 2).flatten(2)
    return precoder * by_stream.sqrt().float().unsqueeze(2)


def water_filling(gain: torch.Tensor) -> torch.Tensor:
    """Powers of mean 1 that maximise ``Σ log(1 + gain·p)`` over the last dimension: ``max(0, μ − 1/gain)``.

    :param gain: float64 ``[..., n]``, > 0.
    :returns: a tensor like it.
    """
    floors, _ = (1 / gain).sort(-1)
    number = torch.arange(1, gain.shape[-1] + 1, dtype=gain.dtype, device=gain.device)
    levels = (gain.shape[-1] + floors.cumsum(-1)) / number
    wet = (levels > floors).sum(-1, keepdim=True)  # the strongest stream always is
    level = levels.gather(-1, wet - 1)
    return (level - 1 / gain).clamp_min(0)
