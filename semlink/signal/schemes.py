"""Whether a link's feedback can be made at all, asked before anything is sent over it.

Examples
--------
>>> from types import SimpleNamespace
>>> feedback = SimpleNamespace(
...     quantizer="type1", bits=40, memory="none", content="layers", report_period_slots=5, delay_slots=5
... )
>>> link = SimpleNamespace(num_tx_ant=16, num_rx_ant=2, num_layers=1, feedback=feedback)
>>> check_feedback(link)
Traceback (most recent call last):
...
semlink.errors.InvalidField: link.feedback.bits is 40, type1 with 16 ports and 1 layers has reports of 13, 27, 29, 41,
43, 57 bits, nearest allowed: 41
"""

from __future__ import annotations

from semlink.errors import InvalidField
from semlink.signal.csi import quantizer_for
from semlink.signal.link import LinkLike
from semlink.weight_files import SHIPPED, Weights


def check_feedback(config: LinkLike, weights: Weights = SHIPPED, *, field: str = "link") -> None:
    """Raise InvalidField, naming ``{field}.feedback.…``, unless there is a quantiser for the (validated) link.

    The first link of a scheme may load its codebook; call it where that may take its time.
    """
    try:
        quantizer_for(config, weights)
    except InvalidField as error:
        name = error.field.removeprefix("link.")
        message = error.message.replace(error.field, f"{field}.{name}", 1)
        raise InvalidField(message, field=f"{field}.{name}") from error
