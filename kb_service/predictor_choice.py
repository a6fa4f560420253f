"""Which predictor answers when none is named: the one that won on validation at the nearest setting. Our definition.

A setting is what the transmitter knows: antennas, reports, speed, age of the newest report; not the scenario. The
table is ``weights/predictors.json``, made by ``python -m lab.training.select_predictor``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self

from semlink.signal.csi import content_of
from semlink.signal.link import LinkLike
from semlink.weight_files import SHIPPED, Weights

FILE_NAME: Final = "predictors.json"
WALKING_KMH: Final = 1.5
"""Added to speeds before they are compared as ratios: 0 and 1 km/h are alike."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a predictor's worth depends on, as far as the transmitter knows it."""

    num_tx_ant: int
    num_rows: int
    content: str
    quantizer: str
    memory: str
    bits: int
    speed_kmh: float
    age_slots: int

    @classmethod
    def from_config(cls, config: LinkLike, age_slots: int) -> Self:
        """The setting of a (validated) link whose newest usable report is ``age_slots`` old."""
        feedback = config.feedback
        return cls(
            config.num_tx_ant,
            content_of(config).num_rows,
            feedback.content,
            feedback.quantizer,
            feedback.memory,
            feedback.bits,
            config.speed_mps * 3.6,
            age_slots,
        )

    def distance(self, other: Setting) -> float:
        """How unlike two settings are: kinds count before figures, figures as ratios."""
        kinds = (
            100 * (self.content != other.content)
            + 100 * abs(math.log2(self.num_rows / other.num_rows))
            + 100 * abs(math.log2(self.num_tx_ant / other.num_tx_ant))
            + 50 * (self.memory != other.memory)
            + 50 * (self.quantizer != other.quantizer)
        )
        ratios = (
            max(self.bits, 1) / max(other.bits, 1),
            (self.speed_kmh + WALKING_KMH) / (other.speed_kmh + WALKING_KMH),
            (self.age_slots + 1) / (other.age_slots + 1),
        )
        return kinds + math.hypot(*map(math.log2, ratios))


@dataclass(frozen=True, slots=True)
class Choice:
    """A line of the table: predictors at a setting, best first."""

    setting: Setting
    ranking: tuple[str, ...]


def best_predictors(
    config: LinkLike, age_slots: int, weights: Weights = SHIPPED
) -> tuple[str, ...]:
    """Names of predictors at the nearest setting of the table, best first.

    ``config``: a validated link; ``age_slots``: slot of transmission − slot of the newest usable report. Raises
    NotFound where there is no table.
    """
    return _nearest(weights, Setting.from_config(config, age_slots))


@lru_cache(maxsize=4096)
def _nearest(weights: Weights, setting: Setting) -> tuple[str, ...]:
    return min(_choices(weights), key=lambda choice: choice.setting.distance(setting)).ranking


def _choices(weights: Weights) -> tuple[Choice, ...]:
    return weights.load(FILE_NAME, _read, made_by="python -m lab.training.select_predictor")


def _read(path: Path) -> tuple[Choice, ...]:
    return tuple(choice_of(entry) for entry in json.loads(path.read_text())["choices"])


def choice_of(entry: Mapping[str, Any]) -> Choice:
    """A line of the file: the setting's values and ``ranking``."""
    values = {name: entry[name] for name in Setting.__slots__}
    return Choice(Setting(**values), tuple(entry["ranking"]))
