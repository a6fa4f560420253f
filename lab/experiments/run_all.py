"""``semlink experiment all``: every experiment, one after the other; what is unchanged is skipped.

A report is unchanged when it was made by the same plan, weights, corpora and sources of services and lab (``inputs``).
What did change takes from the caches all points and trainings that are still the same, see
:func:`lab.experiments.retrieval_sweep.measurements`.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape

from lab.evaluation.report import head_of, inputs_hash
from lab.experiments.config import described
from lab.experiments.registry import EVERY, Experiment, experiment
from semlink.corpora.registry import task_of_corpus
from semlink.errors import SemlinkError

FIRST_FIGURE: Final = {"person": "fig6", "image": "fig7", "audio": "fig8"}
"""The figure of the paper that an added corpus repeats, by its task; fig9 and fig12 follow."""


@dataclass(frozen=True, slots=True)
class Job:
    """An experiment and about how many minutes it takes on two cores from an empty cache."""

    experiment: Experiment
    minutes: float


def jobs(corpora: Sequence[str] = (), *, quick: bool = False) -> list[Job]:
    """All that ``all`` runs, the figures repeated on added corpora at the end."""
    # What a quick look takes is much the same for all.
    own = [Job(experiment(name, o, quick=quick), 0.5 if quick else m) for name, o, m in EVERY]
    minutes = {name: m for name, _, m in EVERY}
    return own + [
        Job(experiment(name, quick=quick, corpus=corpus), 0.5 if quick else minutes[name])
        for corpus in corpora
        for name in figures_of(corpus)
    ]


def figures_of(corpus: str) -> tuple[str, ...]:
    """The figures that are repeated on an added corpus. Raises NotFound for an unknown one."""
    first = FIRST_FIGURE[task_of_corpus(corpus)]
    return (first, "fig9", "fig12")


def run(
    wanted: Sequence[Job],
    out: Path,
    console: Console,
    *,
    fresh: bool = False,
    workers: str = "auto",
) -> list[str]:
    """Run the jobs in their order; returns the names of those that failed, after all others were run.

    Raises KeyboardInterrupt as it comes: what is done stays, and the next run goes on there.
    """
    failed: list[str] = []
    started = time.monotonic()
    expected = [0.0 if not fresh and _unchanged(job, out) else job.minutes for job in wanted]
    done, spent = 0.0, 0.0
    for number, job in enumerate(wanted):
        name = job.experiment.report
        head = f"[{number + 1}/{len(wanted)}] {name}"
        if not fresh and _unchanged(job, out):
            console.print(f"{head}: unchanged")
            continue
        # The machine's speed shows in what is done already.
        pace = spent / done if done else 60.0
        left = pace * sum(expected[number:])
        console.rule(f"{head}, about {_clock(left)} left", align="left")
        begun = time.monotonic()
        try:
            job.experiment.run(out, console, fresh=fresh, workers=workers)
        except (SemlinkError, RuntimeError, OSError, ValueError) as error:
            # One that fails must not cost a night of the others: it is printed now and counted at the end.
            failed.append(name)
            message = error.message if isinstance(error, SemlinkError) else traceback.format_exc()
            console.print(f"[red]{escape(name)} failed:[/red] {escape(message)}")
            continue
        finally:
            done += expected[number]
            spent += time.monotonic() - begun
    console.print(
        f"{len(wanted) - len(failed)} of {len(wanted)} reports in {out} after {_clock(time.monotonic() - started)}"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return failed


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _unchanged(job: Job, out: Path) -> bool:
    found = head_of(out / f"{job.experiment.report}.json").get("inputs")
    return bool(found == inputs_hash(described(job.experiment.plan)))
