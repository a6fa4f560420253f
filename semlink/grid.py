"""The grid of time and frequency on which every link lies, and how large its reports may be."""

from __future__ import annotations

from typing import Final

SLOT_SECONDS: Final = 1e-3
NUM_SUBBANDS: Final = 8
SUBCARRIERS_PER_SUBBAND: Final = 72
"""6 physical resource blocks of 12 subcarriers."""
SUBCARRIER_SPACING_HZ: Final = 15e3
OFDM_SYMBOLS_PER_SLOT: Final = 14
BLOCK_SLOTS: Final = 1024
HISTORY_SLOTS: Final = 128
"""Slots of a block that are past before a query may use it, so that no query meets a cold link."""
MAX_LAYERS: Final = 4
MAX_BITS: Final = 1024
"""Of one CSI report."""
