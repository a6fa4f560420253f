"""Importance of words: its gradient, its bounds, whose it is, and that the deletion test measures what it says."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import cosine_similarity

from lab.evaluation.word_importance import (
    NO_WORD,
    activations_and_gradients,
    importance,
    words_of,
    words_of_tokens,
)
from lab.experiments.qualitative.deletion_study import TextFeatures, cosine_drops, without
from semlink.errors import InvalidField
from semlink.semantics.encoders import semantic_encoder, text_tokens
from semlink.semantics.heads import Head
from semlink.semantics.text import MAX_TOKENS
from semlink.semantics.tokens import Tokens

Vectors = NDArray[np.float32]
TEXTS = [
    "A lady in a striped brown sweater and crimson slacks is strolling by.",
    "Rain.",
    "A man, dressed in a   t-shirt & <b>antidisestablishmentarianist</b> socks, is outside!",
    "Wearing a red polo, a young man is on a zebra crossing.",
]


@pytest.fixture(scope="module")
def head() -> Head:
    return semantic_encoder("person").head("text")


@pytest.fixture(scope="module")
def targets() -> Vectors:
    vectors = np.random.default_rng(3).standard_normal((len(TEXTS), 256)).astype(np.float32)
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


@pytest.mark.parametrize("text", TEXTS)
def test_every_piece_belongs_to_the_word_that_it_is_a_piece_of(text: str) -> None:
    owners = words_of_tokens(text)
    words = words_of(text)
    assert len(owners) == int(text_tokens([text]).mask.sum())
    assert owners[0] == owners[-1] == NO_WORD
    inner = owners[1:-1]
    assert inner == sorted(inner)
    assert set(inner) == set(range(len(words)))


def test_a_piece_is_found_by_its_own_text() -> None:
    """A word of several pieces, and punctuation, which is part of the word before it."""
    assert words_of_tokens("socks, antidisestablishmentarianism") == [
        NO_WORD,
        0,
        0,
        *[1] * (len(words_of_tokens("antidisestablishmentarianism")) - 2),
        NO_WORD,
    ]
    long = "a dog " * MAX_TOKENS
    assert len(words_of_tokens(long)) == MAX_TOKENS


def test_one_value_a_word_between_0_and_1(head: Head, targets: Vectors) -> None:
    for text, values in zip(TEXTS, importance(TEXTS, targets, head), strict=True):
        assert values.shape == (len(words_of(text)),)
        assert values.dtype == np.float32
        assert (values >= 0).all()
        assert values.max() in (0.0, 1.0)


def test_a_text_gets_the_same_beside_any_others(head: Head, targets: Vectors) -> None:
    together = importance(TEXTS, targets, head)
    for i in reversed(range(len(TEXTS))):
        (alone,) = importance([TEXTS[i]], targets[i : i + 1], head)
        np.testing.assert_array_equal(alone, together[i])


def test_gradients_in_a_padded_batch_are_those_of_each_text_alone(
    head: Head, targets: Vectors
) -> None:
    wanted = torch.from_numpy(targets)
    _, gradient = activations_and_gradients(head, text_tokens(TEXTS), wanted)
    for i, text in enumerate(TEXTS):
        _, alone = activations_and_gradients(head, text_tokens([text]), wanted[i : i + 1])
        length = alone.shape[1]
        torch.testing.assert_close(gradient[i, :length], alone[0], atol=1e-6, rtol=1e-3)
        assert not gradient[i, length:].any()


def test_the_gradient_is_that_of_the_cosine(head: Head, targets: Vectors) -> None:
    """Against central differences of the cosine itself, in double precision, along random directions."""
    exact = deepcopy(head).double()
    tokens = text_tokens(TEXTS[:1])
    tokens = Tokens(tokens.values.double().clone(), tokens.mask.clone())
    wanted = torch.from_numpy(targets[:1]).double()
    held, gradient = activations_and_gradients(exact, tokens, wanted)
    x, mask = exact.standardised(tokens.values.clone(), tokens.mask)

    def cosine(at: torch.Tensor) -> float:
        return float(cosine_similarity(exact.readout(at, mask, exact.pooled(x, mask)), wanted))

    # The head also reads each channel's maximum over tokens; one that two tokens share has no slope.
    largest = held[0].topk(2, dim=0).values
    smooth = largest[0] - largest[1] > 1e-4
    assert smooth.double().mean() > 0.9
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(held.shape, generator=generator, dtype=torch.float64) * smooth
        step = 1e-6
        difference = (cosine(held + step * direction) - cosine(held - step * direction)) / 2 / step
        assert difference == pytest.approx(float((gradient * direction).sum()), rel=1e-4, abs=1e-8)


def test_where_nothing_would_help_no_word_is_important(head: Head) -> None:
    """At the item itself the cosine is at its top, and of no item at all it has no slope: zeros, not 0/0."""
    own = semantic_encoder("person").text(TEXTS)
    for target in (own, np.zeros_like(own)):
        for values in importance(TEXTS, target, head):
            assert not values.any()


def test_the_word_that_an_item_is_alike_in_is_important(head: Head) -> None:
    """Towards the feature of a text of a red jacket, red or jacket matters more than the words that any text has."""
    text = "A person wearing a red jacket walks here"
    target = semantic_encoder("person").text(["red jacket"])
    (values,) = importance([text], target, head)
    place = {word: i for i, word in enumerate(words_of(text))}
    assert values[[place["red"], place["jacket"]]].max() == 1.0


# --- leaving words out -------------------------------------------------------------------------


def test_leaving_out_keeps_the_others_in_their_order() -> None:
    assert without("one two  three four", {1, 3}) == "one three"
    with pytest.raises(InvalidField, match="no word"):
        without("one two", {0, 1})


def test_drops_are_those_of_texts_encoded_by_themselves(targets: Vectors) -> None:
    texts = [TEXTS[0], TEXTS[3]]
    wanted = targets[[0, 3]]
    encoder = semantic_encoder("person")
    rng = np.random.default_rng(5)
    values = [rng.permutation(len(words_of(t))).astype(np.float32) for t in texts]
    made = cosine_drops(texts, wanted, values, TextFeatures("person"), counts=(1, 2), seed=7)
    for t, text in enumerate(texts):
        full = float(encoder.text([text])[0] @ wanted[t])
        alone = np.array(
            [
                full - float(encoder.text([without(text, {i})])[0] @ wanted[t])
                for i in range(len(words_of(text)))
            ]
        )
        assert made.drops["random", 1][t] == pytest.approx(alone.mean(), abs=1e-5)
        assert made.drops["leave-one-out", 1][t] == pytest.approx(alone.max(), abs=1e-5)
        assert made.drops["grad-cam", 1][t] == pytest.approx(alone[values[t].argmax()], abs=1e-5)
        two = without(text, set(np.argsort(-values[t])[:2].tolist()))
        expected = full - float(encoder.text([two])[0] @ wanted[t])
        assert made.drops["grad-cam", 2][t] == pytest.approx(expected, abs=1e-5)
        assert made.agreement["grad-cam"][t] == (values[t].argmax() == alone.argmax())
        assert made.agreement["random"][t] == 1 / len(alone)


def test_one_word_always_stays(targets: Vectors) -> None:
    texts = ["red jacket"]
    values = [np.array([0.2, 1.0], dtype=np.float32)]
    made = cosine_drops(texts, targets[:1], values, TextFeatures("person"), counts=(3,))
    encoder = semantic_encoder("person")
    expected = float((encoder.text(texts) - encoder.text(["red"]))[0] @ targets[0])
    assert made.drops["grad-cam", 3][0] == pytest.approx(expected, abs=1e-5)
