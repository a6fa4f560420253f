"""The one training loop: AdamW, warm-up and decay, exponential mean, clipping, best on validation, resume, progress.

A model states its batches, its loss and, where an epoch is to be chosen, its validation; how it is optimised is a
:class:`TrainerConfig`. Everything that is trained here is trained by :func:`train`.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Generic, Literal, TypeVar

import torch
from torch import nn

from lab.training.checkpoint import Checkpoint
from semlink.progress import progress

Module = TypeVar("Module", bound=nn.Module)
Batch = TypeVar("Batch")

SEED_STRIDE: Final = 100_003
"""Between the streams of random draws of two seeds: a prime above any number of epochs or steps."""


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """How a module is optimised.

    ``num_steps``: of all epochs together, which the learning rate's course spans. ``title``: names the progress bar;
    without one nothing is shown.
    """

    title: str
    epochs: int
    num_steps: int
    learning_rate: float
    seed: int = 0
    weight_decay: float = 0.0
    decayed_ndim: int = 0
    """Weight decay is for parameters of so many dimensions at least: 2 leaves out biases, gains and temperatures."""
    warmup_steps: int = 0
    decay: Literal["cosine", "linear", "none"] = "cosine"
    """After warm-up: half a cosine down to a fiftieth, a line down to zero, or a constant rate."""
    clip_norm: float | None = 1.0
    """Bound of the norm of all gradients together."""
    average_decay: float | None = None
    """Of the exponential mean over steps that is validated and returned; None: the trained weights themselves."""
    reseed: Literal["epoch", "step", "never"] = "epoch"
    """Torch's global draws begin anew with each epoch, by its number or by that of its first step, or go on."""
    training_mode: bool = True
    """Of the module while it is trained; else dropout rests."""
    checkpoint_epochs: int = 1
    """A checkpoint is written after so many epochs."""

    @classmethod
    def from_recipe(cls, recipe: Any, **more: Any) -> TrainerConfig:
        """What a model's recipe says under the same names, and what it does not say."""
        names = (f.name for f in fields(cls) if hasattr(recipe, f.name))
        return cls(**{name: getattr(recipe, name) for name in names} | more)

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * ((step + 1) / self.warmup_steps)
        left = max(1, self.num_steps - self.warmup_steps)
        done = min(1.0, (step - self.warmup_steps) / left)
        if self.decay == "none":
            return self.learning_rate
        if self.decay == "linear":
            return self.learning_rate * (1 - done)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * done)))


@dataclass(frozen=True, slots=True)
class Trained(Generic[Module]):
    """What a training came to.

    ``module``: in evaluation mode, the weights of the best epoch where there was a validation, else the last ones.
    ``history``: a row an epoch, its mean loss and what validation measured. ``seconds``: of all its runs.
    """

    module: Module
    history: list[dict[str, float]]
    seconds: float

    @property
    def final_loss(self) -> float:
        """Mean loss of the last epoch; NaN where there was none."""
        return self.history[-1]["loss"] if self.history else math.nan


Validation = tuple[float, dict[str, float]]
"""What decides between epochs (more is better), and what the history says of it."""


def train(
    module: Module,
    batches: Callable[[int], Iterable[Batch]],
    loss: Callable[[Batch], torch.Tensor],
    config: TrainerConfig,
    *,
    validate: Callable[[Module, int], Validation | None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Trained[Module]:
    """Train the parameters of ``module`` that require gradients, in place.

    ``batches``: those of an epoch, counted from 0, as a function of its number and of torch's global draws alone: then
    an interrupted run ends in the very weights of a whole one. ``loss``: a scalar, of ``module`` and a batch.
    ``validate``: of the weights after an epoch, None in epochs that are not measured. ``checkpoint``: where an
    interrupted run goes on; who stores the result removes it.
    """
    run = _Run(module, config)
    if checkpoint is not None and (state := checkpoint.load()) is not None:
        run.restore(state)
    started = time.monotonic() - run.seconds
    with progress(quiet=not config.title) as bar:
        line = bar.add_task(config.title, total=config.num_steps, completed=run.step)
        for epoch in range(len(run.history), config.epochs):
            if config.reseed != "never":
                first = epoch if config.reseed == "epoch" else run.step
                torch.manual_seed(config.seed * SEED_STRIDE + first)
            module.train(config.training_mode)
            losses = []
            for batch in batches(epoch):
                losses.append(run.take_step(loss, batch))
                bar.advance(line)
            row = {"epoch": epoch, "loss": sum(losses) / max(1, len(losses))}
            result = run.averaged()
            if validate is not None and (found := validate(result, epoch)) is not None:
                row |= found[1]
                run.keep_best(found[0])
            run.history.append(row)
            run.seconds = time.monotonic() - started
            values = (f"{name} {value:.4g}" for name, value in row.items())
            bar.print(f"{config.title}: {', '.join(values)}")
            if checkpoint is not None and (epoch + 1) % config.checkpoint_epochs == 0:
                checkpoint.save(run.state())
    result = run.averaged()
    result.load_state_dict(run.best, strict=False)
    return Trained(result, run.history, run.seconds)


def steps_of(epoch: int, epoch_steps: int, num_steps: int) -> range:
    """The steps of an epoch, for models that count steps: as many as lie between two checkpoints, the last fewer."""
    return range(epoch * epoch_steps, min(num_steps, (epoch + 1) * epoch_steps))


class _Run(Generic[Module]):
    """Where a training stands."""

    def __init__(self, module: Module, config: TrainerConfig) -> None:
        self.module, self.config = module, config
        self.average = copy.deepcopy(module).eval() if config.average_decay is not None else None
        self.trained = [p for p in module.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.trained if p.ndim >= config.decayed_ndim]},
            {"params": [p for p in self.trained if p.ndim < config.decayed_ndim]},
        ]
        groups[1]["weight_decay"] = 0.0
        self.optimizer = torch.optim.AdamW(
            groups, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step, self.seconds, self.best_score = 0, 0.0, -math.inf
        self.history: list[dict[str, float]] = []
        self.best: dict[str, torch.Tensor] = {}

    def take_step(self, loss: Callable[[Batch], torch.Tensor], batch: Batch) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate_at(self.step)
        value = loss(batch)
        self.optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained, self.config.clip_norm)
        self.optimizer.step()
        self.step += 1
        if self.average is not None and self.config.average_decay is not None:
            followed = (p for p in self.average.parameters() if p.requires_grad)
            with torch.no_grad():
                for mean, weight in zip(followed, self.trained, strict=True):
                    mean.lerp_(weight, 1.0 - self.config.average_decay)
        return value.item()

    def averaged(self) -> Module:
        """What is validated and returned, in evaluation mode."""
        if self.average is None:
            self.module.eval()
            return self.module
        # Statistics of batch normalisation are means over steps already.
        for mean, buffer in zip(self.average.buffers(), self.module.buffers(), strict=True):
            mean.copy_(buffer)
        return self.average

    def keep_best(self, score: float) -> None:
        if score > self.best_score:
            self.best_score, self.best = score, copy.deepcopy(_learned(self.averaged()))

    def state(self) -> dict[str, Any]:
        return {
            "module": _learned(self.module),
            "average": _learned(self.average) if self.average is not None else {},
            "best": self.best,
            "best_score": self.best_score,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "history": self.history,
            "seconds": self.seconds,
            "draws": torch.get_rng_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.module.load_state_dict(state["module"], strict=False)
        if self.average is not None:
            self.average.load_state_dict(state["average"], strict=False)
        self.best, self.best_score = state["best"], state["best_score"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.history, self.seconds = state["step"], state["history"], state["seconds"]
        torch.set_rng_state(state["draws"])


def _learned(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a module without what is frozen, which whoever made the module brings in again."""
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name not in frozen}
