# ruff: noqa: ARG002 (every scheme is handed the report's index; this one does without)
"""``rvq``: residual vector quantiser trained by k-means on TR 38.901 channels. Our definition.

A report holds, in this order:

1. the *level*, the channel's RMS value in dB, uniform;
2. the *shape*: one of 1024 codewords for the channel at unit power, compared without regard to its common phase, which
   is turned away (the codeword's own phase takes its place);
3. the *stages*: codewords of 8 bits for what is left. The shape's codeword says how much that usually is
   (``cell_scale``) and which of a few families of codebooks fits it (``cell_family``: line of sight leaves another
   residual than scattering does), so that neither costs a bit;
4. the *tail*: what is left after the last stage, component by component, Gaussian-companded scalars with the bits
   spread by reverse water-filling over the residual's usual profile in the shape's cell (``tail_scale``).

Codewords live in the leading components of a Karhunen–Loève transform that is separable over subbands, receive and
transmit antennas. A stage that gets fewer bits than it has uses the first codewords of its codebook: codebooks are
ordered so that every prefix is a good codebook. The encoder keeps the ``NUM_PATHS`` best paths through the stages.
Codewords are centroids and therefore shrunk: the decoded CSI is about the conditional mean of the channel.

Trained by ``python -m lab.training.csi_rvq``; weights in ``weights/rvq-TXxRX.safetensors`` for channels
and ``weights/rvq-rows-TXxLAYERS.safetensors`` for the rows of layers (:mod:`semlink.signal.csi.layers`).

Examples
--------
>>> from semlink.signal.csi.layers import WholeChannel
>>> from semlink.weight_files import SHIPPED
>>> quantizer = RvqQuantizer(2, 16, 64, load_codebooks(SHIPPED, WholeChannel(2), 16))
>>> h, index = torch.randn(2, 8, 2, 16, dtype=torch.complex64), torch.arange(2)
>>> quantizer.encode(h, index).shape
torch.Size([2, 8])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file

from semlink.decibels import amplitude_to_db, db_to_amplitude
from semlink.errors import InvalidField
from semlink.grid import NUM_SUBBANDS
from semlink.signal.csi.interface import CsiQuantizer
from semlink.signal.csi.layers import Content
from semlink.signal.csi.packing import (
    bits_of,
    bytes_of,
    fields_of,
    message_of,
    varying_fields_of,
    varying_message_of,
)
from semlink.weight_files import Weights
from semlink.zlib_tensors import inflate

OFFERED_RX: Final = (1, 2)
MADE_BY: Final = "python -m lab.training.csi_rvq"
LEVEL_RANGE_DB: Final = (-4.5, 3.5)
NUM_PATHS: Final = 4
BLOCK_ROWS: Final = 16
PROPOSED: Final = 2
"""Candidates that single precision proposes for each one that double precision keeps."""
MAX_TAIL_BITS: Final = 12


def in_double(t: torch.Tensor) -> torch.Tensor:
    """``t`` in double precision: float64, or complex128 of a complex tensor."""
    return t.to(torch.promote_types(t.dtype, torch.float64))


def block_matmul(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """``x @ matrix`` for ``[batch, k] @ [k, n]`` in blocks of equal size.

    Linear algebra libraries choose their kernel by the number of rows, and another kernel rounds differently: equal
    blocks, zero-padded, keep results of equal rows near each other. They are no promise of equal bits: on some
    processors the kernel also depends on the number of blocks.
    """
    rows = x.shape[0]
    padded = torch.nn.functional.pad(x, (0, 0, 0, -rows % BLOCK_ROWS))
    blocks = padded.view(-1, BLOCK_ROWS, x.shape[1])
    return torch.bmm(blocks, matrix.expand(len(blocks), -1, -1)).flatten(0, 1)[:rows]


def level_index(rms: torch.Tensor, range_db: tuple[float, float], bits: int) -> torch.Tensor:
    """Cell of an RMS value among ``2^bits`` uniform ones in dB over ``range_db``: int64, as ``rms``."""
    (low, high), cells = range_db, 2**bits
    z = (amplitude_to_db(rms.clamp_min(1e-12)) - low) / (high - low)
    cell: torch.Tensor = (z.clamp_min(0) * cells).floor().clamp_max(cells - 1).to(torch.int64)
    return cell


def level_value(
    level: torch.Tensor, range_db: tuple[float, float], bits: int, usual: float = 1.0
) -> torch.Tensor:
    """The RMS value in the middle of a cell, float32; ``usual`` where there is no bit to say it."""
    if bits == 0:
        return torch.full_like(level, usual, dtype=torch.float32)
    low, high = range_db
    amplitude: torch.Tensor = db_to_amplitude(low + (high - low) * (level.float() + 0.5) / 2**bits)
    return amplitude


@lru_cache(maxsize=1)
def gaussian_cells() -> tuple[list[torch.Tensor], list[float]]:
    """Centroids and mean squared error of the companded quantiser of a unit Gaussian, for 0…MAX_TAIL_BITS bits.

    Cell ``q`` of ``2^b`` holds ``Φ(x/√3)·2^b ∈ [q, q+1)``, the asymptotically best compander (Panter and Dite).
    """
    centroids, errors = [], []
    for bits in range(MAX_TAIL_BITS + 1):
        edges = torch.linspace(0, 1, 2**bits + 1, dtype=torch.float64)
        x = math.sqrt(3) * torch.special.ndtri(edges)
        density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
        mass = torch.special.ndtr(x).diff()
        centroid = -density.diff() / mass.clamp_min(1e-300)
        # Outermost cells of the finest quantisers lie where the mass underflows: take their inner edge.
        inner = torch.where(x[1:].abs() < x[:-1].abs(), x[1:], x[:-1])
        centroid = torch.where(mass > 1e-12, centroid, inner)
        centroids.append(centroid.float())
        errors.append(float(1 - (mass * centroid.square()).sum()))
    return centroids, errors


def spread_bits(variance: torch.Tensor, bits: int) -> torch.Tensor:
    """Give ``bits`` bits to real components one by one, each to where it removes most error (reverse water-filling).

    :param variance: ``[batch, components]`` → int64 widths of the same shape, every row adding up to ``bits``.
    """
    errors = torch.tensor(gaussian_cells()[1], dtype=torch.float64)
    most = min(MAX_TAIL_BITS, 6 + -(-bits // variance.shape[1]))
    rows = []
    for part in torch.split(variance.double(), 64):
        gains = (part[..., None] * (errors[:most] - errors[1 : most + 1])).flatten(1)
        best = gains.argsort(dim=1, descending=True, stable=True)[:, :bits] // most
        ones = torch.ones_like(best)
        rows.append(torch.zeros_like(part, dtype=torch.int64).scatter_add_(1, best, ones))
    return torch.cat(rows)


@dataclass(frozen=True, slots=True)
class Codebooks:
    """Trained tensors of one antenna configuration, float32 and complex64.

    ``basis``: ``[num_coefficients, num_coefficients]``, columns by falling variance; ``shapes`` ``[1024, dimensions]``;
    ``cell_scale``, ``cell_family`` ``[1024]``; ``stages`` ``[families, num_stages, 256, dimensions]``; ``tail_scale``
    ``[1024, num_coefficients]``: RMS of what is left of each component over ``cell_scale``, in steps of 0.75 dB;
    ``order``: int64 ``[num_coefficients]``, the place of each component on the grid of subband, receive and transmit
    components.
    """

    basis: torch.Tensor
    shapes: torch.Tensor
    cell_scale: torch.Tensor
    cell_family: torch.Tensor
    stages: torch.Tensor
    tail_scale: torch.Tensor
    order: torch.Tensor

    @classmethod
    def load(cls, path: Path) -> Codebooks:
        """Read what :mod:`lab.training.csi_rvq` wrote."""
        t = inflate(load_file(path))

        def complex_of(name: str) -> torch.Tensor:
            return torch.view_as_complex(t[name].float().contiguous())

        sub, rx, tx = (complex_of(f"basis_{axis}") for axis in ("subband", "rx", "tx"))
        order = t["order"].long()
        basis = torch.kron(torch.kron(sub, rx), tx)[:, order]
        return cls(
            basis.contiguous(),
            complex_of("shapes"),
            t["cell_scale"].float(),
            t["cell_family"].long(),
            torch.view_as_complex(
                t["stages"].float() * t["stage_scale"].float()[..., None, None, None]
            ),
            torch.exp2(-t["tail_level"].float() / 8),
            order,
        )

    def to(self, device: torch.device) -> Codebooks:
        """Return the same codebooks on another device."""
        return Codebooks(*(getattr(self, name).to(device) for name in Codebooks.__slots__))


@dataclass(frozen=True, slots=True)
class Plan:
    """Widths of a report's fields."""

    level: int
    shape: int
    stages: tuple[int, ...]
    tail: int

    @classmethod
    def from_bits(cls, bits: int, shape_bits: int, stage_bits: int, num_stages: int) -> Plan:
        """Spend exactly ``bits``: the level first gets a little, the shape its fill, then stages, then the tail."""
        level = 0 if bits < 12 else 2 if bits < 24 else 3
        shape = min(shape_bits, bits - level)
        left = bits - level - shape
        stages: list[int] = []
        while left and len(stages) < num_stages:
            stages.append(min(stage_bits, left))
            left -= stages[-1]
        return cls(level, shape, tuple(stages), left)


def search(
    books: Codebooks, v: torch.Tensor, shape_bits: int, stage_bits: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best of the ``NUM_PATHS`` best paths through shape and stages for complex ``v [batch, coefficients]``.

    Single precision proposes ``PROPOSED`` times as many candidates as are kept, double precision chooses among them: a
    choice depends on rounding only where double precision cannot tell two candidates apart.

    :returns: the shape ``[batch]``, the stages' codewords ``[batch, len(stage_bits)]``, ``v`` turned to the shape's
        phase, and what the stages leave of its leading components over ``cell_scale``.
    """
    batch, dims = len(v), books.shapes.shape[1]
    head = v[:, :dims]
    shapes = books.shapes[: 2**shape_bits]
    rough = block_matmul(head.to(shapes.dtype), shapes.conj().mT.contiguous())
    cost = shapes.abs().square().sum(1) - 2 * rough.abs()
    paths = min(NUM_PATHS if stage_bits else 1, len(shapes))
    shape = cost.topk(min(PROPOSED * paths, len(shapes)), dim=1, largest=False).indices
    words = in_double(shapes[shape])
    match = (words.conj() @ in_double(head)[..., None])[..., 0]
    cost = words.abs().square().sum(2) - 2 * match.abs()
    best = cost.topk(paths, dim=1, largest=False).indices
    shape, match = shape.gather(1, best), match.gather(1, best)
    phase = torch.polar(torch.ones_like(match.real), -torch.angle(match))
    scale = in_double(books.cell_scale[shape])
    residual = (in_double(head)[:, None] * phase[..., None] - books.shapes[shape]) / scale[
        ..., None
    ]
    family = books.cell_family[shape]
    origin = torch.arange(paths, device=v.device).expand(batch, -1)
    chosen = torch.empty((batch, paths, 0), dtype=torch.int64, device=v.device)
    rows = torch.arange(batch, device=v.device)[:, None]
    for stage, width in enumerate(stage_bits):
        words = books.stages[:, stage, : 2**width]
        real = torch.view_as_real(residual.to(words.dtype)).flatten(-2)
        flat = torch.view_as_real(words).flatten(-2)
        inner = block_matmul(real.flatten(0, 1), flat.flatten(0, 1).mT.contiguous())
        inner = inner.view(batch, paths, len(words), -1)
        fitting = inner.gather(
            2, family[..., None, None].expand(-1, -1, 1, inner.shape[-1])
        ).squeeze(2)
        norms = flat.square().sum(-1)[family]
        error = real.square().sum(-1, keepdim=True) - 2 * fitting + norms
        total = (error * scale.square().to(error.dtype)[..., None]).flatten(1)
        keep = paths if stage + 1 < len(stage_bits) else 1
        keep = min(keep, total.shape[1])
        best = total.topk(min(PROPOSED * keep, total.shape[1]), dim=1, largest=False).indices
        path, word = best // error.shape[2], best % error.shape[2]
        left = residual[rows, path] - books.stages[family.gather(1, path), stage, word]
        power = torch.view_as_real(left).square().sum((2, 3))
        best = (power * scale.gather(1, path).square()).topk(keep, dim=1, largest=False).indices
        residual, path, word = left[rows, best], path.gather(1, best), word.gather(1, best)
        family, scale, origin = (t.gather(1, path) for t in (family, scale, origin))
        chosen = torch.cat([chosen[rows, path], word[..., None]], dim=2)
        paths = keep
    first = origin[:, :1]
    turned = (in_double(v) * phase.gather(1, first)).to(v.dtype)
    return shape.gather(1, first)[:, 0], chosen[:, 0], turned, residual[:, 0].to(v.dtype)


def codebooks_file(content: Content, num_tx_ant: int) -> str:
    """Name of the file of codebooks for the rows of ``content``."""
    return f"{content.weights}-{num_tx_ant}x{content.num_rows}.safetensors"


def load_codebooks(weights: Weights, content: Content, num_tx_ant: int) -> Codebooks:
    """The trained codebooks for the rows of ``content``.

    :raises InvalidField: for receive antennas (``link.num_rx_ant``) or layers (``link.num_layers``) without
        codebooks.
    :raises NotFound: when the weights are missing.
    """
    if content.num_rows not in OFFERED_RX:
        raise InvalidField(
            f"link.{content.rows_field} is {content.num_rows}, quantizer rvq with content {content.name} has codebooks "
            f"for {', '.join(map(str, OFFERED_RX))}; scalar works with every number",
            field=f"link.{content.rows_field}",
        )
    name = codebooks_file(content, num_tx_ant)
    return weights.load(name, Codebooks.load, made_by=MADE_BY)


class RvqQuantizer(CsiQuantizer):
    """See the module.

    ``num_rx_ant``: rows that are coded, of ``codebooks`` made for so many.
    """

    name = "rvq"

    def __init__(self, num_rx_ant: int, num_tx_ant: int, bits: int, codebooks: Codebooks) -> None:
        super().__init__(num_rx_ant, num_tx_ant)
        self.bits = bits
        self._books = codebooks
        families, num_stages, stage_size, self._dimensions = self._books.stages.shape
        del families
        self._plan = Plan.from_bits(
            bits,
            int(math.log2(len(self._books.shapes))),
            int(math.log2(stage_size)),
            num_stages,
        )

    # --- on the device of the input ----------------------------------------------------------------------------

    @cached_property
    def _placed(self) -> dict[torch.device, Codebooks]:
        return {}

    def _to_device(self, device: torch.device) -> Codebooks:
        if device not in self._placed:
            self._placed[device] = self._books.to(device)
        return self._placed[device]

    @cached_property
    def _tail_widths(self) -> torch.Tensor:
        """Bits of each real component (real parts, then imaginary) in each cell: int64 ``[1024, 2·coefficients]``.

        Always computed on the CPU in double precision: both ends must agree to the bit.
        """
        variance = self._books.tail_scale.double().square()
        return spread_bits(torch.cat([variance, variance], dim=1), self._plan.tail)

    # --- coding ------------------------------------------------------------------------------------------------

    def _encode(self, h: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        books, plan = self._to_device(h.device), self._plan
        x = in_double(h).flatten(1) @ in_double(books.basis.conj())
        rms = (x.abs().square().mean(1, keepdim=True)).sqrt()
        level = level_index(rms, LEVEL_RANGE_DB, plan.level)
        v = x / rms.clamp_min(1e-12)
        shape, indices, turned, residual = self._search(books, v)
        widths = [plan.level, plan.shape, *plan.stages]
        message = message_of(torch.cat([level, shape[:, None], indices], dim=1), widths)
        if plan.tail:
            left = turned / books.cell_scale[shape][:, None]
            left[:, : self._dimensions] = residual
            tail = self._tail_widths.to(h.device)[shape]
            cells = self._encode_tail(left, books.tail_scale[shape], tail)
            message = torch.cat([message, varying_message_of(cells, tail, plan.tail)], dim=1)
        return bytes_of(message)

    def _decode(self, payload: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        books, plan = self._to_device(payload.device), self._plan
        message = bits_of(payload, self.bits)
        fields = fields_of(message, [plan.level, plan.shape, *plan.stages])
        shape = fields[:, 1]
        family = books.cell_family[shape]
        left = torch.zeros(
            (len(payload), len(books.basis)), dtype=torch.complex64, device=payload.device
        )
        for stage in range(len(plan.stages)):
            left[:, : self._dimensions] += books.stages[family, stage, fields[:, 2 + stage]]
        if plan.tail:
            tail = self._tail_widths.to(payload.device)[shape]
            cells = varying_fields_of(message[:, self.bits - plan.tail :], tail)
            left = left + self._decode_tail(cells, books.tail_scale[shape], tail)
        v = left * books.cell_scale[shape][:, None]
        v[:, : self._dimensions] += books.shapes[shape]
        h = block_matmul(v * level_value(fields[:, :1], LEVEL_RANGE_DB, plan.level), books.basis.mT)
        return h.view(-1, NUM_SUBBANDS, self.num_rx_ant, self.num_tx_ant)

    def _search(
        self, books: Codebooks, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return search(books, v, self._plan.shape, self._plan.stages)

    @staticmethod
    def _encode_tail(left: torch.Tensor, scale: torch.Tensor, widths: torch.Tensor) -> torch.Tensor:
        """Cells of the real and imaginary parts of ``left [batch, coefficients]`` whose RMS is about ``scale``."""
        spread = (math.sqrt(3 / 2) * scale).repeat(1, 2)
        z = torch.special.ndtr(torch.cat([left.real, left.imag], dim=1) / spread)
        levels = torch.exp2(widths.to(z.dtype))
        return torch.minimum((z * levels).floor(), levels - 1).to(torch.int64)

    @staticmethod
    def _decode_tail(
        cells: torch.Tensor, scale: torch.Tensor, widths: torch.Tensor
    ) -> torch.Tensor:
        table, starts = (t.to(cells.device) for t in _centroid_table())
        parts = table[starts[widths] + cells] * (math.sqrt(1 / 2) * scale).repeat(1, 2)
        real, imaginary = parts.chunk(2, dim=1)
        return torch.complex(real, imaginary)


@lru_cache(maxsize=1)
def _centroid_table() -> tuple[torch.Tensor, torch.Tensor]:
    """Centroids of every number of bits in one row, and where each number's begin."""
    centroids, _ = gaussian_cells()
    return torch.cat(centroids), torch.tensor([2**b - 1 for b in range(MAX_TAIL_BITS + 1)])
