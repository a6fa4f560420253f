"""The gRPC face of the channel room."""

from __future__ import annotations

import asyncio

from channel_service.room import Channel
from semlink.rpc import face, knowledge_client, receiver_client, serve
from semlink.settings import Settings
from semlink.store import open_store


async def run(settings: Settings) -> None:
    """Serve the channel room until the process is told to stop."""
    store = open_store(settings)
    receiver = receiver_client(settings.address("receiver"), settings)
    knowledge = knowledge_client(settings.address("knowledge"), settings)
    room = Channel(receiver, store, settings, knowledge=knowledge)

    async def ready() -> None:
        await asyncio.to_thread(room.warm_up)

    async def close() -> None:
        await receiver.close()
        await knowledge.close()
        await store.close()

    await serve("channel", face("channel", room), settings, ready=ready, close=close)
