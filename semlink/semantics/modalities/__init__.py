"""The modalities of media: what differs between pictures, sounds and those of plug-ins stands in one module each."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from semlink.semantics.modalities.interface import DecodedMedia, Modality
from semlink.tasks import modality_spec, task_spec

__all__ = ["DecodedMedia", "Modality", "modality_of"]


def modality_of(task: str) -> Modality:
    """What handles the media of a task's gallery. Raises InvalidField for an unknown task."""
    spec = task_spec(task)
    return _modality(modality_spec(spec.modality).load(), tuple(spec.options.items()))


@lru_cache(maxsize=16)
def _modality(make: Callable[..., Modality], options: tuple[tuple[str, object], ...]) -> Modality:
    return make(**dict(options))
