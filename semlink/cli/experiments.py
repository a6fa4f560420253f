"""`semlink experiment …`: every figure and table by one command, and all of them by one more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from lab.experiments.registry import FIGURES, TITLES
from semlink.cli.console import console
from semlink.errors import InvalidField

experiment_app = typer.Typer(
    help="Regenerate a figure or table: CSV, JSON, plot. Every value of its plan is an option; --show prints them.",
    no_args_is_help=True,
)
OPTIONS: Final = {"allow_extra_args": True, "ignore_unknown_options": True}

Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value of the plan, the same as --key value; lists with commas"),
]
Quick = Annotated[bool, typer.Option("--quick", help="a smoke run of minutes, into results/quick")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="measure again what the cache holds for this program")
]
WorkersOption = Annotated[
    str, typer.Option(help="processes: a number, auto (one a core), or ray; the same figures")
]
OutOption = Annotated[
    Path | None,
    typer.Option(help="folder to write to; default results, with --quick results/quick"),
]
CorpusOption = Annotated[
    str, typer.Option(help="an added corpus instead of the embedded one: flickr8k, esc50, …")
]
RootOption = Annotated[
    Path | None, typer.Option(help="folder of the corpus: adds it first, if it is not yet")
]


def _command(name: str) -> None:
    """One command an experiment: all have the same options, and those of their plan."""
    title = TITLES[name]
    number = name.removeprefix("fig")
    text = f"Figure {number} of SC-LMKB: {title}." if name in (*FIGURES, "fig11") else f"{title}."

    @experiment_app.command(
        name,
        help=text if title.startswith("mAP") else text[0].upper() + text[1:],
        context_settings=OPTIONS,
    )
    def run(
        context: typer.Context,
        changes: Changes = None,
        show: Annotated[bool, typer.Option("--show", help="print the plan, run nothing")] = False,
        quick: Quick = False,
        fresh: Fresh = False,
        workers: WorkersOption = "auto",
        corpus: CorpusOption = "",
        root: RootOption = None,
        out: OutOption = None,
    ) -> None:
        from lab.evaluation.parallel import check_workers
        from lab.experiments.config import described
        from lab.experiments.registry import experiment

        check_workers(workers)
        _add(corpus, root)
        asked = experiment(name, changes or (), options=context.args, quick=quick, corpus=corpus)
        if show:
            print(json.dumps(described(asked.plan), indent=1))
            return
        folder = _folder(out, quick=quick)
        asked.run(folder, console, fresh=fresh, workers=workers)
        files = sorted(path.name for path in folder.glob(f"{asked.report}*"))
        console.print(f"written to {folder}: {', '.join(files)}")


for _name in TITLES:
    _command(_name)


@experiment_app.command("all")
def experiment_all(
    quick: Quick = False,
    fresh: Fresh = False,
    workers: WorkersOption = "auto",
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="repeat the figures on an added corpus as well; can be repeated"),
    ] = None,
    root: Annotated[
        list[Path] | None, typer.Option(help="folder of each corpus, in their order")
    ] = None,
    out: OutOption = None,
) -> None:
    """Every experiment; skips what is unchanged, goes on where it was interrupted. Then: `semlink results`."""
    from lab.evaluation.parallel import check_workers
    from lab.experiments.run_all import jobs, run

    check_workers(workers)
    corpora, roots = corpus or [], root or []
    if roots and len(roots) != len(corpora):
        raise InvalidField(
            f"--root is given {len(roots)} times, --corpus {len(corpora)} times: expected one folder for each corpus",
            field="root",
        )
    for name, folder in zip(corpora, roots, strict=False):
        _add(name, folder)
    folder = _folder(out, quick=quick)
    failed = run(jobs(corpora, quick=quick), folder, console, fresh=fresh, workers=workers)
    console.print(
        f"claims: semlink targets --reports {folder}; into docs/: semlink results --adopt {folder}"
    )
    if failed:
        raise typer.Exit(1)


def _folder(out: Path | None, *, quick: bool) -> Path:
    """A smoke run must not take the place of a measurement."""
    return out or (Path("results/quick") if quick else Path("results"))


def _add(corpus: str, root: Path | None) -> None:
    if root is None:
        return
    if not corpus:
        raise InvalidField("--root is the folder of a --corpus: give both", field="corpus")
    from lab.training.add_corpus import run

    run(corpus, root, console=console)
