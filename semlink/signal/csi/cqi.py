"""The part of a codebook report that says how strong the channel is: 4 bits, and 2 more for each subband.

Widths and the differential code are those of the CQI: 4 bits wideband (TS 38.212 Table 6.3.1.1.2-3), 2 bits a subband
with the offsets of TS 38.214 Table 5.2.2.1-1. What a value means is our definition: the standard's CQI is the spectral
efficiency that a UE can bear at its own SNR; our reports know no SNR, so the value is the precoded channel's gain
``Σ_l ‖H·w_l‖²/num_layers``, uniform in dB.

Examples
--------
>>> gain = torch.full((1, NUM_SUBBANDS), 8.0)
>>> fields = encode_cqi(gain, full_scale=32.0, subband=True)
>>> fields.shape, decode_cqi(fields, 32.0, num_layers=2).shape
(torch.Size([1, 9]), torch.Size([1, 8, 2]))
"""

from __future__ import annotations

from typing import Final

import torch

from semlink.decibels import db_to_amplitude, db_to_lin, lin_to_db
from semlink.grid import NUM_SUBBANDS

WIDEBAND_BITS: Final = 4
SUBBAND_BITS: Final = 2
STEP_DB: Final = 1.5
LOWEST_DB: Final = -21.0
"""Lower edge of value 0, relative to ``num_rx_ant·num_tx_ant``: all antennas in phase at unit mean power."""
LAYER_STEP_DB: Final = 0.25
"""A layer is taken to be this much weaker than the one before it. One CQI speaks for all layers; without a step
their singular values would be equal and their order lost. Our definition."""


def cqi_widths(subband: bool) -> tuple[int, ...]:
    """Widths of the fields: wideband, then a differential value for each subband if ``subband``."""
    return (WIDEBAND_BITS, *((SUBBAND_BITS,) * NUM_SUBBANDS if subband else ()))


def _value(gain: torch.Tensor, full_scale: float) -> torch.Tensor:
    level_db = lin_to_db(gain.clamp_min(1e-12) / full_scale) - LOWEST_DB
    return (level_db / STEP_DB).floor().clamp(0, 2**WIDEBAND_BITS - 1).to(torch.int64)


def encode_cqi(gain: torch.Tensor, full_scale: float, subband: bool) -> torch.Tensor:
    """Fields of the precoded gain ``[batch, num_subbands]``: int64 ``[batch, len(cqi_widths(subband))]``."""
    wideband = _value(gain.mean(1, keepdim=True), full_scale)
    if not subband:
        return wideband
    # Table 5.2.2.1-1: 0, 1, 2 are offsets of 0, 1, at least 2; 3 is an offset of at most −1.
    offset = (_value(gain, full_scale) - wideband).clamp(-1, 2)
    return torch.cat([wideband, offset % 4], dim=1)


def decode_cqi(fields: torch.Tensor, full_scale: float, num_layers: int) -> torch.Tensor:
    """Amplitude of each layer, float32 ``[batch, num_subbands, num_layers]``, falling by ``LAYER_STEP_DB``.

    The layers' mean power is the gain that was reported.
    """
    value = fields[:, :1].expand(-1, NUM_SUBBANDS)
    if fields.shape[1] > 1:
        value = value + (fields[:, 1:] + 1) % 4 - 1
    gain_db = LOWEST_DB + STEP_DB * (value.double() + 0.5) + lin_to_db(full_scale)
    fall_db = -LAYER_STEP_DB * torch.arange(num_layers, device=fields.device).double()
    fall_db = fall_db - lin_to_db(db_to_lin(fall_db).mean())
    return db_to_amplitude(gain_db.unsqueeze(-1) + fall_db).float()
