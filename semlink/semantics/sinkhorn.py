"""A bias for each text that keeps a few from winning all queries (GPA eq. 10; the log-domain form is ours)."""

from __future__ import annotations

import math
from typing import Final

import torch

from semlink.errors import InvalidField

ROUNDS: Final = 10
"""As in the paper."""


def sinkhorn_bias(scores: torch.Tensor, temperature: float, rounds: int = ROUNDS) -> torch.Tensor:
    r"""Bias of each gallery entry from the scores of training queries: add it to a test query's scores.

    Sinkhorn–Knopp (Cuturi, "Sinkhorn distances", 2013) on ``exp(R' / τ)``, in logarithms: from ``b = 0``, in turn

        ``a_i ← −τ · LSE_j[(R'_ij + b_j) / τ]``,  ``b_j ← τ · log(G / J) − τ · LSE_i[(R'_ij + a_i) / τ]``.

    After each round every entry holds the same mass, ``Σ_i exp((R'_ij + a_i + b_j) / τ) = G / J``. What is added to all
    scores of a query changes nothing. No test query is seen.

    ``scores``: float ``[num_queries G, num_entries J]``, finite; ``temperature`` τ > 0, in units of the score (ours,
    chosen on val). Returns float32 ``[J]`` of mean 0 (an offset common to all entries ranks nothing). Raises
    InvalidField otherwise.
    """
    if scores.ndim != 2 or not scores.numel():
        raise InvalidField(
            f"scores has shape {tuple(scores.shape)}, expected [num_queries, num_entries]",
            field="scores",
        )
    if not scores.isfinite().all():
        raise InvalidField("scores hold values that are not finite", field="scores")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InvalidField(f"temperature is {temperature}, allowed: above 0", field="temperature")
    if rounds < 1:
        raise InvalidField(f"rounds is {rounds}, allowed: 1 and more", field="rounds")
    logits = scores.float() / temperature
    num_queries, num_entries = logits.shape
    share = math.log(num_queries / num_entries)
    bias = torch.zeros(num_entries)
    for _ in range(rounds):
        query = -(logits + bias).logsumexp(1)
        bias = share - (logits + query[:, None]).logsumexp(0)
    return temperature * (bias - bias.mean())
