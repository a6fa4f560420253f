"""Splitting a text and keeping its key sentences."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semlink.errors import InvalidField, NotFound
from semlink.semantics.sentences import (
    ENGLISH_STOP_WORDS,
    EXTRACTIONS,
    KEY_SENTENCES,
    extract,
    textrank_scores,
    tf_idf_scores,
)
from semlink.sentence_splitting import split_sentences

CASES = [
    (
        'Dr. Smith saw a dog at 3.5 m, e.g. asleep. "Stop!" he said. Then left.',
        ["Dr. Smith saw a dog at 3.5 m, e.g. asleep.", '"Stop!" he said.', "Then left."],
    ),
    ("A man in a red coat\nA dog on the grass", ["A man in a red coat", "A dog on the grass"]),
    ("- a dog\n* a cat\n3. a cow\n• a pig", ["a dog", "a cat", "a cow", "a pig"]),
    (
        "a line of text that was wrapped at some sixty characters or so\nright here. Then\r\nanother",
        [
            "a line of text that was wrapped at some sixty characters or so right here.",
            "Then",
            "another",
        ],
    ),
    ("これは文です。次の文！最後？", ["これは文です。", "次の文！", "最後？"]),
    ("यह एक वाक्य है। दूसरा वाक्य।", ["यह एक वाक्य है।", "दूसरा वाक्य।"]),
    ("سيارة حمراء؟ نعم.", ["سيارة حمراء؟", "نعم."]),
    ("¿Qué pasa? ¡Hola!", ["¿Qué pasa?", "¡Hola!"]),
    ("no stop at all", ["no stop at all"]),
    ("–5 degrees outside", ["–5 degrees outside"]),
    ("Wait... what?! Yes. 🙂", ["Wait... what?!", "Yes. 🙂"]),
    ("… \n A dog", ["… A dog"]),
    ("?!", ["?!"]),
    (" \n\t ", []),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_texts_are_split_as_a_reader_would(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_no_sentence_is_blank_and_no_letter_is_lost(text: str) -> None:
    sentences = split_sentences(text)
    assert all(s.strip() == s and s for s in sentences)
    assert bool(sentences) == bool(text.strip())
    letters = [c for c in text if c.isalpha()]
    kept = [c for s in sentences for c in s if c.isalpha()]
    # A bullet "a)" at the beginning of a line is a sign, not a word.
    if ")" not in text and "." not in text:
        assert kept == letters


@given(
    st.lists(
        st.lists(
            st.sampled_from(["dog", "cat", "red", "tree", "stands", "near", "42"]),
            min_size=2,
            max_size=6,
        ),
        min_size=1,
        max_size=9,
    ),
    st.sampled_from(["tf-idf", "textrank"]),
    st.integers(0, 5),
)
def test_the_best_are_kept_in_the_order_of_the_text(
    words: list[list[str]], rule: str, key_sentences: int
) -> None:
    sentences = ["A " + " ".join(w) + "." for w in words]
    [scored] = extract([" ".join(sentences)], rule, space="image", key_sentences=key_sentences)
    assert [s.text for s in scored] == sentences
    kappa = key_sentences or KEY_SENTENCES
    kept = [s.score for s in scored if s.kept]
    assert len(kept) == min(kappa, len(sentences))
    assert all(min(kept) >= s.score for s in scored if not s.kept)


def test_texts_of_a_batch_do_not_change_each_other() -> None:
    texts = ["A dog runs. A cat sleeps. A dog sleeps. Prices rose.", "One. Two. Three. Four. Five."]
    for rule in ("none", "tf-idf", "textrank"):
        together = extract(texts, rule, space="image", key_sentences=2)
        assert together == [extract([t], rule, space="image", key_sentences=2)[0] for t in texts]


def test_no_rule_keeps_everything() -> None:
    [scored] = extract(["One. Two. Three. Four."], "none", space="image", key_sentences=1)
    assert [s.text for s in scored if s.kept] == ["One.", "Two.", "Three.", "Four."]


@pytest.mark.parametrize("corpus", [[], ["a blue dog", "prices rose", "a dog runs"]])
def test_tf_idf_is_the_written_formula(corpus: list[str]) -> None:
    sentences = ["a red dog runs", "a red cat", "a red red dog", "a dog and a dog"]
    documents = [{*s.split()} for s in (*(corpus or sentences), "a")]
    expected = []
    for sentence in sentences:
        words = [w for w in sentence.split() if any(w in d for d in documents)]
        frequency = {w: sum(w in d for d in documents) for w in words}
        values = [
            words.count(w) * (math.log((1 + len(documents)) / (1 + frequency[w])) + 1)
            for w in frequency
        ]
        expected.append(max(values) / math.hypot(*values))
    assert tf_idf_scores(sentences, corpus) == pytest.approx(expected)
    assert tf_idf_scores(["?!"], corpus) == [0.0]


def test_textrank_is_the_stationary_visit_of_the_graph() -> None:
    sentences = [
        "red dog runs fast",
        "red dog sleeps",
        "the dog sleeps here",
        "prices rose sharply",
    ]
    words = [[w for w in s.split() if w not in ENGLISH_STOP_WORDS] for s in sentences]
    n = len(words)
    weight = [
        [
            len({*words[i]} & {*words[j]}) / (math.log(len(words[i])) + math.log(len(words[j])))
            if i != j
            else 0.0
            for j in range(n)
        ]
        for i in range(n)
    ]
    rank = [1 / n] * n
    for _ in range(300):
        moved = [0.15 / n] * n
        for i in range(n):
            out = sum(weight[i])
            for j in range(n):
                moved[j] += 0.85 * rank[i] * (weight[i][j] / out if out else 1 / n)
        rank = moved
    assert textrank_scores(sentences) == pytest.approx(rank, abs=1e-5)
    assert min(rank) == rank[3]


@pytest.mark.parametrize("rule", ["tf-idf", "textrank"])
def test_sentences_without_words_are_answered(rule: str) -> None:
    [scored] = extract(["The. Of. And. A."], rule, space="image", key_sentences=2)
    assert sum(s.kept for s in scored) == 2


def test_wrong_requests_name_the_field() -> None:
    with pytest.raises(InvalidField, match="tf-idf, textrank, itrieval-kd") as unknown:
        extract(["A dog."], "lead", space="image")
    assert unknown.value.field == "query.retrieval.extraction"
    with pytest.raises(InvalidField) as negative:
        extract(["A dog."], "tf-idf", space="image", key_sentences=-1)
    assert negative.value.field == "query.retrieval.key_sentences"
    for rule in EXTRACTIONS:
        with pytest.raises(InvalidField, match="text 1 is empty"):
            extract(["A dog.", " \n"], rule, space="image")


def test_a_space_without_a_student_says_how_to_train_one() -> None:
    with pytest.raises(NotFound, match="semlink train student --task audio"):
        extract(["A dog barks."], "itrieval-kd", space="audio")
