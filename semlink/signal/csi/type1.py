# ruff: noqa: ARG002 (every scheme is handed the report's index; this one does without)
"""``type1``: the Type I single-panel codebook of 3GPP TS 38.214 clause 5.2.2.2.1, ranks 1…4.

A report holds, in this order, the gain (:mod:`~semlink.signal.csi.cqi`), i1,1, i1,2, i1,3 and i2, each as wide
as TS 38.212 Table 6.3.1.1.2-1 says: one i2 for all subbands (``widebandPMI``) or one for each (``subbandPMI``). With
the two codebook modes and wideband or subband CQI this makes a handful of sizes; where two formats are equally long the
first in the order of :func:`formats` is meant. The rank is the link's number of layers and is not sent.

Codebooks: Tables 5.2.2.2.1-1 (2 ports), -3 and -4 (k1, k2), -5 (rank 1), -6 (rank 2), -7 (rank 3), -8 (rank 4). In all
of them a layer's precoding vector is ``[b; ±φ_n·b]`` with one of two beams: ``v_{l,m}`` and ``v_{l',m'}``, or, for
ranks 3 and 4 with 16 ports or more, ``[ṽ; θ_p·ṽ]`` and ``[ṽ; −θ_p·ṽ]``.

The encoder is ours. It keeps the i1,1 and i1,2 that catch most power with both polarisations and picks among them, all
i1,3 and i2, the precoder of the highest sum rate behind an LMMSE receiver at ``ASSUMED_SNR_DB``.

Examples
--------
>>> h, index = torch.randn(2, 8, 2, 16, dtype=torch.complex64), torch.arange(2)
>>> quantizer = TypeIQuantizer(2, 16, 27, num_layers=1)
>>> csi = quantizer.decode(quantizer.encode(h, index), index)
>>> csi.shape, bool((csi[:, :, 1] == 0).all())  # one row: one layer
(torch.Size([2, 8, 2, 16]), True)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch

from semlink.decibels import db_to_lin
from semlink.errors import InvalidField
from semlink.grid import MAX_BITS, NUM_SUBBANDS
from semlink.signal.csi.beams import (
    Panel,
    layers_allowed,
    refuse_bits,
    rows_of,
    squared,
    steering,
)
from semlink.signal.csi.cqi import cqi_widths, decode_cqi, encode_cqi
from semlink.signal.csi.interface import CsiQuantizer
from semlink.signal.csi.packing import pack, unpack
from semlink.signal.csi.request import QuantizerRequest

ASSUMED_SNR_DB: Final = 10.0
"""At which the encoder compares rates. The reports of the standard depend on the UE's SNR, ours must not."""
LAYER_WEIGHT_STEP: Final = 0.02
"""A layer's rate counts this much less than that of the one before: of two equal precoders, strongest layer first."""
NUM_CANDIDATES: Final = {1: 32, 2: 16, 3: 8, 4: 8}
"""Candidates of i1,1 and i1,2 by rank, a quarter of them where each stands for four beams (mode 2)."""
LAYERS: Final = ((0, 1), (1, 1), (0, -1), (1, -1))
"""Beam and sign of ``φ_n`` of each layer for ranks 3 and 4 (Tables 5.2.2.2.1-7, -8)."""
LAYERS_OF_TWO: Final = ((0, 1), (1, -1))
"""The same for ranks 1 and 2 (Tables 5.2.2.2.1-1, -5, -6)."""


@dataclass(frozen=True, slots=True)
class Codebook:
    """One codebook mode. ``beams``: complex64 ``[i1, i13, variants, 2, N1·N2]``, of unit norm.

    i1 stands for ``i1,2 + (number of i1,2)·i1,1``; i2 for ``num_phases·variant + n``.
    """

    num_i11: int
    num_i12: int
    num_phases: int
    layers: tuple[tuple[int, int], ...]
    beams: torch.Tensor

    @property
    def i1_widths(self) -> tuple[int, int, int]:
        """Bits of i1,1, i1,2 and i1,3."""
        return (_bits(self.num_i11), _bits(self.num_i12), _bits(self.beams.shape[1]))

    @property
    def num_i2(self) -> int:
        """Values of i2."""
        return self.num_phases * self.beams.shape[2]


def _bits(values: int) -> int:
    return (values - 1).bit_length()


def _offsets(panel: Panel, num_layers: int) -> list[tuple[int, int]]:
    """``(k1, k2)`` by i1,3: Table 5.2.2.2.1-3 for rank 2, 5.2.2.2.1-4 for ranks 3 and 4 below 16 ports."""
    o1, o2 = panel.o1, panel.o2
    if panel.size == 1 or num_layers == 1:
        return [(0, 0)]
    if num_layers == 2:
        if panel.n2 == 1:
            return [(k * o1, 0) for k in range(min(panel.n1, 4))]
        last = (o1, o2) if panel.n1 == panel.n2 else (2 * o1, 0)
        return [(0, 0), (o1, 0), (0, o2), last]
    if panel.n2 == 1:
        return [(o1, 0)]
    return [(o1, 0), (0, o2), (o1, o2)]


@lru_cache(maxsize=64)
def codebook(panel: Panel, num_layers: int, mode: int) -> Codebook:
    """The codebook of ``codebookMode`` 1 or 2, which differ for ranks 1 and 2."""
    layers = (LAYERS_OF_TWO if num_layers <= 2 else LAYERS)[:num_layers]
    phases = 4 if num_layers == 1 else 2
    m = torch.arange(panel.n2 * panel.o2)
    if num_layers > 2 and panel.size >= 8:
        halves = torch.arange(panel.n1 * panel.o1 // 2)
        half = steering(
            panel, halves[:, None].expand(-1, len(m)), m.expand(len(halves), -1), panel.n1 // 2
        )
        theta = torch.polar(torch.ones(4), torch.pi / 4 * torch.arange(4.0))
        turned = theta[:, None, None] * torch.tensor([1.0, -1.0])[:, None]
        first = half.flatten(0, 1)[:, None, None, :].expand(-1, 4, 2, -1)
        beams = torch.cat([first, turned * first], dim=-1) / math.sqrt(2)
        return Codebook(len(halves), len(m), phases, layers, beams.unsqueeze(2))
    l = torch.arange(panel.n1 * panel.o1)  # noqa: E741 (the standard's name)
    variants = [(0, 0)]
    if mode == 2:
        l = l[: len(l) // 2] * 2  # noqa: E741
        if panel.n2 == 1:
            variants = [(a, 0) for a in range(4)]
        else:
            variants = [(0, 0), (1, 0), (0, 1), (1, 1)]
            m = m[: len(m) // 2] * 2
    step = torch.tensor(_offsets(panel, num_layers))[:, None, None, :]
    pair = torch.tensor([0, 1])[:, None] * step
    shift = torch.tensor(variants)[:, None, :] + pair
    grid = torch.stack(torch.meshgrid(l, m, indexing="ij"), dim=-1).flatten(0, 1)
    place = grid[:, None, None, None, :] + shift
    beams = steering(panel, place[..., 0], place[..., 1], panel.n1)
    return Codebook(len(l), len(m), phases, layers, beams)


@dataclass(frozen=True, slots=True)
class Format:
    """What a report holds: the codebook's mode, and whether PMI and CQI are sent for each subband."""

    mode: int
    subband_pmi: bool
    subband_cqi: bool
    widths: tuple[int, ...]


@lru_cache(maxsize=64)
def formats(panel: Panel, num_layers: int) -> dict[int, Format]:
    """The formats by their bits. Our order of preference: mode 1, then wideband CQI, then wideband PMI."""
    found: dict[int, Format] = {}
    modes = (1, 2) if num_layers <= 2 and panel.size > 1 else (1,)
    for mode in modes:
        book = codebook(panel, num_layers, mode)
        for subband_cqi in (False, True):
            for subband_pmi in (False, True):
                count = NUM_SUBBANDS if subband_pmi else 1
                widths = (*cqi_widths(subband_cqi), *book.i1_widths, *(_bits(book.num_i2),) * count)
                if sum(widths) <= MAX_BITS:
                    found.setdefault(sum(widths), Format(mode, subband_pmi, subband_cqi, widths))
    return found


def _inverse_diagonal(matrix: torch.Tensor) -> torch.Tensor:
    """Diagonal of the inverses of Hermitian positive definite matrices ``[n, n, …]``, n ≤ 4: real ``[n, …]``.

    Gauss–Jordan over the few layers; all the rest is elementwise, so that a batch mate cannot change a bit.
    """
    n = len(matrix)
    if n == 1:
        return matrix[0].real.reciprocal()
    if n == 2:
        first, second = matrix[0, 0].real, matrix[1, 1].real
        return torch.stack([second, first]) / (first * second - squared(matrix[0, 1]))
    a = matrix.clone()
    for k in range(n):
        pivot = a[k, k].real.reciprocal()
        row, column = a[k] * pivot, a[:, k] * pivot
        a = a - a[:, k, None] * row
        a[k], a[:, k] = row, -column
        a[k, k] = pivot.to(a.dtype)
    return torch.stack([a[k, k].real for k in range(n)])


class TypeIQuantizer(CsiQuantizer):
    """See the module.

    Decodes to CSI whose first ``num_layers`` rows are the reported precoding vectors, conjugated, at the reported
    gain, layers in the codebook's order. Re-quantising decoded CSI gives the same precoder. Raises InvalidField naming
    ``link.feedback.bits`` (with the nearest size) or ``link.num_layers``.
    """

    name = "type1"

    def __init__(self, num_rx_ant: int, num_tx_ant: int, bits: int, num_layers: int) -> None:
        super().__init__(num_rx_ant, num_tx_ant)
        layers_allowed(self.name, num_rx_ant, num_tx_ant, num_layers)
        panel = Panel.from_num_ports(num_tx_ant)
        offered = formats(panel, num_layers)
        if bits not in offered:
            raise refuse_bits(self.name, bits, num_tx_ant, num_layers, offered)
        self.bits = bits
        self.num_layers = num_layers
        self._format = offered[bits]
        self._book = codebook(panel, num_layers, self._format.mode)
        self._gain_of_all = float(num_rx_ant * num_tx_ant)

    # --- coding ------------------------------------------------------------------------------------------------

    def _encode(self, h: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        i1, i13, i2 = self._search(h)
        columns = self._columns(i1, i13, i2)
        gain = squared((h.unsqueeze(2) * columns.unsqueeze(3)).sum(-1)).sum((2, 3))
        cqi = encode_cqi(gain / self.num_layers, self._gain_of_all, self._format.subband_cqi)
        i11, i12 = i1 // self._book.num_i12, i1 % self._book.num_i12
        sent = i2 if self._format.subband_pmi else i2[:, :1]
        fields = torch.cat([cqi, torch.stack([i11, i12, i13], dim=1), sent], dim=1)
        return pack(fields, self._format.widths, self.bits)

    def _decode(self, payload: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        fields = unpack(payload, self._format.widths)
        num_cqi = len(cqi_widths(self._format.subband_cqi))
        i11, i12, i13 = fields[:, num_cqi : num_cqi + 3].unbind(1)
        num_i13 = self._book.beams.shape[1]
        if bool((i13 >= num_i13).any()):
            raise InvalidField(
                f"payload has an i1,3 that is reserved, allowed: 0…{num_i13 - 1}", field="payload"
            )
        i2 = fields[:, num_cqi + 3 :].expand(-1, NUM_SUBBANDS)
        columns = self._columns(i11 * self._book.num_i12 + i12, i13, i2)
        amplitude = decode_cqi(fields[:, :num_cqi], self._gain_of_all, self.num_layers)
        return rows_of(columns, amplitude, self.num_rx_ant)

    def _columns(self, i1: torch.Tensor, i13: torch.Tensor, i2: torch.Tensor) -> torch.Tensor:
        """Orthonormal precoding vectors ``[batch, num_subbands, num_layers, num_tx_ant]`` of the indices."""
        variant, n = i2 // self._book.num_phases, i2 % self._book.num_phases
        beams = self._book.beams.to(i1.device)[i1[:, None], i13[:, None], variant]
        which, sign = (
            torch.tensor(x, device=i1.device) for x in zip(*self._book.layers, strict=True)
        )
        beams = beams[:, :, which]
        phase = (n[..., None] + 1 - sign) % 4
        turned = torch.tensor([1, 1j, -1, -1j], device=i1.device)[phase].unsqueeze(-1) * beams
        return torch.cat([beams, turned], dim=-1) / math.sqrt(2)

    # --- search ------------------------------------------------------------------------------------------------

    def _search(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best i1 ``[batch]``, i1,3 ``[batch]`` and i2 ``[batch, num_subbands]``."""
        book = self._book
        beams = book.beams.to(h.device)
        num_i13, size = beams.shape[1], beams.shape[-1]
        batch = len(h)
        ports = h.reshape(batch, -1, size)
        kept = self._candidates(ports, beams)
        words = beams[kept] if self.num_layers > 1 else beams[kept][..., :1, :]
        seen = torch.bmm(ports, words.reshape(batch, -1, size).mT)
        seen = seen.view(batch, NUM_SUBBANDS, self.num_rx_ant, 2, -1, words.shape[-2])
        # [2 beams][2 polarisations][batch, subbands, rx, candidates]
        seen = seen.permute(5, 3, 0, 1, 2, 4)
        rates = torch.stack(
            [self._rate(seen, phase) for phase in (1, 1j, -1, -1j)[: book.num_phases]], dim=-1
        )
        rates = rates.reshape(batch, NUM_SUBBANDS, kept.shape[1] * num_i13, -1)
        if not self._format.subband_pmi:
            rates = rates.mean(1, keepdim=True)
        best, i2 = rates.max(-1)
        pick = best.sum(1).argmax(1)
        i2 = i2.gather(2, pick[:, None, None].expand(-1, i2.shape[1], 1)).squeeze(2)
        i1 = kept.gather(1, pick[:, None] // num_i13).squeeze(1)
        return i1, pick % num_i13, i2.expand(-1, NUM_SUBBANDS)

    def _candidates(self, ports: torch.Tensor, beams: torch.Tensor) -> torch.Tensor:
        """The i1 that catch most power with their first beam, summed over polarisations: int64 ``[batch, kept]``."""
        num_i1, _, variants, _, size = beams.shape
        first = beams[:, 0, :, 0].reshape(-1, size)
        if self.num_layers > 2 and size >= 8:
            # Both beams of all i1,3 span [ṽ; 0] and [0; ṽ].
            half = first[:, : size // 2] * math.sqrt(2)
            ports, first = ports.reshape(len(ports), -1, size // 2), half
        power = squared(torch.bmm(ports, first.mT.expand(len(ports), -1, -1)))
        power = power.view(len(ports), NUM_SUBBANDS, -1, num_i1, variants).sum(2)
        score = power.amax(-1).sum(1)
        kept = NUM_CANDIDATES[self.num_layers] // variants
        return score.topk(min(kept, num_i1), dim=1).indices

    def _rate(self, seen: torch.Tensor, phase: complex) -> torch.Tensor:
        """Weighted sum rate ``[batch, num_subbands, candidates]`` with ``φ_n = phase``.

        :param seen: ``[2 beams, 2 polarisations, batch, num_subbands, num_rx_ant, candidates]``, beams through the
            channel. SINR behind LMMSE: ``1/[(I + ρ·GᴴG)⁻¹]_ll − 1``.
        """
        effective = torch.stack(
            [(seen[which, 0] + sign * phase * seen[which, 1]) for which, sign in self._book.layers]
        )
        rho = db_to_lin(ASSUMED_SNR_DB) / self.num_layers / 2
        if self.num_layers == 1:
            return torch.log2(1 + rho * squared(effective[0]).sum(2))
        gram = (effective.conj()[:, None] * effective[None]).sum(4) * rho
        eye = torch.eye(self.num_layers, device=gram.device)[..., None, None, None]
        rates = -torch.log2(_inverse_diagonal(gram + eye))
        weights = 1 - LAYER_WEIGHT_STEP * torch.arange(self.num_layers, device=rates.device)
        return (weights[:, None, None, None] * rates).sum(0)


def type1(request: QuantizerRequest) -> CsiQuantizer:
    """``type1`` as a link asks for it: its reports are made for a rank, the number of layers."""
    return TypeIQuantizer(
        request.num_rx_ant, request.num_tx_ant, request.bits, request.content.num_rows
    )
