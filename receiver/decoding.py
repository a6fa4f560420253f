"""From samples to features: noise level, LMMSE equaliser, semantic decoder, batched over frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from semlink.errors import InvalidField
from semlink.links import MAX_LAYERS, MAX_USERS, NUM_SUBBANDS
from semlink.semantics.codec import load_codec
from semlink.signal.equalization import equalize, lmmse, noise_variance
from semlink.v1 import channel_pb2, receiver_pb2
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
            self.header.task,
            self.header.symbols,
            self.header.num_layers,
            self.data.shape,
            self.pilots.shape,
            self.pilot_length,
            self.noise.shape,
        )


@dataclass(frozen=True, slots=True)
class Decoded:
    """The feature of one frame (``[feature_size]``, float32, unit norm) and the SINR that the pilots promise."""

    feature: NDArray[np.float32]
    post_eq_snr_estimate_db: float


def parse_header(data: bytes, *, field: str) -> channel_pb2.FrameHeader:
    """The header of a frame. Raises InvalidField when the bytes are none or its numbers are out of range."""
    header = channel_pb2.FrameHeader()
    try:
        header.ParseFromString(data)
    except DecodeError as error:
        raise InvalidField(f"{field} does not parse as a FrameHeader", field=field) from error
    for name, value, high in (
        ("symbols", header.symbols, 4096),
        ("top_k", header.top_k, 10_000),
        ("num_layers", header.num_layers, MAX_LAYERS),
        ("num_streams", header.num_streams, MAX_LAYERS * MAX_USERS),
    ):
        if not 1 <= value <= high:
            raise InvalidField(
                f"{field}.{name} is {value}, allowed: 1…{high}", field=f"{field}.{name}"
            )
    return header


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
    if header.first_stream + header.num_layers > header.num_streams:
        raise InvalidField(
            f"{field}.header.first_stream is {header.first_stream}, allowed: at most num_streams - num_layers = "
            f"{header.num_streams - header.num_layers}",
            field=f"{field}.header.first_stream",
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


def decode(batch: list[Samples], device: torch.device) -> list[Decoded]:
    """Equalise and decode frames; those of equal shape go through together."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, samples in enumerate(batch):
        groups.setdefault(samples.shape, []).append(i)
    decoded: dict[int, Decoded] = {}
    for members in groups.values():
        frames = [batch[i] for i in members]
        features, snr_db = _decode_alike(frames, device)
        decoded |= {
            i: Decoded(feature, snr)
            for i, feature, snr in zip(members, features, snr_db, strict=True)
        }
    return [decoded[i] for i in range(len(batch))]


def _decode_alike(
    frames: list[Samples], device: torch.device
) -> tuple[NDArray[np.float32], list[float]]:
    header = frames[0].header
    num_symbols, num_layers = header.symbols, header.num_layers
    data, pilots, noise = (
        torch.from_numpy(np.stack(arrays)).to(device)
        for arrays in zip(*((f.data, f.pilots, f.noise) for f in frames), strict=True)
    )
    weights, sinr = lmmse(pilots, noise_variance(noise), num_layers, frames[0].pilot_length)
    symbols = equalize(data, weights)
    subband = torch.arange(data.shape[-1], device=device) % NUM_SUBBANDS
    # symbol j of the message went to layer j mod L of resource element j // L
    in_order = symbols.transpose(1, 2).flatten(1)[:, :num_symbols]
    sinr_in_order = sinr[:, subband].flatten(1)[:, :num_symbols]
    feature = load_codec(header.task, device=device).decode(in_order, 1.0 / sinr_in_order)
    snr_db = 10.0 * sinr_in_order.log10().mean(dim=1)
    return feature.cpu().numpy(), snr_db.tolist()
