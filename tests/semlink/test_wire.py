"""Tensors on the wire: exact round trips; whatever is wrong is refused by name, every flipped bit included."""

from __future__ import annotations

import struct
from typing import Any

import google_crc32c
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from semlink.errors import CorruptTensor, InvalidField
from semlink.v1 import common_pb2 as pb
from semlink.wire import DTYPES, from_wire, to_wire

ARRAYS = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: hnp.arrays(
        DTYPES[name],
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
        elements=(
            {"allow_nan": False, "allow_infinity": False} if DTYPES[name].kind in "fc" else None
        ),
    )
)


@given(ARRAYS)
def test_round_trip_is_exact(array: NDArray[Any]) -> None:
    message = pb.Tensor.FromString(to_wire(array).SerializeToString())
    back = from_wire(message, field="x", dtype=array.dtype.name, shape=array.shape)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()  # also -0.0 and subnormals
    assert not back.flags.writeable


@given(ARRAYS)
def test_torch_and_numpy_make_the_same_message(array: NDArray[Any]) -> None:
    assert to_wire(torch.from_numpy(array.copy())) == to_wire(array)


def test_bytes_are_little_endian_in_c_order_with_the_castagnoli_checksum() -> None:
    array = np.array([[1, -2], [3, 4]], ">i4").T  # big endian and Fortran order at once
    message = to_wire(array)
    assert message.data == struct.pack("<4i", 1, 3, -2, 4)
    assert (message.dtype, list(message.shape)) == ("int32", [2, 2])
    assert _crc32c(message.data) == message.crc32c
    assert _crc32c(b"123456789") == 0xE3069283  # the check value of RFC 3720


def _crc32c(data: bytes) -> int:
    """Bit by bit from the polynomial 0x1EDC6F41 (reflected), independent of the library."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_lazy_views_of_torch_are_what_they_show() -> None:
    z = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64, requires_grad=True)
    assert from_wire(to_wire(z.conj()), field="x").tolist() == [1 - 2j, 3 + 4j]
    assert from_wire(to_wire(z.conj().imag), field="x").tolist() == [-2, 4]
    assert from_wire(to_wire(z[::2]), field="x").tolist() == [1 + 2j]


@pytest.mark.parametrize(
    "array",
    [np.zeros(2), np.zeros(2, "c16"), np.array(["a"]), torch.zeros(2, dtype=torch.bfloat16)],
    ids=["float64", "complex128", "text", "bfloat16"],
)
def test_unknown_dtypes_are_refused_when_encoding(array: Any) -> None:
    with pytest.raises(InvalidField, match="float32") as caught:
        to_wire(array)
    assert caught.value.field == "dtype"


@given(
    hnp.arrays(
        np.complex64,
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=3),
        elements={"allow_nan": False, "allow_infinity": False},
    )
)
def test_every_flipped_bit_of_a_message_is_noticed(array: NDArray[Any]) -> None:
    good = to_wire(array).SerializeToString()
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises((DecodeError, CorruptTensor, InvalidField)):
            from_wire(
                pb.Tensor.FromString(bytes(bad)), field="x", dtype="complex64", shape=array.shape
            )


def test_every_truncation_of_a_message_is_noticed() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    good = to_wire(array).SerializeToString()
    for length in range(len(good)):
        with pytest.raises((DecodeError, CorruptTensor, InvalidField)):
            from_wire(pb.Tensor.FromString(good[:length]), field="x", dtype="float32", shape=(2, 3))


@given(st.data())
def test_every_flipped_bit_of_the_data_is_corruption_and_nothing_else(data: st.DataObject) -> None:
    message = to_wire(np.arange(200, dtype=np.float32))
    bit = data.draw(st.integers(0, 8 * len(message.data) - 1))
    bad = bytearray(message.data)
    bad[bit // 8] ^= 1 << bit % 8
    message.data = bytes(bad)
    with pytest.raises(CorruptTensor) as caught:
        from_wire(message, field="frames[0].samples")
    assert caught.value.field == "frames[0].samples.crc32c"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, complex(0, np.nan), complex(np.inf, 0)])
def test_nan_and_infinity_are_named_unless_they_are_wanted(bad: complex) -> None:
    array = np.array([1, bad], np.complex64)
    with pytest.raises(InvalidField, match="NaN or infinity") as caught:
        from_wire(to_wire(array), field="frames[2].symbols")
    assert caught.value.field == "frames[2].symbols"
    assert from_wire(to_wire(array), field="x", finite=False).tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("expected", "named"),
    [
        ({"dtype": "float32"}, "x.dtype"),
        ({"shape": (2, 4)}, "x.shape"),
        ({"shape": (6,)}, "x.shape"),
        ({"shape": (None, None, 1)}, "x.shape"),
        ({"shape": ()}, "x.shape"),
    ],
)
def test_what_was_not_expected_is_named(expected: dict[str, Any], named: str) -> None:
    message = to_wire(np.zeros((2, 3), np.int32))
    with pytest.raises(InvalidField) as caught:
        from_wire(message, field="x", **expected)
    assert caught.value.field == named
    assert "2×3" in caught.value.message or "int32" in caught.value.message


def test_any_length_where_none_is_asked() -> None:
    message = to_wire(np.zeros((2, 3), np.int32))
    assert from_wire(message, field="x", shape=(None, 3)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(-1, -6), (-6,), (2**62, 4), (3, 3), (), (0,)])
def test_shapes_that_lie_are_refused(shape: tuple[int, ...]) -> None:
    message = to_wire(np.arange(6, dtype=np.int64))
    del message.shape[:]
    message.shape.extend(shape)
    with pytest.raises((CorruptTensor, InvalidField), match=r"^x\."):
        from_wire(message, field="x")


@pytest.mark.parametrize("dtype", ["", "float64", "object", "<f4", "O", "FLOAT32", "float32\0"])
def test_dtypes_outside_the_contract_are_named(dtype: str) -> None:
    message = to_wire(np.zeros(2, np.float32))
    message.dtype = dtype
    with pytest.raises(InvalidField) as caught:
        from_wire(message, field="x")
    assert caught.value.field == "x.dtype"


def test_an_absent_tensor_is_not_an_empty_one() -> None:
    with pytest.raises(InvalidField) as caught:
        from_wire(pb.Tensor(), field="x")
    assert caught.value.field == "x.dtype"
    assert from_wire(to_wire(np.zeros((0, 2), np.float32)), field="x").shape == (0, 2)


def test_the_library_agrees_with_the_polynomial() -> None:
    data = bytes(range(256)) * 3
    assert google_crc32c.value(data) == _crc32c(data)
