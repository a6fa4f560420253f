"""What a corpus is: items with captions, an identity each, and media rendered or read on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from semlink.errors import InvalidField

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

AUDIO_SAMPLE_RATE_HZ = 16_000


def check_split(name: str, *, field: str = "split") -> Split:
    """The split of that name. Raises InvalidField for another word."""
    for split in SPLITS:
        if name == split:
            return split
    raise InvalidField(f"{field} is {name!r}, allowed: {', '.join(SPLITS)}", field=field)


def checked_sizes(
    field: str,
    given: Mapping[Split, int] | None,
    default: Mapping[Split, int],
    least: int,
    most: int,
) -> dict[Split, int]:
    """How many each split has: ``default`` where ``given`` says nothing. Raises InvalidField naming ``field``."""
    sizes = {**default, **(given or {})}
    for split, size in sizes.items():
        check_split(split, field=field)
        if not least <= size <= most:
            raise InvalidField(
                f"{field}.{split} is {size}, allowed: {least}…{most}", field=f"{field}.{split}"
            )
    return sizes


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """What `semlink corpora` and ``GET /v1/corpora`` say of a corpus."""

    name: str
    task: str
    media_type: str
    """MIME type of the items' media, e.g. ``image/jpeg``: of most of them where a set mixes (see :class:`Media`)."""
    licence: str
    source: str
    description: str


@dataclass(frozen=True, slots=True)
class Item:
    """One gallery item.

    ``identity`` decides what counts as right: the person in `pedestrians` (several items each), the item's own id
    elsewhere. ``attributes`` is the generator's ground truth, empty for real sets.
    """

    item_id: str
    identity: str
    split: Split
    captions: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Media:
    """Encoded media, ready for a browser."""

    content_type: str
    data: bytes


class Corpus(ABC):
    """A set of items in splits whose identities never meet. All methods are deterministic and thread-safe."""

    info: CorpusInfo

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that hold any item, in the order of :data:`SPLITS`; all three unless a reader says otherwise."""
        return SPLITS

    @abstractmethod
    def items(self, split: Split) -> Sequence[Item]:
        """Items of ``split`` in a fixed order. Raises NotFound for a split that is not among :attr:`splits`."""

    @abstractmethod
    def item(self, item_id: str) -> Item:
        """One item. Raises :class:`semlink.errors.NotFound` for an unknown id."""

    @abstractmethod
    def media(self, item_id: str) -> Media:
        """The item's encoded picture or sound. Raises NotFound for an unknown id."""

    @abstractmethod
    def content(self, item_id: str) -> NDArray[Any]:
        """What :meth:`media` shows, before encoding. Raises NotFound for an unknown id.

        As the modality of the corpus's task has it: RGB pixels ``[height, width, 3]``, uint8; mono samples at 16 kHz
        ``[num_samples]``, float32 in −1…1.
        """
