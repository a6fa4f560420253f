"""Order in time as captions tell it: the same order in other words agrees, another order contradicts."""

import pytest

from kb_service.caption_reading import read
from kb_service.filtering import contradiction_reason

IN_ORDER = "A dog barks twice, then rain falls, and finally a rooster crows."
WITH_BED = "A dog barks before rain falls, with the ticking of a clock in the background."
SAME = [
    (IN_ORDER, "After two dog barks, rain falls, and then a rooster crows."),
    (IN_ORDER, "Rain falls right after two barks of a dog, then a rooster crows."),
    (IN_ORDER, "It starts with two dog barks, goes on with rain and ends with a rooster crow."),
    (IN_ORDER, "Two barks, rain and a crow."),
    (IN_ORDER, "A rooster crows after rain."),
    (WITH_BED, "While a clock ticks throughout, rain falls after a dog barks."),
    (WITH_BED, "Before the rain, a dog barks."),
    ("Four loud barks of a dog, followed by rain.", "A dog with four loud barks, then rain."),
]
OTHER = [
    (IN_ORDER, "Rain falls, then a dog barks twice.", "has 'rain' before 'bark'"),
    (IN_ORDER, "A dog barks twice after a rooster crows.", "has 'crow' before 'bark'"),
    (IN_ORDER, "Rain falls while a rooster crows.", "has 'crow' and 'rain' at once"),
    (IN_ORDER, "The clip starts with rain.", "starts with 'rain'"),
    (IN_ORDER, "Two dog barks with rain in the background.", "puts 'rain' into the background"),
    (IN_ORDER, "Two barks, then rain, then two barks.", "repeats 'bark'"),
    (WITH_BED, "A clock ticks, then a dog barks.", "has 'tick' before 'bark'"),
    (
        WITH_BED,
        "A dog barks, followed by a clock in the background.",
        "lets 'tick' follow in the background",
    ),
    (
        "Rain falls softly, then a dog barks.",
        "Rain falls, then a dog barks softly.",
        "says 'faint' of 'bark'",
    ),
    (
        "Rain falls briefly, then a fire burns for a long while.",
        "Rain falls for a long while, then a fire burns.",
        "says 'lasting' of 'rain'",
    ),
]


@pytest.mark.parametrize(("source", "rewrite"), SAME)
def test_the_same_order_in_other_words_agrees(source, rewrite):
    assert contradiction_reason(source, rewrite) == ""


@pytest.mark.parametrize(("source", "rewrite", "reason"), OTHER)
def test_another_order_contradicts(source, rewrite, reason):
    assert contradiction_reason(source, rewrite) == reason


@pytest.mark.parametrize("caption", sorted({s for s, _ in SAME} | {s for s, *_ in OTHER}))
def test_a_caption_agrees_with_itself_and_its_order_is_one(caption):
    assert contradiction_reason(caption, caption) == ""
    order = read(caption).timeline.order
    assert not any((later, earlier) in order for earlier, later in order)


def test_pictures_have_no_order():
    assert read("A dog is next to a helicopter, then a clock.").timeline.order == frozenset()
