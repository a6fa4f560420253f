"""`semlink load` against the running services: what it reports agrees with what the services say themselves."""

from __future__ import annotations

import re

import pytest
from tests_live import Live

from semlink.load.plan import Load, Mix, Plan
from semlink.load.resources import local_pids, resources_of
from semlink.load.run import Course, Measured, run

pytestmark = pytest.mark.system


def measured(live: Live, load: Load, **values: object) -> Measured:
    plan = Plan(url=live.url, **{"seed": 11, "warm_up": 8, **values})  # type: ignore[arg-type]
    return run(plan, Course((load,)), resources_of(live.url, live.settings.state_dir, {}))


def counted(live: Live, metric: str) -> float:
    text = live.http.get("/metrics").text
    return sum(float(v) for v in re.findall(rf"^{re.escape(metric)} (.*)$", text, re.MULTILINE))


def test_a_mix_over_every_kind_of_link_is_answered_and_accounted_for(live: Live) -> None:
    asked = (
        'semlink_requests_total{code="ok",method="POST /v1/queries",outcome="ok",service="gateway"}'
    )
    before = counted(live, asked)
    opened = live.http.get("/v1/links").json()["links"]
    found = measured(
        live,
        Load(users=4),
        calls=60,
        tasks=Mix.of("person", "image"),
        links=Mix.of("shared", "new", "opened"),
        batch=Mix.of(1, 3),
        num_links=2,
        symbols=32,
        link={"num_users": 2, "feedback": {"bits": 32}},
    )
    (figures,) = found.steps
    values, samples = figures.values, figures.step.samples
    assert figures.statuses == {"200": 60}
    single = sum(len(one.asked) == 1 for one in samples)
    # the warm-up's calls are single or not, too
    assert single <= counted(live, asked) - before <= single + 8
    answers = [answer for one in samples for answer in one.answers]
    assert {answer.symbols for answer in answers} == {32}
    assert values["feedback_bits_per_s"] == pytest.approx(values["symbols_per_s"])
    # captions of the embedded sets over a 10 dB link find their item far more often than chance (1 in 1,000)
    assert values["correct_share"] > 0.3
    assert figures.stages["receiver.search"][0] < figures.stages["gateway.total"][0]
    assert figures.emulated["air_time"] == pytest.approx((1 / 14,) * 3, abs=1e-5)
    for answer in answers:
        assert answer.emulated_ms["slot_wait"] >= 0
        if answer.asked.link_kind != "opened":
            assert answer.emulated_ms["slot_wait"] == 0
    ids = [
        {link["id"] for link in links}
        for links in (opened, live.http.get("/v1/links").json()["links"])
    ]
    assert ids[0] == ids[1], "the run closes the links that it opened"


def test_cpu_and_memory_of_every_service_are_read(live: Live) -> None:
    pids = local_pids(live.url, live.settings.state_dir)
    names = {"redis", "knowledge", "receiver", "channel", "transmitter", "gateway"}
    assert set(pids) == names
    assert local_pids("http://127.0.0.1:1", live.settings.state_dir) == {}
    assert local_pids("http://example.org:8000", live.settings.state_dir) == {}
    (figures,) = measured(live, Load(rate=8.0), duration_s=3.0).steps
    services = figures.step.services
    assert set(services) == names
    assert services["transmitter"].cpu_s > 0
    assert all(use.rss_mib > 1 for use in services.values())
    total = sum(use.cpu_s for use in services.values())
    answers = sum(len(one.answers) for one in figures.step.samples)
    assert figures.values["cpu_ms_per_query"] == pytest.approx(1e3 * total / answers)
    ports = {name: live.settings.metrics_port(name) for name in ("channel", "receiver")}
    urls = {name: f"http://127.0.0.1:{port}/metrics" for name, port in ports.items()}
    plan = Plan(url=live.url, seed=12, warm_up=0, calls=5)
    scraped = run(
        plan, Course((Load(users=1),)), resources_of(live.url, live.settings.state_dir, urls)
    )
    assert set(scraped.steps[0].step.services) == {"gateway", "channel", "receiver"}
    rss = scraped.steps[0].step.services["receiver"].rss_mib
    assert rss == pytest.approx(services["receiver"].rss_mib, rel=0.2)
