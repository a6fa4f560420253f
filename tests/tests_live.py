"""What the `live` fixture gives a test, and how it starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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


@contextmanager
def running(state_dir: Path) -> Iterator[Live]:
    """A system of its own, on free ports, with the settings of the environment; nothing of it is left behind."""
    from semlink.deployment import supervisor

    settings = supervisor.up_on_free_ports(state_dir)
    url = f"http://127.0.0.1:{settings.gateway_port}"
    with httpx.Client(base_url=url, timeout=120) as http:
        yield Live(settings, http)
    assert supervisor.down(settings)
