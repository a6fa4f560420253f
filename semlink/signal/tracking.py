"""The transmitter's own fusion of reports that stand for themselves: a Kalman smoother's last step. Our definition.

The last reports of a user are turned to common phases and combined linearly, minimising the mean squared error at the
slot of use for a fading process with the correlation ``κ + (1 − κ) J0(2π s f_D τ)`` seen in noise: speed and carrier
are known, ``s`` and ``κ`` are those of the classes of :mod:`semlink.signal.csi.predictive` that explain best how
the reports resemble each other, and the noise is what reports of one moment would still differ by. The gains are the
same in every angular-delay component, so that no transform is needed: noise by reverse water-filling, or white under
each component's own prior, was tried and measured worse, because a trained codebook errs in strong components as much
as in weak ones.

Examples
--------
>>> from semlink.signal.csi.layers import WholeChannel
>>> h = torch.randn(1, 1, 1, 8, 2, 16, dtype=torch.complex64)
>>> reports = h + 0.3 * torch.randn(1, 1, 6, 8, 2, 16, dtype=torch.complex64)  # of a still channel
>>> ages = torch.arange(30, 0, -5)[None]
>>> csi = fuse_reports(reports, torch.ones(1, 1, 6, dtype=torch.bool), ages, 0.0, WholeChannel(2))
>>> error, last = (WholeChannel(2).nmse_db(h[:, 0], x) for x in (csi[:, 0:1], reports[:, 0, -1:]))
>>> bool(error < last)
True
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import torch
from scipy.special import j0

from semlink.grid import SLOT_SECONDS
from semlink.signal.csi.layers import Content
from semlink.signal.csi.predictive import CLASSES

MIN_COHERENCE: Final = 0.1
MAX_COHERENCE: Final = 0.98
PRIOR_COHERENCE: Final = 0.8
PRIOR_PAIRS: Final = 0.5
"""Weight of the prior coherence, in pairs of reports."""
ALIGNMENTS: Final = 2


@lru_cache(maxsize=64)
def _class_correlation(max_doppler_hz: float, longest_slots: int) -> torch.Tensor:
    """Correlation of each class at lags of 0…longest_slots slots: float64 ``[classes, longest_slots + 1]``."""
    turns = 2 * np.pi * max_doppler_hz * SLOT_SECONDS * np.arange(longest_slots + 1)
    return torch.from_numpy(
        np.stack([still + (1 - still) * j0(turns * speed) for speed, still in CLASSES])
    )


def fuse_reports(
    reports: torch.Tensor,
    present: torch.Tensor,
    age_slots: torch.Tensor,
    max_doppler_hz: float,
    content: Content,
) -> torch.Tensor:
    """CSI at the slot of use from the last reports of each user, up to the phases that ``content`` leaves free.

    :param reports: complex64 ``[batch, num_users, num_reports, num_subbands, num_rx_ant, num_tx_ant]``, oldest
        first.
    :param present: bool ``[batch, num_users, num_reports]``, False where a report is missing.
    :param age_slots: int64 ``[batch, num_reports]``, slot of use − slot of the report.
    :returns: complex64 ``[batch, num_users, num_subbands, num_rx_ant, num_tx_ant]``, zeros for a user without any
        report. Items do not influence each other.
    """
    batch, users, count = present.shape
    here = present.flatten(0, 1)
    y = reports.flatten(0, 1)
    y = torch.where(here[..., None, None, None], y, torch.zeros_like(y))
    last = (here * torch.arange(1, count + 1)).amax(1) - 1
    reference = y[torch.arange(len(y)), last.clamp_min(0)]
    y = content.phase_aligned(y, reference[:, None])
    ages = age_slots.repeat_interleave(users, dim=0).abs()
    lags = (ages[:, :, None] - ages[:, None, :]).abs()
    table = _class_correlation(max_doppler_hz, max(int(ages.max()), int(lags.max())))
    fading, coherence = _fading_class(y.flatten(2), here, lags, table)
    chosen = table[fading]
    both = here[:, :, None] & here[:, None, :]
    covariance = chosen.gather(1, lags.flatten(1)).view(-1, count, count) * both
    noise = (1 / coherence - 1)[:, None, None] * torch.eye(count, dtype=torch.float64)
    target = chosen.gather(1, ages) * here
    weights = torch.linalg.solve(covariance + noise, target) / coherence[:, None]

    for _ in range(ALIGNMENTS):
        y = content.phase_aligned(y, reference[:, None])
        reference = (weights[..., None, None, None].to(y.dtype) * y).sum(1)
    return reference.view(batch, users, *reports.shape[3:])


def _fading_class(
    y: torch.Tensor, here: torch.Tensor, lags: torch.Tensor, table: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Class of each item, int64 ``[batch]``, and the coherence of its reports, float64 ``[batch]``.

    Least squares of the resemblance of every pair of reports by a class's correlation times one factor, the coherence:
    what two reports of a still channel have in common, shrunk towards ``PRIOR_COHERENCE``.
    """
    count = y.shape[1]
    gram = (y[:, :, None] * y[:, None, :].conj()).sum(-1).abs().double()
    power = gram.diagonal(dim1=1, dim2=2).clamp_min(1e-30)
    resemblance = (gram / (power[:, :, None] * power[:, None, :]).sqrt())[:, None]
    upper = torch.ones((count, count), dtype=torch.float64).triu(1)
    weight = (here[:, :, None] & here[:, None, :])[:, None] * upper
    models = table[:, lags].abs().transpose(0, 1)
    agreement = (weight * models * resemblance).sum((2, 3)) + PRIOR_PAIRS * PRIOR_COHERENCE
    factor = agreement / ((weight * models.square()).sum((2, 3)) + PRIOR_PAIRS)
    factor = factor.clamp(MIN_COHERENCE, MAX_COHERENCE)
    misfit = weight * (resemblance - factor[..., None, None] * models).square()
    best = misfit.sum((2, 3)).argmin(1)
    return best, factor.gather(1, best[:, None])[:, 0]
