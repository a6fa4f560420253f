"""The reference pages in docs/ are those of the code and the contracts as they are."""

from __future__ import annotations

from pathlib import Path

from tools.docs.api_reference import ROOT, write


def test_the_references_are_up_to_date(tmp_path: Path) -> None:
    for path in write(tmp_path):
        committed = ROOT / "docs" / path.name
        assert path.read_text() == committed.read_text(), (
            f"run `semlink docs`: {path.name} is stale"
        )
