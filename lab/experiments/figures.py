"""The paper's own figures (SC-LMKB, arXiv 2604.05504) as experiments: one readable plan each, any value overridable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from lab.experiments.methods import BITS, ROWS, Plan
from lab.experiments.plans import Sampling
from semlink.errors import InvalidField

ABLATION: Final = ("sc-lmkb", "sc-lmkb-wo-sdg", "sc-lmkb-wo-cdg", "deepsc-mimo", "llm-sc")
PERSON: Final = Sampling("person", queries=100, links=16)
IMAGE: Final = Sampling("image", queries=100, links=16)
AUDIO: Final = Sampling("audio", queries=100, links=16)


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

_SAMPLING: Final = tuple(f.name for f in fields(Sampling))
_PLAN: Final = tuple(f.name for f in fields(Plan) if f.name not in ("sampling", "name"))


def plan_of(name: str, overrides: Sequence[str] = (), *, quick: bool = False) -> Plan:
    """The plan of a figure with ``key=value`` overrides; lists are written with commas, an empty one as ``key=``.

    Raises InvalidField naming the key for an unknown figure or key, or a value of another type.
    """
    if name not in FIGURES:
        raise InvalidField(f"figure is {name!r}, allowed: {', '.join(FIGURES)}", field="figure")
    plan = replace(FIGURES[name].plan, name=name)
    values = {k: v for k, v in QUICK.items() if getattr(plan, k, True) != ()} if quick else {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or key not in (*_SAMPLING, *_PLAN):
            raise InvalidField(
                f"--set {override!r}: allowed are {', '.join((*_SAMPLING, *_PLAN))}, each as key=value",
                field=key,
            )
        values[key] = _parsed(key, text)
    sampling = replace(plan.sampling, **{k: v for k, v in values.items() if k in _SAMPLING})
    plan = replace(plan, sampling=sampling, **{k: v for k, v in values.items() if k in _PLAN})
    if unknown := [m for m in plan.methods if m not in ROWS]:
        raise InvalidField(
            f"methods has {unknown[0]!r}, allowed: {', '.join(ROWS)}", field="methods"
        )
    return plan


def _parsed(key: str, text: str) -> Any:
    """A value of the key's type."""
    owner = Sampling if key in _SAMPLING else Plan
    annotation = str(next(f.type for f in fields(owner) if f.name == key))
    types: dict[str, Any] = {
        "str": str,
        "int": int,
        "float": float,
        "Sequence[float]": tuple[float, ...],
        "Sequence[int]": tuple[int, ...],
        "Sequence[str]": tuple[str, ...],
    }
    value: Any = text
    if annotation.startswith("Sequence"):
        value = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return TypeAdapter(types[annotation]).validate_python(value)
    except ValidationError as error:
        raise InvalidField(
            f"--set {key}={text!r}: {error.errors()[0]['msg']}, expected {annotation}", field=key
        ) from error
