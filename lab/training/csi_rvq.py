"""Train the codebooks of the ``rvq`` quantiser: ``python -m lab.training.csi_rvq`` (about 15 minutes on two cores).

Channels are drawn once (``--rounds`` rounds of :data:`lab.training.channel_dataset.TRAIN_MIX`, kept in the cache)
and seen by every antenna configuration. Each configuration is written when it is done; an interrupted run
goes on from there.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import save_file

from lab.evaluation.cache import Cache
from lab.training.channel_dataset import TRAIN_MIX, drop, fewer_antennas, training_drops
from semlink.decibels import db_to_lin, lin_to_db
from semlink.errors import InvalidField
from semlink.settings import Settings
from semlink.signal.csi import CsiQuantizer
from semlink.signal.csi.layers import (
    Content,
    LayerQuantizer,
    LayerRows,
    WholeChannel,
    rows_of_layers,
)
from semlink.signal.csi.rvq import Codebooks, RvqQuantizer
from semlink.signal.csi.scalar import ScalarQuantizer
from semlink.signal.metrics import sgcs
from semlink.zlib_tensors import deflate

DIMENSIONS: Final = {
    "rvq-rows": {(16, 1): 56, (32, 1): 72, (8, 1): 36, (16, 2): 72, (32, 2): 84, (8, 2): 48},
    "rvq": {(16, 2): 64, (8, 2): 44, (16, 1): 44, (8, 1): 32, (32, 2): 76, (32, 1): 60},
}
"""Components in which codewords live, by content (rows of layers, or the channel) and (num_tx_ant, num_rows)."""
NUM_SHAPES: Final = 1024
NUM_FAMILIES: Final = 2
NUM_STAGES: Final = 7
STAGE_SIZE: Final = 256
NUM_REFINEMENTS: Final = 2
MAX_STAGE_ROWS: Final = 25_000
TAIL_PRIOR_CHANNELS: Final = 8
"""Weight of the family's profile in that of a cell, in channels."""
TRAIN_SEED: Final = 1_000
TEST_SEED: Final = 10_000_000
FULL_BITS: Final = 3 + int(math.log2(NUM_SHAPES)) + NUM_STAGES * int(math.log2(STAGE_SIZE))
"""Level, shape and all stages."""
SCORED_BITS: Final = (8, 16, 32, 64, 128, 256, 512)


def subband_rx_tx_bases(h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Eigenvectors (columns) of the covariance along each axis of ``[n, subbands, rx, tx]``."""
    bases = []
    for axis in (1, 2, 3):
        rows = h.movedim(axis, -1).flatten(0, -2)
        covariance = rows.mT @ rows.conj() / len(rows)
        bases.append(torch.linalg.eigh(covariance)[1].flip(1))
    return bases[0], bases[1], bases[2]


def _chunks(count: int, size: int = 8192) -> list[slice]:
    return [slice(i, i + size) for i in range(0, count, size)]


def phase_free_k_means(v: torch.Tensor, count: int, rounds: int, seed: int) -> torch.Tensor:
    """``count`` centroids of ``[n, d]`` complex vectors whose common phase does not matter (Lloyd's rounds)."""
    generator = torch.Generator().manual_seed(seed)
    words = v[torch.randperm(len(v), generator=generator)[:count]].clone()
    for _ in range(rounds):
        sums, cells = torch.zeros_like(words), torch.zeros(count)
        worst = torch.full((len(v),), 0.0)
        for part in _chunks(len(v)):
            match = v[part] @ words.conj().mT
            error, best = (words.abs().square().sum(1) - 2 * match.abs()).min(1)
            turn = torch.polar(
                torch.ones(len(best)), -torch.angle(match.gather(1, best[:, None])[:, 0])
            )
            sums.index_add_(0, best, v[part] * turn[:, None])
            cells += torch.bincount(best, minlength=count)
            worst[part] = error + v[part].abs().square().sum(1)
        words = torch.where((cells > 0)[:, None], sums / cells.clamp_min(1)[:, None], words)
        # A cell that lost all its members starts again at one of the worst served vectors.
        empty = (cells == 0).nonzero()[:, 0]
        words[empty] = v[worst.topk(len(empty)).indices]
    return words


def k_means(x: torch.Tensor, count: int, rounds: int, seed: int) -> torch.Tensor:
    """``count`` centroids of real ``[n, d]`` vectors (Lloyd's rounds)."""
    generator = torch.Generator().manual_seed(seed)
    words = x[torch.randperm(len(x), generator=generator)[:count]].clone()
    for _ in range(rounds):
        error, best = torch.cat(
            [
                torch.stack([m.to(torch.float64) for m in _nearest(x[part], words)])
                for part in _chunks(len(x))
            ],
            dim=1,
        ).unbind(0)
        best = best.long()
        cells = torch.bincount(best, minlength=count)
        sums = torch.zeros_like(words).index_add_(0, best, x)
        words = torch.where((cells > 0)[:, None], sums / cells.clamp_min(1)[:, None], words)
        empty = (cells == 0).nonzero()[:, 0]
        words[empty] = x[error.topk(len(empty)).indices]
    return words


def _nearest(x: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared distance to the nearest word and its index."""
    error, best = (words.square().sum(1) - 2 * x @ words.mT).min(1)
    return error + x.square().sum(1), best


def greedy_order(cost: torch.Tensor) -> torch.Tensor:
    """Order of the columns of ``cost [n, words]`` in which every prefix serves the rows about best."""
    current = torch.full((len(cost), 1), math.inf)
    left = torch.arange(cost.shape[1])
    order = []
    while len(left):
        best = int(torch.minimum(current, cost[:, left]).sum(0).argmin())
        order.append(int(left[best]))
        current = torch.minimum(current, cost[:, left[best], None])
        left = torch.cat([left[:best], left[best + 1 :]])
    return torch.tensor(order)


def seen_as(content: str, h: torch.Tensor, num_tx_ant: int, num_rows: int) -> torch.Tensor:
    """What codebooks are trained on: ``[n, 8, 2, 32]`` → ``[n', 8, num_rows, num_tx_ant]``.

    Rows of a single layer are those of receivers with two antennas and, a fifth of them, with one.
    """
    if content == "rvq":
        return fewer_antennas(h, num_rows, num_tx_ant)
    rows = rows_of_layers(fewer_antennas(h, 2, num_tx_ant), num_rows)
    if num_rows > 1:
        return rows
    return torch.cat([rows, rows_of_layers(fewer_antennas(h[::4], 1, num_tx_ant), 1)])


def train_codebooks(
    h: torch.Tensor, dims: int, title: str, progress: Progress
) -> dict[str, torch.Tensor]:
    """Codebooks of ``dims`` components from channels, or rows of them, ``[n, 8, num_rows, num_tx_ant]``."""
    num_rows, num_tx_ant = h.shape[2:]
    task = progress.add_task(title, total=3 + NUM_STAGES * NUM_FAMILIES + NUM_REFINEMENTS)
    h = h / h.abs().square().mean((1, 2, 3), keepdim=True).sqrt()
    # Stored in half precision: train with what will be read.
    bases = [
        torch.view_as_complex(torch.view_as_real(b).half().float()) for b in subband_rx_tx_bases(h)
    ]
    kron = torch.kron(torch.kron(bases[0], bases[1]), bases[2])
    v = torch.cat([h[part].flatten(1) @ kron.conj() for part in _chunks(len(h))])
    order = v.abs().square().mean(0).argsort(descending=True)
    v = v[torch.randperm(len(v), generator=torch.Generator().manual_seed(3))][:, order].contiguous()
    head = v[:, :dims].contiguous()
    progress.advance(task)

    shapes = phase_free_k_means(head[::2], NUM_SHAPES, 10, seed=1)
    some = head[torch.randperm(len(head), generator=torch.Generator().manual_seed(2))[:4096]]
    energy = some.abs().square().sum(1, keepdim=True)
    cost = shapes.abs().square().sum(1) - 2 * (some @ shapes.conj().mT).abs() + energy
    shapes = shapes[greedy_order(cost)]
    progress.advance(task)

    books = Codebooks(
        kron[:, order].contiguous(),
        shapes,
        torch.ones(NUM_SHAPES),
        torch.zeros(NUM_SHAPES, dtype=torch.int64),
        torch.zeros(NUM_FAMILIES, NUM_STAGES, STAGE_SIZE, dims, dtype=torch.complex64),
        torch.ones(NUM_SHAPES, v.shape[1]),
        order,
    )
    cell, turned = _assign_shapes(v, shapes)
    left = turned.clone()
    left[:, :dims] -= shapes[cell]
    count = torch.bincount(cell, minlength=NUM_SHAPES)
    power = torch.bincount(cell, left.abs().square().mean(1).double(), minlength=NUM_SHAPES)
    power = torch.where(count > 0, power / count.clamp_min(1), power.sum() / count.sum())
    books.cell_scale.copy_(power.sqrt())
    # Families: the better half of the channels is served by the cells with the least residual.
    by_power = power.argsort()
    share = count[by_power].cumsum(0) / count.sum()
    books.cell_family[by_power] = (share * NUM_FAMILIES).long().clamp_max(NUM_FAMILIES - 1)
    residual = torch.view_as_real(left[:, :dims] / books.cell_scale[cell][:, None]).flatten(1)
    progress.advance(task)

    for family in range(NUM_FAMILIES):
        x = residual[books.cell_family[cell] == family]
        for stage in range(NUM_STAGES):
            words = k_means(x[:MAX_STAGE_ROWS], STAGE_SIZE, 8, seed=10 + stage)
            rows = x[:4096]
            cost = words.square().sum(1) - 2 * rows @ words.mT + rows.square().sum(1, keepdim=True)
            words = words[greedy_order(cost)]
            x = x - words[_nearest(x, words)[1]]
            books.stages[family, stage] = torch.view_as_complex(words.view(STAGE_SIZE, dims, 2))
            progress.advance(task)

    for _ in range(NUM_REFINEMENTS):
        _refine(books, v, RvqQuantizer(num_rows, num_tx_ant, FULL_BITS, books))
        progress.advance(task)
    return _stored(books, bases, order)


def _assign_shapes(v: torch.Tensor, shapes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each vector's shape, and the vector turned to that shape's phase."""
    cells, turned = [], torch.empty_like(v)
    for part in _chunks(len(v)):
        match = v[part, : shapes.shape[1]] @ shapes.conj().mT
        cell = (shapes.abs().square().sum(1) - 2 * match.abs()).argmin(1)
        phase = torch.angle(match.gather(1, cell[:, None]))
        turned[part] = v[part] * torch.polar(torch.ones_like(phase), -phase)
        cells.append(cell)
    return torch.cat(cells), turned


def _refine(books: Codebooks, v: torch.Tensor, quantizer: RvqQuantizer) -> None:
    """One round over the true encoder's choices: every codeword moves to the centroid of what it stands for."""
    dims = books.shapes.shape[1]
    parts = [quantizer._search(books, v[part]) for part in _chunks(len(v), 2048)]
    shape, indices, turned, residual = (torch.cat(p) for p in zip(*parts, strict=True))
    family = books.cell_family[shape]
    scale = books.cell_scale[shape][:, None]
    for stage in range(NUM_STAGES):
        word = family * STAGE_SIZE + indices[:, stage]
        step = _mean_by(word, residual, NUM_FAMILIES * STAGE_SIZE)
        books.stages[:, stage] += step.view(NUM_FAMILIES, STAGE_SIZE, dims)
        residual = residual - step[word]
    step = _mean_by(shape, residual * scale, NUM_SHAPES)
    books.shapes.add_(step)
    residual = residual - step[shape] / scale
    left = turned / scale
    left[:, :dims] = residual
    power = left.abs().square()
    of_family = _mean_by(family, power, NUM_FAMILIES)[books.cell_family]
    count = torch.bincount(shape, minlength=NUM_SHAPES)[:, None]
    of_cell = _mean_by(shape, power, NUM_SHAPES)
    prior = TAIL_PRIOR_CHANNELS
    books.tail_scale.copy_(((count * of_cell + prior * of_family) / (count + prior)).sqrt())


def _mean_by(index: torch.Tensor, values: torch.Tensor, count: int) -> torch.Tensor:
    """Mean of the rows of ``values`` by ``index``; zeros where there is none."""
    sums = torch.zeros(count, values.shape[1], dtype=values.dtype).index_add_(0, index, values)
    return sums / torch.bincount(index, minlength=count).clamp_min(1)[:, None]


def _stored(
    books: Codebooks, bases: list[torch.Tensor], order: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What goes to the file, in half precision or eight bits, whole numbers deflated."""

    def half(x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(x).half().contiguous()

    # Eight bits a component are 35 dB below the codewords, and half the size.
    parts = torch.view_as_real(books.stages)
    scale = (parts.abs().amax((2, 3, 4)) / 127).half().float()
    stages = (parts / scale[..., None, None, None]).round().clamp(-127, 127).to(torch.int8)
    tensors = {
        "basis_subband": half(bases[0]),
        "basis_rx": half(bases[1]),
        "basis_tx": half(bases[2]),
        "order": order.to(torch.int16),
        "shapes": half(books.shapes),
        "cell_scale": books.cell_scale.half(),
        "cell_family": books.cell_family.to(torch.uint8),
        "stages": stages,
        "stage_scale": scale.half(),
        "tail_level": (-8 * books.tail_scale.log2()).round().clamp(0, 255).to(torch.uint8),
    }
    return deflate(tensors, ("stages", "tail_level"))


def nmse_db_and_sgcs(
    h: torch.Tensor, h_hat: torch.Tensor, content: Content | None = None
) -> tuple[float, float]:
    """NMSE [dB] of what ``content`` (default: the whole channel) describes, and SGCS, over ``[n, 8, rx, tx]``."""
    content = content or WholeChannel(h.shape[2])
    power = content.rows(h).abs().double().square().sum((-3, -2, -1))
    error = power * db_to_lin(content.nmse_db(h, h_hat))
    return lin_to_db(float(error.sum() / power.sum())), float(sgcs(h, h_hat).mean())


def scores(
    content: str,
    num_tx_ant: int,
    num_rows: int,
    books: Codebooks,
    test: dict[str, torch.Tensor],
) -> Any:
    """NMSE and SGCS of ``rvq`` and ``scalar`` by scenario and bits, on seeds that training never saw."""
    num_rx_ant = num_rows if content == "rvq" else 2

    def whole(inner: CsiQuantizer) -> CsiQuantizer:
        return inner if content == "rvq" else LayerQuantizer(inner, num_rx_ant)

    return score_table(
        {scenario: fewer_antennas(h, num_rx_ant, num_tx_ant) for scenario, h in test.items()},
        (
            lambda bits: whole(RvqQuantizer(num_rows, num_tx_ant, bits, books)),
            lambda bits: whole(ScalarQuantizer(num_rows, num_tx_ant, bits)),
        ),
        WholeChannel(2) if content == "rvq" else LayerRows(num_rows, num_rx_ant),
    )


def score_table(
    channels: Mapping[str, torch.Tensor],
    schemes: Sequence[Callable[[int], CsiQuantizer]],
    content: Content | None = None,
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """:func:`nmse_db_and_sgcs` of channels by scenario, name of the scheme and bits.

    ``schemes`` make a quantiser of so many bits; what they refuse is left out (too few for the position of one of so
    many taps).
    """
    table: dict[str, dict[str, dict[str, list[float]]]] = {}
    for scenario, h in channels.items():
        index = torch.arange(len(h))
        for bits, scheme in itertools.product(SCORED_BITS, schemes):
            try:
                q = scheme(bits)
            except InvalidField:
                continue
            found = nmse_db_and_sgcs(h, q.decode(q.encode(h, index), index), content)
            row = table.setdefault(scenario, {}).setdefault(q.name, {})
            row[str(bits)] = [round(x, 3) for x in found]
    return table


def configurations() -> list[tuple[str, int, int, int]]:
    """Content, num_tx_ant, num_rows and dimensions of everything that is trained."""
    return [
        (content, *antennas, dims)
        for content, sizes in DIMENSIONS.items()
        for antennas, dims in sizes.items()
    ]


def cached(
    name: str, make: Callable[[], Any], producer: Callable[..., Any] | str = training_drops
) -> Any:
    """Drawn channels of a name, or what another ``producer`` makes: from the cache, or made now."""
    cache = Cache("train-rvq", producer)
    return torch.load(cache.entry(name, lambda path: torch.save(make(), path)))


def _round(seed: int) -> torch.Tensor:
    return torch.cat(list(training_drops(1, seed)))


def drawn_channels(rounds: int, bar: Progress) -> torch.Tensor:
    """``rounds`` rounds of the training mix, ``[n, 8, 2, 32]``, drawn once and cached."""
    per_round = sum(TRAIN_MIX.values())
    task = bar.add_task("channels", total=rounds)
    drawn = []
    for i in range(rounds):
        seed = TRAIN_SEED + i * per_round
        drawn.append(cached(f"round-{seed}.pt", partial(_round, seed)))
        bar.advance(task)
    return torch.cat(drawn)


def train_rvq(
    rounds: Annotated[int, typer.Option(help="Rounds of the training mix.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Where the weights go.")] = None,
    fresh: Annotated[bool, typer.Option(help="Train also what is there already.")] = False,
) -> None:
    """Train the codebooks of every antenna configuration."""
    out = out or Settings().weights_dir
    with Progress() as progress:
        channels = drawn_channels(rounds, progress)
        test = cached(
            "test.pt",
            lambda: {
                scenario: torch.cat([drop(scenario, TEST_SEED + i, moments=1) for i in range(16)])
                for scenario in ("umi-los", "umi-nlos", "uma-los", "uma-nlos")
            },
        )
        for content, num_tx_ant, num_rows, dims in configurations():
            path = out / f"{content}-{num_tx_ant}x{num_rows}.safetensors"
            sidecar = path.with_suffix(".json")
            if sidecar.exists() and path.exists() and not fresh:
                continue
            if fresh or not path.exists():
                start = time.monotonic()
                seen = seen_as(content, channels, num_tx_ant, num_rows)
                tensors = train_codebooks(seen, dims, path.stem, progress)
                sidecar.unlink(missing_ok=True)
                save_file(tensors, path, {"seconds": f"{time.monotonic() - start:.0f}"})
                path.chmod(0o644)
            with safe_open(path, "pt") as file:
                seconds = int(file.metadata()["seconds"])
            about = {
                "command": f"python -m lab.training.csi_rvq --rounds {rounds}",
                "data": {
                    "model": "TR 38.901 drops at 3.5 GHz by Sionna, 32 users a drop, 4 moments a user",
                    "drops_a_round": TRAIN_MIX,
                    "first_seed": TRAIN_SEED,
                    "channels": len(channels),
                },
                "seconds": seconds,
                "scores": {
                    "what": "[NMSE dB of what is described without its free phases, SGCS] by scenario, quantizer, bits",
                    "seeds": f"{TEST_SEED}…{TEST_SEED + 15}, 512 users a scenario",
                    "table": scores(content, num_tx_ant, num_rows, Codebooks.load(path), test),
                },
            }
            sidecar.write_text(json.dumps(about, indent=1) + "\n")
            progress.console.print(f"{path.name}: {seconds} s", highlight=False)


if __name__ == "__main__":
    typer.run(train_rvq)
