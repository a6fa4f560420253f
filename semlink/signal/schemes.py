"""Whether a link's feedback can be made at all, asked before anything is sent over it."""

from __future__ import annotations

from semlink.errors import InvalidField
from semlink.signal.csi import quantizer_for
from semlink.v1 import common_pb2 as pb


def check_feedback(config: pb.LinkConfig, *, field: str = "link") -> None:
    """Raise InvalidField, naming ``{field}.feedback.…``, unless there is a quantiser for the (validated) link.

    The first link of a scheme may load its codebook; call it where that may take its time.
    """
    try:
        quantizer_for(config)
    except InvalidField as error:
        name = error.field.removeprefix("link.")
        message = error.message.replace(error.field, f"{field}.{name}", 1)
        raise InvalidField(message, field=f"{field}.{name}") from error
