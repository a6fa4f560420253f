"""The contracts against a stored copy: what a client compiled yesterday relies on stays.

After an addition: ``python tests/semlink/test_contracts.py`` writes the copy anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semlink.v1 import channel_pb2, common_pb2, knowledge_pb2, receiver_pb2, transmitter_pb2

STORED = Path(__file__).with_name("contracts.txt")
FILES = (common_pb2, channel_pb2, knowledge_pb2, receiver_pb2, transmitter_pb2)


def contracts() -> list[str]:
    """A line for each field, value of an enum and RPC."""
    return sorted(line for file in FILES for line in _lines(file.DESCRIPTOR))


def _lines(file: Any) -> Iterator[str]:
    for message in file.message_types_by_name.values():
        yield f"message {message.name}"
        for field in message.fields:
            kind = (field.message_type or field.enum_type or field).name
            if kind == field.name:
                kind = str(field.type)
            oneof = field.containing_oneof.name if field.containing_oneof else ""
            label = "repeated " if field.is_repeated else ""
            yield f"{message.name} {field.number} {field.name}: {label}{kind} {oneof}".rstrip()
    for enum in file.enum_types_by_name.values():
        for value in enum.values:
            yield f"{enum.name} {value.number} {value.name}"
    for service in file.services_by_name.values():
        for method in service.methods:
            stream = "stream " if method.server_streaming else ""
            answer = f"{stream}{method.output_type.name}"
            yield f"rpc {service.name}.{method.name}({method.input_type.name}): {answer}"


def missing(stored: list[str], current: list[str]) -> list[str]:
    """What the stored copy has and the contracts have not: a removal, or a change."""
    return sorted(set(stored) - set(current))


def test_later_contracts_only_add() -> None:
    stored = STORED.read_text().splitlines()
    assert missing(stored, contracts()) == []
    assert stored == contracts(), "added to: write the copy anew, see the module"


def test_a_change_is_seen() -> None:
    current = contracts()
    (line,) = (one for one in current if one.startswith("LinkConfig 2 snr_db"))
    for other in (line.replace(" 2 ", " 16 "), re.sub(r": \d+", ": 2", line)):
        assert missing(current, [other if one == line else one for one in current]) == [line]


def test_numbers_that_are_given_up_are_reserved() -> None:
    for message, numbers in (
        (common_pb2.LinkConfig, (3, 11, 12)),
        (common_pb2.FeedbackConfig, (5, 6)),
        (transmitter_pb2.Retrieval, (1, 2, 3)),
    ):
        assert not set(numbers) & {field.number for field in message.DESCRIPTOR.fields}


if __name__ == "__main__":
    STORED.write_text("\n".join(contracts()) + "\n")
