"""Integer tensors stored deflated: without loss, for codebooks whose values are far from evenly spread.

safetensors stores tensors as they lie in memory. Codewords in eight bits shrink by a third and tables of levels by half
when they are deflated, which keeps weights/ shippable.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import torch

from semlink.errors import CorruptModel

BYTES: Final = "@deflated"
"""What the name of a deflated tensor ends with: uint8 ``[compressed size]``."""
LAYOUT: Final = "@layout"
"""int64 ``[1 + ndim]`` beside it: 1 for signed bytes, 0 for unsigned ones; then the shape."""


def deflate(tensors: Mapping[str, torch.Tensor], names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The tensors with those of ``names``, int8 or uint8, deflated. Raises ValueError for another type."""
    stored = dict(tensors)
    for name in names:
        tensor = stored.pop(name)
        if tensor.dtype not in (torch.int8, torch.uint8):
            raise ValueError(f"{name} is {tensor.dtype}, allowed: torch.int8, torch.uint8")
        packed = np.frombuffer(zlib.compress(tensor.contiguous().numpy().tobytes(), 9), np.uint8)
        stored[name + BYTES] = torch.from_numpy(packed.copy())
        stored[name + LAYOUT] = torch.tensor([int(tensor.dtype == torch.int8), *tensor.shape])
    return stored


def inflate(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of :func:`deflate`; tensors that are not deflated stay. Raises CorruptModel for broken bytes."""
    tensors = {}
    for name, tensor in stored.items():
        if name.endswith(LAYOUT):
            continue
        if not name.endswith(BYTES):
            tensors[name] = tensor
            continue
        whole = name.removesuffix(BYTES)
        signed, *shape = stored[whole + LAYOUT].tolist()
        try:
            content = zlib.decompress(tensor.numpy().tobytes())
            flat = np.frombuffer(content, np.int8 if signed else np.uint8).reshape(shape)
        except (zlib.error, ValueError) as error:
            raise CorruptModel(f"{whole} is damaged: {error}", field=whole) from error
        tensors[whole] = torch.from_numpy(flat.copy())
    return tensors
