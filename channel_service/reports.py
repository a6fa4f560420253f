"""CSI reports: estimated by each user, quantised, numbered. Their payload is all that a transmitter may learn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from channel_service.estimation import (
    least_squares,
    lmmse_over_subbands,
    report_slots_of_window,
)
from channel_service.windows import ByteBoundedCache, ChannelKey, Windows, window_of
from semlink.links import WINDOW_SLOTS
from semlink.signal.quantizers import quantizer_for
from semlink.v1 import common_pb2 as pb

BLOCK_REPORTS: Final = 8
"""Reports of a window that are made together: one query needs its history, not the whole window."""


@dataclass(frozen=True, slots=True)
class _Payloads:
    """Payloads of a block of reports: uint8 ``[num_users, num_reports, payload_bytes]``."""

    payloads: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        return self.payloads.nbytes


@dataclass(frozen=True, slots=True)
class _Observed:
    """Least-squares estimates of a window's reports and the variance of their error: see :func:`least_squares`."""

    estimate: torch.Tensor
    error_variance: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.estimate.nbytes + self.error_variance.nbytes


class Reports:
    """Makes reports; blocks of them are estimated and quantised in one batch and cached. Thread-safe."""

    def __init__(self, windows: Windows, max_bytes: int = 64 << 20) -> None:
        self._windows = windows
        self._payloads: ByteBoundedCache[tuple[bytes, int, int], _Payloads] = ByteBoundedCache(
            max_bytes
        )
        self._observed: ByteBoundedCache[tuple[ChannelKey, float, int, int], _Observed] = (
            ByteBoundedCache(max_bytes)
        )

    def made_in(self, config: pb.LinkConfig, slots: Iterable[int]) -> list[pb.CsiReport]:
        """The reports that all users make in the given slots, by slot, then user.

        ``perfect`` reports the true channel of any slot, unquantised; ``none`` reports nothing; the others report in
        multiples of the period the estimate of that slot and know nothing of any later one.
        """
        if config.feedback.quantizer == "none":
            return []
        period = config.feedback.report_period_slots
        quantizer = quantizer_for(config)
        return [
            pb.CsiReport(
                user=user,
                slot=slot,
                report_index=slot // period,
                bits=quantizer.bits,
                payload=payload.tobytes(),
            )
            for slot in slots
            for user, payload in enumerate(self._payloads_of(config, slot))
        ]

    def estimates(self, config: pb.LinkConfig, slot: int) -> torch.Tensor:
        """What the users estimated in a report slot.

        Returns complex64 ``[num_users, num_subbands, num_rx_ant, num_tx_ant]``.
        """
        if config.feedback.quantizer == "perfect":
            return self._windows.slot(config, slot)
        index, _ = window_of(slot)
        number = int(torch.searchsorted(report_slots_of_window(config, index), slot))
        return self._estimate(config, index, slice(number, number + 1))[:, 0]

    def _payloads_of(self, config: pb.LinkConfig, slot: int) -> NDArray[np.uint8]:
        """Payloads of one slot: uint8 ``[num_users, payload_bytes]``."""
        index, _ = window_of(slot)
        period = config.feedback.report_period_slots
        if config.feedback.quantizer == "perfect":
            h = self._windows.slot(config, slot)
            return _encode(config, h.unsqueeze(1), torch.tensor([slot // period]))[:, 0]
        first = -(-index * WINDOW_SLOTS // period)
        block, place = divmod(slot // period - first, BLOCK_REPORTS)
        key = (config.SerializeToString(deterministic=True), index, block)
        made = self._payloads.get(key, lambda: self._quantize(config, index, block)).payloads
        return made[:, place]

    def _estimate(self, config: pb.LinkConfig, index: int, part: slice) -> torch.Tensor:
        """Estimates of some of a window's reports: complex64 ``[num_users, reports, …]``."""
        key = (
            ChannelKey.of(config),
            config.snr_db,
            config.feedback.report_period_slots,
            index,
        )
        seen = self._observed.get(key, lambda: self._observe(config, index))
        return lmmse_over_subbands(seen.estimate[:, part], seen.error_variance[:, part])

    def _observe(self, config: pb.LinkConfig, index: int) -> _Observed:
        """What all users measure in a window, whatever they report of it."""
        slots = report_slots_of_window(config, index)
        window = self._windows.window(config, index).h
        h = window[:, (slots - index * WINDOW_SLOTS).to(window.device)]
        return _Observed(*least_squares(h, config, index))

    def _quantize(self, config: pb.LinkConfig, index: int, block: int) -> _Payloads:
        part = slice(block * BLOCK_REPORTS, (block + 1) * BLOCK_REPORTS)
        slots = report_slots_of_window(config, index)[part]
        numbers = slots // config.feedback.report_period_slots
        return _Payloads(_encode(config, self._estimate(config, index, part), numbers))


def _encode(
    config: pb.LinkConfig, h: torch.Tensor, report_index: torch.Tensor
) -> NDArray[np.uint8]:
    """Quantise ``[num_users, num_reports, …]`` in one batch: uint8 ``[num_users, num_reports, payload_bytes]``."""
    num_users, num_reports = h.shape[:2]
    payload: torch.Tensor = quantizer_for(config).encode(
        h.flatten(0, 1).cpu(), report_index.repeat(num_users)
    )
    return payload.view(num_users, num_reports, -1).numpy()
