"""Losses of person search against the equations term by term, and at their limits."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from lab.training.losses import (
    ALPHA,
    adaptive_margin,
    cmpc,
    cmpm,
    sew_identity,
    sew_match,
)

N, WIDTH, IDENTITIES = 9, 16, 5
IDENTITY = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 4])


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(N, WIDTH), torch.randn(N, WIDTH), torch.randn(WIDTH, IDENTITIES)


def test_cmpm_is_the_divergence_summed_pair_by_pair() -> None:
    image, text, _ = batch()

    def one_way(x: torch.Tensor, z: torch.Tensor) -> float:
        total = 0.0
        for i in range(N):
            logits = [float(x[i] @ (z[j] / z[j].norm())) for j in range(N)]
            whole = sum(math.exp(v) for v in logits)
            right = [j for j in range(N) if IDENTITY[j] == IDENTITY[i]]
            for j in range(N):
                p = math.exp(logits[j]) / whole
                q = (1 / len(right)) if j in right else 0.0
                total += p * math.log(p / (q + 1e-8))
        return total / N

    expected = one_way(image, text) + one_way(text, image)
    assert cmpm(image, text, IDENTITY).item() == pytest.approx(expected, rel=1e-4)


def test_cmpc_is_the_cross_entropy_of_projections() -> None:
    image, text, weights = batch()
    columns = [weights[:, c] / weights[:, c].norm() for c in range(IDENTITIES)]

    def one_way(x: torch.Tensor, z: torch.Tensor) -> float:
        total = 0.0
        for i in range(N):
            unit = z[i] / z[i].norm()
            logits = [float(column @ ((x[i] @ unit) * unit)) for column in columns]
            total -= logits[int(IDENTITY[i])] - math.log(sum(math.exp(v) for v in logits))
        return total / N

    expected = one_way(image, text) + one_way(text, image)
    assert cmpc(image, text, IDENTITY, weights).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("alpha", [1.0, 8.0])
def test_sew_match_is_the_double_sum_of_the_equations(alpha: float) -> None:
    image, text, _ = batch()
    margin = torch.linspace(0.4, 0.6, N)
    cosine = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T

    def one_way(s: torch.Tensor) -> float:
        total = 0.0
        for i in range(N):
            row, m = s[i].tolist(), float(margin[i])
            right = [j for j in range(N) if IDENTITY[j] == IDENTITY[i]]
            wrong = [j for j in range(N) if IDENTITY[j] != IDENTITY[i]]
            pull = sum(math.exp(alpha * (row[k] - row[i] + m)) for k in right if k != i)
            push = sum(math.exp(alpha * (row[j] - row[k] + m)) for k in right for j in wrong)
            total += math.log(1 + pull) + math.log(1 + push)
        return total / N

    expected = one_way(cosine) + one_way(cosine.T)
    found = sew_match(image, text, IDENTITY, margin, alpha).item()
    assert found == pytest.approx(expected, rel=1e-4)


def test_sew_identity_takes_the_margin_from_the_right_identity_alone() -> None:
    image, text, weights = batch()
    margin = torch.linspace(0.4, 0.6, N)
    columns = [weights[:, c] / weights[:, c].norm() for c in range(IDENTITIES)]

    def one_way(x: torch.Tensor, z: torch.Tensor) -> float:
        total = 0.0
        for i in range(N):
            unit = z[i] / z[i].norm()
            projected = (x[i] / x[i].norm() @ unit) * unit
            s = [float(column @ projected) for column in columns]
            y = int(IDENTITY[i])
            right = math.exp(ALPHA * (s[y] - float(margin[i])))
            wrong = sum(math.exp(ALPHA * v) for c, v in enumerate(s) if c != y)
            total -= math.log(right / (right + wrong))
        return total / N

    expected = one_way(image, text) + one_way(text, image)
    found = sew_identity(image, text, IDENTITY, weights, margin).item()
    assert found == pytest.approx(expected, rel=1e-4)


def aligned(scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every identity on an axis of its own, both modalities the same; the classifier's axes are theirs."""
    features = scale * torch.eye(WIDTH)[IDENTITY]
    return features, features.clone(), torch.eye(WIDTH)[:, :IDENTITIES]


def test_aligned_features_cost_nothing() -> None:
    image, text, weights = aligned(40.0)
    assert cmpm(image, text, IDENTITY).item() == pytest.approx(0.0, abs=1e-4)
    assert cmpc(image, text, IDENTITY, weights).item() == pytest.approx(0.0, abs=1e-4)
    assert sew_identity(image, text, IDENTITY, weights, 0.5).item() < 1e-5
    # Push is at rest; pull asks an anchor's partner to be nearer than the identity's others, which none is here.
    alone = torch.arange(N)
    image = torch.eye(WIDTH)[alone]
    assert sew_match(image, image.clone(), alone, 0.5).item() < 1e-4


def test_alignment_costs_less_than_chance_and_chance_less_than_confusion() -> None:
    image, text, weights = batch()
    good_image, good_text, good_weights = aligned(10.0)
    confused = IDENTITY.roll(4)
    losses: tuple[Callable[..., torch.Tensor], ...] = (
        lambda i, t, w, y: cmpm(i, t, y),
        lambda i, t, w, y: cmpc(i, t, y, w),
        lambda i, t, w, y: sew_match(i, t, y, 0.5),
        lambda i, t, w, y: sew_identity(i, t, y, w, 0.5),
    )
    for loss in losses:
        best = loss(good_image, good_text, good_weights, IDENTITY)
        assert best < loss(image, text, weights, IDENTITY)
    shuffled = aligned(10.0)[1].roll(4, 0)
    assert cmpm(good_image, shuffled, IDENTITY) > cmpm(image, text, IDENTITY)
    assert sew_identity(good_image, good_text, confused, good_weights, 0.5) > 1.0


@pytest.mark.parametrize("loss", ["match", "identity"])
def test_a_greater_margin_costs_more(loss: str) -> None:
    image, text, weights = batch()

    def of(margin: torch.Tensor | float) -> float:
        if loss == "match":
            return sew_match(image, text, IDENTITY, margin).item()
        return sew_identity(image, text, IDENTITY, weights, margin).item()

    costs = [of(m) for m in (0.0, 0.2, 0.4, 0.6)]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]
    assert of(torch.full((N,), 0.4)) == pytest.approx(costs[2])


def test_scale_of_a_feature_matters_to_cmpm_and_not_to_sew() -> None:
    image, text, weights = batch()
    assert sew_match(3 * image, text, IDENTITY, 0.5) == pytest.approx(
        sew_match(image, text, IDENTITY, 0.5).item(), rel=1e-5
    )
    assert sew_identity(3 * image, 2 * text, IDENTITY, weights, 0.5) == pytest.approx(
        sew_identity(image, text, IDENTITY, weights, 0.5).item(), rel=1e-5
    )
    assert abs(cmpm(3 * image, text, IDENTITY) - cmpm(image, text, IDENTITY)) > 1e-2


@pytest.mark.parametrize("identity", [IDENTITY, torch.arange(N), torch.zeros(N, dtype=torch.long)])
def test_gradients_are_finite_even_without_positives_or_negatives(identity: torch.Tensor) -> None:
    image, text, weights = batch()
    weights = torch.randn(WIDTH, N)
    for tensor in (image, text, weights):
        tensor.requires_grad_()
    total = (
        cmpm(image, text, identity)
        + cmpc(image, text, identity, weights)
        + sew_match(image, text, identity, adaptive_margin(torch.arange(N), 2, 7))
        + sew_identity(image, text, identity, weights, 0.5)
    )
    total.backward()  # type: ignore[no-untyped-call]
    assert total.isfinite()
    for tensor in (image, text, weights):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0


def test_pull_moves_the_partner_nearer_and_the_identitys_others_away() -> None:
    image = torch.eye(WIDTH)[[0, 1]] + 0.5
    text = image.clone().requires_grad_()
    identity = torch.zeros(2, dtype=torch.long)
    sew_match(image, text, identity, 0.5).backward()  # type: ignore[no-untyped-call]
    assert text.grad is not None
    step = text.detach() - 0.01 * text.grad
    before = F.cosine_similarity(image[0], text[1].detach(), dim=0)
    assert F.cosine_similarity(image[0], step[1], dim=0) < before


def test_the_margin_grows_with_the_caption_between_its_bounds() -> None:
    margin = adaptive_margin(torch.tensor([5, 15, 25, 35, 60]), 15, 35)
    assert margin.tolist() == pytest.approx([0.4, 0.4, 0.5, 0.6, 0.6])
