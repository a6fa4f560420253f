"""Channels to train and judge CSI schemes on: many users, several independent moments of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from channel_service.fading import ChannelKey, draw_rays, frequency_response

USERS_PER_DROP: Final = 32
TRAIN_MIX: Final = {
    "uma-nlos": 10,
    "umi-nlos": 7,
    "umi-los": 7,
    "uma-los": 5,
    "cdl-a": 1,
    "cdl-c": 1,
    "cdl-d": 1,
}
"""Drops of each scenario in a round of the training mix. Our choice."""
MOMENTS_APART_SLOTS: Final = 50_021
"""Fifty seconds at 20 m/s: rays have turned many times, the fading is independent, the geometry the same."""


def drop(
    scenario: str, seed: int, num_tx_ant: int = 32, num_rx_ant: int = 2, moments: int = 4
) -> torch.Tensor:
    """Channels of ``USERS_PER_DROP`` users at ``moments`` independent moments, 3.5 GHz.

    complex64 ``[USERS_PER_DROP·moments, num_subbands, num_rx_ant, num_tx_ant]``, ``E|h|² = 1``.
    """
    rays = draw_rays(
        ChannelKey(scenario, 3.5e9, num_tx_ant, num_rx_ant, USERS_PER_DROP, 20.0, seed)
    )
    return torch.cat(
        [frequency_response(rays, m * MOMENTS_APART_SLOTS, 1)[:, 0] for m in range(moments)]
    )


def training_drops(rounds: int, first_seed: int) -> Iterator[torch.Tensor]:
    """Drops of the training mix for 32 × 2 antennas; ``sum(TRAIN_MIX.values())`` drops a round."""
    seed = first_seed
    for _ in range(rounds):
        for scenario, count in TRAIN_MIX.items():
            for _ in range(count):
                yield drop(scenario, seed)
                seed += 1


def fewer_antennas(h: torch.Tensor, num_rx_ant: int, num_tx_ant: int) -> torch.Tensor:
    """The same channels seen by smaller panels: ``[n, 8, 2, 32]`` → ``[n, 8, num_rx_ant, num_tx_ant]``.

    Panels of 8 (2 rows × 2 columns) and 16 ports (2 × 4) are corners of that of 32 (4 × 4). The one vertical receive
    element is the sum of the two slanted by ±45° over √2 (TR 38.901 eq. 7.3-4, polarisation model 2).
    """
    if num_rx_ant == 1:
        h = h.sum(-2, keepdim=True) / 2**0.5
    columns, rows = {8: (2, 2), 16: (4, 2), 32: (4, 4)}[num_tx_ant]
    grid = h.view(*h.shape[:-1], 2, 4, 4)[..., :columns, :rows]
    return grid.flatten(-3).contiguous()
