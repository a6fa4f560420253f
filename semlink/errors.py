"""Typed errors that name the field, the value and what is allowed.

Every error that a user can cause is one of these; the gRPC face maps them to status codes and the gateway to
RFC 9457 problems. ``field`` is the path of the offending field as the user wrote it (``link.snr_db``).
"""

from __future__ import annotations


class SemlinkError(Exception):
    """Base of every error that crosses a service's boundary."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidField(SemlinkError):
    """A value that is not allowed: gRPC INVALID_ARGUMENT, HTTP 422."""


class NotFound(SemlinkError):
    """A link, corpus, item or model that is not there: gRPC NOT_FOUND, HTTP 404."""


class AlreadyExists(SemlinkError):
    """An item that is there already and was not to be replaced: gRPC ALREADY_EXISTS, HTTP 409."""


class Unavailable(SemlinkError):
    """A service that this one needs is away: gRPC UNAVAILABLE, HTTP 503."""


class DeadlineExceeded(SemlinkError):
    """The caller's time ran out: gRPC DEADLINE_EXCEEDED, HTTP 504."""


class Overloaded(SemlinkError):
    """The queue is full, or the deadline too near; try again later: gRPC RESOURCE_EXHAUSTED, HTTP 429.

    ``retry_after_s``: when there will be room, where the service can tell.
    """

    def __init__(
        self, message: str, *, field: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, field=field)
        self.retry_after_s = retry_after_s


class CorruptTensor(SemlinkError):
    """Bytes that fail their checksum, shape or dtype: gRPC DATA_LOSS, HTTP 502."""


class CorruptModel(SemlinkError):
    """A file of weights that is damaged or not the pinned one: it must not be read."""
