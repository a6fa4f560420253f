"""What the `live` fixture gives a test."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from semlink.settings import Settings


@dataclass(frozen=True, slots=True)
class Live:
    """The running services."""

    settings: Settings
    http: httpx.Client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.gateway_port}"
