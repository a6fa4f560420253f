"""Settings of the environment as it is now."""

from __future__ import annotations

from pathlib import Path

import pytest

from semlink.errors import InvalidField
from semlink.settings import current_settings


def test_current_settings_follow_the_environment_and_are_not_built_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = current_settings()
    assert current_settings() is known
    monkeypatch.setenv("SEMLINK_DATA_DIR", "/somewhere/else")
    assert current_settings().data_dir == Path("/somewhere/else")
    monkeypatch.setenv("SEMLINK_DATA_DIR", "~/data")
    monkeypatch.setenv("HOME", "/home/one")
    assert current_settings().data_dir == Path("/home/one/data")
    monkeypatch.setenv("HOME", "/home/two")
    assert current_settings().data_dir == Path("/home/two/data")
    monkeypatch.setenv("SEMLINK_NUM_THREADS", "0")
    with pytest.raises(InvalidField, match="SEMLINK_NUM_THREADS"):
        current_settings()
