"""Unsigned integers of given widths to bits in bytes, and back; most significant bit first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch


@lru_cache(maxsize=256)
def _layout(widths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """For each bit of the message: the field it belongs to and its shift in that field."""
    fields = [i for i, width in enumerate(widths) for _ in range(width)]
    shifts = [s for width in widths for s in range(width - 1, -1, -1)]
    return torch.tensor(fields, dtype=torch.int64), torch.tensor(shifts, dtype=torch.int64)


def pack(values: torch.Tensor, widths: Sequence[int], bits: int) -> torch.Tensor:
    """Pack int64 ``[batch, len(widths)]``, ``0 ≤ values[:, i] < 2^widths[i]``, into uint8 ``[batch, ceil(bits/8)]``.

    ``sum(widths) ≤ bits``; what is left is zero. A width of 0 carries nothing.
    """
    fields, shifts = (t.to(values.device) for t in _layout(tuple(widths)))
    message = (values[:, fields] >> shifts) & 1
    num_bytes = -(-bits // 8)
    padded = torch.nn.functional.pad(message, (0, 8 * num_bytes - message.shape[1]))
    weights = 1 << torch.arange(7, -1, -1, device=values.device)
    return (padded.view(-1, num_bytes, 8) * weights).sum(-1).to(torch.uint8)


def unpack(payload: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
    """Inverse of :func:`pack`: int64 ``[batch, len(widths)]`` from uint8 ``[batch, num_bytes]``."""
    fields, shifts = (t.to(payload.device) for t in _layout(tuple(widths)))
    down = torch.arange(7, -1, -1, device=payload.device)
    message = (payload.to(torch.int64)[..., None] >> down) & 1
    message = message.flatten(1)[:, : len(fields)] << shifts
    values = payload.new_zeros((payload.shape[0], len(widths)), dtype=torch.int64)
    return values.index_add_(1, fields, message)
