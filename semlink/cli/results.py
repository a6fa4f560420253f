"""`semlink results`, `targets`, `compare` and `docs`: what was measured, and the references."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from semlink.cli.console import ReportsFolder, console
from semlink.errors import NotFound


def compare_reports(
    a: Annotated[Path, typer.Argument(help="JSON file of a report, before")],
    b: Annotated[Path, typer.Argument(help="JSON file of a report, after")],
    level: Annotated[float, typer.Option(help="of the intervals, over all rows together")] = 0.95,
    everything: Annotated[
        bool, typer.Option("--all", help="print rows that did not change, too")
    ] = False,
    pooled: Annotated[
        bool,
        typer.Option(help="each method pooled over its sweep, against a stated margin instead"),
    ] = False,
) -> None:
    """Which rows of two reports changed beyond noise; exit status 1 where one got worse or is gone."""
    from lab.evaluation import compare_reports as reports

    (head_a, before), (head_b, after) = reports.read(a), reports.read(b)
    found: Sequence[reports.Pooled | reports.Change]
    if pooled:
        found = each = reports.compare_pooled(before, after)
        reports.print_pooled(b.stem, each, console, everything=everything)
    else:
        found = changes = reports.compare(before, after, level=level)
        reports.print_changes((head_a, head_b), changes, console, everything=everything)
    if any(one.verdict in ("worse", "gone", "only in A") for one in found):
        raise typer.Exit(1)


def results_page(
    reports: ReportsFolder = None,
    adopt: Annotated[
        Path | None,
        typer.Option(
            help="take the reports and pictures of this folder first, for instance results"
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="write nothing; exit status 1 where a file is not up to date"),
    ] = False,
) -> None:
    """Write the pages of figures and tables, and a CSV file of each report, beside a complete folder of reports."""
    from lab.experiments import results_page

    folder = results_page.reports_folder(reports)
    if check:
        if old := results_page.stale(folder):
            console.print(f"not up to date: {', '.join(old)}; run `semlink results`")
            raise typer.Exit(1)
        console.print("up to date")
        return
    if adopt is not None:
        console.print(f"taken from {adopt}: {', '.join(results_page.adopt(adopt, folder))}")
    written = results_page.write(folder)
    console.print(f"written to {folder.parent}: {len(written)} files")


def targets(reports: ReportsFolder = None) -> None:
    """What is claimed of the system against what reports say: met, missed, not measured."""
    from lab.evaluation.claims import Reports, judge_all, print_judged
    from lab.experiments.results_page import reports_folder

    print_judged(judge_all(Reports.read(reports_folder(reports))), console)


def docs(out: Annotated[Path, typer.Option(help="folder to write to")] = Path("docs")) -> None:
    """Generate the REST and gRPC references from the running code and the contracts."""
    try:
        from tools.docs.api_reference import write
    except ModuleNotFoundError as error:
        raise NotFound(
            "`semlink docs` needs a checkout: what makes the references is not installed"
        ) from error

    for path in write(out):
        console.print(f"written: {path}")
