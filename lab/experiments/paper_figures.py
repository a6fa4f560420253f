"""The paper's own figures (SC-LMKB, arXiv 2604.05504) as experiments: one readable plan each, any value overridable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lab.experiments.method_comparison import BITS, Plan
from lab.experiments.sweep import AUDIO, IMAGE, PERSON

ABLATION: Final = ("sc-lmkb", "sc-lmkb-wo-sdg", "sc-lmkb-wo-cdg", "deepsc-mimo", "llm-sc")


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
