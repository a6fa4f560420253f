"""The frozen trunk of generators that are built on a language model: SmolLM2's first blocks, and its words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import nn

from kb_service.llm import prepare_language_model
from semlink.errors import InvalidField
from semlink.models import cache_dir

TRUNK_WIDTH: Final = 576
MAX_DEPTH: Final = 30
RANDOM_SEED: Final = 20_240_501
"""Of the trunk that is frozen as drawn, for comparison."""


class Trunk(nn.Module):
    """The first ``depth`` blocks of SmolLM2-135M and its last norm, fed by ``inputs_embeds``.

    ``pretrained`` False gives the same blocks with the weights that training would begin with: what the pretrained
    ones are worth is the difference. ``depth`` 0 gives the tokens back. Float32, causal, without gradients of its own.
    Raises InvalidField for a depth outside 0…30, NotFound where the model is not installed.
    """

    def __init__(self, depth: int, *, pretrained: bool = True) -> None:
        super().__init__()
        if not 0 <= depth <= MAX_DEPTH:
            raise InvalidField(f"depth is {depth}, allowed: 0…{MAX_DEPTH}", field="depth")
        self.blocks: nn.Module | None = _blocks(depth, pretrained) if depth else None
        self.requires_grad_(False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """``tokens``: float32 ``[n, num_tokens, TRUNK_WIDTH]``, oldest first → of the same shape."""
        if self.blocks is None:
            return tokens
        hidden: torch.Tensor = self.blocks(inputs_embeds=tokens, use_cache=False).last_hidden_state
        return hidden


def _blocks(depth: int, pretrained: bool) -> nn.Module:
    from transformers import LlamaConfig, LlamaModel

    folder = prepare_language_model(cache_dir())
    config = LlamaConfig.from_pretrained(folder)
    config.num_hidden_layers = depth
    config.vocab_size, config.pad_token_id = 1, 0  # no words go in
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        model: nn.Module = LlamaModel(config)
    if pretrained:
        wanted = {name for name in model.state_dict() if not name.startswith("embed_tokens.")}
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            state = {name: file.get_tensor(f"model.{name}").float() for name in wanted}
        missing = model.load_state_dict(state, strict=False).missing_keys
        if missing != ["embed_tokens.weight"]:
            raise InvalidField(f"the language model lacks {', '.join(missing)}", field="model")
    return model.eval()


def frequent_words(number: int) -> torch.Tensor:
    """Embeddings of the ``number`` most frequent whole words of the vocabulary: float32 ``[number, TRUNK_WIDTH]``.

    A byte-pair vocabulary lists tokens in the order in which they were merged, frequent ones first; whole words are
    those that begin with a space and go on with letters.
    """
    folder = prepare_language_model(cache_dir())
    words = [
        number_of
        for token, number_of in sorted(_vocabulary(folder).items(), key=lambda item: item[1])
        if token.startswith("Ġ") and token[1:].isascii() and token[1:].isalpha()
    ][:number]
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        table = file.get_tensor("model.embed_tokens.weight")
    embeddings: torch.Tensor = table[words].float()
    return embeddings


def _vocabulary(folder: Path) -> dict[str, int]:
    tokenizer: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    return vocabulary
