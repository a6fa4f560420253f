"""Which words of a query made a retrieval: importance in the manner of Grad-CAM.

Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) multiplies the activations of a late layer by the gradient of a score
with respect to them, sums over channels and keeps what is positive. Here (our definition) the score is the cosine of
the query's feature with the feature of an item of the gallery, and the late layer's cells are not places of a picture
but word pieces of a text: importance of a token is ``ReLU(Σ_c g_c · a_c)`` of what the text head's own layers make of
it (the head's linear path past its layers is held as it is), that of a word is summed over its pieces ([CLS] and [SEP]
belong to no word), and a query's largest is 1.

Of eight such rules (input or hidden states, gradient a token or a channel, sum or maximum over pieces) this one was
best on val in the mean over tasks: its first word costs 0.127 of cosine, that of the best rule on the head's input
0.114, a random word 0.021, the best of all words 0.177. On sounds alone the input names better words (0.172 against
0.132). What it is worth on test is measured by :mod:`lab.experiments.qualitative.deletion_study`. Importance is of the
query as sent without knowledge, not of its fusion with rewrites.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from semlink.models import locate
from semlink.semantics.encoders import text_tokens
from semlink.semantics.heads import Head
from semlink.semantics.text import MAX_TOKENS
from semlink.semantics.tokens import Tokens

NO_WORD: Final = -1
SMALLEST: Final = 1e-6
"""Importance below which a query has none: rounding of a gradient of zero stays below 1e-7, others exceed 1e-3."""


def words_of(text: str) -> list[str]:
    """Words as they are removed and shown: what white space separates, with its punctuation."""
    return text.split()


def words_of_tokens(text: str) -> list[int]:
    """The word of each token of :func:`text_tokens`, by its place in :func:`words_of`; ``NO_WORD`` for [CLS], [SEP]."""
    owner: list[int] = []
    word, before = NO_WORD, " "
    for letter in text:
        word += not letter.isspace() and before.isspace()
        owner.append(word)
        before = letter
    encoding = _tokenizer().encode(text)
    return [
        NO_WORD if special else owner[start]
        for special, (start, _) in zip(encoding.special_tokens_mask, encoding.offsets, strict=True)
    ]


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    """MiniLM's tokenizer, for the places of word pieces; the encoder's own keeps them to itself."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(locate("minilm").parent / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def activations_and_gradients(
    head: Head, tokens: Tokens, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A text head's hidden states and the gradient of ``cos(feature, target)`` with respect to them.

    ``targets``: ``[batch, 256]``, one item's feature a text. Both results ``[batch, num_tokens, channels]``, in the
    head's dtype; the gradient is 0 where a token is padding.
    """
    # Tokens come from inference mode, whose tensors no graph may hold.
    x, mask = head.standardised(tokens.values.clone(), tokens.mask.clone())
    held = head.hidden(tokens.values.clone(), tokens.mask.clone()).detach().requires_grad_(True)
    raw = head.readout(held, mask, head.pooled(x, mask))
    # A text's cosine depends on its own tokens alone: the gradient of the sum holds every text's own.
    total = torch.nn.functional.cosine_similarity(raw, targets, dim=-1).sum()
    (gradient,) = torch.autograd.grad(total, held)
    return held.detach(), gradient * mask[..., None]


def importance(
    texts: Sequence[str], targets: NDArray[np.float32], head: Head
) -> list[NDArray[np.float32]]:
    """Importance of each word of each text for its similarity to its target: float32 ``[num_words]`` in 0…1 a text.

    ``targets``: float32 ``[num_texts, 256]``. The largest is 1; all are 0 where no word speaks for the item. Words
    beyond the encoder's 128 word pieces have 0. What a text gets does not depend on the others (each runs by itself).
    Our definition: see the module.
    """
    found = []
    for text, target in zip(texts, targets, strict=True):
        held, gradient = activations_and_gradients(
            head, text_tokens([text]), torch.from_numpy(target[None])
        )
        tokens = torch.relu((gradient * held).sum(-1))[0].numpy()
        pooled = np.zeros(len(words_of(text)), dtype=np.float32)
        owners = np.array(words_of_tokens(text))[: len(tokens)]
        np.add.at(pooled, owners[owners != NO_WORD], tokens[owners != NO_WORD])
        largest = pooled.max(initial=0.0)
        found.append(pooled / largest if largest > SMALLEST else np.zeros_like(pooled))
    return found
