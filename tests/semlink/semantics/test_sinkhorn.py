"""The Sinkhorn bias balances entries, ignores what a query adds to all scores, and helps where a hub wins too often."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semlink.errors import InvalidField
from semlink.semantics.sinkhorn import sinkhorn_bias


def scores(seed: int = 0, queries: int = 60, entries: int = 40) -> torch.Tensor:
    return torch.randn(queries, entries, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.05, 0.3, 2.0])
def test_every_entry_holds_the_same_mass(temperature: float) -> None:
    raw = scores()
    # As an independent count: scale rows, then columns, of the plain matrix in float64.
    matrix = np.exp(raw.double().numpy() / temperature)
    columns = np.ones(matrix.shape[1])
    for _ in range(10):
        rows = 1.0 / (matrix @ columns)
        columns = matrix.shape[0] / matrix.shape[1] / (matrix.T @ rows)
    balanced = rows[:, None] * matrix * columns
    np.testing.assert_allclose(balanced.sum(0), matrix.shape[0] / matrix.shape[1])
    expected = temperature * np.log(columns)
    bias = sinkhorn_bias(raw, temperature).numpy()
    np.testing.assert_allclose(bias, expected - expected.mean(), atol=1e-3 * temperature)


def test_converged_rows_hold_one_each_too() -> None:
    raw, temperature = scores(), 0.5
    bias = sinkhorn_bias(raw, temperature, rounds=300)
    posterior = ((raw + bias) / temperature).softmax(1)
    torch.testing.assert_close(posterior.sum(0), torch.full((40,), 60 / 40), rtol=1e-3, atol=1e-3)


def test_what_a_query_adds_to_all_its_scores_changes_nothing() -> None:
    raw = scores()
    shifted = raw + torch.randn(60, 1, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sinkhorn_bias(shifted, 0.2), sinkhorn_bias(raw, 0.2))


def test_what_is_added_to_an_entry_is_taken_off_again() -> None:
    raw = scores()
    favour = torch.linspace(-1.0, 1.0, 40)
    plain = sinkhorn_bias(raw, 1.0, rounds=300)
    again = sinkhorn_bias(raw + favour, 1.0, rounds=300)
    torch.testing.assert_close(again + favour, plain, atol=1e-3, rtol=1e-3)


def test_the_order_of_training_queries_does_not_matter() -> None:
    raw = scores()
    torch.testing.assert_close(sinkhorn_bias(raw.flip(0), 0.1), sinkhorn_bias(raw, 0.1))


def test_a_hub_no_longer_wins_queries_that_it_has_not_seen() -> None:
    generator = torch.Generator().manual_seed(2)
    entries = torch.nn.functional.normalize(torch.randn(40, 16, generator=generator), dim=1)

    def queries(each: int) -> torch.Tensor:
        noise = 0.25 * torch.randn(40 * each, 16, generator=generator)
        return torch.nn.functional.normalize(entries.repeat(each, 1) + noise, dim=1)

    favour = torch.zeros(40)
    favour[:3] = 0.5
    seen = queries(8) @ entries.T + favour
    unseen = queries(4) @ entries.T + favour
    truth = torch.arange(40).repeat(4)
    plain = (unseen.argmax(1) == truth).float().mean()
    corrected = ((unseen + sinkhorn_bias(seen, 0.1)).argmax(1) == truth).float().mean()
    assert corrected > plain + 0.2


@pytest.mark.parametrize(
    ("raw", "temperature", "rounds", "field"),
    [
        (torch.zeros(3), 1.0, 10, "scores"),
        (torch.zeros(0, 3), 1.0, 10, "scores"),
        (torch.full((2, 2), torch.inf), 1.0, 10, "scores"),
        (torch.zeros(2, 2), 0.0, 10, "temperature"),
        (torch.zeros(2, 2), float("nan"), 10, "temperature"),
        (torch.zeros(2, 2), 1.0, 0, "rounds"),
    ],
)
def test_bad_input_is_refused(
    raw: torch.Tensor, temperature: float, rounds: int, field: str
) -> None:
    with pytest.raises(InvalidField) as refusal:
        sinkhorn_bias(raw, temperature, rounds)
    assert refusal.value.field == field
