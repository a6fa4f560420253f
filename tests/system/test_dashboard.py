"""Every panel of the dashboard shows something true: a real Prometheus scrapes the running services under load."""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests_live import Live

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="needs prometheus and promtool (Debian package prometheus)",
)


def panels() -> list[dict[str, Any]]:
    board = json.loads((DEPLOY / "grafana/dashboards/semlink.json").read_text())
    rows = [p for p in board["panels"] if p["type"] == "row"]
    return [p for p in board["panels"] if p["type"] != "row"] + [
        p for row in rows for p in row.get("panels") or []
    ]


def test_the_committed_dashboard_is_what_the_code_renders() -> None:
    rendered = subprocess.run(
        [sys.executable, "-c", "import dashboard; print(dashboard.render(), end='')"],
        cwd=DEPLOY / "grafana",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert rendered == (DEPLOY / "grafana/dashboards/semlink.json").read_text()


def test_every_query_has_its_own_id_a_source_and_every_panel_a_description() -> None:
    assert len(panels()) >= 30
    assert len({panel["title"] for panel in panels()}) == len(panels())
    for panel in panels():
        assert len(panel["description"]) >= 25, panel["title"]
        ids = [t["refId"] for t in panel["targets"]]
        assert len(set(ids)) == len(ids)
        assert all(ids)
        assert panel["datasource"]["uid"] == "prometheus"


def test_the_variables_are_those_that_queries_use() -> None:
    board = json.loads((DEPLOY / "grafana/dashboards/semlink.json").read_text())
    variables = {variable["name"] for variable in board["templating"]["list"]}
    text = " ".join(t["expr"] for panel in panels() for t in panel["targets"])
    assert variables == set(re.findall(r"\$(\w+)", text)) == {"task", "method", "scenario"}


@needs_prometheus
def test_configuration_and_alerts() -> None:
    folder = DEPLOY / "prometheus"
    subprocess.run(["promtool", "check", "config", folder / "prometheus.yml"], check=True)
    subprocess.run(["promtool", "test", "rules", "alerts_test.yml"], cwd=folder, check=True)


def test_every_alert_and_every_recorded_series_has_a_test_or_a_panel() -> None:
    folder = DEPLOY / "prometheus"
    tested = (folder / "alerts_test.yml").read_text()
    shown = (DEPLOY / "grafana/dashboards/semlink.json").read_text()
    for alert in re.findall(r"- alert: (\w+)", (folder / "alerts.yml").read_text()):
        assert tested.count(f"alertname: {alert}\n") >= 2, f"{alert}: when it fires and when not"
    for name in re.findall(r"- record: (\S+)", (folder / "rules.yml").read_text()):
        assert name in tested + shown + (folder / "alerts.yml").read_text()


@pytest.fixture
def prometheus(live: Live, tmp_path: Path) -> Iterator[httpx.Client]:
    """A Prometheus with our configuration, its targets moved to where the services listen here."""
    settings = live.settings
    text = (DEPLOY / "prometheus/prometheus.yml").read_text()
    for service in ("transmitter", "channel", "receiver", "knowledge", "gateway"):
        text = re.sub(rf'"{service}:\d+"', f'"127.0.0.1:{settings.metrics_port(service)}"', text)
    text = text.replace("scrape_interval: 5s", "scrape_interval: 1s")
    (tmp_path / "prometheus.yml").write_text(text)
    for name in ("rules.yml", "alerts.yml"):
        shutil.copy(DEPLOY / "prometheus" / name, tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield client
    finally:
        process.terminate()
        process.wait(timeout=20)


@needs_prometheus
@pytest.mark.system
@pytest.mark.timeout(600)
def test_every_panel_returns_finite_values_under_load_and_true_ones(
    live: Live, prometheus: httpx.Client
) -> None:
    expressions = [_for_all(t["expr"]) for panel in panels() for t in panel["targets"]]
    body = {
        "task": "person",
        "query": {"text": "a man in a red jacket"},
        "link": {"snr_db": 7.0, "feedback": {"bits": 48}},
    }
    deadline = time.monotonic() + 180
    waiting, seed = set(expressions), 0
    while waiting and time.monotonic() < deadline:
        for method in ("deepsc-mimo", "sc-lmkb-wo-cdg"):
            seed += 1
            asked = body | {"method": method, "seed": seed, "knowledge_budget_ms": 0.0}
            assert live.http.post("/v1/queries", json=asked).status_code == 200
        time.sleep(0.5)
        waiting = {e for e in waiting if not _finite(prometheus, e)}
    assert not waiting
    for title, expected in (("SNR", 7.0), ("Feedback bits a report", 48.0)):
        (panel,) = (panel for panel in panels() if panel["title"] == title)
        found = _values(prometheus, _for_all(panel["targets"][0]["expr"]))
        assert found == pytest.approx([expected] * len(found)), title
        assert found
    up = prometheus.get("/api/v1/query", params={"query": 'up{job="semlink"}'}).json()
    assert {r["metric"]["service"]: r["value"][1] for r in up["data"]["result"]} == dict.fromkeys(
        ("transmitter", "channel", "receiver", "knowledge", "gateway"), "1"
    )


@needs_prometheus
@pytest.mark.system
def test_a_load_test_is_a_region_of_the_dashboard_with_its_parameters(
    live: Live, prometheus: httpx.Client
) -> None:
    board = json.loads((DEPLOY / "grafana/dashboards/semlink.json").read_text())
    (annotation,) = board["annotations"]["list"]
    labels = re.findall(r"\{\{(\w+)\}\}", annotation["textFormat"])

    def shown() -> list[dict[str, Any]]:
        asked = prometheus.get("/api/v1/query", params={"query": annotation["expr"]})
        if asked.status_code == 503:
            raise httpx.TransportError("it starts")
        assert asked.status_code == 200, asked.text
        found: list[dict[str, Any]] = asked.json()["data"]["result"]
        return found

    def wait_until(there: bool) -> list[dict[str, Any]]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if bool(found := shown()) is there:
                    return found
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        raise AssertionError(f"still {'nothing' if there else 'something'} after a minute")

    body = {"duration_s": 600.0, "rate": 12.5, "queries_per_call": 4}
    assert live.http.put("/v1/load-run", json=body).status_code == 204
    (region,) = wait_until(True)
    assert float(region["value"][1]) == 1.0  # what Grafana takes for "there"
    assert {name: region["metric"][name] for name in labels} == {
        **{"rate": "12.5", "users": "0", "queries_per_call": "4", "seconds": "600"},
    }
    assert live.http.delete("/v1/load-run").status_code == 204
    wait_until(False)


def _for_all(expression: str) -> str:
    """A query as Grafana sends it with "All" chosen in every variable."""
    return re.sub(r"\$\w+", ".*", expression)


def _finite(prometheus: httpx.Client, expression: str) -> bool:
    try:
        return any(map(math.isfinite, _values(prometheus, expression)))
    except httpx.TransportError:
        return False


def _values(prometheus: httpx.Client, expression: str) -> list[float]:
    answer = prometheus.get("/api/v1/query", params={"query": expression})
    if answer.status_code == 503:
        raise httpx.TransportError("it starts")
    assert answer.status_code == 200, answer.text
    return [float(r["value"][1]) for r in answer.json()["data"]["result"]]
