"""Every experiment by name: its plan, what a quick look overrides, how it is run; and what ``all`` runs.

``all`` skips what is unchanged: a report that was made by the same plan, weights, corpora and sources. What did change
takes from the caches all points and trainings that are still the same.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.evaluation.report import Report, described, head_of, inputs_hash
from semlink.errors import InvalidField, SemlinkError

if TYPE_CHECKING:
    from rich.console import Console

    from lab.experiments.interface import Measured, Run


@dataclass(frozen=True, slots=True)
class Entry:
    """An experiment's title, its module in :mod:`lab.experiments`, and what of the module's plan it changes.

    ``runs``: the changes of each of its runs in ``all``; ``minutes``: about how long one takes there, on two cores from
    an empty cache. The module has ``Plan``, a frozen dataclass whose every value has a default, ``QUICK``, what
    ``--quick`` overrides of it, and ``measure(plan, run)``.
    """

    title: str
    module: str
    minutes: float
    changes: Mapping[str, Any] = field(default_factory=dict)
    runs: Sequence[Mapping[str, Any]] = ({},)


_METHODS: Final = "method_comparison"
_ABLATION: Final = ("sc-lmkb", "sc-lmkb-wo-sdg", "sc-lmkb-wo-cdg", "deepsc-mimo", "llm-sc")
EXPERIMENTS: Final[Mapping[str, Entry]] = {
    "fig6": Entry(
        "mAP against SNR, person, UMi-LOS", _METHODS, 8.0, {"name": "fig6", "sweep_bits": ()}
    ),
    "fig7": Entry(
        "R@1 against SNR, text to image, UMi-LOS",
        _METHODS,
        8.0,
        {"name": "fig7", "task": "image", "sweep_bits": ()},
    ),
    "fig8": Entry(
        "R@1 against SNR, text to audio, UMi-LOS",
        _METHODS,
        8.0,
        {"name": "fig8", "task": "audio", "sweep_bits": ()},
    ),
    "fig9": Entry(
        "mAP against bits of a CSI report, person, UMi-LOS",
        _METHODS,
        6.0,
        {"name": "fig9", "snrs_db": (), "sweep_bits": (8, 16, 32, 64, 128, 256, 512)},
    ),
    "fig10": Entry(
        "mAP against SNR, person, UMa-NLOS",
        _METHODS,
        8.0,
        {"name": "fig10", "scenario": "uma-nlos", "sweep_bits": ()},
    ),
    "fig12": Entry(
        "ablation against SNR, person, UMi-LOS",
        _METHODS,
        1.0,
        {"name": "fig12", "sweep_bits": (), "methods": _ABLATION},
    ),
    "fig11": Entry(
        "a page of queries with their top 5, with and without the knowledge base, and what it dropped",
        "qualitative.experiment",
        4.0,
    ),
    "rate": Entry(
        "mAP and R@1 against channel uses k: joint coding, vector-quantised indices, separate coding, ideal link",
        "channel_uses_sweep",
        3.0,
    ),
    "feedback": Entry(
        "mAP against bits of a CSI report: quantisers, memory across reports, one user and four",
        "feedback_bits_sweep",
        8.0,
    ),
    "snr": Entry(
        "R@1 and mAP against SNR: what feedback is worth, joint against digital coding",
        "snr_sweep",
        6.0,
        runs=({"task": "person"}, {"task": "image"}, {"task": "audio"}),
    ),
    "methods": Entry(
        "R@1 and mAP of every method against SNR and against bits of a report",
        _METHODS,
        8.0,
        runs=(),
    ),
    "csi-rate": Entry(
        "NMSE, SGCS and precoding gain against bits of a CSI report: every quantiser, Gaussian line, bounds",
        "csi_quantization",
        5.0,
        runs=({}, {"held_out": True, "drops": 1}),
    ),
    "csi-prediction": Entry(
        "NMSE and SGCS of every CSI predictor: bits, speed, age of the newest report, lost reports",
        "csi_prediction",
        6.0,
    ),
    "knowledge": Entry(
        "the filter on labelled rewrites, fusion at query time, augmentation at training time",
        "knowledge_base",
        5.0,
    ),
    "gpa": Entry(
        "audio and text: global scores against prototypes, generators, scorers, Sinkhorn bias (tables 1-4)",
        "gpa",
        20.0,
    ),
    "itrieval": Entry(
        "noisy text to picture: raw, tf-idf, TextRank, ItrievalKD, key sentences; zero-shot and fine-tuned",
        "itrieval_kd",
        15.0,
    ),
    "sew-mcm": Entry(
        "person search: CMPM + CMPC, Sew, masked caption modelling, re-ranking (table 4)",
        "sew_mcm",
        35.0,
    ),
    "power": Entry(
        "mAP against SNR: equal power of all streams against water-filling",
        "power_allocation",
        6.0,
        runs=(),
    ),
    "components": Entry(
        "R@1 of messages of several components over a flat link: unequal protection, equal shares, global alone",
        "message_components",
        2.0,
        runs=(),
    ),
    "sites": Entry(
        "NMSE and SGCS of a CSI predictor that was refined on a site's own reports, there and elsewhere",
        "site_adaptation",
        6.0,
        runs=(),
    ),
}
"""In the order in which ``all`` runs them."""
FIRST_FIGURES: Final = ("fig6", "fig7", "fig8")
"""An added corpus repeats the one of its task, else the last; fig9 and fig12 follow."""


def changed(plan: Any, values: Mapping[str, Any]) -> Any:
    """The plan with other values, of its sampling as well. Raises TypeError naming a key that it has not."""
    own = {one.name for one in fields(plan)}
    of_plan = {key: value for key, value in values.items() if key in own}
    if of_sampling := {key: value for key, value in values.items() if key not in own}:
        of_plan["sampling"] = replace(getattr(plan, "sampling", plan), **of_sampling)
    return replace(plan, **of_plan)


def plan_of(name: str, *, quick: bool = False, corpus: str = "") -> Any:
    """The plan of an experiment.

    ``corpus``: an added one, for what runs over the link. Raises InvalidField for an unknown experiment, or a corpus
    where the experiment takes none; NotFound for an unknown corpus.
    """
    entry = _entry(name)
    module = import_module(f"lab.experiments.{entry.module}")
    plan = changed(module.Plan(), entry.changes)
    if corpus:
        from semlink.corpora.registry import task_of_corpus

        if not hasattr(plan, "sampling"):
            raise InvalidField(
                f"{name} takes no corpus: it searches none over the link", field="corpus"
            )
        values = {"corpus": corpus, "task": task_of_corpus(corpus)}
        if getattr(plan, "name", ""):
            values["name"] = f"{name}-{corpus}"
        plan = changed(plan, values)
    if quick:
        # A sweep that the figure has not stays away.
        values = {k: v for k, v in module.QUICK.items() if getattr(plan, k, True) != ()}
        plan = changed(plan, values)
    return plan


def _entry(name: str) -> Entry:
    if name not in EXPERIMENTS:
        raise InvalidField(
            f"experiment is {name!r}, allowed: {', '.join(EXPERIMENTS)}", field="name"
        )
    return EXPERIMENTS[name]


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment, ready to run. ``report``: the name of its files; ``quick``: a smoke run, no measurement."""

    report: str
    plan: Any
    measure: Callable[[Any, Run], Measured]
    quick: bool = False

    def run(
        self, out: Path, console: Console, *, fresh: bool = False, workers: str = "1"
    ) -> Report:
        """Measure, print and write ``out/REPORT.{json,csv,…}``, the JSON with the plan and a hash of all it came from.

        ``fresh``, ``workers``: see :class:`lab.experiments.interface.Run`.
        """
        from lab.experiments.interface import Run
        from lab.experiments.tables import print_rows

        started = time.monotonic()
        found = self.measure(self.plan, Run(out, console, fresh, workers, self.quick))
        seconds = time.monotonic() - started
        report = Report(
            self.report, found.rows, seconds, plan=described(self.plan), quick=self.quick
        )
        report.write(out, self.report)
        for figure in found.figures:
            figure.draw(out / f"{self.report}{figure.suffix}")
        if found.show is None:
            print_rows(found.rows, console, quick=self.quick)
        else:
            found.show()
        return report


def experiment(name: str, plan: Any, *, quick: bool = False) -> Experiment:
    """The experiment of a name with its plan, see :func:`plan_of`. Raises InvalidField for an unknown one."""
    module = import_module(f"lab.experiments.{_entry(name).module}")
    return Experiment(getattr(plan, "report", name), plan, module.measure, quick)


# --- all of them -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """An experiment and about how many minutes it takes on two cores from an empty cache."""

    experiment: Experiment
    minutes: float


def jobs(corpora: Sequence[str] = (), *, quick: bool = False) -> list[Job]:
    """All that ``all`` runs, the figures repeated on added corpora at the end. Raises NotFound for an unknown one."""
    from semlink.corpora.registry import task_of_corpus

    asked = [(name, "", changes) for name, entry in EXPERIMENTS.items() for changes in entry.runs]
    for corpus in corpora:
        task = task_of_corpus(corpus)
        own = (name for name in FIRST_FIGURES if plan_of(name).sampling.task == task)
        first = next(own, FIRST_FIGURES[-1])
        asked += [(name, corpus, {}) for name in (first, "fig9", "fig12")]
    found = []
    for name, corpus, changes in asked:
        plan = changed(plan_of(name, quick=quick, corpus=corpus), changes)
        # What a quick look takes is much the same for all.
        minutes = 0.5 if quick else EXPERIMENTS[name].minutes
        found.append(Job(experiment(name, plan, quick=quick), minutes))
    return found


def run_all(
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
    from rich.markup import escape

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
        console.rule(f"{head}, about {_clock(pace * sum(expected[number:]))} left", align="left")
        begun = time.monotonic()
        try:
            job.experiment.run(out, console, fresh=fresh, workers=workers)
        except (SemlinkError, RuntimeError, OSError, ValueError) as error:
            # One that fails must not cost a night of the others: it is printed now and counted at the end.
            failed.append(name)
            message = error.message if isinstance(error, SemlinkError) else traceback.format_exc()
            console.print(f"[red]{escape(name)} failed:[/red] {escape(message)}")
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
