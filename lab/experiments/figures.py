"""The paper's own figures (SC-LMKB, arXiv 2604.05504) as experiments: one readable plan each, any value overridable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from lab.experiments.methods import BITS, ROWS, Plan
from lab.experiments.overrides import changed, overridden
from lab.experiments.plans import Sampling
from semlink.corpora.registry import task_of_corpus
from semlink.errors import InvalidField

ABLATION: Final = ("sc-lmkb", "sc-lmkb-wo-sdg", "sc-lmkb-wo-cdg", "deepsc-mimo", "llm-sc")
PERSON: Final = Sampling("person", queries=100, links=100)
IMAGE: Final = Sampling("image", queries=100, links=100)
AUDIO: Final = Sampling("audio", queries=100, links=100)
"""Each query on a drop of its own: what differs from drop to drop is most of the spread, and drops are cheap."""


@dataclass(frozen=True, slots=True)
class PaperFigure:
    """A figure of the paper: what its axes are, and the plan that measures it here."""

    title: str
    plan: Plan


FIGURES: Final[Mapping[str, PaperFigure]] = {
    "fig6": PaperFigure("mAP against SNR, person, UMi-LOS", Plan(PERSON, sweep_bits=())),
    "fig7": PaperFigure("R@1 against SNR, text to image, UMi-LOS", Plan(IMAGE, sweep_bits=())),
    "fig8": PaperFigure("R@1 against SNR, text to audio, UMi-LOS", Plan(AUDIO, sweep_bits=())),
    "fig9": PaperFigure(
        "mAP against bits of a CSI report, person, UMi-LOS",
        Plan(PERSON, snrs_db=(), sweep_bits=(*BITS, 512)),
    ),
    "fig10": PaperFigure(
        "mAP against SNR, person, UMa-NLOS", Plan(PERSON, "uma-nlos", sweep_bits=())
    ),
    "fig12": PaperFigure(
        "Ablation against SNR, person, UMi-LOS: without SDG, without CDG, without both, without the filter",
        Plan(PERSON, sweep_bits=(), methods=ABLATION),
    ),
}
QUICK: Final[Mapping[str, Any]] = {
    "seeds": 2,
    "queries": 8,
    "links": 2,
    "snrs_db": (0.0, 20.0),
    "sweep_bits": (16, 64),
}
"""What ``--quick`` overrides: a smoke run, not a measurement."""


def plan_of(
    name: str, overrides: Sequence[str] = (), *, quick: bool = False, corpus: str = ""
) -> Plan:
    """The plan of a figure with ``key=value`` overrides, on an added corpus (of any task) where one is given.

    Raises InvalidField naming the key for an unknown figure or key, or a value of another type; NotFound for an unknown
    corpus.
    """
    if name not in FIGURES:
        raise InvalidField(f"figure is {name!r}, allowed: {', '.join(FIGURES)}", field="figure")
    plan = replace(FIGURES[name].plan, name=f"{name}-{corpus}" if corpus else name)
    if corpus:
        plan = changed(plan, {"corpus": corpus, "task": task_of_corpus(corpus)})
    if quick:
        plan = changed(plan, {k: v for k, v in QUICK.items() if getattr(plan, k, True) != ()})
    plan = overridden(plan, overrides)
    if unknown := [m for m in plan.methods if m not in ROWS]:
        raise InvalidField(
            f"methods has {unknown[0]!r}, allowed: {', '.join(ROWS)}", field="methods"
        )
    return plan
