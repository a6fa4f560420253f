"""Every experiment by name: its plan, what a quick look overrides, how it is run; and what ``all`` runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from lab.evaluation.report import head_of, sign
from lab.experiments.config import changed, described, from_options, overridden
from semlink.errors import InvalidField

if TYPE_CHECKING:
    from rich.console import Console

    from lab.evaluation.report import Report

TITLES: Final[Mapping[str, str]] = {
    "fig6": "mAP against SNR, person, UMi-LOS",
    "fig7": "R@1 against SNR, text to image, UMi-LOS",
    "fig8": "R@1 against SNR, text to audio, UMi-LOS",
    "fig9": "mAP against bits of a CSI report, person, UMi-LOS",
    "fig10": "mAP against SNR, person, UMa-NLOS",
    "fig11": "a page of queries with their top 5, with and without the knowledge base, and what it dropped",
    "fig12": "ablation against SNR, person, UMi-LOS",
    "csi-rate": "NMSE, SGCS and precoding gain against bits of a CSI report: every quantiser, Gaussian line, bounds",
    "csi-prediction": "NMSE and SGCS of every CSI predictor: bits, speed, age of the newest report, lost reports",
    "rate": "mAP and R@1 against channel uses k: joint coding, vector-quantised indices, separate coding, ideal link",
    "snr": "R@1 and mAP against SNR: what feedback is worth, joint against digital coding",
    "feedback": "mAP against bits of a CSI report: quantisers, memory across reports, one user and four",
    "methods": "R@1 and mAP of every method against SNR and against bits of a report",
    "gpa": "audio and text: global scores against prototypes, generators, scorers, Sinkhorn bias (tables 1-4)",
    "itrieval": "noisy text to picture: raw, tf-idf, TextRank, ItrievalKD, key sentences; zero-shot and fine-tuned",
    "sew-mcm": "person search: CMPM + CMPC, Sew, masked caption modelling, re-ranking (table 4)",
    "knowledge": "the filter on labelled rewrites, fusion at query time, augmentation at training time",
}
MODULES: Final[Mapping[str, str]] = {
    "fig11": "qualitative.experiment",
    "csi-rate": "csi_quantization",
    "rate": "channel_uses_sweep",
    "snr": "snr_sweep",
    "feedback": "feedback_bits_sweep",
    "methods": "method_comparison",
    "itrieval": "itrieval_kd",
    "knowledge": "knowledge_base",
}
"""The module of an experiment in :mod:`lab.experiments`, where it is not the experiment's own name."""
FIGURES: Final = ("fig6", "fig7", "fig8", "fig9", "fig10", "fig12")
OVER_THE_LINK: Final = (*FIGURES, "methods", "rate", "snr", "feedback")
"""Those whose points are measured by :mod:`lab.experiments.retrieval_sweep`."""
EVERY: Final[tuple[tuple[str, tuple[str, ...], float], ...]] = (
    ("fig6", (), 8.0),
    ("fig7", (), 8.0),
    ("fig8", (), 8.0),
    ("fig9", (), 6.0),
    ("fig10", (), 8.0),
    ("fig12", (), 1.0),
    ("fig11", (), 4.0),
    ("rate", (), 3.0),
    ("feedback", (), 8.0),
    ("snr", ("task=person",), 6.0),
    ("snr", ("task=image",), 6.0),
    ("snr", ("task=audio",), 6.0),
    ("csi-rate", (), 5.0),
    ("csi-rate", ("held_out=true", "drops=1"), 4.0),
    ("csi-prediction", (), 6.0),
    ("knowledge", (), 5.0),
    ("gpa", (), 20.0),
    ("itrieval", (), 15.0),
    ("sew-mcm", (), 35.0),
)
"""What ``all`` runs: name, overrides, and about how many minutes it takes on two cores from an empty cache."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment, ready to run. ``report``: the name of its files; ``quick``: a smoke run, no measurement."""

    name: str
    report: str
    plan: Any
    _run: Callable[..., Report]
    quick: bool = False

    def run(
        self, out: Path, console: Console, *, fresh: bool = False, workers: str = "1"
    ) -> Report:
        """Measure, print and write ``out/REPORT.{json,csv,…}``, the JSON with the plan and a hash of all it came from.

        ``fresh``: measure again what is kept; ``workers``: see :func:`lab.evaluation.parallel.spread`.
        """
        path = out / f"{self.report}.json"
        before = head_of(path)
        report = self._run(out, console, fresh=fresh, workers=workers, quick=self.quick)
        sign(path, described(self.plan), before, quick=self.quick)
        return report


def plan_of(
    name: str,
    overrides: Sequence[str] = (),
    *,
    options: Sequence[str] = (),
    quick: bool = False,
    corpus: str = "",
) -> Any:
    """The plan of an experiment, see :func:`experiment`."""
    if name not in TITLES:
        raise InvalidField(f"experiment is {name!r}, allowed: {', '.join(TITLES)}", field="name")
    if corpus and name not in OVER_THE_LINK:
        raise InvalidField(
            f"{name} takes no corpus, those that do: {', '.join(OVER_THE_LINK)}", field="corpus"
        )
    from semlink.corpora.registry import task_of_corpus

    module = _module(name)
    if name in FIGURES:
        from lab.experiments.paper_figures import FIGURES as PLANS

        plan: Any = replace(PLANS[name].plan, name=f"{name}-{corpus}" if corpus else name)
    else:
        plan = module.Plan(module.SAMPLING) if name in OVER_THE_LINK else module.Plan()
    if corpus:
        plan = changed(plan, {"corpus": corpus, "task": task_of_corpus(corpus)})
    if quick:
        # A sweep that the figure has not stays away.
        values = {k: v for k, v in module.QUICK.items() if getattr(plan, k, True) != ()}
        plan = changed(plan, values)
    return overridden(plan, [*from_options(plan, options), *overrides])


def experiment(
    name: str,
    overrides: Sequence[str] = (),
    *,
    options: Sequence[str] = (),
    quick: bool = False,
    corpus: str = "",
) -> Experiment:
    """An experiment with ``key=value`` overrides of its plan, and options that say the same as the command line does.

    ``corpus``: an added one, for what runs over the link. Raises InvalidField naming the key for an unknown experiment
    or key, a value of another type, or a corpus where the experiment takes none; NotFound for an unknown corpus.
    """
    plan = plan_of(name, overrides, options=options, quick=quick, corpus=corpus)
    if name in OVER_THE_LINK:
        from lab.experiments import runner

        made = _module(name).study(plan)
        return Experiment(name, made.name, plan, partial(runner.run, made), quick)
    module = _module(name)

    def run(out: Path, console: Console, **options: Any) -> Report:
        taken = signature(module.run).parameters
        report: Report = module.run(
            plan, out, console, **{name: value for name, value in options.items() if name in taken}
        )
        return report

    return Experiment(name, getattr(plan, "report", name), plan, run, quick)


def _module(name: str) -> ModuleType:
    """The module of an experiment, loaded by whoever needs it: they bring torch."""
    module = "method_comparison" if name in FIGURES else MODULES.get(name, name.replace("-", "_"))
    return import_module(f"lab.experiments.{module}")
