"""A load test announces itself here, so that dashboards can mark when it ran and with which parameters.

Whoever reaches the gateway may announce one. What a client can do is bounded: one run at a time, numbers within a range
as values of gauges whose labels are fixed, forgotten by themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from fastapi import FastAPI

from gateway.schemas import LoadRunBody
from semlink.telemetry import LOAD_RUN

PARAMETERS: Final = ("rate", "users", "duration_s", "queries_per_call")
"""Values of the label ``parameter``."""


class LoadRun:
    """The run that was announced last; ``clock`` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._body: LoadRunBody | None = None
        self._ends = 0.0

    def announce(self, body: LoadRunBody) -> None:
        """Replace what was announced before."""
        self._body, self._ends = body, self._clock() + body.duration_s

    def end(self) -> None:
        """Forget it."""
        self._body = None

    def value(self, parameter: str) -> float:
        """A parameter of the run; 0 where none runs, or it has none."""
        if self._body is None or self._clock() >= self._ends:
            return 0.0
        return float(getattr(self._body, parameter) or 0.0)


def add_load_run_routes(app: FastAPI, *, errors: Mapping[int | str, dict[str, Any]]) -> None:
    """Add ``PUT`` and ``DELETE /v1/load-run``, and show the run as gauges ``semlink_load_run{parameter}``."""
    run = LoadRun()
    refusals: dict[int | str, dict[str, Any]] = {
        status: errors[status] for status in (400, 408, 413, 415, 421, 422)
    }
    for parameter in PARAMETERS:
        LOAD_RUN.labels(parameter).set_function(partial(run.value, parameter))

    @app.put("/v1/load-run", status_code=204, responses=refusals, tags=["operations"])
    async def announce_load_run(body: LoadRunBody) -> None:
        """Announce a load test that runs now; dashboards show it. It replaces the one before."""
        run.announce(body)

    @app.delete(
        "/v1/load-run",
        status_code=204,
        responses={status: errors[status] for status in (400, 421)},
        tags=["operations"],
    )
    async def end_load_run() -> None:
        """The load test has ended."""
        run.end()
