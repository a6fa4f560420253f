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
from typing import Any, get_args, get_type_hints

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
        return f"{self.meaning} ({self.unit})" if self.unit else self.meaning


@dataclass(frozen=True, slots=True)
class Described:
    """One field: ``kind`` is its type without the Spec."""

    name: str
    kind: Any
    default: Any
    spec: Spec

    @property
    def nested(self) -> bool:
        """Whether it is a dataclass of such fields itself."""
        return is_dataclass(self.kind)


def described(owner: Any) -> tuple[Described, ...]:
    """The fields of a dataclass (the class), in their order."""
    return _described(owner)


@cache
def _described(owner: Any) -> tuple[Described, ...]:
    hints = get_type_hints(owner, include_extras=True)
    found = []
    for one in fields(owner):
        kind, spec = get_args(hints[one.name])[:2]
        found.append(Described(one.name, kind, one.default, spec))
    return tuple(found)


def help_of(spec: Spec, default: object) -> str:
    """Meaning, what is allowed and default in one line, for help and documents; a registry's names are not listed."""
    allowed = "" if callable(spec.one_of) else ", ".join(map(str, spec.one_of))
    if spec.low is not None:
        allowed = f"≥ {spec.low:g}" if spec.high is None else f"{spec.low:g}…{spec.high:g}"
    parts = [spec.text, allowed, "" if default is None else f"default {default}"]
    return "; ".join(part for part in parts if part)


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
        if one.nested:
            check(given, field=name)
        elif given is None and one.default is None:
            continue
        elif allowed := one.spec.allowed:
            if given not in allowed:
                raise InvalidField(
                    f"{name} is {given!r}, allowed: {', '.join(map(str, allowed))}", field=name
                )
        elif one.spec.low is not None:
            high = math.inf if one.spec.high is None else one.spec.high
            check_range(given, one.spec.low, high, name, one.spec.unit)
