"""What every CSI quantiser is: CSI to exactly ``bits`` bits and back, batched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

import torch

from semlink.errors import InvalidField
from semlink.links import NUM_SUBBANDS

DECODED_TOLERANCE: Final = 1e-5
"""Largest difference of a coefficient between two decodings of one payload, over the RMS of the CSI. Measured: 1e-6."""


class CsiQuantizer(ABC):
    """Turns the channel of one user into a report of ``bits`` bits, carried by ``ceil(bits / 8)`` bytes.

    Bits are packed most significant first; the bits of the last byte past ``bits`` are zero and checked. The common
    phase of a report carries no information about a precoder and is not kept (except by ``perfect``); the magnitude
    is, because the transmitter predicts its SINR from it.

    Each item of a batch is coded by itself. Equal channels give equal payloads, whatever stands beside them in a batch;
    equal payloads give equal CSI up to rounding, ``DECODED_TOLERANCE`` of its RMS: which kernel a matrix product takes,
    and with it the last bits, depends on the batch and on the processor.
    """

    name: str
    bits: int

    def __init__(self, num_rx_ant: int, num_tx_ant: int) -> None:
        self.num_rx_ant = num_rx_ant
        self.num_tx_ant = num_tx_ant

    @property
    def payload_bytes(self) -> int:
        """Bytes of one report."""
        return -(-self.bits // 8)

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(num_subbands, num_rx_ant, num_tx_ant)`` of one report's CSI."""
        return (NUM_SUBBANDS, self.num_rx_ant, self.num_tx_ant)

    def encode(self, h: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        """Reports of a batch of channels.

        ``h``: complex64 ``[batch, num_subbands, num_rx_ant, num_tx_ant]``, mean power about 1; ``report_index``:
        int64 ``[batch]``, running number of the report. Returns uint8 ``[batch, payload_bytes]`` on ``h``'s device.
        Raises InvalidField for another shape or for CSI that is not finite.
        """
        if tuple(h.shape[1:]) != self.shape or h.shape[:1] != report_index.shape:
            raise InvalidField(
                f"csi has shape {tuple(h.shape)} with {tuple(report_index.shape)} report indices, "
                f"expected [batch, {', '.join(map(str, self.shape))}] with [batch]",
                field="csi",
            )
        if not torch.isfinite(torch.view_as_real(h)).all():
            raise InvalidField("csi holds NaN or infinity", field="csi")
        if not len(h):
            return torch.empty((0, self.payload_bytes), dtype=torch.uint8, device=h.device)
        return self._encode(h, report_index)

    def decode(self, payload: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        """CSI of a batch of reports.

        ``payload``: uint8 ``[batch, payload_bytes]``; ``report_index``: int64 ``[batch]``. Returns complex64
        ``[batch, num_subbands, num_rx_ant, num_tx_ant]``. Raises InvalidField for another length, for spare bits
        that are not zero and for a payload that no CSI gives.
        """
        if payload.ndim != 2 or payload.shape[1] != self.payload_bytes:
            raise InvalidField(
                f"payload has {payload.shape[-1]} bytes, {self.name} with {self.bits} bits has {self.payload_bytes}",
                field="payload",
            )
        if report_index.shape != payload.shape[:1]:
            raise InvalidField(
                f"{report_index.numel()} report indices for {payload.shape[0]} payloads",
                field="report_index",
            )
        spare = 8 * self.payload_bytes - self.bits
        if spare and bool((payload[:, -1] & ((1 << spare) - 1)).any()):
            raise InvalidField(
                f"payload has spare bits that are not zero (the last {spare})", field="payload"
            )
        if not len(payload):
            return torch.empty((0, *self.shape), dtype=torch.complex64, device=payload.device)
        return self._decode(payload, report_index)

    @abstractmethod
    def _encode(self, h: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor: ...

    @abstractmethod
    def _decode(self, payload: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor: ...
