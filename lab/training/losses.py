"""Losses between texts and media.

Of two-way retrieval: InfoNCE, and the triplet sum of GPA. Of text-based person search: CMPM + CMPC (Zhang & Lu, ECCV
2018) and Sew (Wei et al., Sew + MCM); there a batch holds n pairs of a picture and one of its captions. ``image`` and
``text`` are their features before normalisation, float32 ``[n, 256]``; ``identity`` int64 ``[n]`` says whose they are;
``weights`` float32 ``[256, num_identities]`` are a classifier's, one for both directions, and are normalised here.
``margin`` is float32 ``[n]`` (or a number), one for each pair. Every loss is a scalar, the mean over the batch, of both
directions together.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F

ALPHA: Final = 32.0
"""Scale of the cosines in the Sew losses (Sew + MCM, section 4.2)."""
FIXED_MARGIN: Final = 0.5
MARGIN_BOUNDS: Final = (0.4, 0.6)
"""Bounds of the adaptive margin (Sew + MCM, section 4.2)."""

_EPSILON: Final = 1e-8
_NONE: Final = -1e4
"""A logit that counts for nothing; −∞ would have no gradient where a sum is empty."""


def contrastive_loss(scores: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE of logits [n, m] with targets spread evenly over ``positive`` [n, m], bool."""
    weight = positive.float()
    rows = -(F.log_softmax(scores, 1) * weight).sum(1) / weight.sum(1)
    columns = -(F.log_softmax(scores, 0) * weight).sum(0) / weight.sum(0)
    return 0.5 * (rows.mean() + columns.mean())


def triplet_sum_loss(scores: torch.Tensor, margin: float) -> torch.Tensor:
    """GPA eq. 11: ``1/B Σ_i Σ_{j≠i} [m + R_ij − R_ii]₊ + [m + R_ji − R_ii]₊`` of scores ``[B, B]``."""
    own = scores.diagonal()
    others = ~torch.eye(len(scores), dtype=torch.bool)
    rows = (margin + scores - own[:, None]).relu()[others]
    columns = (margin + scores - own[None, :]).relu()[others]
    return (rows.sum() + columns.sum()) / len(scores)


def cmpm(image: torch.Tensor, text: torch.Tensor, identity: torch.Tensor) -> torch.Tensor:
    """Cross-modal projection matching, Zhang & Lu eqs. 1–5: KL(p ‖ q) both ways.

    ``p_ij = softmax_j(x_i · z̄_j)`` with x as it is and z normalised; q_i is even over the j of the same identity.
    """
    same = (identity[:, None] == identity[None, :]).float()
    truth = (same / same.sum(1, keepdim=True) + _EPSILON).log()

    def one_way(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        log_p = F.log_softmax(x @ F.normalize(z, dim=1).T, dim=1)
        return (log_p.exp() * (log_p - truth)).sum(1).mean()

    return one_way(image, text) + one_way(text, image)


def cmpc(
    image: torch.Tensor, text: torch.Tensor, identity: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Cross-modal projection classification, Zhang & Lu eqs. 8–11: norm-softmax of x̂ = (x · z̄) z̄ both ways."""
    weights = F.normalize(weights, dim=0)

    def one_way(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(_projected(x, z) @ weights, identity)

    return one_way(image, text) + one_way(text, image)


def adaptive_margin(
    lengths: torch.Tensor,
    shortest: float,
    longest: float,
    bounds: tuple[float, float] = MARGIN_BOUNDS,
) -> torch.Tensor:
    """Sew + MCM eq. 10: a short caption says less and gets a smaller margin; float32, the shape of ``lengths``.

    ``lengths``: tokens of each caption; ``shortest`` and ``longest`` bound the lengths' distribution, what lies outside
    gets the nearer bound's margin.
    """
    low, high = bounds
    share = (lengths.float() - shortest) / (longest - shortest)
    return low + (high - low) * share.clamp(0.0, 1.0)


def sew_match(
    image: torch.Tensor,
    text: torch.Tensor,
    identity: torch.Tensor,
    margin: torch.Tensor | float,
    alpha: float = ALPHA,
) -> torch.Tensor:
    """Pull (Sew + MCM eq. 5) and push (eq. 6) over cosines, both ways (eq. 7), M1 = M2 = the anchor pair's margin.

    Pull: an anchor's own partner is nearer than its identity's other samples; nothing where there are none. Push: every
    sample of the identity, the partner with them, is nearer than every other identity's. (With the partner left out, an
    identity that stands once in a batch would be pushed away from nobody.)
    """
    cosine = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    same = identity[:, None] == identity[None, :]
    others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)

    def one_way(s: torch.Tensor) -> torch.Tensor:
        scaled = alpha * s
        shift = alpha * margin
        own = scaled.diagonal()
        pull = F.softplus(torch.logsumexp(_only(scaled, others), 1) - own + shift)
        # The double sum over k and j of eq. 6 is a product of two sums.
        positive = torch.logsumexp(_only(-scaled, same), 1)
        negative = torch.logsumexp(_only(scaled, ~same), 1)
        return (pull + F.softplus(positive + negative + shift)).mean()

    return one_way(cosine) + one_way(cosine.T)


def sew_identity(
    image: torch.Tensor,
    text: torch.Tensor,
    identity: torch.Tensor,
    weights: torch.Tensor,
    margin: torch.Tensor | float,
    alpha: float = ALPHA,
) -> torch.Tensor:
    """Identity loss with a margin, Sew + MCM eqs. 8–9, both ways: CMPC with ``α(s − M)`` for the right identity.

    Features are normalised before they are projected on each other, so that α and M mean the same as in the matching
    loss ("identical decision boundaries"); at the norm of a batch-normalised feature, 16, the margin would vanish.
    """
    weights = F.normalize(weights, dim=0)
    right = F.one_hot(identity, weights.shape[1]).to(image.dtype)
    less = right * torch.as_tensor(margin, device=image.device).expand(len(image))[:, None]

    def one_way(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        scores = _projected(F.normalize(x, dim=1), z) @ weights
        return F.cross_entropy(alpha * (scores - less), identity)

    return one_way(image, text) + one_way(text, image)


def _projected(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Each x on its normalised partner z̄: ``(x · z̄) z̄``."""
    unit = F.normalize(z, dim=1)
    return (x * unit).sum(1, keepdim=True) * unit


def _only(logits: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    return logits.masked_fill(~kept, _NONE)
