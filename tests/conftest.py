"""One running system for all system tests: it starts once a session, on free ports, and leaves nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from tests_live import Live, running
from tests_store import start_store

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
    with running(tmp_path_factory.mktemp("state")) as system:
        yield system


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store of a module's own."""
    path = tmp_path_factory.mktemp("redis") / "redis.sock"
    process = start_store(path)
    yield f"unix://{path}"
    process.kill()
    process.wait()
