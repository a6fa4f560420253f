"""What a link may be: every bound from both sides, and identities that mean the same on every machine."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from semlink.errors import InvalidField
from semlink.grid import BLOCK_SLOTS, HISTORY_SLOTS
from semlink.links import (
    NUM_RX_ANT,
    NUM_TX_ANT,
    Link,
    link_id_of,
    slot_of_query,
)
from semlink.quantizers import quantizer_names
from semlink.scenarios import SCENARIOS
from semlink.seeds import stable_seed
from semlink.v1 import common_pb2 as pb


def _link(**values: Any) -> Link:
    """The default link with values replaced; `feedback_…` are those of its feedback."""
    return Link().replace(**{name.removeprefix("feedback_"): v for name, v in values.items()})


def test_the_default_is_allowed() -> None:
    Link().check()


BOUNDS: list[tuple[str, list[Any], list[Any]]] = [
    ("scenario", list(SCENARIOS), ["", "UMI-LOS", "umi", "cdl-f", "umi-los "]),
    ("snr_db", [-30, 0, 60], [-30.001, 60.001, math.nan, math.inf, -math.inf]),
    ("speed_kmh", [0, 1, 500], [-1e-9, 500.01, math.nan, math.inf]),
    ("carrier_frequency_hz", [0.5e9, 3.5e9, 100e9], [0, 0.499e9, 100.1e9, math.nan]),
    ("num_tx_ant", [8, 16, 32], [0, 3, 5, 15, 33, 64]),
    ("num_rx_ant", list(NUM_RX_ANT), [0, 3, 5, 8]),
    ("num_layers", [1, 2], [0, 3, 5]),
    ("num_users", [1, 8], [0, 9]),
    ("feedback_quantizer", list(quantizer_names()), ["", "RVQ", "typeII"]),
    ("feedback_bits", [1, 64, 1024], [0, 1025]),
    ("feedback_report_period_slots", [1, 5, HISTORY_SLOTS], [0, HISTORY_SLOTS + 1]),
    ("feedback_delay_slots", [0, 5, HISTORY_SLOTS], [HISTORY_SLOTS + 1]),
]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, good, _ in BOUNDS for value in good]
)
def test_allowed_to_the_bound(name: str, value: Any) -> None:
    _link(**{name: value}).check()


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, _, bad in BOUNDS for value in bad]
)
def test_refused_beyond_the_bound_by_name(name: str, value: Any) -> None:
    field = f"queries[3].link.{name.replace('feedback_', 'feedback.')}"
    with pytest.raises(InvalidField) as caught:
        _link(**{name: value}).check(field="queries[3].link")
    assert caught.value.field == field
    assert caught.value.message.startswith(field)
    assert "allowed" in caught.value.message


@pytest.mark.parametrize("quantizer", ["none", "perfect"])
def test_bits_do_not_matter_to_the_two_bounds(quantizer: str) -> None:
    _link(feedback_quantizer=quantizer, feedback_bits=0).check()


def test_layers_need_receive_antennas() -> None:
    _link(num_rx_ant=4, num_layers=4, num_users=4).check()
    with pytest.raises(InvalidField, match="num_layers") as caught:
        _link(num_rx_ant=1, num_layers=2, num_users=1).check()
    assert caught.value.field == "link.num_layers"


@given(
    st.sampled_from(NUM_TX_ANT), st.sampled_from(NUM_RX_ANT), st.integers(1, 4), st.integers(1, 8)
)
def test_streams_never_exceed_transmit_antennas(tx: int, rx: int, layers: int, users: int) -> None:
    config = _link(num_tx_ant=tx, num_rx_ant=rx, num_layers=layers, num_users=users)
    if layers <= rx and layers * users <= tx:
        config.check()
    else:
        with pytest.raises(InvalidField) as caught:
            config.check()
        assert caught.value.field in ("link.num_layers", "link.num_users")


CHANGES: list[dict[str, Any]] = [
    {"snr_db": 10 + 1e-9},
    {"seed": 1},
    {"scenario": "uma-los"},
    {"num_users": 3},
    {"bits": 63},
    {"delay_slots": 4},
    {"memory": "fused"},
    {"delay_spread_ns": 100.0},
]


def test_the_id_by_value_is_the_value() -> None:
    copy = pb.LinkConfig.FromString(Link().to_proto().SerializeToString())
    assert link_id_of(Link()) == link_id_of(Link.from_proto(copy))
    ids = {link_id_of(Link()), *(link_id_of(Link().replace(**change)) for change in CHANGES)}
    assert len(ids) == 1 + len(CHANGES)
    assert all(one.startswith("v-") for one in ids)


def test_seeds_depend_on_every_part_and_its_place() -> None:
    parts = [(1, 23), (12, 3), (123,), (1, 2, 3), (3, 21), ("1", "23", "")]
    seeds = [stable_seed(*one) for one in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # BLAKE2b of the joined parts: the same in every process and on every machine
    assert stable_seed("slot", 0, 7) == stable_seed("slot", 0, 7)


def test_queries_by_value_ride_uniformly_over_the_slots_with_a_history() -> None:
    config = Link()
    slots = [slot_of_query(config, seed) for seed in range(4000)]
    assert slots == [slot_of_query(config, seed) for seed in range(4000)]
    assert min(slots) >= HISTORY_SLOTS
    assert max(slots) < BLOCK_SLOTS
    # χ² over 7 bins of 128 slots, 6 degrees of freedom: above 22.5 once in 1,000 seeds, and ours are fixed
    counts = Counter((slot - HISTORY_SLOTS) // 128 for slot in slots)
    expected = len(slots) / 7
    assert sum((counts[k] - expected) ** 2 / expected for k in range(7)) < 22.5
    other = _link(seed=1)
    assert [slot_of_query(other, seed) for seed in range(100)] != slots[:100]
