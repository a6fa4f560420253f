"""All services on one machine: `semlink up`, `semlink down`, `semlink status`.

One supervisor process starts the store's server and the services, waits until all are healthy, watches them and stops
them. It holds a lock as long as it lives.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final

import psutil
from rich.console import Console
from rich.text import Text

from semlink.deployment.health import ServiceStatus, is_healthy, status_of
from semlink.deployment.processes import (
    POLL_S,
    PORT_FIELDS,
    Service,
    StartError,
    die_with,
    identity,
    is_locked,
    living_process,
    lock,
    make_private,
    open_private,
    own_redis,
    read_state,
    require_free_ports,
    services_of,
    short_folders,
    signal_group,
    state_file,
    with_ports_chosen,
)
from semlink.settings import Settings

START_TIMEOUT_S: Final = 300.0
"""Longest start: the first one converts models and renders corpora into the cache."""
_KILL_AFTER_S: Final = 5.0
"""Between the end of a service's own drain time and SIGKILL."""


def up_on_free_ports(state_dir: Path) -> Settings:
    """Start all services beside any others of this machine, with a store of their own; return when all is healthy.

    :return: their settings, with which :func:`down` stops them. Raises StartError as :func:`up` does.
    """
    asked: dict[str, Any] = dict.fromkeys(PORT_FIELDS, 0)
    settings = with_ports_chosen(Settings(**asked, state_dir=state_dir))
    up(settings, detach=True, services=services_of(settings, own_redis=True))
    return settings


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
        own = own_redis(settings)
        settings = with_ports_chosen(settings)
        services = services_of(settings, own_redis=own, data_dir=settings.state_dir)
    for folder in (settings.state_dir.resolve(), *short_folders(settings, services)):
        make_private(folder)
    if detach:
        _up_detached(settings, services, timeout_s, console)
        return
    with lock(settings.state_dir):
        require_free_ports(services)
        Supervisor(settings, services, console, timeout_s).run()


def down(settings: Settings, *, timeout_s: float | None = None) -> bool:
    """Stop everything and return when it is gone; False if nothing was running.

    Services drain for ``settings.drain_s`` seconds at most; a supervisor that does not end is killed, and its
    services with it.
    """
    state = read_state(settings.state_dir)
    supervisor = (
        living_process(state["supervisor"]) if state and is_locked(settings.state_dir) else None
    )
    if supervisor is None:
        state_file(settings.state_dir).unlink(missing_ok=True)
        return False
    supervisor.terminate()
    try:
        supervisor.wait(timeout_s or settings.drain_s + 3 * _KILL_AFTER_S)
    except psutil.TimeoutExpired:
        supervisor.kill()
        supervisor.wait(_KILL_AFTER_S)
    state_file(settings.state_dir).unlink(missing_ok=True)
    return True


def status(settings: Settings) -> list[ServiceStatus]:
    """Every service that `up` started, as it is now; empty if nothing is running."""
    state = read_state(settings.state_dir)
    if state is None or not is_locked(settings.state_dir):
        return []
    return [status_of(entry) for entry in state["services"]]


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

    def run(self) -> None:
        """Start all, say so, watch until a signal or a death, stop all. Raises StartError for a death."""
        error: StartError | None = None
        with self._signals_counted():
            try:
                self._start_all()
                if not self._signals:
                    self._write_state(ready=True)
                    if self._console:
                        _print_addresses(self._console, self._settings)
                        self._console.print("Ctrl-C stops everything", style="dim")
                self._watch()
            except StartError as caught:
                error = caught
                raise
            finally:
                self._stop_all()
                for folder in short_folders(self._settings, self._services):
                    with suppress(OSError):
                        folder.rmdir()
                if error is None:
                    state_file(self._settings.state_dir).unlink(missing_ok=True)
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
            with open_private(log) as out:
                process = subprocess.Popen(
                    service.command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=self._environment_of(service),
                    umask=0o077 if service.probe == "redis" else -1,
                    process_group=0,  # Ctrl-C reaches the supervisor alone, which stops in order
                    # safe here: the supervisor has no other thread when it forks
                    preexec_fn=lambda: die_with(supervisor),  # noqa: PLW1509
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
        with (self._console or Console(quiet=True)).status("starting") as progress:
            for child in self._children:
                while not child.healthy and not self._signals:
                    self._require_all_alive()
                    child.healthy = is_healthy(child.service)
                    healthy = {one.service.name for one in self._children if one.healthy}
                    text = _progress(self._services, healthy, started, self._timeout_s)
                    progress.update(text)
                    if not child.healthy and time.monotonic() - started > self._timeout_s:
                        raise StartError(
                            f"{child.service.name} is not ready after {self._timeout_s:.0f} s; "
                            f"the end of {child.log}:\n{child.tail()}"
                        )
                    if not child.healthy:
                        time.sleep(POLL_S)
                self._write_state(ready=False)

    def _watch(self) -> None:
        while not self._signals:
            self._require_all_alive()
            self._show_logs()
            time.sleep(POLL_S)

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
            signal_group(child.process, signal.SIGTERM)
            ends = max(drain_ends, time.monotonic() + 1)
            while child.process.poll() is None:
                if time.monotonic() > ends or self._signals > max(1, signals):
                    signal_group(child.process, signal.SIGKILL)
                time.sleep(POLL_S / 4)
            signal_group(child.process, signal.SIGKILL)  # what the service may have started itself
        self._show_logs()
        for child in self._children:
            child.lines.close()

    def _write_state(self, *, ready: bool, error: str | None = None) -> None:
        state = {
            "supervisor": identity(os.getpid()),
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
        path = state_file(self._settings.state_dir)
        written = path.with_suffix(".tmp")
        with open_private(written) as out:
            json.dump(state, out, indent=1)
        written.replace(path)


def _progress(
    services: Sequence[Service], healthy: Collection[str], started: float, timeout_s: float
) -> str:
    parts = [f"{one.name} {'✓' if one.name in healthy else '…'}" for one in services]
    waited = f"{time.monotonic() - started:.0f} s of {timeout_s:.0f} s"
    return f"starting  {'  '.join(parts)}  [{waited}]"


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
    with lock(settings.state_dir):  # fails at once, before anything starts
        require_free_ports(services)
        state_file(settings.state_dir).unlink(missing_ok=True)
    plan = {"services": [asdict(one) for one in services], "timeout_s": timeout_s}
    with open_private(settings.state_dir / "plan.json") as out:
        json.dump(plan, out)
    with open_private(settings.state_dir / "supervisor.log") as log:
        process = subprocess.Popen(
            (sys.executable, "-P", "-m", "semlink.deployment.supervisor"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | settings.environment(),
            start_new_session=True,
        )
    try:
        _await_detached(settings, process, services, timeout_s, console)
    except BaseException:
        process.terminate()
        process.wait()
        state_file(settings.state_dir).unlink(missing_ok=True)
        raise
    _print_addresses(console, settings)


def _await_detached(
    settings: Settings,
    process: subprocess.Popen[bytes],
    services: Sequence[Service],
    timeout_s: float,
    console: Console,
) -> None:
    started = time.monotonic()
    with console.status("starting") as progress:
        while True:
            ended = process.poll() is not None
            state = read_state(settings.state_dir)
            if state and state["ready"]:
                break
            if ended:
                log = settings.state_dir / "supervisor.log"
                raise StartError(str((state or {}).get("error") or log.read_text(errors="replace")))
            entries = state["services"] if state else []
            healthy = {entry["service"]["name"] for entry in entries if entry["healthy"]}
            progress.update(_progress(services, healthy, started, timeout_s))
            time.sleep(POLL_S)
    console.print(f"all services are ready after {time.monotonic() - started:.1f} s")


def _main() -> int:
    """The detached supervisor: settings from the environment, services from the plan that `up` wrote."""
    settings = Settings()
    plan = json.loads((settings.state_dir / "plan.json").read_text())
    services = [Service.from_json(values) for values in plan["services"]]
    try:
        with lock(settings.state_dir, patience_s=5):
            Supervisor(settings, services, None, plan["timeout_s"]).run()
    except StartError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
