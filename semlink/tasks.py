"""Retrieval tasks and the modalities of their galleries, by name: what differs between them, read from here alone.

A query is a text, or media of the modality that its task's gallery holds. A row names the code that serves it, so that
no torch is imported for a name; :class:`semlink.semantics.modalities.Modality` is what a modality implements. Modules
of one's own register more (:mod:`semlink.registry`). ::

    register_modality(
        ModalitySpec(name="depth", noun="depth map", media_range="image/png", target=DepthMaps)
    )
    register_task(
        TaskSpec(
            name="depth", title="text → depth map", modality="depth", corpus="rooms", target=Rooms
        )
    )
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from semlink.errors import InvalidField
from semlink.registry import Entry, Registry, check_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ModalitySpec(Entry):
    """What media there are besides text.

    ``name``: of the field in a REST query and in a frame's header. ``target`` makes a
    :class:`semlink.semantics.modalities.Modality` from a task's ``options``. ``noun``: of one item, in messages.
    ``media_range``: of its content types, as in an HTTP ``Accept`` header.
    """

    noun: str
    media_range: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec(Entry):
    """One row of the task table.

    ``title``: what is found by what. ``modality``: of the gallery, and of the queries that are no text; ``options``:
    what its ``target`` takes. ``corpus``: the embedded corpus that is searched unless another is named; ``target``
    makes it, a :class:`semlink.corpora.corpus.Corpus` whose module has a ``GENERATOR_VERSION``.
    ``media_finds``: what a query of media searches. ``added_heads``: the recipe for heads of an added corpus
    (:mod:`lab.training.add_corpus`). ``metrics``: columns of tables like the papers'. ``weights_dir``: folder of
    heads, codec and gallery, None for the folder in ``Settings``.
    """

    title: str
    modality: str
    options: Mapping[str, Any] = field(default_factory=dict)
    corpus: str
    media_finds: Literal["items", "captions"] = "items"
    added_heads: Literal["aligned", "pooled"] = "pooled"
    metrics: tuple[str, ...] = ("r_at_1", "r_at_5", "r_at_10", "map_at_10")
    weights_dir: Path | None = None

    @property
    def queries(self) -> tuple[str, str]:
        """Modalities that a query may have."""
        return ("text", self.modality)

    def finds_captions(self, modality: str) -> bool:
        """Whether a query of a modality searches the items' captions."""
        return modality != "text" and self.media_finds == "captions"


MODALITIES: Final[Registry[ModalitySpec]] = Registry("modality")
TASKS: Final[Registry[TaskSpec]] = Registry("task")


def register_modality(spec: ModalitySpec) -> None:
    """Register a modality. Raises InvalidField for a name that is taken or not allowed."""
    if spec.name == "text":
        raise InvalidField("modality 'text' is of every task already", field="name")
    MODALITIES.add(spec)


def register_task(spec: TaskSpec) -> None:
    """Register a task of a registered modality.

    Raises InvalidField for a name or a corpus that is taken or not allowed, or an unknown modality.
    """
    check_name("corpus", spec.corpus)
    MODALITIES.get(spec.modality)
    for other in TASKS.registered:
        if other != spec.name and (
            taken := {spec.name, spec.corpus} & {other, TASKS.get(other).corpus}
        ):
            raise InvalidField(
                f"{sorted(taken)[0]!r} is the name of a task or its corpus already", field="name"
            )
    TASKS.add(spec)


def modality_names() -> tuple[str, ...]:
    """Modalities that a query may have in any task: "text", then those of media."""
    return ("text", *MODALITIES.names)


def modality_spec(name: str) -> ModalitySpec:
    """The row of a modality of media. Raises InvalidField for another name."""
    return MODALITIES.get(name)


def task_names() -> tuple[str, ...]:
    """Names of all tasks, those of plug-ins last."""
    return TASKS.names


def task_specs() -> tuple[TaskSpec, ...]:
    """All rows, in the order of :func:`task_names`."""
    return TASKS.entries


def task_spec(name: str, *, field: str = "task") -> TaskSpec:
    """The row of a task. Raises InvalidField naming ``field`` for one that there is not."""
    return TASKS.get(name, field=field)


_IMAGE: Final = "semlink.semantics.modalities.image:Pictures"
_SOUND: Final = "semlink.semantics.modalities.sound:Sounds"
register_modality(ModalitySpec(name="image", noun="picture", media_range="image/*", target=_IMAGE))
register_modality(ModalitySpec(name="audio", noun="clip", media_range="audio/*", target=_SOUND))
register_task(
    TaskSpec(
        name="person",
        title="text → person image",
        modality="image",
        options={"height": 256, "width": 128},
        corpus="pedestrians",
        target="semlink.corpora.pedestrians:Pedestrians",
        # Where a colour is worn decides: the transformer's positions are worth their training.
        added_heads="aligned",
        metrics=("r_at_1", "r_at_5", "r_at_10", "map", "minp"),
    )
)
register_task(
    TaskSpec(
        name="image",
        title="text → image",
        modality="image",
        options={"height": 224, "width": 224},
        corpus="scenes",
        target="semlink.corpora.scenes:Scenes",
        metrics=("r_at_1", "r_at_5", "r_at_10", "sum"),
    )
)
register_task(
    TaskSpec(
        name="audio",
        title="text → sound",
        modality="audio",
        corpus="soundscapes",
        target="semlink.corpora.soundscapes:Soundscapes",
        media_finds="captions",
    )
)

BUILT_IN: Final = TASKS.registered
"""Names of the tasks that come with the system."""
