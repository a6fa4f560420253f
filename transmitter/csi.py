"""What the transmitter knows of the channel by itself: the reports it may use, held, fused or tracked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from semlink.errors import Unavailable
from semlink.links import checked_link
from semlink.signal.csi import content_of, doppler_hz
from semlink.signal.feedback import (
    HISTORY_REPORTS,
    DecodedHistory,
    ReportHistory,
    decode_histories,
    needed_report_slots,
    report_slots,
)
from semlink.signal.tracking import fuse_reports
from semlink.store import Store
from semlink.telemetry import record_refused_reports
from semlink.v1 import channel_pb2, common_pb2
from semlink.weight_files import SHIPPED, Weights


@dataclass(frozen=True, slots=True)
class KnownCsi:
    """CSI of all users (complex64 ``[num_users, num_subbands, num_rx_ant, num_tx_ant]``) and where it came from."""

    csi: NDArray[np.complex64] | None
    source: str
    age_slots: int | None = None
    degraded: tuple[common_pb2.Degradation, ...] = ()


@dataclass(frozen=True, slots=True)
class Received:
    """A slot, the report slots that count in it, oldest first, and the reports of them that arrived."""

    slot: channel_pb2.Slot
    due: Sequence[int]
    reports: Sequence[common_pb2.CsiReport]


def decode(received: Sequence[Received], weights: Weights = SHIPPED) -> list[KnownCsi]:
    """What the reports of each slot say of all users."""
    decoded = decode_histories(
        [
            ReportHistory(checked_link(r.slot.config), r.reports, r.due, r.slot.link_id)
            for r in received
        ],
        weights,
    )
    for history in decoded:
        record_refused_reports(history.refused)
    return [_known(r.slot, r.due, history) for r, history in zip(received, decoded, strict=True)]


async def decode_in_thread(received: list[Received], weights: Weights = SHIPPED) -> list[KnownCsi]:
    """:func:`decode` in a thread."""
    return await asyncio.to_thread(decode, received, weights)


async def newest_reports(
    store: Store,
    slots: Sequence[channel_pb2.Slot],
    decode: Callable[[list[Received]], Awaitable[list[KnownCsi]]] = decode_in_thread,
) -> list[KnownCsi]:
    """What the reports usable in each slot say of all users.

    Without memory it is the newest report of each user as it is ("hold-last"); older reports are read only where that
    is not there. With memory "fused" the last ``HISTORY_REPORTS`` are fused, with "predictive" the channel is tracked
    through the group of reports so far. Bad reports are refused and counted; the link goes on with the good ones.
    Without a store, or where reports are missing or refused, the answer is marked degraded.

    :param decode: does :func:`decode`, not in the event loop.
    """

    async def read(slots: Sequence[channel_pb2.Slot], due: Sequence[list[int]]) -> list[KnownCsi]:
        reports = await store.reports(
            [
                (slot.link_id, needed_report_slots(checked_link(slot.config), slot.slot, len(d)))
                for slot, d in zip(slots, due, strict=True)
            ]
        )
        return await decode(list(map(Received, slots, due, reports)))

    links = [checked_link(s.config) for s in slots]
    due = [
        report_slots(link, s.slot, HISTORY_REPORTS if link.feedback.memory == "fused" else 1)
        for s, link in zip(slots, links, strict=True)
    ]
    try:
        known = await read(slots, due)
        lost = [i for i, k in enumerate(known) if k.degraded and links[i].feedback.memory == "none"]
        if lost:
            older = [report_slots(links[i], slots[i].slot, HISTORY_REPORTS) for i in lost]
            again = await read([slots[i] for i in lost], older)
            for i, found in zip(lost, again, strict=True):
                known[i] = found
    except Unavailable as error:
        away = common_pb2.Degradation(part="link.csi", reason=error.message)
        return [KnownCsi(None, "none", degraded=(away,) if d else ()) for d in due]
    return known


def _known(slot: channel_pb2.Slot, due: Sequence[int], history: DecodedHistory) -> KnownCsi:
    if not due:
        return KnownCsi(None, "none")
    bad = tuple(_degradation(error.message) for error in history.refused)
    link = checked_link(slot.config)
    memory = link.feedback.memory
    known = history.known if memory == "predictive" else history.present
    usable = known.any(1).all() if memory == "fused" else known.all(0).any()
    if not usable:
        bad = bad or (_degradation("no report of every user arrived"),)
        return KnownCsi(None, "none", degraded=bad)
    if not bad and not history.present[:, -1].all():
        bad = (_degradation(f"the report of slot {due[-1]} is missing"),)
    if memory == "fused":
        ages = torch.tensor([[slot.slot - d for d in due]])
        fused = fuse_reports(
            history.csi[None],
            history.present[None],
            ages,
            doppler_hz(link),
            content_of(link),
        )
        newest = due[int(history.present.any(0).nonzero()[-1])]
        return KnownCsi(fused[0].numpy(), "fused", slot.slot - newest, bad)
    newest = int(known.all(0).nonzero()[-1])
    source = "perfect" if link.feedback.quantizer == "perfect" else "hold-last"
    if memory == "predictive":
        source = "tracked"
    return KnownCsi(history.csi[:, newest].numpy(), source, slot.slot - due[newest], bad)


def _degradation(reason: str) -> common_pb2.Degradation:
    return common_pb2.Degradation(part="link.csi", reason=reason)
