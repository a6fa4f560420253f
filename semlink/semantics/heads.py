"""The trained heads: a small transformer over frozen tokens, pooled into the shared 256-d space (our definition)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import nn

from semlink.semantics.tokens import Tokens

FEATURE_DIM: Final = 256
"""Width of the space that text and media of a task share."""


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """Shape of one head. ``max_tokens`` bounds the learned positions; longer inputs are cut.

    ``pooled_bands`` > 0 adds a linear path from the tokens' maximum and from their means in so many bands (rows of a
    picture, stretches of a sound): what is there, past the narrow transformer, which then has to say only where.
    """

    in_dim: int
    max_tokens: int
    width: int = 128
    num_layers: int = 2
    num_heads: int = 4
    num_queries: int = 4
    dropout: float = 0.1
    input_dropout: float = 0.0
    pooled_bands: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


class Head(nn.Module):
    """Tokens to one unit vector.

    Each token is standardised with the training set's mean and deviation, projected, given a learned position and
    passed through pre-norm transformer layers; learned queries attend over the result; their outputs, side by side,
    are projected to 256 dimensions and normalised.

    ``forward(values [batch, num_tokens, in_dim], mask [batch, num_tokens] bool) -> [batch, 256]``, unit norm.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.register_buffer("mean", torch.zeros(config.in_dim))
        self.register_buffer("deviation", torch.ones(config.in_dim))
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.project = nn.Linear(config.in_dim, width)
        self.positions = nn.Parameter(torch.randn(config.max_tokens, width) * 0.02)
        self.layers = nn.ModuleList(
            [_Layer(width, config.num_heads, config.dropout) for _ in range(config.num_layers)]
        )
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(config.num_queries, width) * 0.02)
        self.pool = _Attention(width, config.num_heads)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.num_queries * width, FEATURE_DIM)
        self.skip: nn.Module | None = None
        if config.pooled_bands:
            pooled_dim = (config.pooled_bands + 1) * config.in_dim
            self.skip = nn.Sequential(
                nn.Dropout(2 * config.dropout), nn.Linear(pooled_dim, FEATURE_DIM)
            )

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return F.normalize(self.raw(values, mask), dim=-1)

    def raw(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The feature before normalisation, [batch, 256]."""
        return self.raw_of_standardised(*self.standardised(values, mask))

    def raw_of_standardised(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """:meth:`raw` of what :meth:`standardised` gave: training does that once, not at each step."""
        return self.readout(self._transformed(values, mask), mask, self.pooled(values, mask))

    def readout(
        self, states: torch.Tensor, mask: torch.Tensor, pooled: torch.Tensor
    ) -> torch.Tensor:
        """From token states (:meth:`hidden`) and :meth:`pooled` tokens to the feature before normalisation."""
        queries = self.queries.expand(states.shape[0], -1, -1)
        attended = self.pool(queries, states, mask)
        out: torch.Tensor = self.out(self.dropout(attended.flatten(1)))
        if self.skip is not None:
            out = out + self.skip(pooled)
        return out

    def hidden(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Token states after the transformer, [batch, num_tokens, width]."""
        return self._transformed(*self.standardised(values, mask))

    def standardised(
        self, values: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens that fit, each channel in deviations from its mean, and their mask."""
        # Channels are only ever appended to tokens, so a head that knows fewer of them stays valid.
        values = values[:, : self.config.max_tokens, : self.config.in_dim]
        # Rare channels of the backbones reach hundreds of deviations: they would own the projection.
        x = torch.addcmul(-self.mean / self.deviation, values, 1.0 / self.deviation)
        return x.clamp_(-8.0, 8.0), mask[:, : self.config.max_tokens]

    def pooled(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Maximum of standardised tokens and their mean in each band, ``[batch, (pooled_bands + 1)·in_dim]``.

        Without bands it is empty, ``[batch, 0]``.
        """
        bands = self.config.pooled_bands
        if not bands:
            return x.new_zeros(x.shape[0], 0)
        place = (mask.cumsum(1) - 1) * bands // mask.sum(1, keepdim=True)
        share = F.one_hot(place.clamp_min(0), bands).to(x.dtype) * mask[..., None]
        share = share / share.sum(1, keepdim=True).clamp_min(1.0)
        means = torch.einsum("bnk,bnd->bkd", share, x)
        largest = x.masked_fill(~mask[..., None], -8.0).amax(1)
        return torch.cat([largest, means.flatten(1)], dim=1)

    def _transformed(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.dropout(self.project(self.input_dropout(x))) + self.positions[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, mask)
        out: torch.Tensor = self.norm(x)
        return out

    def encode(self, tokens: Tokens) -> torch.Tensor:
        """:meth:`forward` of a batch of tokens."""
        out: torch.Tensor = self(tokens.values, tokens.mask)
        return out


class _Attention(nn.Module):
    """Multi-head attention of queries over masked tokens."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: torch.Tensor, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, num_queries, width = queries.shape

        def split(t: torch.Tensor) -> torch.Tensor:
            return t.view(batch, t.shape[1], self.num_heads, -1).transpose(1, 2)

        q = split(self.query(queries))
        k, v = map(split, self.key_value(x).chunk(2, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        out: torch.Tensor = self.out(y.transpose(1, 2).reshape(batch, num_queries, width))
        return out


class _Layer(nn.Module):
    """A pre-norm transformer layer, feed-forward twice the width."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = _Attention(width, num_heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, normed, mask))
        out: torch.Tensor = x + self.dropout(self.feed(self.feed_norm(x)))
        return out
