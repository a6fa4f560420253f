"""The knowledge base as a gRPC service."""

from __future__ import annotations

from kb_service.handler import KnowledgeBase
from semlink.rpc import grpc_servicer, serve
from semlink.settings import Settings
from semlink.store import open_store


async def run(settings: Settings) -> None:
    """Serve until SIGTERM; then generation stops between two tokens."""
    store = open_store(settings)
    handler = KnowledgeBase(store, settings)

    async def close() -> None:
        await handler.close()
        await store.close()

    await serve(
        "knowledge",
        grpc_servicer("knowledge", handler),
        settings,
        ready=handler.warm_up,
        close=close,
    )
