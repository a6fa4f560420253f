"""What a modality of media implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image

from semlink.semantics.tokens import Tokens


@dataclass(frozen=True, slots=True)
class DecodedMedia:
    """What the encoders read of media.

    ``content``: as :meth:`Modality.decode` of the modality says. ``source_values``: real values of the media before
    anything was left out, the denominator of the bandwidth ratio (our definition).
    """

    content: NDArray[Any]
    source_values: int


class Modality(ABC):
    """One kind of media: decoded, checked, encoded by a frozen backbone, shown.

    *Content* is an array that stands for one item: what :meth:`semlink.corpora.corpus.Corpus.content` gives.
    Every method may be called from several threads.
    """

    @abstractmethod
    def decode(self, data: bytes, content_type: str, field: str) -> DecodedMedia:
        """Decode what a user sent. Raises InvalidField naming ``field`` for what does not decode or is over a limit."""

    @abstractmethod
    def tokens(self, contents: Sequence[NDArray[Any]], device: str = "cpu") -> Tokens:
        """Frozen tokens of contents. Raises InvalidField for an empty list or a content of another shape or dtype."""

    @abstractmethod
    def fingerprint(self) -> tuple[int, str]:
        """Say what tokens depend on besides the content: a number of their layout, the backbone's SHA-256."""

    def num_pixels(self, data: bytes, content_type: str, field: str) -> int:  # noqa: ARG002
        """Read from the header how many pixels decoding takes, 0 where size does not tell what it costs."""
        return 0

    def objection(self, content: NDArray[Any]) -> str:  # noqa: ARG002
        """Say why nothing can be looked for with a content, "" where it can."""
        return ""

    def fitted(self, content: NDArray[Any]) -> NDArray[Any]:
        """Bring a content down to what :meth:`tokens` reads of it."""
        return content

    def lift(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Weight [lifted, width] and bias [lifted] of a layer that goes on the last channels of a token, if any."""
        return None

    @abstractmethod
    def thumbnail(self, content: NDArray[Any]) -> Image.Image:
        """Draw a small RGB picture of a content, for pages and figures."""
