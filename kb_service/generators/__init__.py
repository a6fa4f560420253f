"""Channel generators: networks that know what channels are like, from CSI reports to the CSI of a later slot.

:data:`GENERATORS` names them; :func:`load_generator` gives a trained one, :func:`build` a new one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from safetensors import safe_open

from kb_service.generators.base import Antennas, ChannelGenerator, context_of, weights_file
from semlink.errors import InvalidField
from semlink.predictor_weights import trained_antennas
from semlink.settings import Settings

__all__ = [
    "GENERATORS",
    "Antennas",
    "ChannelGenerator",
    "Entry",
    "build",
    "context_of",
    "load_generator",
    "trained_for",
]


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a generator's class is, so that naming it costs no import."""

    module: str
    generator: str
    settings: str

    def make(self, antennas: Antennas, **settings: Any) -> ChannelGenerator:
        """A new generator with these settings."""
        module = import_module(self.module)
        generator: ChannelGenerator = getattr(module, self.generator)(
            getattr(module, self.settings)(**settings), antennas
        )
        return generator


GENERATORS: Final[Mapping[str, Entry]] = MappingProxyType(
    {
        "cdg": Entry("kb_service.generators.cdg", "Cdg", "CdgSettings"),
        "transformer": Entry(
            "kb_service.generators.transformer", "Transformer", "TransformerSettings"
        ),
        "llm4cp": Entry("kb_service.generators.llm4cp", "Llm4cp", "Llm4cpSettings"),
        "csi-llm": Entry("kb_service.generators.csi_llm", "CsiLlm", "CsiLlmSettings"),
    }
)


def build(
    name: str, seed: int = 0, antennas: Antennas | None = None, **settings: Any
) -> ChannelGenerator:
    """A generator with fresh weights drawn from ``seed``, to be trained. Raises InvalidField for an unknown name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _entry(name).make(antennas or Antennas(), **settings)


def trained_for(name: str, antennas: Antennas) -> bool:
    """Whether there are weights of that generator for these antennas."""
    return name in GENERATORS and weights_file(Settings().weights_dir, name, antennas).is_file()


_lock = threading.Lock()


def load_generator(
    name: str, antennas: Antennas | None = None, device: torch.device | str = "cpu"
) -> ChannelGenerator:
    """The process's trained generator of that name, without gradients.

    Raises InvalidField naming ``predictor`` for an unknown name, or antennas that it has no weights for.
    """
    antennas = antennas or Antennas()
    _entry(name)
    path = weights_file(Settings().weights_dir, name, antennas)
    if not path.is_file():
        raise InvalidField(
            f"predictor is {name!r}, which has no weights for {antennas.num_tx_ant} ports and {antennas.num_rows} "
            f"rows, allowed: {_trained(name)}",
            field="predictor",
        )
    with _lock:
        return _load(path, str(device), path.stat().st_mtime_ns)


def load_from(path: Path, device: torch.device | str = "cpu") -> ChannelGenerator:
    """A generator from its file, without gradients."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    antennas = Antennas(**json.loads(metadata["antennas"]))
    generator = _entry(metadata["name"]).make(antennas, **json.loads(metadata["settings"]))
    generator.restore(state)
    return generator.eval().requires_grad_(False).to(device)


@lru_cache(maxsize=16)
def _load(path: Path, device: str, made_ns: int) -> ChannelGenerator:  # noqa: ARG001 - the key of the cache
    return load_from(path, device)


def _entry(name: str) -> Entry:
    entry = GENERATORS.get(name)
    if entry is None:
        raise InvalidField(
            f"predictor is {name!r}, allowed: {', '.join(GENERATORS)}", field="predictor"
        )
    return entry


def _trained(name: str) -> str:
    found = trained_antennas(Settings().weights_dir, name)
    return ", ".join(f"{size} (ports x rows)" for size in found) or "none (it is not trained)"
