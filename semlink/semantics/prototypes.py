r"""Global and prototype alignment, GPA (Xie et al., "GPA: Global and Prototype Alignment for Audio-Text Retrieval").

A :class:`PrototypeHead` turns an input into 1 + K components: the head's own output (the global feature) and K
prototypes, each a sum over the tokens. A :class:`PrototypeScorer` compares the components of a text with those of a
sound: ``R = s_g + s'_p`` (eq. 9), the cosine of the global features plus what an aggregator makes of the matrix of
cosines between all components.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn

from semlink.errors import InvalidField
from semlink.semantics.heads import FEATURE_DIM, Head, HeadConfig
from semlink.semantics.tokens import Tokens

Generator = Literal["mask", "attention"]
Aggregator = Literal["mean", "softmax", "lass"]
Side = Literal["text", "media"]
MAX_PROTOTYPES: Final = 16


@dataclass(frozen=True, slots=True)
class PrototypeConfig:
    """How prototypes are made (:class:`PrototypeHead`) and compared (:class:`PrototypeScorer`); both ends agree on it.

    Raises InvalidField for an unknown generator or aggregator or a number of prototypes outside 1…16.
    """

    num_prototypes: int = 3
    generator: Generator = "mask"
    aggregator: Aggregator = "lass"
    hidden: int = 256
    """Width of the MLP between the sums over tokens and the shared space."""
    frozen_tokens: bool = True
    """Whether a token's feature is its state beside the standardised frozen token, or its state alone."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_prototypes <= MAX_PROTOTYPES:
            raise InvalidField(
                f"num_prototypes is {self.num_prototypes}, allowed: 1…{MAX_PROTOTYPES}",
                field="num_prototypes",
            )
        for name, kind in (("generator", Generator), ("aggregator", Aggregator)):
            if getattr(self, name) not in get_args(kind):
                raise InvalidField(
                    f"{name} is {getattr(self, name)!r}, allowed: {', '.join(get_args(kind))}",
                    field=name,
                )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


class PrototypeHead(Head):
    """A head that also gives K prototypes. ``forward`` stays the global feature, so it stands wherever a head does.

    A token's feature t_j is its state h_j after the head's transformer beside the standardised frozen token
    (``frozen_tokens``, ours: past the narrow transformer, as the global feature's linear path; else h_j alone).
    ``mask``, eq. 1: ``p_k = Σ_j t_j · relu(W h_j + b)_k``. ``attention`` (the paper gives no formula; this is ours): K
    learned queries, ``p_k = Σ_j softmax_j(q_k · W h_j / √d) t_j``. A layer norm and an MLP, shared by all k, take p_k
    to the 256-d space; the layer norm (ours) makes the sum's scale, that is the sound's length, irrelevant.
    """

    def __init__(self, config: HeadConfig, prototypes: PrototypeConfig) -> None:
        super().__init__(config)
        self.prototypes = prototypes
        if prototypes.generator == "mask":
            self.mask_of = nn.Linear(config.width, prototypes.num_prototypes)
        else:
            self.key = nn.Linear(config.width, config.width)
            self.prototype_queries = nn.Parameter(
                torch.randn(prototypes.num_prototypes, config.width)
            )
        token_dim = config.width + (config.in_dim if prototypes.frozen_tokens else 0)
        self.prototype_norm = nn.LayerNorm(token_dim)
        self.prototype_mlp = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(token_dim, prototypes.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(prototypes.hidden, FEATURE_DIM),
        )

    def components(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Tokens and their mask to ``[batch, 1 + K, 256]``, the global feature first, unit norm each."""
        values, mask = self.standardised(values, mask)
        states = self._transformed(values, mask)
        return self.components_and_raw(states, mask, self.pooled(values, mask), values)[0]

    def components_and_raw(
        self,
        states: torch.Tensor,
        mask: torch.Tensor,
        pooled: torch.Tensor,
        values: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """:meth:`components`, and the global feature before normalisation, from what :meth:`readout` takes.

        ``values``: the standardised tokens, for ``frozen_tokens``.
        """
        raw = self.readout(states, mask, pooled)
        weights = self._token_weights(states, mask)
        sums = weights @ states
        if self.prototypes.frozen_tokens:
            assert values is not None
            sums = torch.cat([sums, weights @ values], dim=-1)
        prototypes = self.prototype_mlp(self.prototype_norm(sums))
        return F.normalize(torch.cat([raw[:, None], prototypes], dim=1), dim=-1), raw

    def encode_components(self, tokens: Tokens) -> torch.Tensor:
        """:meth:`components` of a batch of tokens."""
        return self.components(tokens.values, tokens.mask)

    def _token_weights(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Weight of each token in each prototype, ``[batch, K, num_tokens]``, 0 where there is no token."""
        hidden = ~mask[..., None]
        if self.prototypes.generator == "mask":
            weights: torch.Tensor = self.mask_of(states).relu().masked_fill(hidden, 0.0)
            return weights.transpose(1, 2)
        keys = self.key(states)
        logits = keys @ self.prototype_queries.T / math.sqrt(keys.shape[-1])
        shares: torch.Tensor = logits.masked_fill(hidden, -torch.inf).softmax(1)
        return shares.transpose(1, 2)


class PrototypeScorer(nn.Module):
    r"""How alike a text's and a medium's components are: ``R = s_g + s'_p``, eq. 9.

    ``S`` is the matrix of cosines of all components, 1 + K of the medium by 1 + K of the text. With *lass* (eqs. 2–8)
    ``w = softmax(L_a(softmax(S)))`` over the medium's components weighs ``S`` into a vector over the text's, and
    ``softmax(L_t(softmax(·)))`` weighs that into ``s'_a``; ``s'_t`` goes the other way (first over the text's with
    ``L_t``, then over the medium's with ``L_a``); ``s'_p = s'_a + s'_t``. *softmax* leaves ``L_a`` and ``L_t`` out (one
    softmax each); *mean* weighs evenly.

    A message may carry fewer components than its sender made. Our definition: what did not come is masked, its weight
    is 0 before ``L`` and after it, and the rest of the weights add up to 1.

    A pair's score depends on nothing but that pair.
    """

    def __init__(self, config: PrototypeConfig) -> None:
        super().__init__()
        self.config = config
        count = 1 + config.num_prototypes
        self.over_text: nn.Linear | None = None
        self.over_media: nn.Linear | None = None
        if config.aggregator == "lass":
            self.over_text, self.over_media = _attention(count), _attention(count)

    def score(
        self, query: torch.Tensor, items: torch.Tensor, *, query_side: Side = "text"
    ) -> torch.Tensor:
        """``query`` float32 ``[q, m, 256]`` against ``items`` ``[n, 1 + K, 256]``, unit norms: ``[q, n]``, −3…3.

        ``m ≤ 1 + K`` components of each query came, the global feature first. ``query_side``: what the queries are.
        Raises InvalidField for other shapes.
        """
        self._check(query, items)
        return self._aggregated(torch.einsum("qmd,nkd->mkqn", query, items), query_side)

    def score_candidates(
        self, query: torch.Tensor, candidates: torch.Tensor, *, query_side: Side = "text"
    ) -> torch.Tensor:
        """``query`` float32 ``[q, m, 256]`` against its own ``candidates`` ``[q, c, 1 + K, 256]``: ``[q, c]``.

        As :meth:`score`, row by row.
        """
        if candidates.ndim != 4 or len(candidates) != len(query):
            raise InvalidField(
                f"candidates has shape {tuple(candidates.shape)}, expected "
                f"[{len(query)}, num_candidates, {1 + self.config.num_prototypes}, {FEATURE_DIM}]",
                field="candidates",
            )
        self._check(query, candidates[:, 0])
        count, parts = candidates.shape[1:3]
        flat = candidates.reshape(len(query), count * parts, FEATURE_DIM)
        similarity = (flat @ query.transpose(1, 2)).view(len(query), count, parts, query.shape[1])
        return self._aggregated(similarity.permute(3, 2, 0, 1).contiguous(), query_side)

    def _check(self, query: torch.Tensor, items: torch.Tensor) -> None:
        count = 1 + self.config.num_prototypes
        if query.ndim != 3 or query.shape[-1] != FEATURE_DIM or not 1 <= query.shape[1] <= count:
            raise InvalidField(
                f"query has shape {tuple(query.shape)}, expected [num_queries, 1…{count}, {FEATURE_DIM}]",
                field="query",
            )
        if items.ndim != 3 or items.shape[1:] != (count, FEATURE_DIM):
            raise InvalidField(
                f"items has shape {tuple(items.shape)}, expected [num_items, {count}, {FEATURE_DIM}]",
                field="items",
            )

    def _aggregated(self, similarity: torch.Tensor, query_side: Side) -> torch.Tensor:
        """Cosines ``[m, 1 + K, …]``, the query's components first, to scores ``[…]``.

        Components come first, pairs last: every step is then one pass over long rows.
        """
        item_side: Side = "media" if query_side == "text" else "text"
        over_query = self._weighed(similarity, query_side)
        over_items = self._weighed(similarity.transpose(0, 1), item_side)
        prototypes = self._weighed(over_query, item_side) + self._weighed(over_items, query_side)
        return similarity[0, 0] + prototypes

    def _weighed(self, similarity: torch.Tensor, side: Side) -> torch.Tensor:
        """The first axis, components of ``side``, weighed away: eqs. 2–4, or 5–7."""
        if self.config.aggregator == "mean":
            return similarity.mean(0)
        weights = similarity.softmax(0)
        layer = self.over_text if side == "text" else self.over_media
        if layer is not None:
            came = len(similarity)
            weight, bias = layer.weight[:came, :came], layer.bias[:came]
            logits: torch.Tensor = torch.tensordot(weight, weights, dims=1)
            weights = (logits + bias.view(came, *[1] * (weights.ndim - 1))).softmax(0)
        return (weights * similarity).sum(0)


def _attention(count: int) -> nn.Linear:
    """``L`` of one side; starts as the softmax weight does, and learns from there which components to trust."""
    layer = nn.Linear(count, count)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
