import math

import pytest
import torch

from semlink.errors import InvalidField
from semlink.semantics.fusion import fuse


def _unit(*shape: int, seed: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values / values.norm(dim=-1, keepdim=True)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "source": _unit(6, 32, seed=0),
        "rewrites": _unit(6, 5, 32, seed=1),
        "similarity": torch.rand(6, 5, generator=generator) * 0.6 + 0.4,
        "kept": torch.tensor([[True] * 5, [False] * 5, [True, False, True, False, False]] * 2),
    }


@pytest.mark.parametrize("rule", ["mean", "similarity"])
def test_agrees_with_a_loop_over_items(batch, rule):
    got = fuse(**batch, rule=rule, temperature=0.2)
    for i in range(6):
        total = [float(v) for v in batch["source"][i]]
        weight_of_source = 1.0 if rule == "mean" else math.exp(1 / 0.2)
        total = [weight_of_source * v for v in total]
        for j in range(5):
            if not batch["kept"][i, j]:
                continue
            a = 1.0 if rule == "mean" else math.exp(float(batch["similarity"][i, j]) / 0.2)
            total = [t + a * float(v) for t, v in zip(total, batch["rewrites"][i, j], strict=True)]
        norm = math.sqrt(sum(t * t for t in total))
        torch.testing.assert_close(got[i], torch.tensor([t / norm for t in total]))


@pytest.mark.parametrize("rule", ["none", "mean", "similarity", "importance"])
def test_nothing_kept_is_exactly_the_source(batch, rule):
    nothing = {**batch, "kept": torch.zeros(6, 5, dtype=torch.bool)}
    assert torch.equal(fuse(**nothing, rule=rule, temperature=0.1), batch["source"])
    empty = fuse(
        batch["source"],
        torch.zeros(6, 0, 32),
        torch.zeros(6, 0),
        torch.zeros(6, 0, dtype=torch.bool),
        rule=rule,
        temperature=0.1,
    )
    assert torch.equal(empty, batch["source"])


@pytest.mark.parametrize("rule", ["mean", "similarity"])
def test_unit_norm_and_closer_to_what_was_kept(batch, rule):
    fused = fuse(**batch, rule=rule, temperature=0.5)
    torch.testing.assert_close(fused.norm(dim=-1), torch.ones(6))
    first = batch["rewrites"][:, 0]
    before, after = (batch["source"] * first).sum(-1), (fused * first).sum(-1)
    moved = batch["kept"].any(dim=1)
    assert (after > before)[moved].all()
    assert torch.equal(after[~moved], before[~moved])


@pytest.mark.parametrize("rule", ["mean", "similarity", "importance"])
def test_batch_mates_and_dropped_rewrites_change_nothing(batch, rule):
    together = fuse(**batch, rule=rule, temperature=0.1)
    for i in range(6):
        alone = fuse(**{k: v[i : i + 1] for k, v in batch.items()}, rule=rule, temperature=0.1)
        assert torch.equal(alone[0], together[i])
    poisoned = torch.where(batch["kept"].unsqueeze(-1), batch["rewrites"], torch.nan)
    other = torch.where(batch["kept"], batch["similarity"], 0.99)
    again = fuse(batch["source"], poisoned, other, batch["kept"], rule=rule, temperature=0.1)
    assert torch.equal(again, together)


def test_importance_agrees_with_automatic_differentiation(batch):
    got = fuse(**batch, rule="importance", temperature=1.0)
    for i in range(6):
        others = batch["rewrites"][i][batch["kept"][i]]
        features = torch.cat((batch["source"][i : i + 1], others)).requires_grad_()
        mean = torch.nn.functional.normalize(features.sum(0), dim=0)
        score = mean @ batch["source"][i]
        (gradient,) = torch.autograd.grad(score, features)
        weights = torch.relu(gradient * features.detach())
        shares = torch.where(weights.sum(0) > 1e-9, weights / weights.sum(0), 1 / len(features))
        expected = torch.nn.functional.normalize((shares * features.detach()).sum(0), dim=0)
        torch.testing.assert_close(got[i], expected, atol=1e-5, rtol=1e-4)


def test_importance_holds_to_the_source_more_than_the_mean(batch):
    moved = batch["kept"].any(dim=1)
    near = {
        rule: (fuse(**batch, rule=rule, temperature=1.0) * batch["source"]).sum(-1)[moved]
        for rule in ("mean", "importance")
    }
    assert (near["importance"] > near["mean"]).all()


def test_temperature_goes_from_the_source_to_the_mean(batch):
    cold = fuse(**batch, rule="similarity", temperature=1e-3)
    hot = fuse(**batch, rule="similarity", temperature=1e6)
    torch.testing.assert_close(cold, batch["source"])
    torch.testing.assert_close(hot, fuse(**batch, rule="mean", temperature=1.0))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rule": "max"}, "rule"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"rewrites": torch.zeros(6, 5, 31)}, "rewrites"),
        ({"kept": torch.ones(6, 4, dtype=torch.bool)}, "kept"),
        ({"similarity": torch.zeros(5, 5)}, "similarity"),
    ],
)
def test_bad_input_is_named(batch, change, field):
    arguments = {**batch, "rule": "mean", "temperature": 0.1, **change}
    with pytest.raises(InvalidField) as caught:
        fuse(**arguments)
    assert caught.value.field == field


def test_a_rewrite_opposite_to_the_source_is_refused():
    source = _unit(1, 8, seed=5)
    with pytest.raises(InvalidField, match="cancel"):
        fuse(
            source,
            -source[:, None],
            torch.ones(1, 1),
            torch.ones(1, 1).bool(),
            rule="mean",
            temperature=0.1,
        )
