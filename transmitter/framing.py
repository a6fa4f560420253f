"""From components to frames: JSCC symbols for the SNR that the known CSI promises, and the precoder, batched."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from semlink.batching import MicroBatcher
from semlink.grouping import run_grouped
from semlink.links import NUM_SUBBANDS
from semlink.methods import Coding
from semlink.semantics.codec import load_codec
from semlink.semantics.digital import load_source_coder
from semlink.semantics.message import encode_message
from semlink.signal.coding import modulate, scheme_of
from semlink.signal.link_adaptation import choose_mcs
from semlink.signal.precoding import (
    open_loop_precoder,
    precoder,
    predicted_sinr_db,
    water_filled,
)
from semlink.stages import Noted
from semlink.v1 import channel_pb2, common_pb2
from semlink.wire import to_wire
from transmitter.encoding import Meaning
from transmitter.queries import CheckedQuery
from transmitter.slots import Scheduled


@dataclass(frozen=True, slots=True)
class Message:
    """What to send over a link with what is known of its channel.

    ``components``: float32 ``[num_components, feature_size]``, unit norm each, the most important first; a digital
    scheme sends the first alone. ``space``: whose codec carries them. ``csi``: complex64 ``[num_users, num_subbands,
    num_rx_ant, num_tx_ant]``, None when nothing is known.
    """

    space: str
    components: NDArray[np.float32]
    num_symbols: int
    config: common_pb2.LinkConfig
    csi: NDArray[np.complex64] | None
    slot: int
    user: int = 0
    """Whose streams carry the message."""
    modality: str = "text"
    coding: Coding = "jscc"

    @property
    def shape(self) -> tuple[object, ...]:
        """Messages of equal shape are framed in one batch."""
        c = self.config
        return (
            self.space,
            self.components.shape,
            self.modality,
            self.coding,
            self.num_symbols,
            c.num_tx_ant,
            c.num_rx_ant,
            c.num_layers,
            c.num_users,
            c.power_allocation,
            self.csi is not None,
        )


@dataclass(frozen=True, slots=True)
class Framed:
    """Symbols ``[num_layers, num_resource_elements]`` and precoder ``[num_subbands, num_tx_ant, streams]``.

    ``mcs``: the modulation and coding scheme that the header names; 0 with JSCC.
    """

    symbols: NDArray[np.complex64]
    precoder: NDArray[np.complex64]
    mcs: int = 0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message in its slot, and its frame."""

    meaning: Meaning
    scheduled: Scheduled
    frame: channel_pb2.Frame


async def frame_messages(
    framer: MicroBatcher[Message, Noted[Framed]], messages: list[tuple[Meaning, Scheduled]]
) -> list[Noted[Outgoing]]:
    """Frame messages. All of a slot share one precoder, whatever batches they were framed in."""
    framed = await framer.submit_many([_message(*message) for message in messages])
    precoders: dict[tuple[str, int, str], NDArray[np.complex64]] = {}
    for (_, scheduled), one in zip(messages, framed, strict=True):
        precoders.setdefault(scheduled.precoder_key, one.value.precoder)
    return [
        one.then(Noted(Outgoing(m, s, _frame(m.query, s, one.value, precoders[s.precoder_key]))))
        for (m, s), one in zip(messages, framed, strict=True)
    ]


def _message(meaning: Meaning, scheduled: Scheduled) -> Message:
    query, slot = meaning.query, scheduled.slot
    return Message(
        space=query.space,
        components=meaning.components,
        num_symbols=query.message.symbols,
        config=slot.config,
        csi=scheduled.known.csi,
        slot=slot.slot,
        user=slot.user,
        modality=query.modality,
        coding=query.method.coding,
    )


def _frame(
    query: CheckedQuery, scheduled: Scheduled, framed: Framed, precoder: NDArray[np.complex64]
) -> channel_pb2.Frame:
    slot, csi = scheduled.slot, scheduled.known.csi
    num_layers = slot.config.num_layers
    header = header_of(
        query,
        num_streams=slot.config.num_users * num_layers,
        num_layers=num_layers,
        first_stream=slot.user * num_layers,
        mcs=framed.mcs,
    )
    return channel_pb2.Frame(
        query_id=query.message.id,
        link_id=slot.link_id,
        config=slot.config,
        slot=slot.slot,
        user=slot.user,
        seed=query.message.seed,
        symbols=to_wire(framed.symbols),
        precoder=to_wire(precoder),
        header=header.SerializeToString(),
        assumed_csi=None if csi is None else to_wire(np.ascontiguousarray(csi[slot.user])),
    )


def header_of(
    query: CheckedQuery, *, num_streams: int, num_layers: int, first_stream: int = 0, mcs: int = 0
) -> channel_pb2.FrameHeader:
    """The header that crosses the channel beside a query's symbols."""
    coding = query.method.coding
    return channel_pb2.FrameHeader(
        task=query.task,
        corpus=query.corpus,
        modality=query.modality,
        symbols=query.message.symbols,
        top_k=query.message.top_k,
        num_streams=num_streams,
        num_layers=num_layers,
        first_stream=first_stream,
        coding="" if coding == "jscc" else coding,
        mcs=mcs,
        prototypes=query.retrieval.scoring == "prototypes",
        reranking="" if (how := query.retrieval.reranking) == "none" else how,
    )


def frame(messages: list[Message], device: torch.device) -> list[Framed]:
    """Frame messages; those of equal shape go through together."""
    return run_grouped(messages, lambda m: m.shape, lambda alike: _frame_alike(alike, device))


def _frame_alike(messages: list[Message], device: torch.device) -> list[Framed]:
    first = messages[0]
    num_layers, num_symbols = first.config.num_layers, first.num_symbols
    snr_db = torch.tensor([m.config.snr_db for m in messages], dtype=torch.float32, device=device)
    if first.csi is None:
        precoders = open_loop_precoder(first.config, [m.slot for m in messages]).to(device)
        sinr_db = open_loop_sinr_db(snr_db, first.config)[:, None, None].expand(
            -1, NUM_SUBBANDS, num_layers
        )
    else:
        csi = torch.from_numpy(np.stack([m.csi for m in messages if m.csi is not None])).to(device)
        precoders = precoder(csi, num_layers, snr_db)
        if first.config.power_allocation == "water-filling":
            precoders = water_filled(csi, precoders, snr_db, num_layers)
        user = torch.tensor([m.user for m in messages], device=device)
        sinr_db = predicted_sinr_db(csi, precoders, snr_db, num_layers, user)
    resource_elements = -(-num_symbols // num_layers)
    subband = torch.arange(resource_elements, device=device) % NUM_SUBBANDS
    # symbol j of the message goes to layer j mod L of resource element j // L
    per_symbol = sinr_db[:, subband].flatten(1)[:, :num_symbols]
    components = torch.from_numpy(np.stack([m.components for m in messages])).to(device)
    mcs = [0] * len(messages)
    if first.coding == "jscc":
        codec = load_codec(first.space, device=device)
        message = encode_message(codec, components, per_symbol, num_symbols)
    else:
        mcs, message = _encode_digital(messages, components[:, 0], per_symbol)
    padding = resource_elements * num_layers - num_symbols
    filled = torch.nn.functional.pad(message, (0, padding), value=1.0)
    symbols = filled.view(len(messages), resource_elements, num_layers).transpose(1, 2)
    return [
        Framed(np.ascontiguousarray(u), w, m)
        for u, w, m in zip(symbols.cpu().numpy(), precoders.cpu().numpy(), mcs, strict=True)
    ]


def _encode_digital(
    messages: list[Message], features: torch.Tensor, predicted_sinr_db: torch.Tensor
) -> tuple[list[int], torch.Tensor]:
    """MCS of each message and its symbols ``[batch, k]``; messages of equal MCS are coded together."""
    first, k = messages[0], predicted_sinr_db.shape[1]
    coder = load_source_coder(first.space, first.coding, features.device)
    mcs = choose_mcs(
        predicted_sinr_db.cpu().double().numpy(),
        [m.config for m in messages],
        first.csi is not None,
        coder.quality,
    )
    symbols = torch.empty(len(messages), k, dtype=torch.complex64, device=features.device)
    for chosen in np.unique(mcs).tolist():
        rows = torch.from_numpy(np.flatnonzero(mcs == chosen)).to(features.device)
        scheme = scheme_of(chosen, k)
        payload = coder.encode(features[rows], first.modality, scheme.payload_bits)
        symbols[rows] = modulate(payload, scheme)
    return mcs.tolist(), symbols


def open_loop_sinr_db(snr_db: torch.Tensor, config: common_pb2.LinkConfig) -> torch.Tensor:
    """What a transmitter without CSI expects after equalisation, dB, shaped like ``snr_db`` (our definition).

    ``rx`` antennas collect a stream of unit gain and can null ``rx − 1`` of the other streams:
    ``SINR = rx / (max(streams − rx, 0) + streams / SNR)``.
    """
    streams = config.num_users * config.num_layers
    noise = streams / 10.0 ** (snr_db / 10.0)
    interference = max(streams - config.num_rx_ant, 0)
    return 10.0 * (math.log10(config.num_rx_ant) - torch.log10(interference + noise))
