"""Refined weights: kept, used where they belong, taken back, deleted."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from kb_service.channel_knowledge import (
    forget,
    keep,
    refined_weights,
    refinements,
    roll_back,
)
from kb_service.generators import Antennas, load_generator
from kb_service.prediction import Generated, predict_items, predictor_named
from lab.training import site_adaptation
from lab.training.site_adaptation import (
    Pairs,
    RefineRecipe,
    experienced,
    learn,
    learnable,
    nmse_db,
    pairs_of,
    refine,
    with_weights,
)
from semlink.errors import InvalidField, NotFound
from semlink.links import Link
from semlink.settings import Settings
from semlink.signal.csi import quantizer_for
from semlink.store import MemoryStore
from semlink.v1 import channel_pb2, knowledge_pb2
from semlink.v1.common_pb2 import CsiReport

NAME = "transformer"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEMLINK_DATA_DIR", str(tmp_path))
    return tmp_path


def bias(value: float) -> dict[str, torch.Tensor]:
    return {"dense.out.bias": torch.full((256,), value)}


def test_keep_roll_back_forget() -> None:
    assert refined_weights(NAME, "umi-los") == {}
    keep(NAME, "umi-los", bias(1.0), {"command": "first"})
    keep(NAME, "umi-los", bias(2.0), {"command": "second"})
    keep(NAME, "cdl-b", bias(3.0), {"command": "elsewhere"})
    assert float(refined_weights(NAME, "umi-los")["dense.out.bias"][0]) == 2.0
    found = {(r.generator, r.scenario): r for r in refinements()}
    assert set(found) == {(NAME, "umi-los"), (NAME, "cdl-b")}
    assert found[NAME, "umi-los"].metadata["command"] == "second"
    assert found[NAME, "umi-los"].has_previous
    assert found[NAME, "umi-los"].in_use
    roll_back(NAME, "umi-los")
    assert float(refined_weights(NAME, "umi-los")["dense.out.bias"][0]) == 1.0
    with pytest.raises(NotFound, match="no earlier refinement"):
        roll_back(NAME, "umi-los")
    forget(NAME, "umi-los")
    assert refined_weights(NAME, "umi-los") == {}
    with pytest.raises(NotFound, match="no refinement"):
        forget(NAME, "umi-los")
    assert refined_weights(NAME, "cdl-b")


def test_a_refinement_serves_its_scenario_alone() -> None:
    keep(NAME, "umi-los", bias(0.05), {})
    here, elsewhere = Link(scenario="umi-los"), Link(scenario="uma-nlos")
    refined, shipped = (predictor_named(NAME, config) for config in (here, elsewhere))
    assert isinstance(refined, Generated)
    assert isinstance(shipped, Generated)
    assert (refined.source, shipped.source) == (f"{NAME}+umi-los", NAME)
    history = torch.randn(1, 1, 8, 8, 2, 16, dtype=torch.complex64)
    present, ages = torch.ones(1, 1, 8, dtype=torch.bool), torch.arange(40, 0, -5)[None]
    one, two = (p.predict(history, present, ages, here) for p in (refined, shipped))
    assert not torch.allclose(one, two)
    assert torch.equal(two, Generated(NAME).predict(history, present, ages, here))
    item = knowledge_pb2.PredictCsiItem(
        link_id="x", config=here.to_proto(), slot=131, predictor=NAME
    )
    assert predict_items([item], [[]])[0].source == "none"


def test_a_refinement_of_other_shipped_weights_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(NAME, "umi-los", bias(0.05), {})
    weights = folder / "weights"
    weights.mkdir()
    name = f"csi-{NAME}-16x1.safetensors"
    shutil.copy(Settings().weights_dir / name, weights / name)
    with (weights / name).open("ab") as file:
        file.write(b" ")
    monkeypatch.setenv("SEMLINK_WEIGHTS_DIR", str(weights))
    assert refined_weights(NAME, "umi-los", Settings().weights) == {}
    assert [r.in_use for r in refinements()] == [False]


# --- learning ----------------------------------------------------------------------------------


def reports(users: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    csi = torch.randn(users, count, 8, 2, 16, dtype=torch.complex64, generator=generator)
    csi[..., 1:, :] = 0  # rows of one layer
    return csi, torch.rand(users, count, generator=generator) > 0.2


def test_pairs_are_of_the_past_and_what_came_after() -> None:
    """Every pair is recomputed from the reports; a lost report is neither target nor shown as there."""
    csi, present = reports(3, 20)
    config = Link()
    pairs = pairs_of(config, csi, present)
    expected = 0
    for user in range(3):
        for newest in range(20):
            past = present[user, max(0, newest - 7) : newest + 1]
            for ahead in (1, 2):
                if newest + ahead < 20 and past.any() and present[user, newest + ahead]:
                    expected += 1
    assert len(pairs) == expected
    assert set(pairs.age_slots[:, -1].tolist()) == {5, 10}
    power = pairs.history.abs().square().sum((2, 3, 4))
    assert torch.equal(power > 0, pairs.present)
    row = csi[:, :, :, :1]
    for i in range(0, len(pairs), 37):
        user = int(pairs.user[i])
        similarity = [
            float((pairs.later[i].conj() * row[user, t]).sum(-1).abs().sum()) for t in range(20)
        ]
        later = max(range(20), key=similarity.__getitem__)
        newest = later - int(pairs.age_slots[i, -1]) // 5
        assert present[user, later]
        assert bool(pairs.present[i, -1]) == bool(present[user, newest])


def drifting(users: int, count: int) -> Pairs:
    """Channels that the shipped weights have not seen: every row fades by a tenth from report to report."""
    csi, present = reports(users, 1)
    fading = (
        csi.expand(-1, count, -1, -1, -1) * 0.9 ** torch.arange(count)[None, :, None, None, None]
    )
    return pairs_of(Link(), fading, present.expand(-1, count) | True)


def test_learning_helps_where_there_is_something_to_learn_and_leaves_the_shipped_weights_alone() -> (
    None
):
    shipped = load_generator(NAME, Antennas())
    before = {name: weight.clone() for name, weight in shipped.state_dict().items()}
    learned = learn(shipped, drifting(24, 24), RefineRecipe(steps=20, batch=32, learning_rate=4e-3))
    assert learned.better
    assert learned.after_db < learned.before_db - 1
    assert all(torch.equal(weight, before[n]) for n, weight in shipped.state_dict().items())
    assert set(learned.weights) < set(before)
    assert not any(name.startswith("trunk.") for name in learned.weights)


def test_what_was_learned_is_kept_only_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Later reports cannot tell whether the channel is predicted better: by default nothing changes."""

    async def found(*_: object) -> list[Pairs]:
        return [drifting(24, 24)]

    monkeypatch.setattr(site_adaptation, "experienced", found)
    settings = Settings(redis_url="memory://")
    recipe = RefineRecipe(steps=10, batch=32, learning_rate=4e-3)
    for keep_it in (False, True):
        console = Console(record=True, quiet=False, file=io.StringIO(), width=400)
        learned = site_adaptation.run(
            "cdl-b", settings, generator=NAME, recipe=recipe, keep_it=keep_it, console=console
        )
        assert learned.better
        assert bool(refined_weights(NAME, "cdl-b")) == keep_it
        assert (site_adaptation.WARNING in console.export_text()) != keep_it
    with pytest.raises(InvalidField, match="--scenario is 'mars'"):
        site_adaptation.run("mars", settings)


def test_refinement_is_reproducible_and_what_is_kept_is_what_was_measured() -> None:
    shipped = load_generator(NAME, Antennas())
    pairs = drifting(8, 16)
    one, two = (refine(shipped, pairs, RefineRecipe(steps=5)) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    keep(NAME, "cdl-b", one, {})
    kept = with_weights(shipped, refined_weights(NAME, "cdl-b"))
    assert nmse_db(kept, pairs) == pytest.approx(
        nmse_db(with_weights(shipped, one), pairs), abs=0.01
    )


def test_too_little_is_not_learned_from() -> None:
    with pytest.raises(NotFound, match="too few"):
        learn(load_generator(NAME, Antennas()), drifting(4, 6), RefineRecipe(steps=1))


async def test_what_open_links_left_in_the_store_is_found() -> None:
    """Reports of two users through the store and back: the same pairs as from their CSI; other links do not count."""
    store, config = MemoryStore(), Link()
    config = config.replace(num_users=2)
    quantizer = quantizer_for(config)
    csi, _ = reports(2, 12)
    index = torch.arange(12)
    made = []
    for user in range(2):
        payload = quantizer.encode(csi[user], index)
        made += [
            CsiReport(
                user=user,
                slot=5 * i,
                report_index=i,
                bits=quantizer.bits,
                payload=bytes(payload[i].tolist()),
            )
            for i in range(12)
            if (user, i) != (1, 3)
        ]
    for link_id, scenario in (("here", "umi-los"), ("elsewhere", "uma-nlos")):
        other = config.replace(scenario=scenario).to_proto()
        await store.put_link(channel_pb2.Link(link_id=link_id, config=other, slot=60))
        await store.put_reports(link_id, made)
    (found,) = await experienced(store, "umi-los")
    present = torch.ones(2, 12, dtype=torch.bool)
    present[1, 3] = False
    both = [quantizer.decode(quantizer.encode(csi[u], index), index) for u in range(2)]
    expected = pairs_of(config, torch.stack(both), present)
    assert len(found) == len(expected) > 0
    assert torch.equal(found.present, expected.present)
    assert torch.allclose(found.later, expected.later, atol=1e-5)
    assert await experienced(store, "cdl-b") == []


def test_links_that_generators_cannot_read_teach_nothing() -> None:
    config = Link()
    assert learnable(config, "umi-los")
    assert not learnable(config, "uma-nlos")
    for change in (("quantizer", "scalar"), ("memory", "predictive"), ("content", "channel")):
        assert not learnable(Link().replace(**dict([change])), "umi-los")
    other = Link().replace(num_layers=2)
    assert not learnable(other, "umi-los")
