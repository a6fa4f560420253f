"""The caller's deadline, carried in a context variable so that it need not stand in every signature.

gRPC cancels a call at the client's deadline but does not hand its value on to the calls that this one makes. The
server face sets :data:`deadline`, the clients send what is left of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from semlink.errors import DeadlineExceeded

deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
"""Absolute, in seconds of :func:`time.monotonic`; None where the caller gave none."""


def remaining_s() -> float | None:
    """Seconds left of the caller's deadline, at least 0; None without a deadline."""
    at = deadline.get()
    return None if at is None else max(0.0, at - time.monotonic())


@contextmanager
def deadline_in(seconds: float) -> Iterator[None]:
    """Within the block, at most ``seconds`` are left; an earlier deadline of the caller stays."""
    at = time.monotonic() + seconds
    earlier = deadline.get()
    token = deadline.set(at if earlier is None else min(at, earlier))
    try:
        yield
    finally:
        deadline.reset(token)


def check_deadline(doing: str) -> None:
    """Raise DeadlineExceeded if no time is left for what is about to be done."""
    if remaining_s() == 0.0:
        raise DeadlineExceeded(f"the deadline passed before {doing}", field="deadline_ms")
