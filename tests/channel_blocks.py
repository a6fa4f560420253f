"""All slots of a channel block, for tests that look at more than a query's."""

from __future__ import annotations

import torch

from channel_service.fading import ChannelWindows
from semlink.grid import BLOCK_SLOTS
from semlink.links import Link


def generate_block(config: Link, index: int, device: str = "cpu") -> torch.Tensor:
    """The block, computed afresh: complex64 ``[num_users, BLOCK_SLOTS, num_subbands, num_rx_ant, num_tx_ant]``."""
    slots = range(index * BLOCK_SLOTS, (index + 1) * BLOCK_SLOTS)
    return ChannelWindows(device=device).slots(config, slots)
