"""What the program says of itself."""

from __future__ import annotations

import json
import subprocess
import tomllib
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from semlink import version as module

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _forget() -> None:
    module.version.cache_clear()
    module.commit.cache_clear()


def test_the_version_is_that_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert module.version() == project["version"]


def test_sources_that_were_never_installed_have_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    assert module.version() == "unknown"


def _git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_commit_is_that_of_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _git(tmp_path, "init")
    (tmp_path / "file").write_text("a")
    _git(tmp_path, "add", "file")
    _git(tmp_path, "commit", "-m", "one")
    _git(tmp_path, "tag", "-a", "v1", "-m", "v1")
    monkeypatch.setattr(module, "CHECKOUT", tmp_path)
    head = _git(tmp_path, "rev-parse", "HEAD")
    assert module.commit() == head[:12]
    (tmp_path / "file").write_text("b")
    module.commit.cache_clear()
    assert module.commit() == f"{head[:12]}-dirty"


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (None, None),
        ({"url": "file:///a/semlink.whl", "archive_info": {}}, None),
        ({"url": "git+ssh://a/b", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}, "c0ffee"),
    ],
)
def test_elsewhere_the_commit_is_what_pip_recorded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recorded: dict[str, object] | None,
    expected: str | None,
) -> None:
    info = tmp_path / "semlink-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: semlink\nVersion: 9\n")
    if recorded is not None:
        (info / "direct_url.json").write_text(json.dumps(recorded))
    found = Distribution.at(info)
    monkeypatch.setattr(Distribution, "from_name", classmethod(lambda _cls, _name: found))
    monkeypatch.setattr(module, "CHECKOUT", tmp_path)
    assert module.commit() == expected
