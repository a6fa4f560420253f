"""Masked caption modelling (Sew + MCM, section 3.2): captions with hidden words, and the decoder that names them.

The text encoder is frozen, and its states of a word's neighbours know the word. So words are hidden before it: it
reads ``[MASK]`` in their place, and a few maskings of each caption are encoded once and kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from lab.evaluation.cache import key_of
from lab.training.features import TEXT_LAYOUT, FrozenFeatures, cached_features
from semlink.models import MODELS, locate
from semlink.semantics.encoders import text_tokens
from semlink.semantics.text import MAX_TOKENS
from semlink.semantics.tokens import Tokens

MASK_RATIO: Final = 0.1
"""Share of a caption's words that are hidden (Sew + MCM, section 4.2)."""
COPIES: Final = 3
"""Maskings of each caption that are kept."""

_MASK: Final = "[MASK]"
_SHARD: Final = 512


@dataclass(frozen=True, slots=True)
class MaskedCaptions:
    """``copies`` maskings of each of ``n`` captions.

    ``features``: frozen token states, masking c of caption i is input ``c·n + i``. ``words``: int64
    ``[total_tokens]``, aligned with ``features.values``: for a hidden word piece its place in ``vocabulary``, −1
    elsewhere. ``vocabulary``: the word pieces that the captions hold, sorted.
    """

    features: FrozenFeatures
    words: torch.Tensor
    vocabulary: tuple[str, ...]

    def batch(self, captions: torch.Tensor) -> tuple[Tokens, torch.Tensor]:
        """A random masking of each of these captions, and its hidden words ``[batch, num_tokens]``, int64, −1: seen."""
        n = len(self.features) // COPIES
        inputs = torch.randint(COPIES, captions.shape) * n + captions
        tokens = self.features.batch(inputs)
        words = torch.full(tokens.mask.shape, -1)
        for row, i in enumerate(inputs.tolist()):
            own = self.words[self.features.offsets[i] : self.features.offsets[i + 1]]
            words[row, : len(own)] = own
        return tokens, words


@dataclass(frozen=True, slots=True)
class Masking:
    """One caption with hidden words: the text that the encoder reads, and per word piece what it hides ("" nothing)."""

    text: str
    hidden: tuple[str, ...]


def mask_words(caption: str, rng: np.random.Generator, ratio: float = MASK_RATIO) -> Masking:
    """Hide each word with probability ``ratio``, at least one; a word's pieces are hidden together.

    Punctuation marks are words too, as in BERT. ``hidden`` includes [CLS] and [SEP], which never are.
    """
    encoding = _tokenizer().encode(caption)
    of_piece = encoding.word_ids
    words = sorted({w for w in of_piece if w is not None})
    drawn = rng.random(len(words)) < ratio
    if not drawn.any():
        drawn[rng.integers(len(words))] = True
    chosen = {w for w, is_drawn in zip(words, drawn, strict=True) if is_drawn}
    hidden = tuple(
        piece if w in chosen else "" for piece, w in zip(encoding.tokens, of_piece, strict=True)
    )
    text = caption
    # From the end, so that earlier places stay where they are.
    for (start, stop), piece in reversed(list(zip(encoding.offsets, hidden, strict=True))):
        if piece:
            text = f"{text[:start]} {_MASK} {text[stop:]}"
    return Masking(text, hidden)


def masked_captions(captions: Sequence[str], seed: int = 0) -> MaskedCaptions:
    """:data:`COPIES` maskings of each caption through the frozen encoder, computed once and cached.

    The draws depend on ``seed`` and the captions alone. Raises NotFound where MiniLM is missing.
    """
    rng = np.random.default_rng(seed)
    maskings = [mask_words(caption, rng) for _ in range(COPIES) for caption in captions]
    vocabulary = tuple(
        sorted(
            {t for c in captions for t in _tokenizer().encode(c, add_special_tokens=False).tokens}
        )
    )
    shards = [maskings[i : i + _SHARD] for i in range(0, len(maskings), _SHARD)]
    features = cached_features(
        [(f"masked/{_digest(s)}", partial(text_tokens, [m.text for m in s])) for s in shards],
        "masked captions",
    )
    place = {piece: n for n, piece in enumerate(vocabulary)} | {"": -1}
    return MaskedCaptions(
        features=features,
        words=torch.tensor([place[piece] for m in maskings for piece in m.hidden]),
        vocabulary=vocabulary,
    )


class MaskedCaptionDecoder(nn.Module):
    """Names hidden words from the text's states and the picture's (Sew + MCM, figure 2 and eq. 11).

    Self-attention among the text's tokens, cross-attention to the picture's, a feed-forward layer, and a linear map to
    the vocabulary. With ``sees_image`` False (table 5, "without attention") there is only the linear map. Training
    only.
    """

    def __init__(
        self, width: int, vocabulary_size: int, *, num_heads: int = 4, sees_image: bool = True
    ) -> None:
        super().__init__()
        self.layer = _DecoderLayer(width, num_heads) if sees_image else None
        self.norm = nn.LayerNorm(width)
        self.words = nn.Linear(width, vocabulary_size)

    def forward(
        self,
        text: torch.Tensor,
        text_mask: torch.Tensor,
        image: torch.Tensor,
        image_mask: torch.Tensor,
        hidden: torch.Tensor,
    ) -> torch.Tensor:
        """Logits of the hidden words, float32 ``[num_hidden, vocabulary_size]``, row by row of ``hidden``.

        ``text``: ``[batch, num_tokens, width]``; ``image``: ``[batch, num_image_tokens, width]``; masks bool, True
        where a token is real; ``hidden``: bool ``[batch, num_tokens]``.
        """
        # Only hidden words are asked about, so only they need be queries: [batch, most hidden in a caption].
        order = hidden.int().argsort(dim=1, descending=True, stable=True)
        order = order[:, : int(hidden.sum(1).amax())]
        asked = text.gather(1, order[..., None].expand(-1, -1, text.shape[2]))
        if self.layer is not None:
            asked = self.layer(asked, text, text_mask, image, image_mask)
        logits: torch.Tensor = self.words(self.norm(asked[hidden.gather(1, order)]))
        return logits


class _DecoderLayer(nn.Module):
    """A pre-norm decoder layer for some of a text's tokens: self-attention, cross-attention, feed-forward."""

    def __init__(self, width: int, num_heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.text_norm, self.image_norm, self.feed_norm = (nn.LayerNorm(width) for _ in range(3))
        self.over_text = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.over_image = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        asked: torch.Tensor,
        text: torch.Tensor,
        text_mask: torch.Tensor,
        image: torch.Tensor,
        image_mask: torch.Tensor,
    ) -> torch.Tensor:
        normed = self.text_norm(text)
        found, _ = self.over_text(
            self.text_norm(asked), normed, normed, key_padding_mask=~text_mask, need_weights=False
        )
        x = asked + self.dropout(found)
        found, _ = self.over_image(
            self.image_norm(x), image, image, key_padding_mask=~image_mask, need_weights=False
        )
        x = x + self.dropout(found)
        out: torch.Tensor = x + self.dropout(self.feed(self.feed_norm(x)))
        return out


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(locate("minilm").parent / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def _digest(shard: Sequence[Masking]) -> str:
    parts = [TEXT_LAYOUT, MODELS["minilm"].sha256, [m.text for m in shard]]
    return key_of(repr(parts), 12)
