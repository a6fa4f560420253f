"""The methods a query may choose, as data: what each room does for them is read from here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from semlink.corpora.corpus import Task
from semlink.corpora.registry import TASKS
from semlink.errors import InvalidField
from semlink.settings import Settings
from semlink.v1 import common_pb2 as pb

Fusion = Literal["none", "mean", "similarity", "importance"]
Coding = Literal["jscc", "separation", "vq-digital"]
Scoring = Literal["global", "prototypes"]
Reranking = Literal["none", "neighbours", "weighted-neighbours"]
Extraction = Literal["none", "tf-idf", "textrank", "itrieval-kd"]
SCORINGS: tuple[Scoring, ...] = get_args(Scoring)
RERANKINGS: tuple[Reranking, ...] = get_args(Reranking)
EXTRACTIONS: tuple[Extraction, ...] = get_args(Extraction)
TRAINED_PREDICTORS = ("cdg", "transformer", "llm4cp", "csi-llm")
"""Predictors that need weights of the link's antennas; the others serve every link."""
BOUNDS = ("perfect", "none")
"""Quantisers that leave nothing to predict."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the method table.

    ``rewrites``: LLM rewrites are asked for (SDG). ``filtered``: hallucinations are dropped first (CDFC phase 1).
    ``fusion``: how the kept rewrites join the source (CDFC phase 2). ``predictor``: who turns reports into the CSI
    of the slot; "" leaves the choice to the knowledge base. ``coding``: how a feature becomes symbols. ``channel``:
    False hands the feature over as it is. ``extraction``, ``scoring``, ``reranking``: which sentences of a text are
    sent, what is compared at the receiver and whether its first answers are ranked again; a query may choose others.
    ``tasks``: where the method means something.
    """

    name: str
    title: str
    source: str
    available: bool
    rewrites: bool = False
    filtered: bool = True
    fusion: Fusion = "none"
    predictor: str = "hold-last"
    coding: Coding = "jscc"
    channel: bool = True
    extraction: Extraction = "none"
    scoring: Scoring = "global"
    reranking: Reranking = "none"
    tasks: tuple[Task, ...] = TASKS


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "sc-lmkb",
            "SC-LMKB (so far: SDG by prompt, similarity filter and fusion, Wiener CSI)",
            "arXiv 2604.05504; fusion rule and Wiener predictor are our definition",
            available=True,
            rewrites=True,
            fusion="similarity",
            predictor="",
        ),
        Method(
            "deepsc-mimo",
            "DeepSC-MIMO, conventional semantic communication: quantised, outdated CSI, no knowledge base",
            "arXiv 2604.05504 baseline; codec inputs from SCAN, arXiv 2306.15534",
            available=True,
        ),
        Method(
            "ideal",
            "Ideal link: the feature itself, no channel",
            "our definition (upper bound)",
            available=True,
            channel=False,
        ),
        Method(
            "sc-lmkb-wo-sdg",
            "SC-LMKB without SDG: the channel side of the knowledge base alone",
            "arXiv 2604.05504, fig. 12",
            available=True,
            predictor="",
        ),
        Method(
            "sc-lmkb-wo-cdg",
            "SC-LMKB without CDG: the source side of the knowledge base alone, CSI as reported",
            "arXiv 2604.05504, fig. 12",
            available=True,
            rewrites=True,
            fusion="similarity",
        ),
        Method(
            "llm-sc",
            "LLM-enabled SC without CDFC: every rewrite counts, plain mean, CSI as reported",
            "arXiv 2604.05504 baseline",
            available=True,
            rewrites=True,
            filtered=False,
            fusion="mean",
        ),
        Method(
            "llm4cp",
            "LLM4CP channel prediction, no source knowledge",
            "arXiv 2406.14440",
            available=True,
            predictor="llm4cp",
        ),
        Method(
            "csi-llm",
            "CSI-LLM channel prediction, no source knowledge",
            "arXiv 2409.00005",
            available=True,
            predictor="csi-llm",
        ),
        Method(
            "separation",
            "Separate source and channel coding: transform-coded feature, CRC, 5G LDPC, QAM, MCS from the known CSI",
            "our definition; coding of 3GPP TS 38.212, MCS of TS 38.214 Table 5.1.3.1-2",
            available=True,
            coding="separation",
        ),
        Method(
            "vq-digital",
            "Digital semantic communication: vector-quantised feature, codebook indices, 5G LDPC, QAM",
            "our definition; coding of 3GPP TS 38.212, MCS of TS 38.214 Table 5.1.3.1-2",
            available=True,
            coding="vq-digital",
        ),
        Method(
            "sew-mcm",
            "Sew + MCM: heads by Sew calibration and masked captions, re-ranked; link as deepsc-mimo",
            "Wei et al., Calibrating Cross-modal Features for Text-Based Person Searching; link is ours",
            available=True,
            reranking="weighted-neighbours",
            tasks=("person",),
        ),
        Method(
            "gpa",
            "GPA: global feature and prototypes, most important first; link as deepsc-mimo",
            "Xie et al., Global and Prototype Alignment for Audio-Text Retrieval; message is ours",
            available=True,
            scoring="prototypes",
            tasks=("audio",),
        ),
        Method(
            "itrieval-kd",
            "ItrievalKD: only the key sentences of a noisy text are sent; link as deepsc-mimo",
            "Liu et al., Iterative Retrieval Framework Assisted with Knowledge Distillation; link is ours",
            available=True,
            extraction="itrieval-kd",
            tasks=("image",),
        ),
    )
}


def method_named(name: str, *, field: str = "method") -> Method:
    """The method of that name. Raises InvalidField when it is unknown or not built yet.

    Which tasks it serves is for the caller to check: see :func:`check_task`.
    """
    method = METHODS.get(name)
    if method is None or not method.available:
        offered = ", ".join(m.name for m in METHODS.values() if m.available)
        why = "is not built yet" if method else "is unknown"
        raise InvalidField(f"{field} {name!r} {why}, allowed: {offered}", field=field)
    return method


def check_link(method: Method, config: pb.LinkConfig, *, field: str = "link") -> None:
    """Raise InvalidField for a method whose trained predictor has no weights for the (validated) link."""
    if method.predictor in TRAINED_PREDICTORS and config.feedback.quantizer not in BOUNDS:
        weights = Settings().weights_dir
        name = f"csi-{method.predictor}-{config.num_tx_ant}x{config.num_layers}.safetensors"
        if config.feedback.content == "channel" or not (weights / name).is_file():
            pattern = f"csi-{method.predictor}-*.safetensors"
            there = sorted(path.stem.rsplit("-", 1)[1] for path in weights.glob(pattern))
            raise InvalidField(
                f"method {method.name!r} has weights for reports of layers with ports x layers of "
                f"{', '.join(there) or 'none'}, not for {config.num_tx_ant}x{config.num_layers} and content "
                f"{config.feedback.content or 'layers'!r} ({field}.num_tx_ant, {field}.num_layers)",
                field=f"{field}.num_tx_ant",
            )


def check_task(method: Method, task: str, *, field: str = "method") -> None:
    """Raise InvalidField for a method that means nothing for the task."""
    if task not in method.tasks:
        raise InvalidField(
            f"{field} {method.name!r} serves {', '.join(method.tasks)}, not task {task!r}",
            field=field,
        )
