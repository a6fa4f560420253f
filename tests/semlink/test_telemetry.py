"""Metrics and logs: what happens is what is counted, and names stay as dashboards know them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import math
import re
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import generate_latest

from semlink.errors import InvalidField
from semlink.settings import Settings
from semlink.telemetry import (
    configure_logging,
    counted_request,
    logger,
    record_answer,
    record_degraded,
    registry,
    timed,
)
from semlink.v1 import channel_pb2, common_pb2, transmitter_pb2


def _value(name: str, **labels: str) -> float:
    return registry.get_sample_value(name, labels) or 0.0


def test_a_timed_step_tells_its_time_to_the_answer_and_to_the_metric() -> None:
    with timed("receiver.nap") as watch:
        time.sleep(0.02)
        running = watch.milliseconds
    time.sleep(0.02)
    assert 20 <= running <= watch.milliseconds < 1000
    assert watch.milliseconds == watch.milliseconds, "it still runs"
    timing = watch.timing()
    assert (timing.stage, timing.milliseconds) == ("receiver.nap", watch.milliseconds)
    labels = {"service": "receiver", "step": "nap"}
    assert _value("semlink_step_seconds_count", **labels) == 1
    assert _value("semlink_step_seconds_sum", **labels) == pytest.approx(watch.milliseconds / 1e3)


def test_a_step_that_fails_is_timed_too() -> None:
    with pytest.raises(ValueError, match="x"), timed("receiver.fail"):
        raise ValueError("x")
    assert _value("semlink_step_seconds_count", service="receiver", step="fail") == 1


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (None, "ok", "ok"),
        (InvalidField("x", field="y"), "error", "InvalidField"),
        (ZeroDivisionError(), "error", "internal"),
        (asyncio.CancelledError(), "cancelled", "cancelled"),
    ],
)
def test_every_request_ends_in_exactly_one_outcome(
    error: BaseException | None, outcome: str, code: str
) -> None:
    method = f"Test{code}"
    with (
        contextlib.nullcontext() if error is None else pytest.raises(type(error)),
        counted_request("gateway", method),
    ):
        assert _value("semlink_requests_in_flight", service="gateway") == 1
        if error is not None:
            raise error
    assert _value("semlink_requests_accepted_total", service="gateway", method=method) == 1
    ended = {
        (sample.labels["outcome"], sample.labels["code"]): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "semlink_requests_total" and sample.labels["method"] == method
    }
    assert ended == {(outcome, code): 1}
    assert _value("semlink_requests_in_flight", service="gateway") == 0
    assert _value("semlink_request_seconds_count", service="gateway", method=method) == 1


def test_a_block_may_say_itself_how_it_ended() -> None:
    with counted_request("gateway", "Said") as ended:
        ended.outcome, ended.code = "error", "422"
    labels = {"service": "gateway", "method": "Said", "outcome": "error", "code": "422"}
    assert _value("semlink_requests_total", **labels) == 1


def _mean(figure: str, **labels: str) -> float:
    total = {
        (part, sign): _value(
            f"semlink_link_figure_{part}", figure=figure, sign=sign, scenario="umi-los", **labels
        )
        for part in ("sum", "count")
        for sign in "+-"
    }
    return (total["sum", "+"] - total["sum", "-"]) / (total["count", "+"] + total["count", "-"])


def test_means_of_link_figures_are_exact_whatever_their_sign() -> None:
    labels = {"task": "person", "method": "test-of-means"}

    def record(**figures: float) -> None:
        link = channel_pb2.LinkReport(feedback_bits=64, **figures)  # type: ignore[arg-type]
        record_answer(transmitter_pb2.Answer(link=link), scenario="umi-los", **labels)

    record(snr_db=-7, post_eq_snr_db=12, csi_age_slots=3)  # without CSI there is no NMSE, not 0 dB
    record(snr_db=2, post_eq_snr_db=-math.inf, csi_nmse_db=-10, csi_sgcs=0.5, csi_age_slots=0)
    record(snr_db=2, post_eq_snr_db=3, csi_nmse_db=0, csi_sgcs=1.0)
    assert _mean("snr_db", **labels) == pytest.approx(-1)
    assert _mean("post_eq_snr_db", **labels) == pytest.approx(7.5)
    assert _mean("feedback_bits", **labels) == 64
    assert _mean("csi_nmse", **labels) == pytest.approx((0.1 + 1) / 2)
    assert _mean("csi_sgcs", **labels) == pytest.approx(0.75)
    assert _mean("csi_age_slots", **labels) == pytest.approx(1.5)


def test_answers_are_counted_by_how_they_ended() -> None:
    part = common_pb2.Degradation(part="knowledge.rewrites", reason="late")
    answer, degraded, erased = (transmitter_pb2.Answer() for _ in range(3))
    degraded.degraded.append(part)
    erased.degraded.append(part)
    erased.link.erased = True
    labels = {"task": "person", "method": "test-of-results", "scenario": "none"}
    for one in (answer, degraded, degraded, erased):
        record_answer(one, **labels)
    assert [
        _value("semlink_answers_total", result=result, **labels)
        for result in ("ok", "degraded", "erased")
    ] == [1, 2, 1]


def test_fallbacks_are_counted() -> None:
    part = common_pb2.Degradation(part="knowledge.rewrites", reason="late")
    record_degraded("a-service", [part, part])
    assert _value("semlink_degraded_total", service="a-service", part="knowledge.rewrites") == 2


def test_names_follow_the_conventions_of_prometheus() -> None:
    names = set(re.findall(r"# TYPE (semlink_\w+)", generate_latest(registry).decode()))
    assert {
        "semlink_step_seconds",
        "semlink_request_seconds",
        "semlink_requests_accepted_total",
        "semlink_requests_total",
        "semlink_requests_in_flight",
        "semlink_queue_depth",
        "semlink_batch_size",
        "semlink_answers_total",
        "semlink_link_figure",
        "semlink_crc_rejected_total",
        "semlink_degraded_total",
    } <= names
    assert _value("process_resident_memory_bytes") > 1e6


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield io.StringIO()
    root.handlers = handlers
    root.setLevel(level)


def _lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def test_logs_are_one_json_object_a_line_from_structlog_and_the_standard_library(
    log: io.StringIO,
) -> None:
    configure_logging("receiver", Settings(log_level="INFO"), stream=log)
    logger("a").info("link opened", link_id="v-1", snr_db=3.5, odd=object)
    logger("a").debug("not shown")
    logging.getLogger("uvicorn.error").warning("half %s", "full")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger("a").exception("failed")
    opened, warned, failed = _lines(log)
    assert (opened["event"], opened["service"], opened["link_id"], opened["snr_db"]) == (
        "link opened",
        "receiver",
        "v-1",
        3.5,
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", opened["timestamp"])
    assert (warned["event"], warned["level"], warned["service"]) == (
        "half full",
        "warning",
        "receiver",
    )
    assert failed["exception"][0]["exc_type"] == "ValueError"
    assert failed["exception"][0]["exc_value"] == "two\nlines"


def test_logs_for_people(log: io.StringIO) -> None:
    configure_logging("receiver", Settings(log_format="console", log_level="DEBUG"), stream=log)
    logger("a").debug("link opened", link_id="v-1")
    assert re.search(r"debug.*link opened.*link_id=v-1", log.getvalue())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SEMLINK_NUM_THREADS", "0"),
        ("SEMLINK_NUM_THREADS", "many"),
        ("SEMLINK_DEVICE", "gpu"),
        ("SEMLINK_PROFILE", "cloud"),
        ("SEMLINK_GATEWAY_PORT", "65536"),
        ("SEMLINK_CHANNEL_PORT", "tcp://10.0.0.1:50052"),
        ("SEMLINK_DEADLINE_S", "-1"),
        ("SEMLINK_SCENARIO", "umi"),
        ("SEMLINK_LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_setting_is_named_as_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidField) as caught:
        Settings()
    assert caught.value.field == name
    assert caught.value.message.startswith(f"{name} is '{value}': ")


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("SEMLINK_REDIS_URL", "localhost:6379", "must be a URL: redis://…"),
        ("SEMLINK_REDIS_URL", "redis://:hunter2@[host/0", "must be a URL: redis://…"),
        ("SEMLINK_REDIS_URL", "redis://:hunter2@host:port/0", "must be a URL: redis://…"),
        ("SEMLINK_REDIS_URL", "redis://:hunter/2@host/0", "must be a URL: redis://…"),
        ("SEMLINK_REDIS_URL", "redis://hunter/2@host/0", "write / as %2F"),
        ("SEMLINK_REDIS_URL", "redis://hunter?2@host/0", "write / as %2F"),
        ("SEMLINK_REDIS_URL", "memory://hunter2", "nothing follows memory://"),
        ("SEMLINK_LLM_URL", "ftp://hunter2@host/v1", "must be a URL: http://…"),
        ("SEMLINK_LLM_URL", "https://hunter2@/v1", "the URL names no host"),
        ("SEMLINK_LLM_URL", "https://host/v1?key=hunter2", "no query"),
    ],
)
def test_a_bad_setting_that_may_hold_a_secret_is_named_but_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidField) as caught:
        Settings()
    assert caught.value.field == name
    assert caught.value.message.startswith(f"{name}: ")
    assert why in caught.value.message
    assert "hunter" not in "".join(traceback.format_exception(caught.value))


def test_settings_survive_the_environment_of_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Settings(
        device="cuda:1",
        receiver_port=7,
        host="0.0.0.0",
        deadline_s=2.5,
        scenario="cdl-a",
        redis_url="redis://user:p%40ss@host:1/2",
        llm_url="https://user:pass@host/v1",
        llm_api_key="key",
    )
    for name, value in ours.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == ours


def test_addresses_default_to_this_machine() -> None:
    settings = Settings(host="0.0.0.0", receiver_port=7, channel_address="dns:///channel:50052")
    assert settings.address("receiver") == "127.0.0.1:7"
    assert settings.address("channel") == "dns:///channel:50052"
    assert settings.metrics_port("gateway") == settings.gateway_port
    assert (settings.weights_dir / "predictors.json").is_file()
