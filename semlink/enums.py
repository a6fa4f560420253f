"""Closed sets of protobuf as the strings that REST, the command line and Python use.

A value ``POWER_ALLOCATION_WATER_FILLING`` of ``enum PowerAllocation`` is ``"water-filling"`` elsewhere. Value 0 of
every enum is ``…_UNSPECIFIED``: the field is not set, and its default holds.
"""

from __future__ import annotations

import re
from functools import lru_cache

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from semlink.errors import InvalidField


@lru_cache(maxsize=64)
def _names(enum: EnumTypeWrapper) -> dict[int, str]:
    descriptor = enum.DESCRIPTOR
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", descriptor.name).upper() + "_"
    return {
        number: name.removeprefix(prefix).lower().replace("_", "-")
        for name, number in enum.items()
        if number
    }


@lru_cache(maxsize=64)
def _numbers(enum: EnumTypeWrapper) -> dict[str, int]:
    return {name: number for number, name in _names(enum).items()}


def enum_names(enum: EnumTypeWrapper) -> tuple[str, ...]:
    """List the strings of an enum's values, in the order of their numbers, without ``UNSPECIFIED``."""
    return tuple(_names(enum).values())


def enum_name(enum: EnumTypeWrapper, value: int, *, default: str, field: str) -> str:
    """Return the string of a value, ``default`` for ``UNSPECIFIED``.

    Raises InvalidField, naming ``field``, for a number that this version does not know.
    """
    if value == 0:
        return default
    if value not in _names(enum):
        raise InvalidField(
            f"{field} is {value}, allowed: {', '.join(enum_names(enum))}", field=field
        )
    return _names(enum)[value]


def enum_value(enum: EnumTypeWrapper, name: str, *, field: str) -> int:
    """Return the number of a string. Raises InvalidField, naming ``field``, for one that is not in the set."""
    number = _numbers(enum).get(name)
    if number is not None:
        return number
    raise InvalidField(f"{field} is {name!r}, allowed: {', '.join(enum_names(enum))}", field=field)
