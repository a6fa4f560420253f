"""Dataclasses of described fields from protobuf messages and back, by the message's descriptor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from google.protobuf.descriptor import Descriptor
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

from semlink.enums import enum_name, enum_value
from semlink.errors import InvalidField
from semlink.fields import described

T = TypeVar("T")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class _Carried:
    """A field as a message has it: ``part`` is the class of a nested dataclass, ``enum`` that of a closed set."""

    name: str
    default: Any
    part: Any
    enum: EnumTypeWrapper | None
    has_presence: bool


def _carried(owner: Any, message: Any) -> tuple[_Carried, ...]:
    return _carried_of(owner, message)


@cache
def _carried_of(owner: Any, message: Descriptor) -> tuple[_Carried, ...]:
    found = []
    for one in described(owner):
        about = message.fields_by_name[one.name]
        enum = EnumTypeWrapper(about.enum_type) if about.enum_type is not None else None
        part = one.kind if one.nested else None
        found.append(_Carried(one.name, one.default, part, enum, about.has_presence))
    return tuple(found)


def from_proto(owner: type[T], message: Message, *, field: str) -> T:
    """Return a dataclass of a message's fields of the same names; one that is not set has its default.

    Enums become their strings (:mod:`semlink.enums`). Raises InvalidField, naming ``{field}.name``, for a number of an
    enum that is not known; ranges are not checked.
    """
    values: dict[str, Any] = {}
    for one in _carried(owner, message.DESCRIPTOR):
        given = getattr(message, one.name)
        if one.part is not None:
            given = from_proto(one.part, given, field=f"{field}.{one.name}")
        elif one.enum is not None:
            name = f"{field}.{one.name}"
            given = enum_name(one.enum, given, default=one.default, field=name)
        elif not (message.HasField(one.name) if one.has_presence else given):
            continue
        values[one.name] = given
    return owner(**values)


def to_proto(value: Any, message: M) -> M:
    """Set every field of ``message`` that a dataclass has, but for None, and return it.

    Raises InvalidField, naming the field, for a number that its type on the wire does not hold.
    """
    for one in _carried(type(value), message.DESCRIPTOR):
        given = getattr(value, one.name)
        if given is None:
            continue
        if one.part is not None:
            part = getattr(message, one.name)
            part.SetInParent()
            to_proto(given, part)
        elif one.enum is not None:
            setattr(message, one.name, enum_value(one.enum, given, field=one.name))
        else:
            try:
                setattr(message, one.name, given)
            except ValueError as error:
                raise InvalidField(f"{one.name} is {given}: {error}", field=one.name) from error
    return message
