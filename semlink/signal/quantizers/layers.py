r"""A report of what a precoder can use: the strongest rows of the channel, easy to code. Our definition.

No precoder can use how the receiver's antennas share what arrives: with unitary :math:`Q_s`, :math:`H_s` and
:math:`Q_s H_s` have the same :math:`H_s^H H_s`, singular values and right singular vectors. A receiver therefore turns
its channel, subband by subband, to :math:`U_s^H H_s = \Sigma_s V_s^H`, keeps the ``num_layers`` strongest rows, and
turns each row's free phase to agree with the subband before, so that the rows vary as slowly over the subbands as they
can. The 3GPP codebooks do the same (TS 38.214 clause 5.2.2.2: a PMI is a set of directions with free phases); any
scheme gains from it.
"""

from __future__ import annotations

import math

import torch

from semlink.signal.quantizers.interface import CsiQuantizer


def rows_of_layers(h: torch.Tensor, num_layers: int) -> torch.Tensor:
    """The strongest rows of each subband, phases continued from subband to subband.

    ``h``: complex64 ``[..., num_subbands, num_rx_ant, num_tx_ant]``. Returns complex64
    ``[..., num_subbands, num_layers, num_tx_ant]``, ``num_layers ≤ num_rx_ant``: rows ``σ_l v_lᴴ`` up to a phase each,
    strongest first.
    """
    if h.shape[-2] > 1:
        _, u = torch.linalg.eigh(h @ h.mH)
        rows = u.flip(-1)[..., :num_layers].mH @ h
    else:
        rows = h
    step = (rows[..., 1:, :, :] * rows[..., :-1, :, :].conj()).sum(-1)
    turned = torch.angle(step).cumsum(-2)
    phases = torch.cat([torch.zeros_like(turned[..., :1, :]), turned], dim=-2)
    smooth: torch.Tensor = rows * torch.polar(torch.ones_like(phases), -phases)[..., None]
    return smooth


def turned_to(rows: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """``rows`` with each row's free phase turned to agree with ``reference``; both ``[..., num_rows, num_tx_ant]``."""
    inner = (rows.conj() * reference).sum(-1, keepdim=True)
    return rows * torch.polar(torch.ones_like(inner.real), torch.angle(inner))


class OfLayers(CsiQuantizer):
    """``inner``, a scheme for ``num_layers`` receive antennas, over the rows of the layers.

    Decoded CSI holds the rows where the first receive antennas would be, zeros behind: ``[num_subbands, num_rx_ant,
    num_tx_ant]``, the precoder's directions and gains.
    """

    def __init__(self, inner: CsiQuantizer, num_rx_ant: int) -> None:
        super().__init__(num_rx_ant, inner.num_tx_ant)
        self.name = inner.name
        self.bits = inner.bits
        self.inner = inner
        self.num_layers = inner.num_rx_ant
        # Rows share what all antennas receive: brought to a power of at most about 1, for which schemes are made.
        self._scale = math.sqrt(num_rx_ant / self.num_layers)

    def rows(self, h: torch.Tensor) -> torch.Tensor:
        """What ``inner`` codes of ``h``: complex64 ``[..., num_subbands, num_layers, num_tx_ant]``."""
        return rows_of_layers(h, self.num_layers) / self._scale

    def csi(self, rows: torch.Tensor) -> torch.Tensor:
        """CSI from what ``inner`` decodes: complex64 ``[..., num_subbands, num_rx_ant, num_tx_ant]``."""
        missing = self.num_rx_ant - self.num_layers
        return torch.nn.functional.pad(rows * self._scale, (0, 0, 0, missing))

    def _encode(self, h: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        return self.inner.encode(self.rows(h), report_index)

    def _decode(self, payload: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        return self.csi(self.inner.decode(payload, report_index))
