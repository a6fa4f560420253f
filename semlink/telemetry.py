"""Metrics and logs of a process. One Prometheus registry, one way to time a step, one way to set up logs.

Steps share one metric, ``semlink_step_seconds{service,step}``, instead of one metric a step: a dashboard then shows
every step of every service with a single query, also steps added later. Figures of links are one metric too,
``semlink_link_figure{figure,…}``. Memory and processor time are in the standard process metrics
(``process_resident_memory_bytes``), which the client library collects.

What several services count stands here, anything else beside the code that counts it. Labels take names of our tables
alone, never what a request may choose: each value is a series that Prometheus keeps.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
import traceback
from asyncio import CancelledError
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import structlog
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Summary

from semlink.decibels import db_to_lin
from semlink.errors import InvalidField, SemlinkError
from semlink.settings import Settings, without_secrets
from semlink.v1 import channel_pb2, common_pb2, transmitter_pb2

registry = REGISTRY
"""The registry of this process; ``/metrics`` shows it."""

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

STEP_SECONDS = Histogram(
    "semlink_step_seconds", "Time of one step of one service", ("service", "step"), buckets=_SECONDS
)
REQUEST_SECONDS = Histogram(
    "semlink_request_seconds", "Time of one call", ("service", "method"), buckets=_SECONDS
)
REQUESTS_ACCEPTED = Counter("semlink_requests_accepted", "Calls begun", ("service", "method"))
REQUESTS = Counter(
    "semlink_requests",
    "Calls ended; accepted = ok + error + cancelled when none is in flight",
    ("service", "method", "outcome", "code"),
)
REQUESTS_IN_FLIGHT = Gauge("semlink_requests_in_flight", "Calls begun, not ended", ("service",))
QUEUE_DEPTH = Gauge("semlink_queue_depth", "Items that wait in a micro-batcher", ("batcher",))
BATCH_SIZE = Histogram(
    "semlink_batch_size",
    "Items that a micro-batcher ran at once",
    ("batcher",),
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
ANSWERS = Counter(
    "semlink_answers",
    "Queries answered by the transmitter; result: ok, degraded or erased",
    ("task", "method", "scenario", "result"),
)
LINK_FIGURE = Summary(
    "semlink_link_figure",
    "Figures of links, one for each message; negative values are summed by their magnitude under sign=-",
    ("task", "method", "scenario", "figure", "sign"),
)
CRC_REJECTED = Counter(
    "semlink_crc_rejected", "Messages refused because bytes were corrupted", ("service",)
)
CSI_REPORTS_REJECTED = Counter(
    "semlink_csi_reports_rejected",
    "CSI reports refused or not made, by the field at fault",
    ("field",),
)
LOAD_RUN = Gauge(
    "semlink_load_run",
    "The load test that was announced last: its parameters, 0 where none runs or it has none of that kind",
    ("parameter",),
)
DEGRADED = Counter("semlink_degraded", "Fallbacks taken and reported", ("service", "part"))


@dataclass(slots=True)
class Stopwatch:
    """Time of one step, running until its block is left. ``stage`` is "service.step"."""

    stage: str
    started: float = field(default_factory=time.perf_counter)
    stopped: float | None = None

    @property
    def milliseconds(self) -> float:
        """Time so far, or of the whole block once it was left."""
        return ((self.stopped or time.perf_counter()) - self.started) * 1e3

    def timing(self) -> common_pb2.Timing:
        """The same as a message for an answer."""
        return common_pb2.Timing(stage=self.stage, milliseconds=self.milliseconds)


@contextmanager
def timed(stage: str) -> Iterator[Stopwatch]:
    """Time a block as step "service.step" ("receiver.search") in ``semlink_step_seconds``, also when it raises."""
    service, _, step = stage.partition(".")
    watch = Stopwatch(stage)
    try:
        yield watch
    finally:
        watch.stopped = time.perf_counter()
        STEP_SECONDS.labels(service, step).observe(watch.stopped - watch.started)


@dataclass(slots=True)
class Outcome:
    """How a request ended; set by :func:`counted_request`, or by its block when it answers with an error itself."""

    outcome: Literal["ok", "error", "cancelled"] = "ok"
    code: str = "ok"


@contextmanager
def counted_request(service: str, method: str) -> Iterator[Outcome]:
    """Count one request: accepted, then exactly one of ok, error and cancelled; and its time.

    An exception that leaves the block is an error, its class the code; a cancellation is "cancelled".
    """
    REQUESTS_ACCEPTED.labels(service, method).inc()
    REQUESTS_IN_FLIGHT.labels(service).inc()
    outcome = Outcome()
    started = time.perf_counter()
    try:
        yield outcome
    except (CancelledError, GeneratorExit):
        outcome.outcome, outcome.code = "cancelled", "cancelled"
        raise
    except BaseException as error:
        known = isinstance(error, SemlinkError)
        outcome.outcome, outcome.code = "error", type(error).__name__ if known else "internal"
        raise
    finally:
        REQUEST_SECONDS.labels(service, method).observe(time.perf_counter() - started)
        REQUESTS_IN_FLIGHT.labels(service).dec()
        REQUESTS.labels(service, method, outcome.outcome, outcome.code).inc()


def result_of(answer: transmitter_pb2.Answer) -> Literal["ok", "degraded", "erased"]:
    """How a query ended that was answered: "erased" by the channel, "degraded" by a fallback, or "ok"."""
    if answer.HasField("link") and answer.link.erased:
        return "erased"
    return "degraded" if answer.degraded else "ok"


def record_answer(answer: transmitter_pb2.Answer, *, task: str, method: str, scenario: str) -> None:
    """Count an answer and record the figures of its link.

    ``task``, ``method``, ``scenario``: registered names, "none" for the scenario of an answer without a channel.
    """
    labels = task, method, scenario
    ANSWERS.labels(*labels, result_of(answer)).inc()
    if not answer.HasField("link"):
        return
    for name, value in _figures(answer.link):
        # a sum never falls in Prometheus; the one of the other sign must be there to be taken away
        plus, minus = (LINK_FIGURE.labels(*labels, name, sign) for sign in "+-")
        if math.isfinite(value):
            (minus if value < 0 else plus).observe(abs(value))


def _figures(link: channel_pb2.LinkReport) -> Iterator[tuple[str, float]]:
    """What is recorded of each message. A new figure is a line here and a panel of the dashboard."""
    yield "snr_db", link.snr_db
    yield "post_eq_snr_db", link.post_eq_snr_db
    yield "feedback_bits", link.feedback_bits
    yield "channel_uses", link.channel_uses
    if link.HasField("csi_nmse_db"):  # NMSE is a mean of ratios
        yield "csi_nmse", db_to_lin(link.csi_nmse_db)
    if link.HasField("csi_sgcs"):
        yield "csi_sgcs", link.csi_sgcs
    if link.HasField("csi_age_slots"):
        yield "csi_age_slots", link.csi_age_slots


def record_refused_reports(refused: Iterable[InvalidField]) -> None:
    """Count CSI reports that were refused, by the last part of the field at fault."""
    for error in refused:
        CSI_REPORTS_REJECTED.labels(error.field.rpartition(".")[2]).inc()


def record_degraded(service: str, degraded: Iterable[common_pb2.Degradation]) -> None:
    """Count fallbacks that ``service`` took itself (not those it only passes on)."""
    for degradation in degraded:
        DEGRADED.labels(service, degradation.part).inc()


def configure_logging(service: str, settings: Settings, *, stream: TextIO | None = None) -> None:
    """Set up logs of this process: structlog and the standard library alike, to ``stream`` (default: stderr).

    One JSON object a line, or coloured text on a terminal (``SEMLINK_LOG_FORMAT``). Every line names the service.
    Tracebacks show no local variables, and no text, those of uncaught exceptions included, holds a secret setting.
    """
    out = stream or sys.stderr
    secrets = settings.secrets()
    _hide_secrets_of_uncaught_exceptions(secrets, out)
    console = settings.log_format == "console" or (settings.log_format == "auto" and out.isatty())
    shared: Sequence[structlog.typing.Processor] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(service),
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    render: Sequence[structlog.typing.Processor] = (
        (
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        )
        if console
        else (_TRACEBACKS, structlog.processors.JSONRenderer(default=str))
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        _WithoutSecrets(
            secrets,
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True


# the default of structlog shows local variables, and with them every secret that a frame holds
_TRACEBACKS: Final = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


class _WithoutSecrets(structlog.stdlib.ProcessorFormatter):
    """What a library logs, or a server answers, may hold a secret: the last step takes it out."""

    def __init__(self, secrets: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(self._secrets, super().format(record))


def _hide_secrets_of_uncaught_exceptions(secrets: Sequence[str], out: TextIO) -> None:
    def show(
        kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
    ) -> None:
        out.write(without_secrets(secrets, "".join(traceback.format_exception(kind, error, trace))))
        out.flush()

    def show_of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            show(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook = show
    threading.excepthook = show_of_thread


def _named(service: str) -> structlog.typing.Processor:
    def add_service(
        _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        return {"service": service, **event}

    return add_service


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A structured logger: ``logger(__name__).info("link opened", link_id=…)``."""
    bound: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return bound
