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
from semlink.signal.quantizers.predictive import PredictiveQuantizer
from semlink.signal.quantizers.rotation import Rotated
from semlink.signal.quantizers.rvq import RvqQuantizer
from semlink.signal.quantizers.scalar import ScalarQuantizer
from semlink.signal.quantizers.type1 import TypeIQuantizer
from semlink.v1 import common_pb2 as pb

__all__ = ["CsiQuantizer", "PredictiveQuantizer", "doppler_hz", "quantizer_for"]

RANKED: Final = ("type1", "etype2")
"""Schemes of TS 38.214: their reports are made for a rank, the link's number of layers."""
MEMORY_OF: Final = {
    "scalar": ("none", "fused"),
    "rvq": ("none", "fused", "predictive"),
    "learned": ("none", "fused"),
}
"""What each scheme can remember from report to report; the others nothing."""
SPEED_OF_LIGHT: Final = 299_792_458.0


def doppler_hz(config: pb.LinkConfig) -> float:
    """Largest Doppler shift of a link [Hz], known to both ends from speed and carrier."""
    return config.speed_mps * config.carrier_frequency_hz / SPEED_OF_LIGHT


def quantizer_for(config: pb.LinkConfig) -> CsiQuantizer:
    """The quantiser of a (validated) link, cached.

    Raises InvalidField naming ``link.feedback.quantizer``, ``link.feedback.bits`` or ``link.feedback.memory`` for
    what is not offered.
    """
    feedback = config.feedback
    memory = feedback.memory or "none"
    offered = MEMORY_OF.get(feedback.quantizer, ("none",))
    if memory not in offered:
        raise InvalidField(
            f"link.feedback.memory is {memory!r}, quantizer {feedback.quantizer} allows: "
            f"{', '.join(offered)} (fused goes with scalar, rvq and learned, predictive with rvq)",
            field="link.feedback.memory",
        )
    antennas = (config.num_rx_ant, config.num_tx_ant)
    num_layers = config.num_layers if feedback.quantizer in RANKED else 1
    match memory:
        case "fused":
            return _rotated(feedback.quantizer, feedback.bits, *antennas)
        case "predictive":
            period = feedback.report_period_slots
            return _predictive(feedback.bits, *antennas, doppler_hz(config), period)
    return _memoryless(feedback.quantizer, feedback.bits, *antennas, num_layers)


@lru_cache(maxsize=64)
def _rotated(name: str, bits: int, num_rx_ant: int, num_tx_ant: int) -> CsiQuantizer:
    return Rotated(_memoryless(name, bits, num_rx_ant, num_tx_ant, 1))


@lru_cache(maxsize=64)
def _predictive(
    bits: int, num_rx_ant: int, num_tx_ant: int, max_doppler_hz: float, period_slots: int
) -> CsiQuantizer:
    return PredictiveQuantizer(num_rx_ant, num_tx_ant, bits, max_doppler_hz, period_slots)


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
