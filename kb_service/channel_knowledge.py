"""What the knowledge base has learned of channels where its links run: refined weights of generators, by scenario.

A refinement is a few of a generator's weights, trained anew by ``semlink kb learn-channel`` on reports that links left
in the store. It lies in the data folder, belongs to exactly one version of the shipped weights, and is used on links of
its scenario alone. The one before is kept, so that a refinement can be taken back. Our definition.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

from kb_service.generators.base import Antennas
from semlink.components import PREDICTORS
from semlink.errors import NotFound
from semlink.formats import CHANNEL_KNOWLEDGE, FORMATS, check_format
from semlink.settings import Settings
from semlink.weight_files import SHIPPED, Weights

FOLDER: Final = "channel-knowledge"
BEFORE: Final = ".before"
BASE: Final = "base"
"""Key of what identifies the shipped weights that a refinement belongs to."""

_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Refinement:
    """One of the folder's refinements and what its file tells: command, figures before and after, time."""

    generator: str
    scenario: str
    metadata: Mapping[str, Any]
    has_previous: bool
    in_use: bool
    """False: the shipped weights are others than those it belongs to."""


def refined_weights(
    generator: str, scenario: str, weights: Weights = SHIPPED
) -> Mapping[str, torch.Tensor]:
    """Weights by name that replace a generator's shipped ones on links of a scenario, float32; empty without any."""
    path = _path(generator, scenario)
    try:
        made_ns = path.stat().st_mtime_ns
    except FileNotFoundError:
        return {}
    with _lock:
        return _load(path, made_ns, fingerprint(generator, weights))


@lru_cache(maxsize=32)
def _load(path: Path, made_ns: int, base: str) -> Mapping[str, torch.Tensor]:  # noqa: ARG001 - the key of the cache
    metadata = json.loads(path.with_suffix(".json").read_text())
    advice = "forget it (`semlink kb learn-channel --forget`) or start the semlink that wrote it"
    check_format(CHANNEL_KNOWLEDGE, metadata.get("format"), path.name, advice)
    if metadata[BASE] != base:
        return {}
    return {name: tensor.float() for name, tensor in load_file(path).items()}


def fingerprint(generator: str, weights: Weights = SHIPPED) -> str:
    """Identifies the weights of a generator for the default antennas; "" without any."""
    name = PREDICTORS.get(generator).weights_file(Antennas().num_tx_ant, Antennas().num_rows)
    return weights.digest(name, made_by="") if name in weights else ""


def keep(
    generator: str, scenario: str, weights: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> Path:
    """Use these weights from now on; the refinement before, if any, can be had back. Services notice by themselves."""
    path = _path(generator, scenario)
    path.parent.mkdir(parents=True, exist_ok=True)
    for kind in (".safetensors", ".json"):
        if path.with_suffix(kind).is_file():
            path.with_suffix(kind).replace(_before(path).with_suffix(kind))
    own = {"format": FORMATS[CHANNEL_KNOWLEDGE], BASE: fingerprint(generator, Settings().weights)}
    # what says whom it belongs to first: nobody reads it without the weights
    path.with_suffix(".json").write_text(json.dumps({**metadata, **own}, indent=1) + "\n")
    part = path.with_suffix(".part")
    save_file({name: tensor.detach().half().contiguous() for name, tensor in weights.items()}, part)
    part.replace(path)
    return path


def roll_back(generator: str, scenario: str) -> None:
    """Return to the refinement before the last one. Raises NotFound where there is none."""
    path = _path(generator, scenario)
    if not _before(path).is_file():
        raise NotFound(
            f"there is no earlier refinement of {generator} for {scenario}", field="scenario"
        )
    for kind in (".json", ".safetensors"):
        _before(path).with_suffix(kind).replace(path.with_suffix(kind))


def forget(generator: str, scenario: str) -> None:
    """Delete a refinement and the one before; the shipped weights serve again. Raises NotFound where there is none."""
    path = _path(generator, scenario)
    if not path.is_file():
        raise NotFound(f"there is no refinement of {generator} for {scenario}", field="scenario")
    for found in (path, _before(path)):
        for kind in (".safetensors", ".json"):
            found.with_suffix(kind).unlink(missing_ok=True)


def refinements() -> list[Refinement]:
    """All there are, by generator and scenario."""
    found = []
    for path in sorted((Settings().data_dir / FOLDER).glob("*.safetensors")):
        if path.stem.endswith(BEFORE):
            continue
        metadata = json.loads(path.with_suffix(".json").read_text())
        generator, scenario = path.stem.split("@")
        found.append(
            Refinement(
                generator,
                scenario,
                metadata,
                _before(path).is_file(),
                metadata[BASE] == fingerprint(generator, Settings().weights),
            )
        )
    return found


def _path(generator: str, scenario: str) -> Path:
    return Settings().data_dir / FOLDER / f"{generator}@{scenario}.safetensors"


def _before(path: Path) -> Path:
    return path.with_name(f"{path.stem}{BEFORE}{path.suffix}")
