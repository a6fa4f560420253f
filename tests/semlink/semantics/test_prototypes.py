"""Prototypes and LASS: the equations recomputed pair by pair, short messages, batches, and the plain head inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from semlink.errors import InvalidField
from semlink.semantics.heads import FEATURE_DIM, Head, HeadConfig
from semlink.semantics.prototypes import (
    Aggregator,
    Generator,
    PrototypeConfig,
    PrototypeHead,
    PrototypeScorer,
    Side,
)

K = 3
AGGREGATORS: tuple[Aggregator, ...] = get_args(Aggregator)
GENERATORS: tuple[Generator, ...] = get_args(Generator)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, FEATURE_DIM, generator=generator), dim=-1)


def scorer(aggregator: Aggregator = "lass", seed: int = 5) -> PrototypeScorer:
    made = PrototypeScorer(PrototypeConfig(num_prototypes=K, aggregator=aggregator))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(3.0 * torch.randn(parameter.shape, generator=generator))
    return made.eval().requires_grad_(False)


def head(generator: Generator = "mask") -> PrototypeHead:
    torch.manual_seed(0)
    config = HeadConfig(in_dim=20, max_tokens=12, width=32, num_layers=1, pooled_bands=2)
    return PrototypeHead(config, PrototypeConfig(num_prototypes=K, generator=generator)).eval()


def by_the_equations(
    media: torch.Tensor, text: torch.Tensor, linear: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
) -> float:
    """Eqs. 2–9 for one pair, a number at a time. ``media``, ``text``: [components, 256]."""
    a = [[float(x @ y) for y in text] for x in media]

    def softmax(values: list[float]) -> list[float]:
        e = [float(torch.tensor(v).exp()) for v in values]
        return [v / sum(e) for v in e]

    def attended(column: list[float], side: str) -> float:
        w = softmax(column)
        weight, bias = linear[side]
        mixed = [
            sum(float(weight[o, i]) * w[i] for i in range(len(w))) + float(bias[o])
            for o in range(len(w))
        ]
        return sum(p * s for p, s in zip(softmax(mixed), column, strict=True))

    s_a = [attended([row[j] for row in a], "media") for j in range(len(text))]
    s_t = [attended(row, "text") for row in a]
    return a[0][0] + attended(s_a, "text") + attended(s_t, "media")


@pytest.mark.parametrize("came", [1, 2, 1 + K])
def test_lass_is_what_the_equations_say(came: int) -> None:
    made = scorer()
    assert made.over_text is not None
    assert made.over_media is not None
    linear = {
        "text": (made.over_text.weight, made.over_text.bias),
        "media": (made.over_media.weight, made.over_media.bias),
    }
    text, media = unit(2, came), unit(3, 1 + K, seed=1)
    got = made.score(text, media)
    for q in range(2):
        for n in range(3):
            expected = by_the_equations(media[n], text[q], linear)
            assert float(got[q, n]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_a_score_does_not_depend_on_which_side_asks(aggregator: Aggregator) -> None:
    made = scorer(aggregator)
    text, media = unit(5, 1 + K), unit(4, 1 + K, seed=1)
    torch.testing.assert_close(
        made.score(text, media), made.score(media, text, query_side="media").T
    )


def test_mean_and_softmax_against_a_pair_at_a_time() -> None:
    text, media = unit(1, 1 + K), unit(1, 1 + K, seed=1)
    similarity = media[0] @ text[0].T
    mean = similarity[0, 0] + 2 * similarity.mean()
    torch.testing.assert_close(scorer("mean").score(text, media)[0, 0], mean)
    s_a = (similarity.softmax(0) * similarity).sum(0)
    s_t = (similarity.softmax(1) * similarity).sum(1)
    softmax = similarity[0, 0] + (s_a.softmax(0) * s_a).sum() + (s_t.softmax(0) * s_t).sum()
    torch.testing.assert_close(scorer("softmax").score(text, media)[0, 0], softmax)


@pytest.mark.parametrize("aggregator", AGGREGATORS)
@pytest.mark.parametrize("came", [1, 3, 1 + K])
@pytest.mark.parametrize("side", get_args(Side))
def test_candidates_score_as_they_do_in_the_whole_gallery(
    aggregator: Aggregator, came: int, side: Side
) -> None:
    made = scorer(aggregator)
    query, items = unit(4, came), unit(9, 1 + K, seed=1)
    rows = torch.tensor([[0, 3], [8, 1], [2, 2], [7, 0]])
    whole = made.score(query, items, query_side=side).gather(1, rows)
    torch.testing.assert_close(
        made.score_candidates(query, items[rows], query_side=side), whole, atol=1e-5, rtol=1e-5
    )


def test_what_did_not_come_has_no_influence() -> None:
    made, items = scorer(), unit(6, 1 + K, seed=1)
    query = unit(3, 1 + K)
    other = torch.cat([query[:, :2], unit(3, K - 1, seed=9)], dim=1)
    torch.testing.assert_close(made.score(query[:, :2], items), made.score(other[:, :2], items))
    assert not torch.allclose(made.score(query, items), made.score(other, items), atol=1e-2)


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_a_pair_of_equals_has_the_highest_score(aggregator: Aggregator) -> None:
    one = unit(1, 1).expand(-1, 1 + K, -1)
    assert float(scorer(aggregator).score(one, one)) == pytest.approx(3.0, abs=1e-5)


@pytest.mark.parametrize("generator", GENERATORS)
def test_components_are_unit_and_the_first_is_the_head(generator: Generator) -> None:
    made = head(generator)
    values, mask = torch.randn(4, 9, 20), torch.arange(9) < torch.tensor([[9], [5], [1], [7]])
    components = made.components(values, mask)
    assert components.shape == (4, 1 + K, FEATURE_DIM)
    torch.testing.assert_close(components.norm(dim=-1), torch.ones(4, 1 + K))
    torch.testing.assert_close(components[:, 0], made(values, mask))
    plain = Head(made.config).eval()
    plain.load_state_dict({n: t for n, t in made.state_dict().items() if n in plain.state_dict()})
    torch.testing.assert_close(components[:, 0], plain(values, mask))


@pytest.mark.parametrize("generator", GENERATORS)
def test_neither_batch_mates_nor_padding_change_components(generator: Generator) -> None:
    made = head(generator)
    values, mask = torch.randn(3, 9, 20), torch.arange(9) < torch.tensor([[9], [5], [3]])
    together = made.components(values, mask)
    alone = torch.cat(
        [
            made.components(values[n : n + 1, :k], mask[n : n + 1, :k])
            for n, k in ((0, 9), (1, 5), (2, 3))
        ]
    )
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_mask_prototypes_are_the_weighted_sums_of_eq_1() -> None:
    made = head()
    values, mask = torch.randn(2, 6, 20), torch.arange(6) < torch.tensor([[6], [4]])
    inside, _ = made.standardised(values, mask)
    states = made.hidden(values, mask)
    for n, count in ((0, 6), (1, 4)):
        for k in range(K):
            total = torch.zeros(52)
            for j in range(count):
                share = (made.mask_of.weight[k] @ states[n, j] + made.mask_of.bias[k]).relu()
                total += share * torch.cat([states[n, j], inside[n, j]])
            expected = F.normalize(made.prototype_mlp(made.prototype_norm(total)), dim=-1)
            torch.testing.assert_close(
                made.components(values, mask)[n, 1 + k], expected, atol=1e-5, rtol=1e-4
            )


def test_gradients_reach_every_weight() -> None:
    for generator in GENERATORS:
        text, media = head(generator).train(), head(generator).train()
        made = PrototypeScorer(PrototypeConfig(num_prototypes=K))
        values, mask = torch.randn(6, 9, 20), torch.ones(6, 9, dtype=torch.bool)
        scores = made.score(text.components(values, mask), media.components(values, mask))
        F.cross_entropy(5.0 * scores, torch.arange(6)).backward()  # type: ignore[no-untyped-call]
        for module in (text, media, made):
            for name, parameter in module.named_parameters():
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name


def test_bad_input_is_refused() -> None:
    made, items = scorer(), unit(2, 1 + K)
    for query in (unit(2, 2 + K), unit(2), unit(2, 2)[..., :5]):
        with pytest.raises(InvalidField) as refusal:
            made.score(query, items)
        assert refusal.value.field == "query"
    with pytest.raises(InvalidField) as refusal:
        made.score(unit(2, 1), unit(2, K))
    assert refusal.value.field == "items"
    with pytest.raises(InvalidField) as refusal:
        made.score_candidates(unit(2, 1), unit(3, 5, 1 + K))
    assert refusal.value.field == "candidates"
    for settings in ({"num_prototypes": 0}, {"generator": "graph"}, {"aggregator": "max"}):
        with pytest.raises(InvalidField) as refusal:
            PrototypeConfig(**settings)
        assert refusal.value.field == next(iter(settings))
