"""Choose the knowledge base's default predictor at every setting: ``python -m lab.training.select_predictor``
(minutes).

Validation drops of two scenarios, the same for all predictors; what a transmitter cannot know, the scenario, is
averaged over. SGCS decides, then precoding gain, then NMSE. Trained generators differ by less than so few users can
tell at one setting: the best of them in the mean over a scheme's settings competes for all. Writes
``weights/predictors.json``, which :mod:`kb_service.predictor_choice` reads.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.table import Table

from kb_service.prediction import predictors_for, untrained_predictors
from kb_service.predictor_choice import FILE_NAME, Setting
from lab.evaluation.csi_prediction_samples import (
    Drops,
    Figures,
    PredictorFigures,
    decoded,
    draw_drops,
    link,
    measured,
)
from semlink.decibels import lin_to_db
from semlink.errors import InvalidField
from semlink.links import Link
from semlink.progress import progress
from semlink.settings import Settings
from semlink.signal.csi import quantizer_for

SCENARIOS: Final = ("umi-los", "uma-nlos")
SPEEDS_KMH: Final = (3.0, 30.0, 60.0)
AGES_SLOTS: Final = (2, 5, 10)
BITS: Final = (8, 16, 32, 64, 128, 256)
FEW_BITS: Final = (16, 64, 256)
SEED: Final = 0
SCHEME_KEYS: Final = ("num_tx_ant", "num_rows", "content", "quantizer", "memory")
"""What lines of one scheme have in common."""
SGCS_STEP, GAIN_STEP_DB = 0.002, 0.02
QUICKEST: Final = ("transformer", "cdg", "llm4cp", "csi-llm")
"""Trained generators by what a prediction costs (``python -m lab.benchmarks.csi_predictors``), the first without an
LLM."""
"""Differences below these are ties, which the next figure decides."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """Antennas and reports of a line of the table."""

    quantizer: str
    memory: str = "none"
    num_tx_ant: int = 16
    num_layers: int = 1
    content: str = "layers"
    bits: tuple[int, ...] = FEW_BITS

    def link(self, scenario: str, speed_kmh: float, bits: int) -> Link:
        """A link of this scheme."""
        config = link(
            scenario,
            speed_kmh,
            bits,
            quantizer=self.quantizer,
            memory=self.memory,
            num_tx_ant=self.num_tx_ant,
            num_layers=self.num_layers,
        )
        return config.replace(content=self.content)


SCHEMES: Final = (
    Scheme("rvq", bits=BITS),
    *(Scheme("rvq", memory) for memory in ("fused", "predictive")),
    *(Scheme(quantizer) for quantizer in ("learned", "scalar")),
    *(
        Scheme("rvq", memory, ports, layers)
        for ports, layers in ((8, 1), (32, 1), (16, 2))
        for memory in ("none", "fused", "predictive")
    ),
    *(Scheme("rvq", memory, content="channel") for memory in ("none", "predictive")),
)


def offered(scheme: Scheme) -> list[int]:
    """The numbers of bits at which this system makes such reports."""
    found = []
    for bits in scheme.bits:
        try:
            quantizer_for(scheme.link("umi-los", 3.0, bits), Settings().weights)
        except InvalidField:
            continue
        found.append(bits)
    return found


def sums(found: Figures) -> dict[str, float]:
    """What means over users of several scenarios are made of."""
    return {
        "users": len(found.sgcs),
        "sgcs": float(found.sgcs.sum()),
        "precoding_gain_db": float(found.precoding_gain_db.sum()),
        "error": float(found.error.sum()),
        "power": float(found.power.sum()),
    }


def pooled(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over all users of all scenarios; the NMSE is one ratio of sums."""
    whole = {key: sum(part[key] for part in parts) for key in parts[0]}
    return {
        "sgcs": whole["sgcs"] / whole["users"],
        "precoding_gain_db": whole["precoding_gain_db"] / whole["users"],
        "nmse_db": lin_to_db(whole["error"] / whole["power"]),
    }


def ranked(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Names, best first: by SGCS, then precoding gain, then NMSE; ties in the order given."""

    def key(name: str) -> tuple[float, float, float]:
        of = scores[name]
        return (
            -round(of["sgcs"] / SGCS_STEP),
            -round(of["precoding_gain_db"] / GAIN_STEP_DB),
            of["nmse_db"],
        )

    return sorted(scores, key=key)


class _DropsOfOne:
    """Drops of one scenario and speed, drawn when a figure needs them; depend on antennas and speed, not on reports."""

    def __init__(self) -> None:
        self._place: tuple[object, ...] = ()
        self._drawn: dict[str, Drops] = {}

    def get(self, scheme: Scheme, scenario: str, speed_kmh: float, number: int) -> Drops:
        place = (scheme.num_tx_ant, speed_kmh, number)
        if self._place != place:
            self._place, self._drawn = place, {}
        if scenario not in self._drawn:
            self._drawn[scenario] = draw_drops(
                scheme.link(scenario, speed_kmh, 64),
                AGES_SLOTS,
                split="val",
                seed=SEED,
                drops=number,
            )
        return self._drawn[scenario]


def _measured_at(
    scheme: Scheme,
    bits: int,
    speed_kmh: float,
    number: int,
    drops: _DropsOfOne,
    kept: PredictorFigures,
) -> dict[int, dict[str, dict[str, float]]]:
    """Scores of every predictor by age."""
    parts: dict[int, dict[str, list[dict[str, float]]]] = {age: {} for age in AGES_SLOTS}
    for scenario in SCENARIOS:
        config = scheme.link(scenario, speed_kmh, bits)
        predictors = predictors_for(config, Settings().weights)
        place = (asdict(scheme) | {"bits": bits}, scenario, speed_kmh, number, AGES_SLOTS, SEED)
        if missing := kept.missing(list(predictors), *place):
            drawn = drops.get(scheme, scenario, speed_kmh, number)
            reports = decoded(config, drawn)
            asked = {name: predictors[name] for name in missing}
            by_age = [measured(asked, config, drawn, reports, age) for age in AGES_SLOTS]
            for name in missing:
                kept.put([sums(found[name]) for found in by_age], name, *place)
        for name in predictors:
            for age, found in zip(AGES_SLOTS, kept.get(name, *place), strict=True):
                parts[age].setdefault(name, []).append(found)
    return {
        age: {name: pooled(found) for name, found in by_name.items()}
        for age, by_name in parts.items()
    }


def entries(schemes: Sequence[Scheme], number: int) -> Iterator[dict[str, Any]]:
    """Lines of the table: setting, ranking, scores of all predictors. What was measured before is not again."""
    # neighbours share their drops
    ports = dict.fromkeys(scheme.num_tx_ant for scheme in schemes)
    todo = [
        (scheme, speed)
        for wanted, speed in itertools.product(ports, SPEEDS_KMH)
        for scheme in schemes
        if scheme.num_tx_ant == wanted
    ]
    drops, kept = _DropsOfOne(), PredictorFigures(_measured_at)
    with progress() as bar:
        for scheme, speed in bar.track(todo, description="predictors on validation drops"):
            for bits in offered(scheme):
                found = _measured_at(scheme, bits, speed, number, drops, kept)
                for age, exact in found.items():
                    # what the file says is what decides
                    scores = {
                        name: {metric: round(value, 4) for metric, value in of.items()}
                        for name, of in exact.items()
                    }
                    setting = Setting.from_config(scheme.link("umi-los", speed, bits), age)
                    yield {
                        **asdict(setting),
                        "speed_kmh": speed,
                        "scores": scores,
                    }


def settled(choices: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines with rankings: the linear predictors and one trained generator, the same over the scheme.

    That is the quickest of those whose mean SGCS is within ``SGCS_STEP`` of the best: what cannot be told apart should
    not cost more, or need an LLM.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for choice in choices:
        groups.setdefault(tuple(choice[key] for key in SCHEME_KEYS), []).append(choice)
    for members in groups.values():
        names = [name for name in members[0]["scores"] if name not in untrained_predictors()]
        means = {
            name: {
                metric: sum(m["scores"][name][metric] for m in members) / len(members)
                for metric in ("sgcs", "precoding_gain_db", "nmse_db")
            }
            for name in names
        }
        best = max((of["sgcs"] for of in means.values()), default=0.0)
        level = [
            name for name in QUICKEST if name in means and means[name]["sgcs"] >= best - SGCS_STEP
        ]
        competing = [*untrained_predictors(), *level[:1]]
        for member in members:
            member["ranking"] = ranked({name: member["scores"][name] for name in competing})
    return list(choices)


def wins(choices: Sequence[Mapping[str, Any]]) -> Table:
    """How often each predictor won, and by how much SGCS the winner is above hold-last, by scheme."""
    table = Table("ports", "rows", "content", "quantiser", "memory", "wins", "SGCS over hold-last")
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for choice in choices:
        groups.setdefault(tuple(choice[key] for key in SCHEME_KEYS), []).append(choice)
    for group, members in groups.items():
        won = [choice["ranking"][0] for choice in members]
        counts = ", ".join(f"{name} {won.count(name)}" for name in dict.fromkeys(won))
        gains = [
            c["scores"][c["ranking"][0]]["sgcs"] - c["scores"]["hold-last"]["sgcs"] for c in members
        ]
        table.add_row(*map(str, group), counts, f"{min(gains):+.4f} … {max(gains):+.4f}")
    return table


def main(
    drops: Annotated[int, typer.Option(help="of 32 users, of each scenario and speed")] = 1,
    out: Annotated[Path | None, typer.Option(help="folder; default the weights folder")] = None,
) -> None:
    """Measure all predictors on validation drops and write the table."""
    started = time.monotonic()
    choices = settled(list(entries(SCHEMES, drops)))
    folder = out or Settings().weights_dir
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    document = {
        "command": f"python -m lab.training.select_predictor --drops {drops}",
        "data": {
            "split": "val",
            "scenarios": SCENARIOS,
            "users": 32 * drops * len(SCENARIOS),
            "snr_db": link("umi-los", 3.0, 64).snr_db,
            "report_period_slots": link("umi-los", 3.0, 64).feedback.report_period_slots,
        },
        "rule": f"SGCS in steps of {SGCS_STEP}, then precoding gain in steps of {GAIN_STEP_DB} dB, then NMSE; "
        f"of the trained generators the quickest within {SGCS_STEP} of the best in mean SGCS over the scheme",
        "linear": list(untrained_predictors()),
        "seconds": round(time.monotonic() - started, 1),
        "choices": choices,
    }
    part = path.with_suffix(".part")
    head = json.dumps({k: v for k, v in document.items() if k != "choices"}, indent=1)
    lines = ",\n  ".join(json.dumps(choice) for choice in choices)
    part.write_text(f'{head[:-2]},\n "choices": [\n  {lines}\n ]\n}}\n')
    part.replace(path)
    Console(width=150).print(wins(choices))


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
