"""Labels of rewrites: exact where the generator writes them, committed where a reader did, of items apart."""

import os
import re
import subprocess
import sys

import pytest

from lab.evaluation.hallucination_labels import claims, controlled, hallucinates, read_labels
from semlink.corpora.pedestrians.captions import COLOUR_WORDS
from semlink.corpora.registry import corpus_named, default_corpus

COLOURS = {word: name for name, words in COLOUR_WORDS.items() for word in words}


@pytest.mark.parametrize("task", ["person", "image", "audio"])
def test_each_source_has_a_faithful_caption_and_a_hallucination(task):
    labels = controlled(task, "val", 12)
    assert [label.hallucinated for label in labels] == [False, True] * 12
    assert all(label.text != label.source for label in labels)
    assert all(bool(label.attribute) == label.hallucinated for label in labels)
    assert labels == controlled(task, "val", 12)


def test_labels_are_the_same_in_every_process():
    """Sets of strings have another order in each."""
    code = "from lab.evaluation.hallucination_labels import controlled; print(controlled('person', 'val', 4))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_a_changed_colour_is_one_that_the_item_does_not_wear_there():
    items = {i.item_id: i for i in corpus_named("pedestrians").items("val")}
    changed = [x for x in controlled("person", "val", 60) if x.attribute.endswith(".colour")]
    assert len(changed) >= 5
    for label in changed:
        garment = items[label.item_id].attributes[label.attribute.split(".")[0]]
        kind = garment["kind"].split()[-1]
        told = [COLOURS[w] for w in re.findall(r"[a-z]+", label.text.lower()) if w in COLOURS]
        # Another of its colours, or two garments' colours exchanged: in both the caption names one more than its own.
        assert set(told) - {garment["colour"]}, (label, kind)


def test_a_changed_order_keeps_every_sound():
    turned = [x for x in controlled("audio", "val", 60) if x.attribute == "order"]
    assert turned
    for label in turned:
        sounds = [
            {c for c in claims("audio", text) if c[0] == "sound"}
            for text in (label.source, label.text)
        ]
        assert sounds[0] == sounds[1]


def test_the_vocabulary_reads_what_the_generator_wrote():
    assert {("garment", "jacket"), ("colour", "jacket", "red")} <= claims(
        "person", "A man in a crimson jacket."
    )
    assert ("left_of", "dog", "cat") not in claims("image", "A dog and a cat.")
    assert ("dog", "left_of", "cat") in claims("image", "A cat is to the right of a dog.")
    assert hallucinates("audio", "A dog barks twice.", "A dog barks three times.")
    assert not hallucinates("audio", "A dog barks twice.", "Two barks of a dog.")


def test_the_committed_labels_are_of_their_items_and_splits_share_none():
    labels = read_labels()
    assert len(labels) >= 500
    for task in ("person", "image", "audio"):
        corpus = corpus_named(default_corpus(task))
        for label in (x for x in labels if x.task == task):
            item = corpus.item(label.item_id)
            assert item.split == label.split
            assert label.source in item.captions
            assert bool(label.attribute) == label.hallucinated
    assert not {x.item_id for x in read_labels("val")} & {x.item_id for x in read_labels("test")}
