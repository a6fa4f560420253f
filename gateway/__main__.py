"""``python -m gateway``: the REST service."""

from __future__ import annotations

import asyncio

import uvicorn

from gateway.app import ServiceClients, create_app
from semlink.rpc import ChannelClient, KnowledgeClient, ReceiverClient, TransmitterClient
from semlink.settings import Settings
from semlink.telemetry import configure_logging


def connect(settings: Settings) -> ServiceClients:
    """gRPC clients of every service."""
    transmitter = TransmitterClient(settings.address("transmitter"), settings)
    channel = ChannelClient(settings.address("channel"), settings)
    receiver = ReceiverClient(settings.address("receiver"), settings)
    clients = {
        "transmitter": transmitter,
        "channel": channel,
        "receiver": receiver,
        "knowledge": KnowledgeClient(settings.address("knowledge"), settings),
    }

    async def health() -> dict[str, str]:
        serving = await asyncio.gather(*(client.serving() for client in clients.values()))
        return {
            name: "ok" if ok else "unavailable" for name, ok in zip(clients, serving, strict=True)
        }

    async def close() -> None:
        await asyncio.gather(*(client.close() for client in clients.values()))

    return ServiceClients(transmitter, channel, receiver, health, close)


def main() -> None:
    """Serve until SIGTERM."""
    settings = Settings()
    configure_logging("gateway", settings)
    uvicorn.run(
        create_app(
            connect(settings),
            default_scenario=settings.scenario,
            trusted_hosts=settings.gateway_hosts,
        ),
        host=settings.host,
        port=settings.port("gateway"),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
    )


if __name__ == "__main__":
    main()
