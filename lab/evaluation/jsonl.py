"""Files of JSON lines that long runs add to, one line a result, so that an interruption costs at most one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def append_line(path: Path, value: Any) -> None:
    """Add a value as a line, in one write: processes that share the file never mix theirs.

    A line that an interruption cut short stays a line of its own, and is passed over by :func:`whole_lines`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(file).st_size
        cut = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        os.write(file, ("\n" * cut + json.dumps(value) + "\n").encode())
    finally:
        os.close(file)


def whole_lines(path: Path) -> Iterator[Any]:
    """The values of a file in their order, none where there is no file; what is no JSON was cut short."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue
