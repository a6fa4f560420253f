"""Tensors on the wire: little-endian bytes with dtype, shape and a CRC-32C that every hop checks."""

from __future__ import annotations

import math
from typing import Any

import google_crc32c
import numpy as np
import torch
from numpy.typing import NDArray

from semlink.errors import CorruptTensor, InvalidField
from semlink.v1 import common_pb2 as pb

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(code)
    for name, code in {
        "float16": "<f2",
        "float32": "<f4",
        "complex64": "<c8",
        "uint8": "|u1",
        "int32": "<i4",
        "int64": "<i8",
    }.items()
}


def to_wire(array: NDArray[Any] | torch.Tensor) -> pb.Tensor:
    """Encode an array of any supported dtype (see :data:`DTYPES`) and shape.

    Raises InvalidField for a dtype that the contract does not know.
    """
    name = str(array.dtype).removeprefix("torch.")
    if isinstance(array, np.ndarray):
        name = array.dtype.name  # without the byte order
    if name not in DTYPES:
        raise InvalidField(f"dtype {name} is not one of {', '.join(DTYPES)}", field="dtype")
    if isinstance(array, torch.Tensor):
        # numpy knows no lazy conjugates and negatives
        array = array.detach().cpu().resolve_conj().resolve_neg().numpy()
    data = np.ascontiguousarray(array, dtype=DTYPES[name]).tobytes()
    return pb.Tensor(dtype=name, shape=array.shape, data=data, crc32c=google_crc32c.value(data))


def from_wire(
    tensor: pb.Tensor,
    *,
    field: str,
    dtype: str | None = None,
    shape: tuple[int | None, ...] | None = None,
    finite: bool = True,
) -> NDArray[Any]:
    """Decode a tensor to a read-only array, having checked all that can be wrong with it.

    ``field`` names the tensor in errors; ``dtype`` and ``shape`` (``None`` = any length) are what is expected.
    Raises CorruptTensor when the checksum or the length disagrees, InvalidField for the wrong dtype or shape
    or, with ``finite``, for NaN or infinity.
    """
    known = DTYPES.get(tensor.dtype)
    if known is None:
        raise InvalidField(
            f"{field}.dtype is {tensor.dtype!r}, allowed: {', '.join(DTYPES)}",
            field=f"{field}.dtype",
        )
    if dtype is not None and tensor.dtype != dtype:
        raise InvalidField(
            f"{field}.dtype is {tensor.dtype}, expected {dtype}", field=f"{field}.dtype"
        )
    got = tuple(tensor.shape)
    if any(n < 0 for n in got) or (
        shape is not None
        and (
            len(got) != len(shape)
            or any(want is not None and n != want for n, want in zip(got, shape, strict=True))
        )
    ):
        expected = "×".join("any" if n is None else str(n) for n in shape or ())
        raise InvalidField(
            f"{field}.shape is {'×'.join(map(str, got))}, expected {expected}",
            field=f"{field}.shape",
        )
    if len(tensor.data) != math.prod(got) * known.itemsize:
        raise CorruptTensor(
            f"{field}.data has {len(tensor.data)} bytes, shape and dtype say {math.prod(got) * known.itemsize}",
            field=f"{field}.data",
        )
    if google_crc32c.value(tensor.data) != tensor.crc32c:
        raise CorruptTensor(f"{field}.data does not match its CRC-32C", field=f"{field}.crc32c")
    array = np.frombuffer(tensor.data, dtype=known).reshape(got)
    if finite and known.kind in "fc" and not np.isfinite(array).all():
        raise InvalidField(f"{field} holds NaN or infinity", field=field)
    return array
