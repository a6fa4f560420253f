"""Has quality fallen? The quick runs of a few experiments against stored ones: ``python -m tools.regression_check``.

Two seeds have no power for a test of significance. So the same queries on the same channels are measured again, and
the mean difference of each method over its whole sweep may not fall below a stated margin
(:func:`lab.evaluation.compare_reports.compare_pooled`; exit status 1 with the table where it does). ``--update``
stores the runs of today as the new references and says what changed.

Measured in a cache of its own, so that nothing is taken from an earlier run. What the LLM wrote for the queries is kept
beside the references (an LLM at work takes minutes): the filter and the fusion of rewrites are judged here, their
generation is not.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from lab.evaluation.cache import ROOT
from lab.evaluation.compare_reports import MARGINS, Pooled, compare_pooled, print_pooled, read
from lab.evaluation.report import write_compact
from semlink.errors import InvalidField, NotFound

REFERENCES: Final = ROOT / "tests" / "regression"
FIGURES: Final = ("fig6", "fig7", "fig8", "fig9")
METHODS: Final = ("sc-lmkb", "sc-lmkb-cdg", "deepsc-mimo", "llm-sc", "separation")
"""Those that share no path to the answer; the others are parts of them."""
SEEDS: Final = 2
QUERIES: Final = 16
LINKS: Final = 8
SNRS_DB: Final = (-10.0, 10.0)
"""One where the link decides, one where the meaning does."""
BITS: Final = (16, 64)
"""Of fig9's reports."""
FAILED: Final = ("worse", "gone")
_CACHE: Final = "SEMLINK_CACHE_DIR"


def plan(name: str) -> Any:
    """An experiment as small as the guard wants it."""
    from lab.experiments.registry import changed, plan_of

    if name == "csi-rate":
        return plan_of(name, quick=True)
    if name == "csi-prediction":
        few = {"scenarios": ("umi-los",), "bits": (64,), "speeds_kmh": (3.0, 30.0), "losses": ()}
        return changed(plan_of(name, quick=True), few)
    whole = plan_of(name)
    small = {
        "seeds": SEEDS,
        "queries": QUERIES,
        "links": LINKS,
        "snrs_db": SNRS_DB if whole.snrs_db else (),
        "sweep_bits": BITS if whole.sweep_bits else (),
        "methods": METHODS,
    }
    return changed(whole, small)


def _run(name: str, out: Path, console: Console) -> None:
    from lab.experiments.registry import experiment

    experiment(name, plan(name)).run(out, console)


RUNS: Final[Mapping[str, Callable[[Path, Console], object]]] = {
    name: partial(_run, name) for name in (*FIGURES, "csi-rate", "csi-prediction")
}
"""What is measured, and how: each writes ``out/NAME.json``."""


def measure(name: str, out: Path, console: Console) -> Path:
    """Run an experiment anew, quietly; one line to the console. Returns the report's path."""
    started = time.monotonic()
    with Path(os.devnull).open("w") as nowhere:
        RUNS[name](out, Console(file=nowhere))
    console.print(f"measured {name} in {time.monotonic() - started:.0f} s", highlight=False)
    return out / f"{name}.json"


def check(name: str, measured: Path, references: Path) -> list[Pooled]:
    """Pooled differences of a report from its reference. Raises NotFound naming the command where there is none."""
    path = references / f"{name}.json"
    if not path.is_file():
        raise NotFound(
            f"{path} is missing: make it with `python -m tools.regression_check --update`",
            field="name",
        )
    return compare_pooled(read(path)[1], read(measured)[1])


def store(name: str, measured: Path, references: Path) -> Path:
    """Make a measured report the reference: its judged rows, one a line, so that changes can be read."""
    report = json.loads(measured.read_text())
    rows = [row for row in report["rows"] if row["metric"] in MARGINS]
    content = report | {"command": "python -m tools.regression_check --update", "rows": rows}
    return write_compact(content, references / f"{name}.json")


def queries() -> set[str]:
    """The captions that the runs of :data:`FIGURES` ask with."""
    from lab.experiments.retrieval_sweep import draw_queries

    samplings = [plan(name).sampling for name in FIGURES]
    return {
        text
        for sampling in samplings
        for seed in range(sampling.seeds)
        for text in draw_queries(sampling, seed).texts
    }


def store_rewrites(references: Path) -> Path:
    """Keep what the LLM wrote for the queries of the runs. Raises NotFound for what the rewrite bank lacks."""
    from lab.evaluation.rewrite_cache import RewriteCache

    texts = queries()
    bank = RewriteCache().path
    kept: dict[tuple[str, float], str] = {}
    for line in [*_lines(references / bank.name), *_lines(bank)]:
        entry = json.loads(line)
        if entry["text"] in texts:
            kept.setdefault((entry["text"], entry["temperature"]), line)
    if missing := texts - {text for text, _ in kept}:
        raise NotFound(
            f"the rewrite bank lacks {len(missing)} queries, as {min(missing)!r}: `semlink experiment {FIGURES[0]}`, "
            f"and the others of {', '.join(FIGURES)}, make them",
            field="text",
        )
    references.mkdir(parents=True, exist_ok=True)
    path = references / bank.name
    path.write_text("".join(f"{kept[key]}\n" for key in sorted(kept)))
    return path


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


@contextmanager
def own_cache(references: Path) -> Iterator[None]:
    """A cache that holds the stored rewrites, and of the user's what models need to start: no figures."""
    from semlink.models import cache_dir

    users, before = cache_dir(), os.environ.get(_CACHE)
    with tempfile.TemporaryDirectory(prefix="semlink-quality-") as folder:
        own = Path(folder)
        for model in users.glob("smollm2-*"):
            (own / model.name).symlink_to(model)
        if (users / "verified-models.json").is_file():
            shutil.copy(users / "verified-models.json", own)
        (own / "rewrite-bank").mkdir()
        for bank in references.glob("rewrites-*.jsonl"):
            shutil.copy(bank, own / "rewrite-bank")
        os.environ[_CACHE] = folder
        try:
            yield
        finally:
            del os.environ[_CACHE]
            if before is not None:
                os.environ[_CACHE] = before


def main(
    update: Annotated[bool, typer.Option("--update", help="store today's as references")] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"of {', '.join(RUNS)}")] = None,
    references: Annotated[Path, typer.Option(help="folder of the stored runs")] = REFERENCES,
    everything: Annotated[bool, typer.Option("--all", help="print what is equal, too")] = False,
) -> None:
    """Measure the quick runs and compare them with the stored ones; exit status 1 where quality fell."""
    console = Console()
    names = tuple(only or RUNS)
    if unknown := [name for name in names if name not in RUNS]:
        raise InvalidField(f"--only is {unknown[0]!r}, allowed: {', '.join(RUNS)}", field="only")
    if update:
        console.print(f"stored {store_rewrites(references)}")
    fallen = []
    with tempfile.TemporaryDirectory(prefix="semlink-quality-") as folder, own_cache(references):
        for name in names:
            measured = measure(name, Path(folder), console)
            if not update or (references / f"{name}.json").is_file():
                pooled = check(name, measured, references)
                print_pooled(name, pooled, console, everything=everything)
                if any(one.verdict in FAILED for one in pooled):
                    fallen.append(name)
            if update:
                console.print(f"stored {store(name, measured, references)}")
    if update:
        return
    if fallen:
        console.print(
            f"quality fell: {', '.join(fallen)}. If that is meant: python -m tools.regression_check --update"
        )
        raise typer.Exit(1)
    console.print("quality has not fallen")


if __name__ == "__main__":
    typer.run(main)
