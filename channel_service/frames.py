"""Frames as they come in: checked, with every error naming the field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semlink.errors import InvalidField
from semlink.grid import NUM_SUBBANDS, OFDM_SYMBOLS_PER_SLOT, SUBCARRIERS_PER_SUBBAND
from semlink.links import Link, checked_link, link_id_of
from semlink.semantics.headers import is_digital, parse_header
from semlink.signal.coding import constellation, scheme_of
from semlink.v1 import channel_pb2
from semlink.wire import from_wire

MAX_RESOURCE_ELEMENTS = NUM_SUBBANDS * SUBCARRIERS_PER_SUBBAND * OFDM_SYMBOLS_PER_SLOT
"""Of one slot: a frame does not fit into less than its symbols."""
POWER_TOLERANCE = 1e-2
"""Relative; what single precision and a codec's normalisation may miss the power by."""


@dataclass(frozen=True, slots=True)
class CheckedFrame:
    """A frame whose every field has been checked; arrays are complex64.

    ``symbols`` ``[num_layers, n]``; ``precoder`` ``[num_subbands, num_tx_ant, num_streams]``; ``assumed_csi``
    ``[num_subbands, num_rx_ant, num_tx_ant]`` or None. ``user``: whose streams carry it.
    """

    link_id: str
    config: Link
    slot: int
    user: int
    seed: int
    header: bytes
    num_symbols: int
    symbols: NDArray[np.complex64]
    precoder: NDArray[np.complex64]
    assumed_csi: NDArray[np.complex64] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Frames of equal shape are transmitted in one batch."""
        return (*self.symbols.shape, *self.precoder.shape, self.config.num_rx_ant)


def check_frame(frame: channel_pb2.Frame, *, field: str) -> CheckedFrame:
    """Check a frame against its link: shapes, dtypes, finite values, powers, header.

    Symbols have unit mean power over the whole frame (how a message spreads it over layers is its codec's matter), or,
    with a digital coding, are points of its constellation of unit mean power, and then fill up with unit symbols;
    ``‖W‖_F² = num_streams`` in each subband, with ``power_allocation`` "water-filling" for each user
    ``‖W_u‖_F² = num_layers`` in the mean over the subbands. All to 1 %, so that no frame buys itself SNR.
    Raises InvalidField or CorruptTensor naming ``{field}.name``.
    """
    config = checked_link(frame.config, field=f"{field}.config")
    if frame.slot < 0:
        raise InvalidField(f"{field}.slot is {frame.slot}, allowed: ≥ 0", field=f"{field}.slot")
    if frame.user >= config.num_users:
        raise InvalidField(
            f"{field}.user is {frame.user}, allowed: 0…{config.num_users - 1}",
            field=f"{field}.user",
        )
    num_streams = config.num_users * config.num_layers
    symbols = from_wire(
        frame.symbols,
        field=f"{field}.symbols",
        dtype="complex64",
        shape=(config.num_layers, None),
    )
    num_elements = symbols.shape[1]
    if not 1 <= num_elements <= MAX_RESOURCE_ELEMENTS:
        raise InvalidField(
            f"{field}.symbols has {num_elements} resource elements, allowed: 1…{MAX_RESOURCE_ELEMENTS}",
            field=f"{field}.symbols",
        )
    header = _check_header(frame, num_elements, field=f"{field}.header")
    if is_digital(header):
        _check_constellation(symbols, header, field=f"{field}.symbols")
    else:
        _unit_power(
            float(np.mean(np.abs(symbols.astype(np.complex128)) ** 2)),
            f"{field}.symbols",
            "mean power",
        )
    precoder = from_wire(
        frame.precoder,
        field=f"{field}.precoder",
        dtype="complex64",
        shape=(NUM_SUBBANDS, config.num_tx_ant, num_streams),
    )
    _check_precoder_power(precoder, config, field=f"{field}.precoder")
    assumed_csi = None
    if frame.HasField("assumed_csi"):
        assumed_csi = from_wire(
            frame.assumed_csi,
            field=f"{field}.assumed_csi",
            dtype="complex64",
            shape=(NUM_SUBBANDS, config.num_rx_ant, config.num_tx_ant),
        )
    return CheckedFrame(
        frame.link_id,
        config,
        frame.slot,
        frame.user,
        frame.seed,
        frame.header,
        header.symbols,
        symbols,
        precoder,
        assumed_csi,
    )


def slot_groups(frames: Sequence[CheckedFrame]) -> list[list[int]]:
    """Which frames of a request share a slot: those of one slot of an opened link. Indices, each exactly once.

    A link by value has no clock that hands out its slots, so its frames are sent alone whatever slot they picked.
    Raises InvalidField naming ``frames[i].config``, ``.user`` or ``.precoder`` where frames of a slot disagree on
    the link or the precoder, or claim the same user.
    """
    together: dict[tuple[str, int], list[int]] = {}
    found: list[list[int]] = []
    for i, frame in enumerate(frames):
        if frame.link_id in ("", link_id_of(frame.config)):
            found.append([i])
            continue
        group = together.setdefault((frame.link_id, frame.slot), [])
        if group:
            _check_co_scheduled(frame, [frames[j] for j in group], field=f"frames[{i}]")
        else:
            found.append(group)
        group.append(i)
    return found


def _check_co_scheduled(
    frame: CheckedFrame, co_scheduled: Sequence[CheckedFrame], *, field: str
) -> None:
    first = co_scheduled[0]
    if frame.config != first.config:
        raise InvalidField(
            f"{field}.config differs from that of another frame in slot {frame.slot} of {frame.link_id}",
            field=f"{field}.config",
        )
    if any(frame.user == other.user for other in co_scheduled):
        raise InvalidField(
            f"{field}.user is {frame.user}, allowed: a user that no other frame of slot {frame.slot} has",
            field=f"{field}.user",
        )
    if not np.array_equal(frame.precoder, first.precoder):
        raise InvalidField(
            f"{field}.precoder differs from that of another frame in slot {frame.slot} of {frame.link_id}",
            field=f"{field}.precoder",
        )


def _check_precoder_power(precoder: NDArray[np.complex64], config: Link, *, field: str) -> None:
    power = np.sum(np.abs(precoder.astype(np.complex128)) ** 2, axis=1) / config.num_layers
    per_user = power.reshape(NUM_SUBBANDS, config.num_users, config.num_layers).sum(-1)
    if config.power_allocation == "water-filling":
        shares = per_user.mean(0)
        what = "squared Frobenius norm of a user, mean over subbands, over num_layers"
    else:
        shares = per_user.mean(1)
        what = "squared Frobenius norm of a subband over num_streams"
    _unit_power(float(shares[np.argmax(np.abs(shares - 1))]), field, what)


def _unit_power(power: float, field: str, what: str) -> None:
    if not abs(power - 1) <= POWER_TOLERANCE:
        raise InvalidField(
            f"{field} has {what} {power:.4g}, allowed: 1 ± {POWER_TOLERANCE}", field=field
        )


def _check_constellation(
    symbols: NDArray[np.complex64], header: channel_pb2.FrameHeader, *, field: str
) -> None:
    """A digital message has the power of its constellation, whatever points its (scrambled) bits select."""
    points = constellation(scheme_of(header.mcs, header.symbols).bits_per_symbol).numpy()
    # symbol j of the message goes to layer j mod L of resource element j // L
    in_order = symbols.T.reshape(-1)
    distance = np.abs(in_order[: header.symbols, None] - points).min(1)
    filling = np.abs(np.abs(in_order[header.symbols :]) - 1)
    worst = float(max(distance.max(), filling.max(initial=0.0)))
    if not worst <= POWER_TOLERANCE / 10:
        raise InvalidField(
            f"{field} has a symbol {worst:.4g} off the {len(points)}-QAM constellation of its MCS, allowed: "
            f"{POWER_TOLERANCE / 10}",
            field=field,
        )


def _check_header(
    frame: channel_pb2.Frame, num_elements: int, *, field: str
) -> channel_pb2.FrameHeader:
    """The header crosses the channel beside the symbols, so it must be one, and must agree with the frame."""
    config = frame.config
    header = parse_header(frame.header, field=field)
    num_layers = config.num_layers
    expected = {
        "num_layers": num_layers,
        "num_streams": config.num_users * num_layers,
        "first_stream": frame.user * num_layers,
    }
    for name, value in expected.items():
        if getattr(header, name) != value:
            raise InvalidField(
                f"{field}.{name} is {getattr(header, name)}, link and user say {value}",
                field=f"{field}.{name}",
            )
    if -(-header.symbols // num_layers) != num_elements:
        raise InvalidField(
            f"{field}.symbols is {header.symbols}, allowed: what fills {num_elements} resource elements"
            f" of {num_layers} layers",
            field=f"{field}.symbols",
        )
    return header
