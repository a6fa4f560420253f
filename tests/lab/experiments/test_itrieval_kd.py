"""ItrievalKD's loss, selection and noisy sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import entropy

from lab.training import noisy_texts
from lab.training.noisy_texts import CHUNK_ITEMS, make_pool, run
from lab.training.sentence_student import divergence, kept, selection_accuracy
from semlink.corpora.corpus import Corpus, CorpusInfo, Item, Media, Split
from semlink.corpora.noisy import NoisyText, read_texts
from semlink.errors import InvalidField
from semlink.sentence_splitting import split_sentences


def test_the_loss_is_the_divergence_of_equation_4() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.uniform(size=(2, 4, 6))
    sizes = np.array([6, 4, 1, 5])
    real = torch.from_numpy(np.arange(6) < sizes[:, None])
    for scale in (1.0, 21.6):
        p = [softmax(scale * s[:n]) for s, n in zip(student, sizes, strict=True)]
        q = [softmax(scale * t[:n]) for t, n in zip(teacher, sizes, strict=True)]
        tensors = torch.from_numpy(student), torch.from_numpy(teacher), real
        written = np.mean([entropy(a, b) for a, b in zip(p, q, strict=True)])
        usual = np.mean([entropy(b, a) for a, b in zip(p, q, strict=True)])
        assert divergence(*tensors, scale).item() == pytest.approx(written)
        assert divergence(*tensors, scale, as_written=False).item() == pytest.approx(usual)


def test_the_loss_is_least_where_the_student_agrees_and_padding_has_no_gradient() -> None:
    teacher = torch.rand(3, 5)
    real = torch.arange(5) < torch.tensor([5, 3, 2])[:, None]
    student = teacher.clone().requires_grad_(True)
    loss = divergence(student, teacher, real, 20.0)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    other = torch.rand(3, 5, requires_grad=True)
    divergence(other, teacher, real, 20.0).backward()  # type: ignore[no-untyped-call]
    assert other.grad is not None
    assert torch.isfinite(other.grad).all()
    assert (other.grad[~real] == 0).all()
    assert (other.grad[real] != 0).any()


def test_a_raw_teacher_says_almost_nothing() -> None:
    """Why the logit scale is needed: cosines 0.6 and 0.1 are 0.62 to 0.38 at τ = 1."""
    teacher = torch.tensor([[0.6, 0.1]])
    flat = torch.full((1, 2), 0.5)
    real = torch.ones(1, 2, dtype=torch.bool)
    assert divergence(flat, teacher, real, 1.0) < 0.04
    assert divergence(flat, teacher, real, 21.6) > 4.0


def test_selection_counts_key_sentences_among_the_kept() -> None:
    texts = [
        NoisyText("a", tuple("vwxyz"), (True, False, True, True, False)),
        NoisyText("b", tuple("xyz"), (True, True, True)),
    ]
    scores = [np.array([3.0, 9.0, 5.0, 4.0, 1.0]), np.array([1.0, 1.0, 1.0])]
    assert [k.tolist() for k in kept(scores, 3)] == [[1, 2, 3], [0, 1, 2]]
    assert [k.tolist() for k in kept(scores, 1)] == [[1], [0]]
    assert selection_accuracy(texts, scores) == pytest.approx((2 / 3 + 1) / 2)


class _Captioned(Corpus):
    info = CorpusInfo("captioned", "image", "image/png", "CC0-1.0", "a test", "captions alone")

    def items(self, split: Split) -> Sequence[Item]:
        return [
            Item(f"{split}-{n}", f"{split}-{n}", split, (f"A dog has {n} bones.", "A cat sleeps"))
            for n in range(CHUNK_ITEMS + 3)
        ]

    def item(self, item_id: str) -> Item:
        raise NotImplementedError

    def media(self, item_id: str) -> Media:
        raise NotImplementedError

    def content(self, item_id: str) -> NDArray[np.uint8]:
        raise NotImplementedError


class _Parrot:
    """Stands for the language model; counts its chunks and breaks when it is told to."""

    chunks = 0
    breaks_at = -1

    def continuations(
        self, group: Sequence[Item], n_noise: int, seed: int
    ) -> dict[str, list[tuple[int, str]]]:
        if _Parrot.chunks == _Parrot.breaks_at:
            raise KeyboardInterrupt
        _Parrot.chunks += 1
        return {
            item.item_id: [
                (n % 2, f"Noise {n} of {item.item_id} and {seed}.") for n in range(n_noise)
            ]
            for item in group
        }


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(noisy_texts, "_Writer", _Parrot)
    monkeypatch.setattr(_Parrot, "chunks", 0)
    monkeypatch.setattr(_Parrot, "breaks_at", 1)
    corpus = _Captioned()
    with pytest.raises(KeyboardInterrupt):
        run(corpus, "val", n_noise=2, seed=5, out=tmp_path / "noisy.jsonl")
    assert not (tmp_path / "noisy.jsonl").exists()
    monkeypatch.setattr(_Parrot, "breaks_at", -1)
    run(corpus, "val", n_noise=2, seed=5, out=tmp_path / "noisy.jsonl")
    assert _Parrot.chunks == 2
    head, texts = read_texts(tmp_path / "noisy.jsonl")
    assert (head["corpus"], head["seed"], head["n_noise"]) == ("captioned", 5, 2)
    assert len(head["model_sha256"]) == 64
    assert len(texts) == CHUNK_ITEMS + 3
    for text in texts:
        assert [s.startswith("Noise") for s in text.sentences] == [not k for k in text.key]
        assert sum(text.key) == 2
        assert split_sentences(text.text) == list(text.sentences)
    # Another seed is another set, made anew.
    run(corpus, "val", n_noise=2, seed=6, out=tmp_path / "other.jsonl")
    assert _Parrot.chunks == 4


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match="n_noise is -1"):
        run(_Captioned(), "val", n_noise=-1, out=tmp_path / "x")
    with pytest.raises(InvalidField, match="for 0 items"):
        run(_Captioned(), "val", num_items=0, out=tmp_path / "x")
    with pytest.raises(InvalidField, match="b has no caption"):
        make_pool(_Captioned(), "val", [Item("b", "b", "val", ())])


@pytest.mark.slow
def test_the_language_model_goes_on_without_the_caption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of the real model give the same sentences, whoever shares the chunk."""
    corpus = _Captioned()
    items = corpus.items("val")[:2]
    writer: Any = noisy_texts._Writer()
    both = writer.continuations(items, 3, 0)
    assert json.dumps(both) == json.dumps(writer.continuations(items, 3, 0))
    for item in items:
        assert [continues for continues, _ in both[item.item_id]] == [0, 1, 0]
        for _, text in both[item.item_id]:
            assert split_sentences(text) == [text]
            assert len(text.split()) >= 2
            assert not any(text.startswith(c.rstrip(".")) for c in item.captions)
    assert both[items[0].item_id][0] != both[items[0].item_id][2]
