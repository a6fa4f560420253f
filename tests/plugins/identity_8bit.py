"""A user's own quantiser, outside the packages: every coefficient as it is, 8 bits each, 4 for either part.

``SEMLINK_PLUGINS=identity_8bit`` and this folder on the path are all that a system needs to offer it.
"""

from __future__ import annotations

import math

import torch

from semlink.quantizers import register_quantizer
from semlink.signal.csi import CsiQuantizer, QuantizerRequest
from semlink.signal.csi.packing import pack, unpack

LEVELS = 16
FULL_SCALE = 2.5


class Identity8Bit(CsiQuantizer):
    """Uniform cells between ± ``FULL_SCALE``."""

    name = "identity-8bit"

    def __init__(self, num_rx_ant: int, num_tx_ant: int) -> None:
        super().__init__(num_rx_ant, num_tx_ant)
        self.widths = [4] * (2 * math.prod(self.shape))
        self.bits = sum(self.widths)

    def _encode(self, h: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        parts = torch.view_as_real(h).flatten(1) / FULL_SCALE
        cells = ((parts + 1) / 2 * LEVELS).floor().clamp(0, LEVELS - 1).to(torch.int64)
        return pack(cells, self.widths, self.bits)

    def _decode(self, payload: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        parts = (unpack(payload, self.widths) + 0.5) / LEVELS * 2 - 1
        return torch.view_as_complex((FULL_SCALE * parts.float()).view(-1, *self.shape, 2))


@register_quantizer(
    "identity-8bit",
    title="8 bits a coefficient",
    memories=("none", "fused"),
    typical_bits=(1024,),
)
def identity_8bit(request: QuantizerRequest) -> CsiQuantizer:
    """As a link asks for it."""
    return request.over_rows(Identity8Bit(request.content.num_rows, request.num_tx_ant))
