"""The bank of CSI histories and the trainer of channel generators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from channel_service.fading import ChannelKey, Rays, draw_rays, frequency_response
from kb_service.generators import build, load_from, load_generator
from kb_service.generators.base import newest_of, phase_aligned
from lab.training import csi_predictors
from lab.training.codec import Embedded
from lab.training.csi_history_dataset import GROUP_USERS, Histories, observe
from lab.training.csi_predictors import (
    GeneratorRecipe,
    by_condition,
    linear_rivals,
    phase_free_nmse,
    run,
    some_missing,
)
from lab.training.differentiable_link import SemanticLink
from semlink.errors import InvalidField
from semlink.links import Link
from semlink.semantics.codec import load_codec
from semlink.signal.csi import content_of
from semlink.signal.feedback import HISTORY_REPORTS

USERS = 8


@pytest.fixture(scope="module")
def rays() -> Rays:
    config = Link().replace(seed=777_000_001)
    return draw_rays(replace(ChannelKey.from_config(config), num_users=USERS))


@pytest.fixture(scope="module")
def histories(rays: Rays) -> Histories:
    config = Link()
    parts = observe(rays, config, first_slot=0, age_slots=7, bits=(16, 256), seed=1)
    return Histories.joined(parts)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on a loaded machine made a training of 14 s one of 145 s."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def link() -> SemanticLink:
    """The link of `person` with 64 items whose features the codec can carry: no corpus is encoded."""
    codec, draws = load_codec("person"), torch.Generator().manual_seed(3)
    symbols = torch.randn(64, 64, dtype=torch.complex64, generator=draws)
    with torch.inference_mode():
        media = normalize(codec.decode(symbols, torch.full((64, 64), 0.1)), dim=-1).clone()
    noise = torch.randn(256, media.shape[1], generator=draws) * 0.5 / media.shape[1] ** 0.5
    item = torch.arange(256) % 64
    text = normalize(media[item] + noise, dim=-1)
    return SemanticLink(codec, Embedded(text, media, item, torch.arange(64)))


@pytest.fixture
def own_link(link: SemanticLink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csi_predictors.SemanticLink, "from_corpus", lambda *args, **named: link)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_histories_say_what_was_reported_and_when(rays: Rays, histories: Histories) -> None:
    """Reports resemble the channel of their own slots more than others, better with more bits; ages are the slots'."""
    assert len(histories) == 2 * USERS
    assert histories.age_slots[0].tolist() == [42, 37, 32, 27, 22, 17, 12, 7]
    h = frequency_response(rays, 0, 43)
    torch.testing.assert_close(histories.channel[:USERS], h[:, 42])
    content = content_of(Link())
    error = torch.stack(
        [
            phase_free_nmse(histories.history[:, p], content.rows(h[:, slot]).repeat(2, 1, 1, 1))
            for p, slot in enumerate(range(0, 40, 5))
        ]
    )
    assert bool((error[:, USERS:].mean(1) < error[:, :USERS].mean(1)).all())
    assert float(error[:, USERS:].mean()) < 0.15
    shifted = phase_free_nmse(histories.history[USERS:, 0], content.rows(h[:, 42]))
    assert float(shifted.mean()) > float(error[0, USERS:].mean())


def test_banks_are_kept_as_they_are(histories: Histories, tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    histories.save(path)
    again = Histories.load([path, path])
    assert len(again) == 2 * len(histories)
    for f in fields(Histories):
        torch.testing.assert_close(
            getattr(again, f.name)[: len(histories)],
            getattr(histories, f.name),
            rtol=1e-3,
            atol=1e-3,
        )


def test_nmse_is_that_of_the_quantisers(histories: Histories) -> None:
    content = content_of(Link())
    rows = histories.history[:, -1]
    theirs = 10 ** (content.nmse_db(histories.channel, content.csi(rows)) / 10)
    torch.testing.assert_close(
        phase_free_nmse(rows, histories.truth()).double(), theirs, rtol=1e-3, atol=1e-5
    )


def test_every_user_keeps_a_report() -> None:
    present = some_missing((4_000, HISTORY_REPORTS), torch.Generator().manual_seed(0))
    assert bool(present.any(1).all())
    share = float(present.all(1).float().mean())
    assert 0.5 < share < 0.65
    assert float((~present[:, -1]).float().mean()) > 0.05  # the newest is lost as well


def test_linear_rivals_are_the_predictors(histories: Histories) -> None:
    found = linear_rivals(histories)
    assert torch.equal(
        found["hold-last"],
        content_of(Link()).rows(content_of(Link()).csi(histories.history[:, -1])),
    )
    untrained = build("cdg", depth=0)
    with torch.no_grad():
        rows = csi_predictors.predictions(untrained, histories)
    assert float((phase_aligned(found["wiener"], rows) - rows).abs().max()) < 1e-4
    table = by_condition(histories, found["wiener"])
    assert set(table) == {"umi-los 3 km/h 16 bits", "umi-los 3 km/h 256 bits", "all"}
    expected = float(phase_free_nmse(found["wiener"][USERS:], histories.truth()[USERS:]).mean())
    assert 10 ** (table["umi-los 3 km/h 256 bits"]["nmse_db"] / 10) == pytest.approx(
        expected, rel=0.3
    )


def test_an_interrupted_training_ends_where_a_whole_one_does(
    histories: Histories, own_cache: Path, own_link: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = GeneratorRecipe(steps=8, groups=2, warmup_steps=2, checkpoint_steps=3)
    arguments = {"recipe": recipe, "train": histories, "val": histories, "depth": 0}
    run("cdg", out=own_cache / "whole", **arguments)  # type: ignore[arg-type]

    calls = 0
    original = csi_predictors.phase_free_nmse

    def interrupted(rows: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return original(rows, truth)

    with monkeypatch.context() as context:
        context.setattr(csi_predictors, "phase_free_nmse", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("cdg", out=own_cache / "parts", **arguments)  # type: ignore[arg-type]
    run("cdg", out=own_cache / "parts", **arguments)  # type: ignore[arg-type]
    whole, parts = (
        load_from(own_cache / folder / "csi-cdg-16x1.safetensors").stored()
        for folder in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not list((own_cache / "training").rglob("*.pt"))


def test_training_lowers_the_loss(histories: Histories, own_cache: Path, own_link: None) -> None:
    """On what it was trained on: the steps go downhill, with the joint loss as well."""
    before = by_condition(histories, linear_rivals(histories)["wiener"])["all"]["nmse_db"]
    recipe = GeneratorRecipe(
        steps=25, groups=4, warmup_steps=3, learning_rate=3e-3, joint_weight=0.1
    )
    scores = run("cdg", out=own_cache, recipe=recipe, train=histories, val=histories, depth=0)
    assert scores["all"]["nmse_db"] < before - 0.1


@pytest.mark.parametrize("loss", [0.0, 0.5])
def test_the_shipped_generator_is_never_much_worse_than_hold_last(
    histories: Histories, loss: float
) -> None:
    """By condition, whatever got lost: at most 0.5 dB; with all reports there it is better."""
    present = (
        torch.rand(histories.age_slots.shape, generator=torch.Generator().manual_seed(5)) >= loss
    )
    present[:, 0] |= ~present.any(1)
    rows = csi_predictors.predictions(load_generator("cdg"), histories, present)
    generated = by_condition(histories, rows)
    held = by_condition(histories, newest_of(histories.history, present))
    worst = max(generated[key]["nmse_db"] - held[key]["nmse_db"] for key in held)
    assert worst < (0.5 if loss else 0.0)


def test_better_csi_retrieves_better(histories: Histories, link: SemanticLink) -> None:
    true, held = (
        link.scores(rows, histories, GROUP_USERS)
        for rows in (histories.truth(), histories.history[:, 0])
    )
    assert true["sinr_db"] > held["sinr_db"] + 1.0
    assert true["r_at_1"] >= held["r_at_1"]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InvalidField) as caught:
        csi_predictors.train_named("oracle")
    assert caught.value.field == "name"
    with pytest.raises(InvalidField) as caught:
        SemanticLink.from_corpus("smell")
    assert caught.value.field == "task"
