"""What the 3GPP codebooks share: the panel's oversampled DFT beams, combinatorial indices, directions of a channel.

TS 38.214 clause 5.2.2.2. Its ports run over polarisation, then ``N1``, then ``N2`` (fastest), which is our port order
polarisation, column, row: ``N1`` is the number of columns, ``N2`` that of rows.

Examples
--------
>>> panel = Panel.from_num_ports(16)
>>> beams = steering(panel, torch.arange(4), torch.zeros(4, dtype=torch.int64), panel.n1)
>>> beams.shape, bool(torch.allclose(beams.norm(dim=1), torch.ones(4)))
(torch.Size([4, 8]), True)
>>> chosen = combinations_by_index(4, 2)
>>> bool((index_of_combination(chosen, 4) == torch.arange(6)).all())
True
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch

from semlink.errors import InvalidField
from semlink.grid import MAX_LAYERS
from semlink.signal.csi.transform import PANELS


@dataclass(frozen=True, slots=True)
class Panel:
    """``(N1, N2)`` and ``(O1, O2)`` of a dual-polarised panel of ``2·N1·N2`` ports (Table 5.2.2.2.1-2)."""

    n1: int
    n2: int
    o1: int
    o2: int

    @classmethod
    def from_num_ports(cls, num_tx_ant: int) -> Panel:
        """The panel of so many ports. Two ports have one beam, so that Table 5.2.2.2.1-1 needs no special case."""
        _, columns, rows = PANELS[num_tx_ant]
        return cls(columns, rows, 4 if columns > 1 else 1, 4 if rows > 1 else 1)

    @property
    def size(self) -> int:
        """Ports of one polarisation, ``N1·N2``."""
        return self.n1 * self.n2


def steering(panel: Panel, l: torch.Tensor, m: torch.Tensor, columns: int) -> torch.Tensor:  # noqa: E741
    """Beams ``v_{l,m}`` over the first ``columns`` columns of the panel, unit norm.

    Element ``N2·n1 + n2`` is ``exp(j2π(l·n1/(O1·columns) + m·n2/(O2·N2)))/√(columns·N2)``: clause 5.2.2.2.1, where
    ``columns = N1`` gives ``v`` and ``columns = N1/2`` gives ``ṽ``. ``l``, ``m``: int64 of one shape ``[...]``.
    Returns complex64 ``[..., columns·N2]``; angles in double precision, whole turns taken out in integers.
    """
    n1, n2 = torch.meshgrid(torch.arange(columns), torch.arange(panel.n2), indexing="ij")
    span1, span2 = panel.o1 * columns, panel.o2 * panel.n2
    turns = (l[..., None] * n1.flatten() % span1).double() / span1
    turns = turns + (m[..., None] * n2.flatten() % span2).double() / span2
    amplitude = torch.full_like(turns, (columns * panel.n2) ** -0.5)
    return torch.polar(amplitude, 2 * torch.pi * turns).to(torch.complex64)


@lru_cache(maxsize=32)
def combinations_by_index(n: int, k: int) -> torch.Tensor:
    """The ``k`` increasing numbers below ``n`` of each combinatorial index: int64 ``[C(n, k), k]``.

    Index of ``x_0 < … < x_{k−1}`` is ``Σ_i C(n − 1 − x_i, k − i)``, as in TS 38.214 clauses 5.2.2.2.3 (i1,2) and
    5.2.2.2.5 (i1,6): falling lexicographic order.
    """
    rows = list(itertools.combinations(range(n), k))[::-1]
    return torch.tensor(rows, dtype=torch.int64).view(len(rows), k)


@lru_cache(maxsize=32)
def _binomials(n: int) -> torch.Tensor:
    table = torch.zeros((n + 1, n + 1), dtype=torch.int64)
    table[:, 0] = 1
    for row in range(1, n + 1):
        table[row, 1:] = table[row - 1, 1:] + table[row - 1, :-1]
    return table


def index_of_combination(x: torch.Tensor, n: int) -> torch.Tensor:
    """Inverse of :func:`combinations_by_index`: int64 ``[..., k]``, increasing in ``0…n−1`` → int64 ``[...]``."""
    k = torch.arange(x.shape[-1], 0, -1, device=x.device)
    return _binomials(n).to(x.device)[n - 1 - x, k].sum(-1)


def squared(x: torch.Tensor) -> torch.Tensor:
    """``|x|²`` of complex ``x``, several times faster than by way of ``abs``."""
    return x.real.square() + x.imag.square()


def directions(h: torch.Tensor, num_layers: int) -> torch.Tensor:
    """The ``num_layers`` dominant right singular vectors in each subband.

    complex64 ``[batch, num_subbands, num_rx_ant, num_tx_ant]`` → complex64 ``[batch, num_subbands, num_layers,
    num_tx_ant]`` of unit norm; a zero channel gives zeros. From the eigenvectors of ``H·Hᴴ``, which is smaller.
    """
    wide = h.to(torch.complex128)
    gram = (wide.unsqueeze(-2) * wide.conj().unsqueeze(-3)).sum(-1)
    left = torch.linalg.eigh(gram).eigenvectors.flip(-1)[..., :num_layers]
    rows = (left.conj().unsqueeze(-1) * wide.unsqueeze(-2)).sum(-3).conj()
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    unit: torch.Tensor = rows / norm.clamp_min(1e-30)
    return unit.to(torch.complex64)


def rows_of(columns: torch.Tensor, amplitude: torch.Tensor, num_rx_ant: int) -> torch.Tensor:
    """CSI whose dominant right singular vectors are the reported precoding vectors. Our definition.

    :param columns: complex ``[batch, num_subbands, num_layers, num_tx_ant]``, orthonormal vectors.
    :param amplitude: float ``[batch, num_subbands, num_layers]``.
    :returns: complex64 ``[batch, num_subbands, num_rx_ant, num_tx_ant]``: row ``l`` is ``amplitude_l·v_lᴴ``, rows
        past the layers are zero.
    """
    rows = (amplitude.unsqueeze(-1) * columns.conj()).to(torch.complex64)
    return torch.nn.functional.pad(rows, (0, 0, 0, num_rx_ant - rows.shape[-2]))


def layers_allowed(name: str, num_rx_ant: int, num_tx_ant: int, num_layers: int) -> None:
    """Raise InvalidField for a number of layers that the link's antennas cannot carry."""
    most = min(MAX_LAYERS, num_rx_ant, num_tx_ant)
    if not 1 <= num_layers <= most:
        raise InvalidField(
            f"link.num_layers is {num_layers}, {name} with {num_rx_ant}×{num_tx_ant} antennas has 1…{most}",
            field="link.num_layers",
        )


def refuse_bits(
    name: str, bits: int, ports: int, layers: int, offered: Iterable[int]
) -> InvalidField:
    """The error for a number of bits that a codebook does not have; it ends with the nearest one that it has."""
    sizes = sorted(offered)
    nearest = min(sizes, key=lambda size: abs(size - bits))
    return InvalidField(
        f"link.feedback.bits is {bits}, {name} with {ports} ports and {layers} layers has reports of "
        f"{', '.join(map(str, sizes))} bits, nearest allowed: {nearest}",
        field="link.feedback.bits",
    )
