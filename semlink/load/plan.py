"""What a load test sends, how fast, and what it must hold."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeVar, get_args

from semlink.errors import InvalidField
from semlink.fields import check_range, described
from semlink.links import Feedback, Link

T = TypeVar("T")
LinkKind = Literal["shared", "new", "opened"]
LINK_KINDS: Final[tuple[LinkKind, ...]] = get_args(LinkKind)
MAX_BATCH: Final = 256
"""Queries that one ``POST /v1/queries:batch`` may hold."""


@dataclass(frozen=True, slots=True)
class Mix(Generic[T]):
    """Values and how often each is drawn, relative to the others."""

    weights: tuple[tuple[T, float], ...]

    @classmethod
    def of(cls, *values: T) -> Mix[T]:
        """Return the mix in which all values are drawn equally often."""
        return cls(tuple((value, 1.0) for value in values))

    @classmethod
    def parse(
        cls,
        words: Sequence[str],
        field: str,
        allowed: Sequence[T] | None = None,
        kind: Callable[[str], T] = str,  # type: ignore[assignment]  # T is str where it is not given
    ) -> Mix[T]:
        """Read ``VALUE`` or ``VALUE=WEIGHT`` words. Raises InvalidField, naming ``field``."""
        found: list[tuple[T, float]] = []
        for word in words:
            name, _, weight_text = word.partition("=")
            try:
                value, weight = kind(name), float(weight_text or 1)
            except ValueError:
                raise InvalidField(
                    f"{field} is {word!r}, allowed: VALUE or VALUE=WEIGHT", field=field
                ) from None
            if allowed is not None and value not in allowed:
                raise InvalidField(
                    f"{field} is {name!r}, allowed: {', '.join(map(str, allowed))}", field=field
                )
            if not (math.isfinite(weight) and weight > 0):
                raise InvalidField(
                    f"{field} has weight {weight_text!r}, allowed: more than 0", field=field
                )
            found.append((value, weight))
        if not found:
            raise InvalidField(f"{field} names nothing", field=field)
        return cls(tuple(found))

    @property
    def values(self) -> tuple[T, ...]:
        """What may be drawn."""
        return tuple(value for value, _ in self.weights)

    def draw(self, uniform: float) -> T:
        """Return the value at ``uniform`` (0…1) of the sum of all weights."""
        left = uniform * sum(weight for _, weight in self.weights)
        for value, weight in self.weights:
            left -= weight
            if left < 0:
                return value
        return self.weights[-1][0]

    def __str__(self) -> str:
        if len(self.weights) == 1:
            return str(self.weights[0][0])
        return ", ".join(f"{value} ({weight:g})" for value, weight in self.weights)


_PERSON: Final = Mix[str].of("person")
_DEEPSC_MIMO: Final = Mix[str].of("deepsc-mimo")
_SHARED: Final = Mix[LinkKind].of("shared")
_ALONE: Final = Mix[int].of(1)


@dataclass(frozen=True, slots=True)
class Load:
    """How fast: ``rate`` calls a second (open loop, Poisson arrivals), or ``users`` that each wait (closed loop)."""

    rate: float | None = None
    users: int | None = None

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.users is None):
            raise InvalidField("one of rate and users is needed", field="rate")
        if self.rate is not None:
            check_range(self.rate, 1e-3, 1e5, "rate", "calls a second")
        if self.users is not None:
            check_range(self.users, 1, 10_000, "users")

    @property
    def size(self) -> float:
        """The rate or the users."""
        return self.rate if self.rate is not None else float(self.users or 0)

    def scaled_to(self, size: float) -> Load:
        """Return a load of the same kind; users are whole."""
        return Load(rate=size) if self.rate is not None else Load(users=max(1, round(size)))

    def __str__(self) -> str:
        return f"{self.rate:g} calls/s" if self.rate is not None else f"{self.users} users"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is sent. Each call is drawn by ``seed`` and its number alone, so that a run can be repeated.

    ``url`` of the gateway. ``batch``: queries of a call; 1 is ``POST /v1/queries``, more ``POST /v1/queries:batch``.
    ``links``: "shared" by value, one of ``num_links``; "new", by value, in every query another; "opened", one of
    ``num_links`` that the run opens and closes. ``link``: fields of every link that are not the default, nested as in
    REST. ``duration_s`` of a step; ``calls``: of a step at most, None: no bound. ``warm_up``: calls sent before the
    clock starts. ``honour_retry_after``: a refused call waits as long as the gateway says and is sent again, until its
    deadline. Raises InvalidField for what cannot be sent.
    """

    url: str
    seed: int
    duration_s: float = 30.0
    calls: int | None = None
    tasks: Mix[str] = _PERSON
    methods: Mix[str] = _DEEPSC_MIMO
    links: Mix[LinkKind] = _SHARED
    batch: Mix[int] = _ALONE
    num_links: int = 8
    link: Mapping[str, Any] = field(default_factory=dict)
    symbols: int = 64
    top_k: int = 5
    knowledge_budget_ms: float = 0.0
    deadline_ms: float = 30_000.0
    warm_up: int = 64
    honour_retry_after: bool = False

    def __post_init__(self) -> None:
        for size in self.batch.values:
            check_range(size, 1, MAX_BATCH, "batch")
        check_range(self.duration_s, 0.1, 86_400, "duration", "s")
        check_range(self.num_links, 1, 1024, "num_links")
        check_range(self.deadline_ms, 1, 600_000, "deadline_ms", "ms")
        check_range(self.warm_up, 0, 100_000, "warm_up")
        check_range(self.seed, 0, 2**53 - 1, "seed")
        if self.calls is not None:
            check_range(self.calls, 1, 10**8, "calls")
        self.described_link().check()

    def described_link(self) -> Link:
        """The links' common fields with the defaults of semlink."""
        return Link.from_dict(self.link)

    def described(self) -> dict[str, Any]:
        """Every field as plain JSON values, as a report stores them."""
        names = (one for one in self.__dataclass_fields__ if one != "link")
        values = {name: getattr(self, name) for name in names}
        plain = {k: str(v) if isinstance(v, Mix) else v for k, v in values.items()}
        return plain | {"link": dict(self.link)}


def link_fields(words: Sequence[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE`` words as fields of a link, those of its feedback by their own names.

    >>> link_fields(["snr_db=5", "bits=32"])
    {'snr_db': 5.0, 'feedback': {'bits': 32}}

    Raises InvalidField for a name or value that is none; ``seed`` is the run's to choose.
    """
    kinds = {
        one.name: (one.kind, owner)
        for owner in (Link, Feedback)
        for one in described(owner)
        if not one.nested and one.name != "seed"
    }
    values: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in kinds or not text:
            raise InvalidField(
                f"link is {word!r}, allowed: NAME=VALUE with {', '.join(kinds)}", field="link"
            )
        kind, owner = kinds[name]
        numeric = next((t for t in (int, float) if kind is t or t in get_args(kind)), None)
        try:
            value = numeric(text) if numeric else text
        except ValueError:
            raise InvalidField(
                f"link.{name} is {text!r}, allowed: a number", field=f"link.{name}"
            ) from None
        into = values.setdefault("feedback", {}) if owner is Feedback else values
        into[name] = value
    return values


_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    **{"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt},
}
_RULE: Final = re.compile(r"\s*([a-z][a-z0-9_.]*)\s*(<=|>=|<|>)\s*([0-9.eE+-]+)\s*")


@dataclass(frozen=True, slots=True)
class Rule:
    """A figure compared with a number: ``p99_ms<=500``."""

    figure: str
    sign: str
    value: float

    @classmethod
    def parse(cls, text: str, field: str, known: Callable[[str], bool]) -> Rule:
        """Read a rule. Raises InvalidField, naming ``field``, also for a figure that ``known`` does not know."""
        match = _RULE.fullmatch(text)
        try:
            value = float(match[3]) if match else math.nan
        except ValueError:
            value = math.nan
        if match is None or math.isnan(value):
            raise InvalidField(
                f"{field} is {text!r}, allowed: FIGURE<NUMBER with <, <=, > or >=", field=field
            )
        if not known(match[1]):
            raise InvalidField(
                f"{field} names the figure {match[1]!r}, which is none: docs/load.md lists them",
                field=field,
            )
        return cls(match[1], match[2], value)

    def holds(self, figures: Mapping[str, float]) -> bool | None:
        """Whether it is true of some figures; None where they lack that figure."""
        figure = figures.get(self.figure, math.nan)
        return None if math.isnan(figure) else _COMPARE[self.sign](figure, self.value)

    def __str__(self) -> str:
        return f"{self.figure}{self.sign}{self.value:g}"
