"""Closed sets of protobuf as the strings that REST, the command line and Python use.

A value ``POWER_ALLOCATION_WATER_FILLING`` of ``enum PowerAllocation`` is ``"water-filling"`` elsewhere. Value 0 of
every enum is ``…_UNSPECIFIED``: the field is not set, and its default holds. An enum here is what protobuf generates,
an ``EnumTypeWrapper``, which type stubs show as a class of its own.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from semlink.errors import InvalidField


@lru_cache(maxsize=64)
def _names(enum: Any) -> dict[int, str]:
    descriptor = enum.DESCRIPTOR
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", descriptor.name).upper() + "_"
    return {
        number: name.removeprefix(prefix).lower().replace("_", "-")
        for name, number in enum.items()
        if number
    }


@lru_cache(maxsize=64)
def _numbers(enum: Any) -> dict[str, int]:
    return {name: number for number, name in _names(enum).items()}


def enum_names(enum: Any) -> tuple[str, ...]:
    """List the strings of an enum's values, in the order of their numbers, without ``UNSPECIFIED``."""
    return tuple(_names(enum).values())


def enum_name(enum: Any, value: int, *, default: str, field: str) -> str:
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


def enum_text(enum: Any, value: int) -> str:
    """Return the string of a value as people read it, "" for ``UNSPECIFIED``. Raises InvalidField naming the enum."""
    return enum_name(enum, value, default="", field=enum.DESCRIPTOR.name)


def enum_value(enum: Any, name: str, *, field: str) -> Any:
    """Return the number of a string. Raises InvalidField, naming ``field``, for one that is not in the set."""
    number = _numbers(enum).get(name)
    if number is not None:
        return number
    raise InvalidField(f"{field} is {name!r}, allowed: {', '.join(enum_names(enum))}", field=field)
