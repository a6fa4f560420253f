"""One progress bar for everything that takes longer than a breath."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")


def progress(*, quiet: bool = False) -> Progress:
    """A progress display on standard error: description, bar, count, elapsed and remaining time; ``quiet``: nothing."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, quiet=quiet),
        disable=quiet,
    )


def track(sequence: Sequence[T], description: str) -> Iterator[T]:
    """Iterate with a progress bar; shows nothing for an empty sequence."""
    if not sequence:
        return
    with progress() as bar:
        yield from bar.track(sequence, description=description)
