"""CSI reports: estimated by each user, quantised, numbered. Their payload is all that a transmitter may learn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from channel_service.estimation import (
    lmmse_over_subbands,
    pilot_noise,
    report_slots_of_block,
)
from channel_service.fading import ByteBoundedCache, ChannelKey, ChannelWindows
from semlink.grid import BLOCK_SLOTS, NUM_SUBBANDS
from semlink.grouping import grouped
from semlink.links import Link
from semlink.signal.csi import CsiQuantizer, quantizer_for
from semlink.signal.feedback import scheme_of
from semlink.telemetry import CSI_REPORTS_REJECTED
from semlink.v1 import common_pb2 as pb
from semlink.weight_files import SHIPPED, Weights

CHUNK_REPORTS: Final = 8
"""Reports that rest on one another and are made together."""
MAX_ENCODED: Final = 512
"""Users' reports that are quantised at once, whatever number of links they are of: it bounds the memory."""


@dataclass(frozen=True, slots=True)
class _Made:
    """Each user's payload of one report slot, None where the estimate is not finite: there is nothing to report."""

    payloads: tuple[bytes | None, ...]

    @property
    def nbytes(self) -> int:
        return sum(len(payload or b"") for payload in self.payloads)


@dataclass(frozen=True, slots=True)
class _PilotNoise:
    """Of a block's reports, whatever is reported: see :func:`pilot_noise`."""

    noise: torch.Tensor
    variance: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.noise.nbytes + self.variance.nbytes


class _Group:
    """Reports of a block that rest on one another, made in order and as far as they are asked for. Thread-safe."""

    def __init__(self, quantizer: CsiQuantizer, num_users: int, slots: Sequence[int]) -> None:
        self._quantizer = quantizer
        self._slots = slots
        self._state = quantizer.start(num_users)
        self._made: list[_Made] = []
        self._lock = threading.Lock()
        # What it will hold when it is full.
        self.nbytes = num_users * (len(slots) * quantizer.payload_bytes + quantizer.state_bytes)

    def report(
        self, number: int, period: int, estimate: Callable[[Sequence[int]], torch.Tensor]
    ) -> _Made:
        """Report ``number`` of the block; ``estimate`` gives the users' channels in report slots."""
        with self._lock:
            while len(self._made) <= number:
                slots = self._slots[len(self._made) :][:CHUNK_REPORTS]
                h, made = _finite(estimate(slots))
                index = torch.tensor([slot // period for slot in slots])
                payloads = self._quantizer.encode_group(h, index, self._state)
                self._made += _made_of(payloads, made)
            return self._made[number]


class Reports:
    """Makes reports; those of several links are quantised in one batch and cached. Thread-safe."""

    def __init__(
        self, windows: ChannelWindows, max_bytes: int = 64 << 20, weights: Weights = SHIPPED
    ) -> None:
        self._windows = windows
        self._weights = weights
        self._single: ByteBoundedCache[tuple[Link, int], _Made] = ByteBoundedCache(max_bytes // 2)
        self._groups: ByteBoundedCache[tuple[Link, int], _Group] = ByteBoundedCache(max_bytes // 2)
        self._noise: ByteBoundedCache[tuple[ChannelKey, float, int, int], _PilotNoise] = (
            ByteBoundedCache(max_bytes)
        )

    def made_in(self, config: Link, slots: Sequence[int], link_id: str = "") -> list[pb.CsiReport]:
        """The reports of one link: see :meth:`made_for`."""
        return self.made_for([(config, slots, link_id)])[0]

    def made_for(
        self, wanted: Sequence[tuple[Link, Sequence[int], str]]
    ) -> list[list[pb.CsiReport]]:
        """The reports that all users make in the given slots of each link, by slot, then user.

        ``wanted``: link, slots, and the link's id, with which its reports are labelled.

        ``perfect`` reports the true channel of any slot, unquantised; ``none`` reports nothing; the others report in
        multiples of the period the estimate of that slot and know nothing of any later one. A user whose estimate is
        not finite makes no report there (counted as ``semlink_csi_reports_rejected_total{field="csi"}``).
        """
        single = [
            (config, slot)
            for config, slots, _ in wanted
            if not quantizer_for(config, self._weights).chained
            and config.feedback.quantizer != "none"
            for slot in slots
        ]
        made = dict(zip(single, self._single.get_many(single, self._make), strict=True))
        return [
            []
            if config.feedback.quantizer == "none"
            else self._messages(config, slots, link_id, made)
            for config, slots, link_id in wanted
        ]

    def _messages(
        self,
        config: Link,
        slots: Sequence[int],
        link_id: str,
        single: dict[tuple[Link, int], _Made],
    ) -> list[pb.CsiReport]:
        quantizer, scheme = quantizer_for(config, self._weights), scheme_of(config)
        period = config.feedback.report_period_slots
        return [
            pb.CsiReport(
                user=user,
                slot=slot,
                report_index=slot // period,
                bits=quantizer.bits,
                payload=payload,
                quantizer=scheme,
                link_id=link_id,
            )
            for slot in slots
            for user, payload in enumerate(
                (
                    self._of_group(config, slot) if quantizer.chained else single[config, slot]
                ).payloads
            )
            if payload is not None
        ]

    def estimates(self, config: Link, slots: Sequence[int]) -> torch.Tensor:
        """What the users estimated in report slots.

        Returns complex64 ``[num_users, len(slots), num_subbands, num_rx_ant, num_tx_ant]``.
        """
        h = self._windows.slots(config, slots)
        if config.feedback.quantizer == "perfect":
            return h
        period = config.feedback.report_period_slots
        places = [
            (
                slot // BLOCK_SLOTS,
                slot // period - -(-(slot // BLOCK_SLOTS * BLOCK_SLOTS) // period),
            )
            for slot in slots
        ]
        seen = {
            index: self._noise_of(config, index) for index in dict.fromkeys(i for i, _ in places)
        }
        noise = torch.stack([seen[index].noise[:, number] for index, number in places], 1)
        variance = torch.stack([seen[index].variance[:, number] for index, number in places], 1)
        return lmmse_over_subbands(h + noise.to(h.device), variance.to(h.device))

    def _noise_of(self, config: Link, index: int) -> _PilotNoise:
        key = (
            ChannelKey.from_config(config),
            config.snr_db,
            config.feedback.report_period_slots,
            index,
        )
        shape = (
            config.num_users,
            len(report_slots_of_block(config, index)),
            NUM_SUBBANDS,
            config.num_rx_ant,
            config.num_tx_ant,
        )
        return self._noise.get(key, lambda: _PilotNoise(*pilot_noise(config, index, shape)))

    def _make(self, wanted: list[tuple[Link, int]]) -> list[_Made]:
        """Reports that stand for themselves, those of one quantiser together."""
        by_link = {
            config: [slot for _, slot in members]
            for config, members in grouped(wanted, lambda one: one[0]).items()
        }
        self._windows.prepare(by_link.items())
        made: dict[tuple[Link, int], _Made] = {}
        for quantizer, links in grouped(
            by_link, lambda config: quantizer_for(config, self._weights)
        ).items():
            estimated = [_finite(self.estimates(config, by_link[config])) for config in links]
            index = [
                torch.tensor([s // config.feedback.report_period_slots for s in by_link[config]])
                for config in links
            ]
            flat = torch.cat([h.flatten(0, 1) for h, _ in estimated])
            numbers = torch.cat(
                [i.repeat(len(h)) for i, (h, _) in zip(index, estimated, strict=True)]
            )
            encoded = [
                quantizer.encode(h, number)
                for h, number in zip(
                    torch.split(flat, MAX_ENCODED), torch.split(numbers, MAX_ENCODED), strict=True
                )
            ]
            payloads = torch.split(torch.cat(encoded), [finite.numel() for _, finite in estimated])
            for config, (_, finite), part in zip(links, estimated, payloads, strict=True):
                of_slots = _made_of(part.view(*finite.shape, -1), finite)
                made |= {
                    (config, slot): one for slot, one in zip(by_link[config], of_slots, strict=True)
                }
        return [made[one] for one in wanted]

    def _of_group(self, config: Link, slot: int) -> _Made:
        """A report that rests on those before it, made when it is not there, as are they."""
        quantizer = quantizer_for(config, self._weights)
        slots = report_slots_of_block(config, slot // BLOCK_SLOTS).tolist()
        group = self._groups.get(
            (config, slot // BLOCK_SLOTS), lambda: _Group(quantizer, config.num_users, slots)
        )
        period = config.feedback.report_period_slots
        return group.report(
            (slot - slots[0]) // period, period, lambda due: self.estimates(config, due)
        )


def _finite(h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels ``[num_users, num_reports, …]`` on the CPU, zero where not finite (counted), and which are finite."""
    h = h.cpu()
    finite = torch.isfinite(torch.view_as_real(h)).flatten(2).all(-1)
    lost = int((~finite).sum())
    if lost:
        CSI_REPORTS_REJECTED.labels("csi").inc(lost)
        h = torch.where(finite[:, :, None, None, None], h, torch.zeros_like(h))
    return h, finite


def _made_of(payloads: torch.Tensor, finite: torch.Tensor) -> list[_Made]:
    """Each report slot's payloads of uint8 ``[num_users, num_reports, payload_bytes]``."""
    return [
        _Made(
            tuple(
                payload.tobytes() if there else None
                for payload, there in zip(of_slot, known, strict=True)
            )
        )
        for of_slot, known in zip(payloads.numpy().swapaxes(0, 1), finite.T.tolist(), strict=True)
    ]
