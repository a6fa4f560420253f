"""The one trainer: its course of learning rates, what it returns, and that interruptions change nothing."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lab.evaluation.cache import ROOT, parts
from lab.evaluation.parallel import one_thread
from lab.training.checkpoint import Checkpoint
from lab.training.trainer import TrainerConfig, Validation, steps_of, train

CONFIG = TrainerConfig(
    title="",
    epochs=6,
    num_steps=24,
    learning_rate=1e-2,
    seed=3,
    weight_decay=0.1,
    decayed_ndim=2,
    warmup_steps=3,
    average_decay=0.7,
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "cache"))
    # threads that wait for each other on a loaded machine take longer than the work
    with one_thread():
        yield


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))


def batches(_epoch: int) -> Iterator[torch.Tensor]:
    return (torch.randn(16, 4) for _ in range(4))


def fit(module: nn.Module, config: TrainerConfig = CONFIG, **more: Any) -> Any:
    def loss(x: torch.Tensor) -> torch.Tensor:
        return (module(x)[:, 0] - x.prod(1)).square().mean()

    return train(module, batches, loss, config, **more)


def same(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in a.state_dict().items())


def test_the_learning_rate_warms_up_and_falls() -> None:
    config = replace(CONFIG, num_steps=103, learning_rate=2.0)
    rates = [config.learning_rate_at(step) for step in range(120)]
    assert rates[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert rates[53] == pytest.approx(0.02 * 2 + 0.98 * 2 / 2), "half way down"
    assert rates[103:] == pytest.approx([0.04] * 17)
    assert rates[3:104] == sorted(rates[3:104], reverse=True)
    linear = replace(config, decay="linear", warmup_steps=0)
    assert [linear.learning_rate_at(s) for s in (0, 103)] == [2.0, 0.0]
    assert replace(config, decay="none").learning_rate_at(99) == 2.0


def test_steps_between_checkpoints_are_all_steps() -> None:
    assert [list(steps_of(epoch, 4, 10)) for epoch in range(3)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


def test_it_is_adamw_by_hand() -> None:
    """One parameter, one step: moments, their correction, decoupled decay, the clipped gradient."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    config = replace(CONFIG, epochs=1, num_steps=1, warmup_steps=0, average_decay=None)
    train(module, lambda _: [torch.tensor([[3.0]])], lambda x: module(x).sum() * 5.0, config)
    gradient = 1.0  # 15, clipped
    expected = 1.0 - 1e-2 * 0.1 * 1.0 - 1e-2 * gradient / (abs(gradient) + 1e-8)
    assert module.weight.item() == pytest.approx(expected, abs=1e-7)


def test_only_what_asks_for_gradients_is_trained_and_kept() -> None:
    module = net()
    module[0].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    checkpoint = Checkpoint("some", "lab.training.trainer")
    fit(module, checkpoint=checkpoint)
    moved = {n for n, t in module.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == set(before) - {"0.weight", "0.bias"}
    state = checkpoint.load()
    assert state is not None
    assert set(state["module"]) == moved


def test_the_mean_over_steps_has_the_statistics_of_the_last() -> None:
    module = net()
    trained = fit(module)
    assert trained.module is not module
    assert not trained.module.training
    assert not torch.equal(trained.module[0].weight, module[0].weight)
    assert torch.equal(trained.module[1].running_mean, module[1].running_mean)
    assert fit(net(), replace(CONFIG, average_decay=None)).module.training is False
    short = replace(CONFIG, average_decay=0.0)
    again = net()
    assert same(fit(again, short).module, again), "a mean that forgets all at once"


def test_the_best_epoch_is_returned() -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def validate(module: nn.Module, epoch: int) -> Validation | None:
        seen.append({n: t.clone() for n, t in module.state_dict().items()})
        return None if epoch == 4 else (-abs(epoch - 2), {"val": float(epoch)})

    trained = fit(net(), validate=validate)
    assert all(torch.equal(t, seen[2][n]) for n, t in trained.module.state_dict().items())
    assert [row.get("val") for row in trained.history] == [0.0, 1.0, 2.0, 3.0, None, 5.0]
    assert trained.final_loss == trained.history[-1]["loss"]
    assert math.isnan(fit(net(), replace(CONFIG, epochs=0)).final_loss)


@pytest.mark.parametrize("reseed", ["epoch", "step", "never"])
@pytest.mark.parametrize("stop", [1, 2, 5])
def test_an_interrupted_run_ends_as_the_whole_one(reseed: Any, stop: int) -> None:
    config = replace(CONFIG, reseed=reseed, checkpoint_epochs=2)

    def validate(_: nn.Module, epoch: int) -> Validation:
        return -abs(epoch - 3), {"val": float(epoch)}

    whole = fit(net(), config, validate=validate)

    def interrupted(_: nn.Module, epoch: int) -> Validation:
        if epoch == stop:
            raise KeyboardInterrupt
        return validate(_, epoch)

    checkpoint = Checkpoint("run", "lab.training.trainer", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(net(), config, validate=interrupted, checkpoint=checkpoint)
    assert checkpoint.path.is_file() == (stop >= 2)
    module = net()
    torch.manual_seed(77)
    if stop < 2:
        module = net()
    resumed = fit(module, config, validate=validate, checkpoint=checkpoint)
    assert same(resumed.module, whole.module)
    assert resumed.history == whole.history
    assert checkpoint.path.is_file(), "whoever stores the result removes it"
    again = fit(net(), config, validate=validate, checkpoint=checkpoint)
    assert same(again.module, whole.module), "a run whose end was reached is not trained on"
    checkpoint.remove()
    assert checkpoint.load() is None


def test_checkpoints_are_a_cache_by_sources_and_key() -> None:
    checkpoint = Checkpoint("run", "lab.training.codec", {"steps": 3}, 1)
    assert Checkpoint("run", "lab.training.codec", {"steps": 4}, 1).path != checkpoint.path
    checkpoint.save({"step": 4, "history": [{"loss": 0.5}]})
    (part,) = parts()
    assert (part.name, part.state, part.producers) == (
        "training",
        "in use",
        ("lab.training.codec",),
    )
    assert checkpoint.load() == {"format": 2, "step": 4, "history": [{"loss": 0.5}]}


# --- one of each --------------------------------------------------------------------------------


def test_there_is_one_optimiser_one_schedule_and_one_checkpoint_format() -> None:
    """Everything that is trained goes through the trainer."""
    found: dict[str, list[str]] = {}
    folders = (
        "lab",
        "semlink",
        "kb_service",
        "receiver",
        "transmitter",
        "channel_service",
        "tools",
    )
    for path in (p for folder in folders for p in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
                    found.setdefault(name, []).append(path.name)
                case ast.FunctionDef(name=name):
                    found.setdefault(f"def {name}", []).append(path.name)
                case ast.Attribute(attr="lr_scheduler"):
                    found.setdefault("lr_scheduler", []).append(path.name)
                case _:
                    pass
    assert found["AdamW"] == ["trainer.py"]
    assert not {"Adam", "SGD", "RMSprop", "Adagrad", "LBFGS"} & found.keys()
    assert found["backward"] == found["clip_grad_norm_"] == ["trainer.py"]
    assert [name for name in found if name.startswith("def learning_rate")] == [
        "def learning_rate_at"
    ]
    assert found["def learning_rate_at"] == ["trainer.py"]
    assert "lr_scheduler" not in found
    assert found["def save_weights"] == ["checkpoint.py"]
