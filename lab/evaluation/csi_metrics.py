"""Figures of CSI reports on :mod:`lab.evaluation.csi_samples`: NMSE, SGCS, precoding gain of a form of report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from lab.evaluation.csi_samples import Condition, CsiSamples
from semlink.decibels import db_to_lin, lin_to_db
from semlink.links import Link
from semlink.settings import Settings
from semlink.signal.csi import content_of, doppler_hz, quantizer_for
from semlink.signal.feedback import HISTORY_REPORTS
from semlink.signal.metrics import (
    direction_gain_db,
    direction_similarity,
    dominant_direction,
    phase_aligned_nmse_db,
)
from semlink.signal.precoding import open_loop_precoder
from semlink.signal.tracking import fuse_reports

ESTIMATE, CHANNEL, WHEN_USED = (
    "against the estimate",
    "against the channel",
    "against the channel when used",
)
BOUNDS: Final = ("bounds", 0, "")
"""Stands for the report that is perfect CSI, and for none: what every form is drawn between."""
Form = tuple[str, int, str]
"""Quantiser, bits, memory (or "channel")."""
Key = tuple[str, int, str, str, str]
"""Quantiser, bits, memory, reference, metric."""
Seed = dict[Key, float]
"""Every figure of one condition and seed."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What reconstructed CSI is compared with, and its dominant directions, computed once."""

    name: str
    h: torch.Tensor
    direction: torch.Tensor

    @classmethod
    def from_channel(cls, name: str, h: torch.Tensor) -> Reference:
        """``h``: complex64 ``[users, judged, num_subbands, num_rx_ant, num_tx_ant]``."""
        flat = h.flatten(0, 1)
        return cls(name, flat, dominant_direction(flat))


def references(samples: CsiSamples) -> list[Reference]:
    """The estimate (quantisation alone), the channel then, and the channel in the first slot that can use it."""
    return [
        Reference.from_channel(ESTIMATE, samples.estimates[:, samples.judged]),
        Reference.from_channel(CHANNEL, samples.channels),
        Reference.from_channel(WHEN_USED, samples.when_used),
    ]


def reconstruct(config: Link, samples: CsiSamples, age_slots: int) -> torch.Tensor:
    """What the transmitter takes for the channel ``age_slots`` after each judged report, which is the newest it has.

    Only the fuser carries on to a later slot; other reports are held. Returns complex64
    ``[users, judged, num_subbands, num_rx_ant, num_tx_ant]``.
    """
    quantizer = quantizer_for(config, Settings().weights)
    if quantizer.chained:
        payload = quantizer.encode_group(samples.estimates, samples.report_index)
        present = torch.ones(payload.shape[:2], dtype=torch.bool)
        return quantizer.decode_group(payload, present, samples.report_index)[:, samples.judged]
    history = HISTORY_REPORTS if config.feedback.memory == "fused" else 1
    # [judged, history]: the positions of each judged report and of those before it, oldest first
    positions = samples.judged[:, None] + torch.arange(1 - history, 1)
    reports = samples.estimates[:, positions]
    index = samples.report_index[positions].expand(reports.shape[:3])
    payload = quantizer.encode(reports.flatten(0, 2), index.flatten())
    decoded = quantizer.decode(payload, index.flatten()).view(reports.shape)
    if history == 1:
        return decoded[:, :, 0]
    ages = (samples.judged[:, None] - positions) * config.feedback.report_period_slots + age_slots
    users = len(decoded)
    fused = fuse_reports(
        decoded.flatten(0, 1)[:, None],
        torch.ones((users * len(positions), 1, history), dtype=torch.bool),
        ages.repeat(users, 1),
        doppler_hz(config),
        content_of(config),
    )
    return fused.view(users, len(positions), *quantizer.shape)


def figures_of(h_hat: torch.Tensor, reference: Reference, *, is_channel: bool) -> dict[str, float]:
    """SGCS, precoding gain (dB) and, of a whole channel, NMSE (dB, one ratio of sums, a common phase a report free)."""
    direction = dominant_direction(h_hat)
    figures = {
        "sgcs": float(direction_similarity(reference.direction, direction).mean()),
        "precoding_gain_db": float(direction_gain_db(reference.h, direction).mean()),
    }
    if is_channel:
        power = reference.h.abs().double().square().sum((-3, -2, -1))
        error = power * db_to_lin(phase_aligned_nmse_db(reference.h, h_hat))
        figures["nmse_db"] = float(lin_to_db(error.sum() / power.sum()))
    return figures


def measured(
    condition: Condition,
    snr_db: float,
    form: Form,
    samples: CsiSamples,
    against: Sequence[Reference],
) -> Seed:
    """Every figure of one form of report, or of :data:`BOUNDS`."""
    if form == BOUNDS:
        return _bounds(condition, against)
    quantizer, bits, memory = form
    config = condition.link(snr_db, quantizer, bits, memory)
    then = reconstruct(config, samples, 0).flatten(0, 1)
    later = then
    if memory == "fused":
        later = reconstruct(config, samples, config.feedback.delay_slots).flatten(0, 1)
    return {
        (quantizer, bits, memory, reference.name, metric): value
        for reference in against
        for metric, value in figures_of(
            later if reference.name == WHEN_USED else then,
            reference,
            is_channel=memory == "channel",
        ).items()
    }


def _bounds(condition: Condition, against: Sequence[Reference]) -> Seed:
    """``perfect``: the reference itself; ``none``: random directions."""
    config = condition.link(20.0, "none", 0)
    found: Seed = {}
    for reference in against:
        blind = open_loop_precoder(
            config.num_tx_ant, config.num_users * config.num_layers, range(len(reference.h))
        )[..., :1]
        rows = blind.mH.expand_as(reference.h)
        for quantizer, h_hat in (("perfect", reference.h), ("none", rows)):
            for metric, value in figures_of(h_hat, reference, is_channel=False).items():
                found[quantizer, 0, "", reference.name, metric] = value
    return found
