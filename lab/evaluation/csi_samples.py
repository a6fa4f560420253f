"""Channels to judge CSI reports on: what users estimate, what is true, and what is true when the report is used."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch

from channel_service.estimation import estimate_reports
from channel_service.fading import ChannelKey, draw_rays, frequency_response
from semlink.links import Link
from semlink.seeds import stable_seed

USERS_PER_DROP: Final = 32
FIRST_TEST_SEED: Final = 10_000_000
HISTORY: Final = 48
"""Reports made by each user before the first that is judged."""
JUDGED: Final = 4
"""Reports of each user that are judged, ``JUDGED_APART`` apart: at different places of a group of reports."""
JUDGED_APART: Final = 3


@dataclass(frozen=True, slots=True)
class Condition:
    """A kind of channel, ``name`` as rows and tables say it."""

    name: str
    scenario: str
    speed_kmh: float = 3.0
    carrier_frequency_hz: float = 3.5e9
    delay_spread_ns: float | None = None

    def link(self, snr_db: float, quantizer: str, bits: int, form: str = "") -> Link:
        """The default link in this condition; ``form``: a memory across reports, or "channel" for that content."""
        config = Link().replace(
            scenario=self.scenario,
            speed_kmh=self.speed_kmh,
            carrier_frequency_hz=self.carrier_frequency_hz,
            delay_spread_ns=self.delay_spread_ns,
            snr_db=snr_db,
            quantizer=quantizer,
            bits=bits,
        )
        return config.replace(
            **({"content": form} if form == "channel" else {"memory": form or "none"})
        )


@dataclass(frozen=True, slots=True)
class CsiSamples:
    """Users' reports in order of time; the last of the history and ``JUDGED − 1`` later ones are judged.

    ``estimates`` complex64 ``[users, reports, num_subbands, num_rx_ant, num_tx_ant]``, estimated at the link's SNR;
    ``report_index`` int64 ``[reports]``; ``judged`` int64 ``[JUDGED]``, positions of the judged reports;
    ``channels`` complex64 ``[users, JUDGED, …]``, true in the slot of a judged report; ``when_used`` the same,
    ``delay_slots`` later, when the first slot can use the report.
    """

    estimates: torch.Tensor
    report_index: torch.Tensor
    judged: torch.Tensor
    channels: torch.Tensor
    when_used: torch.Tensor


def draw_samples(condition: Condition, snr_db: float, seed: int, drops: int) -> CsiSamples:
    """The samples of one seed: ``drops`` drops of ``USERS_PER_DROP`` users that no training saw."""
    config = condition.link(snr_db, "none", 0)
    period, delay = config.feedback.report_period_slots, config.feedback.delay_slots
    reports = HISTORY + (JUDGED - 1) * JUDGED_APART
    judged = torch.arange(JUDGED) * JUDGED_APART + HISTORY - 1
    slots = torch.arange(reports) * period
    parts = []
    for number in range(drops):
        # far from the link seeds of every other experiment
        config = config.replace(
            seed=FIRST_TEST_SEED + stable_seed(condition.name, seed, number) % 2**40
        )
        rays = draw_rays(replace(ChannelKey.from_config(config), num_users=USERS_PER_DROP))
        h = frequency_response(rays, 0, int(slots[-1]) + delay + 1)
        estimates = estimate_reports(h[:, slots], config, 0)
        parts.append((estimates, h[:, slots[judged]], h[:, slots[judged] + delay]))
    estimates, channels, when_used = (torch.cat(p) for p in zip(*parts, strict=True))
    return CsiSamples(estimates, torch.arange(reports), judged, channels, when_used)
