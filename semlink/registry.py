"""Components by name, one registry a kind: CSI quantisers, predictors, precoders, codecs, fusion, tasks, modalities.

What comes with the system is registered in :mod:`semlink.quantizers`, :mod:`semlink.components` and
:mod:`semlink.tasks`, where a component is named ("module:function"), so that nothing is imported for a name. Modules of
one's own register more of them in the same way; every process of a system must know them: ``SEMLINK_PLUGINS`` names the
modules.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Final, Generic, TypeVar

from semlink.errors import InvalidField

NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
Target = Callable[..., Any] | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A component's name and what it is: a function or class, or "module:name" of one."""

    name: str
    target: Target

    def load(self) -> Callable[..., Any]:
        """Return the function or class itself; its module is imported when it is first needed."""
        if not isinstance(self.target, str):
            return self.target
        module, _, name = self.target.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found

    @property
    def place(self) -> str:
        """Where it stands, "module:name"."""
        if isinstance(self.target, str):
            return self.target
        name = getattr(self.target, "__qualname__", repr(self.target))
        return f"{self.target.__module__}:{name}"


E = TypeVar("E", bound=Entry)


def check_name(kind: str, name: str) -> None:
    """Raise InvalidField for a name that is not allowed, since URLs, files and metrics carry it."""
    if not NAME.fullmatch(name):
        raise InvalidField(
            f"name of a {kind} is {name!r}, allowed: a-z, 0-9 and single hyphens between them",
            field="name",
        )


class Registry(Generic[E]):
    """The components of one kind, in the order in which they were registered. ``kind`` stands in errors."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, E] = {}

    def add(self, entry: E) -> None:
        """Register a component. Raises InvalidField for a name that is not allowed, or that another one has."""
        check_name(self.kind, entry.name)
        taken = self._entries.get(entry.name)
        if taken is not None and taken.place != entry.place:
            raise InvalidField(
                f"{self.kind} {entry.name!r} is registered twice: by {taken.place} and by {entry.place}",
                field="name",
            )
        self._entries[entry.name] = entry

    @property
    def registered(self) -> tuple[str, ...]:
        """Names of the components registered so far; no plug-in is imported for it."""
        return tuple(self._entries)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all components, those of plug-ins last."""
        load_plugins()
        return tuple(self._entries)

    @property
    def entries(self) -> tuple[E, ...]:
        """All components, in the order of :attr:`names`."""
        load_plugins()
        return tuple(self._entries.values())

    def get(self, name: str, *, field: str = "") -> E:
        """Return a component. Raises InvalidField, naming ``field`` (default: the kind), for an unknown one."""
        if name not in self._entries and name not in self.names:
            field = field or self.kind
            raise InvalidField(
                f"{field} is {name!r}, allowed: {', '.join(self._entries)}", field=field
            )
        return self._entries[name]


@lru_cache(maxsize=1)
def load_plugins() -> None:
    """Import the modules of ``SEMLINK_PLUGINS``, once. Raises InvalidField naming one that cannot be imported."""
    from semlink.settings import Settings

    for module in Settings().plugin_modules:
        try:
            import_module(module)
        except ImportError as error:
            raise InvalidField(
                f"SEMLINK_PLUGINS names {module!r}, which cannot be imported: {error}",
                field="SEMLINK_PLUGINS",
            ) from error
