"""CPU time and memory of the services: from this machine's processes, or from what each says itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import httpx
import psutil

from semlink.deployment.processes import Service, is_locked, living_process, read_state
from semlink.hosts import host_name, httpx_options, is_loopback

_CPU: Final = "process_cpu_seconds_total"
_RSS: Final = "process_resident_memory_bytes"


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one service: CPU seconds since it started, resident bytes."""

    cpu_s: float
    rss_bytes: float


@dataclass(frozen=True, slots=True)
class ServiceUse:
    """Of one service over a step: CPU seconds spent, MiB resident at its end."""

    cpu_s: float
    rss_mib: float


class Resources(Protocol):
    """Where readings come from."""

    async def read(self) -> dict[str, Reading]:
        """Read each service that can be read, by its name."""
        ...


def used(before: Mapping[str, Reading], after: Mapping[str, Reading]) -> dict[str, ServiceUse]:
    """What was used between two readings; a service that started anew in between, or is gone, is left out."""
    return {
        name: ServiceUse(now.cpu_s - before[name].cpu_s, now.rss_bytes / 2**20)
        for name, now in after.items()
        if name in before and now.cpu_s >= before[name].cpu_s
    }


@dataclass(frozen=True, slots=True)
class Processes:
    """Services of this machine, by process id; the processes that they started count, too."""

    pids: Mapping[str, int]

    async def read(self) -> dict[str, Reading]:
        """See :class:`Resources`."""
        found = {}
        for name, pid in self.pids.items():
            try:
                process = psutil.Process(pid)
                family = [process, *process.children(recursive=True)]
                times = [one.cpu_times() for one in family]
                rss = sum(one.memory_info().rss for one in family)
            except psutil.Error:
                continue
            found[name] = Reading(sum(t.user + t.system for t in times), float(rss))
        return found


@dataclass(frozen=True, slots=True)
class Scraped:
    """Services elsewhere, by the URL of their ``/metrics``; one that does not answer is left out."""

    urls: Mapping[str, str]

    async def read(self) -> dict[str, Reading]:
        """See :class:`Resources`."""
        read = await asyncio.gather(*map(self._read, self.urls.values()))
        return {name: one for name, one in zip(self.urls, read, strict=True) if one is not None}

    async def _read(self, url: str) -> Reading | None:
        try:
            async with httpx.AsyncClient(timeout=5, **httpx_options(url)) as http:
                response = await http.get(url)
            response.raise_for_status()
            return reading_of(response.text)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            return None


def reading_of(metrics: str) -> Reading | None:
    """What Prometheus's text says of its process; None where it does not."""
    values = {}
    for line in metrics.splitlines():
        name, _, value = line.partition(" ")
        if name in (_CPU, _RSS):
            values[name] = float(value.split()[0])
    return Reading(values[_CPU], values[_RSS]) if len(values) == 2 else None


def resources_of(url: str, state_dir: Path, metrics: Mapping[str, str]) -> Resources:
    """Processes where ``url`` is the gateway that `semlink up` started here; else the gateway's own metrics.

    ``metrics``: URLs of ``/metrics`` of further services, by name.
    """
    if not metrics and (pids := local_pids(url, state_dir)):
        return Processes(pids)
    return Scraped({"gateway": f"{url.rstrip('/')}/metrics", **metrics})


def local_pids(url: str, state_dir: Path) -> dict[str, int]:
    """Process ids of the services that `semlink up` started, by name, if their gateway is the one at ``url``."""
    parts = urlsplit(url)
    try:
        if not is_loopback(host_name(parts.netloc.rpartition("@")[2])):
            return {}
    except ValueError:
        return {}
    state = read_state(state_dir)
    if state is None or not is_locked(state_dir):
        return {}
    services = {entry["service"]["name"]: entry for entry in state["services"]}
    gateway = services.get("gateway")
    if gateway is None or Service.from_json(gateway["service"]).ports["serve"] != (
        parts.port or 80
    ):
        return {}
    return {name: entry["pid"] for name, entry in services.items() if living_process(entry)}
