"""CSI reports: estimated by each user, quantised, numbered. Their payload is all that a transmitter may learn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from channel_service.estimation import (
    least_squares,
    lmmse_over_subbands,
    report_slots_of_block,
)
from channel_service.fading import ByteBoundedCache, ChannelBlocks, ChannelKey, block_of
from semlink.grid import BLOCK_SLOTS
from semlink.links import Link
from semlink.signal.csi import CsiQuantizer, State, quantizer_for
from semlink.signal.feedback import scheme_of
from semlink.telemetry import CSI_REPORTS_REJECTED
from semlink.v1 import common_pb2 as pb
from semlink.weight_files import SHIPPED, Weights

CHUNK_REPORTS: Final = 8
"""Reports of a channel block that are made together: one query needs its history, not the whole block."""


@dataclass(frozen=True, slots=True)
class _Payloads:
    """Payloads of a chunk of reports: uint8 ``[num_users, num_reports, payload_bytes]``."""

    payloads: NDArray[np.uint8]
    made: NDArray[np.bool_]
    """``[num_users, num_reports]``: False where the estimate is not finite, so that there is nothing to report."""

    @property
    def nbytes(self) -> int:
        return self.payloads.nbytes + self.made.nbytes


@dataclass(frozen=True, slots=True)
class _Observed:
    """Least-squares estimates of a block's reports and the variance of their error: see :func:`least_squares`."""

    estimate: torch.Tensor
    error_variance: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.estimate.nbytes + self.error_variance.nbytes


class _Group:
    """Chunks of reports that are made in order, as far as they are asked for. Thread-safe."""

    def __init__(self, quantizer: CsiQuantizer, num_users: int, num_reports: int) -> None:
        self._quantizer = quantizer
        self._state = quantizer.start(num_users) if quantizer.chained else None
        self._chunks: list[_Payloads] = []
        self._lock = threading.Lock()
        # What it will hold when it is full.
        of_user = num_reports * (quantizer.payload_bytes + 1) + quantizer.state_bytes
        self.nbytes = num_users * of_user

    def chunk(
        self, number: int, estimate: Callable[[int], tuple[torch.Tensor, torch.Tensor]]
    ) -> _Payloads:
        """Chunk ``number``; ``estimate(chunk)`` gives the channels of a chunk and their report indices."""
        with self._lock:
            while len(self._chunks) <= number:
                channels = estimate(len(self._chunks))
                self._chunks.append(_encode(self._quantizer, *channels, self._state))
            return self._chunks[number]


class Reports:
    """Makes reports; chunks of them are estimated and quantised in one batch and cached. Thread-safe."""

    def __init__(
        self, blocks: ChannelBlocks, max_bytes: int = 64 << 20, weights: Weights = SHIPPED
    ) -> None:
        self._blocks = blocks
        self._weights = weights
        self._groups: ByteBoundedCache[tuple[Link, int, int], _Group] = ByteBoundedCache(max_bytes)
        self._observed: ByteBoundedCache[tuple[ChannelKey, float, int, int], _Observed] = (
            ByteBoundedCache(max_bytes)
        )

    def made_in(self, config: Link, slots: Iterable[int], link_id: str = "") -> list[pb.CsiReport]:
        """The reports that all users make in the given slots, by slot, then user, labelled with scheme and link.

        ``perfect`` reports the true channel of any slot, unquantised; ``none`` reports nothing; the others report in
        multiples of the period the estimate of that slot and know nothing of any later one. A user whose estimate is
        not finite makes no report there (counted as ``semlink_csi_reports_rejected_total{field="csi"}``).
        """
        if config.feedback.quantizer == "none":
            return []
        period = config.feedback.report_period_slots
        quantizer, scheme = quantizer_for(config, self._weights), scheme_of(config)
        return [
            pb.CsiReport(
                user=user,
                slot=slot,
                report_index=slot // period,
                bits=quantizer.bits,
                payload=payload.tobytes(),
                quantizer=scheme,
                link_id=link_id,
            )
            for slot in slots
            for user, payload in enumerate(self._payloads_of(config, slot))
            if payload is not None
        ]

    def estimates(self, config: Link, slot: int) -> torch.Tensor:
        """What the users estimated in a report slot.

        Returns complex64 ``[num_users, num_subbands, num_rx_ant, num_tx_ant]``.
        """
        if config.feedback.quantizer == "perfect":
            return self._blocks.slot(config, slot)
        index, _ = block_of(slot)
        number = int(torch.searchsorted(report_slots_of_block(config, index), slot))
        return self._estimate(config, index, slice(number, number + 1))[:, 0]

    def _payloads_of(self, config: Link, slot: int) -> list[NDArray[np.uint8] | None]:
        """Payload of every user's report in one slot, None where there is none."""
        index, _ = block_of(slot)
        period = config.feedback.report_period_slots
        if config.feedback.quantizer == "perfect":
            h = self._blocks.slot(config, slot)
            index_of_report = torch.tensor([slot // period])
            made, place = (
                _encode(quantizer_for(config, self._weights), h.unsqueeze(1), index_of_report),
                0,
            )
        else:
            first = -(-index * BLOCK_SLOTS // period)
            chunk, place = divmod(slot // period - first, CHUNK_REPORTS)
            made = self._chunk(config, index, chunk)
        return [
            payload[place] if there[place] else None
            for payload, there in zip(made.payloads, made.made, strict=True)
        ]

    def _chunk(self, config: Link, index: int, chunk: int) -> _Payloads:
        """A chunk of a channel block's reports, made when it is not there, and those before it if it rests on them."""
        quantizer = quantizer_for(config, self._weights)
        first, num_reports = chunk, CHUNK_REPORTS
        if quantizer.chained:
            first, num_reports = 0, len(report_slots_of_block(config, index))
        group = self._groups.get(
            (config, index, first),
            lambda: _Group(quantizer, config.num_users, num_reports),
        )
        return group.chunk(
            chunk - first, lambda number: self._channels(config, index, first + number)
        )

    def _channels(self, config: Link, index: int, chunk: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Estimates of a chunk's reports, on the CPU, and the reports' indices."""
        part = slice(chunk * CHUNK_REPORTS, (chunk + 1) * CHUNK_REPORTS)
        slots = report_slots_of_block(config, index)[part]
        numbers = slots // config.feedback.report_period_slots
        return self._estimate(config, index, part).cpu(), numbers

    def _estimate(self, config: Link, index: int, part: slice) -> torch.Tensor:
        """Estimates of some of a channel block's reports: complex64 ``[num_users, reports, …]``."""
        key = (
            ChannelKey.from_config(config),
            config.snr_db,
            config.feedback.report_period_slots,
            index,
        )
        seen = self._observed.get(key, lambda: self._observe(config, index))
        return lmmse_over_subbands(seen.estimate[:, part], seen.error_variance[:, part])

    def _observe(self, config: Link, index: int) -> _Observed:
        """What all users measure in a block, whatever they report of it."""
        slots = report_slots_of_block(config, index)
        block = self._blocks.block(config, index).h
        h = block[:, (slots - index * BLOCK_SLOTS).to(block.device)]
        return _Observed(*least_squares(h, config, index))


def _finite(h: torch.Tensor) -> tuple[torch.Tensor, NDArray[np.bool_]]:
    """Channels ``[num_users, num_reports, …]`` with zeros for those that are not finite (counted), and which are."""
    made = torch.isfinite(torch.view_as_real(h)).flatten(2).all(-1)
    lost = int((~made).sum())
    if lost:
        CSI_REPORTS_REJECTED.labels("csi").inc(lost)
        h = torch.where(made[:, :, None, None, None], h, torch.zeros_like(h))
    return h, made.numpy()


def _encode(
    quantizer: CsiQuantizer,
    h: torch.Tensor,
    report_index: torch.Tensor,
    state: State | None = None,
) -> _Payloads:
    """Quantise ``[num_users, num_reports, …]``, from ``state`` on where reports rest on earlier ones."""
    h, made = _finite(h.cpu())
    return _Payloads(quantizer.encode_group(h, report_index, state).numpy(), made)
