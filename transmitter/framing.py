"""From components to frames: JSCC symbols for the SNR that the known CSI promises, and the precoder, batched."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from semlink.batching import MicroBatcher
from semlink.components import PRECODERS
from semlink.decibels import db_to_lin
from semlink.grid import NUM_SUBBANDS
from semlink.grouping import run_grouped
from semlink.links import Link, checked_link
from semlink.semantics.message import load_message_codec
from semlink.signal.layer_mapping import map_layers, per_symbol
from semlink.signal.precoding import (
    open_loop_precoder,
    predicted_sinr_db,
    water_filled,
)
from semlink.stages import Noted
from semlink.v1 import channel_pb2
from semlink.weight_files import SHIPPED, Weights
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
    config: Link
    csi: NDArray[np.complex64] | None
    slot: int
    user: int = 0
    """Whose streams carry the message."""
    modality: str = "text"
    coding: str = "jscc"
    precoder: str = "svd-rzf"

    @property
    def shape(self) -> tuple[object, ...]:
        """Messages of equal shape are framed in one batch."""
        c = self.config
        return (
            self.space,
            self.components.shape,
            self.modality,
            self.coding,
            self.precoder,
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
    precoders: dict[tuple[str, int, str, str], NDArray[np.complex64]] = {}
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
        config=checked_link(slot.config),
        csi=scheduled.known.csi,
        slot=slot.slot,
        user=slot.user,
        modality=query.modality,
        coding=query.method.coding,
        precoder=query.method.precoder,
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
        reranking="" if (how := query.retrieval.reranking or "none") == "none" else how,
    )


def frame(
    messages: list[Message], device: torch.device, weights: Weights = SHIPPED
) -> list[Framed]:
    """Frame messages; those of equal shape go through together."""
    return run_grouped(
        messages, lambda m: m.shape, lambda alike: _frame_alike(alike, device, weights)
    )


def _frame_alike(messages: list[Message], device: torch.device, weights: Weights) -> list[Framed]:
    first = messages[0]
    num_layers = first.config.num_layers
    snr_db = torch.tensor([m.config.snr_db for m in messages], dtype=torch.float32, device=device)
    if first.csi is None:
        precoders = open_loop_precoder(
            first.config.num_tx_ant,
            first.config.num_users * num_layers,
            [m.slot for m in messages],
        ).to(device)
        sinr_db = open_loop_sinr_db(snr_db, first.config)[:, None, None].expand(
            -1, NUM_SUBBANDS, num_layers
        )
    else:
        csi = torch.from_numpy(np.stack([m.csi for m in messages if m.csi is not None])).to(device)
        precoders = PRECODERS.get(first.precoder).load()(csi, num_layers, snr_db)
        if first.config.power_allocation == "water-filling":
            precoders = water_filled(csi, precoders, snr_db, num_layers)
        user = torch.tensor([m.user for m in messages], device=device)
        sinr_db = predicted_sinr_db(csi, precoders, snr_db, num_layers, user)
    components = torch.from_numpy(np.stack([m.components for m in messages])).to(device)
    codec = load_message_codec(first.coding, first.space, device, weights)
    message, mcs = codec.encode(
        components,
        per_symbol(sinr_db, first.num_symbols),
        first.modality,
        [m.config for m in messages],
        first.csi is not None,
    )
    symbols = map_layers(message, num_layers)
    return [
        Framed(np.ascontiguousarray(u), w, m)
        for u, w, m in zip(symbols.cpu().numpy(), precoders.cpu().numpy(), mcs, strict=True)
    ]


def open_loop_sinr_db(snr_db: torch.Tensor, config: Link) -> torch.Tensor:
    """What a transmitter without CSI expects after equalisation, dB, shaped like ``snr_db`` (our definition).

    ``rx`` antennas collect a stream of unit gain and can null ``rx − 1`` of the other streams:
    ``SINR = rx / (max(streams − rx, 0) + streams / SNR)``.
    """
    streams = config.num_users * config.num_layers
    noise = streams / db_to_lin(snr_db)
    interference = max(streams - config.num_rx_ant, 0)
    return 10.0 * (math.log10(config.num_rx_ant) - torch.log10(interference + noise))
