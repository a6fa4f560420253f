"""What a link may be: allowed values, defaults, identity, and the slot of a query by value.

Imports neither NumPy nor protobuf by itself: the REST client has its link from here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, get_args

from semlink.errors import InvalidField
from semlink.fields import Spec, check, check_range, described
from semlink.grid import BLOCK_SLOTS, HISTORY_SLOTS, MAX_BITS, MAX_LAYERS
from semlink.quantizers import (
    BUILT_IN,
    CONTENTS,
    MEMORIES,
    Content,
    Memory,
    quantizer_names,
    quantizer_spec,
)
from semlink.scenarios import SCENARIOS
from semlink.seeds import stable_seed

if TYPE_CHECKING:
    from semlink.v1 import common_pb2 as pb

PowerAllocation = Literal["equal", "water-filling"]
POWER_ALLOCATIONS: Final[tuple[PowerAllocation, ...]] = get_args(PowerAllocation)
NUM_TX_ANT: Final = (1, 2, 4, 8, 16, 32)
NUM_RX_ANT: Final = (1, 2, 4)
MAX_USERS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """How the receiver reports channel state (CSI)."""

    quantizer: Annotated[
        str,
        Spec(
            f"how CSI is quantised: {', '.join(BUILT_IN)}, or registered by SEMLINK_PLUGINS",
            one_of=quantizer_names,
        ),
    ] = "rvq"
    bits: Annotated[
        int,
        Spec(
            "size of one CSI report of one user; none and perfect have no use for it",
            "bit",
            low=0,
            high=MAX_BITS,
        ),
    ] = 64
    report_period_slots: Annotated[
        int,
        Spec(
            "a report is made in every slot that is a multiple of it",
            "slots of 1 ms",
            low=1,
            high=HISTORY_SLOTS,
        ),
    ] = 5
    delay_slots: Annotated[
        int,
        Spec(
            "how much later a report can be used",
            "slots of 1 ms",
            low=0,
            high=HISTORY_SLOTS,
        ),
    ] = 5
    memory: Annotated[
        Memory,
        Spec(
            "what a report may rest on: none: itself; fused: codebooks are rotated by the report's number and the "
            "transmitter fuses the last 8; predictive: what both ends could not predict from the reports before",
            one_of=MEMORIES,
        ),
    ] = "none"
    content: Annotated[
        Content,
        Spec(
            "what a report describes: the rows of H that num_layers layers use, or the channel matrix H",
            one_of=CONTENTS,
        ),
    ] = "layers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A radio link; slots last 1 ms. Its channel is a pure function of this and the slot.

    Everybody's default: UMi-LOS, 10 dB, 16 ports to 4 users of 2 antennas, 64-bit RVQ.
    """

    scenario: Annotated[
        str,
        Spec(
            "channel model: UMi and UMa of TR 38.901 with and without line of sight, CDL, Rayleigh, AWGN",
            one_of=SCENARIOS,
        ),
    ] = "umi-los"
    snr_db: Annotated[
        float,
        Spec(
            "transmit power over noise power per receive antenna, before any precoding gain, channel normalised",
            "dB",
            low=-30,
            high=60,
            option="snr",
        ),
    ] = 10.0
    speed_kmh: Annotated[
        float, Spec("speed of every user", "km/h", low=0, high=500, option="speed")
    ] = 3.0
    carrier_frequency_hz: Annotated[
        float,
        Spec("carrier frequency", "Hz", low=0.5e9, high=100e9),
    ] = 3.5e9
    num_tx_ant: Annotated[
        int, Spec("antenna ports of the transmitter", one_of=NUM_TX_ANT, option="tx-antennas")
    ] = 16
    num_rx_ant: Annotated[
        int, Spec("antennas of each user", one_of=NUM_RX_ANT, option="rx-antennas")
    ] = 2
    num_layers: Annotated[
        int,
        Spec("layers of each user, at most num_rx_ant", low=1, high=MAX_LAYERS, option="layers"),
    ] = 1
    num_users: Annotated[
        int,
        Spec(
            "users co-scheduled in a slot and precoded together; num_users × num_layers is at most num_tx_ant",
            low=1,
            high=MAX_USERS,
            option="users",
        ),
    ] = 4
    power_allocation: Annotated[
        str,
        Spec(
            "power of the streams: equal, or water-filling over the layers and subbands of each user",
            one_of=POWER_ALLOCATIONS,
        ),
    ] = "equal"
    delay_spread_ns: Annotated[
        float | None,
        Spec(
            "delay spread of cdl-* (RMS) and rayleigh (mean delay), absent: 100 ns; other scenarios draw their own",
            "ns",
            low=1,
            high=10_000,
        ),
    ] = None
    feedback: Annotated[Feedback, Spec("how users report their channels")] = Feedback()
    seed: Annotated[
        int,
        Spec(
            "of the drop, the fading and the CSI estimates",
            low=0,
            high=2**63 - 1,
            option="link-seed",
        ),
    ] = 0

    @property
    def speed_mps(self) -> float:
        """Speed of every user [m/s]."""
        return self.speed_kmh / 3.6

    @property
    def delay_spread_s(self) -> float | None:
        """Delay spread [s], None where the scenario has one of its own."""
        return None if self.delay_spread_ns is None else self.delay_spread_ns * 1e-9

    def replace(self, **values: Any) -> Self:
        """Return the link with other values; those of its feedback may be given by their own names too."""
        own = {one.name for one in described(type(self.feedback))}
        feedback = {name: values.pop(name) for name in list(values) if name in own}
        if feedback:
            values["feedback"] = replace(values.get("feedback", self.feedback), **feedback)
        return replace(self, **values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the link of its fields' values, nested as ``dataclasses.asdict`` does; absent: the default."""
        feedback = Feedback(**values.get("feedback", {}))
        return cls(**{**values, "feedback": feedback})

    def check(self, *, field: str = "link") -> None:
        """Raise InvalidField, naming ``{field}.name``, unless every value is allowed, alone and with the others."""
        check(self, field=field)
        check_range(self.num_layers, 1, min(MAX_LAYERS, self.num_rx_ant), f"{field}.num_layers")
        if self.num_users * self.num_layers > self.num_tx_ant:
            raise InvalidField(
                f"{field}.num_users × num_layers is {self.num_users * self.num_layers}, "
                f"allowed: at most num_tx_ant = {self.num_tx_ant}",
                field=f"{field}.num_users",
            )
        if (
            self.delay_spread_ns is not None
            and not self.scenario.startswith("cdl")
            and self.scenario != "rayleigh"
        ):
            raise InvalidField(
                f"{field}.delay_spread_ns is {self.delay_spread_ns}, scenario {self.scenario} draws its own: "
                "allowed with cdl-a…cdl-e and rayleigh",
                field=f"{field}.delay_spread_ns",
            )
        feedback = self.feedback
        if not quantizer_spec(feedback.quantizer).bound:
            check_range(feedback.bits, 1, MAX_BITS, f"{field}.feedback.bits")

    @classmethod
    def from_proto(cls, message: pb.LinkConfig, *, field: str = "link") -> Self:
        """Return the link of a message; what is not set has its default. :meth:`check` checks it.

        Raises InvalidField, naming ``{field}.name``, for a number of an enum that is not known.
        """
        from semlink.messages import from_proto

        return from_proto(cls, message, field=field)

    def to_proto(self) -> pb.LinkConfig:
        """Return the link as a message, every field set."""
        from semlink.messages import to_proto
        from semlink.v1 import common_pb2

        return to_proto(self, common_pb2.LinkConfig())


def checked_link(message: pb.LinkConfig, *, field: str = "link") -> Link:
    """Return the link of a message. Raises InvalidField, naming ``{field}.name``, for a value that is not allowed."""
    try:
        return _checked(message.SerializeToString(deterministic=True))
    except InvalidField:
        link = Link.from_proto(message, field=field)
        link.check(field=field)
        return link


@lru_cache(maxsize=4096)
def _checked(data: bytes) -> Link:
    """Several services read the same link again and again; what is refused is not cached."""
    from semlink.v1 import common_pb2

    link = Link.from_proto(common_pb2.LinkConfig.FromString(data))
    link.check()
    return link


def link_id_of(link: Link) -> str:
    """The id of a link by value: a content hash of its configuration."""
    data = link.to_proto().SerializeToString(deterministic=True)
    digest = hashlib.blake2b(data, digest_size=12)
    return f"v-{digest.hexdigest()}"


def slot_of_query(link: Link, query_seed: int) -> int:
    """Slot in which a query rides on a link by value: uniform over a block's later slots (our definition)."""
    import numpy as np

    rng = np.random.Generator(np.random.Philox(key=stable_seed("slot", link.seed, query_seed)))
    return int(rng.integers(HISTORY_SLOTS, BLOCK_SLOTS))
