"""The command line: `semlink …`. Heavy imports are made by the command that needs them, so that help is instant."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from semlink.cli.bench import bench_app
from semlink.cli.cache import cache_app
from semlink.cli.console import console, errors
from semlink.cli.corpora import corpora_app, evaluate
from semlink.cli.experiments import experiment_app
from semlink.cli.knowledge import kb_app
from semlink.cli.load import load
from semlink.cli.models import models_app
from semlink.cli.query import query
from semlink.cli.results import compare_reports, docs, results_page, targets
from semlink.cli.services import demo, down, status, up
from semlink.cli.site_adaptation import learn_channel
from semlink.cli.train import train_app
from semlink.errors import InvalidField, SemlinkError

app = typer.Typer(
    name="semlink",
    help="An emulator of semantic communication: retrieval queries over a 3GPP link.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,  # a frame may hold a secret
)
for command in (up, down, status, query, load, demo, evaluate, targets, docs):
    app.command()(command)
app.command("compare")(compare_reports)
app.command("results")(results_page)
app.add_typer(corpora_app, name="corpora")
app.add_typer(models_app, name="models")
app.add_typer(train_app, name="train")
app.add_typer(bench_app, name="bench")
app.add_typer(experiment_app, name="experiment")
app.add_typer(kb_app, name="kb")
app.add_typer(cache_app, name="cache")
kb_app.command("learn-channel")(learn_channel)


def _show_version(asked: bool) -> None:
    if asked:
        from semlink.version import commit, version

        found = commit()
        console.print(f"semlink {version()}" + (f" (commit {found})" if found else ""))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="show the version and exit"
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run; an error that a user can cause is one line and exit status 1 (2 for a field that is not allowed)."""
    try:
        app()
    except SemlinkError as error:
        where = f" (field {error.field})" if error.field else ""
        # soft_wrap: a command to be copied must not be broken
        errors.print(f"[red]semlink:[/red] {escape(error.message)}{escape(where)}", soft_wrap=True)
        sys.exit(2 if isinstance(error, InvalidField) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
