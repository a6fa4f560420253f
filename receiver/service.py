"""The receiver as a gRPC service."""

from __future__ import annotations

import asyncio

from receiver.handler import Receiver
from semlink.rpc import grpc_servicer, serve
from semlink.settings import Settings


async def run(settings: Settings) -> None:
    """Serve until SIGTERM."""
    handler = Receiver(settings)

    async def ready() -> None:
        await asyncio.to_thread(handler.warm_up)

    await serve(
        "receiver", grpc_servicer("receiver", handler), settings, ready=ready, close=handler.close
    )
