"""The length of every list of a request, checked on its bytes: a parsed list costs many times its bytes.

The limits stand in the contracts (``max_items``, ``proto/semlink/v1/limits.proto``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, NoReturn

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from semlink.errors import InvalidField
from semlink.v1 import limits_pb2

MAX_RECORDS: Final = 120_000
"""Fields on the wire of one request, nested ones counted; the largest import holds some 95,000."""
_MAX_VARINT_BYTES: Final = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED: Final = {
    FieldDescriptor.TYPE_DOUBLE: 8,
    FieldDescriptor.TYPE_FIXED64: 8,
    FieldDescriptor.TYPE_SFIXED64: 8,
    FieldDescriptor.TYPE_FLOAT: 4,
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
}
_NOT_PACKED: Final = (
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BYTES,
    FieldDescriptor.TYPE_MESSAGE,
)


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    max_items: int | None
    """None: not a list."""
    message: Descriptor | None
    packed_bytes: int | None
    """Of one packed element, 0 for a varint; None: is never packed."""


@cache
def _fields(message: Descriptor) -> dict[int, _Field]:
    return {field.number: _field(field) for field in message.fields}


def _field(field: FieldDescriptor) -> _Field:
    return _Field(
        name=field.name,
        max_items=max_items(field) if field.is_repeated else None,
        message=field.message_type,
        packed_bytes=None if field.type in _NOT_PACKED else _FIXED.get(field.type, 0),
    )


def max_items(field: FieldDescriptor) -> int:
    """The most elements that a service takes of a repeated field; 0 where the contract sets no limit."""
    return int(field.GetOptions().Extensions[limits_pb2.max_items])


def check_lists(data: bytes, message: Descriptor) -> None:
    """Check the length of every list in a serialised ``message``, without parsing it.

    :raises InvalidField: naming the list that is too long, or ``request`` for bytes that are no message or for over
        :data:`MAX_RECORDS` fields.
    """
    _Scan(data).message(message, 0, len(data), "")


class _Scan:
    """A walk over the wire format: what protobuf itself would parse, and nothing that it would not."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records = 0

    def message(self, kind: Descriptor, at: int, stop: int, path: str) -> None:
        fields = _fields(kind)
        counts: dict[int, int] = {}
        while at < stop:
            self._records += 1
            if self._records > MAX_RECORDS:
                raise InvalidField(
                    f"request holds more than {MAX_RECORDS:,} fields", field="request"
                )
            tag, at = self._varint(at, stop)
            number, wire = tag >> 3, tag & 7
            begin = at
            if wire == _VARINT:
                _, at = self._varint(at, stop)
            elif wire == _BYTES:
                length, begin = self._varint(at, stop)
                at = begin + length
            elif wire in (_FIXED64, _FIXED32):
                at += 8 if wire == _FIXED64 else 4
            else:
                _malformed(f"wire type {wire}")
            if at > stop:
                _malformed("it is cut off")
            field = fields.get(number)
            if field is None:
                continue
            name = f"{path}{field.name}"
            if field.max_items is not None:
                before = counts.get(number, 0)
                counts[number] = before + self._num_items(field, wire, begin, at)
                if counts[number] > field.max_items:
                    raise InvalidField(
                        f"{name} holds more than {field.max_items} elements, "
                        f"allowed: at most {field.max_items}",
                        field=name,
                    )
                name = f"{name}[{before}]"
            if field.message is not None and wire == _BYTES:
                self.message(field.message, begin, at, f"{name}.")

    def _num_items(self, field: _Field, wire: int, begin: int, end: int) -> int:
        if wire != _BYTES or field.packed_bytes is None:
            return 1
        if field.packed_bytes:
            return (end - begin) // field.packed_bytes
        assert field.max_items is not None
        if end - begin > field.max_items * _MAX_VARINT_BYTES:
            return field.max_items + 1
        # The last byte of a varint has its high bit clear.
        return sum(byte < 0x80 for byte in self._data[begin:end])

    def _varint(self, at: int, stop: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
            if at >= stop:
                _malformed("it is cut off")
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        return _malformed("a number has over ten bytes")


def _malformed(why: str) -> NoReturn:
    raise InvalidField(f"request does not parse: {why}", field="request")
