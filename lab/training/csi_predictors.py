"""Train a channel generator on the dataset of CSI histories: ``semlink train cdg --name cdg``.

Every generator of :data:`kb_service.generators.GENERATORS` is trained by the same steps on the same histories, with
reports missing at random, for the same loss: the NMSE of what a precoder can use, free phases turned away. ``cdg`` adds
the retrieval loss of the semantic link behind its precoders (:mod:`lab.training.differentiable_link`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from kb_service.generators import ChannelGenerator, build
from lab.training.checkpoint import Checkpoint, rounded, save_weights
from lab.training.csi_history_dataset import (
    GROUP_USERS,
    Histories,
    training_histories,
    validation_histories,
)
from lab.training.differentiable_link import SemanticLink
from lab.training.trainer import SEED_STRIDE, Trained, TrainerConfig, steps_of
from lab.training.trainer import train as fit
from semlink.components import PREDICTORS
from semlink.decibels import lin_to_db
from semlink.errors import InvalidField
from semlink.links import Link
from semlink.scenarios import SCENARIOS
from semlink.settings import Settings
from semlink.signal.csi import content_of
from semlink.signal.metrics import direction_similarity

EVALUATION_BATCH: Final = 96
JOINT_TASK: Final = "person"
"""Whose codec and features the retrieval loss goes through."""


@dataclass(frozen=True, slots=True)
class GeneratorRecipe:
    """Everything that decides what a run learns, besides generator, dataset and seed."""

    steps: int = 2_000
    groups: int = 16
    """Of four users, in a batch."""
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    warmup_steps: int = 100
    nmse_floor: float = 0.02
    """The loss is the mean of ``log(NMSE + nmse_floor)``: decibels count, and histories that say much are not drowned
    by those that nobody can predict."""
    joint_weight: float = 0.0
    """``λ`` of the retrieval loss."""
    checkpoint_steps: int = 250


def phase_free_nmse(rows: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """NMSE of each item with the phase of every row of every subband turned away: float32 ``[n]``, linear.

    ``min_φ Σ_s ‖h_s − e^{jφ_s} ĥ_s‖² / ‖h‖² = Σ_s (‖h_s‖² + ‖ĥ_s‖² − 2 |⟨ĥ_s, h_s⟩|) / ‖h‖²``. Our definition.

    ``rows``, ``truth``: complex64 ``[n, num_subbands, num_rows, num_tx_ant]``.
    """
    inner = (rows.conj() * truth).sum(-1)
    # |z| has no gradient at 0, where a row that starts as zero is
    agreement = (inner.real.square() + inner.imag.square() + 1e-12).sqrt().sum((1, 2))
    power = truth.abs().square().sum((1, 2, 3))
    error = power + rows.abs().square().sum((1, 2, 3)) - 2 * agreement
    return error / power


def some_missing(shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Which reports are there in training: bool ``[n, num_reports]``, the first for each at least.

    All of them for half of the users; the others lose each report with a chance of their own up to a half, and a third
    of those have a short history.
    """
    n, count = shape

    def uniform(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator)

    loss = uniform(n, 1) * 0.5 * (uniform(n, 1) < 0.5)
    here = uniform(n, count) >= loss
    oldest = torch.where((uniform(n, 1) < 1 / 3) & (loss > 0), uniform(n, 1) * count, 0.0).long()
    here &= torch.arange(count) >= oldest
    kept = torch.randint(count, (n, 1), generator=generator)
    return here | (~here.any(1, keepdim=True) & (torch.arange(count) == kept))


def run(
    name: str,
    *,
    seed: int = 0,
    out: Path | None = None,
    recipe: GeneratorRecipe | None = None,
    train: Histories | None = None,
    val: Histories | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a generator, write it to where the knowledge base reads it or into ``out``; returns validation's scores.

    ``settings`` are those of the generator. An interrupted run goes on after its last checkpoint. Raises InvalidField
    for an unknown name.
    """
    recipe = recipe or GeneratorRecipe()
    generator = build(name, seed, **settings)
    train = training_histories() if train is None else train
    val = validation_histories() if val is None else val
    device = "cuda" if torch.cuda.is_available() else "cpu"
    joint = SemanticLink.from_corpus(JOINT_TASK, device=device) if recipe.joint_weight else None
    key = asdict(recipe), name, asdict(generator.settings), seed, len(train)
    checkpoint = Checkpoint(f"csi-{name}-{seed}", __name__, *key)
    trained = _fit(generator.to(device), train.to(device), joint, recipe, seed, checkpoint)
    generator.end_training()
    generator = generator.cpu().eval()
    # as shipped: the rounding to eight bits is part of what is measured
    generator.restore(generator.packed())
    rows = predictions(generator, val)
    scores: dict[str, Any] = by_condition(val, rows)
    link = SemanticLink.from_corpus(JOINT_TASK, "val")
    scores["link"] = {f"{users} users": link.scores(rows, val, users) for users in (1, GROUP_USERS)}
    antennas = generator.antennas
    file = PREDICTORS.get(name).weights_file(antennas.num_tx_ant, antennas.num_rows)
    path = (out or Settings().weights_dir) / file
    save_weights(
        path,
        generator.packed(),
        generator.description(),
        {
            "command": f"semlink train cdg --name {name}" + (f" --seed {seed}" if seed else ""),
            "data": {
                "bank": "lab.training.csi_history_dataset",
                "train": len(train),
                "val": len(val),
            },
            "settings": asdict(generator.settings),
            "recipe": asdict(recipe),
            "seed": seed,
            "trainable_parameters": sum(p.numel() for p in generator.stored().values()),
            "final_loss": round(trained.final_loss, 4),
            "scores": rounded(scores),
            "seconds": round(trained.seconds),
        },
    )
    checkpoint.remove()
    return scores


def _fit(
    generator: ChannelGenerator,
    train: Histories,
    joint: SemanticLink | None,
    recipe: GeneratorRecipe,
    seed: int,
    checkpoint: Checkpoint,
) -> Trained[ChannelGenerator]:
    torch.manual_seed(seed)
    generator.start_training()
    generator.to(train.history.device)
    truth = train.truth()
    draws = torch.Generator()

    def batches(epoch: int) -> Iterator[torch.Tensor]:
        steps = steps_of(epoch, recipe.checkpoint_steps, recipe.steps)
        draws.manual_seed(seed * SEED_STRIDE + steps.start)
        for _ in steps:
            group = torch.randint(len(train) // GROUP_USERS, (recipe.groups,), generator=draws)
            yield (group[:, None] * GROUP_USERS + torch.arange(GROUP_USERS)).flatten()

    def loss(index: torch.Tensor) -> torch.Tensor:
        present = some_missing((len(index), train.history.shape[1]), draws)
        batch = train.rows(index.to(truth.device))
        rows = generator(batch.history, present.to(truth.device), batch.age_slots, batch.context)
        nmse = phase_free_nmse(rows, truth[index.to(truth.device)])
        total = (nmse + recipe.nmse_floor).log().mean() + generator.further_loss()
        if joint is not None and recipe.joint_weight:
            total = total + recipe.joint_weight * joint(rows, batch, draws)
        return total

    config = TrainerConfig.from_recipe(
        recipe,
        title=generator.name,
        epochs=math.ceil(recipe.steps / recipe.checkpoint_steps),
        num_steps=recipe.steps,
        seed=seed,
        reseed="never",
    )
    return fit(generator, batches, loss, config, checkpoint=checkpoint)


# --- measuring ---------------------------------------------------------------------------------


@torch.inference_mode()
def predictions(
    generator: ChannelGenerator, histories: Histories, present: torch.Tensor | None = None
) -> torch.Tensor:
    """Predicted rows of all histories; ``present``: bool ``[n, num_reports]``, default all."""
    if present is None:
        present = torch.ones(histories.age_slots.shape, dtype=torch.bool)
    parts = []
    for first in range(0, len(histories), EVALUATION_BATCH):
        index = torch.arange(first, min(first + EVALUATION_BATCH, len(histories)))
        h = histories.rows(index)
        parts.append(generator(h.history, present[index], h.age_slots, h.context))
    return torch.cat(parts)


def by_condition(histories: Histories, rows: torch.Tensor) -> dict[str, dict[str, float]]:
    """NMSE [dB, ratio of sums, free phases turned away] and SGCS by scenario, speed and bits, and of all.

    NMSE of "all" is the mean over conditions in dB.
    """
    truth = histories.truth()
    power = truth.abs().square().sum((1, 2, 3)).double()
    error = phase_free_nmse(rows, truth).double() * power
    same = direction_similarity(
        *(torch.nn.functional.normalize(x[:, :, 0], dim=-1) for x in (rows, truth))
    )
    found: dict[str, dict[str, float]] = {}
    conditions = list(
        zip(
            histories.scenario.tolist(),
            histories.speed_kmh.round().tolist(),
            histories.bits.tolist(),
            strict=True,
        )
    )
    for condition in sorted(set(conditions)):
        here = torch.tensor([c == condition for c in conditions])
        scenario, kmh, bits = condition
        nmse = error[here].sum() / power[here].sum()
        found[f"{SCENARIOS[scenario]} {kmh:g} km/h {bits} bits"] = {
            "nmse_db": float(lin_to_db(nmse)),
            "sgcs": float(same[here].mean()),
        }
    values = list(found.values())
    found["all"] = {
        metric: sum(value[metric] for value in values) / len(values) for metric in values[0]
    }
    return found


def linear_rivals(histories: Histories) -> Mapping[str, torch.Tensor]:
    """Rows predicted by ``hold-last``, ``wiener`` and ``kalman``, which are not trained."""
    from kb_service.prediction import predictor_of

    found = {}
    config = Link()
    content = content_of(config)
    for name in ("hold-last", "wiener", "kalman"):
        rows = torch.empty_like(histories.history[:, 0])
        for kmh in sorted(set(histories.speed_kmh.tolist())):
            here = histories.speed_kmh == kmh
            config = config.replace(speed_kmh=kmh)
            part = histories.rows(here)
            csi = predictor_of(name, Settings().weights).predict(
                content.csi(part.history)[:, None],
                torch.ones(len(part), 1, part.history.shape[1], dtype=torch.bool),
                part.age_slots,
                config,
            )
            rows[here] = content.rows(csi[:, 0])
        found[name] = rows
    return found


def train_named(
    name: str, *, seed: int = 0, steps: int | None = None, out: Path | None = None
) -> dict[str, Any]:
    """Train a generator by the recipe that was chosen for it; what ``semlink train cdg`` does."""
    recipe = RECIPES.get(name)
    if recipe is None:
        raise InvalidField(f"name is {name!r}, allowed: {', '.join(RECIPES)}", field="name")
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    return run(name, seed=seed, out=out, recipe=recipe)


STEPS: Final = 2_000
RECIPES: Final[Mapping[str, GeneratorRecipe]] = {
    "cdg": GeneratorRecipe(STEPS, learning_rate=2e-3, joint_weight=0.3),
    "transformer": GeneratorRecipe(STEPS, learning_rate=1e-3),
    "llm4cp": GeneratorRecipe(STEPS, learning_rate=2e-3),
    "csi-llm": GeneratorRecipe(STEPS, learning_rate=1e-3),
}
"""Of each generator: the same steps, a learning rate of its own that was chosen on validation."""
