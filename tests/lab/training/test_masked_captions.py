"""Captions with hidden words, and the decoder that names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lab.training import masked_captions as module
from lab.training.masked_captions import MaskedCaptionDecoder, mask_words, masked_captions
from semlink.errors import NotFound
from semlink.models import locate
from semlink.semantics.encoders import text_tokens

try:
    locate("minilm")
except NotFound as missing:
    pytest.skip(f"needs MiniLM: {missing}", allow_module_level=True)

CAPTIONS = (
    "A young man wears a yellow polo, beige trousers and brown sports shoes; he has a shaved head.",
    "An elderly woman, her hair grey, carries a rucksack and a well-worn pair of flip-flops.",
    "A man.",
)


def tokens_of(text: str) -> list[str]:
    found: list[str] = module._tokenizer().encode(text).tokens
    return found


@pytest.mark.parametrize("caption", CAPTIONS)
def test_exactly_the_hidden_pieces_become_masks(caption: str) -> None:
    rng = np.random.default_rng(0)
    whole = tokens_of(caption)
    for _ in range(30):
        masking = mask_words(caption, rng, 0.3)
        read = tokens_of(masking.text)
        assert [m or r for m, r in zip(masking.hidden, read, strict=True)] == whole
        assert [r == "[MASK]" for r in read] == [bool(m) for m in masking.hidden]


def test_pieces_of_a_word_are_hidden_together() -> None:
    rng = np.random.default_rng(1)
    caption = CAPTIONS[1]
    pieces = tokens_of(caption)
    assert any(p.startswith("##") for p in pieces), "the fixture has a word of several pieces"
    for _ in range(60):
        hidden = mask_words(caption, rng, 0.3).hidden
        for place, piece in enumerate(pieces):
            if piece.startswith("##"):
                assert bool(hidden[place]) == bool(hidden[place - 1])


def test_a_tenth_of_the_words_is_hidden_and_never_none() -> None:
    rng = np.random.default_rng(2)
    counts = [
        sum(map(bool, mask_words(c, rng, 0.1).hidden)) for _ in range(300) for c in CAPTIONS[:1]
    ]
    # At least one: P(none) = 0.9^20 adds 0.12 to the mean of 2.
    assert np.mean(counts) == pytest.approx(0.1 * 20 + 0.9**20, abs=0.25)
    assert min(counts) >= 1
    assert not any(mask_words(c, rng).hidden[0] for c in CAPTIONS)


def test_maskings_are_cached_aligned_and_hide_the_word_from_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path))
    made = masked_captions(CAPTIONS, seed=3)
    assert len(made.features) == module.COPIES * len(CAPTIONS)
    assert len(made.words) == len(made.features.values)
    pieces = [tokens_of(c) for _ in range(module.COPIES) for c in CAPTIONS]
    whole = text_tokens(CAPTIONS)
    for n, expected in enumerate(pieces):
        own = slice(made.features.offsets[n], made.features.offsets[n + 1])
        words = made.words[own].tolist()
        assert len(words) == len(expected)
        for word, piece in zip(words, expected, strict=True):
            assert word == -1 or made.vocabulary[word] == piece
        seen = torch.tensor(words) == -1
        states = made.features.values[own].float()
        original = whole.values[n % len(CAPTIONS), : len(expected)]
        # Neighbours were computed without the word, so they differ from those that saw it.
        assert ((states - original)[seen].abs().amax(1) > 1e-2).float().mean() > 0.9

    def never(texts: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(module, "text_tokens", never)
    again = masked_captions(CAPTIONS, seed=3)
    assert torch.equal(again.features.values, made.features.values)
    assert torch.equal(again.words, made.words)


def test_a_batch_holds_a_masking_of_each_caption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path))
    made = masked_captions(CAPTIONS, seed=3)
    tokens, words = made.batch(torch.tensor([2, 0]))
    assert words.shape == tokens.mask.shape
    assert tokens.mask.sum(1).tolist() == [len(tokens_of(CAPTIONS[2])), len(tokens_of(CAPTIONS[0]))]
    assert ((words >= 0).sum(1) >= 1).all()
    assert not (words[~tokens.mask] >= 0).any()


def states(batch: int = 3) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    text, image = torch.randn(batch, 7, 16), torch.randn(batch, 5, 16)
    text_mask = torch.ones(batch, 7, dtype=torch.bool)
    text_mask[0, 4:] = False
    hidden = torch.zeros(batch, 7, dtype=torch.bool)
    hidden[:, 2] = True
    hidden[1, 5] = hidden[2, 0] = True
    return text, text_mask, image, torch.ones(batch, 5, dtype=torch.bool), hidden


@pytest.mark.parametrize("sees_image", [True, False])
def test_the_decoder_reads_what_it_should(sees_image: bool) -> None:
    decoder = MaskedCaptionDecoder(16, 11, sees_image=sees_image).eval()
    text, text_mask, image, image_mask, hidden = states()
    logits = decoder(text, text_mask, image, image_mask, hidden)
    assert logits.shape == (5, 11)
    other_image = decoder(text, text_mask, image.flip(0), image_mask, hidden)
    assert torch.allclose(logits, other_image, atol=1e-6) != sees_image
    padded = text.clone()
    padded[0, 4:] = 9.0
    assert torch.allclose(decoder(padded, text_mask, image, image_mask, hidden), logits, atol=1e-5)


def test_each_hidden_word_is_answered_in_reading_order() -> None:
    decoder = MaskedCaptionDecoder(16, 11).eval()
    text, text_mask, image, image_mask, hidden = states()
    together = decoder(text, text_mask, image, image_mask, hidden)
    for n, (row, place) in enumerate(hidden.nonzero().tolist()):
        one = torch.zeros_like(hidden)
        one[row, place] = True
        alone = decoder(text, text_mask, image, image_mask, one)
        assert torch.allclose(alone, together[n : n + 1], atol=1e-5)


def test_the_decoder_learns_a_word_that_only_the_picture_tells() -> None:
    torch.manual_seed(0)
    decoder = MaskedCaptionDecoder(16, 4)
    optimiser = torch.optim.Adam(decoder.parameters(), 3e-3)
    colours = torch.randn(4, 16)
    losses = []
    for _ in range(150):
        words = torch.randint(4, (32,))
        text, image = torch.zeros(32, 3, 16), torch.randn(32, 4, 16) * 0.3
        image[:, 1] += 2 * colours[words]
        seen = torch.ones(32, 3, dtype=torch.bool)
        hidden = torch.tensor([False, True, False]).expand(32, 3)
        logits = decoder(text, seen, image, torch.ones(32, 4, dtype=torch.bool), hidden)
        loss = F.cross_entropy(logits, words)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])
