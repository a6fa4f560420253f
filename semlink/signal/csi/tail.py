"""What vector-quantised stages leave, entropy-coded: the tail of a ``learned`` report. Our definition.

The coefficients are quantised by one uniform step with a dead zone, the finest step that the bits allow for this very
report. Symbols are coded arithmetically in the order (subband, receive, transmit component), real part before
imaginary. The probability of a symbol depends on its *bucket*, how large the coefficient usually is in the shape's cell
against the step, and its *neighbourhood*, how large those coded before it in the neighbouring components turned out.
Both are integers made from integers, so that encoder and decoder agree on every machine. A symbol is reconstructed at
the mean of what training saw there.

Examples
--------
>>> bool((step_sizes()[:-4] / step_sizes()[4:] - 2).abs().max() < 1e-6)  # four steps to a factor of two
True
>>> x = np.array([[[0.5, -1.7], [0.7, 3.0]]])  # one report of two coefficients: real parts, imaginary parts
>>> quantised(x, np.ones(1, np.float32), np.ones((1, 2), np.int16)).tolist()
[[[0, -2], [1, 3]]]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from semlink.signal.csi.arithmetic import PRECISION, Decoder, Integers, encode

NUM_STEPS: Final = 32
"""Step sizes on offer, 1.5 dB apart."""
NUM_BUCKETS: Final = 16
NEIGHBOURHOODS: Final = np.array([1, 3, 5, 8, 12, 18, 28])
"""Neighbourhood ``c`` holds weighted sums of magnitudes below ``NEIGHBOURHOODS[c]``; the last holds the rest."""
NUM_NEIGHBOURHOODS: Final = len(NEIGHBOURHOODS) + 1
LARGEST: Final = 31
"""Largest magnitude of a symbol."""
ROUNDING: Final = 0.36
"""A magnitude of ``x`` steps becomes ``floor(x + ROUNDING)``: zeros are cheap. Chosen on validation drops."""
SILENT: Final = 0
"""Coefficients in this bucket are far below the step: they are zero and cost nothing."""
_OCTAVE: Final = 8
"""Profile levels to a factor of two."""


def step_sizes() -> torch.Tensor:
    """The steps, coarsest first, at unit mean power of a coefficient: float32 ``[NUM_STEPS]``."""
    return torch.exp2(2.5 - torch.arange(NUM_STEPS) / 4)


def buckets(levels: NDArray[np.int16], step: Integers) -> NDArray[np.int16]:
    """Bucket of each coefficient of ``levels [batch, coefficients]``, eighths of an octave, at ``step [batch]``."""
    step_level = 20 - 2 * step.astype(np.int16)
    half_octaves = (levels - step_level[:, None] + _OCTAVE // 4) >> 2
    found: NDArray[np.int16] = np.clip(half_octaves + 7, SILENT, NUM_BUCKETS - 1)
    return found


def neighbourhoods(symbols: NDArray[np.int16], num_rx_ant: int) -> NDArray[np.int16]:
    """Neighbourhood of every real component: ``symbols [batch, 2, subbands, rx, tx]`` → the same shape.

    Weights: 4 for the component one subband eigenvector before, one receive antenna before, 2 for two subband
    eigenvectors or one transmit eigenvector before, 1 for two; the imaginary part sees its real part with 6.
    """
    magnitude = np.minimum(np.abs(symbols), 3)
    both = magnitude[:, 0] + magnitude[:, 1]
    near = np.zeros_like(both)
    near[:, 1:] += 4 * both[:, :-1]
    near[:, 2:] += 2 * both[:, :-2]
    if num_rx_ant > 1:
        near[:, :, 1:] += 4 * both[:, :, :-1]
    near[..., 1:] += 2 * both[..., :-1]
    near[..., 2:] += both[..., :-2]
    sums = np.stack([near, near + 6 * magnitude[:, 0]], axis=1)
    found: NDArray[np.int16] = _neighbourhood_of()[np.minimum(sums, NEIGHBOURHOODS[-1])]
    return found


def _neighbourhood_of() -> NDArray[np.int16]:
    sums = np.arange(NEIGHBOURHOODS[-1] + 1)
    return np.searchsorted(NEIGHBOURHOODS, sums, side="right").astype(np.int16)


def quantised(
    x: NDArray[np.floating], step: NDArray[np.float32], bucket: NDArray[np.int16]
) -> NDArray[np.int16]:
    """Symbols of ``x [batch, 2, coefficients]`` by ``step [batch]``; silent coefficients are zero."""
    magnitude = np.minimum(np.floor(np.abs(x) / step[:, None, None] + ROUNDING), LARGEST)
    magnitude[np.broadcast_to(bucket[:, None] == SILENT, magnitude.shape)] = 0
    found: NDArray[np.int16] = np.copysign(magnitude, x).astype(np.int16)
    return found


@dataclass(frozen=True, slots=True)
class TailModel:
    """Integer tables of one antenna configuration.

    ``levels``: int16 ``[cells, coefficients]``, the coefficients' usual RMS by cell, in eighths of an octave, in the
    order of coding. ``frequency``: int64 ``[contexts, 2·LARGEST + 1]`` of the symbols ``−LARGEST…LARGEST`` and
    ``step_frequency`` int64 ``[rows, NUM_STEPS]``, each row adding up to ``2^PRECISION``; a context is
    ``bucket · NUM_NEIGHBOURHOODS + neighbourhood``. ``centroid``: float32 ``[contexts, LARGEST + 1]``, in steps.
    """

    grid: tuple[int, int, int]
    levels: NDArray[np.int16]
    frequency: Integers
    step_frequency: Integers
    centroid: NDArray[np.float32]
    start: Integers
    step_start: Integers
    symbol_at: NDArray[np.uint8]
    step_at: NDArray[np.uint8]
    cost: NDArray[np.float32]
    step_cost: NDArray[np.float32]

    @classmethod
    def from_tensors(
        cls, grid: tuple[int, int, int], stored: Mapping[str, torch.Tensor]
    ) -> TailModel:
        """From what is stored: ``level_mean``, ``level_cell``, ``level_component``, ``frequency`` and so on."""
        product = stored["level_cell"].long() @ stored["level_component"].long()
        levels = stored["level_mean"].long() + (product >> 10)
        half = stored["frequency"].long().numpy()
        mirrored = np.concatenate([half[:, :0:-1], half], axis=1)
        frequency = _completed(mirrored)
        steps = _completed(stored["step_frequency"].long().numpy())
        return cls(
            grid=grid,
            levels=levels.numpy().astype(np.int16),
            frequency=frequency,
            step_frequency=steps,
            centroid=stored["centroid"].float().numpy(),
            start=frequency.cumsum(1) - frequency,
            step_start=steps.cumsum(1) - steps,
            symbol_at=_spread(frequency),
            step_at=_spread(steps),
            cost=(PRECISION - np.log2(frequency)).astype(np.float32),
            step_cost=(PRECISION - np.log2(steps)).astype(np.float32),
        )

    # --- coding ------------------------------------------------------------------------------------------------

    def encode(self, x: NDArray[np.floating], cell: Integers, row: Integers, bits: int) -> Integers:
        """``bits`` bits of ``x [batch, 2, coefficients]`` (in the order of coding); ``row`` picks the step's table.

        :returns: int64 ``[batch, bits]`` of 0 and 1.
        """
        symbols, step = self.chosen(x, cell, row, bits)
        message, fits = self._written(symbols, cell, step, row, bits)
        if not fits.all():
            # At the coarsest step a strange channel may still not fit: then the tail says nothing.
            step[~fits], symbols[~fits] = 0, 0
            message = self._written(symbols, cell, step, row, bits)[0]
        return message

    def chosen(
        self, x: NDArray[np.floating], cell: Integers, row: Integers, bits: int
    ) -> tuple[NDArray[np.int16], Integers]:
        """Symbols of ``x`` and the finest step whose symbols ``bits`` bits hold, found by bisection."""
        levels = self.levels[cell]
        sizes = step_sizes().numpy()
        batch = np.arange(len(x))
        step = np.zeros(len(x), np.int64)
        budget = bits - self.step_cost[row] - 0.25
        for jump in (16, 8, 4, 2, 1):
            finer = step + jump
            bucket = buckets(levels, finer)
            symbols = quantised(x, sizes[finer], bucket)
            price = self.cost.reshape(-1)[
                self.contexts(bucket, symbols) * self.cost.shape[1] + symbols + LARGEST
            ]
            price[np.broadcast_to(bucket[:, None] == SILENT, price.shape)] = 0
            fits = price.sum((1, 2), dtype=np.float64) <= budget[batch, finer]
            step = np.where(fits, finer, step)
        return quantised(x, sizes[step], buckets(levels, step)), step

    def contexts(self, bucket: NDArray[np.int16], symbols: NDArray[np.int16]) -> Integers:
        """Context of every symbol of ``symbols [batch, 2, coefficients]``, the same shape."""
        near = neighbourhoods(symbols.reshape(-1, 2, *self.grid), self.grid[1])
        found: Integers = bucket[:, None].astype(np.int64) * NUM_NEIGHBOURHOODS + near.reshape(
            symbols.shape
        )
        return found

    def values(
        self, symbols: NDArray[np.int16], contexts: Integers, step: Integers
    ) -> NDArray[np.float32]:
        """What ``symbols [batch, 2, coefficients]`` stand for."""
        whole = self.centroid[contexts, np.abs(symbols)] * np.sign(symbols)
        found: NDArray[np.float32] = whole * step_sizes().numpy()[step][:, None, None]
        return found

    def _written(
        self,
        symbols: NDArray[np.int16],
        cell: Integers,
        step: Integers,
        row: Integers,
        bits: int,
    ) -> tuple[Integers, NDArray[np.bool_]]:
        bucket = buckets(self.levels[cell], step)
        spoken = (bucket != SILENT).any(0)
        silent = np.repeat(bucket[:, spoken] == SILENT, 2, axis=1)
        context = self.contexts(bucket, symbols)[..., spoken].transpose(0, 2, 1)
        index = symbols[..., spoken].transpose(0, 2, 1).astype(np.int64) + LARGEST
        place = (context * self.start.shape[1] + index).reshape(len(step), -1)
        start = np.where(silent, 0, self.start.reshape(-1)[place])
        share = np.where(silent, 1 << PRECISION, self.frequency.reshape(-1)[place])
        return encode(
            np.concatenate([self.step_start[row, step][None], start.T]),
            np.concatenate([self.step_frequency[row, step][None], share.T]),
            bits,
        )

    def decode(
        self, message: Integers, cell: Integers, row: Integers
    ) -> tuple[NDArray[np.float32], Integers]:
        """Inverse of :meth:`encode`: coefficients ``[batch, 2, coefficients]`` and each report's step."""
        decoder = Decoder(message, 1 + 2 * self.levels.shape[1])
        step = self.step_at[row, decoder.target()].astype(np.int64)
        decoder.take(self.step_start[row, step], self.step_frequency[row, step])
        bucket = buckets(self.levels[cell], step)
        symbols, contexts = self._read(decoder, bucket)
        return self.values(symbols.transpose(2, 1, 0), contexts.transpose(2, 1, 0), step), step

    def _read(
        self, decoder: Decoder, bucket: NDArray[np.int16]
    ) -> tuple[NDArray[np.int16], Integers]:
        """Symbols and contexts, ``[coefficients, 2, batch]``."""
        _, num_rx_ant, num_tx_ant = self.grid
        plane = num_rx_ant * num_tx_ant
        coefficients, batch = bucket.shape[1], len(bucket)
        symbols = np.zeros((coefficients, 2, batch), np.int16)
        contexts = np.zeros((coefficients, 2, batch), np.int64)
        near = np.zeros((coefficients + 2 * plane, batch), np.int64)
        base = bucket.T.astype(np.int64) * NUM_NEIGHBOURHOODS
        silent = bucket.T == SILENT
        all_silent, any_silent = silent.all(1), silent.any(1)
        of_sum = _neighbourhood_of().astype(np.int64)
        most = int(NEIGHBOURHOODS[-1])
        symbol_at, width = self.symbol_at.reshape(-1), 2 * LARGEST + 1
        start_at, share_at = self.start.reshape(-1), self.frequency.reshape(-1)
        for i in range(coefficients):
            if all_silent[i]:
                continue
            seen = near[i]
            for part in (0, 1):
                context = base[i] + of_sum[np.minimum(seen, most)]
                symbol = symbol_at[(context << PRECISION) + decoder.target()].astype(np.int64)
                place = context * width + symbol
                start, share = start_at[place], share_at[place]
                value = symbol - LARGEST
                if any_silent[i]:
                    value = np.where(silent[i], 0, value)
                    start = np.where(silent[i], 0, start)
                    share = np.where(silent[i], 1 << PRECISION, share)
                decoder.take(start, share)
                symbols[i, part], contexts[i, part] = value, context
                magnitude = np.minimum(np.abs(value), 3)
                if part == 0:
                    seen = seen + 6 * magnitude
                    both = magnitude
                else:
                    both = both + magnitude
            if both.any():
                near[i + plane] += 4 * both
                near[i + 2 * plane] += 2 * both
                place_in_plane = i % plane
                if place_in_plane < plane - num_tx_ant:
                    near[i + num_tx_ant] += 4 * both
                if i % num_tx_ant < num_tx_ant - 1:
                    near[i + 1] += 2 * both
                if i % num_tx_ant < num_tx_ant - 2:
                    near[i + 2] += both
        return symbols, contexts


def _completed(frequency: Integers) -> Integers:
    """Rows of positive integers scaled to add up to ``2^PRECISION``, each at least 1; the middle takes the rest."""
    whole = 1 << PRECISION
    free = whole - frequency.shape[1]
    scaled = 1 + frequency * free // np.maximum(frequency.sum(1, keepdims=True), 1)
    rows = np.arange(len(scaled))
    scaled[rows, scaled.argmax(1)] += whole - scaled.sum(1)
    whole_rows: Integers = scaled.astype(np.int64)
    return whole_rows


def _spread(frequency: Integers) -> NDArray[np.uint8]:
    """Which alternative each of the ``2^PRECISION`` targets belongs to, by row."""
    alternatives = np.arange(frequency.shape[1], dtype=np.uint8)
    return np.stack([np.repeat(alternatives, row) for row in frequency])
