"""Noisy texts: labels, draws and files."""

from __future__ import annotations

from pathlib import Path

import pytest

from semlink.corpora.corpus import Item
from semlink.corpora.noisy import (
    Continuation,
    NoisePool,
    as_sentence,
    draw,
    read_pool,
    read_texts,
    write_pool,
    write_texts,
)
from semlink.errors import InvalidField, NotFound
from semlink.sentence_splitting import split_sentences

ITEMS = [
    Item(
        f"i{n}",
        f"i{n}",
        "train",
        tuple(f"Picture {n} has caption {c} of five." for c in range(5)),
    )
    for n in range(8)
]
POOL = NoisePool(
    {"seed": 7},
    {
        item.item_id: tuple(Continuation(i, f"Noise {i} of {item.item_id}.") for i in range(3))
        for item in ITEMS
    },
)


@pytest.mark.parametrize("kind", ["continuations", "other-captions"])
@pytest.mark.parametrize("n_noise", [0, 1, 3])
def test_labels_say_which_sentences_are_the_items_own(kind: str, n_noise: int) -> None:
    texts = draw(ITEMS, n_noise, seed=1, pool=POOL, kind=kind)  # type: ignore[arg-type]
    for item, text in zip(ITEMS, texts, strict=True):
        assert text.item_id == item.item_id
        assert len(text.sentences) == 3 + n_noise == len(set(text.sentences))
        assert sum(text.key) == 3
        for sentence, key in zip(text.sentences, text.key, strict=True):
            assert (sentence in item.captions) == key
        # What the transmitter will split is what the labels speak of.
        assert split_sentences(text.text) == list(text.sentences)


def test_other_captions_are_of_as_many_other_items() -> None:
    for text in draw(ITEMS, 4, seed=3, kind="other-captions"):
        noise = [s for s, key in zip(text.sentences, text.key, strict=True) if not key]
        assert len({s.split()[1] for s in noise}) == 4


def test_a_draw_is_its_seeds_and_no_two_are_alike() -> None:
    first, again, other = (draw(ITEMS, 2, seed=s, pool=POOL) for s in (0, 0, 1))
    assert first == again != other
    # Keys and noise are really mixed: no place of a text is always key.
    many = [t.key for s in range(30) for t in draw(ITEMS, 3, seed=s, pool=POOL)]
    shares = [sum(k[i] for k in many) / len(many) for i in range(6)]
    assert all(0.35 < share < 0.65 for share in shares)


def test_files_say_again_what_was_written(tmp_path: Path) -> None:
    for name in ("pool.jsonl", "pool.jsonl.xz"):
        write_pool(POOL, tmp_path / name)
        again = read_pool(tmp_path / name)
        assert again.continuations == POOL.continuations
        assert again.provenance["seed"] == 7
    texts = draw(ITEMS, 3, seed=0, pool=POOL)
    write_texts(texts, {"model": "m"}, tmp_path / "texts.jsonl")
    head, read = read_texts(tmp_path / "texts.jsonl")
    assert read == texts
    assert head["model"] == "m"
    with pytest.raises(InvalidField, match="holds 'texts'"):
        read_pool(tmp_path / "texts.jsonl")
    with pytest.raises(NotFound, match="make-noisy"):
        read_pool(tmp_path / "none.jsonl")


def test_what_does_not_suffice_is_refused() -> None:
    with pytest.raises(InvalidField, match="holds 3 continuations of i0"):
        draw(ITEMS, 4, seed=0, pool=POOL)
    with pytest.raises(InvalidField, match="fewer than the 8 items"):
        draw(ITEMS, 8, seed=0, kind="other-captions")
    with pytest.raises(InvalidField):
        draw(ITEMS, -1, seed=0, pool=POOL)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (" a dog\nruns  fast ", "A dog runs fast."),
        ("a dog. And a cat", "A dog."),
        ("a dog, ", "A dog."),
        ('he said "no."', 'He said "no."'),
        ("Two dogs!", "Two dogs!"),
    ],
)
def test_noise_looks_like_a_sentence(text: str, sentence: str) -> None:
    assert as_sentence(text) == sentence
