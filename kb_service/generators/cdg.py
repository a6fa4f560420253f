r"""CDG, the channel data generation of SC-LMKB: a frozen language model reads a history of CSI reports.

1. patches of consecutive reports are embedded by two branches, over subbands and over delays, to ``E_his``;
2. cross-attention aligns them to word prototypes (Time-LLM, arXiv 2310.01728, eqs. 2–3): ``E' = W_map E_word``,
   :math:`A = \mathrm{softmax}(Q K^T / \sqrt{d})` with ``Q`` from ``E_his`` and ``K``, ``V`` from ``E'``;
3. the first blocks of SmolLM2, frozen, read the tokens;
4. the head predicts what the best linear combination of the reports misses.

The paper says no more than that; sizes, anchor, coordinates and head are our definition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import nn

from kb_service.generators.base import (
    CONDITION_SIZE,
    REPORT_FEATURES,
    Antennas,
    ChannelGenerator,
    Prepared,
    delays_to_subbands,
)
from kb_service.generators.heads import ComponentGains, DenseHead
from kb_service.generators.trunk import TRUNK_WIDTH, Trunk, frequent_words
from semlink.signal.feedback import HISTORY_REPORTS

NUM_HEADS: Final = 4


@dataclass(frozen=True, slots=True)
class CdgSettings:
    """Shape of a generator."""

    depth: int = 2
    """Blocks of the language model."""
    pretrained: bool = True
    """False: blocks as drawn, for comparison."""
    patch_reports: int = 2
    width: int = 80
    """``d_E``."""
    prototypes: int = 128
    """``V'``; 0: tokens without alignment, for comparison."""
    words: int = 2048
    """Of the vocabulary, from which prototypes are made."""


class Prototypes(nn.Module):
    """Cross-attention onto word prototypes.

    Words and the map from them are needed in training only: what is stored are the keys and values that follow from
    ``E'``.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, width: int, prototypes: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.register_buffer("keys", torch.zeros(prototypes, width))
        self.register_buffer("values", torch.zeros(prototypes, width))
        self.source: _WordMap | None = None

    def train_from(self, words: torch.Tensor) -> None:
        """Make prototypes of these words, float32 ``[words, TRUNK_WIDTH]``, and train the map."""
        self.source = _WordMap(words, *self.keys.shape)

    def fold(self) -> None:
        """Keep what the map has come to and forget the words."""
        if self.source is not None:
            with torch.no_grad():
                keys, values = self.source()
            self.keys, self.values = keys.clone(), values.clone()
            self.source = None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """``[n, num_tokens, width]`` → what the prototypes say of each, of the same shape."""
        keys, values = self.source() if self.source is not None else (self.keys, self.values)
        q, k, v = (
            x.unflatten(-1, (NUM_HEADS, -1)).transpose(-2, -3)
            for x in (self.query(tokens), keys, values)
        )
        attention = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
        predicted: torch.Tensor = (attention @ v).transpose(-2, -3).flatten(-2)
        return predicted


class _WordMap(nn.Module):
    """``E' = W_map E_word`` and its keys and values."""

    words: torch.Tensor

    def __init__(self, words: torch.Tensor, prototypes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("words", words / words.std(), persistent=False)
        self.map = nn.Linear(len(words), prototypes, bias=False)
        self.key = nn.Linear(words.shape[1], width, bias=False)
        self.value = nn.Linear(words.shape[1], width, bias=False)

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        # unit rows: a map of thousands of words grows fast, and would drown the tokens that it is added to
        prototypes = _normed(self.map.weight @ self.words)
        return self.key(prototypes), self.value(prototypes)


def _normed(x: torch.Tensor) -> torch.Tensor:
    """``x`` with mean 0 and variance 1 over its last dimension."""
    return nn.functional.layer_norm(x, x.shape[-1:])


class Cdg(ChannelGenerator):
    """``cdg``."""

    name: ClassVar[str] = "cdg"
    settings: CdgSettings

    def __init__(self, settings: CdgSettings, antennas: Antennas) -> None:
        super().__init__(settings, antennas)
        width, patch = settings.width, settings.patch_reports
        numbers = 2 * patch * antennas.size
        self.subbands = nn.Linear(numbers, width)
        self.delays = nn.Linear(numbers, width)
        self.about = nn.Linear(patch * REPORT_FEATURES, width)
        self.condition = nn.Linear(CONDITION_SIZE, width)
        self.place = nn.Parameter(0.02 * torch.randn(HISTORY_REPORTS // patch, width))
        self.norm = nn.LayerNorm(width)
        self.prototypes = Prototypes(width, settings.prototypes) if settings.prototypes else None
        self.enter = nn.Linear(width, TRUNK_WIDTH)
        self.trunk = Trunk(settings.depth, pretrained=settings.pretrained)
        self.leave = nn.Linear(TRUNK_WIDTH, width)
        self.gains = ComponentGains(antennas, width)
        self.dense = DenseHead(antennas, width)

    def start_training(self) -> None:
        """Bring in the words that prototypes are made of."""
        if self.prototypes is not None:
            self.prototypes.train_from(frequent_words(self.settings.words))

    def end_training(self) -> None:
        """Let go of what only training needs."""
        if self.prototypes is not None:
            self.prototypes.fold()

    def residual(self, prepared: Prepared) -> torch.Tensor:
        """See :class:`ChannelGenerator`."""
        tokens = self._embedded(prepared)
        aligned = tokens if self.prototypes is None else tokens + self.prototypes(tokens)
        read = self.leave(self.trunk(self.enter(_normed(aligned))))
        # The last token has read all; with the mean a trunk without blocks has, too.
        summary = _normed(read[:, -1] + read.mean(1) + tokens.mean(1))
        residual: torch.Tensor = self.gains(prepared, summary) + self.dense(summary)
        return residual

    def _embedded(self, prepared: Prepared) -> torch.Tensor:
        """``E_his``: float32 ``[n, num_patches, width]``."""
        patches = HISTORY_REPORTS // self.settings.patch_reports
        delays, subbands = (
            torch.view_as_real(x.contiguous()).reshape(len(x), patches, -1)
            for x in (prepared.reports, delays_to_subbands(prepared.reports, self.antennas))
        )
        context = self.about(prepared.about.reshape(len(delays), patches, -1))
        context = context + self.condition(prepared.condition)[:, None] + self.place
        gelu = nn.functional.gelu
        tokens: torch.Tensor = self.norm(
            gelu(self.subbands(subbands)) + gelu(self.delays(delays)) + context
        )
        return tokens

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """See :class:`ChannelGenerator`."""
        self.end_training()
        super().restore(state)


def cdg(antennas: Antennas, **settings: Any) -> Cdg:
    """A new generator with these settings."""
    return Cdg(CdgSettings(**settings), antennas)
