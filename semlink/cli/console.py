"""What the modules of the command line share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from lab.evaluation.report import Report
    from semlink.settings import Settings

console = Console(width=None if sys.stdout.isatty() else 140)
"""80 columns, what rich takes for a file or a pipe, squeeze tables beyond reading."""
errors = Console(stderr=True)

ReportsFolder = Annotated[
    Path | None,
    typer.Option("--reports", help="folder of reports; default docs/reports of a checkout"),
]
Threads = Annotated[int, typer.Option(help="of torch")]
Out = Annotated[Path, typer.Option(help="folder to write to")]


def write(report: Report, out: Path) -> None:
    """Write a report under its own name, and say where."""
    console.print(f"written: {report.write(out, report.experiment)}")


def with_models(settings: Settings) -> Settings:
    """The settings, once every model that the services load is there."""
    from semlink import models

    models.require(llm=settings.llm_kind == "embedded")
    return settings


def settings_of(**values: Any) -> Settings:
    """The settings of this environment, and some values of one's own."""
    from semlink.settings import Settings

    return Settings(**values)
