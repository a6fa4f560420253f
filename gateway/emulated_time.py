"""What a query would take on the emulated link, apart from what the software takes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from semlink.errors import SemlinkError
from semlink.grid import (
    NUM_SUBBANDS,
    OFDM_SYMBOLS_PER_SLOT,
    SLOT_SECONDS,
    SUBCARRIERS_PER_SUBBAND,
)
from semlink.links import Link
from semlink.services import ChannelService
from semlink.v1 import channel_pb2, transmitter_pb2

MAX_LINKS: Final = 4096
"""Opened links that are remembered, those used last."""
_SLOT_MS: Final = 1e3 * SLOT_SECONDS
_SUBCARRIERS: Final = NUM_SUBBANDS * SUBCARRIERS_PER_SUBBAND


@dataclass(slots=True)
class _OpenedLink:
    num_layers: int
    next_slot: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a query's link stood when the query came. ``first_slot``: the first that it could be granted.

    None: a link by value, whose queries wait for no slot. ``link`` is None by value and for a link that is not known.
    """

    num_layers: int | None
    first_slot: int | None = None
    link: _OpenedLink | None = None


class EmulatedTime:
    """Remembers the slot clock of opened links; a query's wait is counted from the slot that was next as it came."""

    def __init__(self, channel: ChannelService) -> None:
        self._channel = channel
        self._links: OrderedDict[str, _OpenedLink] = OrderedDict()

    async def arrival(self, query: transmitter_pb2.Query) -> Arrival:
        """Note how the query's link stands now; of an opened link that is new here, ask the channel."""
        link_id = query.link_id
        if not link_id:
            return Arrival(query.link_config.num_layers)
        link = self._links.get(link_id)
        if link is None:
            try:
                request = channel_pb2.GetLinkRequest(link_id=link_id)
                found = await self._channel.get_link(request)
            except SemlinkError:  # the query itself will say what is wrong
                return Arrival(None)
            opened = _OpenedLink(Link.from_proto(found.config).num_layers, found.slot)
            link = self._links.setdefault(link_id, opened)  # another query may have asked meanwhile
            if len(self._links) > MAX_LINKS:
                self._links.popitem(last=False)
        self._links.move_to_end(link_id)
        return Arrival(link.num_layers, link.next_slot, link)

    def milliseconds(self, arrival: Arrival, answer: transmitter_pb2.Answer) -> dict[str, float]:
        """Return ``slot_wait``, ``air_time`` and ``report_delay`` of an answer [ms]; what is not known is absent.

        ``air_time`` counts the OFDM symbols that the message's resource elements fill, the whole band at a time
        (our definition); ``report_delay`` is the age of the newest usable CSI report.
        """
        if not answer.HasField("link") or arrival.num_layers is None:
            return {}
        report = answer.link
        wait = 0
        if arrival.link is not None and arrival.first_slot is not None:
            wait = max(0, report.slot - arrival.first_slot)
            arrival.link.next_slot = max(arrival.link.next_slot, report.slot + 1)
        elements = -(-report.channel_uses // arrival.num_layers)
        symbols = -(-elements // _SUBCARRIERS)
        found = {
            "slot_wait": wait * _SLOT_MS,
            "air_time": round(symbols * _SLOT_MS / OFDM_SYMBOLS_PER_SLOT, 6),
        }
        if report.HasField("csi_age_slots"):
            found["report_delay"] = report.csi_age_slots * _SLOT_MS
        return found
