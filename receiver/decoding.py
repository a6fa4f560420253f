"""From samples to components: noise level, LMMSE equaliser, semantic decoder, batched over frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from semlink.errors import InvalidField
from semlink.grid import NUM_SUBBANDS
from semlink.grouping import run_grouped
from semlink.semantics.encoders import num_components
from semlink.semantics.headers import parse_header
from semlink.semantics.message import load_message_codec
from semlink.semantics.spaces import space_of
from semlink.signal.equalization import equalize, lmmse, noise_variance
from semlink.signal.layer_mapping import demap_layers, per_symbol
from semlink.v1 import channel_pb2, receiver_pb2
from semlink.weight_files import SHIPPED, Weights
from semlink.wire import from_wire


@dataclass(frozen=True, slots=True)
class Samples:
    """A received frame, checked: complex64 arrays of the shapes that receiver.proto gives, and the header."""

    header: channel_pb2.FrameHeader
    data: NDArray[np.complex64]
    pilots: NDArray[np.complex64]
    pilot_length: int
    noise: NDArray[np.complex64]

    @property
    def shape(self) -> tuple[object, ...]:
        """Frames of equal shape are decoded in one batch."""
        return (
            space_of(self.header.corpus),
            self.header.modality,
            self.header.prototypes,
            self.header.coding,
            self.header.mcs,
            self.header.symbols,
            self.header.num_layers,
            self.data.shape,
            self.pilots.shape,
            self.pilot_length,
            self.noise.shape,
        )


@dataclass(frozen=True, slots=True)
class Decoded:
    """The components of one frame and the SINR that the pilots promise.

    ``components``: float32 ``[num_components, feature_size]``, unit norm each, the global feature first; of prototypes
    only as many as the message was long enough for. ``erased``: the CRC of a digital message failed; they are zero.
    """

    components: NDArray[np.float32]
    post_eq_snr_estimate_db: float
    erased: bool = False


def check_frame(frame: receiver_pb2.ReceivedFrame, *, field: str) -> Samples:
    """Decode and check every tensor of a received frame.

    Raises InvalidField or CorruptTensor naming ``{field}.name``.
    """
    header = parse_header(frame.header, field=f"{field}.header")
    data = from_wire(frame.samples, field=f"{field}.samples", dtype="complex64", shape=(None, None))
    resource_elements = -(-header.symbols // header.num_layers)
    if data.shape[1] != resource_elements:
        raise InvalidField(
            f"{field}.samples has {data.shape[1]} resource elements, the header says {resource_elements}",
            field=f"{field}.samples",
        )
    pilots = from_wire(
        frame.pilots,
        field=f"{field}.pilots",
        dtype="complex64",
        shape=(NUM_SUBBANDS, data.shape[0], header.num_streams),
    )
    # From here on the frame's own streams are the first; the others are interference in any order.
    pilots = np.roll(pilots, -header.first_stream, axis=-1)
    noise = from_wire(
        frame.noise, field=f"{field}.noise", dtype="complex64", shape=(data.shape[0], None)
    )
    if not 1 <= frame.pilot_length <= 1024:
        raise InvalidField(
            f"{field}.pilot_length is {frame.pilot_length}, allowed: 1…1024",
            field=f"{field}.pilot_length",
        )
    return Samples(header, data, pilots, frame.pilot_length, noise)


def decode(batch: list[Samples], device: torch.device, weights: Weights = SHIPPED) -> list[Decoded]:
    """Equalise and decode frames; those of equal shape go through together."""
    return run_grouped(
        batch, lambda s: s.shape, lambda alike: _decode_alike(alike, device, weights)
    )


def _decode_alike(frames: list[Samples], device: torch.device, weights: Weights) -> list[Decoded]:
    header = frames[0].header
    num_symbols, num_layers = header.symbols, header.num_layers
    data, pilots, noise = (
        torch.from_numpy(np.stack(arrays)).to(device)
        for arrays in zip(*((f.data, f.pilots, f.noise) for f in frames), strict=True)
    )
    equalizer, sinr = lmmse(pilots, noise_variance(noise), num_layers, frames[0].pilot_length)
    symbols = equalize(data, equalizer)
    in_order = demap_layers(symbols, num_symbols)
    sinr_in_order = per_symbol(sinr, num_symbols)
    space = space_of(header.corpus)
    count = num_components(space) if header.prototypes else 1
    codec = load_message_codec(header.coding or "jscc", space, device, weights)
    components, erased = codec.decode(
        in_order, 1.0 / sinr_in_order, header.modality, count, header.mcs
    )
    snr_db = 10.0 * sinr_in_order.log10().mean(dim=1)
    return [
        Decoded(f, snr, lost)
        for f, snr, lost in zip(
            components.cpu().numpy(), snr_db.tolist(), erased.tolist(), strict=True
        )
    ]
