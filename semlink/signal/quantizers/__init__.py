"""CSI feedback quantisers behind one interface; each scheme is a module.

``none`` and ``perfect`` are bounds, ``type1`` and ``etype2`` the codebooks of TS 38.214; the other schemes are our
definition, methods named in their modules. ``quantizer_for(config).encode(h, report_index)`` makes exactly
``config.feedback.bits`` bits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from semlink.errors import InvalidField
from semlink.links import QUANTIZERS
from semlink.signal.quantizers.bounds import NoFeedback, PerfectFeedback
from semlink.signal.quantizers.etype2 import ETypeIIQuantizer
from semlink.signal.quantizers.interface import CsiQuantizer
from semlink.signal.quantizers.rvq import RvqQuantizer
from semlink.signal.quantizers.scalar import ScalarQuantizer
from semlink.signal.quantizers.type1 import TypeIQuantizer
from semlink.v1 import common_pb2 as pb

__all__ = ["CsiQuantizer", "quantizer_for"]

RANKED: Final = ("type1", "etype2")
"""Schemes of TS 38.214: their reports are made for a rank, the link's number of layers."""


def quantizer_for(config: pb.LinkConfig) -> CsiQuantizer:
    """The quantiser of a (validated) link, cached.

    Raises InvalidField naming ``link.feedback.quantizer``, ``link.feedback.bits`` or ``link.feedback.memory`` for
    what is not offered.
    """
    feedback = config.feedback
    if feedback.memory not in ("", "none"):
        raise InvalidField(
            f"link.feedback.memory is {feedback.memory!r}, allowed: none",
            field="link.feedback.memory",
        )
    num_layers = config.num_layers if feedback.quantizer in RANKED else 1
    return _memoryless(
        feedback.quantizer, feedback.bits, config.num_rx_ant, config.num_tx_ant, num_layers
    )


@lru_cache(maxsize=64)
def _memoryless(
    name: str,
    bits: int,
    num_rx_ant: int,
    num_tx_ant: int,
    num_layers: int,
) -> CsiQuantizer:
    """The scheme whose every report stands for itself; ``num_layers`` is 1 but for ``RANKED``."""
    match name:
        case "none":
            return NoFeedback(num_rx_ant, num_tx_ant)
        case "perfect":
            return PerfectFeedback(num_rx_ant, num_tx_ant)
        case "scalar":
            return ScalarQuantizer(num_rx_ant, num_tx_ant, bits)
        case "rvq":
            return RvqQuantizer(num_rx_ant, num_tx_ant, bits)
        case "type1":
            return TypeIQuantizer(num_rx_ant, num_tx_ant, bits, num_layers)
        case "etype2":
            return ETypeIIQuantizer(num_rx_ant, num_tx_ant, bits, num_layers)
    raise InvalidField(
        f"link.feedback.quantizer is {name!r}, allowed: {', '.join(QUANTIZERS)}",
        field="link.feedback.quantizer",
    )
