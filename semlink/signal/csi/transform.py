"""Between antennas and subbands and the angular-delay domain.

Examples
--------
>>> h = torch.randn(2, NUM_SUBBANDS, 2, 16, dtype=torch.complex64)
>>> x = to_angular_delay(h)
>>> x.shape, bool(torch.allclose(from_angular_delay(x, 2, 16), h, atol=1e-5))
(torch.Size([2, 256]), True)
"""

from __future__ import annotations

from typing import Final

import torch

from semlink.grid import NUM_SUBBANDS

PANELS: Final[dict[int, tuple[int, int, int]]] = {
    1: (1, 1, 1),
    2: (2, 1, 1),
    4: (2, 2, 1),
    8: (2, 2, 2),
    16: (2, 4, 2),
    32: (2, 4, 4),
}
"""``(polarisations, columns, rows)`` of the panel of so many ports, in port order (the row runs fastest)."""


def _grid(num_rx_ant: int, num_tx_ant: int) -> tuple[int, ...]:
    return (NUM_SUBBANDS, *PANELS[num_rx_ant], *PANELS[num_tx_ant])


def to_angular_delay(h: torch.Tensor) -> torch.Tensor:
    """Unitary DFT over subbands (to delays), columns and rows of both panels (to angles); polarisations stay.

    :param h: complex64 ``[batch, num_subbands, num_rx_ant, num_tx_ant]``.
    :returns: complex64 ``[batch, num_subbands·num_rx_ant·num_tx_ant]``.
    """
    grid = h.reshape(-1, *_grid(*h.shape[-2:]))
    x: torch.Tensor = torch.fft.fftn(grid, dim=(1, 3, 4, 6, 7), norm="ortho")
    return x.flatten(1)


def from_angular_delay(x: torch.Tensor, num_rx_ant: int, num_tx_ant: int) -> torch.Tensor:
    """Inverse of :func:`to_angular_delay`."""
    grid = x.reshape(-1, *_grid(num_rx_ant, num_tx_ant))
    h: torch.Tensor = torch.fft.ifftn(grid, dim=(1, 3, 4, 6, 7), norm="ortho")
    return h.reshape(-1, NUM_SUBBANDS, num_rx_ant, num_tx_ant)
