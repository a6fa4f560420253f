"""The gRPC face of the channel handler."""

from __future__ import annotations

import asyncio

from channel_service.handler import Channel
from semlink.rpc import KnowledgeClient, ReceiverClient, grpc_servicer, serve
from semlink.settings import Settings
from semlink.store import open_store


async def run(settings: Settings) -> None:
    """Serve the channel handler until the process is told to stop."""
    store = open_store(settings)
    receiver = ReceiverClient(settings.address("receiver"), settings)
    knowledge = KnowledgeClient(settings.address("knowledge"), settings)
    handler = Channel(receiver, store, settings, knowledge=knowledge)

    async def ready() -> None:
        await asyncio.to_thread(handler.warm_up)

    async def close() -> None:
        await receiver.close()
        await knowledge.close()
        await store.close()

    await serve("channel", grpc_servicer("channel", handler), settings, ready=ready, close=close)
