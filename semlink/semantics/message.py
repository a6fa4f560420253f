r"""Messages of several components (a global feature, then prototypes), the important protected best. Our definition.

Components come in order of importance. The first gets the most symbols, the earliest ones and the most power; when a
message is short the last components are not sent at all. Both ends read the split from k and the number of components,
so it costs no signalling.
"""

from __future__ import annotations

from typing import Final

import torch

from semlink.errors import InvalidField
from semlink.semantics.codec import SYMBOL_COUNTS, Codec
from semlink.semantics.heads import FEATURE_DIM

MAX_COMPONENTS: Final = 8
MIN_FIRST_SYMBOLS: Final = 16
"""Symbols below which the first component is not shortened for the sake of others."""
PROTECTION_DB: Final = 2.0
"""Power of the first component's symbols over that of the others'."""


def component_symbols(k: int, num_components: int) -> tuple[int, ...]:
    """Symbols of each component, most important first: halves of what is left, each a length that the codec has.

    The last sent component takes all that is left; a component with 0 symbols is not sent. Adds up to ``k``.
    Raises InvalidField for a ``k`` that is not offered or a number of components outside 1…8.
    """
    if k not in SYMBOL_COUNTS:
        raise InvalidField(
            f"symbols is {k}, allowed: {', '.join(map(str, SYMBOL_COUNTS))}", field="symbols"
        )
    if not 1 <= num_components <= MAX_COMPONENTS:
        raise InvalidField(
            f"components is {num_components}, allowed: 1…{MAX_COMPONENTS}", field="components"
        )
    lengths, left = [], k
    for place in range(num_components):
        half = left // 2
        last = place == num_components - 1
        least = MIN_FIRST_SYMBOLS if place == 0 else SYMBOL_COUNTS[0]
        lengths.append(left if last or half < least else half)
        left -= lengths[-1]
    return tuple(lengths)


def _amplitudes(lengths: tuple[int, ...]) -> list[float]:
    """Amplitude of each component's unit-power symbols; their mean power over the message is 1."""
    boost = 10.0 ** (PROTECTION_DB / 10.0) if sum(n > 0 for n in lengths) > 1 else 1.0
    powers = [boost, *(1.0 for _ in lengths[1:])]
    mean = sum(p * n for p, n in zip(powers, lengths, strict=True)) / sum(lengths)
    return [(p / mean) ** 0.5 for p in powers]


def encode_message(
    codec: Codec, components: torch.Tensor, snr_db: torch.Tensor, k: int
) -> torch.Tensor:
    """Components to symbols.

    ``components``: float32 ``[batch, num_components, 256]``, unit norm, most important first; ``snr_db``: float32
    ``[batch, k]``, the SNR after equalisation that is predicted for each symbol. Returns complex64 ``[batch, k]`` of
    unit mean power. With one component it is :meth:`Codec.encode`. Raises InvalidField as that does, and for another
    number of components.
    """
    if components.ndim != 3 or components.shape[-1] != FEATURE_DIM:
        raise InvalidField(
            f"components has shape {tuple(components.shape)}, expected [batch, num_components, {FEATURE_DIM}]",
            field="components",
        )
    if snr_db.shape != (len(components), k):
        raise InvalidField(
            f"snr_db has shape {tuple(snr_db.shape)}, expected {(len(components), k)}",
            field="snr_db",
        )
    lengths = component_symbols(k, components.shape[1])
    parts, start = [], 0
    for place, (length, amplitude) in enumerate(zip(lengths, _amplitudes(lengths), strict=True)):
        if not length:
            break
        level = snr_db[:, start : start + length] + 20.0 * torch.tensor(amplitude).log10()
        parts.append(amplitude * codec.encode(components[:, place], level, length))
        start += length
    return torch.cat(parts, dim=1)


def decode_message(
    codec: Codec, symbols: torch.Tensor, noise_variance: torch.Tensor, num_components: int
) -> torch.Tensor:
    """Equalised symbols to the components that were sent, most important first.

    ``symbols``: complex64 ``[batch, k]``, unbiased; ``noise_variance``: float32 ``[batch, k]``, > 0. Returns float32
    ``[batch, num_sent, 256]``, ``num_sent ≤ num_components``, unit norm. Raises InvalidField as :meth:`Codec.decode`.
    """
    if noise_variance.shape != symbols.shape:
        raise InvalidField(
            f"noise_variance has shape {tuple(noise_variance.shape)}, expected {tuple(symbols.shape)}",
            field="noise_variance",
        )
    lengths = component_symbols(symbols.shape[-1], num_components)
    parts, start = [], 0
    for length, amplitude in zip(lengths, _amplitudes(lengths), strict=True):
        if not length:
            break
        own = slice(start, start + length)
        parts.append(
            codec.decode(symbols[:, own] / amplitude, noise_variance[:, own] / amplitude**2)
        )
        start += length
    return torch.stack(parts, dim=1)
