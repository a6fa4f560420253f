"""Stored rewrites as JSON lines: what `semlink kb export` writes and `import` reads, and those that come with semlink.

The file of those (:data:`SHIPPED`) holds the rewrites of the demo's and the README's queries, so that the first answers
to them have rewrites without waiting for the LLM. ``python -m tools.ship_rewrites`` makes it with the embedded LLM.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import ParseDict, ParseError

from semlink.errors import InvalidField
from semlink.formats import ENTRIES, FORMATS, check_format
from semlink.v1 import knowledge_pb2 as pb

SHIPPED: Final = Path(__file__).parent / "assets" / "rewrites.jsonl"
IMPORT_PART: Final = 200
"""Entries of one request: their captions are embedded meanwhile."""


@lru_cache(maxsize=1)
def shipped() -> tuple[pb.KnowledgeEntry, ...]:
    """The entries that come with semlink."""
    parts = read_entries(SHIPPED.read_text().splitlines(), SHIPPED.name)
    return tuple(entry for _, part in parts for entry in part)


def is_shipped(entry: pb.KnowledgeEntry) -> bool:
    """Whether a stored entry is one that came with semlink, not one that was generated here."""
    return (entry.key, entry.made_unix_s) in {(e.key, e.made_unix_s) for e in shipped()}


def to_json(entry: pb.KnowledgeEntry) -> dict[str, Any]:
    """An entry as a line of an export."""
    return {
        "format": FORMATS[ENTRIES],
        "key": entry.key,
        "text": entry.text,
        "strategy": entry.strategy,
        "model": entry.model,
        "seed": entry.seed,
        "temperature": entry.temperature,
        "num_candidates": entry.num_candidates,
        "made_unix_s": entry.made_unix_s,
        "rewrites": [
            {"text": r.text, "similarity": r.similarity, "reason": r.reason} for r in entry.rewrites
        ],
    }


def read_entries(lines: Sequence[str], name: str) -> Iterator[tuple[int, list[pb.KnowledgeEntry]]]:
    """Entries of an export, :data:`IMPORT_PART` at a time with the number of the first's line.

    Raises InvalidField naming file and line.
    """
    part: list[pb.KnowledgeEntry] = []
    first = 1
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            if not isinstance(values, dict):
                raise ParseError(f"expected an object, found {type(values).__name__}")
            advice = "import it with the semlink that exported it"
            check_format(ENTRIES, values.pop("format", None), f"{name}, line {number}", advice)
            part.append(ParseDict(values, pb.KnowledgeEntry()))
        except (ValueError, ParseError) as error:
            raise InvalidField(f"{name}, line {number}: {error}", field="file") from error
        if len(part) == IMPORT_PART:
            yield first, part
            part, first = [], number + 1
    if part:
        yield first, part
