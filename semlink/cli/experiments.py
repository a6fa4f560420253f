"""`semlink experiment …`: every figure and table by one command, and all of them by one more."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import typer

from lab.experiments.registry import EXPERIMENTS
from semlink.cli.console import console
from semlink.errors import InvalidField

experiment_app = typer.Typer(
    help="Regenerate a figure or table: CSV, JSON, plot. NAME --help lists every value of its plan.",
    no_args_is_help=True,
)
P = TypeVar("P")


@dataclass(frozen=True)
class RunOptions:
    """How it is run."""

    quick: bool = False
    """A smoke run of minutes, into results/quick."""
    fresh: bool = False
    """Measure again what the cache holds for this program."""
    workers: str = "auto"
    """Processes: a number, auto (one a core), or ray; the same figures."""
    show: bool = False
    """Print the plan as JSON, run nothing."""
    root: Path | None = None
    """Folder of the corpus that --corpus names: adds it first, if it is not yet."""
    out: Path | None = None
    """Folder to write to; default results, with --quick results/quick."""


@dataclass(frozen=True)
class Asked(Generic[P]):
    """A command line: an experiment's plan, and how it is run."""

    plan: P
    run: RunOptions = field(default_factory=RunOptions)


def asked(name: str, arguments: list[str]) -> Asked[Any]:
    """What the command line of an experiment asks for; lists are written ``--bits 16 64``.

    Raises InvalidField for an option that is given twice; SystemExit, with a message, for what is no option or no value
    of its type, and where help is asked for.
    """
    import tyro

    from lab.experiments.registry import plan_of

    names = [a.partition("=")[0] for a in arguments if a.startswith("--")]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InvalidField(
            f"{twice[0]} is given twice; a list is written {twice[0]} A B",
            field=twice[0].removeprefix("--"),
        )
    # These three say which defaults the plan has.
    prog = f"semlink experiment {name}"
    first = argparse.ArgumentParser(prog, add_help=False, allow_abbrev=False)
    first.add_argument("--quick", action="store_true")
    first.add_argument("--corpus", default="")
    first.add_argument("--root", type=Path)
    known, _ = first.parse_known_args(arguments)
    _add(known.corpus, known.root)
    plan = plan_of(name, quick=known.quick, corpus=known.corpus)
    form: Any = Asked[type(plan)]  # type: ignore[misc]
    found: Asked[Any] = tyro.cli(
        form,
        args=arguments,
        default=Asked(plan),
        prog=prog,
        description=_help(name),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return found


def _help(name: str) -> str:
    title = EXPERIMENTS[name].title
    if name.startswith("fig"):
        return f"Figure {name.removeprefix('fig')} of SC-LMKB: {title}."
    return f"{title}." if title.startswith("mAP") else f"{title[0].upper()}{title[1:]}."


def _command(name: str) -> None:
    """One command an experiment; its options are its plan's and those of :class:`RunOptions`."""

    @experiment_app.command(
        name,
        help=_help(name),
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def run(context: typer.Context) -> None:
        from lab.evaluation.parallel import check_workers
        from lab.evaluation.report import described
        from lab.experiments.registry import experiment

        found = asked(name, context.args)
        check_workers(found.run.workers)
        if found.run.show:
            print(json.dumps(described(found.plan), indent=1))
            return
        folder = _folder(found.run.out, quick=found.run.quick)
        made = experiment(name, found.plan, quick=found.run.quick)
        made.run(folder, console, fresh=found.run.fresh, workers=found.run.workers)
        files = sorted(path.name for path in folder.glob(f"{made.report}*"))
        console.print(f"written to {folder}: {', '.join(files)}")


for _name in EXPERIMENTS:
    _command(_name)


@experiment_app.command("all")
def experiment_all(
    quick: Annotated[bool, typer.Option("--quick", help="smoke runs, into results/quick")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="measure again what is cached")] = False,
    workers: Annotated[
        str, typer.Option(help="processes: a number, auto (one a core), or ray; the same figures")
    ] = "auto",
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="repeat the figures on an added corpus as well; can be repeated"),
    ] = None,
    root: Annotated[
        list[Path] | None, typer.Option(help="folder of each corpus, in their order")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder to write to; default results or results/quick")
    ] = None,
) -> None:
    """Every experiment; skips what is unchanged, goes on where it was interrupted. Then: `semlink results`."""
    from lab.evaluation.parallel import check_workers
    from lab.experiments.registry import jobs, run_all

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
    failed = run_all(jobs(corpora, quick=quick), folder, console, fresh=fresh, workers=workers)
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
