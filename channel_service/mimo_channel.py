"""The MIMO channel: precoded frames through the channel of their slot, pilots and zero-power elements included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from channel_service.estimation import ZERO_POWER_ELEMENTS
from semlink.grid import NUM_SUBBANDS
from semlink.seeds import stable_seed
from semlink.signal.equalization import lmmse, mean_sinr_db, over_subbands
from semlink.signal.precoding import noise_power, own_streams_first

MIN_PILOT_LENGTH: Final = 12
QPSK: Final = np.array([1 + 1j, -1 + 1j, 1 - 1j, -1 - 1j], np.complex64) / np.float32(math.sqrt(2))


def pilot_length(num_streams: int) -> int:
    """Elements of a port's demodulation pilot in each subband: 12, more only where so many ports need it.

    Sequences of length ``n`` can be orthogonal for at most ``n`` ports.
    """
    return max(MIN_PILOT_LENGTH, num_streams)


@dataclass(frozen=True, slots=True)
class NoiseRealization:
    """What chance adds to one frame, of unit power: complex64.

    ``others``: symbols of the co-scheduled users ``[num_streams − num_layers, n]``, from the stream after the frame's
    own ones on, cyclically; ``noise`` ``[num_rx_ant, n]``;
    ``pilot_noise`` ``[num_subbands, num_rx_ant, num_streams]``; ``zero_power`` ``[num_rx_ant, ZERO_POWER_ELEMENTS]``.
    """

    others: NDArray[np.complex64]
    noise: NDArray[np.complex64]
    pilot_noise: NDArray[np.complex64]
    zero_power: NDArray[np.complex64]


def draw(
    link_seed: int,
    slot: int,
    frame_seed: int,
    *,
    num_rx_ant: int,
    num_layers: int,
    num_streams: int,
    num_elements: int,
    user: int = 0,
) -> NoiseRealization:
    """Everything random about one frame alone in its slot, a pure function of the seeds, the user and the sizes.

    The co-scheduled streams carry random QPSK symbols; all noise is circular Gaussian. Unit draws that do not depend
    on the SNR: a sweep over the SNR sees the same noise, scaled.
    """
    # Two users of a slot never share their noise, also where their frames have one seed.
    whose = (user,) if user else ()
    rng = np.random.Generator(
        np.random.Philox(key=stable_seed("noise", link_seed, slot, frame_seed, *whose))
    )
    data = num_rx_ant * num_elements
    pilots = data + NUM_SUBBANDS * num_rx_ant * num_streams
    total = pilots + num_rx_ant * ZERO_POWER_ELEMENTS
    gaussian = rng.standard_normal(2 * total, dtype=np.float32).view(np.complex64)
    gaussian *= np.float32(math.sqrt(0.5))
    rng = np.random.Generator(
        np.random.Philox(key=stable_seed("co-scheduled", link_seed, slot, frame_seed))
    )
    others = QPSK[rng.integers(0, 4, (num_streams - num_layers, num_elements))]
    return NoiseRealization(
        others,
        gaussian[:data].reshape(num_rx_ant, num_elements),
        gaussian[data:pilots].reshape(NUM_SUBBANDS, num_rx_ant, num_streams),
        gaussian[pilots:].reshape(num_rx_ant, ZERO_POWER_ELEMENTS),
    )


def slot_streams(
    link_seed: int,
    slot: int,
    messages: Sequence[tuple[int, NDArray[np.complex64]]],
    *,
    num_streams: int,
) -> NDArray[np.complex64]:
    """What the base station sends in a slot that several messages share: complex64 ``[num_streams, n]``.

    ``messages``: for each its user and its symbols ``[num_layers, n_i]``; ``n`` is the longest's. Streams without a
    message, and the elements past a shorter message's end, carry random QPSK of unit power: a pure function of
    (link seed, slot) and the size.
    """
    rng = np.random.Generator(np.random.Philox(key=stable_seed("shared", link_seed, slot)))
    longest = max(symbols.shape[1] for _, symbols in messages)
    streams = QPSK[rng.integers(0, 4, (num_streams, longest))]
    for user, symbols in messages:
        num_layers, n = symbols.shape
        streams[user * num_layers : (user + 1) * num_layers, :n] = symbols
    return streams


def with_interferers(
    draws: NoiseRealization, streams: NDArray[np.complex64], user: int
) -> NoiseRealization:
    """The draws of a frame whose neighbours are the other ``streams`` of its slot (see :func:`slot_streams`)."""
    num_elements = draws.noise.shape[1]
    num_layers = len(streams) - len(draws.others)
    own_first = np.roll(streams[:, :num_elements], -user * num_layers, axis=0)
    return replace(draws, others=np.ascontiguousarray(own_first[num_layers:]))


@dataclass(frozen=True, slots=True)
class Received:
    """A batch at the receivers' antennas, on the channel's device.

    ``samples`` complex64 ``[batch, num_rx_ant, n]``; ``pilots`` complex64
    ``[batch, num_subbands, num_rx_ant, num_streams]``; ``zero_power`` complex64 ``[batch, num_rx_ant, elements]``;
    ``sinr_db`` float64 ``[batch]``: the LMMSE equaliser's true SINR, geometric mean over the frame's symbols.
    """

    samples: torch.Tensor
    pilots: torch.Tensor
    zero_power: torch.Tensor
    sinr_db: torch.Tensor


def apply_channel(
    h: torch.Tensor, precoder: torch.Tensor, streams: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """``y[:, i] = H_s W_s u[:, i]`` with ``s = i mod num_subbands``: the physics, without noise.

    ``h``: complex64 ``[batch, num_subbands, num_rx_ant, num_tx_ant]``; ``precoder``: complex64
    ``[batch, num_subbands, num_tx_ant, num_streams]``; ``streams``: complex64 ``[batch, num_streams, n]``.
    Returns samples ``[batch, num_rx_ant, n]`` and the effective channel ``H W``
    ``[batch, num_subbands, num_rx_ant, num_streams]``.
    """
    effective = h @ precoder
    return over_subbands(streams, effective), effective


def transmit(
    h: torch.Tensor,
    precoder: torch.Tensor,
    symbols: torch.Tensor,
    snr_db: torch.Tensor,
    draws: Sequence[NoiseRealization],
    user: torch.Tensor | None = None,
) -> Received:
    """Carry a batch of frames of equal shape, each to its ``user`` (int64 ``[batch]``, default 0).

    ``h``: complex64 ``[batch, num_subbands, num_rx_ant, num_tx_ant]``, that user's channel in each frame's slot;
    ``precoder``: complex64 ``[batch, num_subbands, num_tx_ant, num_streams]``; ``symbols``: complex64
    ``[batch, num_layers, n]``; ``snr_db``: float64 ``[batch]``.
    """
    if user is None:
        user = torch.zeros(len(h), dtype=torch.int64, device=h.device)

    def stacked(arrays: list[NDArray[np.complex64]]) -> torch.Tensor:
        return torch.from_numpy(np.stack(arrays)).to(h.device)

    num_streams, num_layers = precoder.shape[-1], symbols.shape[1]
    n0 = noise_power(num_streams, snr_db)
    amplitude = n0.sqrt().float()[:, None, None]
    streams = torch.cat([symbols, stacked([d.others for d in draws])], dim=1)
    own_first = own_streams_first(precoder, user, num_layers)
    clean, effective = apply_channel(h, own_first, streams)
    pilot_amplitude = amplitude.unsqueeze(-1) / math.sqrt(pilot_length(num_streams))
    _, sinr = lmmse(effective, n0, num_layers)
    return Received(
        samples=clean + amplitude * stacked([d.noise for d in draws]),
        pilots=own_streams_first(effective, -user, num_layers)
        + pilot_amplitude * stacked([d.pilot_noise for d in draws]),
        zero_power=amplitude * stacked([d.zero_power for d in draws]),
        sinr_db=mean_sinr_db(sinr, symbols.shape[-1]),
    )
