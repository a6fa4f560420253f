"""Whether the services of one machine live and serve, as each says itself."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.table import Table
from rich.text import Text

from semlink.deployment.processes import Service, living_process


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service as `semlink status` shows it. ``health``: "healthy", "starting" or "dead"."""

    name: str
    pid: int
    address: str
    health: str
    rss_mib: float
    uptime_s: float


def is_healthy(service: Service) -> bool:
    """Ask the service itself; one second at most."""
    try:
        match service.probe:
            case "redis":
                with closing(socket.socket(socket.AF_UNIX)) as connection:
                    connection.settimeout(1)
                    connection.connect(service.socket)
                    connection.sendall(b"PING\r\n")
                    return connection.recv(7) == b"+PONG\r\n"
            case "http":
                host, port = service.host, service.ports["serve"]
                with closing(http.client.HTTPConnection(host, port, timeout=1)) as connection_:
                    connection_.request("GET", "/readyz")
                    return connection_.getresponse().status == 200
            case "grpc":
                options = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
                with grpc.insecure_channel(service.address, options=options) as channel:
                    answer = health_pb2_grpc.HealthStub(channel).Check(
                        health_pb2.HealthCheckRequest(), timeout=1
                    )
                    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    except (OSError, http.client.HTTPException, grpc.RpcError):
        return False


def status_of(entry: Mapping[str, Any]) -> ServiceStatus:
    """A service of the state file, as it is now; it is asked itself."""
    service, process = Service.from_json(entry["service"]), living_process(entry)
    dead = ServiceStatus(service.name, entry["pid"], service.address, "dead", 0.0, 0.0)
    if process is None:
        return dead
    healthy = is_healthy(service)
    try:
        return replace(
            dead,
            health="healthy" if healthy else "starting",
            rss_mib=process.memory_info().rss / 2**20,
            uptime_s=time.time() - process.create_time(),
        )
    except psutil.NoSuchProcess:
        return dead


def status_table(statuses: Sequence[ServiceStatus]) -> Table:
    """The statuses as a table for the terminal."""
    table = Table("service", "pid", "address", "health", box=None, header_style="bold")
    table.add_column("RSS MiB", justify="right")
    table.add_column("uptime", justify="right")
    colours = {"healthy": "green", "starting": "yellow", "dead": "red"}
    for one in statuses:
        minutes, seconds = divmod(int(one.uptime_s), 60)
        table.add_row(
            one.name,
            str(one.pid),
            one.address,
            Text(one.health, style=colours[one.health]),
            f"{one.rss_mib:.0f}",
            f"{minutes // 60:d}:{minutes % 60:02d}:{seconds:02d}",
        )
    return table
