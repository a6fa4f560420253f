"""Channel generators: networks that know what channels are like, from CSI reports to the CSI of a later slot.

They are the trained predictors of :mod:`semlink.components`; :func:`load_generator` gives one, :func:`build` a new one
to be trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from kb_service.generators.base import Antennas, ChannelGenerator, context_of
from semlink.components import PREDICTORS, PredictorSpec
from semlink.errors import InvalidField
from semlink.weight_files import SHIPPED, Weights

__all__ = [
    "Antennas",
    "ChannelGenerator",
    "build",
    "context_of",
    "generator_names",
    "load_generator",
    "trained_for",
]


def build(
    name: str, seed: int = 0, antennas: Antennas | None = None, **settings: Any
) -> ChannelGenerator:
    """A generator with fresh weights drawn from ``seed``, to be trained. Raises InvalidField for an unknown name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _new(name, antennas or Antennas(), **settings)


def trained_for(name: str, antennas: Antennas, weights: Weights = SHIPPED) -> bool:
    """Whether there are weights of that generator for these antennas."""
    spec = PREDICTORS.get(name)
    return spec.trained and spec.weights_file(antennas.num_tx_ant, antennas.num_rows) in weights


def load_generator(
    name: str,
    antennas: Antennas | None = None,
    device: torch.device | str = "cpu",
    weights: Weights = SHIPPED,
) -> ChannelGenerator:
    """The process's trained generator of that name, without gradients.

    Raises InvalidField naming ``predictor`` for an unknown name, or antennas that it has no weights for.
    """
    antennas = antennas or Antennas()
    spec = _trained(name)
    if not trained_for(name, antennas, weights):
        found = ", ".join(f"{size} (ports x rows)" for size in spec.antennas(weights))
        raise InvalidField(
            f"predictor is {name!r}, which has no weights for {antennas.num_tx_ant} ports and {antennas.num_rows} "
            f"rows, allowed: {found or 'none (it is not trained)'}",
            field="predictor",
        )
    file = spec.weights_file(antennas.num_tx_ant, antennas.num_rows)
    return weights.load(file, load_from, str(device), made_by=f"semlink train cdg --name {name}")


def load_from(path: Path, device: torch.device | str = "cpu") -> ChannelGenerator:
    """A generator from its file, without gradients."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    antennas = Antennas(**json.loads(metadata["antennas"]))
    generator = _new(metadata["name"], antennas, **json.loads(metadata["settings"]))
    generator.restore(state)
    return generator.eval().requires_grad_(False).to(device)


def generator_names() -> tuple[str, ...]:
    """Names of the trained predictors."""
    return tuple(spec.name for spec in PREDICTORS.entries if spec.trained)


def _trained(name: str) -> PredictorSpec:
    names = generator_names()
    if name not in names:
        raise InvalidField(f"predictor is {name!r}, allowed: {', '.join(names)}", field="predictor")
    return PREDICTORS.get(name)


def _new(name: str, antennas: Antennas, **settings: Any) -> ChannelGenerator:
    generator: ChannelGenerator = _trained(name).load()(antennas, **settings)
    return generator
