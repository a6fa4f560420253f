"""What an experiment is given and what it returns: the types of a module's ``measure(plan, run)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lab.evaluation.report import Row
from lab.experiments.plotting import Figure


@dataclass(frozen=True, slots=True)
class Run:
    """How an experiment is run: where its files go, and where it prints.

    ``fresh``: measure again what the cache holds; ``workers``: see :func:`lab.evaluation.parallel.spread`; ``quick``: a
    smoke run, from which no verdict is read.
    """

    out: Path
    console: Console
    fresh: bool = False
    workers: str = "1"
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """What an experiment found. ``show`` prints or writes what tables of the rows do not."""

    rows: list[Row]
    figures: Sequence[Figure] = ()
    show: Callable[[], None] | None = None
