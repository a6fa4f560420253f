"""The frozen sentence encoder: MiniLM token states and sentence embeddings."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from semlink.errors import InvalidField
from semlink.models import locate
from semlink.semantics.tokens import Tokens

WIDTH: Final = 384
MAX_TOKENS: Final = 128
"""Longer texts are cut: MiniLM was trained on at most 128 word pieces, and a long query may have more."""
BATCH: Final = 64
PACKED: Final = 256
"""Word pieces of texts laid end to end, at most (a longer text has a run of its own)."""
FOREIGN_SHARE: Final = 0.2
"""Share of letters in other scripts above which a text is reported as not English."""

_lock = threading.Lock()


class MiniLm:
    """all-MiniLM-L6-v2, frozen. Loaded once a process by :func:`minilm`; safe to call from several threads."""

    def __init__(self, device: str = "cpu") -> None:
        import tokenizers
        from transformers import AutoModel

        folder = locate("minilm").parent
        self.device = torch.device(device)
        self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        # Padding is done here, by hand: the tokenizer's own is state that threads would share.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._model: Any = _frozen(AutoModel.from_pretrained(Path(folder), dtype=torch.float32))
        self._model.to(self.device)

    @torch.inference_mode()
    def token_states(self, texts: Sequence[str]) -> Tokens:
        """Last hidden states, one token a word piece with [CLS] and [SEP], values [batch, num_tokens, 384].

        Texts are sorted by length and run in batches of 64. Raises InvalidField for an empty list or an empty text.
        """
        rows = self._pieces(texts)
        longest = max(map(len, rows))
        values = torch.zeros(len(rows), longest, WIDTH, device=self.device)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool, device=self.device)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        for start in range(0, len(order), BATCH):
            picked = order[start : start + BATCH]
            width = max(len(rows[index]) for index in picked)
            ids = torch.zeros(len(picked), width, dtype=torch.long)
            real = torch.zeros(len(picked), width, dtype=torch.bool)
            for place, index in enumerate(picked):
                ids[place, : len(rows[index])] = torch.tensor(rows[index])
                real[place, : len(rows[index])] = True
            ids, real = ids.to(self.device), real.to(self.device)
            states = self._model(input_ids=ids, attention_mask=real.long()).last_hidden_state
            values[picked, :width] = states * real[..., None]
            mask[picked, :width] = real
        return Tokens(values, mask)

    def num_word_pieces(self, texts: Sequence[str]) -> list[int]:
        """Word pieces of each text, [CLS] and [SEP] included, those beyond :data:`MAX_TOKENS` as well."""
        return [
            len(encoding.ids) + sum(len(more.ids) - 2 for more in encoding.overflowing)
            for encoding in self._tokenizer.encode_batch(list(texts))
        ]

    @torch.inference_mode()
    def packed_states(self, sentences: Sequence[str]) -> list[torch.Tensor]:
        """:meth:`token_states` of many short texts, [num_tokens, 384] each, laid end to end instead of padded.

        No text sees another one: the same states up to rounding, a third faster for the sentences of one text. Raises
        InvalidField as :meth:`token_states`.
        """
        rows = self._pieces(sentences)
        states: list[torch.Tensor] = []
        start = 0
        while start < len(rows):
            end, size = start, 0
            while end < len(rows) and (end == start or size + len(rows[end]) <= PACKED):
                size += len(rows[end])
                end += 1
            lengths = [len(row) for row in rows[start:end]]
            ids = torch.tensor([i for row in rows[start:end] for i in row], device=self.device)
            places = torch.cat([torch.arange(n, device=self.device) for n in lengths])
            owner = torch.arange(end - start, device=self.device).repeat_interleave(
                torch.tensor(lengths, device=self.device)
            )
            out = self._model(
                input_ids=ids[None],
                position_ids=places[None],
                attention_mask=(owner[:, None] == owner[None, :])[None, None],
            ).last_hidden_state[0]
            states += torch.split(out, lengths)
            start = end
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


def _frozen(model: Any) -> Any:
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


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
