"""The filter on hand-labelled rewrites: true paraphrases stay, hallucinations go for the right reason."""

import pytest

from kb_service import lexicon
from kb_service.caption_reading import closure, read
from kb_service.filtering import accept_all, contradiction_reason, filter_rewrites
from kb_service.rewriting import copies
from semlink.v1 import knowledge_pb2

JACKET = "A man in a red jacket and black trousers carries a backpack."
SWEATSHIRT = (
    "A woman wearing a hooded grey sweatshirt, blue jeans and white sneakers, seen from behind."
)
BUS = "A yellow bus is left of two small trees."
DOG = "A dog barks twice, then rain falls."
ROOSTER = "A rooster crows while a clock ticks in the background."
HATLESS = "A young man without a hat walks in black jeans and a green striped shirt."

PARAPHRASES = [
    (JACKET, "A gentleman wearing black pants and a red jacket with a rucksack."),
    (JACKET, "A man in a red jacket carrying a bag."),
    (JACKET, "Black trousers, a red jacket and a backpack are what the man wears."),
    (JACKET, "A person wears a jacket in red."),
    (SWEATSHIRT, "A lady in blue jeans and white trainers wears a grey hoodie."),
    (
        SWEATSHIRT,
        "Seen from behind: a woman with white shoes, a grey sweatshirt and blue denim trousers.",
    ),
    (BUS, "A pair of small trees to the right of a yellow bus."),
    (BUS, "Two little trees and a yellow vehicle."),
    (DOG, "Two barks of a dog, followed by rain."),
    ("Two dog barks are followed by rain.", "A dog barks twice and then the rain comes down."),
    (ROOSTER, "A clock ticking in the background, a rooster crowing."),
    (ROOSTER, "A cockerel's crow over the tick-tock of a clock."),
    (HATLESS, "A hatless young male walking, wearing a striped green shirt with black jeans."),
    (HATLESS, "A young man in a green shirt and black jeans, no hat."),
    (
        "A woman with long blond hair in blue jeans.",
        "A lady whose hair is long and blond, in jeans.",
    ),
    ("A man in a pair of brown boots.", "A man who wears brown boots."),
    ("A woman in a black jacket with white dots.", "A woman wearing a white dotted black jacket."),
    (
        "A woman in a red and white striped t-shirt and jeans.",
        "She wears jeans and a t-shirt with red and white stripes.",
    ),
    ("A pair of green fir trees by a lake.", "Two green fir trees near a lake."),
    ("Two men walk 3 dogs.", "Three dogs are walked by two men."),
    ("A crimson car is in front of a house.", "A house behind a red car."),
    ("A man in black trousers.", "A man in a pair of black trousers."),
    ("A plane to the left of a cook.", "A cook with a plane on the left."),
    ("A cake is on a table.", "A cake sits on top of a table."),
    ("A toy train is in front of a pair of fish.", "Two fish behind a toy train."),
    ("A woman seen at an angle from the front.", "A woman seen from the front."),
]
HALLUCINATIONS = [
    (SWEATSHIRT, "A pedestrian with a black leather dress.", "adds"),
    (SWEATSHIRT, "A man in a hooded grey sweatshirt and blue jeans.", "adds 'man'"),
    (SWEATSHIRT, "A woman in a grey sweatshirt and a green striped jacket.", "adds"),
    (SWEATSHIRT, "A woman in a white sweatshirt, blue jeans and grey sneakers.", "changes"),
    (JACKET, "A man in a black jacket and red trousers.", "changes"),
    (JACKET, "A man in a red suit carrying a backpack.", "adds 'suit'"),
    (JACKET, "A man in a red jacket carrying a backpack, wearing a black jacket.", "changes"),
    (JACKET, "A man in a red jacket without a backpack.", "denies 'backpack'"),
    (JACKET, "Two men in red jackets.", "adds 'two'"),
    (BUS, "A red bus left of two yellow trees.", "adds 'red'"),
    (BUS, "A tree is left of two yellow buses.", "changes"),
    (BUS, "Two small trees left of a yellow bus.", "turns 'left of' round"),
    (BUS, "Two small trees, the two lights of yellow, standing in a field.", "adds"),
    (DOG, "A dog barks three times, then rain falls.", "adds 'three times'"),
    (DOG, "Two dogs bark, then rain falls.", "changes"),
    (DOG, "A dog barks twice, followed by a rainstorm.", "adds 'rainstorm'"),
    (DOG, "A loud dog barks twice, then rain falls.", "adds 'loud'"),
    (ROOSTER, "A rooster crows while a bell rings.", "adds 'bell'"),
    (
        HATLESS,
        "A young man with a hat walks in black jeans.",
        "adds 'hat', which the source denies",
    ),
    ("A man with a hat walks.", "A hatless man walks.", "denies 'hatless'"),
    (SWEATSHIRT, "A woman in blue jeans facing the camera.", "adds 'facing the camera'"),
    (SWEATSHIRT, "A middle-aged woman in blue jeans.", "adds 'middle-aged'"),
    (JACKET, "A man in a red jacket beside a waterfall.", "adds 'waterfall'"),
    (JACKET, "A man in a red jacket walks along a woman.", "adds 'walks'"),
    (BUS, "A yellow bus with a tree.", "counts one 'tree'"),
    (BUS, "A yellow bus on two small trees.", "adds that 'bus' is above 'tree'"),
    (BUS, "Two small trees and a yellow bus in the middle.", "adds 'in the middle'"),
    ("A plane to the left of a cook.", "A plane with a cook on the left.", "adds 'on the left'"),
    (BUS, "Two small trees and a yellow bus in the background.", "adds 'in the background'"),
    ("A violin is next to a house.", "A house with a violin on it.", "adds that 'violin'"),
    (
        "A man walks with a dog.",
        "A man walks with a dog, a dog, a dog, a dog, a dog.",
        "repeats 'dog'",
    ),
]


@pytest.mark.parametrize(("source", "rewrite"), PARAPHRASES)
def test_paraphrases_are_kept(source, rewrite):
    assert contradiction_reason(source, rewrite) == ""


@pytest.mark.parametrize(("source", "rewrite", "reason"), HALLUCINATIONS)
def test_hallucinations_are_dropped_for_their_reason(source, rewrite, reason):
    assert contradiction_reason(source, rewrite).startswith(reason)


@pytest.mark.parametrize("source", sorted({s for s, *_ in PARAPHRASES + HALLUCINATIONS}))
def test_a_caption_entails_itself(source):
    assert contradiction_reason(source, source) == ""


def _generated(*rewrites: tuple[str, float]) -> knowledge_pb2.RewriteSet:
    return knowledge_pb2.RewriteSet(
        rewrites=[knowledge_pb2.Rewrite(text=t, similarity=s) for t, s in rewrites]
    )


def _with_copies_marked(source, found):
    marks = copies(source, [r.text for r in found.rewrites])
    for rewrite, is_copy in zip(found.rewrites, marks, strict=True):
        rewrite.reason = "duplicate" if is_copy else ""
    return found


def test_judge_gives_each_its_reason():
    found = _generated(
        ("A man wears a red jacket.", 0.9),
        ("A person.", 0.414),
        ("A man in a leather jacket.", 0.8),
        ("a man IN the red jacket and black trousers carries a backpack", 0.99),
        ("A man is wearing a red jacket", 0.9),
        ("A man wears the red jacket", 0.9),
    )
    _with_copies_marked(JACKET, found)
    judged = filter_rewrites(JACKET, found, min_similarity=0.6)
    assert [(r.kept, r.reason) for r in judged.rewrites] == [
        (True, "kept"),
        (False, "similarity 0.41 < 0.60"),
        (False, "adds 'leather'"),
        (False, "duplicate"),
        (True, "kept"),
        (False, "duplicate"),
    ]
    assert [r.text for r in judged.rewrites] == [r.text for r in found.rewrites]


def test_the_attribute_test_can_be_switched_off_and_alpha_moved():
    found = _generated(("A man in a leather jacket.", 0.8))
    assert filter_rewrites(JACKET, found, min_similarity=0.8, attributes=False).rewrites[0].kept
    stricter = filter_rewrites(JACKET, found, min_similarity=0.81, attributes=False).rewrites[0]
    assert (stricter.kept, stricter.reason) == (False, "similarity 0.80 < 0.81")


@pytest.mark.parametrize(
    ("rewrite", "whole"),
    [
        ("A gentleman with black trousers and a red jacket has a rucksack.", True),
        ("A man in a red jacket carries a backpack.", False),
        ("A man in a jacket and black trousers carries a backpack.", False),
    ],
)
def test_what_leaves_something_out_is_dropped_only_on_request(rewrite, whole):
    found = _generated((rewrite, 0.9))
    assert filter_rewrites(JACKET, found, min_similarity=0.6).rewrites[0].kept
    complete = filter_rewrites(JACKET, found, min_similarity=0.6, complete=True).rewrites[0]
    assert complete.kept == whole
    assert whole or complete.reason.startswith("leaves out '")


def test_nan_similarity_is_dropped():
    assert (
        not filter_rewrites(JACKET, _generated((JACKET, float("nan"))), min_similarity=-1)
        .rewrites[0]
        .kept
    )


def test_the_baseline_keeps_everything():
    found = _generated(("Nonsense.", -0.2), ("Nonsense.", -0.2))
    _with_copies_marked(JACKET, found)
    kept = accept_all(found).rewrites
    assert [(r.kept, r.reason) for r in kept] == [(True, "kept")] * 2


def test_judging_changes_no_input():
    found = _generated(("A man.", 0.9))
    before = found.SerializeToString()
    filter_rewrites(JACKET, found, min_similarity=0.6)
    accept_all(found)
    assert found.SerializeToString() == before


def test_reading_binds_modifiers_to_their_things():
    reading = read("A young man in a red and white striped t-shirt, without a hat.")
    assert set(reading.belongs) == {
        ("young", "man"),
        ("red", "t-shirt"),
        ("white", "t-shirt"),
        ("striped", "t-shirt"),
    }
    assert set(reading.denied) == {"hat"}


def test_a_service_is_no_place_and_a_room_is():
    assert "room" in read("A bed stands in one of the rooms.").affirmed
    assert contradiction_reason("A bus.", "A bus in service.") == "adds 'service'"
    assert "service" not in read("A bus in service.").affirmed


def test_every_broader_concept_is_in_the_lexicon():
    names = {
        phrase.split("|")[0].strip()
        for table in lexicon.CLASSES.values()
        for phrase in table.replace("\n", ";").split(";")
    }
    for concept, broader in lexicon.BROADER.items():
        # crimson is a word of "red": reached by its concept, not by itself
        assert set(broader) <= names, concept
    assert closure("boy") == {"boy", "male", "child", "person", "young"}
