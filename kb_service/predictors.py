"""Predictors of CSI for any link: from a history of reports to the slot of transmission, without training."""

from __future__ import annotations

import math
from typing import Protocol

import torch

from kb_service.generators.linear import linear_fusion
from semlink.grid import SLOT_SECONDS
from semlink.signal.csi import content_of, doppler_hz
from semlink.signal.link import LinkLike
from semlink.signal.tracking import fuse_reports


class CsiPredictor(Protocol):
    """From a history of reports to the CSI of a later slot."""

    @property
    def name(self) -> str:
        """What it is called in requests."""
        ...

    def predict(
        self,
        history: torch.Tensor,
        present: torch.Tensor,
        age_slots: torch.Tensor,
        config: LinkLike,
    ) -> torch.Tensor:
        """CSI of every user in the slot of transmission, up to a common phase of each user.

        ``history``: complex64 ``[batch, num_users, num_reports, num_subbands, num_rx_ant, num_tx_ant]``, oldest
        first; ``present``: bool ``[batch, num_users, num_reports]``, False where a report is missing;
        ``age_slots``: int64 ``[batch, num_reports]``, slot of transmission − slot of the report. Of ``config`` only
        what the transmitter knows is read: speed and carrier. Returns complex64 ``[batch, num_users, num_subbands,
        num_rx_ant, num_tx_ant]``, zeros for a user without any report. Items do not influence each other.
        """
        ...


def newest_report(history: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """The last report that is there, zeros where there is none: ``[batch, num_users, …]``."""
    positions = torch.arange(1, present.shape[2] + 1, device=present.device)
    last = (present * positions).amax(2)
    index = (
        (last - 1).clamp_min(0)[..., None, None, None, None].expand(-1, -1, 1, *history.shape[3:])
    )
    newest = history.gather(2, index).squeeze(2)
    return torch.where((last > 0)[..., None, None, None], newest, torch.zeros_like(newest))


class HoldLast:
    """``hold-last``: the newest report as it is."""

    name = "hold-last"

    def predict(
        self,
        history: torch.Tensor,
        present: torch.Tensor,
        age_slots: torch.Tensor,  # noqa: ARG002
        config: LinkLike,  # noqa: ARG002
    ) -> torch.Tensor:
        """See :class:`CsiPredictor`."""
        return newest_report(history, present)


class Wiener:
    """``wiener``: the linear MMSE combination of the last reports, :func:`kb_service.generators.linear.linear_fusion`.

    Each report has phases of its own (:class:`semlink.signal.csi.layers.Content`): it is first turned to agree
    with the newest one.
    """

    name = "wiener"

    def predict(
        self,
        history: torch.Tensor,
        present: torch.Tensor,
        age_slots: torch.Tensor,
        config: LinkLike,
    ) -> torch.Tensor:
        """See :class:`CsiPredictor`."""
        reference = newest_report(history, present)
        reports = torch.where(present[..., None, None, None], history, torch.zeros_like(history))
        reports = content_of(config).phase_aligned(reports, reference.unsqueeze(2)).flatten(3)
        turns = math.pi * doppler_hz(config) * SLOT_SECONDS * age_slots.double()[:, None]
        weights = linear_fusion(reports, present, turns.expand(present.shape)).weights
        csi: torch.Tensor = (weights[..., None].to(reports.dtype) * reports).sum(2)
        return csi.view_as(reference)


class Kalman:
    """``kalman``: what the transmitter does by itself with reports that have memory, offered for all.

    :func:`semlink.signal.tracking.fuse_reports` of reports that stand for themselves; a tracked channel (memory
    "predictive") is taken as it is, since all earlier reports are in it.
    """

    name = "kalman"

    def predict(
        self,
        history: torch.Tensor,
        present: torch.Tensor,
        age_slots: torch.Tensor,
        config: LinkLike,
    ) -> torch.Tensor:
        """See :class:`CsiPredictor`."""
        if config.feedback.memory == "predictive":
            return newest_report(history, present)
        content = content_of(config)
        return fuse_reports(history, present, age_slots, doppler_hz(config), content)
