"""What an interruption costs: the line that it cut, and none beside it."""

from __future__ import annotations

from pathlib import Path

from lab.evaluation.jsonl import append_line, whole_lines


def test_lines_come_back_in_order_and_a_cut_one_swallows_no_other(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "kept.jsonl"
    assert list(whole_lines(path)) == []
    values = [{"a": 1}, ["é", 2.5], "line\nbreak"]
    for value in values:
        append_line(path, value)
    assert list(whole_lines(path)) == values
    path.write_text(path.read_text()[:-4])
    assert list(whole_lines(path)) == values[:2]
    append_line(path, "next")
    assert list(whole_lines(path)) == [*values[:2], "next"]
