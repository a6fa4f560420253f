"""Arithmetic coding of a batch of messages side by side, into exactly the bits that there are. Our definition.

Each message is a string of symbols whose probabilities are integers over ``2^PRECISION`` that may depend on what was
decoded before. The coder is the textbook one (Witten, Neal and Cleary, 1987) in integers of 48 bits with digits of 16:
integer arithmetic alone, so that every machine decodes the same. Lanes (messages) never meet: a batch mate changes
nothing, and a symbol that is certain costs nothing. There is no end mark: the decoder knows how many symbols to expect,
and bits past the end read as zero.

Examples
--------
>>> half = 1 << (PRECISION - 1)  # two symbols, equally likely: a bit each
>>> symbols = np.array([[0, 1], [1, 1], [1, 0]])  # 3 steps, 2 lanes
>>> message, fits = encode(half * symbols, np.full_like(symbols, half), bits=4)
>>> decoder, found = Decoder(message, 3), []
>>> for _ in range(3):
...     found.append(decoder.target() // half)
...     decoder.take(half * found[-1], np.full(2, half))
>>> bool(fits.all()), bool((np.array(found) == symbols).all())
(True, True)
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

PRECISION: Final = 14
"""Bits of a probability: frequencies of a symbol's alternatives add up to ``2^PRECISION``."""
_DIGIT: Final = 16
_WHOLE: Final = 1 << 48
_MIN_RANGE: Final = 1 << 32


def encode(start: Integers, frequency: Integers, bits: int) -> tuple[Integers, NDArray[np.bool_]]:
    """Bits of the strings of symbols with cumulative frequency ``start`` and ``frequency``, int64 ``[steps, lanes]``.

    :returns: int64 ``[lanes, bits]`` of 0 and 1, and which lanes' strings fit into ``bits`` bits (others are void).
    """
    steps, lanes = start.shape
    # A lane's value as digits of 16 bits that may hold carries until the end.
    digits = np.zeros((lanes, steps * PRECISION // _DIGIT + 8), np.int64)
    flat = digits.reshape(-1)
    base = np.arange(lanes) * digits.shape[1]
    span = np.full(lanes, _WHOLE)
    for begin, share in zip(start, frequency, strict=True):
        unit = span >> PRECISION
        low = unit * begin
        flat[base] += low >> 32
        flat[base + 1] += (low >> 16) & 0xFFFF
        flat[base + 2] += low & 0xFFFF
        span = np.where(share == 1 << PRECISION, span, unit * share)
        small = (span < _MIN_RANGE).nonzero()[0]
        if len(small):
            span[small] <<= _DIGIT
            base[small] += 1
    shifts = base - np.arange(lanes) * digits.shape[1]
    return _shortest(digits, span, shifts, bits)


def _shortest(
    digits: Integers, span: Integers, shifts: Integers, bits: int
) -> tuple[Integers, NDArray[np.bool_]]:
    """The number of ``bits`` bits in each lane's interval, which is ``span`` units of digit ``shifts + 2`` wide."""
    lanes, count = digits.shape
    for i in range(count - 1, 0, -1):
        digits[:, i - 1] += digits[:, i] >> _DIGIT
        digits[:, i] &= 0xFFFF
    powers = np.arange(_DIGIT - 1, -1, -1)
    before = ((digits[:, :, None] >> powers) & 1).reshape(lanes, -1)
    # Round up to a whole number of 2^-bits: add one at bit `bits` where anything follows it.
    width = max(bits, before.shape[1])
    value = np.zeros((lanes, width), np.int64)
    value[:, : before.shape[1]] = before
    rest: NDArray[np.bool_] = value[:, bits:].max(1, initial=0) > 0
    chosen = value[:, :bits].copy()
    carry = rest.astype(np.int64)
    for i in range(bits - 1, -1, -1):
        if not carry.any():
            break
        total = chosen[:, i] + carry
        chosen[:, i], carry = total & 1, total >> 1
    fits = (carry == 0) & _within(value, rest, span, (shifts + 3) * _DIGIT, bits)
    return chosen, fits


def _within(
    value: Integers, rest: NDArray[np.bool_], span: Integers, end: Integers, bits: int
) -> NDArray[np.bool_]:
    """Whether ``2^-bits`` less what of ``value`` lies behind bit ``bits`` is less than ``span · 2^-end``."""
    below = np.zeros(len(value), np.int64)
    spare = end - bits
    # With more than 48 bits to spare the step is wider than any interval; with none it is no step at all.
    for i in range(48):
        inside = spare > i
        column = np.minimum(bits + i, value.shape[1] - 1)
        below = np.where(inside, 2 * below + value[:, column], below)
    step = np.left_shift(1, np.clip(spare, 0, 48))
    return (spare <= 48) & (~rest | (step - below < span))


class Decoder:
    """Reads the symbols of a batch of messages, int64 ``[lanes, bits]`` of 0 and 1, one after the other."""

    def __init__(self, message: Integers, steps: int) -> None:
        lanes, bits = message.shape
        count = max(steps * PRECISION // _DIGIT, -(-bits // _DIGIT)) + 8
        padded = np.zeros((lanes, count * _DIGIT), np.int64)
        padded[:, :bits] = message
        powers = 1 << np.arange(_DIGIT - 1, -1, -1)
        digits = (padded.reshape(lanes, count, _DIGIT) * powers).sum(-1)
        self._digits = digits.reshape(-1)
        self._next = np.arange(lanes) * count + 3
        self._value = (digits[:, 0] << 32) | (digits[:, 1] << 16) | digits[:, 2]
        self._span = np.full(lanes, _WHOLE)

    def target(self) -> Integers:
        """Where each lane's next symbol lies: 0…2^PRECISION − 1."""
        self._unit = self._span >> PRECISION
        found: Integers = np.minimum(self._value // self._unit, (1 << PRECISION) - 1)
        return found

    def take(self, start: Integers, frequency: Integers) -> None:
        """Go past the symbol that was found at :meth:`target`."""
        self._value -= self._unit * start
        self._span = np.where(frequency == 1 << PRECISION, self._span, self._unit * frequency)
        small = (self._span < _MIN_RANGE).nonzero()[0]
        if len(small):
            # No encoder leaves a value past its interval; any other payload must not run away.
            inside = np.minimum(self._value[small], self._span[small] - 1)
            self._span[small] <<= _DIGIT
            self._value[small] = (inside << _DIGIT) | self._digits[self._next[small]]
            self._next[small] += 1
