"""Wide layers stored in eight bits, a scale for each row: half the size of float16, which keeps weights/ shippable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch

WIDE: Final = 32_768
"""Matrices from this many elements on are stored in eight bits."""
SCALE: Final = "@scale"
"""What the name of a wide matrix's scales ends with; they stay float32."""


def pack(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict as stored: wide matrices int8 with ``name@scale`` (float32, ``[rows, 1]``), the rest float16."""
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if tensor.ndim == 2 and tensor.numel() >= WIDE and tensor.is_floating_point():
            scale = tensor.float().abs().amax(1, keepdim=True).clamp_min(1e-12) / 127.0
            stored[name] = (tensor.float() / scale).round().to(torch.int8)
            stored[name + SCALE] = scale
        else:
            stored[name] = tensor.half() if tensor.is_floating_point() else tensor
    return stored


def unpack(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of :func:`pack`, float32; also reads states that were never packed."""
    return {
        name: tensor.float() * stored[name + SCALE] if name + SCALE in stored else tensor.float()
        for name, tensor in stored.items()
        if not name.endswith(SCALE)
    }
