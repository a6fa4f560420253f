"""CSI feedback quantisers behind one interface; each scheme is a module.

``none`` and ``perfect`` are bounds, ``scalar`` and ``rvq`` are schemes (all our definition, methods named in their
modules). ``quantizer_for(config).encode(h, report_index)`` makes exactly ``config.feedback.bits`` bits.
"""

from __future__ import annotations

from functools import lru_cache

from semlink.errors import InvalidField
from semlink.links import QUANTIZERS
from semlink.signal.quantizers.bounds import NoFeedback, PerfectFeedback
from semlink.signal.quantizers.interface import CsiQuantizer
from semlink.signal.quantizers.rvq import RvqQuantizer
from semlink.signal.quantizers.scalar import ScalarQuantizer
from semlink.v1 import common_pb2 as pb

__all__ = ["CsiQuantizer", "quantizer_for"]


def quantizer_for(config: pb.LinkConfig) -> CsiQuantizer:
    """The quantiser of a (validated) link, cached.

    Raises InvalidField naming ``link.feedback.quantizer`` or ``link.feedback.bits`` for what is not offered.
    """
    feedback = config.feedback
    return _quantizer(feedback.quantizer, feedback.bits, config.num_rx_ant, config.num_tx_ant)


@lru_cache(maxsize=64)
def _quantizer(name: str, bits: int, num_rx_ant: int, num_tx_ant: int) -> CsiQuantizer:
    match name:
        case "none":
            return NoFeedback(num_rx_ant, num_tx_ant)
        case "perfect":
            return PerfectFeedback(num_rx_ant, num_tx_ant)
        case "scalar":
            return ScalarQuantizer(num_rx_ant, num_tx_ant, bits)
        case "rvq":
            return RvqQuantizer(num_rx_ant, num_tx_ant, bits)
    raise InvalidField(
        f"link.feedback.quantizer is {name!r}, allowed: {', '.join(QUANTIZERS)}",
        field="link.feedback.quantizer",
    )
