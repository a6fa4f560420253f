"""Figures that were measured once: whoever asks again with equal weights and sources does not wait."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from kb_service.channel_knowledge import fingerprint
from lab.evaluation.jsonl import append_line, whole_lines
from lab.evaluation.report import ROOT
from semlink.errors import Unavailable
from semlink.models import cache_dir
from semlink.quantizers import quantizer_specs
from semlink.settings import Settings

SOURCES: Final = (
    "kb_service/generators",
    "kb_service/prediction.py",
    "lab/evaluation/csi_prediction_samples.py",
    "channel_service/estimation.py",
    "channel_service/fading.py",
    "semlink/links.py",
    "semlink/quantizers.py",
    "semlink/signal",
)


class JsonlCache:
    """A file of figures by where they were measured, anything that JSON knows; lines are added as they come.

    A place that is measured again gets a second line, and the last one counts. Floats come back bit for bit.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = dict(whole_lines(path))

    def __contains__(self, place: Sequence[object]) -> bool:
        return json.dumps(place) in self._values

    def get(self, place: Sequence[object]) -> Any:
        """Figures that are there. Raises KeyError where they are not."""
        return self._values[json.dumps(place)]

    def put(self, value: Any, place: Sequence[object]) -> None:
        """Keep figures."""
        key = json.dumps(place)
        # as the next run will read it
        self._values[key] = json.loads(json.dumps(value))
        append_line(self._path, [key, value])


class FigureCache:
    """Figures of predictors for one purpose: what depends on a predictor's weights beside the sources."""

    def __init__(self, purpose: str) -> None:
        self._cache = JsonlCache(csi_figures_path(purpose, sources_hash()))
        self._fingerprints: dict[str, str] = {}

    def key(self, predictor: str, *place: object) -> list[object]:
        """Of a predictor's figures at a place: the weights that it had at first are part of it."""
        known = self._fingerprints.setdefault(predictor, fingerprint(predictor))
        return [predictor, known, *place]

    def missing(self, predictors: Sequence[str], *place: object) -> list[str]:
        """The predictors without figures at a place."""
        return [name for name in predictors if self.key(name, *place) not in self._cache]

    def get(self, predictor: str, *place: object) -> Any:
        """Figures that are there. Raises KeyError where they are not."""
        return self._cache.get(self.key(predictor, *place))

    def put(self, value: Any, predictor: str, *place: object) -> None:
        """Keep figures. Raises Unavailable where the predictor got other weights meanwhile."""
        if fingerprint(predictor) != self._fingerprints.get(predictor, fingerprint(predictor)):
            raise Unavailable(f"{predictor} got other weights while it was measured; run it again")
        self._cache.put(value, self.key(predictor, *place))


def csi_figures_path(purpose: str, version: str) -> Path:
    """The file of figures of CSI that were measured for one purpose, by the sources' hash."""
    return cache_dir() / "csi-figures" / f"{purpose}-{version}.jsonl"


@lru_cache
def sources_hash(sources: tuple[str, ...] = SOURCES) -> str:
    """A hash over the sources that figures of CSI depend on, and the codebooks of its reports."""
    digest = blake2b(digest_size=8)
    for name in sources:
        place = ROOT / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [Path(place)]:
            digest.update(path.read_bytes())
    codebooks = tuple(prefix for spec in quantizer_specs() for prefix in spec.weights)
    for path in sorted(Settings().weights_dir.glob("*-1*.safetensors")):
        if path.name.startswith(codebooks):
            digest.update(path.read_bytes())
    return digest.hexdigest()
