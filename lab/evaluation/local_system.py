"""The whole system in one process: the very classes that the services run, handed to each other instead of stubs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from channel_service.handler import Channel
from kb_service.handler import KnowledgeBase
from receiver.handler import Matches, Receiver, Wanted
from semlink.services import KnowledgeBaseService
from semlink.settings import Settings
from semlink.stages import Noted
from semlink.store import MemoryStore, Store
from transmitter.encoding import Content, encode
from transmitter.handler import Transmitter


@dataclass(frozen=True, slots=True)
class System:
    """Every service, connected."""

    transmitter: Transmitter
    channel: Channel
    receiver: Receiver
    knowledge: KnowledgeBaseService
    store: Store

    async def close(self) -> None:
        """Finish what is queued and stop background work."""
        await self.transmitter.close()
        await self.channel.close()
        await self.receiver.close()
        if isinstance(self.knowledge, KnowledgeBase):
            await self.knowledge.close()
        await self.store.close()


class RememberingEncoder:
    """Encodes each content once: a sweep sends the same queries over many links."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], NDArray[np.float32]] = {}

    def __call__(self, contents: list[Content]) -> list[NDArray[np.float32]]:
        """As :func:`transmitter.encoding.encode`; only texts are remembered."""
        new = {
            (c.space, c.value): c
            for c in contents
            if isinstance(c.value, str) and (c.space, c.value) not in self._known
        }
        self._known |= dict(zip(new, encode(list(new.values())), strict=True))
        others = [c for c in contents if not isinstance(c.value, str)]
        encoded = iter(encode(others) if others else [])
        return [
            self._known[c.space, c.value] if isinstance(c.value, str) else next(encoded)
            for c in contents
        ]


class RecordingReceiver(Receiver):
    """Keeps the decoded features instead of searching, so that metrics over whole galleries are one product.

    An erased message leaves a zero feature: it scores the whole gallery alike, which the metrics count as a miss.

    Everything before the search is the receiver's own.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.features: list[NDArray[np.float32]] = []
        """In the order of the queries of the last requests; cleared by whoever reads them."""

    async def _find(self, wanted: list[Wanted]) -> list[Noted[Matches]]:
        self.features += [w.components[0] for w in wanted]
        return [Noted(())] * len(wanted)


def build_system(
    settings: Settings | None = None,
    *,
    receiver: Receiver | None = None,
    encoder: RememberingEncoder | None = None,
    store: Store | None = None,
    cache_bytes: int | None = None,
) -> System:
    """Connect all services in this process. ``cache_bytes``: see :class:`channel_service.handler.Channel`."""
    settings = settings or Settings(redis_url="memory://")
    store = store or MemoryStore()
    receiver = receiver or Receiver(settings)
    knowledge = KnowledgeBase(store, settings)
    channel = Channel(receiver, store, settings, knowledge=knowledge, cache_bytes=cache_bytes)
    transmitter = Transmitter(channel, receiver, knowledge, store, settings, encoder=encoder)
    return System(transmitter, channel, receiver, knowledge, store)
