"""The receiver as a gRPC service."""

from __future__ import annotations

import asyncio

from receiver.room import Receiver
from semlink.rpc import face, serve
from semlink.settings import Settings


async def run(settings: Settings) -> None:
    """Serve until SIGTERM."""
    room = Receiver(settings)

    async def ready() -> None:
        await asyncio.to_thread(room.warm_up)

    await serve("receiver", face("receiver", room), settings, ready=ready, close=room.close)
