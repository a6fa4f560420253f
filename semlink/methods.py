"""The methods a query may choose, as data: what each room does for them is read from here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from semlink.errors import InvalidField

Fusion = Literal["none", "mean", "similarity"]
Coding = Literal["jscc", "separation", "vq-digital"]


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the method table.

    ``rewrites``: LLM rewrites are asked for (SDG). ``filtered``: hallucinations are dropped first (CDFC phase 1).
    ``fusion``: how the kept rewrites join the source (CDFC phase 2). ``predictor``: who turns reports into the CSI
    of the slot; "" leaves the choice to the knowledge base. ``coding``: how a feature becomes symbols. ``channel``:
    False hands the feature over as it is.
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
            "sc-lmkb-wo-sdg", "SC-LMKB without SDG", "arXiv 2604.05504, fig. 12", available=False
        ),
        Method(
            "sc-lmkb-wo-cdg", "SC-LMKB without CDG", "arXiv 2604.05504, fig. 12", available=False
        ),
        Method(
            "llm-sc", "LLM-enabled SC without CDFC", "arXiv 2604.05504 baseline", available=False
        ),
        Method("llm4cp", "LLM4CP channel prediction", "arXiv 2406.14440", available=False),
        Method("csi-llm", "CSI-LLM channel prediction", "arXiv 2409.00005", available=False),
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
    )
}


def method_named(name: str, *, field: str = "method") -> Method:
    """The method of that name. Raises InvalidField when it is unknown or not built yet."""
    method = METHODS.get(name)
    if method is None or not method.available:
        offered = ", ".join(m.name for m in METHODS.values() if m.available)
        why = "is not built yet" if method else "is unknown"
        raise InvalidField(f"{field} {name!r} {why}, allowed: {offered}", field=field)
    return method
