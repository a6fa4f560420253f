"""CSI quantisers by name: what each offers, and where it is made. No torch is imported until one is made.

A scheme is registered once, below or in a module of one's own, and everybody reads its row: REST, the command line,
checks of links, experiments and benchmarks. ::

    @register_quantizer("sign", title="signs", typical_bits=(256,))
    def sign(request: QuantizerRequest) -> CsiQuantizer:
        return request.over_rows(SignQuantizer(request.content.num_rows, request.num_tx_ant))

See :mod:`semlink.registry` for plug-ins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, get_args

from semlink.registry import Entry, Registry, Target

Memory = Literal["none", "fused", "predictive"]
MEMORIES: Final[tuple[Memory, ...]] = get_args(Memory)
Content = Literal["layers", "channel"]
CONTENTS: Final[tuple[Content, ...]] = get_args(Content)
T = TypeVar("T", bound=Target)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizerSpec(Entry):
    """What a scheme offers; see :func:`register_quantizer`."""

    title: str
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


QUANTIZERS: Final[Registry[QuantizerSpec]] = Registry("quantizer")


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
) -> Callable[[T], T]:
    """Register what is decorated as the factory of the quantiser ``name``.

    ``name``: as links name it, lower case letters, digits and ``-``; ``title``: in plots. ``memories``, ``contents``:
    what a report may rest on and describe. ``num_tx_ant``: ports that it has codebooks for (none: every number).
    ``typical_bits``: some of its sizes on the default link, if it makes no others than its own. ``weights``: how names
    of its files in ``weights_dir`` begin. ``bound``: it is an ideal reference, whose bits no link chooses.

    The factory takes a :class:`semlink.signal.csi.QuantizerRequest` and returns a quantiser of exactly
    ``request.bits`` bits, or of its own number: other links are then refused. It may be named ("module:function"), so
    that its module is imported when it is needed. Raises InvalidField for a name that is taken or not allowed.
    """

    def register(target: T) -> T:
        QUANTIZERS.add(
            QuantizerSpec(
                name=name,
                target=target,
                title=title,
                memories=memories,
                contents=contents,
                num_tx_ant=num_tx_ant,
                typical_bits=typical_bits,
                weights=weights,
                bound=bound,
            )
        )
        return target

    return register


def quantizer_names() -> tuple[str, ...]:
    """Names of all quantisers, those of plug-ins last."""
    return QUANTIZERS.names


def quantizer_specs() -> tuple[QuantizerSpec, ...]:
    """All quantisers, in the order of :func:`quantizer_names`."""
    return QUANTIZERS.entries


def quantizer_spec(name: str, *, field: str = "link.feedback.quantizer") -> QuantizerSpec:
    """What one quantiser offers. Raises InvalidField naming ``field`` for one that there is not."""
    return QUANTIZERS.get(name, field=field)


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

BUILT_IN: Final = QUANTIZERS.registered
"""Names of the quantisers that come with the system."""


def weight_prefixes() -> tuple[str, ...]:
    """How the names of all quantisers' files in ``weights_dir`` begin."""
    return tuple(prefix for spec in quantizer_specs() for prefix in spec.weights)
