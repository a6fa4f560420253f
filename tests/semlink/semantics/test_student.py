"""The student's input, its invariances and its file."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from semlink.corpora.noisy import NoiseKind, draw, embedded_pool
from semlink.corpora.registry import corpus_named
from semlink.errors import InvalidField
from semlink.semantics.int8_tensors import pack
from semlink.semantics.sentences import extract
from semlink.semantics.spaces import weights_file
from semlink.semantics.student import (
    MAX_TOKENS,
    SentenceScorer,
    Student,
    StudentConfig,
    load_student,
    sentence_batch,
)
from semlink.semantics.text import minilm

LENGTHS = ((5, 3, 7), (4,), (6, 2, 2, 9))


def _texts(seed: int = 0) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(n, 384, generator=generator) for n in text] for text in LENGTHS]


def _scorer(joint: bool = True) -> SentenceScorer:
    torch.manual_seed(1)
    scorer = SentenceScorer(StudentConfig(joint=joint)).eval()
    # Segments and positions start near zero: larger ones make an error with them visible.
    torch.nn.init.normal_(scorer.segments)
    torch.nn.init.normal_(scorer.positions)
    return scorer.requires_grad_(False)


def test_a_batch_lays_sentences_end_to_end() -> None:
    batch = sentence_batch(_texts())
    assert batch.values.shape == (3, 19, 384)
    assert batch.real.tolist() == [[True] * 3 + [False], [True] + [False] * 3, [True] * 4]
    for row, lengths in enumerate(LENGTHS):
        assert batch.starts[row, : len(lengths)].tolist() == [
            sum(lengths[:i]) for i in range(len(lengths))
        ]
        counted = torch.bincount(batch.sentence[row][batch.sentence[row] >= 0]).tolist()
        assert counted == list(lengths)


@pytest.mark.parametrize("joint", [True, False])
def test_batch_mates_and_padding_change_nothing(joint: bool) -> None:
    scorer, texts = _scorer(joint), _texts()
    together = scorer(sentence_batch(texts))
    for row, text in enumerate(texts):
        alone = scorer(sentence_batch([text]))[0]
        assert torch.allclose(together[row, : len(text)], alone, atol=1e-5)


def test_sentences_meet_only_in_a_joint_student() -> None:
    first, other = _texts(0)[2], _texts(7)[2]
    for joint in (True, False):
        scorer = _scorer(joint)
        a = scorer(sentence_batch([first]))[0, :3]
        b = scorer(sentence_batch([[*first[:3], other[3]]]))[0, :3]
        assert torch.allclose(a, b, atol=1e-5) == (not joint)


def test_interval_segments_tell_neighbours_apart() -> None:
    scorer = _scorer(joint=False)
    torch.nn.init.zeros_(scorer.positions)
    sentence = _texts()[0][0]
    scores = scorer(sentence_batch([[sentence] * 4]))[0]
    assert torch.allclose(scores[:2], scores[2:], atol=1e-5)
    assert not torch.allclose(scores[0], scores[1], atol=1e-3)


def test_a_student_scores_every_sentence_of_texts_of_any_length(tmp_path: Path) -> None:
    scorer = _scorer()
    path = tmp_path / "student.safetensors"
    metadata = {"config": json.dumps(scorer.config.as_dict()), "key_sentences": "4"}
    save_file(pack(scorer.state_dict()), path, metadata)
    student = load_student(path)
    assert student.key_sentences == 4
    long = [f"Sentence number {n} of a text about red cars and blue dogs." for n in range(26)]
    assert MAX_TOKENS < 26 * 12
    texts = [long, ["A dog."], ["One cat.", "Two cats."]]
    scores = student.scores(texts)
    assert [len(s) for s in scores] == [26, 1, 2]
    assert all(0.0 <= value <= 1.0 for text in scores for value in text)
    # A sentence beyond the first window is really read.
    changed = student.scores([[*long[:-1], "Prices of coal rose sharply in spring."]])[0]
    assert changed[-1] != pytest.approx(scores[0][-1], abs=1e-6)
    assert changed[:9] == pytest.approx(scores[0][:9], abs=1e-5)
    for text, expected in zip(texts, scores, strict=True):
        assert student.scores([text])[0] == pytest.approx(expected, abs=1e-4)
    assert student.scores([]) == []


def test_rounding_to_eight_bits_keeps_the_order(tmp_path: Path) -> None:
    scorer = _scorer()
    path = tmp_path / "student.safetensors"
    metadata = {"config": json.dumps(scorer.config.as_dict()), "key_sentences": "3"}
    save_file(pack(scorer.state_dict()), path, metadata)
    text = [
        f"A {c} dog near {n} trees."
        for c, n in pairwise(["red", "blue", "green", "pink", "tan", "gray"])
    ]
    stored, exact = load_student(path).scores([text])[0], Student(scorer, 3).scores([text])[0]
    assert stored == pytest.approx(exact, abs=0.02)
    assert path.stat().st_size < 1_000_000


@pytest.mark.skipif(
    not weights_file("image", "student").is_file(), reason="no student: semlink train student"
)
@pytest.mark.parametrize("kind", ["continuations", "other-captions"])
def test_the_shipped_student_takes_the_noise_out_of_texts(kind: NoiseKind) -> None:
    items = corpus_named("scenes").items("val")
    pool = embedded_pool("val")
    pooled = [item for item in items if item.item_id in pool.continuations]
    texts = draw(pooled, 3, seed=11, pool=pool, kind=kind)[:16]
    found = extract([t.text for t in texts], "itrieval-kd", space="image", key_sentences=3)
    right = [
        k
        for text, scored in zip(texts, found, strict=True)
        for k, s in zip(text.key, scored, strict=True)
        if s.kept
    ]
    assert len(right) == 3 * len(texts)
    assert sum(right) / len(right) >= 0.95


def test_texts_laid_end_to_end_have_the_states_of_texts_apart() -> None:
    texts = [f"A {'red ' * (n % 7)}dog runs past {n} trees." for n in range(20)] + ["so " * 300]
    packed = minilm().packed_states(texts)
    apart = minilm().token_states(texts)
    for states, values, mask in zip(packed, apart.values, apart.mask, strict=True):
        assert torch.allclose(states, values[mask], atol=1e-4)
    with pytest.raises(InvalidField, match="text 1 is empty"):
        minilm().packed_states(["a dog", " "])
