"""What learning from a site's own reports is worth: ``python -m lab.experiments.ablations.site_adaptation`` (minutes,
writes ``sites.json``).

A generator is refined on quantised reports of links of one scenario (:mod:`lab.training.site_adaptation`) and judged,
against the true channel, on drops of that scenario that neither it nor the shipped weights have seen, and on a
control scenario, where the knowledge base would not use it. Validation drops: nothing is chosen on the figures' own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from kb_service.generators import Antennas, ChannelGenerator, context_of, load_generator
from lab.evaluation.bootstrap import paired_difference
from lab.evaluation.csi_prediction_samples import (
    Drops,
    Figures,
    decoded_all,
    draw_drops,
    figures,
    link,
)
from lab.evaluation.report import Report, Row
from lab.experiments.csi_prediction import Pooled, nmse_difference_db
from lab.training.site_adaptation import Learned, Pairs, RefineRecipe, learn, pairs_of, with_weights
from semlink.settings import Settings
from semlink.signal.csi import content_of
from semlink.signal.feedback import HISTORY_REPORTS
from semlink.v1 import common_pb2 as pb

SITES: Final = ("umi-los", "uma-nlos", "cdl-b")
"""The last is in no training mix."""
CONTROL: Final[Mapping[str, str]] = {
    "umi-los": "uma-nlos",
    "uma-nlos": "umi-los",
    "cdl-b": "uma-nlos",
}
SPEEDS_KMH: Final = (3.0, 30.0)
BITS: Final = 64
AGE_SLOTS: Final = 7
"""In the middle of the default link's."""
REPORTS: Final = 40
LEARNING_SEED, UNSEEN_SEED = 1_000, 2_000


@dataclass(frozen=True, slots=True)
class Judged:
    """Figures of one scenario and speed with the shipped weights and the refined ones, and the drop of each user."""

    shipped: Figures
    refined: Figures
    drops: int


def experience(scenario: str, drops: int, memory: str) -> Pairs:
    """What links of a site would have left in the store: pairs from reports alone."""
    parts = []
    for speed in SPEEDS_KMH:
        config = link(scenario, speed, BITS, memory=memory)
        drawn = draw_drops(
            config, (AGE_SLOTS,), split="val", seed=LEARNING_SEED, drops=drops, reports=REPORTS
        )
        csi = decoded_all(config, drawn)
        parts.append(pairs_of(config, csi, torch.ones(csi.shape[:2], dtype=torch.bool)))
    return Pairs.joined(parts)


def judge(
    scenario: str,
    speed_kmh: float,
    generators: Sequence[ChannelGenerator],
    drops: int,
    memory: str,
) -> Judged:
    """Two generators on unseen drops of a scenario, against the true channel."""
    config = link(scenario, speed_kmh, BITS, memory=memory)
    drawn = draw_drops(
        config, (AGE_SLOTS,), split="val", seed=UNSEEN_SEED, drops=drops, reports=HISTORY_REPORTS
    )
    shipped, refined = (_figures(generator, config, drawn) for generator in generators)
    return Judged(shipped, refined, drops)


def _figures(generator: ChannelGenerator, config: pb.LinkConfig, drawn: Drops) -> Figures:
    content = content_of(config)
    csi = decoded_all(config, drawn)
    period = config.feedback.report_period_slots
    ages = torch.arange(HISTORY_REPORTS - 1, -1, -1) * period + AGE_SLOTS
    with torch.inference_mode():
        rows = generator(
            content.rows(csi),
            torch.ones(csi.shape[:2], dtype=torch.bool),
            ages.expand(len(csi), -1),
            context_of(config).expand(len(csi), -1),
        )
    return figures(drawn.truth[AGE_SLOTS], content.csi(rows), content)


def _rows(
    site: str, scenario: str, speed_kmh: float, name: str, judged: Judged, memory: str
) -> list[Row]:
    role = "site" if site == scenario else f"control of {site}"
    at: dict[str, Any] = {
        "method": name,
        "split": "val",
        "scenario": scenario,
        "speed_kmh": speed_kmh,
        "bits": BITS,
        "quantizer": "rvq",
        "snr_db": 10.0,
    }
    shipped, refined = (
        Pooled.from_seeds([f], judged.drops) for f in (judged.shipped, judged.refined)
    )
    rows = []
    for label, pooled in (("shipped", shipped), ("refined", refined)):
        of = pooled.figures
        for metric, value in (
            ("sgcs", float(np.mean(of.sgcs))),
            ("precoding_gain_db", float(np.mean(of.precoding_gain_db))),
            ("nmse_db", of.nmse_db),
        ):
            rows.append(
                Row(metric=metric, mean=value, variant=f"{label}, {role}, memory {memory}", **at)
            )
    mean, ci95 = paired_difference(refined.figures.sgcs, shipped.figures.sgcs, shipped.drop)
    rows.append(
        Row(
            metric="sgcs_difference",
            mean=mean,
            ci95=ci95,
            variant=f"refined, {role}, memory {memory}",
            **at,
        )
    )
    mean, ci95 = nmse_difference_db(refined, shipped)
    rows.append(
        Row(
            metric="nmse_difference_db",
            mean=mean,
            ci95=ci95,
            variant=f"refined, {role}, memory {memory}",
            **at,
        )
    )
    return rows


def main(
    generator: Annotated[str, typer.Option(help="cdg, transformer, llm4cp, csi-llm")] = "cdg",
    drops: Annotated[int, typer.Option(help="of 32 users, of each site and speed")] = 4,
    memory: Annotated[str, typer.Option(help="of the reports: none or fused")] = "fused",
    out: Annotated[Path, typer.Option(help="directory of the JSON and CSV")] = Path("results"),
) -> None:
    """Learn at every site, judge there and at its control, print and write ``sites.json``."""
    started = time.perf_counter()
    shipped = load_generator(generator, Antennas(), weights=Settings().weights)
    report = Report(
        "sites",
        command="python -m lab.experiments.ablations.site_adaptation"
        f" --generator {generator} --drops {drops} --memory {memory}",
    )
    table = Table("site", "judged on", "km/h", "SGCS", "difference", "NMSE dB", "difference")
    for site in SITES:
        learned: Learned = learn(shipped, experience(site, drops, memory), RefineRecipe())
        kept = "kept" if learned.better else "not kept"
        table.add_section()
        table.add_row(
            site, f"later reports: {kept}", "", "", "", f"{learned.before_db:.3f}",
            f"{learned.after_db - learned.before_db:+.3f}",
        )  # fmt: skip
        refined = with_weights(shipped, learned.weights)
        for scenario, speed in itertools.product((site, CONTROL[site]), SPEEDS_KMH):
            rows = _rows(
                site,
                scenario,
                speed,
                generator,
                judge(scenario, speed, (shipped, refined), drops, memory),
                memory,
            )
            report.rows += rows
            before = {
                row.metric: row.mean for row in rows if str(row.variant).startswith("shipped")
            }
            change = {row.metric: row for row in rows if row.ci95}
            cells = [
                f"{row.mean:+.4f} ({row.ci95[0]:+.4f} … {row.ci95[1]:+.4f})"
                for row in (change["sgcs_difference"], change["nmse_difference_db"])
                if row.ci95
            ]
            table.add_row(
                site, scenario, f"{speed:g}", f"{before['sgcs']:.4f}", cells[0],
                f"{before['nmse_db']:.3f}", cells[1],
            )  # fmt: skip
    report.seconds = time.perf_counter() - started
    report.write(out, report.experiment)
    Console(width=150).print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
