# ruff: noqa: ARG002 (every scheme is handed the report's index; this one does without)
"""The two bounds: no feedback at all, and the channel itself.

Examples
--------
>>> h, index = torch.randn(1, 8, 2, 4, dtype=torch.complex64), torch.arange(1)
>>> perfect, nothing = PerfectFeedback(2, 4), NoFeedback(2, 4)
>>> bool(torch.equal(perfect.decode(perfect.encode(h, index), index), h)), nothing.encode(h, index).shape
(True, torch.Size([1, 0]))
"""

from __future__ import annotations

import numpy as np
import torch

from semlink.signal.csi.interface import CsiQuantizer
from semlink.signal.csi.request import QuantizerRequest


class NoFeedback(CsiQuantizer):
    """``none``: an empty payload that says nothing; decodes to zeros."""

    name = "none"
    bits = 0

    def _encode(self, h: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        return torch.empty((h.shape[0], 0), dtype=torch.uint8, device=h.device)

    def _decode(self, payload: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        return torch.zeros(
            (payload.shape[0], *self.shape), dtype=torch.complex64, device=payload.device
        )


class PerfectFeedback(CsiQuantizer):
    """``perfect``: the little-endian bytes of the complex64 CSI, phase included. A bound, never a default."""

    name = "perfect"

    def __init__(self, num_rx_ant: int, num_tx_ant: int) -> None:
        super().__init__(num_rx_ant, num_tx_ant)
        self.bits = 64 * int(np.prod(self.shape))

    def _encode(self, h: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        data = h.detach().cpu().numpy().astype("<c8").reshape(h.shape[0], -1).view(np.uint8)
        return torch.from_numpy(data.copy()).to(h.device)

    def _decode(self, payload: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        data = np.ascontiguousarray(payload.cpu().numpy()).view("<c8").astype(np.complex64)
        return torch.from_numpy(data.reshape(-1, *self.shape)).to(payload.device)


def no_feedback(request: QuantizerRequest) -> CsiQuantizer:
    """``none`` as a link asks for it."""
    return NoFeedback(request.num_rx_ant, request.num_tx_ant)


def perfect_feedback(request: QuantizerRequest) -> CsiQuantizer:
    """``perfect`` as a link asks for it."""
    return PerfectFeedback(request.num_rx_ant, request.num_tx_ant)
