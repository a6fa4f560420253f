r"""Heads for small sets of real pictures and sounds: pooled frozen tokens, two views of them, no transformer.

A few thousand items are too few for a network over tokens. What all tokens say together is pooled, and read by a linear
map that regularised canonical correlation gives in closed form (Hotelling, 1936) and by a network with one hidden layer
that a contrastive loss trains: they err differently, and their common principal axes are the feature. The last
coordinate corrects hubs, items that are near every query: querybank normalisation (Bogolin et al., CVPR 2022), in the
form of the inverted softmax (Smith et al., ICLR 2017), over captions of the train split. The combination is our
definition.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import nn

from semlink.semantics.heads import FEATURE_DIM, Head
from semlink.semantics.tokens import Tokens

NEAREST: Final = 0.4
"""Cosine to an entry of the lexicon from which a token counts."""
CLAMP: Final = 8.0
"""Deviations at which pooled values are cut."""


@dataclass(frozen=True, slots=True)
class PooledConfig:
    """Shape of a :class:`PooledHead`.

    ``lifted`` > 0: the last ``lift_from`` channels of each token also pass a fixed layer of so many outputs with ReLU6
    (the image backbone's own last one). ``lexicon`` > 0: the strongest response to each of so many directions of token
    space. ``bank`` > 0: rows of the query bank, on the side of the items; 0 on the side of the queries.
    """

    in_dim: int
    max_tokens: int
    lift_from: int = 0
    lifted: int = 0
    lexicon: int = 0
    hidden: int = 512
    dropout: float = 0.0
    hidden_dropout: float = 0.0
    bank: int = 0

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled vector."""
        return self.in_dim + (2 * self.lifted or self.in_dim) + self.lexicon

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


class PooledHead(Head):
    """Tokens to one unit vector, ``forward(values [batch, num_tokens, in_dim], mask [batch, num_tokens] bool)``.

    Fitted and trained by :mod:`lab.training.pooled_heads`. It stands wherever a head is asked for a feature; it has
    no states of single tokens, so :meth:`hidden` raises TypeError.
    """

    def __init__(self, config: PooledConfig) -> None:
        # A head by what it answers, not by its layers.
        nn.Module.__init__(self)
        self.shape = config
        width = config.pooled_dim
        for name, shape in (
            ("lift", (config.lifted, config.lift_from)),
            ("lift_bias", (config.lifted,)),
            ("token_mean", (config.in_dim,)),
            ("lexicon", (config.lexicon, config.in_dim)),
            ("mean", (width,)),
            ("correlated", (FEATURE_DIM, width)),
            ("joint", (FEATURE_DIM - 1, 2 * FEATURE_DIM)),
            ("bank", (config.bank, FEATURE_DIM - 1)),
            ("hub", (3,)),
        ):
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("deviation", torch.ones(width))
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(width, FEATURE_DIM)
        self.network = nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.hidden_dropout),
            nn.Linear(config.hidden, FEATURE_DIM),
        )

    def pooled(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What all tokens say together, [batch, pooled_dim].

        Their mean, the mean and maximum of their lifted channels (without lift: their maximum), the lexicon's strongest
        responses.
        """
        shape = self.shape
        x = values[:, : shape.max_tokens, : shape.in_dim]
        mask = mask[:, : shape.max_tokens, None]
        parts = [_mean(x, mask)]
        if shape.lifted:
            lift, bias = self.get_buffer("lift"), self.get_buffer("lift_bias")
            x_lifted = F.relu6(F.linear(x[..., -shape.lift_from :], lift, bias))
            parts += [_mean(x_lifted, mask), _maximum(x_lifted, mask)]
        else:
            parts.append(_maximum(x, mask))
        if shape.lexicon:
            direction = F.normalize(x - self.get_buffer("token_mean"), dim=-1)
            near = F.relu(direction @ self.get_buffer("lexicon").T - NEAREST)
            parts.append(near.masked_fill(~mask, 0.0).amax(1))
        return torch.cat(parts, 1)

    def deviations(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled values in deviations from the train split's mean."""
        return ((pooled - self.mean) / self.deviation).clamp(-CLAMP, CLAMP)

    def trained(self, x: torch.Tensor) -> torch.Tensor:
        """The contrastive view of standardised pooled values, [batch, 256], unit norm."""
        x = self.dropout(x)
        return F.normalize(self.linear(x) + self.network(x), dim=-1)

    def views(self, x: torch.Tensor) -> torch.Tensor:
        """Both views side by side, [batch, 512]."""
        correlated = F.normalize(x @ self.get_buffer("correlated").T, dim=-1)
        return torch.cat([correlated, self.trained(x)], 1)

    def together(self, x: torch.Tensor) -> torch.Tensor:
        """Both views on their common axes, [batch, 255], unit norm."""
        return F.normalize(self.views(x) @ self.get_buffer("joint").T, dim=-1)

    def raw(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The feature before normalisation, [batch, 256]."""
        return self.completed(self.together(self.deviations(self.pooled(values, mask))))

    def completed(self, together: torch.Tensor) -> torch.Tensor:
        """The last coordinate added to both views' common axes [batch, 255]: one for queries, minus the hubness."""
        if not self.shape.bank:
            return torch.cat([together, torch.ones_like(together[:, :1])], 1)
        return torch.cat([together, -self.get_buffer("hub")[1] * self.hubness(together)], 1)

    def hubness(self, together: torch.Tensor) -> torch.Tensor:
        """How near items [batch, 255] are to the query bank above the average, [batch, 1]."""
        sharpness, _, average = self.get_buffer("hub")
        scores = sharpness * together @ self.get_buffer("bank").T
        near: torch.Tensor = torch.logsumexp(scores, 1, keepdim=True) / sharpness - average
        return near

    def hidden(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """A pooled head has none."""
        raise TypeError("a pooled head has no token states")

    def encode(self, tokens: Tokens) -> torch.Tensor:
        """:meth:`forward` of a batch of tokens."""
        out: torch.Tensor = self(tokens.values, tokens.mask)
        return out


def _mean(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (x * mask).sum(1) / mask.sum(1).clamp_min(1)


def _maximum(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return x.masked_fill(~mask, -torch.inf).amax(1)
