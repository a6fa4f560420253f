# ruff: noqa: ARG002 (every scheme is handed the report's index; this one does without)
"""``scalar``: the strongest angular-delay taps, each with its position, amplitude and phase. Our definition.

A report of ``bits`` bits holds, in this order, the level of the strongest tap and then ``num_taps`` taps by falling
strength: position, amplitude relative to the strongest, phase relative to the strongest. The strongest tap's
amplitude is the level and its phase is the common phase, which nobody needs: it has only a position. When the report
is large enough for every tap, only the strongest tap's position is sent and the taps follow in their natural order.
All fields are uniform with ``q = min(floor(z·2^b), 2^b − 1)`` and reconstruct in the middle of the cell, the phase's
loss of coherence sinc(2^−b) included (centroid of a uniform phase).

Examples
--------
>>> h, index = torch.randn(2, 8, 2, 4, dtype=torch.complex64), torch.arange(2)
>>> quantizer = ScalarQuantizer(2, 4, 100)
>>> quantizer.decode(quantizer.encode(h, index), index).shape
torch.Size([2, 8, 2, 4])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch

from semlink.decibels import amplitude_to_db, db_to_amplitude
from semlink.errors import InvalidField
from semlink.grid import MAX_BITS, NUM_SUBBANDS
from semlink.signal.csi.interface import CsiQuantizer
from semlink.signal.csi.packing import pack, unpack
from semlink.signal.csi.request import QuantizerRequest
from semlink.signal.csi.transform import from_angular_delay, to_angular_delay

LEVEL_RANGE_DB: Final = (-21.0, 3.0)
"""Of the strongest tap over √(number of taps), which is its largest amplitude at unit mean power."""
FIXED_LEVEL_DB: Final = -6.0
"""What is assumed when there is no bit to send the level."""
MAX_COMPONENT_BITS: Final = 16


@dataclass(frozen=True, slots=True)
class _Plan:
    """How ``bits`` bits are spent. ``amplitude`` and ``phase`` have a width per tap after the strongest."""

    dense: bool
    level: int
    position: int
    amplitude: tuple[int, ...]
    phase: tuple[int, ...]

    @property
    def num_taps(self) -> int:
        return len(self.amplitude) + 1

    @property
    def widths(self) -> tuple[int, ...]:
        positions = () if self.dense else (self.position,) * len(self.amplitude)
        return (self.level, self.position, *positions, *self.amplitude, *self.phase)

    @property
    def bits(self) -> int:
        return sum(self.widths)


def _spread(total: int, count: int) -> tuple[int, ...]:
    """``total`` bits over ``count`` fields as evenly as it goes, the first fields first."""
    share, extra = divmod(total, count) if count else (0, 0)
    return tuple(share + (i < extra) for i in range(count))


def _split(total: int, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths of amplitude and phase: the phase gets the odd bit and one more, up to the widest component."""
    per_tap = _spread(total, count)
    phase = tuple(min(-(-(n + 1) // 2), n, MAX_COMPONENT_BITS) for n in per_tap)
    return tuple(n - p for n, p in zip(per_tap, phase, strict=True)), phase


def _plan(bits: int, num_coefficients: int) -> _Plan | None:
    """The way to spend exactly ``bits``, or None when there is none.

    Bits per tap after its position: 5 up to 128 bits, 7 up to 512, then 9; chosen among 3…10 by NMSE and SGCS on
    UMi-LOS and UMa-NLOS drops at 16 × 2 antennas, a compromise where the two disagree.
    """
    position = num_coefficients.bit_length() - 1
    level_most = 24
    if bits < position:
        return None
    level = min(4, max(0, bits - position)) if bits - position < 16 else 4
    left = bits - position - level
    others = num_coefficients - 1
    component = 5 if bits <= 128 else 7 if bits <= 512 else 9
    if left >= others * component or not others:
        most = 2 * MAX_COMPONENT_BITS * others
        level = min(level + max(0, left - most), level_most)
        left = bits - position - level
        if left > most:
            return None
        amplitude, phase = _split(left, others)
        return _Plan(True, level, position, amplitude, phase)
    taps = min(left // (position + component), others)
    if not taps:
        # One tap: what is left sharpens its level.
        return _Plan(False, min(level + left, level_most), position, (), ())
    amplitude, phase = _split(left - taps * position, taps)
    return _Plan(False, level, position, amplitude, phase)


def _nearest(bits: int, num_coefficients: int) -> int:
    """The number of bits nearest to ``bits`` that there is a way to spend."""
    offered = [b for b in range(1, MAX_BITS + 1) if _plan(b, num_coefficients) is not None]
    return min(offered, key=lambda b: abs(b - bits))


def _quantize(z: torch.Tensor, widths: torch.Tensor) -> torch.Tensor:
    """``min(floor(z·2^b), 2^b − 1)`` for ``z ≥ 0``."""
    levels = torch.exp2(widths)
    return torch.minimum((z * levels).floor(), levels - 1).to(torch.int64)


class ScalarQuantizer(CsiQuantizer):
    """See the module. Raises InvalidField (``link.feedback.bits``) for a number of bits that it cannot spend."""

    name = "scalar"

    def __init__(self, num_rx_ant: int, num_tx_ant: int, bits: int) -> None:
        super().__init__(num_rx_ant, num_tx_ant)
        self.bits = bits
        self._num_coefficients = math.prod(self.shape)
        plan = _plan(bits, self._num_coefficients)
        if plan is None:
            raise InvalidField(
                f"link.feedback.bits is {bits}, scalar cannot spend that on {num_rx_ant}×{num_tx_ant} numbers (layers, "
                f"or receive antennas with content channel, × transmit antennas) of {NUM_SUBBANDS} subbands; "
                f"the nearest allowed: {_nearest(bits, self._num_coefficients)}",
                field="link.feedback.bits",
            )
        self._plan = plan

    @cached_property
    def _component_widths(self) -> tuple[torch.Tensor, torch.Tensor]:
        plan = self._plan
        return (
            torch.tensor(plan.amplitude, dtype=torch.float64),
            torch.tensor(plan.phase, dtype=torch.float64),
        )

    def _positions(self, strongest: torch.Tensor) -> torch.Tensor:
        """Natural order of all taps but the strongest: ``[batch, num_coefficients − 1]``."""
        rest = torch.arange(self._num_coefficients - 1, device=strongest.device)
        return rest + (rest >= strongest[:, None])

    def _encode(self, h: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        plan = self._plan
        x = to_angular_delay(h.to(torch.complex128))
        magnitude = x.abs()
        order = magnitude.argsort(dim=1, descending=True, stable=True)
        strongest = order[:, 0]
        others = self._positions(strongest) if plan.dense else order[:, 1 : plan.num_taps]
        peak = magnitude.gather(1, strongest[:, None])
        full_scale = math.sqrt(self._num_coefficients)
        level_db = amplitude_to_db((peak / full_scale).clamp_min(1e-9))
        low, high = LEVEL_RANGE_DB
        level = ((level_db - low) / (high - low)).clamp(0, 1)
        relative = x.gather(1, others) * x.gather(1, strongest[:, None]).conj()
        relative = relative / peak.square().clamp_min(1e-30)
        turns = (torch.angle(relative) / (2 * math.pi)) % 1.0
        amplitude_bits, phase_bits = (w.to(h.device) for w in self._component_widths)
        level_bits = torch.tensor(float(plan.level), dtype=torch.float64, device=h.device)
        fields = [
            _quantize(level, level_bits),
            strongest[:, None],
            *([] if plan.dense else [others]),
            _quantize(relative.abs().clamp_max(1.0), amplitude_bits),
            _quantize(turns, phase_bits),
        ]
        return pack(torch.cat(fields, dim=1), plan.widths, self.bits)

    def _decode(self, payload: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        plan = self._plan
        fields = unpack(payload, plan.widths)
        taps = plan.num_taps - 1
        level, strongest = fields[:, :1].double(), fields[:, 1]
        others = self._positions(strongest) if plan.dense else fields[:, 2 : 2 + taps]
        amplitude = fields[:, fields.shape[1] - 2 * taps : fields.shape[1] - taps]
        phase = fields[:, fields.shape[1] - taps :]
        low, high = LEVEL_RANGE_DB
        level_db = low + (high - low) * (level + 0.5) / 2**plan.level
        if plan.level == 0:
            level_db = torch.full_like(level_db, FIXED_LEVEL_DB)
        peak = math.sqrt(self._num_coefficients) * db_to_amplitude(level_db)
        amplitude_bits, phase_bits = (w.to(payload.device) for w in self._component_widths)
        modulus = (
            (amplitude + 0.5) * torch.exp2(-amplitude_bits) * torch.sinc(torch.exp2(-phase_bits))
        )
        turns = (phase + 0.5) * torch.exp2(-phase_bits)
        values = torch.polar(peak * modulus, 2 * math.pi * turns)
        x = torch.zeros(
            (payload.shape[0], self._num_coefficients), dtype=values.dtype, device=payload.device
        )
        x = x.scatter(1, others, values).scatter(1, strongest[:, None], peak.to(x.dtype))
        return from_angular_delay(x.to(torch.complex64), self.num_rx_ant, self.num_tx_ant)


def scalar(request: QuantizerRequest) -> CsiQuantizer:
    """``scalar`` as a link asks for it."""
    return request.over_rows(
        ScalarQuantizer(request.content.num_rows, request.num_tx_ant, request.bits)
    )
