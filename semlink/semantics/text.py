"""The frozen sentence encoder: MiniLM token states and sentence embeddings."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from semlink.errors import InvalidField
from semlink.models import MODELS, locate
from semlink.runtime import FrozenNetwork
from semlink.semantics.tokens import Tokens, pad

WIDTH: Final = 384
MAX_TOKENS: Final = 128
"""Longer texts are cut: MiniLM was trained on at most 128 word pieces, and a long query may have more."""
PACKED: Final = 256
"""Word pieces of texts laid end to end, at most: attention costs their square."""
FOREIGN_SHARE: Final = 0.2
"""Share of letters in other scripts above which a text is reported as not English."""

_lock = threading.Lock()


class _Packed(nn.Module):
    """MiniLM on texts laid end to end: ids and places [1, num_tokens], which token sees which [1, 1, n, n]."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel

        super().__init__()
        self.model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32)

    def forward(self, ids: torch.Tensor, places: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.model(
            input_ids=ids, position_ids=places, attention_mask=sees
        ).last_hidden_state
        return out


class MiniLm:
    """all-MiniLM-L6-v2, frozen. Loaded once a process by :func:`minilm`; safe to call from several threads."""

    def __init__(self, device: str = "cpu") -> None:
        import tokenizers

        folder = locate("minilm").parent
        self.device = torch.device(device)
        self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        # Padding is not needed: texts are laid end to end.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._network = FrozenNetwork(
            "minilm",
            partial(_Packed, folder),
            example=lambda: _packed([[101, 2158, 102], [101, 1037, 3899, 102]]),
            shapes=([1, -1], [1, -1], [1, 1, -1, -1]),
            identity=MODELS["minilm"].sha256,
            device=device,
        )

    def token_states(self, texts: Sequence[str]) -> Tokens:
        """Last hidden states, one token a word piece with [CLS] and [SEP], values [batch, num_tokens, 384].

        Raises InvalidField for an empty list or an empty text.
        """
        return pad(self.packed_states(texts)).to(self.device)

    def num_word_pieces(self, texts: Sequence[str]) -> list[int]:
        """Word pieces of each text, [CLS] and [SEP] included, those beyond :data:`MAX_TOKENS` as well."""
        return [
            len(encoding.ids) + sum(len(more.ids) - 2 for more in encoding.overflowing)
            for encoding in self._tokenizer.encode_batch(list(texts))
        ]

    def packed_states(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """Last hidden states of each text, [num_tokens, 384]. No text sees another one.

        Texts of similar length are laid end to end, :data:`PACKED` word pieces a run: nothing is computed for padding.
        Raises InvalidField as :meth:`token_states`.
        """
        rows = self._pieces(texts)
        states: list[torch.Tensor] = [torch.empty(0)] * len(rows)
        for picked in _packs([len(row) for row in rows]):
            out = self._network(*_packed([rows[index] for index in picked]))[0]
            for index, part in zip(
                picked, torch.split(out, [len(rows[i]) for i in picked]), strict=True
            ):
                states[index] = part
        return states

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text's word pieces. Raises InvalidField."""
        if not texts:
            raise InvalidField("text is an empty list, expected at least one text", field="text")
        blank = next((i for i, text in enumerate(texts) if not text.strip()), None)
        if blank is not None:
            raise InvalidField(f"text {blank} is empty", field="text")
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def sentence_embeddings(self, texts: Sequence[str]) -> torch.Tensor:
        """Mean of the token states, L2-normalised, [batch, 384], float32 (the model card's pooling)."""
        tokens = self.token_states(texts)
        return torch.nn.functional.normalize(tokens.values.sum(1) / tokens.mask.sum(1)[:, None])


def _packs(lengths: Sequence[int]) -> list[list[int]]:
    """Texts that run together, longest first: as many as fit into :data:`PACKED` word pieces."""
    packs: list[list[int]] = []
    free = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not packs or lengths[index] > free:
            packs.append([])
            free = PACKED
        packs[-1].append(index)
        free -= lengths[index]
    return packs


def _packed(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, places and who sees whom of texts laid end to end; see :class:`_Packed`."""
    lengths = torch.tensor([len(row) for row in rows])
    owner = torch.arange(len(rows)).repeat_interleave(lengths)
    first = (lengths.cumsum(0) - lengths)[owner]
    return (
        torch.tensor([[i for row in rows for i in row]]),
        (torch.arange(len(owner)) - first)[None],
        (owner[:, None] == owner[None, :])[None, None],
    )


def text_warnings(texts: Sequence[str]) -> list[list[str]]:
    """Why each text may be understood badly; empty for an English text that fits. Our definition.

    The encoder reads :data:`MAX_TOKENS` word pieces and was trained on English: what is cut, and what is written in
    another script, is said and not passed over. Another language in Latin letters is not noticed.
    """
    if not texts:
        return []
    lengths = minilm().num_word_pieces(texts)
    return [_text_warnings(text, length) for text, length in zip(texts, lengths, strict=True)]


def _text_warnings(text: str, num_word_pieces: int) -> list[str]:
    found = []
    if num_word_pieces > MAX_TOKENS:
        found.append(
            f"{num_word_pieces} word pieces: only the first {MAX_TOKENS} are read; "
            "retrieval.extraction sends the key sentences instead"
        )
    letters = [c for c in text if c.isalpha()]
    foreign = sum(not unicodedata.name(c, "").startswith("LATIN") for c in letters)
    if not letters:
        found.append("no letter in it: the encoder knows English words")
    elif foreign > FOREIGN_SHARE * len(letters):
        found.append(
            f"{foreign} of {len(letters)} letters are not Latin: the encoder was trained on English"
        )
    return found


@lru_cache(maxsize=2)
def _minilm(device: str) -> MiniLm:
    return MiniLm(device)


def minilm(device: str = "cpu") -> MiniLm:
    """The process's MiniLM. Raises NotFound with the installing command when the package is missing."""
    with _lock:
        return _minilm(device)


def sentence_embeddings(texts: Sequence[str], device: str = "cpu") -> NDArray[np.float32]:
    """MiniLM sentence embeddings, [n, 384], float32, unit norm: their dot product is the cosine similarity."""
    embeddings: NDArray[np.float32] = minilm(device).sentence_embeddings(texts).cpu().numpy()
    return embeddings
