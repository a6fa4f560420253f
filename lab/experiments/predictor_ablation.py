"""Which CSI predictor helps, where: ``python -m lab.experiments.predictor_ablation`` (about a minute, prints a table).

Validation drops that neither codebooks nor predictors have seen: users report every 5 slots, the slot of transmission
is 8 slots after the newest report (the default link's reports are 5 to 9 slots old).
"""

from __future__ import annotations

from typing import Annotated, Final

import torch
import typer
from rich.console import Console
from rich.table import Table

from channel_service.fading import ChannelKey, draw_rays, frequency_response
from kb_service.prediction import LINEAR
from semlink.links import default_link
from semlink.signal.csi import content_of, quantizer_for
from semlink.signal.feedback import HISTORY_REPORTS
from semlink.signal.metrics import precoding_gain_db, sgcs

VALIDATION_SEED: Final = 20_000_000
AGE_SLOTS: Final = 8


def compare(
    scenario: str, speed_kmh: float, quantizer_name: str, bits: int, users: int
) -> dict[str, tuple[float, float, float]]:
    """NMSE of what reports describe [dB, ratio of sums], SGCS and rank-1 precoding gain [dB] by predictor."""
    config = default_link()
    config.scenario, config.speed_mps = scenario, speed_kmh / 3.6
    config.feedback.quantizer, config.feedback.bits = quantizer_name, bits
    period = config.feedback.report_period_slots
    h = torch.cat(
        [
            frequency_response(
                draw_rays(
                    ChannelKey(scenario, 3.5e9, 16, 2, 32, config.speed_mps, VALIDATION_SEED + i)
                ),
                0,
                (HISTORY_REPORTS - 1) * period + AGE_SLOTS + 1,
            )
            for i in range(-(-users // 32))
        ]
    )
    slots = [i * period for i in range(HISTORY_REPORTS)]
    truth, reported = h[:, -1], h[:, slots].flatten(0, 1)
    quantizer = quantizer_for(config)
    index = torch.arange(HISTORY_REPORTS).repeat(len(h))
    history = quantizer.decode(quantizer.encode(reported, index), index)
    history = history.view(1, len(h), HISTORY_REPORTS, *quantizer.shape)
    ages = h.shape[1] - 1 - torch.tensor(slots)[None]
    present = torch.ones(history.shape[:3], dtype=torch.bool)
    content = content_of(config)
    found = {}
    for name, predictor in LINEAR.items():
        csi = predictor.predict(history, present, ages, config)[0]
        power = content.rows(truth).abs().square().sum((1, 2, 3)).double()
        nmse = (10 ** (content.nmse_db(truth, csi) / 10) * power).sum() / power.sum()
        found[name] = (
            float(10 * nmse.log10()),
            float(sgcs(truth, csi).mean()),
            float(precoding_gain_db(truth, csi).mean()),
        )
    return found


def main(
    users: Annotated[int, typer.Option(help="Users of each scenario.")] = 128,
    quantizer: Annotated[str, typer.Option(help="scalar or rvq.")] = "rvq",
) -> None:
    """Print NMSE, SGCS and precoding gain of every predictor."""
    table = Table(title=f"{quantizer}: NMSE dB / SGCS / precoding gain dB")
    for column in ("scenario", "km/h", "bits", *LINEAR):
        table.add_column(column)
    for scenario in ("umi-los", "uma-nlos"):
        for speed_kmh in (3.0, 30.0):
            for bits in (16, 64):
                found = compare(scenario, speed_kmh, quantizer, bits, users)
                table.add_row(
                    scenario,
                    f"{speed_kmh:g}",
                    str(bits),
                    *(f"{n:.2f} / {s:.3f} / {g:.2f}" for n, s, g in found.values()),
                )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
