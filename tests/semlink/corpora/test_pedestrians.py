"""The pedestrians corpus: determinism, splits, pictures, and captions that say only what is true and seen."""

from __future__ import annotations

import io
import math
import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from semlink.corpora.corpus import SPLITS, Item
from semlink.corpora.pedestrians import Pedestrians
from semlink.errors import InvalidField, NotFound

# An independent reading of the captions: regular expressions written for this test, not the generator's tables.
COLOUR = {
    "black": "black",
    "white": "white",
    "grey": "gr[ae]y",
    "red": "red|crimson",
    "orange": "orange",
    "yellow": "yellow",
    "green": "green",
    "blue": "blue",
    "purple": "purple|violet",
    "pink": "pink",
    "brown": "brown",
    "beige": "beige|tan",
}
ANY_COLOUR = "|".join(COLOUR.values())
THINGS: dict[str, dict[str, str]] = {
    "top": {
        "t-shirt": r"t-shirt|tee",
        "polo shirt": r"polo(?: shirt)?",
        "shirt": r"(?:button-up )?shirt",
        "sweater": r"sweater|jumper|pullover",
        "hoodie": r"hoodie|hooded sweatshirt",
        "tank top": r"tank top|sleeveless top",
        "blouse": r"blouse",
        "jacket": r"jacket",
        "coat": r"(?:long )?coat|overcoat",
        "cardigan": r"cardigan",
        "blazer": r"blazer|suit jacket",
        "dress": r"dress",
    },
    "lower": {
        "trousers": r"trousers|pants|slacks",
        "jeans": r"jeans",
        "shorts": r"shorts",
        "skirt": r"skirt",
        "leggings": r"leggings|tights",
    },
    "shoes": {
        "trainers": r"trainers|sneakers|sports shoes",
        "boots": r"boots",
        "leather shoes": r"leather shoes|dress shoes",
        "sandals": r"sandals",
    },
    "bag": {
        "backpack": r"backpack|rucksack",
        "shoulder bag": r"shoulder bag|crossbody bag|messenger bag",
        "handbag": r"handbag|purse",
        "briefcase": r"briefcase",
        "suitcase": r"suitcase|trolley case",
    },
    "headwear": {
        "cap": r"(?:baseball )?cap",
        "beanie": r"(?:knitted )?beanie",
        "hat": r"(?:brimmed )?hat",
        "headscarf": r"headscarf|hijab",
    },
    "scarf": {"scarf": r"scarf"},
    "carried": {"umbrella": r"umbrella", "shopping bag": r"shopping bag"},
}
NOUN = {kind: words for group in THINGS.values() for kind, words in group.items()}
# Longest nouns first, so that "suit jacket" is not read as "jacket" and "dress shoes" not as "dress".
ALTERNATIVES = sorted(
    ((kind, word) for kind, words in NOUN.items() for word in words.split("|")),
    key=lambda pair: -len(pair[1].replace("(?:", "").replace(")?", "")),
)
PHRASE = re.compile(
    rf"(?:(?P<pattern>striped|plaid|checked|checkered) )?\b(?P<colour>{ANY_COLOUR})"
    rf"(?: and (?P<second>{ANY_COLOUR}) (?P<late>striped|plaid|checked|checkered))? "
    rf"(?P<noun>{'|'.join(word for _, word in ALTERNATIVES)})\b"
)
GROUP_OF = {kind: group for group, kinds in THINGS.items() for kind in kinds}


def colour_named(word: str) -> str:
    return next(name for name, words in COLOUR.items() if re.fullmatch(words, word))


def kind_named(word: str) -> str:
    return next(kind for kind, words in ALTERNATIVES if re.fullmatch(words, word))


def claims(caption: str) -> list[tuple[str, str, str | None, str | None]]:
    """Every ``(kind, colour, pattern, second colour)`` that a caption states."""
    found = []
    for match in PHRASE.finditer(caption):
        word = match["pattern"] or match["late"]
        pattern = None if word is None else "striped" if word == "striped" else "checked"
        second = colour_named(match["second"]) if match["second"] else None
        found.append((kind_named(match["noun"]), colour_named(match["colour"]), pattern, second))
    return found


@pytest.fixture(scope="module")
def corpus() -> Pedestrians:
    return Pedestrians()


@pytest.fixture(scope="module")
def small() -> Pedestrians:
    return Pedestrians(seed=3, num_identities={"train": 4, "val": 2, "test": 24})


def every_item(corpus: Pedestrians) -> list[Item]:
    return [item for split in SPLITS for item in corpus.items(split)]


def test_default_sizes_and_ids(corpus: Pedestrians) -> None:
    assert [len(corpus.items(split)) for split in SPLITS] == [3600, 400, 1000]
    items = every_item(corpus)
    assert len({item.item_id for item in items}) == len(items)
    assert all(re.fullmatch(r"p-(train|val|test)-\d{4,}-\d+", item.item_id) for item in items)
    assert corpus.item("p-test-0012-2").identity == "person-test-0012"
    assert corpus.item("p-test-0012-2") is corpus.items("test")[12 * 4 + 2]


def test_identities_never_meet_across_splits(corpus: Pedestrians) -> None:
    identities = {split: {item.identity for item in corpus.items(split)} for split in SPLITS}
    assert [len(identities[split]) for split in SPLITS] == [900, 100, 250]
    assert not identities["train"] & identities["val"]
    assert not identities["train"] & identities["test"]
    assert not identities["val"] & identities["test"]
    looks = {
        split: {
            str(
                {
                    k: item.attributes[k]
                    for k in (
                        "gender",
                        "hair_style",
                        "outer",
                        "upper",
                        "lower",
                        "shoes",
                        "bag",
                        "headwear",
                    )
                }
            )
            for item in corpus.items(split)
        }
        for split in SPLITS
    }
    # Different names would prove little if the people were copies: looks are (nearly) all their own.
    assert len(looks["test"] & looks["train"]) <= 5
    assert len(looks["test"]) >= 245


def test_items_are_listed_in_about_a_second() -> None:
    started = time.process_time()
    every_item(Pedestrians(seed=11))
    assert time.process_time() - started < 3.0  # 0.7 s on an idle core


def test_a_larger_corpus_holds_the_smaller_one_unchanged(small: Pedestrians) -> None:
    larger = Pedestrians(seed=3, num_identities={"test": 40})
    assert list(larger.items("test")[: 24 * 4]) == list(small.items("test"))


def test_same_pixels_from_two_instances_and_from_threads(small: Pedestrians) -> None:
    ids = [item.item_id for item in small.items("test")[:24]]
    alone = {item_id: small.content(item_id) for item_id in ids}
    again = Pedestrians(seed=3, num_identities={"test": 24})
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(again.content, reversed(ids)))
    for item_id, pixels in zip(reversed(ids), threaded, strict=True):
        np.testing.assert_array_equal(pixels, alone[item_id])


def test_seeds_and_views_differ(small: Pedestrians) -> None:
    other = Pedestrians(seed=4, num_identities={"test": 24})
    assert [i.captions for i in other.items("test")] != [i.captions for i in small.items("test")]
    first, second = (small.content(item.item_id).astype(float) for item in small.items("test")[:2])
    assert np.abs(first - second).mean() > 5.0


def test_pixels_and_media(small: Pedestrians) -> None:
    item_id = small.items("test")[5].item_id
    pixels = small.content(item_id)
    assert pixels.shape == (256, 128, 3)
    assert pixels.dtype == np.uint8
    media = small.media(item_id)
    assert media.content_type == small.info.media_type == "image/jpeg"
    decoded = np.asarray(Image.open(io.BytesIO(media.data)).convert("RGB"), dtype=float)
    assert decoded.shape == pixels.shape
    assert np.abs(decoded - pixels).mean() < 6.0
    assert small.media(item_id).data == media.data


@pytest.mark.parametrize(
    "item_id",
    [
        "",
        "p",
        "p-test-9999-0",
        "p-test-0000-4",
        "q-test-0000-0",
        "p-exam-0000-0",
        "p-test-0-0",
        "p-test-0000-0-0",
    ],
)
def test_unknown_items_are_not_found(small: Pedestrians, item_id: str) -> None:
    for call in (small.item, small.content, small.media):
        with pytest.raises(NotFound) as caught:
            call(item_id)
        assert caught.value.field == "item_id"


def test_sizes_out_of_range_name_the_field() -> None:
    with pytest.raises(InvalidField) as caught:
        Pedestrians(num_identities={"test": -1})
    assert caught.value.field == "num_identities.test"
    with pytest.raises(InvalidField) as caught:
        Pedestrians(views_per_identity=0)
    assert caught.value.field == "views_per_identity"
    with pytest.raises(InvalidField, match="holdout"):
        Pedestrians(num_identities={"holdout": 1})  # type: ignore[dict-item]
    assert len(Pedestrians(num_identities={"val": 0}).items("val")) == 0


def test_any_number_of_views() -> None:
    corpus = Pedestrians(num_identities={"test": 3}, views_per_identity=7)
    assert len(corpus.items("test")) == 21
    assert corpus.item("p-test-0002-6").identity == "person-test-0002"


def test_captions_read_as_two_different_sentences(corpus: Pedestrians) -> None:
    for item in every_item(corpus):
        assert len(item.captions) == 2
        assert item.captions[0] != item.captions[1]
        first, second = item.attributes["mentioned"]
        assert set(first) != set(second)
        for caption in item.captions:
            assert 12 <= len(caption.split()) <= 40
            assert re.fullmatch(r"[A-Z][A-Za-z,;. -]*\.", caption), caption
            slip = r"\ba [aeio]|\ban [^aeio]|  | ,|,,|\b(\w+) \1\b|None|\band,|, and"
            assert not re.search(slip, caption), caption
            # No singular article before a plural: "a blue jeans".
            plural = "jeans|trousers|pants|shorts|tights|leggings|boots|sneakers|trainers|sandals"
            assert not re.search(rf"\ban? (?:{ANY_COLOUR}) (?:{plural})\b", caption), caption


def test_captions_are_varied(corpus: Pedestrians) -> None:
    texts = [caption for item in corpus.items("test") for caption in item.captions]
    assert len(set(texts)) > 0.97 * len(texts)
    assert len({" ".join(text.split()[:2]) for text in texts}) > 15


def test_every_claim_of_a_caption_is_true_and_visible(corpus: Pedestrians) -> None:
    claimed = 0
    for item in every_item(corpus):
        truth = item.attributes
        for caption, mentioned in zip(item.captions, truth["mentioned"], strict=True):
            names = set()
            for kind, colour, pattern, second in claims(caption):
                group = GROUP_OF[kind]
                slots = ("outer", "upper") if group == "top" else (group,)
                worn = [
                    slot
                    for slot in slots
                    if truth[slot]
                    and truth[slot]["kind"] == kind
                    and truth[slot]["colour"] == colour
                ]
                assert worn, (caption, truth)
                garment = truth[worn[0]]
                if pattern is not None:
                    assert garment["pattern"] == pattern, caption
                if second is not None:
                    assert garment["pattern_colour"] == second, caption
                assert set(worn) & set(truth["visible"]), caption
                names.update(worn)
                claimed += 1
            # What the generator says it mentioned is what an independent reader finds, and nothing else.
            slots_mentioned = {
                name
                for name in mentioned
                if name in {"outer", "upper", "lower", "shoes", "bag", "headwear", "scarf"}
            }
            assert slots_mentioned == names - {"carried"}, (caption, mentioned)
    assert claimed > 25_000


def test_gender_hair_and_face_agree(corpus: Pedestrians) -> None:
    hair = {
        "short": r"short(?:-cropped)? (\w+) hair",
        "long": r"long (\w+) hair",
        "ponytail": r"(\w+) (?:hair tied in a )?ponytail",
        "bun": r"(\w+) hair (?:tied up )?in a bun",
        "bob": r"chin-length (\w+) hair|an? (\w+) bob",
        "curly": r"curly (\w+) hair",
        "bald": r"bald head|shaved head",
    }
    shades = {
        "black": "black|dark",
        "brown": "brown",
        "blond": "blond|fair",
        "red": "red|ginger",
        "grey": "gr[ae]y",
    }
    seen_hair = 0
    for item in every_item(corpus):
        truth = item.attributes
        for caption in item.captions:
            women = bool(re.search(r"\b(woman|lady|she|her)\b", caption, re.I))
            men = bool(re.search(r"\b(man|guy|gentleman|he|his)\b", caption, re.I))
            assert (women, men) == (truth["gender"] == "woman", truth["gender"] == "man"), caption
            for style, words in hair.items():
                match = re.search(words, caption)
                if match:
                    seen_hair += 1
                    assert truth["hair_style"] == style, caption
                    assert "hair" in truth["visible"]
                    shade = next((group for group in match.groups() if group), None)
                    assert shade is None or re.fullmatch(shades[truth["hair_colour"]], shade), (
                        caption
                    )
            if "glasses" in caption:
                assert truth["glasses"] == ("sunglasses" if "sunglasses" in caption else "glasses")
            if "beard" in caption:
                assert truth["beard"]
    assert seen_hair > 2_000


def test_the_back_of_a_head_shows_no_face(corpus: Pedestrians) -> None:
    backs = [
        item
        for item in every_item(corpus)
        if item.attributes["view"] in ("back", "three-quarter back")
    ]
    assert len(backs) > 800
    for item in backs:
        assert not {"glasses", "beard", "age"} & set(item.attributes["visible"])
        for caption in item.captions:
            assert not re.search(r"glasses|beard|\b(young|elderly|old|middle-aged)\b", caption), (
                caption
            )
            assert " print " not in caption
            assert "logo" not in caption
        if item.attributes["outer"] and item.attributes["upper"]["kind"] != "dress":
            assert "upper" not in item.attributes["visible"]


def test_hidden_feet_are_not_described(corpus: Pedestrians) -> None:
    hidden = [
        item for item in every_item(corpus) if item.attributes["occlusion"] in ("car", "bush")
    ]
    assert len(hidden) > 300
    assert not any(
        re.search(r"shoes|boots|trainers|sneakers|sandals", caption)
        for item in hidden
        for caption in item.captions
    )


def torso(pixels: np.ndarray) -> np.ndarray:
    """Mean chromaticity of the chest, which light and exposure move least."""
    mean = pixels[84:120, 54:76].reshape(-1, 3).astype(float).mean(axis=0) + 8.0
    return np.append(mean / mean.sum() * 3.0, math.log(mean.sum()) * 0.3)


def test_pictures_of_one_person_resemble_each_other_more_than_others(small: Pedestrians) -> None:
    items = small.items("test")[:48]
    features = np.stack([torso(small.content(item.item_id)) for item in items])
    identity = np.array([item.identity for item in items])
    distance = np.linalg.norm(features[:, None] - features[None], axis=-1)
    same = (identity[:, None] == identity[None]) & ~np.eye(len(items), dtype=bool)
    other = identity[:, None] != identity[None]
    assert distance[same].mean() < 0.6 * distance[other].mean()


def test_the_picture_shows_the_colour_that_the_truth_names() -> None:
    corpus = Pedestrians(num_identities={"test": 120})
    redness: dict[str, list[float]] = {"red": [], "blue": []}
    for item in corpus.items("test"):
        truth = item.attributes
        top = truth["outer"] or truth["upper"]
        if (
            top["colour"] in redness
            and top["pattern"] == "plain"
            and truth["outer"] is None
            and truth["view"] == "front"
        ):
            chest = (
                corpus.content(item.item_id)[84:120, 56:72]
                .reshape(-1, 3)
                .astype(float)
                .mean(axis=0)
            )
            redness[top["colour"]].append(chest[0] - chest[2])
    assert min(len(values) for values in redness.values()) >= 2
    assert min(redness["red"]) > max(redness["blue"])
