"""Which reports a slot may use, and CSI from reports that have crossed the link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from semlink.errors import InvalidField
from semlink.signal.quantizers import CsiQuantizer, quantizer_for
from semlink.v1 import common_pb2 as pb

HISTORY_REPORTS: Final = 8
"""Reports of each user that a predictor sees."""


def report_slots(config: pb.LinkConfig, slot: int, history: int = HISTORY_REPORTS) -> list[int]:
    """Slots of the newest ``history`` reports that can be used in ``slot``, oldest first.

    A report is made in every slot ≥ 0 that is a multiple of ``report_period_slots`` and can be used from
    ``delay_slots`` later on. The bound ``perfect`` sees the slot itself; ``none`` sees nothing.
    """
    feedback = config.feedback
    match feedback.quantizer:
        case "none":
            return []
        case "perfect":
            return [slot][:history]
    period = feedback.report_period_slots
    newest = (slot - feedback.delay_slots) // period
    first = max(0, newest - history + 1)
    return [index * period for index in range(first, newest + 1)]


def needed_report_slots(
    config: pb.LinkConfig, slot: int, history: int = HISTORY_REPORTS
) -> list[int]:
    """Slots of the reports that must be there to decode those of :func:`report_slots`, oldest first.

    A report that stands for itself needs no other.
    """
    return report_slots(config, slot, history)


@dataclass(frozen=True, slots=True)
class ReportHistory:
    """The reports of one link that a slot may use: those that arrived, and the slots that should have one."""

    config: pb.LinkConfig
    reports: Sequence[pb.CsiReport]
    slots: Sequence[int]


def decode_reports(
    config: pb.LinkConfig, reports: Sequence[pb.CsiReport], slots: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """CSI of all users in the given report slots.

    Returns complex64 ``[num_users, num_slots, num_subbands, num_rx_ant, num_tx_ant]`` and whether it was there,
    bool ``[num_users, num_slots]``; zeros where it was not. Reports of slots that are not asked for are ignored.
    Raises InvalidField naming ``reports[i].user``, ``.slot``, ``.report_index``, ``.bits`` or ``.payload`` for a
    report that the link's configuration cannot have made, or a second, different report of the same user and slot.
    """
    return decode_histories([ReportHistory(config, reports, slots)])[0]


def decode_histories(
    histories: Sequence[ReportHistory],
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """:func:`decode_reports` of many links, with one call for all reports of the same quantiser."""
    decoded: list[tuple[torch.Tensor, torch.Tensor]] = []
    gathered: dict[int, tuple[CsiQuantizer, list[tuple[pb.CsiReport, int, int, int]]]] = {}
    for i, history in enumerate(histories):
        quantizer = quantizer_for(history.config)
        size = (history.config.num_users, len(history.slots))
        csi = torch.zeros((*size, *quantizer.shape), dtype=torch.complex64)
        decoded.append((csi, torch.zeros(size, dtype=torch.bool)))
        _, wanted = gathered.setdefault(id(quantizer), (quantizer, []))
        wanted += [
            (report, i, user, column)
            for (user, column), report in _valid_reports(quantizer, history).items()
        ]
    for quantizer, wanted in gathered.values():
        if not wanted:
            continue
        data = b"".join(report.payload for report, *_ in wanted)
        payload = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
        index = torch.tensor([report.report_index for report, *_ in wanted])
        found = quantizer.decode(payload.view(len(wanted), quantizer.payload_bytes), index)
        for row, (_, i, user, column) in zip(found, wanted, strict=True):
            csi, present = decoded[i]
            csi[user, column] = row
            present[user, column] = True
    return decoded


def _valid_reports(
    quantizer: CsiQuantizer, history: ReportHistory
) -> dict[tuple[int, int], pb.CsiReport]:
    """Reports by (user, position of their slot), checked."""
    column = {slot: i for i, slot in enumerate(history.slots)}
    cells: dict[tuple[int, int], pb.CsiReport] = {}
    for i, report in enumerate(history.reports):
        if report.slot not in column:
            continue
        _validate(history.config, quantizer, report, f"reports[{i}]")
        cell = (report.user, column[report.slot])
        if cells.setdefault(cell, report) != report:
            raise InvalidField(
                f"reports[{i}] is a second, different report of user {report.user} in slot {report.slot}",
                field=f"reports[{i}].slot",
            )
    return cells


def _validate(
    config: pb.LinkConfig, quantizer: CsiQuantizer, report: pb.CsiReport, field: str
) -> None:
    def refuse(name: str, value: object, allowed: object) -> InvalidField:
        return InvalidField(
            f"{field}.{name} is {value}, allowed: {allowed}", field=f"{field}.{name}"
        )

    if report.user >= config.num_users:
        raise refuse("user", report.user, f"0…{config.num_users - 1}")
    period = config.feedback.report_period_slots
    # The bound `perfect` reports in every slot, whatever the period.
    on_time = config.feedback.quantizer == "perfect" or report.slot % period == 0
    if report.slot < 0 or not on_time:
        raise refuse("slot", report.slot, f"multiples of {period}")
    if report.report_index != report.slot // period:
        raise refuse("report_index", report.report_index, report.slot // period)
    if report.bits != quantizer.bits:
        raise refuse("bits", report.bits, quantizer.bits)
    if len(report.payload) != quantizer.payload_bytes:
        raise refuse(
            "payload", f"{len(report.payload)} bytes long", f"{quantizer.payload_bytes} bytes"
        )
    spare = 8 * quantizer.payload_bytes - quantizer.bits
    if spare and report.payload[-1] & ((1 << spare) - 1):
        raise refuse("payload", f"{report.payload.hex()} with spare bits set", "zero spare bits")
