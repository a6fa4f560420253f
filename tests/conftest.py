"""One running system for all system tests: it starts once a session, on free ports, and leaves nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import httpx
import pytest
from tests_live import Live

from semlink.settings import Settings

PROGRAMS = {"prometheus": "prometheus", "promtool": "prometheus", "chromium": "chromium"}
"""Programs that tests look for, and the Debian packages that bring them (scripts/install_test_programs.sh)."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests were skipped for a missing program, and how to install it."""
    missing = {program: PROGRAMS[program] for program in PROGRAMS if not shutil.which(program)}
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if any(program in str(report.longrepr).lower() for program in missing)
    ]
    if skipped:
        packages = " ".join(sorted(set(missing.values())))
        terminalreporter.section("skipped for missing programs", sep="=", yellow=True)
        for report in skipped:
            terminalreporter.line(report.nodeid)
        terminalreporter.line(
            f"{len(skipped)} tests need {', '.join(missing)}; install with: sudo apt-get install {packages}"
        )


@pytest.fixture(scope="session", autouse=True)
def _own_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Corpora and items that the user of this machine has added are not the tests' business, nor theirs the user's."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SEMLINK_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        # requests that tests themselves send to this machine need no proxy, whatever the environment names
        for name in ("NO_PROXY", "no_proxy"):
            environment.setenv(name, "localhost,127.0.0.1,::1")
        yield


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    from semlink.deployment import supervisor

    services = ("gateway", "transmitter", "channel", "receiver", "knowledge")
    ports = {f"{service}_port": 0 for service in services}
    ports |= {f"{service}_metrics_port": 0 for service in services if service != "gateway"}
    asked = Settings(**ports, state_dir=tmp_path_factory.mktemp("state"))
    settings = supervisor.with_ports_chosen(asked)
    supervisor.up(settings, detach=True, services=supervisor.services_of(settings, own_redis=True))
    url = f"http://127.0.0.1:{settings.gateway_port}"
    with httpx.Client(base_url=url, timeout=120) as http:
        yield Live(settings, http)
    assert supervisor.down(settings)
