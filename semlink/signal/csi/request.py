"""What a link wants of a CSI quantiser: what every registered factory is given.

Examples
--------
>>> request = QuantizerRequest("scalar", LayerRows(1, 2), num_rx_ant=2, num_tx_ant=16, bits=64, memory="fused")
>>> request.content.num_rows, request.content.name
(1, 'layers')
"""

from __future__ import annotations

from dataclasses import dataclass

from semlink.quantizers import Memory
from semlink.signal.csi.interface import CsiQuantizer
from semlink.signal.csi.layers import LayerRows, WholeChannel
from semlink.signal.csi.rotation import Rotated
from semlink.weight_files import SHIPPED, Weights


@dataclass(frozen=True, slots=True)
class QuantizerRequest:
    """What a link wants of a quantiser; links of equal requests share one.

    ``bits``: of one report, 0 for a bound. ``max_doppler_hz``, ``period_slots`` (from report to report): with
    predictive memory, else 0. ``weights``: where trained schemes find theirs.
    """

    name: str
    content: WholeChannel | LayerRows
    num_rx_ant: int
    num_tx_ant: int
    bits: int
    memory: Memory = "none"
    max_doppler_hz: float = 0.0
    period_slots: int = 0
    weights: Weights = SHIPPED

    def over_rows(self, inner: CsiQuantizer) -> CsiQuantizer:
        """A quantiser of the link's channels from ``inner``, a scheme for ``content.num_rows`` receive antennas.

        It codes the content's rows; with fused memory its codebook is turned by the report's index.
        """
        return self.content.quantizer(Rotated(inner) if self.memory == "fused" else inner)
