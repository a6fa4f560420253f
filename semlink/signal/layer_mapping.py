"""Which symbol of a message lies on which layer, resource element and subband, and back.

Symbol ``j`` goes to layer ``j mod L`` of resource element ``j // L``: TS 38.211 clause 7.3.1.3, as
:class:`sionna.phy.nr.LayerMapper` does for one codeword. Resource element ``i`` lies in subband ``i mod num_subbands``
(our definition: a short message meets every subband). The last element is filled up with ones.

Examples
--------
>>> symbols = torch.tensor([[1, 2, 3, 4, 5]])
>>> map_layers(symbols, num_layers=2).tolist()
[[[1, 3, 5], [2, 4, 1]]]
>>> demap_layers(map_layers(symbols, 2), num_symbols=5).tolist()
[[1, 2, 3, 4, 5]]
"""

from __future__ import annotations

import torch

from semlink.grid import NUM_SUBBANDS


def map_layers(symbols: torch.Tensor, num_layers: int) -> torch.Tensor:
    """Symbols to layers.

    :param symbols: ``[batch, num_symbols]``, any dtype.
    :returns: ``[batch, num_layers, ceil(num_symbols / num_layers)]``, ones where there is no symbol.
    """
    padded = torch.nn.functional.pad(symbols, (0, -symbols.shape[1] % num_layers), value=1)
    return padded.view(len(symbols), -1, num_layers).transpose(1, 2)


def demap_layers(elements: torch.Tensor, num_symbols: int) -> torch.Tensor:
    """Layers to symbols, the inverse of :func:`map_layers`.

    :param elements: ``[batch, num_layers, num_resource_elements]``, any dtype.
    :returns: ``[batch, num_symbols]``.
    """
    return elements.transpose(1, 2).flatten(1)[:, :num_symbols]


def per_symbol(per_subband: torch.Tensor, num_symbols: int) -> torch.Tensor:
    """What holds for each symbol, from what holds for each layer of each subband.

    :param per_subband: ``[batch, num_subbands, num_layers]``, such as a SINR.
    :returns: ``[batch, num_symbols]``.
    """
    num_elements = -(-num_symbols // per_subband.shape[2])
    subband = torch.arange(num_elements, device=per_subband.device) % NUM_SUBBANDS
    return per_subband[:, subband].flatten(1)[:, :num_symbols]
