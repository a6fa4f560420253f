# ruff: noqa: ARG002 (every scheme is handed the report's index; this one does without)
"""``learned``: vector-quantised and entropy-coded stages before a transformer decoder. Our definition.

What a precoder needs first is the dominant direction of every subband, so a report spends its bits there:

1. *Weighting.* The part of the channel outside each subband's dominant direction is scaled down by ``inner_weight``
   and, after decoding, up again by ``outer_weight``; both depend on the number of bits only.
2. *Quantiser.* The level; then shape and stages with the codebooks of ``rvq`` (see there). From ``TAIL_FROM`` bits on
   only ``TAIL_STAGES`` stages are sent and what they leave is entropy-coded with adaptive contexts (``tail``), by the
   finest step that the bits allow for this very report.
3. *Decoder.* A transformer turns the quantised latent into about the conditional mean of the channel, for a loss of
   1 − SGCS and NMSE. Its correction is in units of what the quantiser usually leaves.

A transformer before the quantiser, trained straight-through, was tried: it lost on validation drops and is left out.
One model serves every number of bits. The encoder chooses in double precision, and only integers decide what a payload
says, so that payloads do not depend on the batch. The transformer merely shifts values: its rounding depends on batch
and processor and shifts them by less than ``DECODED_TOLERANCE`` (see :class:`CsiQuantizer`).

Trained by ``python -m lab.training.csi_learned``; weights in ``weights/learned-TXxRX.safetensors``, beside which the
codebooks ``weights/rvq-TXxRX.safetensors`` must be those of the training.

Examples
--------
>>> from semlink.signal.csi.layers import WholeChannel
>>> from semlink.weight_files import SHIPPED
>>> quantizer = LearnedQuantizer(2, 16, 100, load_learned(SHIPPED, WholeChannel(2), 16))
>>> h, index = torch.randn(2, 8, 2, 16, dtype=torch.complex64), torch.arange(2)
>>> quantizer.encode(h, index).shape
torch.Size([2, 13])
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from semlink.errors import InvalidField, NotFound
from semlink.grid import NUM_SUBBANDS
from semlink.signal.csi.arithmetic import Integers
from semlink.signal.csi.interface import CsiQuantizer
from semlink.signal.csi.layers import Content
from semlink.signal.csi.packing import bits_of, bytes_of, fields_of, message_of
from semlink.signal.csi.request import QuantizerRequest
from semlink.signal.csi.rvq import MADE_BY as RVQ_MADE_BY
from semlink.signal.csi.rvq import (
    Codebooks,
    Plan,
    block_matmul,
    codebooks_file,
    in_double,
    level_index,
    level_value,
    load_codebooks,
    search,
)
from semlink.signal.csi.tail import NUM_STEPS, TailModel, step_sizes
from semlink.weight_files import Weights

MADE_BY: Final = "python -m lab.training.csi_learned"
DIGEST_BYTES: Final = 8
"""Of the hash by which weights name the codebooks that they were trained with."""
LEVEL_RANGE_DB: Final = (-6.0, 3.5)
"""Of the weighted channel's RMS."""
USUAL_LEVEL: Final = 0.9
TAIL_FROM: Final = 80
"""Number of bits from which the tail is worth more than further stages; chosen on validation drops."""
TAIL_STAGES: Final = 3
FINE_LEVEL_FROM: Final = 128
REPORTS_A_BLOCK: Final = 16
WIDTH: Final = 96
HEADS: Final = 4
NUM_LAYERS: Final = 3
NUM_CONDITIONS: Final = 4
STEP_ROWS_PER_OCTAVE: Final = 2

# Chosen on validation drops: (bits, inner weight, outer weight), between them linear in log2(bits).
_WEIGHTS: Final = (
    (16, 0.45, 1.0),
    (64, 0.5, 1.1),
    (128, 0.65, 1.2),
    (256, 0.75, 1.28),
    (512, 0.9, 1.1),
    (1024, 1.0, 1.0),
)


def direction_weights(bits: int) -> tuple[float, float]:
    """Inner and outer weight of what lies outside the dominant direction, for reports of ``bits`` bits."""
    at, inner, outer = zip(*_WEIGHTS, strict=True)
    x, xs = math.log2(bits), np.log2(at)
    return float(np.interp(x, xs, inner)), float(np.interp(x, xs, outer))


def weigh_direction(h: torch.Tensor, weight: float, softness: float = 0.0) -> torch.Tensor:
    """``h`` with all but the strongest singular direction of each subband times ``weight``.

    complex64 ``[batch, subbands, rx, tx]``, one or two receive antennas (in closed form); the same shape. With
    ``softness`` (a share of the power) directions of nearly equal strength mix: gradients stay finite.
    """
    if h.shape[2] == 1 or weight == 1.0:
        return h
    first, second = h[:, :, 0], h[:, :, 1]
    a, d = first.abs().square().sum(-1), second.abs().square().sum(-1)
    b = (first * second.conj()).sum(-1)
    guard = (softness * (a + d)).square() + 1e-12
    gap = ((a - d).square() + 4 * b.abs().square() + guard).sqrt()
    tilt, cross = ((a - d) / gap)[..., None], (2 * b / gap)[..., None]
    # The projector on the stronger left singular vector is (1 + [[tilt, cross], [cross*, −tilt]]) / 2.
    mean, half = (1 + weight) / 2, (1 - weight) / 2
    return torch.stack(
        [
            (mean + half * tilt) * first + half * cross * second,
            (mean - half * tilt) * second + half * cross.conj() * first,
        ],
        dim=2,
    )


# --- networks ----------------------------------------------------------------------------------------------------


class BlockLinear(nn.Linear):
    """A linear layer that multiplies blocks of equal size, once trained: a row's rounding hardly depends on others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[blocks, rows, in_features]`` to ``[blocks, rows, out_features]``."""
        if self.training:
            return nn.functional.linear(x, self.weight, self.bias)
        return torch.baddbmm(self.bias, x, self.weight.mT.expand(len(x), -1, -1))


class Layer(nn.Module):
    """Self-attention between the tokens of a report and a two-layer perceptron, normalised before."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(WIDTH)
        self.qkv = BlockLinear(WIDTH, 3 * WIDTH)
        self.out = BlockLinear(WIDTH, WIDTH)
        self.norm_perceptron = nn.LayerNorm(WIDTH)
        self.up = BlockLinear(WIDTH, 2 * WIDTH)
        self.down = BlockLinear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[blocks, rows, WIDTH]``, rows by report and token, to the same shape."""
        blocks, rows, _ = x.shape
        parts = self.qkv(self.norm_attention(x)).view(-1, NUM_SUBBANDS, 3, HEADS, WIDTH // HEADS)
        q, k, v = parts.permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)
        share = torch.softmax(torch.bmm(q, k.mT) * (WIDTH // HEADS) ** -0.5, dim=-1)
        mixed = torch.bmm(share, v).view(-1, HEADS, NUM_SUBBANDS, WIDTH // HEADS)
        x = x + self.out(mixed.transpose(1, 2).reshape(blocks, rows, WIDTH))
        y: torch.Tensor = x + self.down(torch.relu(self.up(self.norm_perceptron(x))))
        return y


class TokenTransformer(nn.Module):
    """A correction to the coefficients of a report, one token for each subband eigenvector; zero before training."""

    def __init__(self, num_rx_ant: int, num_tx_ant: int) -> None:
        super().__init__()
        values = 2 * num_rx_ant * num_tx_ant
        self.into = BlockLinear(2 * values + NUM_CONDITIONS, WIDTH)
        self.position = nn.Parameter(0.02 * torch.randn(NUM_SUBBANDS, WIDTH))
        self.layers = nn.ModuleList(Layer() for _ in range(NUM_LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = BlockLinear(WIDTH, values)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, coefficients: torch.Tensor, word: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        """Correction of complex64 ``coefficients [batch, subbands, rx·tx]``, the same shape.

        :param word: the shape's codeword, likewise.
        :param condition: float32 ``[batch, NUM_CONDITIONS]``.
        """
        batch = len(coefficients)
        x = torch.cat(
            [
                torch.view_as_real(coefficients).flatten(2),
                torch.view_as_real(word).flatten(2),
                condition[:, None].expand(-1, NUM_SUBBANDS, -1),
            ],
            dim=2,
        )
        # Whole blocks of equal size: linear algebra rounds differently for other numbers of rows.
        x = nn.functional.pad(x, (0, 0, 0, 0, 0, -batch % REPORTS_A_BLOCK))
        rows = REPORTS_A_BLOCK * NUM_SUBBANDS
        x = self.into(x.view(-1, rows, x.shape[-1])) + self.position.repeat(REPORTS_A_BLOCK, 1)
        for layer in self.layers:
            x = layer(x)
        x = self.head(self.norm(x))
        return torch.view_as_complex(x.view(-1, NUM_SUBBANDS, coefficients.shape[2], 2))[:batch]


# --- weights -----------------------------------------------------------------------------------------------------

SCALE: Final = "@scale"
NETWORK: Final = "network."


def stored_network(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices in eight bits with a scale for each row, the rest in half precision."""
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("weight") and tensor.ndim == 2:
            scale = (tensor.abs().amax(1, keepdim=True) / 127).clamp_min(1e-8)
            stored[NETWORK + name] = (tensor / scale).round().to(torch.int8)
            stored[NETWORK + name + SCALE] = scale
        else:
            stored[NETWORK + name] = tensor.half()
    return stored


def network_state(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of :func:`stored_network`, float32."""
    return {
        name.removeprefix(NETWORK): tensor.float() * stored.get(name + SCALE, torch.ones(()))
        for name, tensor in stored.items()
        if name.startswith(NETWORK) and not name.endswith(SCALE)
    }


@dataclass(frozen=True, slots=True)
class LearnedWeights:
    """Everything of one antenna configuration.

    ``order``: int64 ``[coefficients]``, where each component of the codebooks lies on the grid (subband, rx, tx).
    """

    books: Codebooks
    order: torch.Tensor
    tail: TailModel
    network: TokenTransformer

    def to(self, device: torch.device) -> LearnedWeights:
        """Return the same weights on another device; the tail's tables stay where integers are coded."""
        network = deepcopy(self.network).to(device)
        return LearnedWeights(self.books.to(device), self.order.to(device), self.tail, network)


def learned_file(content: Content, num_tx_ant: int) -> str:
    """Name of the file of weights for the rows of ``content``."""
    return codebooks_file(content, num_tx_ant).replace("rvq", "learned", 1)


def load_learned(weights: Weights, content: Content, num_tx_ant: int) -> LearnedWeights:
    """What :mod:`lab.training.csi_learned` wrote for the rows of ``content``.

    :raises InvalidField: for antennas that it has not been trained for.
    :raises NotFound: when the codebooks beside it are others than those of the training.
    """
    prefix = content.weights.replace("rvq", "learned") + "-"
    antennas = f"{num_tx_ant}x{content.num_rows}"
    there = [name for name in weights.variants(prefix) if re.fullmatch(r"\d+x\d+", name)]
    if antennas not in there:
        raise InvalidField(
            f"link.num_tx_ant × {content.rows_field} is {antennas.replace('x', '×')}, quantizer learned has weights "
            f"for {', '.join(there).replace('x', '×') or 'none'}; rvq has codebooks for 8, 16 and 32 × 1 and 2, scalar "
            "works with every number",
            field="link.num_tx_ant",
        )
    name = learned_file(content, num_tx_ant)
    return weights.load(name, _read, weights, content, num_tx_ant, made_by=MADE_BY)


def _read(path: Path, weights: Weights, content: Content, num_tx_ant: int) -> LearnedWeights:
    beside = codebooks_file(content, num_tx_ant)
    books = load_codebooks(weights, content, num_tx_ant)
    with safe_open(path, "pt") as file:
        trained_with = file.metadata()["codebooks"]
    if trained_with != weights.digest(beside, size=DIGEST_BYTES, made_by=RVQ_MADE_BY):
        raise NotFound(
            f"{path} was trained with other codebooks than {beside} beside it: run `{MADE_BY}`",
            field="weights_dir",
        )
    stored = load_file(path)
    network = TokenTransformer(content.num_rows, num_tx_ant)
    network.load_state_dict(network_state(stored))
    tail = TailModel.from_tensors((NUM_SUBBANDS, content.num_rows, num_tx_ant), stored)
    return LearnedWeights(books, stored["order"].long(), tail, network.eval())


# --- the scheme --------------------------------------------------------------------------------------------------


def plan_of(bits: int, shape_bits: int, num_stages: int) -> Plan:
    """Spend exactly ``bits``: as ``rvq`` does while stages last; bits too few for a tail sharpen the level."""
    if bits >= TAIL_FROM:
        level = 5 if bits >= FINE_LEVEL_FROM else 3
        return Plan(
            level, shape_bits, (8,) * TAIL_STAGES, bits - level - shape_bits - 8 * TAIL_STAGES
        )
    plan = Plan.from_bits(bits, shape_bits, 8, num_stages)
    return Plan(plan.level + plan.tail, plan.shape, plan.stages, 0)


def step_row(bits: int, family: torch.Tensor) -> torch.Tensor:
    """Which table the tail's step is coded with, by bits and the shape's family: int64, as ``family``."""
    octave = int(STEP_ROWS_PER_OCTAVE * math.log2(bits / 64))
    return 2 * octave + family


NUM_STEP_ROWS: Final = 2 * (STEP_ROWS_PER_OCTAVE * 4 + 1)


@dataclass(frozen=True, slots=True)
class Latent:
    """A batch of quantised latents: coefficients at unit power as the decoder sees them.

    ``coefficients``, ``word``: complex64 ``[batch, subbands, rx·tx]``; ``condition``: float32 ``[batch, 4]``;
    ``unit``: float32 ``[batch, 1, 1]``, what the quantiser usually leaves of a coefficient.
    """

    coefficients: torch.Tensor
    word: torch.Tensor
    condition: torch.Tensor
    unit: torch.Tensor


class LearnedQuantizer(CsiQuantizer):
    """See the module. Any number of bits from 1 to 1024.

    ``num_rx_ant``: rows that are coded, of ``weights`` made for so many.
    """

    name = "learned"

    def __init__(
        self, num_rx_ant: int, num_tx_ant: int, bits: int, weights: LearnedWeights
    ) -> None:
        super().__init__(num_rx_ant, num_tx_ant)
        self.bits = bits
        self._weights = weights
        self._placed: dict[torch.device, LearnedWeights] = {}
        books = weights.books
        self._plan = plan_of(bits, int(math.log2(len(books.shapes))), books.stages.shape[1])
        self._inner, self._outer = direction_weights(bits)

    def _to_device(self, device: torch.device) -> LearnedWeights:
        if device == self._weights.order.device:
            return self._weights
        if device not in self._placed:
            self._placed[device] = self._weights.to(device)
        return self._placed[device]

    @property
    def _widths(self) -> list[int]:
        return [self._plan.level, self._plan.shape, *self._plan.stages]

    # --- coding ------------------------------------------------------------------------------------------------

    def _encode(self, h: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            weights = self._to_device(h.device)
            level, v = self.analysed(weights, in_double(h))
            return bytes_of(self.written(weights, level, v))

    def _decode(self, payload: torch.Tensor, report_index: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            weights = self._to_device(payload.device)
            level, latent = self.read(weights, bits_of(payload, self.bits))
            return self.rebuilt(weights, level, latent)

    def analysed(
        self, weights: LearnedWeights, h: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Level index ``[batch, 1]`` and coefficients at unit power ``[batch, coefficients]``, weighted."""
        x = weigh_direction(h, self._inner).flatten(1)
        v = x @ weights.books.basis.conj().to(x.dtype)
        rms = v.abs().square().mean(1, keepdim=True).sqrt()
        level = level_index(rms, LEVEL_RANGE_DB, self._plan.level)
        return level, v / rms.clamp_min(1e-12)

    def written(
        self, weights: LearnedWeights, level: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """The message ``[batch, bits]`` of a level and coefficients."""
        books, plan = weights.books, self._plan
        shape, indices, turned, residual = search(books, v, plan.shape, plan.stages)
        message = message_of(torch.cat([level, shape[:, None], indices], dim=1), self._widths)
        if not plan.tail:
            return message
        left = turned.clone()
        left[:, : residual.shape[1]] = residual * books.cell_scale[shape][:, None]
        x = self._on_grid(weights, left)
        parts = torch.stack([x.real, x.imag], dim=1).flatten(2)
        tail = weights.tail.encode(
            parts.cpu().numpy(), shape.cpu().numpy(), self._row(books, shape), plan.tail
        )
        return torch.cat([message, torch.from_numpy(tail).to(message.device)], dim=1)

    def read(self, weights: LearnedWeights, message: torch.Tensor) -> tuple[torch.Tensor, Latent]:
        """Level index and latent that a message ``[batch, bits]`` stands for."""
        books, plan = weights.books, self._plan
        fields = fields_of(message, self._widths)
        shape, indices = fields[:, 1], fields[:, 2:]
        stage = torch.arange(indices.shape[1], device=indices.device)
        words = books.stages[books.cell_family[shape][:, None], stage, indices].sum(1)
        y = torch.zeros((len(shape), len(books.basis)), dtype=torch.complex64, device=shape.device)
        y[:, : words.shape[1]] = books.shapes[shape] + words * books.cell_scale[shape][:, None]
        step = torch.zeros_like(shape)
        if plan.tail:
            start = sum(self._widths)
            values, steps = weights.tail.decode(
                message[:, start:].cpu().numpy(), shape.cpu().numpy(), self._row(books, shape)
            )
            parts = torch.from_numpy(values).to(y.device)
            y = y + torch.complex(parts[:, 0], parts[:, 1])[:, weights.order]
            step = torch.from_numpy(steps).to(y.device)
        return fields[:, :1], self._latent(weights, y, shape, step)

    def rebuilt(self, weights: LearnedWeights, level: torch.Tensor, latent: Latent) -> torch.Tensor:
        """The channel ``[batch, subbands, rx, tx]`` of a latent, by the transformer."""
        y = latent.coefficients + latent.unit * weights.network(
            latent.coefficients, latent.word, latent.condition
        )
        v = y.flatten(1)[:, weights.order] * level_value(
            level, LEVEL_RANGE_DB, self._plan.level, USUAL_LEVEL
        )
        h = block_matmul(v, weights.books.basis.mT).view(-1, *self.shape)
        return weigh_direction(h, self._outer)

    # --- parts -------------------------------------------------------------------------------------------------

    def _on_grid(self, weights: LearnedWeights, v: torch.Tensor) -> torch.Tensor:
        """From the codebooks' order to ``[batch, subbands, rx·tx]``."""
        grid = torch.empty_like(v)
        grid[:, weights.order] = v
        return grid.view(len(v), NUM_SUBBANDS, -1)

    def _row(self, books: Codebooks, shape: torch.Tensor) -> Integers:
        row: Integers = step_row(self.bits, books.cell_family[shape]).cpu().numpy()
        return row

    def _latent(
        self,
        weights: LearnedWeights,
        y: torch.Tensor,
        shape: torch.Tensor,
        step: torch.Tensor,
    ) -> Latent:
        books = weights.books
        word = torch.zeros_like(y)
        word[:, : books.shapes.shape[1]] = books.shapes[shape]
        known = torch.tensor([math.log2(self.bits) / 10, float(self._plan.tail > 0)])
        condition = torch.cat(
            [
                known.to(y.device).expand(len(y), -1),
                (step / NUM_STEPS)[:, None],
                books.cell_scale[shape].log2()[:, None],
            ],
            dim=1,
        )
        unit = books.cell_scale[shape]
        if self._plan.tail:
            unit = step_sizes().to(y.device)[step]
        return Latent(
            self._on_grid(weights, y), self._on_grid(weights, word), condition, unit[:, None, None]
        )


def learned(request: QuantizerRequest) -> CsiQuantizer:
    """``learned`` as a link asks for it."""
    weights = load_learned(request.weights, request.content, request.num_tx_ant)
    inner = LearnedQuantizer(request.content.num_rows, request.num_tx_ant, request.bits, weights)
    return request.over_rows(inner)
