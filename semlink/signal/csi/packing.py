"""Unsigned integers of given widths to bits in bytes, and back; most significant bit first.

Examples
--------
>>> pack(torch.tensor([[5, 1]]), widths=(3, 2), bits=8).tolist()  # 101 01 000
[[168]]
>>> unpack(torch.tensor([[168]], dtype=torch.uint8), widths=(3, 2)).tolist()
[[5, 1]]
"""

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


def message_of(values: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
    """Bits of int64 ``[batch, fields]``, ``0 ≤ values[:, i] < 2^widths[i]``: int64 ``[batch, sum(widths)]`` of 0, 1."""
    fields, shifts = (t.to(values.device) for t in _layout(tuple(widths)))
    return (values[:, fields] >> shifts) & 1


def fields_of(message: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
    """Inverse of :func:`message_of`; bits past ``sum(widths)`` are ignored."""
    fields, shifts = (t.to(message.device) for t in _layout(tuple(widths)))
    values = message.new_zeros((message.shape[0], len(widths)))
    return values.index_add_(1, fields, message[:, : len(fields)] << shifts)


def _varying_layout(widths: torch.Tensor, total: int) -> tuple[torch.Tensor, torch.Tensor]:
    ends = widths.cumsum(1)
    position = torch.arange(total, device=widths.device).expand(len(widths), -1).contiguous()
    fields = torch.searchsorted(ends, position, right=True)
    return fields, ends.gather(1, fields) - 1 - position


def varying_message_of(values: torch.Tensor, widths: torch.Tensor, total: int) -> torch.Tensor:
    """:func:`message_of` with each item's own widths, int64 ``[batch, fields]``, every row adding up to ``total``."""
    fields, shifts = _varying_layout(widths, total)
    return (values.gather(1, fields) >> shifts) & 1


def varying_fields_of(message: torch.Tensor, widths: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`varying_message_of`."""
    fields, shifts = _varying_layout(widths, message.shape[1])
    return torch.zeros_like(widths).scatter_add_(1, fields, message << shifts)


def bytes_of(message: torch.Tensor) -> torch.Tensor:
    """Bits ``[batch, bits]`` to uint8 ``[batch, ceil(bits / 8)]``, zeros behind."""
    num_bytes = -(-message.shape[1] // 8)
    padded = torch.nn.functional.pad(message, (0, 8 * num_bytes - message.shape[1]))
    weights = 1 << torch.arange(7, -1, -1, device=message.device)
    return (padded.view(len(message), num_bytes, 8) * weights).sum(-1).to(torch.uint8)


def bits_of(payload: torch.Tensor, bits: int) -> torch.Tensor:
    """Inverse of :func:`bytes_of`: int64 ``[batch, bits]``."""
    down = torch.arange(7, -1, -1, device=payload.device)
    return ((payload.to(torch.int64)[..., None] >> down) & 1).flatten(1)[:, :bits]


def pack(values: torch.Tensor, widths: Sequence[int], bits: int) -> torch.Tensor:
    """Pack int64 ``[batch, len(widths)]``, ``0 ≤ values[:, i] < 2^widths[i]``, into uint8 ``[batch, ceil(bits/8)]``.

    ``sum(widths) ≤ bits``; what is left is zero. A width of 0 carries nothing.
    """
    return bytes_of(torch.nn.functional.pad(message_of(values, widths), (0, bits - sum(widths))))


def unpack(payload: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
    """Inverse of :func:`pack`: int64 ``[batch, len(widths)]`` from uint8 ``[batch, num_bytes]``."""
    return fields_of(bits_of(payload, sum(widths)), widths)
