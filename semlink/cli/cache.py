"""`semlink cache …`: what measuring and training left in ``SEMLINK_CACHE_DIR``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from semlink.cli.console import console

if TYPE_CHECKING:
    from lab.evaluation.cache import Part

cache_app = typer.Typer(
    help="List and remove what is cached: measured points, features, trained models.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Argument(help="a name of `semlink cache ls`")]


@cache_app.command("ls")
def list_caches() -> None:
    """List every cache: size, what makes it, age, and whether today's sources and weights still make the same."""
    from lab.evaluation.cache import parts
    from semlink.models import cache_dir

    table = Table("cache", "size", "files", "age", "state", "made by")
    found = parts()
    for part in found:
        age = str(timedelta(seconds=round(part.age_s)))
        made_by = ", ".join(part.producers)
        table.add_row(part.name, _mib(part.size), str(part.files), age, part.state, made_by)
    console.print(table)
    console.print(f"{_mib(sum(part.size for part in found))} in {cache_dir()}", highlight=False)


@cache_app.command("rm")
def remove_caches(
    names: Annotated[
        list[str] | None, typer.Argument(help="names of `semlink cache ls`", show_default=False)
    ] = None,
    stale: Annotated[
        bool, typer.Option("--stale", help="only what today's sources or weights do not make")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="every cache")] = False,
) -> None:
    """Remove caches by name, all that is stale, or everything."""
    from lab.evaluation.cache import remove
    from semlink.errors import InvalidField

    if not (names or stale or everything):
        raise InvalidField("name what to remove: a cache, --stale or --all", field="names")
    removed = remove(*(names or []), stale=stale)
    console.print(f"removed: {_described(removed)}", highlight=False)


@cache_app.command("keep")
def keep_stale(name: Name) -> None:
    """Count a cache's stale entries as made by today's sources: for changes that alter no result."""
    from lab.evaluation.cache import keep

    console.print(f"kept {keep(name)} files of {name}", highlight=False)


def _described(removed: Iterable[Part]) -> str:
    removed = list(removed)
    names = ", ".join(dict.fromkeys(part.name for part in removed)) or "nothing"
    return f"{names}, {_mib(sum(part.size for part in removed))}"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
