"""Names of the channel models: UMi and UMa of TR 38.901 with and without line of sight, CDL, and two simple ones."""

from __future__ import annotations

from typing import Final, Literal, get_args

Scenario = Literal[
    "umi-los",
    "umi-nlos",
    "uma-los",
    "uma-nlos",
    "cdl-a",
    "cdl-b",
    "cdl-c",
    "cdl-d",
    "cdl-e",
    "rayleigh",
    "awgn",
]
SCENARIOS: Final[tuple[Scenario, ...]] = get_args(Scenario)
