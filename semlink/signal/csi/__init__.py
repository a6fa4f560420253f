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
from semlink.signal.csi.bounds import NoFeedback, PerfectFeedback
from semlink.signal.csi.etype2 import ETypeIIQuantizer
from semlink.signal.csi.interface import CsiQuantizer
from semlink.signal.csi.layers import LayerQuantizer, LayerRows, WholeChannel, content_of
from semlink.signal.csi.learned import LearnedQuantizer
from semlink.signal.csi.predictive import PredictiveQuantizer
from semlink.signal.csi.rotation import Rotated
from semlink.signal.csi.rvq import RvqQuantizer
from semlink.signal.csi.scalar import ScalarQuantizer
from semlink.signal.csi.type1 import TypeIQuantizer
from semlink.v1 import common_pb2 as pb

__all__ = ["CsiQuantizer", "PredictiveQuantizer", "content_of", "doppler_hz", "quantizer_for"]

RANKED: Final = ("type1", "etype2")
"""Schemes of TS 38.214: their reports are made for a rank, the link's number of layers."""
BOUNDS: Final = ("none", "perfect")
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
    if feedback.quantizer in (*BOUNDS, *RANKED):
        if feedback.content == "channel" and feedback.quantizer in RANKED:
            raise InvalidField(
                f"link.feedback.content is 'channel', {feedback.quantizer} describes layers",
                field="link.feedback.content",
            )
        return _ready_made(feedback.quantizer, feedback.bits, *antennas, config.num_layers)
    num_layers = 0 if feedback.content == "channel" else config.num_layers
    match memory:
        case "fused":
            return _rotated(feedback.quantizer, feedback.bits, *antennas, num_layers)
        case "predictive":
            period = feedback.report_period_slots
            return _predictive(feedback.bits, *antennas, num_layers, doppler_hz(config), period)
    return _memoryless(feedback.quantizer, feedback.bits, *antennas, num_layers)


# Everywhere below, num_layers = 0 stands for the channel itself.


def _described(inner: CsiQuantizer, num_rx_ant: int, num_layers: int) -> CsiQuantizer:
    return LayerQuantizer(inner, num_rx_ant) if num_layers else inner


@lru_cache(maxsize=64)
def _rotated(
    name: str, bits: int, num_rx_ant: int, num_tx_ant: int, num_layers: int
) -> CsiQuantizer:
    inner = Rotated(_scheme(name, bits, num_rx_ant, num_tx_ant, num_layers))
    return _described(inner, num_rx_ant, num_layers)


@lru_cache(maxsize=64)
def _predictive(
    bits: int,
    num_rx_ant: int,
    num_tx_ant: int,
    num_layers: int,
    max_doppler_hz: float,
    period_slots: int,
) -> CsiQuantizer:
    content = LayerRows(num_layers, num_rx_ant) if num_layers else WholeChannel(num_rx_ant)
    return PredictiveQuantizer(num_rx_ant, num_tx_ant, bits, max_doppler_hz, period_slots, content)


@lru_cache(maxsize=64)
def _memoryless(
    name: str, bits: int, num_rx_ant: int, num_tx_ant: int, num_layers: int
) -> CsiQuantizer:
    """The scheme whose every report stands for itself."""
    inner = _scheme(name, bits, num_rx_ant, num_tx_ant, num_layers)
    return _described(inner, num_rx_ant, num_layers)


def _scheme(
    name: str, bits: int, num_rx_ant: int, num_tx_ant: int, num_layers: int
) -> CsiQuantizer:
    """The scheme that codes the rows of layers, or the channel."""
    num_rows = num_layers or num_rx_ant
    match name:
        case "scalar":
            return ScalarQuantizer(num_rows, num_tx_ant, bits)
        case "rvq":
            weights = "rvq-rows" if num_layers else "rvq"
            return RvqQuantizer(num_rows, num_tx_ant, bits, weights=weights)
        case "learned":
            codebooks = "rvq-rows" if num_layers else "rvq"
            return LearnedQuantizer(num_rows, num_tx_ant, bits, codebooks=codebooks)
    raise _unknown(name)


@lru_cache(maxsize=64)
def _ready_made(
    name: str, bits: int, num_rx_ant: int, num_tx_ant: int, num_layers: int
) -> CsiQuantizer:
    """The bounds, and the codebooks of the standard."""
    match name:
        case "none":
            return NoFeedback(num_rx_ant, num_tx_ant)
        case "perfect":
            return PerfectFeedback(num_rx_ant, num_tx_ant)
        case "type1":
            return TypeIQuantizer(num_rx_ant, num_tx_ant, bits, num_layers)
        case "etype2":
            return ETypeIIQuantizer(num_rx_ant, num_tx_ant, bits, num_layers)
    raise _unknown(name)


def _unknown(name: str) -> InvalidField:
    return InvalidField(
        f"link.feedback.quantizer is {name!r}, allowed: {', '.join(QUANTIZERS)}",
        field="link.feedback.quantizer",
    )
