"""Fusion of a query's feature with those of its rewrites (CDFC phase 2).

``z = normalise(Σ_i a_i z_i)`` over the source and the rewrites that the filter kept (arXiv 2604.05504; the weights
``a_i`` are our definition, because the paper's formula is not public). The fused feature has the size of the source:
a message costs the same channel uses with and without knowledge.
"""

from __future__ import annotations

import torch

from semlink.components import FUSIONS
from semlink.errors import InvalidField


def fuse(
    source: torch.Tensor,
    rewrites: torch.Tensor,
    similarity: torch.Tensor,
    kept: torch.Tensor,
    *,
    rule: str,
    temperature: float,
) -> torch.Tensor:
    r"""Fuse each source with its kept rewrites.

    .. math::
        z = \frac{\sum_{i=0}^{n} a_i z_i}{\lVert \sum_{i=0}^{n} a_i z_i \rVert}, \qquad
        a_i = \begin{cases} 1 & \text{mean} \\ e^{s_i / \tau_f} & \text{similarity} \\
            \operatorname{ReLU}(g \odot z_i) / \sum_j \operatorname{ReLU}(g \odot z_j) & \text{importance}
            \end{cases}

    with the source as :math:`i = 0`, :math:`s_0 = 1`. ``importance`` weighs each coordinate by itself, as Grad-CAM
    does with maps: :math:`g = \partial \langle m, z_0 \rangle / \partial z_i` with
    :math:`m = \operatorname{normalise}(\sum_i z_i)`, the contrastive logit of the fused feature with the query's own
    meaning, which a transmitter knows; a coordinate in which nothing is important is averaged. All rules are our
    definition. Batch mates never change a row.

    Input
    -----
    source : [batch, size], float32, unit norm
    rewrites : [batch, n, size], float32, unit norm; where ``kept`` is False any value, even NaN, is allowed
    similarity : [batch, n], float32, −1…1, cosine of rewrite and source as sentences
    kept : [batch, n], bool
    rule : "none" (the source as it is) or a name of :data:`semlink.components.FUSIONS`
    temperature : τ_f > 0, used by "similarity" alone

    Output
    ------
    [batch, size], float32, unit norm; exactly ``source`` in rows that kept nothing

    Raises InvalidField for an unknown rule, a temperature that is not positive, shapes that do not agree, or a row
    whose weighted sum vanishes (source and rewrites cancel).
    """
    _check(source, rewrites, similarity, kept, rule=rule, temperature=temperature)
    if rule == "none" or rewrites.shape[1] == 0:
        return source
    # Not 0 · rewrite: a dropped rewrite may hold NaN, and 0 · NaN is NaN.
    features = torch.cat(
        (source.unsqueeze(1), torch.where(kept.unsqueeze(-1), rewrites, 0.0)), dim=1
    )
    present = torch.cat((torch.ones_like(kept[:, :1]), kept), dim=1)
    scores = torch.cat((torch.ones_like(similarity[:, :1]), similarity), dim=1)
    weights: torch.Tensor = FUSIONS.get(rule).load()(features, scores, present, temperature)
    if weights.ndim == 2:
        weights = weights.unsqueeze(-1)
    total = (weights * features).sum(dim=1)
    norm = torch.linalg.vector_norm(total, dim=-1, keepdim=True)
    fuses = kept.any(dim=1, keepdim=True)
    if bool(((norm < 1e-6) & fuses).any()):
        raise InvalidField(
            "source and rewrites cancel: their sum has no direction", field="rewrites"
        )
    return torch.where(fuses, total / norm.clamp_min(1e-6), source)


def mean_weights(
    features: torch.Tensor,  # noqa: ARG001
    similarity: torch.Tensor,
    present: torch.Tensor,
    temperature: float,  # noqa: ARG001
) -> torch.Tensor:
    """Rule ``mean``, see :func:`semlink.components.register_fusion`: the same for all that are present."""
    return torch.softmax(torch.zeros_like(similarity).masked_fill(~present, -torch.inf), dim=1)


def similarity_weights(
    features: torch.Tensor,  # noqa: ARG001
    similarity: torch.Tensor,
    present: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Rule ``similarity``: a softmax over the cosines with the source."""
    return torch.softmax((similarity / temperature).masked_fill(~present, -torch.inf), dim=1)


def importance_weights(
    features: torch.Tensor,
    similarity: torch.Tensor,  # noqa: ARG001
    present: torch.Tensor,
    temperature: float,  # noqa: ARG001
) -> torch.Tensor:
    """Rule ``importance``: weights of each coordinate, [batch, 1 + n, size], that sum to 1 over what is present."""
    total = features.sum(dim=1)
    norm = torch.linalg.vector_norm(total, dim=-1, keepdim=True).clamp_min(1e-6)
    mean, source = total / norm, features[:, 0]
    gradient = (source - (source * mean).sum(dim=-1, keepdim=True) * mean) / norm
    weights = torch.relu(gradient.unsqueeze(1) * features) * present.unsqueeze(-1)
    together = weights.sum(dim=1, keepdim=True)
    even = (present / present.sum(dim=1, keepdim=True)).unsqueeze(-1)
    # Below rounding there is no gradient to speak of: source and rewrites agree.
    return torch.where(together > 1e-9, weights / together.clamp_min(1e-9), even)


def _check(
    source: torch.Tensor,
    rewrites: torch.Tensor,
    similarity: torch.Tensor,
    kept: torch.Tensor,
    *,
    rule: str,
    temperature: float,
) -> None:
    if rule != "none":
        FUSIONS.get(rule, field="rule")
    if not temperature > 0:
        raise InvalidField(f"temperature is {temperature}, allowed: > 0", field="temperature")
    if rewrites.ndim != 3 or source.shape != (rewrites.shape[0], rewrites.shape[2]):
        raise InvalidField(
            f"rewrites has shape {tuple(rewrites.shape)}, expected [batch, n, size] to the source's "
            f"{tuple(source.shape)}",
            field="rewrites",
        )
    for name, tensor in (("similarity", similarity), ("kept", kept)):
        if tensor.shape != rewrites.shape[:2]:
            raise InvalidField(
                f"{name} has shape {tuple(tensor.shape)}, expected {tuple(rewrites.shape[:2])}",
                field=name,
            )
