"""Noisy texts: captions of a picture among sentences that do not speak of it, with labels (Noisy-MSCOCO's recipe).

Liu et al. 2023 (paper 002), §4.1: of each item ``n_key`` of its captions and ``n_noise`` sentences that a language
model made by going on from "<caption> and", shuffled. A noise sentence is the continuation alone: the caption and the
"and" are not in it. The continuations of an item are its *pool* (made by `lab.training.noisy_texts`); a text draws
from the pool, so that several draws need no language model. Our addition is a second kind of noise, captions of other
items: no style tells them from the key sentences, only that the key sentences agree with each other.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from semlink.corpora.corpus import Item, Split
from semlink.errors import InvalidField, NotFound
from semlink.seeds import stable_seed
from semlink.sentence_splitting import split_sentences

FORMAT: Final = 1
"""Raised when a file's lines change their form."""
N_KEY: Final = 3
ASSETS: Final = Path(__file__).resolve().parent / "assets"
POOLED_CORPUS: Final = "scenes"
"""The corpus whose continuations are shipped: :func:`embedded_pool`."""
NoiseKind = Literal["continuations", "other-captions"]
NOISE_KINDS: Final[tuple[NoiseKind, ...]] = get_args(NoiseKind)

_ENDS: Final = tuple(".!?…。！？")


@dataclass(frozen=True, slots=True)
class Continuation:
    """A noise sentence and which of the item's captions it went on from (0 is the first)."""

    continues: int
    text: str


@dataclass(frozen=True, slots=True)
class NoisePool:
    """Continuations of each item; ``provenance`` says how they were made (model hash, seed, temperature, version)."""

    provenance: Mapping[str, Any]
    continuations: Mapping[str, tuple[Continuation, ...]]


@dataclass(frozen=True, slots=True)
class NoisyText:
    """One text of an item: its sentences in order and which of them are key."""

    item_id: str
    sentences: tuple[str, ...]
    key: tuple[bool, ...]

    @property
    def text(self) -> str:
        """What a user would type."""
        return " ".join(self.sentences)


def as_sentence(text: str) -> str:
    """The first sentence of ``text`` with a capital first and a stop last, so that only its words give it away.

    Raises InvalidField for a blank text.
    """
    found = split_sentences(" ".join(text.split()))
    if not found:
        raise InvalidField("text is empty, expected a sentence", field="text")
    sentence = found[0].rstrip(" ,;:-–—")
    if not sentence.rstrip("\"'”’)]").endswith(_ENDS):
        sentence += "."
    return sentence[0].upper() + sentence[1:]


def draw(
    items: Sequence[Item],
    n_noise: int,
    *,
    seed: int,
    pool: NoisePool | None = None,
    kind: NoiseKind = "continuations",
    n_key: int = N_KEY,
) -> list[NoisyText]:
    """A noisy text of each item: ``n_key`` of its captions and ``n_noise`` noise sentences, shuffled.

    Draws without replacement; a text depends on the seed, its item and what there is to draw from. ``kind``
    "continuations" takes the item's ``pool``; "other-captions" takes one caption of each of ``n_noise`` other items of
    ``items``. An item with fewer captions gives all of them. Raises InvalidField for a number or a pool that does not
    suffice.
    """
    if n_noise < 0 or n_key < 1:
        raise InvalidField(
            f"n_key is {n_key} and n_noise {n_noise}, allowed: at least 1 and 0", field="n_noise"
        )
    if kind == "other-captions" and n_noise >= len(items):
        raise InvalidField(
            f"n_noise is {n_noise}, allowed: fewer than the {len(items)} items", field="n_noise"
        )
    texts = []
    for place, item in enumerate(items):
        key_of_draws = stable_seed("noisy-text", seed, kind, item.item_id)
        rng = np.random.Generator(np.random.Philox(key=key_of_draws))
        captions = rng.permutation(len(item.captions))[:n_key]
        key = [as_sentence(item.captions[i]) for i in captions]
        if kind == "continuations":
            noise = _continuations(item, n_noise, pool, rng)
        else:
            others = rng.permutation(len(items) - 1)[:n_noise]
            chosen = (items[i + (i >= place)].captions for i in others)
            noise = [as_sentence(captions[rng.integers(len(captions))]) for captions in chosen]
        order = rng.permutation(len(key) + len(noise))
        sentences = [*key, *noise]
        labels = tuple(bool(i < len(key)) for i in order)
        texts.append(NoisyText(item.item_id, tuple(sentences[i] for i in order), labels))
    return texts


def _continuations(
    item: Item, n_noise: int, pool: NoisePool | None, rng: np.random.Generator
) -> list[str]:
    there = () if pool is None else pool.continuations.get(item.item_id, ())
    if len(there) < n_noise:
        raise InvalidField(
            f"n_noise is {n_noise}, the pool holds {len(there)} continuations of {item.item_id}",
            field="n_noise",
        )
    return [there[i].text for i in rng.permutation(len(there))[:n_noise]]


def write_pool(pool: NoisePool, path: Path) -> None:
    """A pool as JSON lines, provenance first; compressed if the name ends in ``.xz``."""
    lines: list[Any] = [{"format": FORMAT, "holds": "pool", **pool.provenance}]
    lines += [
        {"item_id": item_id, "noise": [[c.continues, c.text] for c in noise]}
        for item_id, noise in pool.continuations.items()
    ]
    _write_lines(lines, path)


def read_pool(path: Path) -> NoisePool:
    """The inverse of :func:`write_pool`. Raises NotFound or InvalidField."""
    head, rows = _read_lines(path, "pool")
    noise = {row["item_id"]: row["noise"] for row in rows}
    return NoisePool(
        head, {k: tuple(Continuation(int(n), text) for n, text in v) for k, v in noise.items()}
    )


def write_texts(texts: Iterable[NoisyText], provenance: Mapping[str, Any], path: Path) -> None:
    """Noisy texts with their labels as JSON lines, provenance first: item_id, text, sentences, key."""
    lines: list[Any] = [{"format": FORMAT, "holds": "texts", **provenance}]
    lines += [
        {"item_id": t.item_id, "text": t.text, "sentences": list(t.sentences), "key": list(t.key)}
        for t in texts
    ]
    _write_lines(lines, path)


def read_texts(path: Path) -> tuple[dict[str, Any], list[NoisyText]]:
    """Provenance and texts of a file of :func:`write_texts`. Raises NotFound or InvalidField."""
    head, rows = _read_lines(path, "texts")
    return head, [
        NoisyText(row["item_id"], tuple(row["sentences"]), tuple(map(bool, row["key"])))
        for row in rows
    ]


@lru_cache(maxsize=3)
def embedded_pool(split: Split) -> NoisePool:
    """The shipped continuations of :data:`POOLED_CORPUS` (noisy-scenes). Raises NotFound where they are missing."""
    return read_pool(ASSETS / "noisy-scenes" / f"{split}.jsonl.xz")


def _write_lines(lines: Iterable[Any], path: Path) -> None:
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(lzma.compress(content, preset=9) if path.suffix == ".xz" else content)
    temporary.replace(path)


def _read_lines(path: Path, holds: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if not path.is_file():
        raise NotFound(
            f"{path} is missing: make it with `semlink corpora make-noisy`", field="noisy"
        )
    content = path.read_bytes()
    if path.suffix == ".xz":
        content = lzma.decompress(content)
    head, *rows = [json.loads(line) for line in content.decode().splitlines()]
    if head.get("format") != FORMAT or head.get("holds") != holds:
        raise InvalidField(
            f"{path.name} holds {head.get('holds')!r} in format {head.get('format')!r}, "
            f"expected {holds!r} in format {FORMAT}",
            field="noisy",
        )
    return head, rows
