"""What a link may be: allowed values, defaults, identity, and the slot of a query by value."""

from __future__ import annotations

import hashlib
import math
from typing import Final, Literal, get_args

import numpy as np

from semlink.errors import InvalidField
from semlink.quantizers import CONTENTS, MEMORIES, quantizer_spec
from semlink.scenarios import SCENARIOS
from semlink.v1 import common_pb2 as pb

PowerAllocation = Literal["equal", "water-filling"]
POWER_ALLOCATIONS: Final[tuple[PowerAllocation, ...]] = get_args(PowerAllocation)
NUM_TX_ANT: Final = (1, 2, 4, 8, 16, 32)
NUM_RX_ANT: Final = (1, 2, 4)
MAX_LAYERS: Final = 4
MAX_USERS: Final = 8
MAX_BITS: Final = 1024
SNR_DB_RANGE: Final = (-30.0, 60.0)
MAX_SPEED_MPS: Final = 500 / 3.6
CARRIER_RANGE_HZ: Final = (0.5e9, 100e9)
DELAY_SPREAD_RANGE_S: Final = (1e-9, 10e-6)

SLOT_SECONDS: Final = 1e-3
NUM_SUBBANDS: Final = 8
SUBCARRIERS_PER_SUBBAND: Final = 72
"""6 physical resource blocks of 12 subcarriers."""
SUBCARRIER_SPACING_HZ: Final = 15e3
BLOCK_SLOTS: Final = 1024
HISTORY_SLOTS: Final = 128
"""Slots of a block that are past before a query may use it, so that no query meets a cold link."""


def default_link() -> pb.LinkConfig:
    """The link of a query that names none: UMi-LOS, 10 dB, 16 ports to 4 users of 2 antennas, 64-bit RVQ."""
    return pb.LinkConfig(
        scenario="umi-los",
        snr_db=10.0,
        speed_mps=3 / 3.6,
        carrier_frequency_hz=3.5e9,
        num_tx_ant=16,
        num_rx_ant=2,
        num_layers=1,
        num_users=4,
        feedback=pb.FeedbackConfig(quantizer="rvq", bits=64, report_period_slots=5, delay_slots=5),
        seed=0,
    )


def _within(value: float, low: float, high: float, field: str, unit: str = "") -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise InvalidField(f"{field} is {value}, allowed: {low}…{high}{unit}", field=field)


def _one_of(value: object, allowed: tuple[object, ...], field: str) -> None:
    if value not in allowed:
        raise InvalidField(
            f"{field} is {value!r}, allowed: {', '.join(map(str, allowed))}", field=field
        )


def validate_link(config: pb.LinkConfig, *, field: str = "link") -> None:
    """Raise InvalidField, naming ``{field}.name``, unless every value of the link is allowed."""
    _one_of(config.scenario, SCENARIOS, f"{field}.scenario")
    _within(config.snr_db, *SNR_DB_RANGE, f"{field}.snr_db", " dB")
    _within(config.speed_mps, 0.0, MAX_SPEED_MPS, f"{field}.speed_mps", " m/s")
    _within(config.carrier_frequency_hz, *CARRIER_RANGE_HZ, f"{field}.carrier_frequency_hz", " Hz")
    _one_of(config.num_tx_ant, NUM_TX_ANT, f"{field}.num_tx_ant")
    _one_of(config.num_rx_ant, NUM_RX_ANT, f"{field}.num_rx_ant")
    _within(config.num_layers, 1, min(MAX_LAYERS, config.num_rx_ant), f"{field}.num_layers")
    _within(config.num_users, 1, MAX_USERS, f"{field}.num_users")
    if config.num_users * config.num_layers > config.num_tx_ant:
        raise InvalidField(
            f"{field}.num_users × num_layers is {config.num_users * config.num_layers}, "
            f"allowed: at most num_tx_ant = {config.num_tx_ant}",
            field=f"{field}.num_users",
        )
    if config.delay_spread_s:
        if not config.scenario.startswith("cdl") and config.scenario != "rayleigh":
            raise InvalidField(
                f"{field}.delay_spread_s is {config.delay_spread_s}, scenario {config.scenario} draws its own: "
                "allowed with cdl-a…cdl-e and rayleigh",
                field=f"{field}.delay_spread_s",
            )
        _within(config.delay_spread_s, *DELAY_SPREAD_RANGE_S, f"{field}.delay_spread_s", " s")
    _one_of(config.power_allocation, ("", *POWER_ALLOCATIONS), f"{field}.power_allocation")
    feedback = config.feedback
    spec = quantizer_spec(feedback.quantizer, field=f"{field}.feedback.quantizer")
    if not spec.bound:
        _within(feedback.bits, 1, MAX_BITS, f"{field}.feedback.bits")
    _one_of(feedback.memory, ("", *MEMORIES), f"{field}.feedback.memory")
    _one_of(feedback.content, ("", *CONTENTS), f"{field}.feedback.content")
    _within(feedback.report_period_slots, 1, HISTORY_SLOTS, f"{field}.feedback.report_period_slots")
    _within(feedback.delay_slots, 0, HISTORY_SLOTS, f"{field}.feedback.delay_slots")


def link_id_of(config: pb.LinkConfig) -> str:
    """The id of a link by value: a content hash of its configuration."""
    digest = hashlib.blake2b(config.SerializeToString(deterministic=True), digest_size=12)
    return f"v-{digest.hexdigest()}"


def stable_seed(*parts: object) -> int:
    """A 63-bit seed that depends on every part and on nothing else, the same on every machine."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def slot_of_query(config: pb.LinkConfig, query_seed: int) -> int:
    """Slot in which a query rides on a link by value: uniform over a block's later slots (our definition)."""
    rng = np.random.Generator(np.random.Philox(key=stable_seed("slot", config.seed, query_seed)))
    return int(rng.integers(HISTORY_SLOTS, BLOCK_SLOTS))
