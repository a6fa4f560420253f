"""A user's own modality and task, outside the packages: telegrams in Morse code, found by what they say.

``SEMLINK_PLUGINS=telegraph``, this folder on the path and ``TELEGRAPH_WEIGHTS`` (heads, codec and gallery of the task)
are all that a system needs to offer it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semlink.corpora.corpus import Corpus, CorpusInfo, Item, Media, Split
from semlink.errors import InvalidField, NotFound
from semlink.models import MODELS
from semlink.semantics.encoders import text_tokens
from semlink.semantics.modalities import DecodedMedia, Modality
from semlink.semantics.tokens import Tokens
from semlink.tasks import ModalitySpec, TaskSpec, register_modality, register_task

GENERATOR_VERSION = 1
CONTENT_TYPE = "text/x-morse"
MARKS = """
.- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. --
-. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --..
"""
CODES = dict(zip(ascii_lowercase, MARKS.split(), strict=True))
TELEGRAMS = (
    ("a dog runs after a red ball", "A dog chases a red ball."),
    ("two birds sit in a green tree", "A green tree with a couple of birds."),
    ("the train is late because of snow", "Snow delays a train."),
    ("a ship with white sails leaves the port", "A sailing ship goes out to sea."),
    ("bread and cheese lie on the table", "Food on a table: cheese, bread."),
    ("five yellow flowers grow beside a wall", "By the wall there are five yellow flowers."),
)


def morse_of(text: str) -> bytes:
    """A text in lower case as Morse code, a blank between letters and a slash between words."""
    return " / ".join(" ".join(CODES[letter] for letter in word) for word in text.split()).encode()


class Telegrams(Modality):
    """Telegrams as the letters that they spell, ASCII codes, uint8 ``[num_letters]``."""

    def decode(self, data: bytes, content_type: str, field: str) -> DecodedMedia:
        """Read the letters; dots and dashes count as source values."""
        letters = {code: letter for letter, code in CODES.items()}
        try:
            words = [word.split() for word in data.decode("ascii").split("/")]
            text = " ".join("".join(letters[code] for code in word) for word in words)
        except (UnicodeDecodeError, KeyError) as error:
            raise InvalidField(f"{field} is no Morse code: {error}", field=field) from error
        content = np.frombuffer(text.encode(), dtype=np.uint8)
        return DecodedMedia(content, sum(mark in b".-" for mark in data))

    def objection(self, content: NDArray[np.uint8]) -> str:
        """Say that a telegram has no letter."""
        return "" if bytes(content).strip() else "says nothing"

    def tokens(self, contents: Sequence[NDArray[np.uint8]], device: str = "cpu") -> Tokens:
        """As the sentence encoder reads the letters."""
        return text_tokens([bytes(content).decode() for content in contents], device)

    def fingerprint(self) -> tuple[int, str]:
        """The sentence encoder's."""
        return 1, MODELS["minilm"].sha256

    def thumbnail(self, content: NDArray[np.uint8]) -> Image.Image:
        """A row of pixels a letter."""
        return Image.fromarray(np.unpackbits(content[:, None], axis=1) * np.uint8(255)).convert(
            "RGB"
        )


class Archive(Corpus):
    """The telegrams of an office."""

    info = CorpusInfo("archive", "telegram", CONTENT_TYPE, "CC0-1.0", "a test", "Six telegrams")

    @property
    def splits(self) -> tuple[Split, ...]:
        """Test alone."""
        return ("test",)

    def items(self, split: Split) -> Sequence[Item]:
        """All of them."""
        if split != "test":
            raise NotFound(f"archive has no split {split!r}", field="split")
        return [
            Item(f"t{n}", f"t{n}", "test", (caption,)) for n, (_, caption) in enumerate(TELEGRAMS)
        ]

    def item(self, item_id: str) -> Item:
        """One of them."""
        found = {item.item_id: item for item in self.items("test")}.get(item_id)
        if found is None:
            raise NotFound(f"archive has no item {item_id!r}", field="item_id")
        return found

    def media(self, item_id: str) -> Media:
        """Its code."""
        return Media(CONTENT_TYPE, morse_of(TELEGRAMS[int(self.item(item_id).item_id[1:])][0]))

    def content(self, item_id: str) -> NDArray[np.uint8]:
        """Its letters."""
        return Telegrams().decode(self.media(item_id).data, CONTENT_TYPE, item_id).content


register_modality(
    ModalitySpec(name="morse", noun="telegram", media_range=CONTENT_TYPE, target=Telegrams)
)
register_task(
    TaskSpec(
        name="telegram",
        title="text → telegram",
        modality="morse",
        corpus="archive",
        target=Archive,
        weights_dir=Path(os.environ["TELEGRAPH_WEIGHTS"]),
    )
)
