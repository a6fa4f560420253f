"""CSI feedback quantisers behind one interface; each scheme is a module, registered in :mod:`semlink.quantizers`.

``none`` and ``perfect`` are bounds, ``type1`` and ``etype2`` the codebooks of TS 38.214; the other schemes are our
definition, methods named in their modules. ``quantizer_for(config).encode(h, report_index)`` makes exactly
``config.feedback.bits`` bits.

Examples
--------
>>> import torch
>>> request = QuantizerRequest("rvq", WholeChannel(2), num_rx_ant=2, num_tx_ant=16, bits=64)
>>> quantizer = make_quantizer(request)
>>> h, index = torch.randn(3, 8, 2, 16, dtype=torch.complex64), torch.arange(3)
>>> payload = quantizer.encode(h, index)
>>> payload.shape, quantizer.decode(payload, index).shape
(torch.Size([3, 8]), torch.Size([3, 8, 2, 16]))
"""

from __future__ import annotations

from functools import lru_cache

from semlink.errors import InvalidField
from semlink.quantizers import Memory, quantizer_spec, quantizer_specs
from semlink.signal.csi.interface import ChainedQuantizer, CsiQuantizer, State
from semlink.signal.csi.layers import LayerRows, WholeChannel, content_of
from semlink.signal.csi.request import QuantizerRequest
from semlink.signal.link import LinkLike, doppler_hz
from semlink.weight_files import SHIPPED, Weights

__all__ = [
    "ChainedQuantizer",
    "CsiQuantizer",
    "QuantizerRequest",
    "State",
    "content_of",
    "doppler_hz",
    "make_quantizer",
    "quantizer_for",
]


def quantizer_for(config: LinkLike, weights: Weights = SHIPPED) -> CsiQuantizer:
    """The quantiser of a (validated) link, cached.

    :raises InvalidField: naming ``link.feedback.quantizer``, ``.bits``, ``.memory``, ``.content``, or antennas or
        layers, for what is not offered.
    """
    feedback = config.feedback
    predictive = feedback.memory == "predictive"
    return _offered(
        feedback.quantizer,
        feedback.bits,
        feedback.memory,
        feedback.content,
        config.num_rx_ant,
        config.num_tx_ant,
        config.num_layers,
        doppler_hz(config) if predictive else 0.0,
        feedback.report_period_slots if predictive else 0,
        weights,
    )


@lru_cache(maxsize=256)
def _offered(
    name: str,
    bits: int,
    memory: Memory,
    content: str,
    num_rx_ant: int,
    num_tx_ant: int,
    num_layers: int,
    max_doppler_hz: float,
    period_slots: int,
    weights: Weights,
) -> CsiQuantizer:
    rows = WholeChannel(num_rx_ant) if content == "channel" else LayerRows(num_layers, num_rx_ant)
    return make_quantizer(
        QuantizerRequest(
            name=name,
            content=rows,
            num_rx_ant=num_rx_ant,
            num_tx_ant=num_tx_ant,
            bits=0 if quantizer_spec(name).bound else bits,
            memory=memory,
            max_doppler_hz=max_doppler_hz,
            period_slots=period_slots,
            weights=weights,
        )
    )


@lru_cache(maxsize=256)
def make_quantizer(request: QuantizerRequest) -> CsiQuantizer:
    """Return the quantiser of a request, cached.

    :raises InvalidField: as :func:`quantizer_for`, for what the scheme does not offer.
    """
    name, memory, content = request.name, request.memory, request.content
    spec = quantizer_spec(name)
    if memory not in spec.memories:
        raise InvalidField(
            f"link.feedback.memory is {memory!r}, quantizer {name} allows: {', '.join(spec.memories)} "
            f"(fused goes with {_with_memory('fused')}, predictive with {_with_memory('predictive')})",
            field="link.feedback.memory",
        )
    if content.name not in spec.contents:
        raise InvalidField(
            f"link.feedback.content is {content.name!r}, {name} describes {' or '.join(spec.contents)}",
            field="link.feedback.content",
        )
    if spec.num_tx_ant and request.num_tx_ant not in spec.num_tx_ant:
        raise InvalidField(
            f"link.num_tx_ant is {request.num_tx_ant}, quantizer {name} has codebooks for "
            f"{', '.join(map(str, spec.num_tx_ant))}; scalar works with every number",
            field="link.num_tx_ant",
        )
    quantizer: CsiQuantizer = spec.load()(request)
    if not spec.bound and quantizer.bits != request.bits:
        raise InvalidField(
            f"link.feedback.bits is {request.bits}, {name} with {request.num_tx_ant} ports and "
            f"{content.num_rows} rows has reports of {quantizer.bits} bits",
            field="link.feedback.bits",
        )
    quantizer.identity = request
    return quantizer


def _with_memory(memory: Memory) -> str:
    names = [spec.name for spec in quantizer_specs() if memory in spec.memories]
    return " and ".join(", ".join(names).rsplit(", ", 1))
