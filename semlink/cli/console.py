"""What the modules of the command line share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(width=None if sys.stdout.isatty() else 140)
"""80 columns, what rich takes for a file or a pipe, squeeze tables beyond reading."""
errors = Console(stderr=True)

ReportsFolder = Annotated[
    Path | None,
    typer.Option("--reports", help="folder of reports; default docs/reports of a checkout"),
]
Out = Annotated[Path, typer.Option(help="folder to write to")]
