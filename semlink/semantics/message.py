r"""Messages of several components (a global feature, then prototypes), the important protected best. Our definition.

Components come in order of importance. The first gets the most symbols, the earliest ones and the most power; when a
message is short the last components are not sent at all. Both ends read the split from k and the number of components,
so it costs no signalling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import torch

from semlink.components import CODECS
from semlink.decibels import amplitude_to_db, db_to_lin
from semlink.errors import InvalidField
from semlink.semantics.codec import SYMBOL_COUNTS, Codec, load_codec
from semlink.semantics.heads import FEATURE_DIM
from semlink.signal.link import LinkLike
from semlink.weight_files import Weights

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
    boost = db_to_lin(PROTECTION_DB) if sum(n > 0 for n in lengths) > 1 else 1.0
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
        level = snr_db[:, start : start + length] + amplitude_to_db(torch.tensor(amplitude))
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


class MessageCodec(Protocol):
    """Both ends of a way to carry components over symbols; see :func:`semlink.components.register_codec`."""

    def encode(
        self,
        components: torch.Tensor,
        sinr_db: torch.Tensor,
        modality: str,
        links: Sequence[LinkLike],
        known: bool,
    ) -> tuple[torch.Tensor, list[int]]:
        """Components to symbols.

        :param components: float32 ``[batch, num_components, 256]``, unit norm, the most important first.
        :param sinr_db: float32 ``[batch, k]``, the SINR after equalisation that is predicted for each symbol.
        :param modality: "text", "image" or "audio".
        :param links: of each message.
        :param known: False when there was no report to precode from.
        :returns: complex64 ``[batch, k]`` of unit mean power, and the MCS of each message, 0 where there is none.
        """

    def decode(
        self,
        symbols: torch.Tensor,
        noise_variance: torch.Tensor,
        modality: str,
        num_components: int,
        mcs: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Equalised symbols to components.

        :param symbols: complex64 ``[batch, k]``, unbiased.
        :param noise_variance: float32 ``[batch, k]``, > 0.
        :returns: float32 ``[batch, num_sent, 256]``, and bool ``[batch]``: where the message is lost (zeros).
        """


class JsccCodec:
    """``jscc``: symbols of deep joint source-channel coding, :func:`encode_message`."""

    def __init__(self, space: str, device: torch.device, weights: Weights) -> None:  # noqa: ARG002
        self._codec = load_codec(space, device=device)

    def encode(
        self,
        components: torch.Tensor,
        sinr_db: torch.Tensor,
        modality: str,  # noqa: ARG002
        links: Sequence[LinkLike],  # noqa: ARG002
        known: bool,  # noqa: ARG002
    ) -> tuple[torch.Tensor, list[int]]:
        """See :class:`MessageCodec`."""
        symbols = encode_message(self._codec, components, sinr_db, sinr_db.shape[1])
        return symbols, [0] * len(components)

    def decode(
        self,
        symbols: torch.Tensor,
        noise_variance: torch.Tensor,
        modality: str,  # noqa: ARG002
        num_components: int,
        mcs: int,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`MessageCodec`; nothing is ever lost."""
        components = decode_message(self._codec, symbols, noise_variance, num_components)
        return components, torch.zeros(len(symbols), dtype=torch.bool)


def load_message_codec(
    coding: str, space: str, device: torch.device, weights: Weights
) -> MessageCodec:
    """Return the codec of that name for a space. Raises InvalidField for an unknown one."""
    codec: MessageCodec = CODECS.get(coding).load()(space, device, weights)
    return codec
