"""The knowledge base as a gRPC service."""

from __future__ import annotations

from kb_service.room import KnowledgeBase
from semlink.rpc import face, serve
from semlink.settings import Settings
from semlink.store import open_store


async def run(settings: Settings) -> None:
    """Serve until SIGTERM; then generation stops between two tokens."""
    store = open_store(settings)
    room = KnowledgeBase(store, settings)

    async def close() -> None:
        await room.close()
        await store.close()

    await serve("knowledge", face("knowledge", room), settings, ready=room.warm_up, close=close)
