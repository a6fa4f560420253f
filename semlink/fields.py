"""Fields of frozen dataclasses that say once what they mean: REST, the command line, gRPC and documents follow. ::

@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    snr_db: Annotated[float, Spec("transmit power over noise power", "dB", low=-30, high=60)] = 10.0
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from google.protobuf.descriptor import Descriptor
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message

from semlink.enums import enum_name, enum_value
from semlink.errors import InvalidField

T = TypeVar("T")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Spec:
    """What a field means and may be.

    ``unit``: "" for a number without one, and for text. ``one_of``: the allowed values, or a function that lists them
    (a registry); ``low``, ``high``: the range of a number, both ends allowed. ``option``: its short name on the command
    line where that differs from the field's, without dashes.
    """

    meaning: str
    unit: str = ""
    one_of: tuple[object, ...] | Callable[[], tuple[object, ...]] = ()
    low: float | None = None
    high: float | None = None
    option: str = ""

    @property
    def allowed(self) -> tuple[object, ...]:
        """The allowed values, () where a range or nothing bounds them."""
        return self.one_of() if callable(self.one_of) else self.one_of

    @property
    def text(self) -> str:
        """Meaning and unit, as help and documents show them."""
        return f"{self.meaning} [{self.unit}]" if self.unit else self.meaning


@dataclass(frozen=True, slots=True)
class Described:
    """One field: ``kind`` is its type without the Spec, ``spec`` None for a dataclass of fields."""

    name: str
    kind: Any
    default: Any
    spec: Spec | None


def described(owner: Any) -> tuple[Described, ...]:
    """The fields of a dataclass (the class), in their order."""
    return _described(owner)


@cache
def _described(owner: Any) -> tuple[Described, ...]:
    hints = get_type_hints(owner, include_extras=True)
    found = []
    for one in fields(owner):
        kind, spec = hints[one.name], None
        if get_origin(kind) is Annotated:
            kind, spec = get_args(kind)[:2]
        found.append(Described(one.name, kind, one.default, spec))
    return tuple(found)


def check_range(value: float, low: float, high: float, field: str, unit: str = "") -> None:
    """Raise InvalidField, naming ``field``, unless ``value`` is a number from ``low`` to ``high``."""
    if not math.isfinite(value) or not low <= value <= high:
        raise InvalidField(
            f"{field} is {value}, allowed: {low}…{high}{f' {unit}' if unit else ''}", field=field
        )


def check(value: Any, *, field: str) -> None:
    """Raise InvalidField, naming ``{field}.name``, unless every field of a dataclass is allowed by itself.

    None is allowed where it is the default.
    """
    for one in described(type(value)):
        given, name = getattr(value, one.name), f"{field}.{one.name}"
        if is_dataclass(given):
            check(given, field=name)
        elif one.spec is None or (given is None and one.default is None):
            continue
        elif allowed := one.spec.allowed:
            if given not in allowed:
                raise InvalidField(
                    f"{name} is {given!r}, allowed: {', '.join(map(str, allowed))}", field=name
                )
        elif one.spec.low is not None and one.spec.high is not None:
            check_range(given, one.spec.low, one.spec.high, name, one.spec.unit)


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
        part = one.kind if one.spec is None else None
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
    """Set every field of ``message`` that a dataclass has, but for None, and return it."""
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
            setattr(message, one.name, given)
    return message
