"""A slot that several queries share: one signal in the air, each user with its own channel, noise and streams."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from channel_blocks import generate_block
from hypothesis import given, settings
from hypothesis import strategies as st
from test_channel_handler import Recorder, informed, link, service, tensors

from channel_service.fading import ChannelKey, draw_rays, frequency_response
from channel_service.handler import Channel, _places
from semlink.errors import InvalidField, SemlinkError
from semlink.grid import HISTORY_SLOTS, NUM_SUBBANDS
from semlink.links import Link, link_id_of
from semlink.signal.equalization import equalize, lmmse, noise_variance
from semlink.signal.precoding import noise_power
from semlink.v1 import channel_pb2
from semlink.wire import from_wire, to_wire

SLOT = 200


def frame(
    config: Link,
    w: torch.Tensor,
    user: int,
    *,
    num_elements: int = 64,
    seed: int = 5,
    link_id: str = "l-cell",
    slot: int = SLOT,
) -> channel_pb2.Frame:
    rng = np.random.default_rng([seed, user])
    symbols = np.exp(2j * np.pi * rng.random((config.num_layers, num_elements)))
    header = channel_pb2.FrameHeader(
        task="image",
        corpus="scenes",
        modality="text",
        symbols=config.num_layers * num_elements,
        top_k=3,
        num_streams=config.num_users * config.num_layers,
        num_layers=config.num_layers,
        first_stream=user * config.num_layers,
    )
    return channel_pb2.Frame(
        query_id=f"user {user}",
        link_id=link_id,
        config=config.to_proto(),
        slot=slot,
        user=user,
        seed=seed,
        symbols=to_wire(symbols.astype(np.complex64)),
        precoder=to_wire(w),
        header=header.SerializeToString(deterministic=True),
    )


async def transmit(channel: Channel, *frames: channel_pb2.Frame) -> list[channel_pb2.LinkReport]:
    response = await channel.transmit(channel_pb2.TransmitRequest(frames=frames))
    return [d.link for d in response.deliveries]


def own(received: Any, user: int, num_layers: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Equalised symbols of a user and the SINR that its pilots promise, from what arrived and nothing else."""
    got = {k: torch.from_numpy(v.copy())[None] for k, v in tensors(received).items()}
    pilots = got["pilots"].roll(-user * num_layers, -1)
    weights, sinr = lmmse(pilots, noise_variance(got["noise"]), num_layers, received.pilot_length)
    return equalize(got["samples"], weights)[0], sinr[0]


# --- transmission -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_users", "num_layers"), [(2, 2), (4, 1), (3, 4), (8, 1)])
async def test_everyone_in_a_slot_gets_its_own_message(num_users: int, num_layers: int) -> None:
    recorder = Recorder()
    channel = service(recorder)
    config = link(
        snr_db=50.0, num_users=num_users, num_layers=num_layers, num_rx_ant=4, num_tx_ant=32
    )
    w = informed(channel, config)
    # of unequal lengths, and not in the order of the users
    users = list(range(num_users))[::-1]
    frames = [frame(config, w, user, num_elements=40 + 9 * user) for user in users]
    reports = await transmit(channel, *frames)
    for message, received, report in zip(frames, recorder.frames, reports, strict=True):
        sent = torch.from_numpy(from_wire(message.symbols, field="symbols").copy())
        symbols, sinr = own(received, message.user, num_layers)
        assert symbols.shape == sent.shape
        error = (symbols - sent).abs().square()
        assert 10 * math.log10(float(error.mean())) < -10
        # and the error of every layer is what the pilots promise
        promised = sinr[torch.arange(sent.shape[1]) % NUM_SUBBANDS].T
        ratio = (error * promised).mean(1)
        assert bool(((ratio > 0.3) & (ratio < 3)).all()), ratio
        assert (report.user, report.co_scheduled) == (message.user, num_users - 1)


async def test_what_arrives_is_one_signal_through_each_users_own_channel() -> None:
    """Independent recomputation: y = H_u W U + n, with U made of the frames themselves."""
    recorder = Recorder()
    channel = service(recorder)
    config = link(snr_db=60.0, num_users=3, num_layers=2, num_rx_ant=2, num_tx_ant=16)
    w = informed(channel, config)
    frames = [frame(config, w, user) for user in range(3)]
    await transmit(channel, *frames)
    streams = np.concatenate([from_wire(f.symbols, field="s") for f in frames])
    n0 = 6 / 10**6
    for user, received in enumerate(recorder.frames):
        h = channel.windows.slot(config, SLOT)[user].numpy()
        got = tensors(received)
        for i in range(64):
            expected = h[i % NUM_SUBBANDS] @ w[i % NUM_SUBBANDS].numpy() @ streams[:, i]
            assert np.abs(got["samples"][:, i] - expected).max() < 6 * math.sqrt(n0)
        effective = h @ w.numpy()
        assert np.abs(got["pilots"] - effective).max() < 6 * math.sqrt(n0 / 12)


async def test_the_true_sinr_of_each_user_is_the_interference_formula() -> None:
    channel = service()
    config = link(snr_db=12.0, num_users=4, num_rx_ant=1, num_tx_ant=8, scenario="uma-nlos")
    w = informed(channel, config)
    reports = await transmit(channel, *(frame(config, w, user) for user in range(4)))
    n0 = 4 / 10**1.2
    h = channel.windows.slot(config, SLOT)[:, :, 0]
    power = torch.einsum("ust,stk->usk", h, w).abs().square().double()
    for user, report in enumerate(reports):
        signal = power[user, :, user]
        sinr = signal / (power[user].sum(-1) - signal + n0)
        expected = float(10 * torch.log10(sinr).mean())
        assert report.post_eq_snr_db == pytest.approx(expected, abs=1e-3)


async def test_a_stream_that_nobody_rides_on_and_a_short_messages_end_carry_unit_power() -> None:
    """Seen by a user whose neighbours are weak: what is left of its samples is the others' streams."""
    recorder = Recorder()
    channel = service(recorder)
    config = link(snr_db=60.0, num_users=4, num_rx_ant=4, num_tx_ant=4, scenario="rayleigh")
    identity = torch.eye(4, dtype=torch.complex64).expand(8, 4, 4).contiguous()
    n = 800
    await transmit(
        channel,
        frame(config, identity, 2, num_elements=n),
        frame(config, identity, 0, num_elements=10),
    )
    got = tensors(recorder.frames[0])
    h = channel.windows.slot(config, SLOT)[2].numpy()
    streams = np.empty((4, n), np.complex64)
    for subband in range(NUM_SUBBANDS):
        streams[:, subband::8] = np.linalg.solve(h[subband], got["samples"][:, subband::8])
    power = np.mean(np.abs(streams) ** 2, axis=1)
    assert power == pytest.approx(np.ones(4), abs=0.02)
    cross = np.abs(streams @ streams.conj().T / n) - np.eye(4)
    assert np.abs(cross).max() < 0.15
    assert tensors(recorder.frames[1])["samples"].shape == (4, 10)


async def test_users_of_a_slot_have_noise_of_their_own() -> None:
    recorder = Recorder()
    channel = service(recorder)
    config = link(num_users=2)
    w = informed(channel, config)
    await transmit(channel, frame(config, w, 0, seed=9), frame(config, w, 1, seed=9))
    one, two = (tensors(f)["noise"].ravel() for f in recorder.frames)
    assert abs(np.vdot(one, two)) / (np.linalg.norm(one) * np.linalg.norm(two)) < 0.3


async def test_company_changes_nothing_but_the_interference() -> None:
    """Noise, pilots and true SINR of a frame are the same bits alone and in co_scheduled; and so is a link by value."""
    recorder = Recorder()
    channel = service(recorder)
    config = link(num_users=4)
    w = informed(channel, config)
    first, second = frame(config, w, 1), frame(config, w, 3)
    by_value = frame(config, w, 0, link_id=link_id_of(config))
    (report,) = await transmit(channel, first)
    (alone,) = recorder.frames
    await transmit(channel, by_value)
    (value_alone,) = recorder.frames
    together = await transmit(channel, second, by_value, first)
    assert recorder.frames[2].noise == alone.noise
    assert recorder.frames[2].pilots == alone.pilots
    assert recorder.frames[2].samples != alone.samples
    assert together[2].post_eq_snr_db == report.post_eq_snr_db
    assert (report.co_scheduled, together[2].co_scheduled) == (0, 1)
    assert recorder.frames[1] == value_alone
    assert together[1].co_scheduled == 0


async def test_frames_by_value_never_meet_whatever_slot_they_picked() -> None:
    channel = service()
    config = link()
    w = informed(channel, config)
    twice = [frame(config, w, 0, seed=s, link_id=link_id_of(config)) for s in (1, 2)]
    assert [r.co_scheduled for r in await transmit(channel, *twice)] == [0, 0]


# --- what is refused ---------------------------------------------------------------------------


async def test_frames_of_a_slot_that_contradict_each_other_are_refused() -> None:
    channel = service()
    config = link()
    w = informed(channel, config)
    other = link(snr_db=3.0)
    cases = {
        "user": frame(config, w, 1, seed=8),
        "precoder": frame(config, w.flip(0), 2),
        "config": frame(other, w, 2),
    }
    for field, message in cases.items():
        with pytest.raises(InvalidField) as error:
            await transmit(channel, frame(config, w, 1), message)
        assert error.value.field == f"frames[1].{field}"
        # in another slot, or on another link, there is nothing to contradict
        message.slot += 1
        await transmit(channel, frame(config, w, 1), message)


async def test_every_field_of_a_user_is_checked_and_nan_is_named_wherever_it_is() -> None:
    channel = service()
    config = link()
    w = informed(channel, config)
    good = frame(config, w, 1)
    good.assumed_csi.CopyFrom(to_wire(channel.windows.slot(config, SLOT)[1]))

    def broken(**changes: Any) -> channel_pb2.Frame:
        copy = channel_pb2.Frame()
        copy.CopyFrom(good)
        for name, value in changes.items():
            if isinstance(value, np.ndarray):
                getattr(copy, name).CopyFrom(to_wire(value))
            else:
                setattr(copy, name, value)
        return copy

    cases: list[tuple[str, channel_pb2.Frame]] = []
    for name in ("symbols", "precoder", "assumed_csi"):
        array = from_wire(getattr(good, name), field=name)
        for poison in (np.nan, np.inf, complex(0, np.nan)):
            for place in (0, array.size - 1):
                spoilt = array.copy()
                spoilt.flat[place] = poison
                cases.append((name, broken(**{name: spoilt})))
    csi = from_wire(good.assumed_csi, field="csi")
    precoder = w.numpy()
    cases += [
        ("assumed_csi.shape", broken(assumed_csi=csi[:, :1])),
        ("assumed_csi.shape", broken(assumed_csi=csi[..., :8])),
        ("assumed_csi.shape", broken(assumed_csi=csi[:4])),
        ("precoder.shape", broken(precoder=precoder[:, :8])),
        ("precoder.shape", broken(precoder=precoder[..., :3])),
        ("precoder", broken(precoder=np.zeros_like(precoder))),
        ("user", broken(user=4)),
        ("header.first_stream", broken(user=2)),
    ]
    empty = broken()
    empty.assumed_csi.Clear()
    empty.assumed_csi.SetInParent()
    cases.append(("assumed_csi.dtype", empty))
    for field, message in cases:
        with pytest.raises(InvalidField) as error:
            await transmit(channel, frame(config, w, 0, slot=300), message)
        assert error.value.field == f"frames[1].{field}"
    await transmit(channel, good)


async def test_a_channel_that_is_not_finite_is_refused_and_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from channel_service import fading

    config = link(scenario="rayleigh")
    w = informed(service(), config)
    channel = service()
    drawn = draw_rays

    def spoilt(key: ChannelKey) -> Any:
        rays = drawn(key)
        rays.coefficients[0, 3, 0, 0] = complex("nan")
        return rays

    monkeypatch.setattr(fading, "draw_rays", spoilt)
    with pytest.raises(InvalidField) as error:
        await transmit(channel, frame(config, w, 0))
    assert error.value.field == "channel"
    with pytest.raises(InvalidField):
        generate_block(config, 0)


async def test_one_frames_bad_channel_does_not_ground_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two requests in one batch of the air: only the one over the broken channel fails."""
    import asyncio

    from channel_service import fading

    drawn = draw_rays

    def spoilt(key: ChannelKey) -> Any:
        rays = drawn(key)
        if key.seed == 13:
            rays.coefficients[:] = complex("nan")
        return rays

    good, bad = link(scenario="rayleigh"), link(scenario="rayleigh", seed=13)
    w = informed(service(), good)
    monkeypatch.setattr(fading, "draw_rays", spoilt)
    channel = service()
    outcomes = await asyncio.gather(
        transmit(channel, frame(good, w, 0)),
        transmit(channel, frame(bad, w, 0, link_id="l-bad")),
        transmit(channel, frame(good, w, 1)),
        return_exceptions=True,
    )
    assert [isinstance(o, InvalidField) for o in outcomes] == [False, True, False]


# --- grants ------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    keys=st.lists(st.sampled_from(["", "a", "b"]), min_size=1, max_size=40),
    num_users=st.integers(1, 8),
)
def test_slots_fill_user_by_user_and_none_is_wasted(keys: list[str], num_users: int) -> None:
    places = _places(keys, num_users)
    assert len(set(places)) == len(places)
    in_slot: dict[int, list[tuple[str, int]]] = {}
    for key, (slot, user) in zip(keys, places, strict=True):
        in_slot.setdefault(slot, []).append((key, user))
    assert sorted(in_slot) == list(range(len(in_slot)))
    for members in in_slot.values():
        assert len({key for key, _ in members}) == 1
        assert [user for _, user in members] == list(range(len(members)))
        assert len(members) <= (1 if members[0][0] == "" else num_users)
    counts = Counter(keys)
    shared = sum(-(-counts[key] // num_users) for key in ("a", "b"))
    assert len(in_slot) == counts[""] + shared


async def test_granted_together_with_one_key_is_one_slot_of_an_opened_link_only() -> None:
    channel = service()
    opened = await channel.open_link(
        channel_pb2.OpenLinkRequest(config=link(num_users=2).to_proto())
    )
    item = channel_pb2.GrantItem
    items = [
        item(link_id=opened.link_id, sharing="k"),
        item(link_config=link().to_proto(), seed=3, sharing="k"),
        item(link_id=opened.link_id, sharing="other"),
        item(link_id=opened.link_id, sharing="k"),
        item(link_config=link().to_proto(), seed=3, sharing="k"),
        item(link_id=opened.link_id),
        item(link_id=opened.link_id, sharing="k"),
    ]
    slots = (await channel.grant(channel_pb2.GrantRequest(items=items))).slots
    first = HISTORY_SLOTS
    on_link = [(s.slot - first, s.user) for s in slots if s.link_id == opened.link_id]
    assert on_link == [(0, 0), (1, 0), (0, 1), (2, 0), (3, 0)]
    assert slots[1] == slots[4]
    assert slots[1].user == 0
    now = await channel.get_link(channel_pb2.GetLinkRequest(link_id=opened.link_id))
    assert now.slot == first + 4
    # the next grant never goes back into a slot that was granted before
    (after,) = (await channel.grant(channel_pb2.GrantRequest(items=items[:1]))).slots
    assert (after.slot, after.user) == (first + 4, 0)


# --- delay spread ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "spread_s", "longest"), [("cdl-a", 30e-9, 9.6586), ("cdl-c", 300e-9, 8.6523)]
)
def test_a_cdl_has_the_delays_of_its_table(scenario: str, spread_s: float, longest: float) -> None:
    """TR 38.901 tables 7.7.1-1 and 7.7.1-3: normalised delays times the RMS delay spread (clause 7.7.3)."""
    rays = draw_rays(
        ChannelKey.from_config(link(scenario=scenario, delay_spread_ns=spread_s * 1e9))
    )
    assert float(rays.delays_s.min()) == 0
    assert float(rays.delays_s.max()) == pytest.approx(longest * spread_s, rel=1e-4)


def test_the_delay_spread_of_rayleigh_is_its_mean_delay_and_decorrelates_the_band() -> None:
    for spread_s in (20e-9, 500e-9):
        rays = draw_rays(
            ChannelKey.from_config(link(scenario="rayleigh", delay_spread_ns=spread_s * 1e9))
        )
        assert float(rays.delays_s.mean()) == pytest.approx(spread_s, rel=0.02)
        h = frequency_response(rays, 0, 1)[:, 0]
        inner = complex((h[:, 0].conj() * h[:, -1]).sum())
        alike = abs(inner) / float(h[:, 0].norm() * h[:, -1].norm())
        # exponential profile: |ρ(Δf)| = 1 / √(1 + (2πΔfτ)²)
        apart_hz = 7 * 72 * 15e3
        expected = 1 / math.sqrt(1 + (2 * math.pi * apart_hz * spread_s) ** 2)
        assert alike == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize("scenario", ["cdl-b", "rayleigh"])
def test_delays_scale_with_the_spread_and_all_else_stays(scenario: str) -> None:
    default, named, long = (
        ChannelKey.from_config(link(scenario=scenario, delay_spread_ns=spread))
        for spread in (None, 100.0, 300.0)
    )
    assert named.delay_spread_s == pytest.approx(default.delay_spread_s, rel=1e-15)
    assert default != long
    rays, longer = draw_rays(default), draw_rays(long)
    assert torch.equal(rays.coefficients, longer.coefficients)
    assert torch.equal(rays.doppler_hz, longer.doppler_hz)
    torch.testing.assert_close(longer.delays_s, 3 * rays.delays_s, rtol=1e-6, atol=1e-15)


# --- every size, end to end --------------------------------------------------------------------


SIZES = [
    (users, layers, rx, tx)
    for users, layers, rx, tx in itertools.product(
        (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4), (2, 4), (8, 16, 32)
    )
    if layers <= rx and users * layers <= tx
]


def test_perfect_csi_serves_every_size_in_the_physics() -> None:
    """Precoder, SINR and power of every allowed number of users, layers, antennas and ports."""
    from semlink.signal.precoding import precoder, predicted_sinr_db

    generator = torch.Generator().manual_seed(1)
    for users, layers, rx, tx in SIZES:
        csi = torch.randn(1, users, 8, rx, tx, dtype=torch.complex64, generator=generator)
        snr_db = torch.tensor([10.0])
        w = precoder(csi, layers, snr_db)
        assert w.shape == (1, 8, tx, users * layers)
        sinr = [
            predicted_sinr_db(csi, w, snr_db, layers, torch.tensor([user])) for user in range(users)
        ]
        assert all(bool(s.isfinite().all()) for s in sinr)
        n0 = noise_power(users * layers, snr_db)
        effective = csi[0, users - 1] @ w[0]
        # independently: LMMSE SINR of stream l is 1 / [(I + GᴴG/N0)⁻¹]_ll − 1
        gram = torch.eye(users * layers) + (effective.mH @ effective).to(torch.complex128) / n0
        expected = 1 / torch.linalg.inv(gram).diagonal(dim1=-2, dim2=-1).real - 1
        mine = expected[:, (users - 1) * layers :]
        torch.testing.assert_close(sinr[-1][0].double(), 10 * torch.log10(mine), rtol=0, atol=2e-2)


# --- whatever comes ----------------------------------------------------------------------------


NUMBERS = (0, 1, 2, 3, 7, 8, 9, 31, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, -1, -(2**63))
REALS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e300, 5e-324, 60.0)
WORDS = (
    "",
    "x",
    "awgn",
    "rvq",
    "perfect",
    "complex64",
    "float32",
    "l-1",
    "water-filling",
    "é" * 99,
)


def mutate(message: Any, rng: random.Random) -> None:
    """Change one field, deep inside or not, to something odd."""
    field = rng.choice(message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if field.is_repeated:
        value.append(rng.choice(NUMBERS))
    elif field.message_type is not None:
        mutate(value, rng) if rng.random() < 0.9 else message.ClearField(field.name)
    else:
        odd: Any
        match value:
            case str():
                odd = rng.choice(WORDS)
            case float():
                odd = rng.choice(REALS)
            case bytes():
                cut = rng.randrange(len(value) + 1)
                odd = value[:cut] + bytes(rng.choices(range(256), k=1)) + value[cut + 1 :]
            case _:
                odd = rng.choice(NUMBERS)
        # what the field's type cannot hold never reaches a service
        with contextlib.suppress(ValueError):
            setattr(message, field.name, odd)


async def test_whatever_a_request_holds_it_is_answered_or_refused_by_name() -> None:
    rng = random.Random(5)
    channel = service()
    config = link(scenario="rayleigh", num_users=2, num_layers=2)
    w = informed(channel, config)
    refused: list[str] = []
    for _ in range(300):
        frames = [frame(config, w, user, num_elements=32) for user in range(2)]
        frames[1].assumed_csi.CopyFrom(to_wire(channel.windows.slot(config, SLOT)[1]))
        for _ in range(rng.choice((1, 1, 2))):
            mutate(rng.choice(frames), rng)
        try:
            reports = await transmit(channel, *frames)
        except SemlinkError as error:
            refused.append(error.field)
            continue
        for report in reports:
            assert math.isfinite(report.post_eq_snr_db)
    assert all(field.startswith("frames[") for field in refused), set(refused)
    assert 100 < len(refused) < 300
