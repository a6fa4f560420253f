"""The header that crosses the channel beside a frame's symbols: one checker for whoever sends it on or reads it."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from semlink.components import CODECS
from semlink.errors import InvalidField
from semlink.grid import MAX_LAYERS
from semlink.links import MAX_USERS
from semlink.methods import RERANKINGS
from semlink.signal.coding import scheme_of
from semlink.tasks import modality_names
from semlink.v1 import channel_pb2


def parse_header(data: bytes, *, field: str) -> channel_pb2.FrameHeader:
    """The header of a frame, every number and name in range.

    Raises InvalidField naming ``field`` when the bytes are no header or hold more than one (what a header does not
    declare must not cross the channel), ``{field}.name`` for a value that is not allowed.
    """
    header = channel_pb2.FrameHeader()
    try:
        header.ParseFromString(data)
    except DecodeError as error:
        raise InvalidField(f"{field} does not parse as a FrameHeader", field=field) from error
    header.DiscardUnknownFields()
    if header.ByteSize() != len(data):
        raise InvalidField(f"{field} holds more than the fields of a FrameHeader", field=field)
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
    if header.first_stream + header.num_layers > header.num_streams:
        raise InvalidField(
            f"{field}.first_stream is {header.first_stream}, allowed: at most num_streams - num_layers = "
            f"{header.num_streams - header.num_layers}",
            field=f"{field}.first_stream",
        )
    if header.modality not in modality_names():
        raise InvalidField(
            f"{field}.modality is {header.modality!r}, allowed: {', '.join(modality_names())}",
            field=f"{field}.modality",
        )
    if header.reranking and header.reranking not in RERANKINGS[1:]:
        raise InvalidField(
            f"{field}.reranking is {header.reranking!r}, allowed: '' (none), {', '.join(RERANKINGS[1:])}",
            field=f"{field}.reranking",
        )
    _check_coding(header, field=field)
    return header


def is_digital(header: channel_pb2.FrameHeader) -> bool:
    """Whether the frame's symbols are points of the constellation of an MCS."""
    return bool(header.coding) and CODECS.get(header.coding).digital


def _check_coding(header: channel_pb2.FrameHeader, *, field: str) -> None:
    named = [name for name in CODECS.names if name != "jscc"]
    if header.coding and header.coding not in named:
        raise InvalidField(
            f"{field}.coding is {header.coding!r}, allowed: '' (JSCC), {', '.join(named)}",
            field=f"{field}.coding",
        )
    if is_digital(header):
        scheme_of(header.mcs, header.symbols, field=f"{field}.mcs")
    elif header.mcs:
        raise InvalidField(
            f"{field}.mcs is {header.mcs}, allowed without a digital coding: 0",
            field=f"{field}.mcs",
        )
