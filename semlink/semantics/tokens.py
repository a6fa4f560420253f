"""A batch of token sequences of different length: what every frozen backbone hands to a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Tokens:
    """Frozen features of ``batch`` items.

    ``values``: [batch, num_tokens, width], float32, zero where padded. ``mask``: [batch, num_tokens], bool, True
    where a token is real; the real ones come first.
    """

    values: torch.Tensor
    mask: torch.Tensor

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def to(self, device: torch.device | str) -> Tokens:
        """The same tokens on another device."""
        return Tokens(self.values.to(device), self.mask.to(device))

    def rows(self) -> list[NDArray[np.float16]]:
        """Each item's real tokens, ``[num_tokens_i, width]``, float16: how the feature cache keeps them."""
        lengths = self.mask.sum(1).tolist()
        values = self.values.to(torch.float16).cpu().numpy()
        return [
            np.ascontiguousarray(row[:length]) for row, length in zip(values, lengths, strict=True)
        ]


def pad(rows: Sequence[torch.Tensor]) -> Tokens:
    """Stack sequences ``[num_tokens_i, width]`` (any float dtype) into one batch, padded with zeros to the longest."""
    longest = max(int(row.shape[0]) for row in rows)
    values = torch.zeros(len(rows), longest, rows[0].shape[1])
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        values[index, : row.shape[0]] = row
        mask[index, : row.shape[0]] = True
    return Tokens(values, mask)
