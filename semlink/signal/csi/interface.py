"""What every CSI quantiser is: CSI to exactly ``bits`` bits and back, batched; and what its ends remember.

Examples
--------
Reports that follow one another, the second lost:

>>> from semlink.signal.csi.scalar import ScalarQuantizer
>>> quantizer = ScalarQuantizer(2, 16, 64)
>>> h, index = torch.randn(1, 3, 8, 2, 16, dtype=torch.complex64), torch.arange(3)
>>> payload = quantizer.encode_group(h, index)
>>> csi = quantizer.decode_group(payload, torch.tensor([[True, False, True]]), index)
>>> csi.abs().sum((0, 2, 3, 4)).bool().tolist()
[True, False, True]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

import torch

from semlink.errors import InvalidField
from semlink.grid import BLOCK_SLOTS, NUM_SUBBANDS

GROUP_SLOTS: Final = BLOCK_SLOTS
"""Slots of a group: its first report rests on no earlier one."""
DECODED_TOLERANCE: Final = 1e-5
"""Largest difference of a coefficient between two decodings of one payload, over the RMS of the CSI. Measured: 1e-6."""


@dataclass(slots=True)
class State:
    """What one end of the link knows after the reports of a group so far, for every item of a batch.

    ``position``: reports so far. Fields named in ``of_item`` are tensors ``[batch, …]``, all that a decoder keeps.
    """

    of_item: ClassVar[tuple[str, ...]] = ()
    position: int

    def rows(self) -> list[Self]:
        """The decoder's state of every item by itself; what only an encoder needs stays behind."""
        parts = [getattr(self, name).clone().split(1) for name in self.of_item]
        return [
            type(self)(self.position, **dict(zip(self.of_item, row, strict=True)))
            for row in zip(*parts, strict=True)
        ]

    @classmethod
    def from_rows(cls, rows: Sequence[Self]) -> Self:
        """The inverse of :meth:`rows`, for rows of one position."""
        parts: dict[str, Any] = {
            name: torch.cat([getattr(row, name) for row in rows]) for name in cls.of_item
        }
        return cls(rows[0].position, **parts)


@dataclass(slots=True)
class LastReport(State):
    """The state of a scheme whose reports stand for themselves: the CSI of the last one, zeros where it is lost."""

    of_item: ClassVar[tuple[str, ...]] = ("csi",)
    csi: torch.Tensor


class CsiQuantizer(ABC):
    """Turns the channel of one user into a report of ``bits`` bits, carried by ``ceil(bits / 8)`` bytes.

    Bits are packed most significant first; the bits of the last byte past ``bits`` are zero and checked. The common
    phase of a report carries no information about a precoder and is not kept (except by ``perfect``); the magnitude
    is, because the transmitter predicts its SINR from it.

    Each item of a batch is coded by itself. Equal channels give equal payloads, whatever stands beside them in a batch;
    equal payloads give equal CSI up to rounding, ``DECODED_TOLERANCE`` of its RMS: which kernel a matrix product takes,
    and with it the last bits, depends on the batch and on the processor.

    Reports that follow one another are coded through a state at each end, from :meth:`start` on. Here it is trivial, as
    every report stands for itself; :class:`ChainedQuantizer` is for schemes that remember.
    """

    name: str
    bits: int
    chained: bool = False
    """Whether a report rests on those before it in its group, so that they are made and decoded in order."""
    state_bytes: int = 0
    """Memory of one end's state for each item."""
    identity: Hashable = None
    """Equal identities follow equal reports to equal states; set by :func:`semlink.signal.csi.quantizer_for`."""

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

        :param h: complex64 ``[batch, num_subbands, num_rx_ant, num_tx_ant]``, mean power about 1.
        :param report_index: int64 ``[batch]``, running number of the report.
        :returns: uint8 ``[batch, payload_bytes]`` on ``h``'s device.
        :raises InvalidField: for another shape or for CSI that is not finite.
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

        :param payload: uint8 ``[batch, payload_bytes]``.
        :param report_index: int64 ``[batch]``.
        :returns: complex64 ``[batch, num_subbands, num_rx_ant, num_tx_ant]``.
        :raises InvalidField: for another length, for spare bits that are not zero and for a payload that no CSI
            gives.
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

    # --- reports that follow one another ------------------------------------------------------------------------

    def start(self, batch: int) -> Any:
        """The state of either end at the beginning of a group, for ``batch`` items."""
        return LastReport(0, torch.zeros((batch, *self.shape), dtype=torch.complex64))

    def encode_next(self, state: Any, h: torch.Tensor, report_index: int) -> torch.Tensor:
        """The next report of every item, ``h [batch, …]`` → uint8 ``[batch, payload_bytes]``; moves ``state`` on."""
        payload = self.encode(h, torch.full((len(h),), report_index))
        state.position += 1
        return payload

    def decode_next(
        self, state: Any, payload: torch.Tensor, present: torch.Tensor, report_index: int
    ) -> None:
        """Move a decoder's ``state`` on by one report, lost where ``present [batch]`` is False."""
        state.csi = self.decode_group(
            payload[:, None], present[:, None], torch.tensor([report_index])
        )[:, 0]
        state.position += 1

    def csi_of(self, state: Any, items: torch.Tensor) -> torch.Tensor:
        """The channel by a decoder's state, complex64 ``[len(items), num_subbands, num_rx_ant, num_tx_ant]``."""
        csi: torch.Tensor = state.csi[items]
        return csi

    def encode_group(
        self,
        h: torch.Tensor,
        report_index: torch.Tensor,
        state: Any = None,  # noqa: ARG002 (reports stand for themselves here)
    ) -> torch.Tensor:
        """Reports that follow one another, from ``state`` on (default: from a group's start).

        :param h: complex64 ``[batch, reports, num_subbands, num_rx_ant, num_tx_ant]``.
        :param report_index: int64 ``[reports]``.
        :returns: uint8 ``[batch, reports, payload_bytes]``.
        :raises InvalidField: as :meth:`encode` does.
        """
        payload = self.encode(h.flatten(0, 1), report_index.repeat(len(h)))
        return payload.view(*h.shape[:2], self.payload_bytes)

    def decode_group(
        self,
        payload: torch.Tensor,
        present: torch.Tensor,
        report_index: torch.Tensor,
        last: int | None = None,
    ) -> torch.Tensor:
        """CSI of reports that follow one another from a group's start.

        :param payload: uint8 ``[batch, reports, payload_bytes]``.
        :param present: bool ``[batch, reports]``, False where a report is lost (its payload is not looked at).
        :param report_index: int64 ``[reports]``.
        :returns: complex64 ``[batch, reports, num_subbands, num_rx_ant, num_tx_ant]`` of the ``last`` reports
            (default: all): zeros where nothing is known; what a chained scheme predicts after a lost report.
        """
        first = 0 if last is None else len(report_index) - last
        payload, present = payload[:, first:], present[:, first:]
        csi = torch.zeros(
            (*present.shape, *self.shape), dtype=torch.complex64, device=payload.device
        )
        csi[present] = self.decode(
            payload[present], report_index[first:].expand(present.shape)[present]
        )
        return csi

    @abstractmethod
    def _encode(self, h: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor: ...

    @abstractmethod
    def _decode(self, payload: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor: ...


class ChainedQuantizer(CsiQuantizer):
    """A scheme whose reports rest on those before them: what both ends remember is a :class:`State` of its own.

    :meth:`encode` and :meth:`decode` are those of a group's first report.
    """

    chained = True

    @abstractmethod
    def start(self, batch: int) -> Any: ...  # noqa: D102

    @abstractmethod
    def encode_next(self, state: Any, h: torch.Tensor, report_index: int) -> torch.Tensor: ...  # noqa: D102

    @abstractmethod
    def decode_next(  # noqa: D102
        self, state: Any, payload: torch.Tensor, present: torch.Tensor, report_index: int
    ) -> None: ...

    @abstractmethod
    def csi_of(self, state: Any, items: torch.Tensor) -> torch.Tensor: ...  # noqa: D102

    def encode_group(  # noqa: D102
        self, h: torch.Tensor, report_index: torch.Tensor, state: Any = None
    ) -> torch.Tensor:
        state = self.start(len(h)) if state is None else state
        payloads = [
            self.encode_next(state, h[:, t], int(index)) for t, index in enumerate(report_index)
        ]
        return torch.stack(payloads, dim=1)

    def decode_group(  # noqa: D102
        self,
        payload: torch.Tensor,
        present: torch.Tensor,
        report_index: torch.Tensor,
        last: int | None = None,
    ) -> torch.Tensor:
        state, items = self.start(len(payload)), torch.arange(len(payload))
        first = 0 if last is None else len(report_index) - last
        found = []
        for t, index in enumerate(report_index):
            self.decode_next(state, payload[:, t], present[:, t], int(index))
            if t >= first:
                found.append(self.csi_of(state, items))
        return torch.stack(found, dim=1)
