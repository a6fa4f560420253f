"""What outlives a request: feedback reports, links and their clocks, knowledge. Redis, or memory in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from semlink.v1 import channel_pb2, common_pb2


class Store(Protocol):
    """Redis and memory alike. Raises :class:`semlink.errors.Unavailable` when the store is away."""

    async def put_reports(self, link_id: str, reports: Sequence[common_pb2.CsiReport]) -> None:
        """Keep reports of any users; writing the same report again changes nothing. They expire when unused."""
        ...

    async def reports(
        self, wanted: Sequence[tuple[str, Sequence[int]]]
    ) -> list[list[common_pb2.CsiReport]]:
        """For each (link id, report slots): all users' reports of those slots that are there, by slot, then user."""
        ...

    async def put_link(self, link: channel_pb2.Link) -> None:
        """Register an open link and start its clock at ``link.slot``."""
        ...

    async def link(self, link_id: str) -> channel_pb2.Link:
        """An open link with its next slot. Raises NotFound."""
        ...

    async def links(self) -> list[channel_pb2.Link]:
        """Every open link, by id."""
        ...

    async def delete_link(self, link_id: str) -> None:
        """Forget a link, its clock and its reports. Raises NotFound."""
        ...

    async def advance(self, link_id: str, slots: int) -> int:
        """Take the next ``slots`` slots of an open link, atomically; returns the first. Raises NotFound."""
        ...

    async def knowledge(self, keys: Sequence[str]) -> list[bytes | None]:
        """What is kept under each key."""
        ...

    async def put_knowledge(self, entries: Mapping[str, bytes]) -> None:
        """Keep knowledge for ever."""
        ...

    async def ping(self) -> None:
        """Return when the store answers."""
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...
