"""``fused`` memory: a scheme's codebook turned by the report's index, so that no two reports err alike. Our definition.

The rotation is a phase ramp over the columns of the transmit panel of at most half a beam to either side: the one
diagonal unitary found that leaves the channel's statistics as codebooks were trained on them (delays begin at zero,
elevations are few, polarisations of a line of sight belong together: turning those cost a 16-bit report of ``rvq`` 4 dB
and more). Rotations are pseudo-random in the index, repeat after ``ROTATIONS`` reports, and are
the same on every machine. A still channel is then reported with ``ROTATIONS`` different quantisation errors that a
transmitter can average; a report stands for itself, so a lost one costs nothing but itself.

Examples
--------
>>> from semlink.signal.csi.scalar import ScalarQuantizer
>>> h = torch.randn(1, 8, 2, 16, dtype=torch.complex64).expand(2, -1, -1, -1)  # one channel, reported twice
>>> quantizer = Rotated(ScalarQuantizer(2, 16, 64))
>>> first, second = quantizer.encode(h, torch.arange(2))
>>> bool((first == second).all())
False
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Final

import numpy as np
import torch

from semlink.seeds import stable_seed
from semlink.signal.csi.interface import CsiQuantizer
from semlink.signal.csi.transform import PANELS

ROTATIONS: Final = 32


class Rotated(CsiQuantizer):
    """``inner`` behind the rotation of each report's index."""

    def __init__(self, inner: CsiQuantizer) -> None:
        super().__init__(inner.num_rx_ant, inner.num_tx_ant)
        self.name = inner.name
        self.bits = inner.bits
        self._inner = inner

    @cached_property
    def _phases(self) -> torch.Tensor:
        """Unit phasors, complex64 ``[ROTATIONS, 1, 1, num_tx_ant]``."""
        seed = stable_seed("rotation", self.num_tx_ant)
        rng = np.random.Generator(np.random.Philox(key=seed))
        polarisations, columns, rows = PANELS[self.num_tx_ant]
        beams = rng.uniform(-0.5, 0.5, ROTATIONS) if columns > 1 else np.zeros(ROTATIONS)
        turns = beams[:, None] * np.arange(columns) / columns
        ports = np.broadcast_to(turns[:, None, :, None], (ROTATIONS, polarisations, columns, rows))
        ramp = torch.from_numpy(np.exp(2j * math.pi * ports)).to(torch.complex64)
        return ramp.reshape(ROTATIONS, 1, 1, self.num_tx_ant)

    def _phases_of_report(self, report_index: torch.Tensor, device: torch.device) -> torch.Tensor:
        return self._phases[report_index.cpu() % ROTATIONS].to(device)

    def _encode(self, h: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        return self._inner.encode(h * self._phases_of_report(report_index, h.device), report_index)

    def _decode(self, payload: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        turned = self._inner.decode(payload, report_index)
        return turned * self._phases_of_report(report_index, payload.device).conj()
