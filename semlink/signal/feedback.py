"""Which reports a slot may use, and CSI from reports that have crossed the link.

Examples
--------
>>> from types import SimpleNamespace
>>> feedback = SimpleNamespace(quantizer="rvq", memory="none", report_period_slots=5, delay_slots=4)
>>> link = SimpleNamespace(feedback=feedback)
>>> report_slots(link, slot=103, history=3)
[85, 90, 95]
>>> scheme_of(link)
'rvq'
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

import numpy as np
import torch

from semlink.errors import InvalidField
from semlink.grouping import grouped
from semlink.signal.csi import CsiQuantizer, State, quantizer_for
from semlink.signal.csi.interface import GROUP_SLOTS
from semlink.signal.link import LinkLike
from semlink.weight_files import SHIPPED, Weights

HISTORY_REPORTS: Final = 8
"""Reports of each user that a predictor sees."""
CHECKPOINT_REPORTS: Final = 16
MAX_CHECKPOINTS: Final = 2048
"""Of one user each, 10 kB at 16 × 2 antennas."""


def report_slots(config: LinkLike, slot: int, history: int = HISTORY_REPORTS) -> list[int]:
    """Slots of the newest ``history`` reports that can be used in ``slot``, oldest first.

    A report is made in every slot ≥ 0 that is a multiple of ``report_period_slots`` and can be used from
    ``delay_slots`` later on. The bound ``perfect`` sees the slot itself; ``none`` sees nothing. With predictive memory
    they are those of the newest report's group.
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
    if feedback.memory == "predictive" and newest >= 0:
        first = max(first, _first_of_group(newest * period, period))
    return [index * period for index in range(first, newest + 1)]


def _first_of_group(slot: int, period: int) -> int:
    """Index of the first report of the group that ``slot`` lies in."""
    return -(-(slot // GROUP_SLOTS * GROUP_SLOTS) // period)


def needed_report_slots(config: LinkLike, slot: int, history: int = HISTORY_REPORTS) -> list[int]:
    """Slots of the reports that must be there to decode those of :func:`report_slots`, oldest first.

    A report that stands for itself needs no other; with predictive memory it needs its group from the start.
    """
    slots = report_slots(config, slot, history)
    if config.feedback.memory != "predictive" or not slots:
        return slots
    period = config.feedback.report_period_slots
    return list(range(_first_of_group(slots[-1], period) * period, slots[-1] + 1, period))


def scheme_of(config: LinkLike) -> str:
    """The label of the link's reports: the quantiser, and its memory where it has one ("rvq+predictive")."""
    feedback = config.feedback
    if feedback.memory == "none":
        return feedback.quantizer
    return f"{feedback.quantizer}+{feedback.memory}"


class CsiReport(Protocol):
    """One user's report, as services hand it on. Labels that are empty were not given."""

    @property
    def user(self) -> int:
        """Index of the user."""

    @property
    def slot(self) -> int:
        """Slot that it describes."""

    @property
    def report_index(self) -> int:
        """Its running number, ``slot // report_period_slots``."""

    @property
    def bits(self) -> int:
        """Size of the report."""

    @property
    def payload(self) -> bytes:
        """The bits, most significant first, zeros behind."""

    @property
    def quantizer(self) -> str:
        """Label: :func:`scheme_of` the link."""

    @property
    def link_id(self) -> str:
        """Label: the link's id."""


@dataclass(frozen=True, slots=True)
class ReportHistory:
    """The reports of one link that a slot may use: those that arrived, and the slots that should have one.

    ``reports`` are those of :func:`needed_report_slots`; ``link_id`` is compared with the reports' label ("": not).
    """

    config: LinkLike
    reports: Sequence[CsiReport]
    slots: Sequence[int]
    link_id: str = ""


class DecodedHistory(NamedTuple):
    """CSI of a history and what was wrong with it.

    ``csi``: complex64 ``[num_users, num_slots, num_subbands, num_rx_ant, num_tx_ant]``; ``present``: bool
    ``[num_users, num_slots]``, whether a good report of that slot arrived; ``refused``: why others were not taken.
    ``csi`` is zero where nothing is known; with predictive memory it is the tracked channel, also where a report is
    missing.
    """

    csi: torch.Tensor
    present: torch.Tensor
    refused: tuple[InvalidField, ...] = ()

    @property
    def known(self) -> torch.Tensor:
        """Whether there is CSI: bool ``[num_users, num_slots]``."""
        return self.present | (self.csi.abs().square().sum((2, 3, 4)) > 0)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A good report and where its CSI belongs."""

    report: CsiReport
    name: str
    history: int
    user: int
    column: int


def decode_reports(
    config: LinkLike,
    reports: Sequence[CsiReport],
    slots: Sequence[int],
    weights: Weights = SHIPPED,
) -> tuple[torch.Tensor, torch.Tensor]:
    """CSI of all users in the given report slots, where every report must be good.

    :returns: complex64 ``[num_users, num_slots, num_subbands, num_rx_ant, num_tx_ant]`` and whether it was there,
        bool ``[num_users, num_slots]``; zeros where it was not. Reports of slots that are not asked for are
        ignored.
    :raises InvalidField: naming ``reports[i].user``, ``.slot``, ``.report_index``, ``.bits``, ``.payload``,
        ``.quantizer`` or ``.link_id`` for a report that the link's configuration cannot have made, or a second,
        different report of the same user and slot.
    """
    decoded = decode_histories([ReportHistory(config, reports, slots)], weights)[0]
    if decoded.refused:
        raise decoded.refused[0]
    return decoded.csi, decoded.present


def decode_histories(
    histories: Sequence[ReportHistory], weights: Weights = SHIPPED
) -> list[DecodedHistory]:
    """CSI of many links, with one call for all reports of the same quantiser.

    A bad report is refused (``refused`` says why) and then treated as lost.
    """
    decoded: list[DecodedHistory] = []
    gathered: dict[int, tuple[CsiQuantizer, list[_Entry]]] = {}
    for i, history in enumerate(histories):
        quantizer = quantizer_for(history.config, weights)
        size = (history.config.num_users, len(history.slots))
        csi = torch.zeros((*size, *quantizer.shape), dtype=torch.complex64)
        good, refused = _sift(quantizer, history, i)
        decoded.append(DecodedHistory(csi, torch.zeros(size, dtype=torch.bool), tuple(refused)))
        _, entries = gathered.setdefault(id(quantizer), (quantizer, []))
        entries += good
    for quantizer, entries in gathered.values():
        if quantizer.chained:
            members = {entry.history for entry in entries}
            _track(quantizer, {i: histories[i] for i in members}, entries, decoded)
        else:
            _decode(quantizer, entries, decoded)
    return decoded


def _decode(
    quantizer: CsiQuantizer, entries: Sequence[_Entry], decoded: list[DecodedHistory]
) -> None:
    """Decode reports that stand for themselves into their places; what no CSI gives is refused by itself."""
    if not entries:
        return
    payload, index = _payloads(quantizer, [entry.report for entry in entries])
    try:
        found = quantizer.decode(payload, index)
    except InvalidField as error:
        if len(entries) > 1:
            for entry in entries:
                _decode(quantizer, [entry], decoded)
            return
        (entry,) = entries
        name = f"{entry.name}.{error.field}"
        refused = InvalidField(f"{entry.name}: {error.message}", field=name)
        old = decoded[entry.history]
        decoded[entry.history] = old._replace(refused=(*old.refused, refused))
        return
    for row, entry in zip(found, entries, strict=True):
        csi, present, _ = decoded[entry.history]
        csi[entry.user, entry.column] = row
        present[entry.user, entry.column] = True


def _payloads(
    quantizer: CsiQuantizer, reports: Sequence[CsiReport]
) -> tuple[torch.Tensor, torch.Tensor]:
    data = b"".join(report.payload for report in reports)
    payload = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
    index = torch.tensor([report.report_index for report in reports])
    return payload.view(len(reports), quantizer.payload_bytes), index


@dataclass(frozen=True, slots=True)
class _Sequence:
    """The reports of one user from a group's start: ``payloads`` is a byte 1 and the payload of each, or zeros if lost.

    ``places``: ``(history, user, column, position)`` of the CSI that is wanted of it.
    """

    first_index: int
    payloads: bytes
    places: tuple[tuple[int, int, int, int], ...]


def _track(
    quantizer: CsiQuantizer,
    histories: dict[int, ReportHistory],
    entries: Sequence[_Entry],
    decoded: list[DecodedHistory],
) -> None:
    """Decode groups of reports into their places, each sequence that begins like a longer one along with it."""
    arrived = {(e.history, e.user, e.report.report_index): e.report.payload for e in entries}
    for entry in entries:
        if entry.column >= 0:
            decoded[entry.history].present[entry.user, entry.column] = True
    sequences = [
        sequence
        for i, history in histories.items()
        for user in range(history.config.num_users)
        for sequence in _sequences(quantizer, i, history, user, arrived)
    ]
    merged: list[_Sequence] = []
    for sequence in sorted(sequences, key=lambda s: (s.first_index, s.payloads), reverse=True):
        longer = merged[-1] if merged else None
        if (
            longer is not None
            and longer.first_index == sequence.first_index
            and longer.payloads.startswith(sequence.payloads)
        ):
            merged[-1] = replace(longer, places=longer.places + sequence.places)
        else:
            merged.append(sequence)
    for alike in grouped(merged, lambda sequence: sequence.first_index).values():
        _track_batch(quantizer, alike, decoded)


def _sequences(
    quantizer: CsiQuantizer,
    i: int,
    history: ReportHistory,
    user: int,
    arrived: dict[tuple[int, int, int], bytes],
) -> list[_Sequence]:
    """The payloads that one user sent in each group that the history's slots lie in."""
    period = history.config.feedback.report_period_slots
    groups: dict[int, list[tuple[int, int, int, int]]] = {}
    for column, slot in enumerate(history.slots):
        first = _first_of_group(slot, period)
        groups.setdefault(first, []).append((i, user, column, slot // period - first))
    lost = bytes(1 + quantizer.payload_bytes)
    sequences = []
    for first, places in groups.items():
        count = 1 + max(position for *_, position in places)
        received = (arrived.get((i, user, index)) for index in range(first, first + count))
        payloads = b"".join(lost if payload is None else b"\1" + payload for payload in received)
        sequences.append(_Sequence(first, payloads, tuple(places)))
    return sequences


class _TrackCache:
    """Tracks at every ``CHECKPOINT_REPORTS``-th report by all payloads until then, least recently used first out.

    A track is a pure function of the payloads: the next query on a link goes on from here instead of from the group's
    start. Thread-safe.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._rows: OrderedDict[tuple[object, ...], State] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def _key(quantizer: CsiQuantizer, first_index: int, payloads: bytes) -> tuple[object, ...]:
        return quantizer.identity, first_index, hashlib.blake2b(payloads, digest_size=16).digest()

    def get(self, quantizer: CsiQuantizer, first_index: int, payloads: bytes) -> State | None:
        """The track after ``payloads``, if it is here."""
        key = self._key(quantizer, first_index, payloads)
        with self._lock:
            if key in self._rows:
                self._rows.move_to_end(key)
            return self._rows.get(key)

    def put(self, quantizer: CsiQuantizer, first_index: int, payloads: bytes, row: State) -> None:
        """Keep ``row``, the track after ``payloads``."""
        with self._lock:
            self._rows[self._key(quantizer, first_index, payloads)] = row
            while len(self._rows) > self._max_rows:
                self._rows.popitem(last=False)


_tracks = _TrackCache(MAX_CHECKPOINTS)


def _track_batch(
    quantizer: CsiQuantizer, sequences: Sequence[_Sequence], decoded: list[DecodedHistory]
) -> None:
    """Track sequences that begin at one report, those that have a checkpoint at the same place together."""
    width = 1 + quantizer.payload_bytes
    begun: list[tuple[_Sequence, State]] = []
    for sequence in sequences:
        earliest = min(position for *_, position in sequence.places)
        start = quantizer.start(1)
        for count in range(earliest - earliest % CHECKPOINT_REPORTS, 0, -CHECKPOINT_REPORTS):
            kept = _tracks.get(quantizer, sequence.first_index, sequence.payloads[: count * width])
            if kept is not None:
                start = kept
                break
        begun.append((sequence, start))
    for members in grouped(begun, lambda pair: pair[1].position).values():
        alike, states = zip(*members, strict=True)
        _follow(quantizer, type(states[0]).from_rows(states), alike, decoded)


def _follow(
    quantizer: CsiQuantizer,
    track: State,
    sequences: Sequence[_Sequence],
    decoded: list[DecodedHistory],
) -> None:
    """Track sequences from ``track`` on and put the CSI that is wanted into its places."""
    width = 1 + quantizer.payload_bytes
    length = max(len(sequence.payloads) for sequence in sequences)
    data = b"".join(sequence.payloads.ljust(length, b"\0") for sequence in sequences)
    payloads = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
    payloads = payloads.view(len(sequences), length // width, width)
    present = payloads[..., 0] == 1
    wanted: dict[int, list[tuple[int, int, int, int]]] = {}
    for row, sequence in enumerate(sequences):
        for i, user, column, position in sequence.places:
            wanted.setdefault(position, []).append((row, i, user, column))
    first_index = sequences[0].first_index
    for position in range(track.position, payloads.shape[1]):
        received = payloads[:, position, 1:], present[:, position]
        quantizer.decode_next(track, *received, first_index + position)
        places = wanted.get(position, [])
        if places:
            rows = torch.tensor([row for row, *_ in places])
            for csi, (_, i, user, column) in zip(
                quantizer.csi_of(track, rows), places, strict=True
            ):
                decoded[i].csi[user, column] = csi
        if (position + 1) % CHECKPOINT_REPORTS == 0:
            end = (position + 1) * width
            for sequence, checkpoint in zip(sequences, track.rows(), strict=True):
                if len(sequence.payloads) >= end:
                    _tracks.put(quantizer, first_index, sequence.payloads[:end], checkpoint)


def _sift(
    quantizer: CsiQuantizer, history: ReportHistory, number: int
) -> tuple[list[_Entry], list[InvalidField]]:
    """Good reports of the slots that are asked for, or needed for those (column −1), and why others are refused."""
    column = {slot: i for i, slot in enumerate(history.slots)}
    period = history.config.feedback.report_period_slots
    if quantizer.chained:
        for slot in history.slots:
            for needed in range(_first_of_group(slot, period) * period, slot, period):
                column.setdefault(needed, -1)
    cells: dict[tuple[int, int], _Entry] = {}
    refused: list[InvalidField] = []
    for i, report in enumerate(history.reports):
        if report.slot not in column:
            continue
        name = f"reports[{i}]"
        try:
            _validate(history, quantizer, report, name)
        except InvalidField as error:
            refused.append(error)
            continue
        entry = _Entry(report, name, number, report.user, column[report.slot])
        if cells.setdefault((report.user, report.slot), entry).report != report:
            refused.append(
                InvalidField(
                    f"{name} is a second, different report of user {report.user} in slot {report.slot}",
                    field=f"{name}.slot",
                )
            )
    return list(cells.values()), refused


def _validate(
    history: ReportHistory, quantizer: CsiQuantizer, report: CsiReport, field: str
) -> None:
    """Refuse a report that this link cannot have made. Labels that are empty were not given and say nothing."""
    config = history.config

    def refuse(name: str, value: object, allowed: object) -> InvalidField:
        return InvalidField(
            f"{field}.{name} is {value}, allowed: {allowed}", field=f"{field}.{name}"
        )

    if report.link_id and history.link_id and report.link_id != history.link_id:
        raise refuse("link_id", repr(report.link_id), repr(history.link_id))
    if report.quantizer and report.quantizer != scheme_of(config):
        raise refuse("quantizer", repr(report.quantizer), repr(scheme_of(config)))
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
