"""What memory across reports is worth: ``python -m lab.experiments.ablations.feedback_memory [--content channel]``
(minutes, writes a table).

SGCS, and NMSE of what the reports describe, of the transmitter's CSI in random slots of a block, so at every position
of a group of reports, its start included, and apart from it in the slots that queries by value use in. Estimates at
10 dB, reports of ``rvq`` used from 5 slots after they were made. Experiment links (seeds 10,000 on): the schemes were
chosen on links 5,000,000 on.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from rich.console import Console
from rich.table import Table

from channel_service.estimation import estimate_reports, report_slots_of_block
from channel_service.fading import generate_block
from lab.evaluation.report import Report, Row, over_seeds
from semlink.decibels import db_to_lin, lin_to_db
from semlink.grid import BLOCK_SLOTS, HISTORY_SLOTS
from semlink.links import default_link
from semlink.quantizers import CONTENTS, MEMORIES
from semlink.settings import Settings
from semlink.signal.csi import content_of, doppler_hz, quantizer_for
from semlink.signal.csi.layers import Content
from semlink.signal.feedback import HISTORY_REPORTS
from semlink.signal.metrics import sgcs
from semlink.signal.tracking import fuse_reports
from semlink.v1 import common_pb2 as pb

FIRST_SEED: Final = 10_000
SEEDS: Final = 3
SLOTS: Final = 64
FIRST_SLOT: Final = 10
"""Of use: the first report of the longest period can be used."""
BITS: Final = (8, 16, 32, 64)
LOSS: Final = 0.1


def transmitter_csi(
    config: pb.LinkConfig,
    estimate: torch.Tensor,
    arrivals: Sequence[torch.Tensor],
    slots: torch.Tensor,
) -> list[torch.Tensor]:
    """What the transmitter takes the channel for in each slot, for each pattern of arrival.

    ``estimate``: complex64 ``[users, reports, …]`` of a block's reports; each of ``arrivals``: bool ``[users,
    reports]``. Returns complex64 ``[users, len(slots), …]`` each.
    """
    quantizer = quantizer_for(config, Settings().weights)
    users, count = estimate.shape[:2]
    index = torch.arange(count)
    newest = (slots - config.feedback.delay_slots) // config.feedback.report_period_slots
    payload = quantizer.encode_group(estimate, index)
    if quantizer.chained:
        return [quantizer.decode_group(payload, here, index)[:, newest] for here in arrivals]
    everything = torch.ones((users, count), dtype=torch.bool)
    decoded = quantizer.decode_group(payload, everything, index)
    return [_without_state(config, decoded, here, newest, slots) for here in arrivals]


def _without_state(
    config: pb.LinkConfig,
    decoded: torch.Tensor,
    present: torch.Tensor,
    newest: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """Reports that stand for themselves, fused or the newest that is there."""
    wanted = newest[:, None] - torch.arange(HISTORY_REPORTS - 1, -1, -1)
    usable = (wanted >= 0) & present[:, wanted.clamp_min(0)]
    history = decoded[:, wanted.clamp_min(0)]
    if config.feedback.memory == "fused":
        ages = slots[:, None] - wanted.clamp_min(0) * config.feedback.report_period_slots
        batch, there = history.transpose(0, 1), usable.transpose(0, 1)
        return fuse_reports(batch, there, ages, doppler_hz(config), content_of(config)).transpose(
            0, 1
        )
    last = (usable * torch.arange(1, HISTORY_REPORTS + 1)).amax(2) - 1
    rows = torch.arange(len(decoded))[:, None], torch.arange(len(slots)), last.clamp_min(0)
    return history[rows] * (last >= 0)[..., None, None, None]


def figures(truth: torch.Tensor, csi: torch.Tensor, content: Content) -> tuple[float, float]:
    """SGCS, and NMSE of what is described, free phases turned away [dB, ratio of sums]."""
    known = csi.abs().square().sum((-3, -2, -1)) > 0
    alike = torch.where(
        known, sgcs(truth, torch.where(known[..., None, None, None], csi, truth)), 0
    )
    power = content.rows(truth).abs().square().sum((-3, -2, -1)).double()
    share = torch.where(known, db_to_lin(content.nmse_db(truth, csi)), 1.0)
    return float(alike.mean()), float(lin_to_db((share * power).sum() / power.sum()))


def measure(
    scenario: str, speed_kmh: float, period: int, content: str
) -> dict[tuple[int, str, str], list[float]]:
    """Figures of every seed by bits, memory (with "-lossy" where reports are lost) and metric."""
    config = default_link()
    config.scenario, config.speed_mps = scenario, speed_kmh / 3.6
    config.feedback.report_period_slots, config.feedback.content = period, content
    described = content_of(config)
    channels, estimates = [], []
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        config.seed = seed
        h = generate_block(config, 0).h
        channels.append(h)
        reported = h[:, report_slots_of_block(config, 0)]
        estimates.append(estimate_reports(reported, config, 0))
    generator = torch.Generator().manual_seed(FIRST_SEED)
    slots = torch.randint(FIRST_SLOT, BLOCK_SLOTS, (SLOTS,), generator=generator).sort().values
    by_value = slots >= HISTORY_SLOTS
    estimate = torch.cat(estimates)
    lossy = torch.rand(estimate.shape[:2], generator=generator) >= LOSS
    arrivals = {"": torch.ones_like(lossy), "-lossy": lossy}
    found: dict[tuple[int, str, str], list[float]] = {}
    for bits, memory in itertools.product(BITS, MEMORIES):
        config.feedback.bits, config.feedback.memory = bits, memory
        known = transmitter_csi(config, estimate, list(arrivals.values()), slots)
        for loss, csi in zip(arrivals, known, strict=True):
            for h, of_seed in zip(channels, csi.chunk(SEEDS), strict=True):
                alike, error = figures(h[:, slots], of_seed, described)
                settled, _ = figures(h[:, slots[by_value]], of_seed[:, by_value], described)
                for metric, value in (
                    ("sgcs", alike),
                    ("nmse_db", error),
                    ("sgcs_by_value", settled),
                ):
                    found.setdefault((bits, memory + loss, metric), []).append(value)
    return found


def main(
    content: Annotated[str, typer.Option(help=f"Of a report: {', '.join(CONTENTS)}.")] = "layers",
    out: Annotated[Path, typer.Option(help="Directory of the JSON and CSV.")] = Path("results"),
) -> None:
    """Measure every combination, write ``memory.json`` (``memory-channel.json``) and print the SGCS."""
    if content not in CONTENTS:
        raise typer.BadParameter(f"--content is {content!r}, allowed: {', '.join(CONTENTS)}")
    started = time.perf_counter()
    name_of_report = "memory" if content == "layers" else f"memory-{content}"
    report = Report(
        name_of_report,
        command=f"python -m lab.experiments.ablations.feedback_memory --content {content}",
    )
    table = Table(
        title=f"SGCS at the slot of use (slots of queries by value), content {content}: none / fused / predictive"
    )
    for column in ("scenario", "km/h", "period", *(f"{bits} bits" for bits in BITS)):
        table.add_column(column)
    console = Console(width=150)
    for period, scenario, speed in itertools.product(
        (5, 10), ("umi-los", "uma-nlos"), (3.0, 30.0, 60.0)
    ):
        found = measure(scenario, speed, period, content)
        for (bits, name, metric), values in found.items():
            report.rows.append(
                Row(
                    metric=metric,
                    scenario=scenario,
                    speed_kmh=speed,
                    bits=bits,
                    quantizer="rvq",
                    variant=f"{name}/period-{period}/{content}",
                    snr_db=default_link().snr_db,
                    **over_seeds(values),
                )
            )
        for loss in ("", "-lossy"):
            cells = [
                " / ".join(
                    f"{over_seeds(found[bits, memory + loss, 'sgcs_by_value'])['mean']:.3f}"
                    for memory in MEMORIES
                )
                for bits in BITS
            ]
            console.print(scenario, loss, speed, period, *cells)
            table.add_row(
                f"{scenario}{' 10 % lost' if loss else ''}", f"{speed:g}", str(period), *cells
            )
    report.seconds = time.perf_counter() - started
    report.write(out, report.experiment)
    console.print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        typer.run(main)
