"""Reports to CSI as both ends of the link do it, for schemes with and without memory."""

from __future__ import annotations

import torch

from lab.evaluation.csi_samples import CsiSamples
from semlink.settings import Settings
from semlink.signal.csi import content_of, doppler_hz, quantizer_for
from semlink.signal.feedback import HISTORY_REPORTS
from semlink.signal.tracking import fuse_reports
from semlink.v1 import common_pb2


def reconstruct(config: common_pb2.LinkConfig, samples: CsiSamples, age_slots: int) -> torch.Tensor:
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
