"""What both ends of a call agree on: gRPC services by name, message size, errors as status codes and back."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from semlink.errors import (
    AlreadyExists,
    CorruptTensor,
    DeadlineExceeded,
    InvalidField,
    NotFound,
    Overloaded,
    SemlinkError,
    Unavailable,
)
from semlink.v1 import channel_pb2, knowledge_pb2, receiver_pb2, transmitter_pb2

SERVICES: Final[dict[str, ServiceDescriptor]] = {
    "transmitter": transmitter_pb2.DESCRIPTOR.services_by_name["Transmitter"],
    "channel": channel_pb2.DESCRIPTOR.services_by_name["Channel"],
    "receiver": receiver_pb2.DESCRIPTOR.services_by_name["Receiver"],
    "knowledge": knowledge_pb2.DESCRIPTOR.services_by_name["KnowledgeBase"],
}
"""The gRPC service by name of the process."""

MAX_MESSAGE_BYTES: Final = 16 * 2**20
FIELD_KEY: Final = "semlink-field"
"""Trailing metadata that names the offending field, percent-encoded UTF-8."""
_MAX_DETAILS: Final = 2000  # characters: trailers share one 8 KiB header block

_CODES: Final[dict[type[SemlinkError], grpc.StatusCode]] = {
    InvalidField: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    CorruptTensor: grpc.StatusCode.DATA_LOSS,
    SemlinkError: grpc.StatusCode.INTERNAL,
}
# A peer that gives a call up (CANCELLED) without our asking is one that shuts down.
_ERRORS: Final = {code: error for error, code in _CODES.items()} | {
    grpc.StatusCode.CANCELLED: Unavailable
}


def status_of(error: SemlinkError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]:
    """Status code, details and trailing metadata that carry the error to the caller."""
    code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
    trailing = ((FIELD_KEY, quote(error.field[:200], safe="[]().*:/")),) if error.field else ()
    return code, error.message[:_MAX_DETAILS], trailing


def error_of(error: grpc.aio.AioRpcError, *, callee: str) -> SemlinkError:
    """The error that the callee raised, as its own type; SemlinkError for any other failure of the call."""
    field = next((str(v) for k, v in error.trailing_metadata() or () if k == FIELD_KEY), "")
    details = error.details() or error.code().name
    kind = _ERRORS.get(error.code())
    if kind is None:
        return SemlinkError(f"{callee}: {error.code().name}: {details}")
    if kind in (Unavailable, SemlinkError) and not details.startswith(callee):
        details = f"{callee}: {details}"
    return kind(details, field=unquote(field))
