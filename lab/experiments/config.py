"""Plans of experiments are frozen dataclasses; any value of one can be given on the command line as ``key=value``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from semlink.errors import InvalidField

P = TypeVar("P")

_TYPES: Final[Mapping[str, Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "int | None": int | None,
    "Sequence[float]": tuple[float, ...],
    "Sequence[int]": tuple[int, ...],
    "Sequence[str]": tuple[str, ...],
}
_SAMPLING: Final = "sampling"
"""A plan's field that is a plan itself; its keys are given like the others."""


def keys_of(plan: Any) -> dict[str, str]:
    """What can be set, with the type of each as it stands in the source; of a plan's sampling as well."""
    found: dict[str, str] = {}
    for one in fields(plan):
        if one.name == _SAMPLING:
            found |= keys_of(getattr(plan, _SAMPLING))
        elif str(one.type) in _TYPES or _sequence_of(str(one.type)):
            found[one.name] = str(one.type)
    return found


def changed(plan: P, values: Mapping[str, Any]) -> P:
    """The plan with other values. Raises InvalidField, naming the key, for one that it has not."""
    allowed = keys_of(plan)
    for key in values:
        if key not in allowed:
            raise InvalidField(
                f"{key!r} is no value of this plan, allowed: {', '.join(allowed)}", field=key
            )
    own = {f.name for f in fields(plan)}  # type: ignore[arg-type]
    of_plan = {k: v for k, v in values.items() if k in own}
    nested = {k: v for k, v in values.items() if k not in own}
    if nested:
        of_plan[_SAMPLING] = changed(getattr(plan, _SAMPLING), nested)
    return replace(plan, **of_plan)  # type: ignore[type-var]


def overridden(plan: P, overrides: Sequence[str]) -> P:
    """The plan with each ``key=value``; lists are written with commas or as JSON, an empty one as ``key=``.

    Raises InvalidField naming the key for an unknown one or a value of another type.
    """
    allowed = keys_of(plan)
    values: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or key not in allowed:
            raise InvalidField(
                f"--set {override!r}: allowed are {', '.join(allowed)}, each as key=value",
                field=key,
            )
        values[key] = _parsed(key, text, allowed[key])
    return changed(plan, values)


ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "scenario": ("scenarios",),
    "speed": ("speeds_kmh", "speed_kmh"),
    "users": ("user_counts", "num_users"),
    "snr": ("snrs_db", "snr_db"),
    "sweep_snr": ("sweep_snr_db",),
    "delay": ("delays_ms",),
    "rows": ("groups",),
    "method": ("methods",),
    "predictor": ("predictors",),
    "prototypes": ("counts",),
    "training": ("training_tasks",),
}
"""Short names of options; a key of the plan itself goes before."""


def from_options(plan: Any, arguments: Sequence[str]) -> list[str]:
    """Options as overrides: ``--bits 16 --bits 64`` is ``bits=16,64``, ``--held-out`` ``held_out=true``.

    ``--no-KEY`` is ``false``, of a list the empty one. Raises InvalidField naming an option that the plan has not.
    """
    allowed = keys_of(plan)
    found: dict[str, list[str]] = {}
    waiting = ""
    for argument in arguments:
        if not argument.startswith("--"):
            if not waiting:
                raise InvalidField(f"{argument!r} belongs to no option", field="arguments")
            found[waiting].append(argument)
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        negated = not equals and name.startswith("no-")
        waiting = _key_of(name.removeprefix("no-") if negated else name, allowed)
        values = found.setdefault(waiting, [])
        if equals:
            values.append(value)
        if negated:
            values.append("false" if allowed[waiting] == "bool" else "")
    # A flag is an option without a value.
    return [
        f"{key}={','.join(values) if values or _sequence_of(allowed[key]) else 'true'}"
        for key, values in found.items()
    ]


def _key_of(option: str, allowed: Mapping[str, str]) -> str:
    name = option.replace("-", "_")
    for key in (name, *ALIASES.get(name, ())):
        if key in allowed:
            return key
    options = ", ".join(f"--{key.replace('_', '-')}" for key in allowed)
    raise InvalidField(
        f"--{option} is no option of this experiment, allowed: {options}", field=option
    )


def described(plan: Any) -> dict[str, Any]:
    """The plan's values by key, for a report; those of its sampling beside the others."""
    found: dict[str, Any] = {}
    for one in fields(plan):
        value = getattr(plan, one.name)
        found |= described(value) if is_dataclass(value) else {one.name: _plain(value)}
    return found


def _plain(value: Any) -> Any:
    """Tuples as JSON holds them."""
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def _sequence_of(annotation: str) -> bool:
    return annotation.startswith("Sequence[") and "tuple" not in annotation


def _listed(text: str) -> Any:
    """Parts between commas; a JSON array where parts hold commas themselves."""
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _parsed(key: str, text: str, annotation: str) -> Any:
    """A value of the key's type; what a list of names may hold is the experiment's to check."""
    target = _TYPES.get(annotation, tuple[str, ...])
    value: Any = text
    if _sequence_of(annotation):
        value = _listed(text)
    elif annotation == "int | None" and text == "":
        value = None
    try:
        return TypeAdapter(target).validate_python(value)
    except ValidationError as error:
        raise InvalidField(
            f"--set {key}={text!r}: {error.errors()[0]['msg']}, expected {annotation}", field=key
        ) from error
