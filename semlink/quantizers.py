"""CSI quantisers by name: what each offers, and where it is made. No torch is imported until one is made.

A scheme is registered once, below or in a module of one's own, and everybody reads its row: REST, the command line,
checks of links, experiments and benchmarks. ::

    @register_quantizer("sign", title="signs", typical_bits=(256,))
    def sign(request: QuantizerRequest) -> CsiQuantizer:
        return request.over_rows(SignQuantizer(request.content.num_rows, request.num_tx_ant))

Every process of a system must know a scheme: ``SEMLINK_PLUGINS`` names the modules that register more of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Final, Literal, TypeVar, get_args

from semlink.errors import InvalidField
from semlink.settings import Settings

Memory = Literal["none", "fused", "predictive"]
MEMORIES: Final[tuple[Memory, ...]] = get_args(Memory)
Content = Literal["layers", "channel"]
CONTENTS: Final[tuple[Content, ...]] = get_args(Content)

Factory = Callable[[Any], Any]
"""From :class:`semlink.signal.csi.QuantizerRequest` to :class:`semlink.signal.csi.CsiQuantizer`."""
F = TypeVar("F", bound=Factory | str)
NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizerSpec:
    """What a scheme offers; see :func:`register_quantizer`."""

    name: str
    title: str
    factory: Factory | str
    memories: tuple[Memory, ...]
    contents: tuple[Content, ...]
    num_tx_ant: tuple[int, ...]
    typical_bits: tuple[int, ...]
    weights: tuple[str, ...]
    bound: bool

    @property
    def any_bits(self) -> bool:
        """Whether a link chooses the number of bits freely."""
        return not (self.bound or self.typical_bits)

    def make(self, request: object) -> Any:
        """The quantiser of a request. Raises InvalidField for what the scheme does not offer."""
        factory = self.factory
        if isinstance(factory, str):
            module, _, name = factory.partition(":")
            factory = getattr(import_module(module), name)
        return factory(request)


_specs: Final[dict[str, QuantizerSpec]] = {}


def register_quantizer(
    name: str,
    *,
    title: str,
    memories: tuple[Memory, ...] = ("none",),
    contents: tuple[Content, ...] = CONTENTS,
    num_tx_ant: tuple[int, ...] = (),
    typical_bits: tuple[int, ...] = (),
    weights: tuple[str, ...] = (),
    bound: bool = False,
) -> Callable[[F], F]:
    """Register what is decorated as the factory of the quantiser ``name``.

    ``name``: as links name it, lower case letters, digits and ``-``; ``title``: in plots. ``memories``, ``contents``:
    what a report may rest on and describe. ``num_tx_ant``: ports that it has codebooks for (none: every number).
    ``typical_bits``: some of its sizes on the default link, if it makes no others than its own. ``weights``: how names
    of its files in ``weights_dir`` begin. ``bound``: it is an ideal reference, whose bits no link chooses.

    The factory takes a :class:`semlink.signal.csi.QuantizerRequest` and returns a quantiser of exactly
    ``request.bits`` bits, or of its own number: other links are then refused. It may be named ("module:function"), so
    that its module is imported when it is needed. Raises InvalidField for a name that is taken or not allowed.
    """
    if not NAME.fullmatch(name):
        raise InvalidField(
            f"name of a quantizer is {name!r}, allowed: a-z, 0-9 and single hyphens between them",
            field="name",
        )

    def register(factory: F) -> F:
        taken = _specs.get(name)
        if taken is not None and _place(taken.factory) != _place(factory):
            raise InvalidField(
                f"quantizer {name!r} is registered already: {_place(taken.factory)}", field="name"
            )
        _specs[name] = QuantizerSpec(
            name=name,
            title=title,
            factory=factory,
            memories=memories,
            contents=contents,
            num_tx_ant=num_tx_ant,
            typical_bits=typical_bits,
            weights=weights,
            bound=bound,
        )
        return factory

    return register


def _place(factory: Factory | str) -> str:
    if isinstance(factory, str):
        return factory
    return f"{factory.__module__}:{factory.__qualname__}"


@lru_cache(maxsize=1)
def load_plugins() -> None:
    """Import the modules of ``SEMLINK_PLUGINS``, once. Raises InvalidField naming one that cannot be imported."""
    for module in Settings().plugin_modules:
        try:
            import_module(module)
        except ImportError as error:
            raise InvalidField(
                f"SEMLINK_PLUGINS names {module!r}, which cannot be imported: {error}",
                field="SEMLINK_PLUGINS",
            ) from error


def quantizer_names() -> tuple[str, ...]:
    """Names of all quantisers, those of plug-ins last."""
    load_plugins()
    return tuple(_specs)


def quantizer_specs() -> tuple[QuantizerSpec, ...]:
    """All quantisers, in the order of :func:`quantizer_names`."""
    return tuple(_specs[name] for name in quantizer_names())


def quantizer_spec(name: str, *, field: str = "link.feedback.quantizer") -> QuantizerSpec:
    """What one quantiser offers. Raises InvalidField naming ``field`` for one that there is not."""
    if name not in _specs and name not in quantizer_names():
        raise InvalidField(
            f"{field} is {name!r}, allowed: {', '.join(quantizer_names())}", field=field
        )
    return _specs[name]


register_quantizer("none", title="no feedback", bound=True)("semlink.signal.csi.bounds:no_feedback")
register_quantizer("perfect", title="perfect CSI", bound=True)(
    "semlink.signal.csi.bounds:perfect_feedback"
)
register_quantizer("scalar", title="scalar", memories=("none", "fused"))(
    "semlink.signal.csi.scalar:scalar"
)
register_quantizer(
    "type1",
    title="Type I",
    contents=("layers",),
    num_tx_ant=(2, 4, 8, 16, 32),
    typical_bits=(13, 27, 57),
)("semlink.signal.csi.type1:type1")
register_quantizer(
    "etype2",
    title="eType II",
    contents=("layers",),
    num_tx_ant=(4, 8, 16, 32),
    typical_bits=(37, 63, 123, 170),
)("semlink.signal.csi.etype2:etype2")
register_quantizer(
    "rvq", title="RVQ", memories=MEMORIES, num_tx_ant=(8, 16, 32), weights=("rvq-",)
)("semlink.signal.csi.predictive:rvq")
register_quantizer(
    "learned", title="learned", memories=("none", "fused"), weights=("learned-", "rvq-")
)("semlink.signal.csi.learned:learned")

BUILT_IN: Final = tuple(_specs)
"""Names of the quantisers that come with the system."""


def weight_prefixes() -> tuple[str, ...]:
    """How the names of all quantisers' files in ``weights_dir`` begin."""
    return tuple(prefix for spec in quantizer_specs() for prefix in spec.weights)
