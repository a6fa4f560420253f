"""Figures of a step, recomputed by hand from its samples."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from lab.evaluation.report import Row
from semlink.load.charts import bars, lines
from semlink.load.figures import FIGURES, Figures, figures_of, is_figure, rows_of
from semlink.load.generator import Answer, Sample, Step
from semlink.load.html_report import write_page
from semlink.load.plan import Load, Mix, Plan, Rule
from semlink.load.queries import Asked
from semlink.load.resources import Reading, ServiceUse, reading_of, used
from semlink.load.run import Measured

PLAN = Plan(url="http://127.0.0.1:1", seed=1, deadline_ms=1000.0, link={"num_layers": 2})


def asked(kind: str = "shared", link: str = "1") -> Asked:
    return Asked("person", "jscc", kind, link, "p")


def answered(
    due_s: float,
    latency_s: float,
    *,
    link: str = "1",
    kind: str = "shared",
    slot: int = 3,
    **more: bool,
) -> Sample:
    facts = {"correct": True, "degraded": False, "erased": False, **more}
    one = asked(kind, link)
    answer = Answer(
        one,
        **facts,
        symbols=64,
        feedback_bits=32,
        slot=slot,
        timings_ms={"gateway.total": 1e3 * latency_s},
        emulated_ms={"air_time": 0.07},
    )
    return Sample(due_s, (one,), 0.001, latency_s, "200", answers=(answer,))


def step(*samples: Sample, seconds: float = 10.0, **values: object) -> Figures:
    made = Step(Load(rate=1.0), 0.0, list(samples), seconds, **values)  # type: ignore[arg-type]
    return figures_of(made, PLAN)


def test_rates_count_what_ended_inside_and_shares_count_all() -> None:
    figures = step(
        answered(1.0, 0.1),
        answered(2.0, 0.2, correct=False, degraded=True),
        answered(3.0, 2.0),  # right, but after its deadline
        answered(9.5, 0.9),  # ended after the step
        Sample(4.0, (asked(),), 0.0, 0.01, "429", refusals=1),
        Sample(5.0, (asked(), asked()), 0.0, 0.01, "timeout"),
    ).values
    assert figures["queries_per_s"] == pytest.approx(0.3)
    assert figures["timely_per_s"] == pytest.approx(0.2)
    assert figures["correct_per_s"] == pytest.approx(0.1)
    assert figures["answered_share"] == pytest.approx(4 / 7)
    assert figures["refused_share"] == pytest.approx(1 / 7)
    assert figures["failed_share"] == pytest.approx(2 / 7)
    assert figures["degraded_share"] == pytest.approx(1 / 4)
    assert figures["correct_share"] == pytest.approx(3 / 4)
    assert figures["symbols_per_s"] == pytest.approx(3 * 64 / 10)
    assert figures["feedback_bits_per_s"] == pytest.approx(3 * 32 / 10)
    assert figures["p50_ms"] == pytest.approx(550.0)


def test_occupied_bandwidth_is_resource_elements_at_15_khz_for_a_symbol_each() -> None:
    figures = step(*(answered(i, 0.1) for i in range(9))).values
    # 64 symbols on 2 layers are 32 elements; an OFDM symbol lasts 1 ms / 14
    khz_s = 9 * 32 * 15.0 * 1e-3 / 14
    assert figures["occupied_khz"] == pytest.approx(khz_s / 10)
    assert figures["correct_per_s_per_khz"] == pytest.approx(9 / khz_s)


def test_slots_of_an_opened_link_are_counted_once_and_new_links_not_at_all() -> None:
    opened = [answered(i, 0.1, kind="opened", link="a", slot=i // 2) for i in range(6)]
    assert step(*opened, seconds=6.0).values["slots_used_share"] == pytest.approx(3 / 6000)
    both = [*opened, answered(0, 0.1, link="b"), answered(1, 0.1, link="b")]
    figures = step(*both, answered(1, 0.1, kind="new", link="c"), seconds=8.0).values
    assert figures["slots_used_share"] == pytest.approx(5 / 16_000)
    assert figures["cell_full_at_queries_per_s"] == pytest.approx(9 / 8 / (5 / 16_000))


def test_cost_is_of_all_services_a_query_that_was_answered() -> None:
    services = {"gateway": ServiceUse(0.2, 100.0), "receiver": ServiceUse(0.4, 50.0)}
    figures = step(answered(0, 0.1), answered(1, 0.1), services=services, generator_cpu_s=0.01)
    assert figures.values["cpu_ms_per_query"] == pytest.approx(300.0)
    assert figures.values["memory_mib"] == 150.0
    assert figures.values["generator_cpu_ms_per_call"] == pytest.approx(5.0)
    unknown = step(answered(0, 0.1)).values
    assert math.isnan(unknown["cpu_ms_per_query"])


def test_a_service_that_started_anew_has_no_use() -> None:
    before = {"a": Reading(5.0, 1.0), "b": Reading(5.0, 1.0)}
    after = {"a": Reading(7.0, 2**20), "b": Reading(1.0, 1.0), "c": Reading(1.0, 1.0)}
    assert used(before, after) == {"a": ServiceUse(2.0, 1.0)}
    text = "# HELP x\nprocess_cpu_seconds_total 1.5\nprocess_resident_memory_bytes 3.0e+06 1700\n"
    assert reading_of(text) == Reading(1.5, 3e6)
    assert reading_of("process_cpu_seconds_total 1.5\n") is None


def test_every_figure_can_be_named_by_a_rule_and_stands_in_the_report() -> None:
    services = {"gateway": ServiceUse(0.2, 100.0)}
    figures = step(answered(0, 0.1), answered(1, 0.3), services=services)
    named = figures.by_name
    assert set(FIGURES) <= set(named)
    assert all(is_figure(name) for name in named)
    assert named["p50_ms.gateway.total"] == pytest.approx(200.0)
    assert named["p99_ms.emulated.air_time"] == pytest.approx(0.07)
    rows = {(row.metric, row.variant): row for row in rows_of([figures], PLAN, where="here, ")}
    assert rows["p50_ms", "here, 1 calls/s"].mean == pytest.approx(200.0)
    assert rows["cpu_s", "here, 1 calls/s, gateway"].mean == 0.2
    assert rows["calls", "here, 1 calls/s, status 200"].mean == 2
    assert all(isinstance(row, Row) and math.isfinite(row.mean) for row in rows.values())


def test_nothing_answered_gives_no_latency_and_no_rule_passes_unnoticed() -> None:
    figures = step(Sample(0.0, (asked(),), 0.0, 1.0, "connection"))
    measured = Measured(PLAN, [figures])
    rules = [Rule("p99_ms", ">", 500.0), Rule("failed_share", ">", 0.5), Rule("p50_ms", "<", 1.0)]
    assert measured.broken(rules) == ([rules[1]], [rules[0], rules[2]])


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(tmp_path: Path) -> None:
    mixed = Plan(url="http://127.0.0.1:1/<b>", seed=1, methods=Mix.of("<i>x"))
    measured = Measured(mixed, [step(answered(0, 0.1)), step()], interrupted=True)
    path = tmp_path / "a" / "load.html"
    rule = Rule("p99_ms", ">", 5.0)
    write_page(measured, path, command="semlink load '<b>'", broken=[rule], unknown=[])
    page = path.read_text()
    assert "<b>" not in page
    assert "<i>x" not in page
    assert not re.search(r"<script|(?:src|href)=|url\(|@import", page)
    assert "prefers-color-scheme: dark" in page
    assert "Failed: p99_ms&gt;5" in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(svg)
    assert page.count("<svg") >= 5


def test_a_line_lies_where_its_points_are() -> None:
    drawn = lines({"a": [(0, 0), (5, 50), (10, 100), (3, math.nan)]}, x="s", y="ms")
    match = re.search(r'points="([^"]+)"', drawn)
    assert match is not None
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(float, p.split(","))) for p in match[1].split())
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert x2 > x0
    assert y2 < y0
    logarithmic = lines({"a": [(0, 1), (5, 10), (10, 100)]}, x="s", y="ms", log_y=True)
    match = re.search(r'points="([^"]+)"', logarithmic)
    assert match is not None
    ys = [float(p.split(",")[1]) for p in match[1].split()]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)
    widths = re.findall(
        r'<rect[^>]* width="([^"]+)"', bars({"a": (1.0, 4.0)}, ("p", "q"), unit="ms")
    )
    assert float(widths[1]) == pytest.approx(4 * float(widths[0]), rel=0.01)
    assert "nothing was measured" in lines({"a": [(0, math.nan)]}, x="s", y="ms")
