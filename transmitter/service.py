"""The transmitter as a gRPC service."""

from __future__ import annotations

import asyncio

from semlink.rpc import ChannelClient, KnowledgeClient, ReceiverClient, grpc_servicer, serve
from semlink.settings import Settings
from semlink.store import open_store
from transmitter.handler import Transmitter


async def run(settings: Settings) -> None:
    """Serve until SIGTERM."""
    channel = ChannelClient(settings.address("channel"), settings)
    receiver = ReceiverClient(settings.address("receiver"), settings)
    knowledge = KnowledgeClient(settings.address("knowledge"), settings)
    store = open_store(settings)
    handler = Transmitter(channel, receiver, knowledge, store, settings)

    async def ready() -> None:
        await asyncio.to_thread(handler.warm_up)

    async def close() -> None:
        await handler.close()
        await asyncio.gather(channel.close(), receiver.close(), knowledge.close(), store.close())

    await serve(
        "transmitter", grpc_servicer("transmitter", handler), settings, ready=ready, close=close
    )
