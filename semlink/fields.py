"""Fields of frozen dataclasses that say once what they mean: REST, the command line, gRPC and documents are derived. ::

@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    snr_db: Annotated[float, Spec("transmit power over noise power", "dB", low=-30, high=60)] = 10.0
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from semlink.errors import InvalidField


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
