"""Format numbers of what semlink keeps for its users, so that another version reads it or says why not.

What bears no number was written by 7fb36b6 or before and has format 1. Whoever changes what is written raises the
number here and migrates the older one where it is checked; ``tests/semlink/test_formats.py`` starts on data of 7fb36b6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from semlink.errors import Unavailable

STORE: Final = "the store (Redis)"
ENTRIES: Final = "an export of entries"
CORPUS: Final = "an added corpus"
GALLERY: Final = "a gallery"
USER_ITEMS: Final = "added items"
CHANNEL_KNOWLEDGE: Final = "a refinement"
CACHE: Final = "a cache"
CHECKPOINT: Final = "a checkpoint of a training"

FORMATS: Final[Mapping[str, int]] = {
    STORE: 2,
    ENTRIES: 1,
    CORPUS: 1,
    GALLERY: 1,
    USER_ITEMS: 1,
    CHANNEL_KNOWLEDGE: 1,
    CACHE: 1,
    CHECKPOINT: 2,
}


def check_format(kind: str, found: object, name: str, advice: str) -> None:
    """Raise Unavailable where ``name`` (a file, a URL) of a kind has another format than today's.

    ``found``: its number as stored, None where it bears none. ``advice``: the command that helps.
    """
    if str(1 if found is None else found) != str(FORMATS[kind]):
        raise Unavailable(
            f"{name} has format {found}, this semlink reads {FORMATS[kind]}: {advice}",
            field="format",
        )
