"""Channel generators: what must not matter does not, and what is stored is what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kb_service.generators import (
    Antennas,
    ChannelGenerator,
    build,
    context_of,
    generator_names,
    load_from,
    load_generator,
    trained_for,
)
from kb_service.generators.base import (
    from_angles,
    phase_aligned,
    prepare,
    to_angles,
)
from kb_service.predictors import Wiener
from lab.training.checkpoint import save_weights
from semlink.components import PREDICTORS
from semlink.errors import InvalidField
from semlink.grid import NUM_SUBBANDS
from semlink.links import Link
from semlink.signal.feedback import HISTORY_REPORTS
from semlink.weight_files import SHIPPED

GENERATORS = generator_names()

AGES = torch.tensor([42, 37, 32, 27, 22, 17, 12, 7])


def histories(n: int = 12, seed: int = 0) -> torch.Tensor:
    """Reports that resemble each other, as those of a channel do."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, dtype=torch.complex64, generator=generator)

    still = draw(n, 1, NUM_SUBBANDS, 1, 16)
    return still + 0.5 * draw(n, HISTORY_REPORTS, NUM_SUBBANDS, 1, 16)


def everything(n: int = 12) -> torch.Tensor:
    return torch.ones(n, HISTORY_REPORTS, dtype=torch.bool)


def contexts(n: int = 12) -> torch.Tensor:
    return context_of(Link()).repeat(n, 1)


def same(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference once free phases are turned away."""
    return float((phase_aligned(a, b) - b).abs().max())


@pytest.fixture(scope="module")
def cdg() -> ChannelGenerator:
    """A generator whose heads, which begin as zero, say something."""
    generator = build("cdg", seed=1, depth=1)
    generator.start_training()
    generator.end_training()
    torch.manual_seed(2)
    for head in (generator.gains.gains, generator.gains.scaled, generator.dense.out):  # type: ignore[union-attr]
        torch.nn.init.normal_(head.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    return generator.eval().requires_grad_(False)


def predict(
    generator: ChannelGenerator, history: torch.Tensor, present: torch.Tensor
) -> torch.Tensor:
    n = len(history)
    ages = AGES[-history.shape[1] :].repeat(n, 1)
    result: torch.Tensor = generator(history, present, ages, contexts(n))
    return result


def test_coordinates_are_unitary_and_lead_back() -> None:
    rows = histories()[:, 0]
    x = to_angles(rows)
    assert x.abs().square().sum() == pytest.approx(float(rows.abs().square().sum()), rel=1e-5)
    torch.testing.assert_close(from_angles(x, Antennas()), rows)


def test_it_corrects_the_wiener_predictor() -> None:
    """A generator that has learned nothing yet is exactly the linear one."""
    history = histories()
    rows = predict(build("cdg", depth=0), history, everything())
    config = Link().replace(num_rx_ant=1)
    linear = Wiener().predict(history[:, None], everything()[:, None], AGES.repeat(12, 1), config)[
        :, 0
    ]
    assert same(rows, linear) < 1e-5


def test_free_phases_do_not_matter(cdg: ChannelGenerator) -> None:
    """Each subband of each report may come with a phase of its own."""
    history = histories()
    phases = torch.rand(
        12, HISTORY_REPORTS, NUM_SUBBANDS, 1, 1, generator=torch.Generator().manual_seed(3)
    )
    turned_history = history * torch.polar(torch.ones_like(phases), 2 * torch.pi * phases)
    before = predict(cdg, history, everything())
    assert same(before, predict(build("cdg", depth=0), history, everything())) > 1e-2
    assert same(predict(cdg, turned_history, everything()), before) < 2e-4


def test_magnitudes_scale_along(cdg: ChannelGenerator) -> None:
    before = predict(cdg, histories(), everything())
    torch.testing.assert_close(
        predict(cdg, 7.0 * histories(), everything()), 7.0 * before, rtol=1e-3, atol=1e-3
    )


def test_a_batch_mate_never_changes_a_prediction(cdg: ChannelGenerator) -> None:
    """To 1e-5 of channels of power about 1: matrix products of other sizes round otherwise, nothing else differs."""
    history, mates = histories(), 100 * histories(30, seed=9)
    mates[3] = 0
    alone = torch.cat([predict(cdg, history[i : i + 1], everything(1)) for i in range(12)])
    together = predict(cdg, torch.cat([mates, history]), everything(42))[30:]
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_users_change_places_with_their_predictions(cdg: ChannelGenerator) -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(4))
    before = predict(cdg, histories(), everything())
    torch.testing.assert_close(
        predict(cdg, histories()[order], everything()), before[order], rtol=1e-5, atol=1e-5
    )


def test_what_stands_where_a_report_is_missing_is_not_read(cdg: ChannelGenerator) -> None:
    history, other = histories(), histories(seed=5)
    other[0, 0] = float("nan")
    present = torch.rand(12, HISTORY_REPORTS, generator=torch.Generator().manual_seed(6)) < 0.5
    present[0, 0] = False
    present[1] = False
    mixed = torch.where(present[..., None, None, None], history, other)
    found = predict(cdg, mixed, present)
    assert torch.equal(found, predict(cdg, history, present))
    assert not found[1].any()
    assert bool(found[present.any(1)].abs().sum((1, 2, 3)).gt(0).all())


def test_a_short_history_is_one_whose_oldest_reports_are_missing(cdg: ChannelGenerator) -> None:
    history, present = histories(), everything()
    present[:, :5] = False
    torch.testing.assert_close(
        predict(cdg, history[:, 5:], everything()[:, 5:]), predict(cdg, history, present)
    )


def test_other_antennas_are_refused(cdg: ChannelGenerator) -> None:
    with pytest.raises(InvalidField, match="expects") as caught:
        predict(
            cdg, torch.zeros(2, 3, NUM_SUBBANDS, 1, 8, dtype=torch.complex64), everything(2)[:, :3]
        )
    assert caught.value.field == "history"


def test_what_is_stored_predicts_alike(cdg: ChannelGenerator, tmp_path: Path) -> None:
    path = tmp_path / "csi.safetensors"
    save_weights(path, cdg.packed(), cdg.description(), {})
    assert path.stat().st_size <= 0.35 * 2**20
    loaded = load_from(path)
    before = predict(cdg, histories(), everything())
    after = predict(loaded, histories(), everything())
    # eight bits and float16 are part of what is shipped
    assert (after - before).abs().square().mean() < 1e-4 * before.abs().square().mean()
    assert not any(p.requires_grad for p in loaded.parameters())


def test_words_are_folded_away_without_a_trace() -> None:
    generator = build("cdg", depth=0)
    generator.start_training()
    torch.nn.init.normal_(generator.dense.out.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    with torch.no_grad():
        before = predict(generator, histories(), everything())
        generator.end_training()
        torch.testing.assert_close(predict(generator, histories(), everything()), before)
    assert not any("words" in name or "map" in name for name in generator.stored())


def test_the_head_hears_the_language_model_at_any_level() -> None:
    """Training may drive what comes out of the trunk to a common level far below 0; the head must not go deaf there."""
    generator = build("cdg", seed=1, depth=1).requires_grad_(False)
    torch.manual_seed(2)
    torch.nn.init.normal_(generator.get_parameter("gains.gains.weight"), std=0.1)
    generator.get_parameter("leave.bias").fill_(-30.0)
    before = predict(generator, histories(), everything())
    generator.get_submodule("trunk").register_forward_hook(lambda _, __, said: said.flip(0))
    assert same(predict(generator, histories(), everything()), before) > 1e-3


@pytest.mark.parametrize("name", GENERATORS)
def test_antennas_without_weights_are_refused_by_name(name: str) -> None:
    assert not trained_for(name, Antennas(32, 2))
    with pytest.raises(InvalidField, match="32 ports") as caught:
        load_generator(name, Antennas(32, 2))
    assert caught.value.field == "predictor"
    with pytest.raises(InvalidField, match="allowed"):
        load_generator("oracle")


def test_all_reports_there_or_not_gives_finite_gradients() -> None:
    """Training meets users with one report and users with all."""
    generator = build("cdg", depth=0)
    generator.start_training()
    present = everything()
    present[:6, 1:] = False
    rows = predict(generator, histories(), present)
    (rows - histories(seed=8)[:, 0]).abs().square().sum().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in generator.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(g.isfinite().all()) for g in gradients)


def test_preparation_leaves_nothing_arbitrary() -> None:
    """Unit magnitude, and a strongest component that is real and positive."""
    prepared, scale = prepare(3.0 * histories(), everything(), AGES.repeat(12, 1), contexts())
    torch.testing.assert_close(prepared.anchor.abs().square().mean(1), torch.ones(12))
    strongest = prepared.anchor[torch.arange(12), prepared.anchor.abs().argmax(1)]
    assert bool((strongest.real > 0).all())
    assert float(strongest.imag.abs().max()) < 1e-5
    assert bool((scale > 0).all())


@pytest.mark.parametrize("name", GENERATORS)
def test_shipped_weights_are_small(name: str) -> None:
    path = SHIPPED.folder / PREDICTORS.get(name).weights_file(16, 1)
    assert path.stat().st_size <= 375_000
    assert path.with_suffix(".json").is_file()
