"""What training writes: checkpoints of runs that may be interrupted, and finished weights with their sidecar.

Checkpoints are entries of the one cache (``training`` in ``semlink cache ls``), found again by the sources of the model
that is trained and by all that decides what it learns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lab.evaluation.cache import Cache, key_of, write_whole
from semlink.formats import CHECKPOINT, FORMATS, check_format
from semlink.semantics.int8_tensors import SCALE


class Checkpoint:
    """Where a run stands. ``producer``: the module that trains; ``key``: whatever else decides what is learned (JSON).

    Another key, or other sources, are another run.
    """

    def __init__(self, name: str, producer: str, *key: Any) -> None:
        digest = key_of(json.dumps(key, sort_keys=True, default=str))
        self.path = Cache("training", producer).path(f"{name}-{digest}.pt")

    def load(self) -> dict[str, Any] | None:
        """The newest state; None where there is no such run. Raises Unavailable for another format."""
        if not self.path.is_file():
            return None
        state: dict[str, Any] = torch.load(self.path, weights_only=True)
        advice = "semlink cache rm training"
        check_format(CHECKPOINT, state.get("format"), str(self.path), advice)
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace what is stored, whole or not at all."""
        write_whole(self.path, partial(torch.save, {"format": FORMATS[CHECKPOINT], **state}))

    def remove(self) -> None:
        """The run's result is stored."""
        self.path.unlink(missing_ok=True)


def save_weights(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    sidecar: Mapping[str, Any],
) -> None:
    """Write ``path`` (safetensors, float16) and the sidecar ``path`` with ``.json``, each whole or not at all."""
    content = {
        name: (t.to(torch.float16) if t.is_floating_point() and not name.endswith(SCALE) else t)
        .contiguous()
        .cpu()
        for name, t in tensors.items()
    }

    def write(part: Path) -> None:
        save_file(content, part, dict(metadata))
        # safetensors writes for the owner alone; an image's service runs as another user.
        part.chmod(0o644)

    write_whole(path, write)
    text = json.dumps(sidecar, indent=1) + "\n"
    write_whole(path.with_suffix(".json"), partial(Path.write_text, data=text))


def rounded(values: Any) -> Any:
    """The same structure with floats rounded to four places, for sidecars."""
    if isinstance(values, Mapping):
        return {key: rounded(value) for key, value in values.items()}
    if isinstance(values, list):
        return [rounded(value) for value in values]
    return round(values, 4) if isinstance(values, float) else values
