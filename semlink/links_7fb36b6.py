"""Links in the bytes of 7fb36b6: its stores hold them, and they seed the link dataset that codecs are trained on."""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from semlink.links import Feedback, Link

_FEEDBACK = (
    ("quantizer", 1, Field.TYPE_STRING),
    ("bits", 2, Field.TYPE_UINT32),
    ("report_period_slots", 3, Field.TYPE_UINT32),
    ("delay_slots", 4, Field.TYPE_UINT32),
    ("memory", 5, Field.TYPE_STRING),
    ("content", 6, Field.TYPE_STRING),
)
_LINK = (
    ("scenario", 1, Field.TYPE_STRING),
    ("snr_db", 2, Field.TYPE_DOUBLE),
    ("speed_mps", 3, Field.TYPE_DOUBLE),
    ("carrier_frequency_hz", 4, Field.TYPE_DOUBLE),
    ("num_tx_ant", 5, Field.TYPE_UINT32),
    ("num_rx_ant", 6, Field.TYPE_UINT32),
    ("num_layers", 7, Field.TYPE_UINT32),
    ("num_users", 8, Field.TYPE_UINT32),
    ("feedback", 9, Field.TYPE_MESSAGE),
    ("seed", 10, Field.TYPE_UINT64),
    ("delay_spread_s", 11, Field.TYPE_DOUBLE),
    ("power_allocation", 12, Field.TYPE_STRING),
)
_DEFAULT_TEXTS = {"memory": "none", "content": "layers", "power_allocation": "equal"}
"""What empty text meant."""


@cache
def _message() -> Any:
    file = FileDescriptorProto(name="link.proto", package="semlink.links7fb36b6", syntax="proto3")
    for message, fields in (("Feedback", _FEEDBACK), ("Link", _LINK)):
        made = file.message_type.add(name=message)
        for name, number, kind in fields:
            made.field.add(name=name, number=number, type=kind, label=Field.LABEL_OPTIONAL)
    file.message_type[1].field[8].type_name = ".semlink.links7fb36b6.Feedback"
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("semlink.links7fb36b6.Link"))


def link_of(data: bytes) -> Link:
    """Return the link of its bytes."""
    old = _message().FromString(data)
    values, feedback = (
        {
            name: getattr(message, name) or _DEFAULT_TEXTS.get(name, getattr(message, name))
            for name, _, _ in fields
        }
        for message, fields in ((old, _LINK), (old.feedback, _FEEDBACK))
    )
    values["speed_kmh"] = round(values.pop("speed_mps") * 3.6, 9)
    values["delay_spread_ns"] = round(values.pop("delay_spread_s") * 1e9, 9) or None
    return Link(**{**values, "feedback": Feedback(**feedback)})


def bytes_of(link: Link) -> bytes:
    """Return the bytes of a link."""
    old = _message()()
    for part, fields, message in ((link, _LINK, old), (link.feedback, _FEEDBACK, old.feedback)):
        for name, _, kind in fields:
            value = getattr(part, name)
            if (
                kind != Field.TYPE_MESSAGE
                and value is not None
                and _DEFAULT_TEXTS.get(name) != value
            ):
                setattr(message, name, value)
    old.feedback.SetInParent()
    data: bytes = old.SerializeToString(deterministic=True)
    return data
