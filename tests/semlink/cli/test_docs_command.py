"""`semlink docs` without a checkout."""

from __future__ import annotations

import sys

import pytest

from semlink.cli import app as command_line


def test_docs_in_an_installed_wheel_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tools.docs.api_reference", None)
    monkeypatch.setattr(sys, "argv", ["semlink", "docs"])
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 1
    assert "needs a checkout" in capsys.readouterr().err
