"""Options of a command that are the fields of a dataclass: names, help, ranges (:mod:`semlink.fields`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Optional, get_args, get_type_hints

import typer

from semlink.fields import Spec, described, help_of


def options_of(**owners: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace parameters of a command by an option for every field of a dataclass, nested ones flat.

    The command gets a dictionary of the fields that were given. An option is named as its field, or as ``Spec.option``
    says; allowed values are those of the field, which the services check.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        parameters: list[inspect.Parameter] = []
        fields_of: dict[str, dict[str, str]] = {name: {} for name in owners}
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name not in owners:
                parameters.append(parameter.replace(annotation=hints[parameter.name]))
                continue
            for field, kind, default, spec in _flat(owners[parameter.name]):
                name = spec.option or field.replace("_", "-")
                fields_of[parameter.name][name.replace("-", "_")] = field
                option = typer.Option(f"--{name}", help=help_of(spec, default))
                parameters.append(
                    inspect.Parameter(
                        name.replace("-", "_"),
                        inspect.Parameter.KEYWORD_ONLY,
                        default=None,
                        annotation=Annotated[Optional[kind], option],  # noqa: UP045 - made at run time
                    )
                )

        def run(**values: Any) -> None:
            for parameter, fields in fields_of.items():
                given = {field: values.pop(option) for option, field in fields.items()}
                values[parameter] = {k: v for k, v in given.items() if v is not None}
            command(**values)

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        ordered = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        run.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
        return run

    return decorate


def _flat(owner: Any) -> list[tuple[str, Any, Any, Spec]]:
    found = []
    for one in described(owner):
        if one.nested:
            found += _flat(one.kind)
        else:
            parts = get_args(one.kind) or (one.kind,)  # of a Literal or of "float | None"
            kind = parts[0] if isinstance(parts[0], type) else type(parts[0])
            found.append((one.name, kind, one.default, one.spec))
    return found
