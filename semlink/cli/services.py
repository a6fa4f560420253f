"""`semlink up`, `down`, `status` and `demo`: the services of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semlink.cli.console import Out, console, settings_of, with_models
from semlink.errors import InvalidField
from semlink.scenarios import SCENARIOS

if TYPE_CHECKING:
    from semlink.settings import Settings


def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="return when ready")] = False,
    port: Annotated[int | None, typer.Option(help="of the gateway, default 8000")] = None,
    scenario: Annotated[str | None, typer.Option(help="of queries that name no link")] = None,
) -> None:
    """Start all services on this machine, the store's Redis included."""
    from semlink.deployment import supervisor

    values: dict[str, Any] = {}
    if port is not None:
        values["gateway_port"] = port
    if scenario is not None:
        if scenario not in SCENARIOS:
            raise InvalidField(
                f"--scenario is {scenario!r}, allowed: {', '.join(SCENARIOS)}", field="scenario"
            )
        values["scenario"] = scenario
    supervisor.up(with_models(settings_of(**values)), detach=detach)
    if detach:
        console.print("`semlink down` stops everything", style="dim")


def down() -> None:
    """Stop every service that `semlink up` started."""
    from semlink.deployment import supervisor

    stopped = supervisor.down(settings_of())
    console.print("stopped" if stopped else "nothing is running")


def status() -> None:
    """Show every service: process, address, health, memory."""
    from semlink.deployment import supervisor
    from semlink.deployment.health import status_table

    found = supervisor.status(settings_of())
    if not found:
        console.print("nothing is running; start with `semlink up`")
        raise typer.Exit(3)
    console.print(status_table(found))
    if any(s.health != "healthy" for s in found):
        raise typer.Exit(1)


def demo(out: Out = Path("demo")) -> None:
    """Start everything on free ports, ask two queries a task, write a page, stop everything."""
    from semlink.cli.demo import demo as run
    from semlink.client import Client, gateway_url

    with own_services("demo") as settings, Client(gateway_url(settings.gateway_port)) as client:
        run(client, out, console)


@contextmanager
def own_services(name: str) -> Iterator[Settings]:
    """All services on free ports, beside any others of this machine; stopped on leaving."""
    from semlink.deployment import supervisor

    settings = supervisor.up_on_free_ports(with_models(settings_of()).state_dir / name)
    try:
        yield settings
    finally:
        supervisor.down(settings)
