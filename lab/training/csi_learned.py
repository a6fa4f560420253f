"""Train the ``learned`` quantiser: ``python -m lab.training.csi_learned`` (about 5 minutes on one free core a
configuration).

Needs the codebooks and the drawn channels of :mod:`lab.training.csi_rvq`. First the tail's tables are counted, then the
transformer is trained on what the real quantiser leaves. An interrupted run goes on from its last checkpoint; a
configuration that is there is not made again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from rich.console import Console

from lab.evaluation.cache import key_of
from lab.training.channel_dataset import TRAIN_MIX, drop, fewer_antennas
from lab.training.checkpoint import Checkpoint, save_weights
from lab.training.csi_rvq import (
    TEST_SEED,
    TRAIN_SEED,
    cached,
    drawn_channels,
    score_table,
)
from lab.training.trainer import TrainerConfig, steps_of, train
from semlink.errors import InvalidField
from semlink.grid import NUM_SUBBANDS
from semlink.progress import progress
from semlink.settings import Settings
from semlink.signal.csi.arithmetic import PRECISION
from semlink.signal.csi.layers import LayerRows
from semlink.signal.csi.learned import (
    DIGEST_BYTES,
    NUM_STEP_ROWS,
    Latent,
    LearnedQuantizer,
    LearnedWeights,
    TokenTransformer,
    network_state,
    step_row,
    stored_network,
    weigh_direction,
)
from semlink.signal.csi.rvq import MADE_BY as RVQ_MADE_BY
from semlink.signal.csi.rvq import Codebooks, RvqQuantizer, search
from semlink.signal.csi.scalar import ScalarQuantizer
from semlink.signal.csi.tail import (
    LARGEST,
    NUM_BUCKETS,
    NUM_NEIGHBOURHOODS,
    NUM_STEPS,
    TailModel,
    buckets,
    quantised,
    step_sizes,
)
from semlink.weight_files import Weights

CONFIGURATIONS: Final = {
    "16x2": (16, 2),
    "rows-16x1": (16, 1),
    "rows-8x1": (8, 1),
    "rows-32x1": (32, 1),
    "rows-16x2": (16, 2),
    "16x1": (16, 1),
    "8x2": (8, 2),
    "8x1": (8, 1),
    "32x2": (32, 2),
    "32x1": (32, 1),
}
"""``(num_tx_ant, num_rx_ant)`` by name; "rows": of the strongest rows of receivers with two antennas."""
VALIDATION_SEED: Final = 5_000_000
TAIL_BITS: Final = (80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024)
TRAINED_BITS: Final = (
    *(8, 12, 16, 16, 20, 24, 32, 32, 40, 48, 56, 64, 64, 64),
    *(72, 80, 96, 96, 128, 128, 160, 192, 256, 256, 320, 384, 512, 512, 768, 1024),
)
"""Bits of a training step, drawn evenly; those that links are measured at come more often."""
PROFILE_RANK: Final = 16
PROFILE_PRIOR_CHANNELS: Final = 8
BATCH: Final = 128
PEAK_LEARNING_RATE: Final = 1.2e-3
SOFTNESS: Final = 0.05
CHECKPOINT_STEPS: Final = 50


def _shuffled(h: torch.Tensor, seed: int) -> torch.Tensor:
    return h[torch.randperm(len(h), generator=torch.Generator().manual_seed(seed))]


# --- tables of the tail ------------------------------------------------------------------------------------------


def _what_stages_leave(
    weights: LearnedWeights, h: torch.Tensor, bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shape ``[n]`` and the tail's input ``[n, 2, coefficients]`` for reports of ``bits`` bits."""
    quantizer = LearnedQuantizer(h.shape[2], h.shape[3], bits, weights)
    plan = quantizer._plan
    _, v = quantizer.analysed(weights, h)
    shape, _, turned, residual = search(weights.books, v, plan.shape, plan.stages)
    turned[:, : residual.shape[1]] = residual * weights.books.cell_scale[shape][:, None]
    x = quantizer._on_grid(weights, turned)
    return shape, torch.stack([x.real, x.imag], dim=1).flatten(2)


def _profile(shape: torch.Tensor, x: torch.Tensor, num_cells: int) -> dict[str, torch.Tensor]:
    """Usual levels of the coefficients by cell as a product of small integer matrices."""
    power = x.square().mean(1).double()
    whole = power.mean(0)
    count = torch.bincount(shape, minlength=num_cells)[:, None]
    scale = power.mean(1)
    sums = torch.zeros(num_cells, dtype=torch.float64).index_add_(0, shape, scale)
    prior = PROFILE_PRIOR_CHANNELS
    scale_of_cell = (sums + prior * scale.mean()) / (count[:, 0] + prior)
    relative = power / scale_of_cell[shape][:, None]
    of_cell = torch.zeros(num_cells, x.shape[2], dtype=torch.float64).index_add_(0, shape, relative)
    of_cell = (of_cell + prior * whole / whole.mean()) / (count + prior)
    level = 4 * (of_cell * scale_of_cell[:, None]).clamp_min(1e-9).log2()
    mean = level.mean(0).round()
    u, s, vh = torch.linalg.svd(level - mean, full_matrices=False)
    root = 32 * s[:PROFILE_RANK].sqrt()
    return {
        "level_mean": mean.to(torch.int16),
        "level_cell": (u[:, :PROFILE_RANK] * root).round().to(torch.int16),
        "level_component": (root[:, None] * vh[:PROFILE_RANK]).round().to(torch.int16),
    }


def _blank_tables() -> dict[str, torch.Tensor]:
    """Tables before anything was counted: small magnitudes are likelier, all steps alike."""
    contexts = NUM_BUCKETS * NUM_NEIGHBOURHOODS
    magnitude = torch.arange(LARGEST + 1)
    return {
        "frequency": torch.exp2(10.0 - magnitude).clamp_min(0).to(torch.int16).expand(contexts, -1),
        "step_frequency": torch.ones(NUM_STEP_ROWS, NUM_STEPS, dtype=torch.int16),
        "centroid": magnitude.float().expand(contexts, -1),
    }


class _Counts:
    """Counts of symbols by context, of steps by row, and sums of magnitudes for centroids."""

    def __init__(self) -> None:
        self.symbols = np.zeros((NUM_BUCKETS * NUM_NEIGHBOURHOODS, LARGEST + 1))
        self.sums = np.zeros_like(self.symbols)
        self.steps = np.zeros((NUM_STEP_ROWS, NUM_STEPS))

    def add(self, tail: TailModel, x: Any, symbols: Any, cell: Any, step: Any, row: Any) -> None:
        contexts = tail.contexts(buckets(tail.levels[cell], step), symbols)
        relative = np.abs(x) / step_sizes().numpy()[step][:, None, None]
        place = (contexts * (LARGEST + 1) + np.abs(symbols)).reshape(-1)
        size = self.symbols.size
        self.symbols += np.bincount(place, minlength=size).reshape(self.symbols.shape)
        self.sums += np.bincount(place, relative.reshape(-1), minlength=size).reshape(
            self.symbols.shape
        )
        np.add.at(self.steps, (row, step), 1)

    def tables(self) -> dict[str, torch.Tensor]:
        """As stored: frequencies scaled to int16, a sign's half each, centroids in steps."""
        # A context seldom seen borrows from its bucket.
        of_bucket = self.symbols.reshape(NUM_BUCKETS, NUM_NEIGHBOURHOODS, -1).sum(1, keepdims=True)
        share = of_bucket / np.maximum(of_bucket.sum(-1, keepdims=True), 1)
        mixed = self.symbols.reshape(NUM_BUCKETS, NUM_NEIGHBOURHOODS, -1) + 16 * share
        mixed = mixed.reshape(self.symbols.shape) + 1e-3
        mixed[:, 1:] /= 2
        whole = mixed[:, :1].sum(1) + 2 * mixed[:, 1:].sum(1)
        frequency = np.round(mixed / whole[:, None] * (1 << PRECISION))
        magnitude = np.arange(LARGEST + 1)
        centroid = (self.sums + 4 * magnitude) / (self.symbols + 4)
        steps = self.steps.reshape(-1, 2, NUM_STEPS)
        near = steps + 0.25 * np.roll(steps, 1, 0) + 0.25 * np.roll(steps, -1, 0) + 0.5
        near = near.reshape(self.steps.shape)
        steps_share = np.round(near / near.sum(1, keepdims=True) * (1 << PRECISION))
        return {
            "frequency": torch.from_numpy(frequency.astype(np.int16)),
            "step_frequency": torch.from_numpy(steps_share.astype(np.int16)),
            "centroid": torch.from_numpy(centroid.astype(np.float32)),
        }


def count_tables(
    weights: LearnedWeights, h: torch.Tensor, seed: int, rounds: int = 2
) -> dict[str, torch.Tensor]:
    """The tail's tables for these weights and channels ``[n, 8, rx, tx]``."""
    grid = (NUM_SUBBANDS, h.shape[2], h.shape[3])
    parts = torch.split(h, len(h) // len(TAIL_BITS))
    left = [
        (bits, *_what_stages_leave(weights, part, bits))
        for bits, part in zip(TAIL_BITS, parts, strict=False)
    ]
    stored = _profile(
        torch.cat([shape for _, shape, _ in left]),
        torch.cat([x for _, _, x in left]),
        len(weights.books.shapes),
    )
    tables = _blank_tables()
    random = np.random.default_rng(seed)
    for turn in range(rounds + 1):
        tail = TailModel.from_tensors(grid, stored | tables)
        counts = _Counts()
        for bits, shape, x in left:
            plan = LearnedQuantizer(grid[1], grid[2], bits, weights)._plan
            row = step_row(bits, weights.books.cell_family[shape]).numpy()
            cell, values = shape.numpy(), x.numpy()
            if turn == 0:
                step = random.integers(0, NUM_STEPS - 6, len(x))
                sizes = step_sizes().numpy()[step]
                symbols = quantised(values, sizes, buckets(tail.levels[cell], step))
            else:
                symbols, step = tail.chosen(values, cell, row, plan.tail)
            counts.add(tail, values, symbols, cell, step, row)
        tables = counts.tables()
    return stored | tables


# --- the transformer --------------------------------------------------------------------------------------------


def latent_of(quantizer: LearnedQuantizer, weights: LearnedWeights, v: torch.Tensor) -> Latent:
    """What the decoder would see of coefficients ``v``, without writing bits."""
    books, plan = weights.books, quantizer._plan
    with torch.no_grad():
        shape, _, turned, residual = search(books, v.detach(), plan.shape, plan.stages)
        dims = residual.shape[1]
        left = turned.clone()
        left[:, :dims] = residual * books.cell_scale[shape][:, None]
        y = torch.zeros_like(turned)
        y[:, :dims] = turned[:, :dims] - left[:, :dims]
        step = torch.zeros(len(v), dtype=torch.int64)
        if plan.tail:
            x = quantizer._on_grid(weights, left)
            parts = torch.stack([x.real, x.imag], dim=1).flatten(2).numpy()
            cell = shape.numpy()
            row = step_row(quantizer.bits, books.cell_family[shape]).numpy()
            symbols, steps = weights.tail.chosen(parts, cell, row, plan.tail)
            contexts = weights.tail.contexts(buckets(weights.tail.levels[cell], steps), symbols)
            tail = torch.from_numpy(weights.tail.values(symbols, contexts, steps))
            y = y + torch.complex(tail[:, 0], tail[:, 1])[:, weights.order]
            step = torch.from_numpy(steps)
    return quantizer._latent(weights, y, shape, step)


def losses(h: torch.Tensor, h_hat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """1 − SGCS and NMSE (the mean of the samples', common phase taken out) of ``[n, 8, rx, tx]``, differentiable."""
    inner = (h_hat.conj() * h).sum((1, 2, 3)).abs()
    power = h.abs().square().sum((1, 2, 3))
    nmse = 1 + (h_hat.abs().square().sum((1, 2, 3)) - 2 * inner) / power
    with torch.no_grad():
        dominant = weigh_direction(h, 0.0)
        strongest = dominant.abs().square().sum(3).argmax(2)
        v = dominant.gather(2, strongest[..., None, None].expand(-1, -1, 1, h.shape[3]))[:, :, 0]
        v = v / v.abs().square().sum(-1, keepdim=True).sqrt().clamp_min(1e-9)
    # Squared cosine between v and the dominant direction of h_hat: the share of v in its dominant part.
    part = weigh_direction(h_hat, 0.0, SOFTNESS)
    seen = (part * v.conj()[:, :, None]).sum(-1).abs().square().sum(-1)
    total = part.abs().square().sum((2, 3)).clamp_min(1e-6)
    return 1 - (seen / total).mean(), nmse.mean()


def training_loss(
    quantizer: LearnedQuantizer, weights: LearnedWeights, h: torch.Tensor, nmse_weight: float
) -> torch.Tensor:
    """The loss of a batch through weighting, quantiser and transformer."""
    level, v = quantizer.analysed(weights, h)
    h_hat = quantizer.rebuilt(weights, level, latent_of(quantizer, weights, v))
    lost, nmse = losses(h, h_hat)
    loss = lost + nmse_weight * nmse
    # High rates leave small losses, which would otherwise be heard too little.
    return loss / loss.detach().sqrt()


def train_network(
    weights: LearnedWeights,
    h: torch.Tensor,
    *,
    num_steps: int,
    nmse_weight: float,
    seed: int,
    checkpoint: Checkpoint,
    title: str,
) -> float:
    """Train ``weights.network`` in place on channels ``[n, 8, rx, tx]``. Returns the seconds of all its runs."""

    def loss(batch: tuple[int, torch.Tensor]) -> torch.Tensor:
        step, channels = batch
        rng = np.random.default_rng((seed, step))
        bits = TRAINED_BITS[int(rng.integers(len(TRAINED_BITS)))]
        quantizer = LearnedQuantizer(h.shape[2], h.shape[3], bits, weights)
        return training_loss(quantizer, weights, channels, nmse_weight)

    config = TrainerConfig(
        title=title,
        epochs=-(-num_steps // CHECKPOINT_STEPS),
        num_steps=num_steps,
        learning_rate=PEAK_LEARNING_RATE,
        seed=seed,
        weight_decay=0.01,
        warmup_steps=50,
        reseed="never",
    )
    batches = partial(_batches, h, num_steps, seed)
    return train(weights.network, batches, loss, config, checkpoint=checkpoint).seconds


def _batches(
    h: torch.Tensor, num_steps: int, seed: int, epoch: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Batches between two checkpoints; each pass over the channels in another order."""
    per_pass, steps = len(h) // BATCH, steps_of(epoch, CHECKPOINT_STEPS, num_steps)
    order = torch.empty(0)
    for step in steps:
        if step == steps.start or step % per_pass == 0:
            generator = torch.Generator().manual_seed(seed + step // per_pass)
            order = torch.randperm(len(h), generator=generator)
        at = step % per_pass * BATCH
        yield step, h[order[at : at + BATCH]]


# --- putting it together -----------------------------------------------------------------------------------------


def seen_by(name: str, full: torch.Tensor) -> torch.Tensor:
    """Channels of one configuration, or rows of them: ``[n, 8, 2, 32]`` → ``[n, 8, num_rows, num_tx_ant]``."""
    num_tx_ant, num_rx_ant = CONFIGURATIONS[name]
    if name.startswith("rows"):
        return LayerRows(num_rx_ant, 2).rows(fewer_antennas(full, 2, num_tx_ant))
    return fewer_antennas(full, num_rx_ant, num_tx_ant)


def scores(name: str, weights: LearnedWeights, channels: dict[str, torch.Tensor]) -> Any:
    """NMSE and SGCS of ``learned``, ``rvq`` and ``scalar`` by scenario and bits."""
    tx, rx = CONFIGURATIONS[name]
    return score_table(
        {scenario: seen_by(name, full) for scenario, full in channels.items()},
        (
            lambda bits: LearnedQuantizer(rx, tx, bits, weights),
            lambda bits: RvqQuantizer(rx, tx, bits, weights.books),
            lambda bits: ScalarQuantizer(rx, tx, bits),
        ),
    )


def scored_drops() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Validation and test channels ``[512, 8, 2, 32]`` by scenario. CDL-C's clusters are in the training mix."""

    def drawn(seed: int, scenarios: tuple[str, ...]) -> dict[str, torch.Tensor]:
        return {s: torch.cat([drop(s, seed + i, moments=1) for i in range(16)]) for s in scenarios}

    trained = ("umi-los", "umi-nlos", "uma-los", "uma-nlos")
    validation = cached("validation.pt", lambda: drawn(VALIDATION_SEED, (*trained, "cdl-c")))
    test = cached("test.pt", lambda: drawn(TEST_SEED, trained))
    other = cached("test-cdl.pt", lambda: drawn(TEST_SEED, ("cdl-b", "cdl-c", "cdl-e")))
    return validation, test | other


def train_learned(
    configurations: Annotated[
        list[str] | None, typer.Argument(help="such as 16x2; default: all")
    ] = None,
    steps: Annotated[int, typer.Option(help="of 128 channels")] = 4_000,
    nmse_weight: Annotated[float, typer.Option(help="of NMSE against 1 − SGCS")] = 1.0,
    rounds: Annotated[int, typer.Option(help="of the training mix")] = 20,
    seed: int = 1,
    out: Annotated[Path | None, typer.Option(help="where the weights go")] = None,
    fresh: Annotated[bool, typer.Option(help="make again what is there")] = False,
) -> None:
    """Train the transformers and count the tables of the learned quantiser."""
    out, console = out or Settings().weights_dir, Console(stderr=True)
    names = configurations or list(CONFIGURATIONS)
    unknown = [name for name in names if name not in CONFIGURATIONS]
    if unknown:
        raise InvalidField(
            f"configuration is {unknown[0]!r}, allowed: {', '.join(CONFIGURATIONS)}",
            field="configurations",
        )
    with progress() as bar:
        full = drawn_channels(rounds, bar)
    validation, test = scored_drops()
    for name in names:
        path = out / f"learned-{name}.safetensors"
        if path.exists() and not fresh:
            continue
        torch.manual_seed(seed)
        h = seen_by(name, full)
        key = steps, nmse_weight, rounds, seed, _digest(out / f"rvq-{name}.safetensors")
        checkpoint = Checkpoint(path.stem, __name__, *key)
        weights, stored, seconds = _trained(
            h, out / f"rvq-{name}.safetensors", steps, nmse_weight, seed, checkpoint, path.stem
        )
        about = {
            "command": f"python -m lab.training.csi_learned {name} --steps {steps} --nmse-weight {nmse_weight} "
            f"--rounds {rounds} --seed {seed}",
            "data": {
                "model": "TR 38.901 drops at 3.5 GHz by Sionna, 32 users a drop, 4 moments a user",
                "drops_a_round": TRAIN_MIX,
                "first_seed": TRAIN_SEED,
                "channels": len(h),
            },
            "seconds": round(seconds),
            "scores": {
                "what": "[NMSE dB without common phase, SGCS] by scenario, quantizer, bits; 512 users each",
                "validation_seeds": f"{VALIDATION_SEED}…{VALIDATION_SEED + 15}",
                "validation": scores(name, weights, validation),
                "test_seeds": f"{TEST_SEED}…{TEST_SEED + 15}",
                "test": scores(name, weights, test),
            },
        }
        digest = _digest(out / f"rvq-{name}.safetensors")
        save_weights(path, stored, {"codebooks": digest}, about)
        checkpoint.remove()
        console.print(f"{path.name}: {seconds:.0f} s", highlight=False)


def _digest(codebooks: Path) -> str:
    return Weights(codebooks.parent).digest(codebooks.name, size=DIGEST_BYTES, made_by=RVQ_MADE_BY)


def _trained(
    h: torch.Tensor,
    codebooks: Path,
    steps: int,
    nmse_weight: float,
    seed: int,
    checkpoint: Checkpoint,
    title: str,
) -> tuple[LearnedWeights, dict[str, torch.Tensor], float]:
    """Weights of one configuration as they will be read, the stored tensors, and the seconds of training."""
    started = time.monotonic()
    books = Codebooks.load(codebooks)
    grid = (NUM_SUBBANDS, h.shape[2], h.shape[3])
    blank = _profile(
        torch.zeros(1, dtype=torch.int64), torch.ones(1, 2, h[0].numel()), len(books.shapes)
    )
    network = TokenTransformer(h.shape[2], h.shape[3]).eval()

    def weights_with(tables: dict[str, torch.Tensor]) -> LearnedWeights:
        return LearnedWeights(books, books.order, TailModel.from_tensors(grid, tables), network)

    some = _shuffled(h, 7)[:24_000]
    with torch.no_grad():
        key = key_of(json.dumps([title, _digest(codebooks), len(h), seed]))
        tables: dict[str, torch.Tensor] = cached(
            f"tables-{key}.pt",
            lambda: count_tables(weights_with(blank | _blank_tables()), some, seed),
            __name__,
        )
    seconds = train_network(
        weights_with(tables),
        h,
        num_steps=steps,
        nmse_weight=nmse_weight,
        seed=seed,
        checkpoint=checkpoint,
        title=title,
    )
    stored = stored_network(network.state_dict())
    network.load_state_dict(network_state(stored))
    stored |= tables
    stored["order"] = books.order.to(torch.int16)
    seconds = max(seconds, time.monotonic() - started)
    return weights_with(tables), stored, seconds


if __name__ == "__main__":
    typer.run(train_learned)
