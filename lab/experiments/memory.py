"""Reports to CSI as both ends of the link do it, for schemes with and without memory."""

from __future__ import annotations

import torch

from lab.experiments.csi_samples import CsiSamples
from semlink.signal.quantizers import quantizer_for
from semlink.v1 import common_pb2


def reconstruct(config: common_pb2.LinkConfig, samples: CsiSamples) -> torch.Tensor:
    """What the transmitter takes for the channel in each judged report's slot.

    Returns complex64 ``[users, judged, num_subbands, num_rx_ant, num_tx_ant]``.
    """
    quantizer = quantizer_for(config)
    judged = samples.estimates[:, samples.judged]
    users, count = judged.shape[:2]
    index = samples.report_index[samples.judged].repeat(users)
    payload = quantizer.encode(judged.flatten(0, 1), index)
    return quantizer.decode(payload, index).view(users, count, *quantizer.shape)
