"""``transformer``: a small transformer over the reports, trained like the others and without any LLM. Our definition.

What an engineer would try before a language model: each report is a token, attention sees which of them are there, and
the last token's output says what the anchor lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from kb_service.generators.base import (
    CONDITION_SIZE,
    REPORT_FEATURES,
    Antennas,
    ChannelGenerator,
    Prepared,
)
from kb_service.generators.heads import ComponentGains, DenseHead
from semlink.signal.feedback import HISTORY_REPORTS


@dataclass(frozen=True, slots=True)
class TransformerSettings:
    """Sizes. The defaults have about as many trained weights as ``cdg``."""

    width: int = 96
    depth: int = 2
    heads: int = 4
    hidden: int = 256


class Block(nn.Module):
    """Self-attention and an MLP side by side, as in GPT-J: two wide matrices; every item by itself."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.sizes = (width, width, width, hidden)
        self.norm = nn.LayerNorm(width)
        self.inward = nn.Linear(width, 3 * width + hidden)
        self.outward = nn.Linear(width + hidden, width)

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """``x``: float32 ``[n, tokens, width]``; ``seen``: bool ``[n, tokens]``. Returns the shape of ``x``."""
        *qkv, inner = self.inward(self.norm(x)).split(self.sizes, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv)
        mixed = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=seen[:, None, None, :]
        )
        both = torch.cat([mixed.transpose(1, 2).flatten(2), nn.functional.gelu(inner)], dim=-1)
        added: torch.Tensor = self.outward(both)
        return x + added


class Transformer(ChannelGenerator):
    """See the module. Tokens: the reports, oldest first, and last the anchor with what is known of the link."""

    name: ClassVar[str] = "transformer"
    settings: TransformerSettings

    def __init__(self, settings: TransformerSettings, antennas: Antennas) -> None:
        super().__init__(settings, antennas)
        width = settings.width
        self.embed = nn.Linear(2 * antennas.size, width)
        self.about = nn.Linear(REPORT_FEATURES, width, bias=False)
        self.condition = nn.Linear(CONDITION_SIZE, width)
        self.place = nn.Parameter(0.02 * torch.randn(HISTORY_REPORTS + 1, width))
        self.blocks = nn.ModuleList(
            Block(width, settings.heads, settings.hidden) for _ in range(settings.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.gains = ComponentGains(antennas, width)
        self.dense = DenseHead(antennas, width)

    def residual(self, prepared: Prepared) -> torch.Tensor:
        """See :class:`ChannelGenerator`."""
        whole = torch.cat([prepared.reports, prepared.anchor[:, None]], dim=1)
        context = torch.cat(
            [self.about(prepared.about), self.condition(prepared.condition)[:, None]], dim=1
        )
        x = self.embed(torch.view_as_real(whole).flatten(2)) + context + self.place
        seen = nn.functional.pad(prepared.present, (0, 1), value=True)
        for block in self.blocks:
            x = block(x, seen)
        summary = self.norm(x[:, -1])
        residual: torch.Tensor = self.gains(prepared, summary) + self.dense(summary)
        return residual


def transformer(antennas: Antennas, **settings: Any) -> Transformer:
    """A new generator with these settings."""
    return Transformer(TransformerSettings(**settings), antennas)
