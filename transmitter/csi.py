"""What the transmitter knows of the channel by itself: the newest usable report, as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semlink.errors import InvalidField, Unavailable
from semlink.signal.feedback import HISTORY_REPORTS, decode_reports, report_slots
from semlink.store import Store
from semlink.v1 import channel_pb2, common_pb2


@dataclass(frozen=True, slots=True)
class KnownCsi:
    """CSI of all users (complex64 ``[num_users, num_subbands, num_rx_ant, num_tx_ant]``) and where it came from."""

    csi: NDArray[np.complex64] | None
    source: str
    age_slots: int | None = None
    degraded: tuple[common_pb2.Degradation, ...] = ()


async def newest_reports(store: Store, slots: Sequence[channel_pb2.Slot]) -> list[KnownCsi]:
    """Decode the newest report that every user has made and that is usable in each slot (hold-last).

    Older reports are read only where the newest is not there. Without a store, or where reports that should be there
    are missing or damaged, the answer is marked degraded.
    """
    due = [report_slots(slot.config, slot.slot, 1) for slot in slots]
    try:
        known = await _read(store, slots, due)
        lost = [i for i, k in enumerate(known) if k.degraded]
        if lost:
            older = [report_slots(slots[i].config, slots[i].slot, HISTORY_REPORTS) for i in lost]
            again = await _read(store, [slots[i] for i in lost], older)
            for i, found in zip(lost, again, strict=True):
                known[i] = found
    except Unavailable as error:
        away = common_pb2.Degradation(part="link.csi", reason=error.message)
        return [KnownCsi(None, "none", degraded=(away,) if d else ()) for d in due]
    return known


async def _read(
    store: Store, slots: Sequence[channel_pb2.Slot], due: Sequence[list[int]]
) -> list[KnownCsi]:
    wanted = [(slot.link_id, d) for slot, d in zip(slots, due, strict=True)]
    reports = await store.reports(wanted)
    return await asyncio.to_thread(
        lambda: [
            _newest(slot, d, found) for slot, d, found in zip(slots, due, reports, strict=True)
        ]
    )


def _newest(
    slot: channel_pb2.Slot, due: list[int], reports: list[common_pb2.CsiReport]
) -> KnownCsi:
    if not due:
        return KnownCsi(None, "none")
    try:
        csi, present = decode_reports(slot.config, reports, due)
    except InvalidField as error:
        bad = common_pb2.Degradation(part="link.csi", reason=error.message)
        return KnownCsi(None, "none", degraded=(bad,))
    complete = present.all(dim=0).nonzero().flatten().tolist()
    if not complete:
        missing = common_pb2.Degradation(part="link.csi", reason="no report of every user arrived")
        return KnownCsi(None, "none", degraded=(missing,))
    newest = complete[-1]
    late = (
        ()
        if newest == len(due) - 1
        else (
            common_pb2.Degradation(
                part="link.csi", reason=f"the report of slot {due[-1]} is missing"
            ),
        )
    )
    source = "perfect" if slot.config.feedback.quantizer == "perfect" else "hold-last"
    return KnownCsi(csi[:, newest].cpu().numpy(), source, slot.slot - due[newest], late)
