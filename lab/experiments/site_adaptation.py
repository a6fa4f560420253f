"""What learning from a site's own reports is worth.

A generator is refined on quantised reports of links of one scenario (:mod:`lab.training.site_adaptation`) and judged,
against the true channel, on drops of that scenario that neither it nor the shipped weights have seen, and on a
control scenario, where the knowledge base would not use it. Validation drops: nothing is chosen on the figures' own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

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
from lab.evaluation.parallel import one_thread
from lab.evaluation.report import Row
from lab.experiments.csi_prediction import Pooled, nmse_difference_db
from lab.experiments.interface import Measured, Run
from lab.training.site_adaptation import Pairs, RefineRecipe, learn, pairs_of, with_weights
from semlink.errors import InvalidField
from semlink.links import Link
from semlink.progress import track
from semlink.signal.csi import content_of
from semlink.signal.feedback import HISTORY_REPORTS

CONTROL: Final[Mapping[str, str]] = {
    "umi-los": "uma-nlos",
    "uma-nlos": "umi-los",
    "cdl-b": "uma-nlos",
}
"""Each site's; the last site is in no training mix."""
BITS: Final = 64
AGE_SLOTS: Final = 7
"""In the middle of the default link's."""
REPORTS: Final = 40
LEARNING_SEED, UNSEEN_SEED = 1_000, 2_000
QUICK: Final[Mapping[str, Any]] = {"sites": ("umi-los",), "speeds_kmh": (3.0,), "drops": 1}
"""What ``--quick`` overrides: a smoke run, not a measurement."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is refined and judged; 64-bit RVQ reports, 10 dB."""

    generator: str = "cdg"
    """cdg, transformer, llm4cp or csi-llm."""
    sites: tuple[str, ...] = tuple(CONTROL)
    """Scenarios that are learned from: umi-los, uma-nlos, cdl-b."""
    speeds_kmh: tuple[float, ...] = (3.0, 30.0)
    """Of the users, km/h."""
    drops: int = 4
    """Of 32 users, of each site and speed."""
    memory: str = "fused"
    """Of the reports: none or fused."""

    def __post_init__(self) -> None:
        if unknown := [site for site in self.sites if site not in CONTROL]:
            raise InvalidField(
                f"sites has {unknown[0]!r}, allowed: {', '.join(CONTROL)}", field="sites"
            )

    def link(self, scenario: str, speed_kmh: float) -> Link:
        """A link of a scenario."""
        return link(scenario, speed_kmh, BITS, memory=self.memory)


def experience(plan: Plan, site: str) -> Pairs:
    """What links of a site would have left in the store: pairs from reports alone."""
    parts = []
    for speed in plan.speeds_kmh:
        config = plan.link(site, speed)
        drawn = draw_drops(
            config, (AGE_SLOTS,), split="val", seed=LEARNING_SEED, drops=plan.drops, reports=REPORTS
        )
        csi = decoded_all(config, drawn)
        parts.append(pairs_of(config, csi, torch.ones(csi.shape[:2], dtype=torch.bool)))
    return Pairs.joined(parts)


def _figures(generator: ChannelGenerator, config: Link, drawn: Drops) -> Figures:
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


def judged(
    plan: Plan,
    site: str,
    place: tuple[str, float],
    shipped: ChannelGenerator,
    refined: ChannelGenerator,
) -> list[Row]:
    """Rows of both generators on unseen drops of a scenario and speed, and of what refining changed."""
    scenario, speed_kmh = place
    config = plan.link(scenario, speed_kmh)
    drawn = draw_drops(
        config,
        (AGE_SLOTS,),
        split="val",
        seed=UNSEEN_SEED,
        drops=plan.drops,
        reports=HISTORY_REPORTS,
    )
    before, after = (
        Pooled.from_seeds([_figures(generator, config, drawn)], plan.drops)
        for generator in (shipped, refined)
    )
    at: dict[str, Any] = {
        "split": "val",
        "scenario": scenario,
        "speed_kmh": speed_kmh,
        "bits": BITS,
        "quantizer": "rvq",
        "snr_db": config.snr_db,
        "memory": plan.memory,
        "condition": "site" if site == scenario else f"control of {site}",
    }
    rows = []
    for name, of in (
        (plan.generator, before.figures),
        (f"{plan.generator}, refined", after.figures),
    ):
        rows.append(Row("sgcs", float(np.mean(of.sgcs)), method=name, **at))
        gain = float(np.mean(of.precoding_gain_db))
        rows.append(Row("precoding_gain_db", gain, method=name, **at))
        rows.append(Row("nmse_db", of.nmse_db, method=name, **at))
    at |= {"method": f"{plan.generator}, refined", "baseline": plan.generator}
    mean, ci95 = paired_difference(after.figures.sgcs, before.figures.sgcs, before.drop)
    rows.append(Row("sgcs_difference", mean, ci95=ci95, **at))
    mean, ci95 = nmse_difference_db(after, before)
    return [*rows, Row("nmse_difference_db", mean, ci95=ci95, **at)]


def measure(plan: Plan, run: Run) -> Measured:
    """Learn at every site, judge there and at its control."""
    rows: list[Row] = []
    with one_thread():
        shipped = load_generator(plan.generator, Antennas())
        for site in track(plan.sites, "sites"):
            learned = learn(shipped, experience(plan, site), RefineRecipe())
            change = learned.after_db - learned.before_db
            run.console.print(f"{site}: NMSE of later reports {change:+.3f} dB")
            refined = with_weights(shipped, learned.weights)
            for place in itertools.product((site, CONTROL[site]), plan.speeds_kmh):
                rows += judged(plan, site, place, shipped, refined)
    return Measured(rows)
