"""Figures of predictors that were measured once: whoever asks again with equal weights and sources does not wait."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from kb_service.channel_knowledge import fingerprint
from lab.kept_lines import append_line, whole_lines
from lab.results import ROOT
from semlink.errors import Unavailable
from semlink.models import cache_dir

SOURCES: Final = (
    "kb_service/generators/base.py",
    "kb_service/generators/linear.py",
    "kb_service/prediction.py",
    "lab/prediction_samples.py",
    "channel_service/estimation.py",
    "channel_service/windows.py",
    "semlink/signal",
)


class KeptFigures:
    """What was measured for one purpose, by anything that JSON knows; lines are added as they come."""

    def __init__(self, purpose: str) -> None:
        self._path = cache_dir() / "csi-figures" / f"{purpose}-{sources_hash()}.jsonl"
        self._values: dict[str, Any] = dict(whole_lines(self._path))
        self._fingerprints: dict[str, str] = {}

    def key(self, predictor: str, *place: object) -> str:
        """Of a predictor's figures at a place: the weights that it had at first are part of it."""
        known = self._fingerprints.setdefault(predictor, fingerprint(predictor))
        return json.dumps([predictor, known, *place])

    def missing(self, predictors: Sequence[str], *place: object) -> list[str]:
        """The predictors without figures at a place."""
        return [name for name in predictors if self.key(name, *place) not in self._values]

    def get(self, predictor: str, *place: object) -> Any:
        """Figures that are there. Raises KeyError where they are not."""
        return self._values[self.key(predictor, *place)]

    def put(self, value: Any, predictor: str, *place: object) -> None:
        """Keep figures. Raises Unavailable where the predictor got other weights meanwhile."""
        if fingerprint(predictor) != self._fingerprints.get(predictor, fingerprint(predictor)):
            raise Unavailable(f"{predictor} got other weights while it was measured; run it again")
        key = self.key(predictor, *place)
        self._values[key] = value
        append_line(self._path, [key, value])


@lru_cache(maxsize=1)
def sources_hash() -> str:
    """A hash over the sources that figures of predictors depend on."""
    digest = blake2b(digest_size=8)
    for name in SOURCES:
        place = ROOT / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [Path(place)]:
            digest.update(path.read_bytes())
    for path in sorted((ROOT / "weights").glob("*-1*.safetensors")):
        # codebooks of CSI reports
        if path.name.startswith(("rvq", "learned")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
