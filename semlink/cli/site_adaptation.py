"""`semlink kb learn-channel`: the channel side of the knowledge base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from semlink.cli.console import console

if TYPE_CHECKING:
    from semlink.settings import Settings


def learn_channel(
    scenario: Annotated[str, typer.Option(help="of the links to learn from: umi-los, …")] = "",
    generator: Annotated[str, typer.Option(help="default: the one that is asked by itself")] = "",
    steps: Annotated[int, typer.Option(help="of training")] = 300,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="use it from now on, though it was measured to do harm"),
    ] = False,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="return to the refinement before")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="delete what was learned; the shipped weights serve")
    ] = False,
    show: Annotated[bool, typer.Option("--list", help="what was learned so far")] = False,
) -> None:
    """Refine the channel generator for a scenario on the reports that open links left in the store."""
    from kb_service import channel_knowledge
    from lab.training.site_adaptation import RefineRecipe, chosen_generator, run
    from semlink.errors import InvalidField

    if show:
        table = Table(
            "generator", "scenario", "in use", "earlier one", "links", "before / after dB"
        )
        for found in channel_knowledge.refinements():
            figures = found.metadata.get("nmse_db_against_later_reports", {})
            table.add_row(
                found.generator,
                found.scenario,
                "yes" if found.in_use else "no: other shipped weights",
                "yes" if found.has_previous else "",
                escape(str(found.metadata.get("links", ""))),
                " / ".join(f"{value:.3f}" for value in figures.values()),
            )
        console.print(table)
        return
    if not scenario:
        raise InvalidField("give --scenario, or --list", field="scenario")
    if roll_back or forget:
        if roll_back and forget:
            raise InvalidField("give --roll-back or --forget, one of them", field="forget")
        name = generator or chosen_generator(scenario)
        act = channel_knowledge.roll_back if roll_back else channel_knowledge.forget
        act(name, scenario)
        console.print(f"{name}, {scenario}: {'rolled back' if roll_back else 'forgotten'}")
        return
    settings, recipe = _with_running_store(), RefineRecipe(steps=steps)
    run(scenario, settings, generator=generator, recipe=recipe, keep_it=keep, console=console)


def _with_running_store() -> Settings:
    """The settings, with the store of the services that `semlink up` runs where no other is named."""
    from semlink.deployment import processes, supervisor
    from semlink.errors import Unavailable
    from semlink.settings import Settings

    settings = Settings()
    if "redis_url" in settings.model_fields_set:
        return settings
    for service in supervisor.status(settings):
        if service.name == "redis":
            path = Path(service.address.removeprefix("unix:"))
            return Settings(redis_url=processes.store_url(path))
    raise Unavailable(
        "no store: nothing that `semlink up` started runs here, and SEMLINK_REDIS_URL names none",
        field="redis_url",
    )
