"""The channel service end to end with a receiver that only writes down what reaches it."""

import asyncio
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from channel_service.estimation import ZERO_POWER_ELEMENTS
from channel_service.fading import WINDOW_SLOTS
from channel_service.handler import Channel
from channel_service.mimo_channel import MIN_PILOT_LENGTH
from semlink.errors import CorruptTensor, InvalidField, NotFound, SemlinkError, Unavailable
from semlink.grid import BLOCK_SLOTS, HISTORY_SLOTS
from semlink.links import Link, link_id_of, slot_of_query
from semlink.rpc import grpc_servicer
from semlink.settings import Settings
from semlink.signal.equalization import equalize, lmmse, noise_variance
from semlink.signal.feedback import (
    HISTORY_REPORTS,
    decode_reports,
    needed_report_slots,
    report_slots,
)
from semlink.signal.precoding import open_loop_precoder, precoder
from semlink.store import MemoryStore
from semlink.v1 import channel_pb2, common_pb2, knowledge_pb2, receiver_pb2
from semlink.wire import from_wire, to_wire


class Recorder:
    """Stands where the receiver stands."""

    def __init__(self) -> None:
        self.frames: list[receiver_pb2.ReceivedFrame] = []

    async def receive(self, request: receiver_pb2.ReceiveRequest) -> receiver_pb2.ReceiveResponse:
        self.frames = list(request.frames)
        return receiver_pb2.ReceiveResponse(
            receptions=[
                receiver_pb2.Reception(
                    matches=[receiver_pb2.Match(item_id=f"item of frame {i}", score=0.5)],
                    post_eq_snr_estimate_db=float(i),
                    timings=[common_pb2.Timing(stage="receiver.search", milliseconds=1.0)],
                    degraded=[common_pb2.Degradation(part="receiver.test", reason="none")],
                )
                for i, _ in enumerate(request.frames)
            ]
        )


class StoreIsAway(MemoryStore):
    async def put_reports(self, link_id: str, reports: Sequence[common_pb2.CsiReport]) -> None:
        raise Unavailable("the store is away")


def link(**fields) -> Link:
    return Link().replace(**{"quantizer": "scalar", **fields})


def service(
    receiver: Recorder | None = None, store: MemoryStore | None = None, **options
) -> Channel:
    settings = Settings(redis_url="memory://")
    return Channel(receiver or Recorder(), store or MemoryStore(), settings, **options)


def frame(
    config: Link,
    w: torch.Tensor,
    *,
    slot: int = 200,
    seed: int = 5,
    num_elements: int = 40,
    query_id: str = "q",
    assumed: torch.Tensor | None = None,
) -> channel_pb2.Frame:
    rng = np.random.default_rng(seed)
    symbols = np.exp(2j * np.pi * rng.random((config.num_layers, num_elements)))
    header = channel_pb2.FrameHeader(
        task="image",
        corpus="scenes",
        modality="text",
        symbols=config.num_layers * num_elements,
        top_k=3,
        num_streams=config.num_users * config.num_layers,
        num_layers=config.num_layers,
    )
    message = channel_pb2.Frame(
        query_id=query_id,
        link_id=link_id_of(config),
        config=config.to_proto(),
        slot=slot,
        seed=seed,
        symbols=to_wire(symbols.astype(np.complex64)),
        precoder=to_wire(w),
        header=header.SerializeToString(deterministic=True),
    )
    if assumed is not None:
        message.assumed_csi.CopyFrom(to_wire(assumed))
    return message


def informed(channel: Channel, config: Link, slot: int = 200) -> torch.Tensor:
    """The precoder of perfect CSI: ``[num_subbands, num_tx_ant, num_streams]``."""
    csi = channel.windows.slot(config, slot).unsqueeze(0)
    return precoder(csi, config.num_layers, torch.tensor([config.snr_db]))[0]


async def transmit(channel: Channel, *frames: channel_pb2.Frame) -> list[channel_pb2.Delivery]:
    response = await channel.transmit(channel_pb2.TransmitRequest(frames=frames))
    return list(response.deliveries)


def tensors(received: receiver_pb2.ReceivedFrame) -> dict[str, np.ndarray]:
    return {
        name: from_wire(getattr(received, name), field=name)
        for name in ("samples", "pilots", "noise")
    }


# --- transmission ------------------------------------------------------------------------------


@pytest.mark.parametrize("num_layers", [1, 2])
async def test_with_next_to_no_noise_the_symbols_come_back(num_layers):
    recorder = Recorder()
    channel = service(recorder)
    config = link(snr_db=60.0, num_layers=num_layers, num_users=2, num_tx_ant=16)
    (delivery,) = await transmit(
        channel, message := frame(config, informed(channel, config), num_elements=19)
    )
    got = {k: torch.from_numpy(v.copy())[None] for k, v in tensors(recorder.frames[0]).items()}
    weights, _ = lmmse(
        got["pilots"],
        noise_variance(got["noise"]),
        num_layers,
        recorder.frames[0].pilot_length,
    )
    symbols = equalize(got["samples"], weights)[0]
    sent = torch.from_numpy(from_wire(message.symbols, field="symbols").copy())
    error = (symbols - sent).abs().square().mean()
    assert float(error) < 1e-3
    assert delivery.link.post_eq_snr_db > 40
    assert delivery.link.channel_uses == 19 * num_layers


async def test_the_answer_is_the_receivers_with_the_links_figures():
    recorder = Recorder()
    channel = service(recorder)
    config = link()
    truth = channel.windows.slot(config, 200)[0]
    w = informed(channel, config)
    deliveries = await transmit(
        channel,
        frame(config, w, query_id="a", assumed=truth),
        frame(config, w, query_id="b", seed=6),
    )
    assert [d.query_id for d in deliveries] == ["a", "b"]
    assert [d.matches[0].item_id for d in deliveries] == ["item of frame 0", "item of frame 1"]
    first, second = (d.link for d in deliveries)
    assert second.post_eq_snr_estimate_db == 1.0
    assert first.snr_db == config.snr_db
    assert first.slot == 200
    assert first.feedback_bits == config.feedback.bits
    assert first.csi_age_slots == 5
    assert first.header_bytes == len(recorder.frames[0].header)
    assert first.csi_sgcs == pytest.approx(1.0, abs=1e-5)
    assert first.csi_nmse_db < -60
    assert not second.HasField("csi_nmse_db")
    assert not second.HasField("csi_sgcs")
    stages = [t.stage for t in deliveries[0].timings]
    assert stages == ["channel.window", "channel.air", "receiver.search"]
    assert [d.part for d in deliveries[0].degraded] == ["receiver.test"]


async def test_what_the_precoder_believed_never_reaches_the_receiver():
    """Honesty: what must not matter is changed, and not a bit changes at the receiver."""
    recorder = Recorder()
    channel = service(recorder)
    config = link()
    w, truth = informed(channel, config), channel.windows.slot(config, 200)[0]
    await transmit(channel, frame(config, w))
    (base,) = recorder.frames
    changed = frame(config, w, assumed=truth * 3 + 1)
    changed.link_id = "something else"
    changed.query_id = "an id says who asks"
    changed.config.feedback.bits = 128
    changed.config.feedback.delay_slots = 50
    await transmit(channel, changed)
    (same,) = recorder.frames
    assert same.SerializeToString(deterministic=True) == base.SerializeToString(deterministic=True)
    # the message itself is nothing but these fields, of the sizes that the air gives them
    named = {field.name for field, _ in base.ListFields()}
    assert named == {"header", "samples", "pilots", "pilot_length", "noise"}
    shapes = {name: value.shape for name, value in tensors(base).items()}
    assert shapes == {
        "samples": (2, 40),
        "pilots": (8, 2, 4),
        "noise": (2, ZERO_POWER_ELEMENTS),
    }
    # while what does cross the air does matter
    await transmit(channel, frame(config, w, seed=6))
    assert recorder.frames[0].samples.data != base.samples.data


async def test_a_batch_mate_changes_nothing():
    recorder = Recorder()
    channel = service(recorder)
    config = link()
    other = link(scenario="rayleigh", snr_db=-5.0, seed=9)
    message = frame(config, informed(channel, config))
    alone = await transmit(channel, message)
    (expected,) = recorder.frames
    together = await transmit(
        channel,
        frame(other, informed(channel, other, 300), slot=300, seed=8),
        message,
        frame(config, informed(channel, config), num_elements=17, seed=3),
    )
    assert recorder.frames[1].SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )
    assert together[1].link == alone[0].link.__class__.FromString(
        _with_estimate(alone[0].link, 1.0)
    )


def _with_estimate(report: channel_pb2.LinkReport, estimate: float) -> bytes:
    copy = channel_pb2.LinkReport()
    copy.CopyFrom(report)
    copy.post_eq_snr_estimate_db = estimate
    return copy.SerializeToString()


async def test_snr_is_what_the_antennas_see():
    """Independently from the receiver's own samples: noise, pilots, data powers."""
    recorder = Recorder()
    channel = service(recorder)
    config = link(scenario="rayleigh", snr_db=3.0, num_users=4)
    n0 = 4 / 10**0.3
    w = open_loop_precoder(
        config.num_tx_ant, config.num_users * config.num_layers, range(150)
    ).roll(1, 0)
    frames = [frame(config, w[i], slot=130 + 5 * i, seed=i, num_elements=64) for i in range(len(w))]
    await transmit(channel, *frames)
    zero_power, data, pilot_power = [], [], []
    pilot_noise = []
    for message, received, precoding in zip(frames, recorder.frames, w, strict=True):
        got = tensors(received)
        assert received.pilot_length == MIN_PILOT_LENGTH
        zero_power.append(np.abs(got["noise"]) ** 2)
        data.append(np.mean(np.abs(got["samples"]) ** 2))
        truth = (channel.windows.slot(config, message.slot)[0] @ precoding).numpy()
        pilot_power.append(np.mean(np.sum(np.abs(truth) ** 2, -1)))
        pilot_noise.append(np.abs(got["pilots"] - truth) ** 2)
    assert np.mean(zero_power) == pytest.approx(n0, rel=0.02)
    assert np.mean(pilot_noise) == pytest.approx(n0 / MIN_PILOT_LENGTH, rel=0.02)
    # an uninformed precoder gains nothing: received signal power per antenna = P = num_streams
    assert np.mean(pilot_power) == pytest.approx(4.0, rel=0.1)
    assert np.mean(data) == pytest.approx(np.mean(pilot_power) + n0, rel=0.05)
    assert 10 * math.log10(4.0 / np.mean(zero_power)) == pytest.approx(3.0, abs=0.1)


async def test_awgn_alone_is_the_array_gain_formula():
    channel = service()
    for num_tx_ant in (1, 16):
        config = link(scenario="awgn", snr_db=7.0, num_users=1, num_tx_ant=num_tx_ant, num_rx_ant=1)
        (delivery,) = await transmit(channel, frame(config, informed(channel, config)))
        expected = 7.0 + 10 * math.log10(num_tx_ant)
        assert delivery.link.post_eq_snr_db == pytest.approx(expected, abs=1e-3)


async def test_perfect_csi_beats_none_and_scales_with_snr_only_with_csi():
    """Together, bad CSI is a ceiling that no SNR lifts (methods §0)."""
    channel = service()
    sinr = {}
    for snr_db in (5.0, 25.0):
        config = link(scenario="uma-nlos", snr_db=snr_db, num_rx_ant=1)
        slots = range(150, 950, 20)
        blind = open_loop_precoder(config.num_tx_ant, config.num_users * config.num_layers, slots)
        for name in ("informed", "blind"):
            deliveries = await transmit(
                channel,
                *(
                    frame(
                        config,
                        informed(channel, config, slot) if name == "informed" else blind[i],
                        slot=slot,
                    )
                    for i, slot in enumerate(slots)
                ),
            )
            sinr[name, snr_db] = np.mean([d.link.post_eq_snr_db for d in deliveries])
    assert sinr["informed", 5.0] > sinr["blind", 5.0] + 8
    assert sinr["informed", 25.0] - sinr["informed", 5.0] > 17
    assert sinr["blind", 25.0] - sinr["blind", 5.0] < 6


async def test_the_same_frame_twice_is_the_same_and_another_seed_is_other_noise():
    recorder = Recorder()
    config = link()
    channel = service(recorder)
    await transmit(channel, frame(config, informed(channel, config)))
    first = recorder.frames[0]
    replica = service(recorder)
    await transmit(replica, frame(config, informed(replica, config)))
    assert recorder.frames[0] == first
    other = frame(config, informed(replica, config))
    other.seed = 77
    await transmit(replica, other)
    noise = [from_wire(f.noise, field="noise") for f in (first, recorder.frames[0])]
    correlation = abs(np.vdot(noise[0], noise[1])) / np.linalg.norm(noise[0]) ** 2
    assert correlation < 0.3


async def test_every_bad_field_is_named():
    channel = service()
    config = link()
    good = frame(config, informed(channel, config))

    def broken(change) -> channel_pb2.Frame:
        copy = channel_pb2.Frame()
        copy.CopyFrom(good)
        change(copy)
        return copy

    def replace(name, array):
        return lambda f: getattr(f, name).CopyFrom(to_wire(array))

    symbols = from_wire(good.symbols, field="s")
    w = from_wire(good.precoder, field="w")
    loud = w.copy()
    loud[3] *= 1.1
    spoiled = symbols.copy()
    spoiled[0, 0] = np.nan

    def header(**fields):
        def change(f):
            h = channel_pb2.FrameHeader.FromString(f.header)
            for name, value in fields.items():
                setattr(h, name, value)
            f.header = h.SerializeToString(deterministic=True)

        return change

    cases = {
        "symbols.shape": replace("symbols", np.repeat(symbols, 2, 0)),
        "symbols.dtype": replace("symbols", np.abs(symbols)),
        "symbols": replace("symbols", spoiled),
        "precoder": replace("precoder", loud),
        "precoder.shape": replace("precoder", w[:4]),
        "assumed_csi.shape": replace("assumed_csi", w),
        "header": lambda f: setattr(f, "header", b"\xff\xff"),
        "header.symbols": header(symbols=41),
        "header.num_streams": header(num_streams=3),
        "header.num_layers": header(num_layers=2),
        "config.snr_db": lambda f: setattr(f.config, "snr_db", 90.0),
        "slot": lambda f: setattr(f, "slot", -1),
    }
    for field, change in cases.items():
        with pytest.raises(InvalidField) as error:
            await transmit(channel, good, broken(change))
        assert error.value.field == f"frames[1].{field}", field
    for what in (0.5 * symbols, 1.1 * symbols):
        with pytest.raises(InvalidField, match=r"frames\[0\].symbols has mean power"):
            await transmit(channel, broken(replace("symbols", what)))
    # text hidden behind the header's fields does not cross
    with pytest.raises(InvalidField) as error:
        await transmit(channel, broken(lambda f: setattr(f, "header", f.header + b"\x7a\x02hi")))
    assert error.value.field == "frames[0].header"

    def flip(f):
        f.symbols.data = bytes([f.symbols.data[0] ^ 1]) + f.symbols.data[1:]

    with pytest.raises(CorruptTensor) as corrupt:
        await transmit(channel, broken(flip))
    assert corrupt.value.field.startswith("frames[0].symbols")


async def test_a_receiver_that_loses_frames_is_an_error():
    class Forgetful(Recorder):
        async def receive(self, request):
            answer = await super().receive(request)
            del answer.receptions[-1]
            return answer

    channel = service(Forgetful())
    config = link()
    with pytest.raises(SemlinkError):
        await transmit(channel, frame(config, informed(channel, config)))


async def test_making_a_window_does_not_hold_up_the_event_loop():
    channel = service()
    config = link(num_users=8, num_tx_ant=32, scenario="uma-nlos")
    task = asyncio.create_task(
        channel.grant(
            channel_pb2.GrantRequest(items=[channel_pb2.GrantItem(link_config=config.to_proto())])
        )
    )
    loop = asyncio.get_running_loop()
    longest, last = 0.0, loop.time()
    started = last
    while not task.done():
        await asyncio.sleep(0.001)
        now = loop.time()
        longest, last = max(longest, now - last), now
    await task
    assert longest < max(0.5 * (last - started), 0.15)


# --- feedback ----------------------------------------------------------------------------------


async def test_a_link_by_value_is_granted_the_slot_of_its_seed_and_its_reports_are_there():
    store = MemoryStore()
    channel = service(store=store)
    config = link(content="channel")
    items = [channel_pb2.GrantItem(link_config=config.to_proto(), seed=seed) for seed in range(3)]
    slots = (await channel.grant(channel_pb2.GrantRequest(items=items))).slots
    for seed, slot in enumerate(slots):
        assert slot.slot == slot_of_query(config, seed)
        assert slot.link_id == link_id_of(config)
        assert slot.config == config.to_proto()
        assert not slot.degraded
        due = report_slots(config, slot.slot, HISTORY_REPORTS)
        (reports,) = await store.reports([(slot.link_id, due)])
        assert [(r.slot, r.user) for r in reports] == [(s, u) for s in due for u in range(4)]
        for report in reports:
            assert report.bits == config.feedback.bits
            assert len(report.payload) == -(-report.bits // 8)
            assert report.report_index == report.slot // config.feedback.report_period_slots
            assert report.slot <= slot.slot - config.feedback.delay_slots
        csi, present = decode_reports(config, reports, due)
        assert bool(present.all())
        truth = torch.stack([channel.windows.slot(config, s) for s in due], 1)
        # the payload says something about the true channel, and not everything
        inner = (csi.conj() * truth).sum((2, 3, 4)).abs().square()
        similarity = inner / (
            csi.abs().square().sum((2, 3, 4)) * truth.abs().square().sum((2, 3, 4))
        )
        assert 0.5 < float(similarity.mean()) < 0.999


@pytest.mark.parametrize("bits", [13, 64])
async def test_the_declared_bits_are_the_bytes(bits):
    store = MemoryStore()
    config = link(bits=bits)
    request = channel_pb2.GrantRequest(items=[channel_pb2.GrantItem(link_config=config.to_proto())])
    (slot,) = (await service(store=store).grant(request)).slots
    (reports,) = await store.reports([(slot.link_id, report_slots(config, slot.slot, 8))])
    assert len(reports) == 32
    assert all(8 * len(r.payload) - 8 < r.bits <= 8 * len(r.payload) for r in reports)


async def test_a_report_knows_nothing_of_what_comes_after_it():
    """Honesty: the channel after the report slot is replaced, and the report stays the same, bit for bit."""
    config = link()
    honest = service()
    (before,) = honest._reports.made_in(config, [200])[:1]
    changed = service()
    first, offset = divmod(201, WINDOW_SLOTS)
    for index in range(first, BLOCK_SLOTS // WINDOW_SLOTS):
        after_it = changed.windows.window(config, index)[:, offset if index == first else 0 :]
        after_it[:] = after_it.flip(1) * 2 + 1
    (after,) = changed._reports.made_in(config, [200])[:1]
    assert after == before
    # while a change in the slot itself is seen
    other = service()
    other.windows.slot(config, 200)[:] = other.windows.slot(config, 700)
    assert other._reports.made_in(config, [200])[0].payload != before.payload


def test_reports_of_many_links_made_together_are_those_made_alone():
    configs = [
        link(seed=1),
        link(seed=2, snr_db=0.0),
        link(seed=3, num_users=2),
        link(seed=4, bits=13),
        link(quantizer="rvq", memory="predictive"),
        link(quantizer="perfect"),
        link(quantizer="none"),
    ]
    wanted = [
        (config, needed_report_slots(config, 200), f"l-{i}") for i, config in enumerate(configs)
    ]
    together = service()._reports.made_for(wanted)
    assert [len(made) for made in together[:4]] == [32, 32, 16, 32]
    assert not together[-1]
    for one, made in zip(wanted, together, strict=True):
        assert service()._reports.made_in(*one) == made


async def test_perfect_is_explicit_and_none_is_nothing():
    store = MemoryStore()
    channel = service(store=store)
    perfect = link(quantizer="perfect")
    request = channel_pb2.GrantRequest(
        items=[channel_pb2.GrantItem(link_config=perfect.to_proto())]
    )
    (slot,) = (await channel.grant(request)).slots
    (reports,) = await store.reports([(slot.link_id, [slot.slot])])
    csi, present = decode_reports(perfect, reports, [slot.slot])
    assert bool(present.all())
    truth = channel.windows.slot(perfect, slot.slot)
    assert torch.equal(csi[:, 0], truth)
    (delivery,) = await transmit(channel, frame(perfect, informed(channel, perfect)))
    assert delivery.link.feedback_bits == 8 * len(reports[0].payload) == 64 * 8 * 2 * 16
    assert delivery.link.csi_age_slots == 0
    # no other quantiser ever comes as near
    for bits in (64, 512):
        quantised = link(bits=bits)
        made = channel._reports.made_in(quantised, [200])
        approximation, _ = decode_reports(quantised, made, [200])
        assert not torch.allclose(
            approximation[:, 0].abs(), channel.windows.slot(quantised, 200).abs(), atol=1e-3
        )

    nothing = link(quantizer="none")
    request = channel_pb2.GrantRequest(
        items=[channel_pb2.GrantItem(link_config=nothing.to_proto())]
    )
    (slot,) = (await channel.grant(request)).slots
    assert await store.reports([(slot.link_id, list(range(slot.slot + 1)))]) == [[]]
    w = open_loop_precoder(nothing.num_tx_ant, nothing.num_users * nothing.num_layers, [0])[0]
    (delivery,) = await transmit(channel, frame(nothing, w))
    assert delivery.link.feedback_bits == 0
    assert not delivery.link.HasField("csi_age_slots")


async def test_without_a_store_the_query_goes_on_degraded():
    channel = service(store=StoreIsAway())
    request = channel_pb2.GrantRequest(
        items=[channel_pb2.GrantItem(link_config=link().to_proto(), seed=1)]
    )
    (slot,) = (await channel.grant(request)).slots
    assert slot.slot == slot_of_query(link(), 1)
    assert [d.part for d in slot.degraded] == ["store"]
    assert "away" in slot.degraded[0].reason


async def test_an_opened_link_needs_its_store():
    class NoLinks(MemoryStore):
        async def link(self, link_id):
            raise Unavailable("the store is away")

    request = channel_pb2.GrantRequest(items=[channel_pb2.GrantItem(link_id="l-1")])
    with pytest.raises(Unavailable):
        await service(store=NoLinks()).grant(request)


async def test_the_room_answers_every_call_of_its_service():
    assert callable(grpc_servicer("channel", service()))
    assert not await transmit(service())


async def test_bad_items_are_named():
    channel = service()
    with pytest.raises(InvalidField) as error:
        await channel.grant(
            channel_pb2.GrantRequest(
                items=[
                    channel_pb2.GrantItem(link_config=link().to_proto()),
                    channel_pb2.GrantItem(link_config=link(num_users=9).to_proto()),
                ]
            )
        )
    assert error.value.field == "items[1].link_config.num_users"
    with pytest.raises(InvalidField) as error:
        await channel.grant(channel_pb2.GrantRequest(items=[channel_pb2.GrantItem(seed=3)]))
    assert error.value.field == "items[0].link"


# --- opened links ------------------------------------------------------------------------------


async def test_the_life_of_an_opened_link():
    store = MemoryStore()
    channel = service(store=store)
    opened = await channel.open_link(channel_pb2.OpenLinkRequest(config=link().to_proto()))
    assert opened.link_id.startswith("l-")
    assert opened.slot == HISTORY_SLOTS
    other = await channel.open_link(channel_pb2.OpenLinkRequest(config=link().to_proto()))
    assert other.link_id != opened.link_id
    listed = await channel.list_links(channel_pb2.ListLinksRequest())
    assert {one.link_id for one in listed.links} == {opened.link_id, other.link_id}
    item = channel_pb2.GrantItem(link_id=opened.link_id, seed=5)
    slots = (await channel.grant(channel_pb2.GrantRequest(items=[item, item, item]))).slots
    assert [s.slot for s in slots] == [128, 129, 130]
    # the very first query finds a warm link
    due = report_slots(link(), 128, HISTORY_REPORTS)
    (reports,) = await store.reports([(opened.link_id, due)])
    assert len(reports) == 8 * 4
    now = await channel.get_link(channel_pb2.GetLinkRequest(link_id=opened.link_id))
    assert now.slot == 131
    await channel.close_link(channel_pb2.CloseLinkRequest(link_id=opened.link_id))
    for call in (
        channel.get_link(channel_pb2.GetLinkRequest(link_id=opened.link_id)),
        channel.close_link(channel_pb2.CloseLinkRequest(link_id=opened.link_id)),
        channel.grant(channel_pb2.GrantRequest(items=[item])),
        channel.get_csi(channel_pb2.GetCsiRequest(link_id=opened.link_id)),
    ):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(InvalidField) as error:
        await channel.open_link(
            channel_pb2.OpenLinkRequest(config=link(scenario="moon").to_proto())
        )
    assert error.value.field == "config.scenario"


async def test_slots_go_on_past_a_window_with_reports_from_the_one_before():
    store = MemoryStore()
    recorder = Recorder()
    channel = service(recorder, store)
    config = link(content="channel")
    opened = await channel.open_link(channel_pb2.OpenLinkRequest(config=config.to_proto()))
    await store.advance(opened.link_id, BLOCK_SLOTS + 7 - HISTORY_SLOTS)
    item = channel_pb2.GrantItem(link_id=opened.link_id)
    (slot,) = (await channel.grant(channel_pb2.GrantRequest(items=[item]))).slots
    assert slot.slot == BLOCK_SLOTS + 7
    due = report_slots(config, slot.slot, HISTORY_REPORTS)
    assert due[0] < BLOCK_SLOTS <= due[-1]
    (reports,) = await store.reports([(opened.link_id, due)])
    csi, present = decode_reports(config, reports, due)
    assert bool(present.all())
    truth = torch.stack([channel.windows.slot(config, s) for s in due], 1)
    inner = (csi.conj() * truth).sum((2, 3, 4)).abs().square()
    similarity = inner / (csi.abs().square().sum((2, 3, 4)) * truth.abs().square().sum((2, 3, 4)))
    assert float(similarity.mean(0).min()) > 0.4
    (delivery,) = await transmit(
        channel, frame(config, informed(channel, config, slot.slot), slot=slot.slot)
    )
    assert delivery.link.slot == slot.slot


async def test_magnitudes_for_plots():
    class Oracle:
        async def predict_csi(self, request):
            (item,) = request.items
            (reports,) = await store.reports(
                [(item.link_id, report_slots(Link.from_proto(item.config), item.slot, 8))]
            )
            assert len(reports) == 32
            csi = np.full((4, 8, 2, 16), 2j, np.complex64)
            return knowledge_pb2.PredictCsiResponse(
                predictions=[knowledge_pb2.PredictedCsi(csi=to_wire(csi), source="oracle")]
            )

    store = MemoryStore()
    channel = service(store=store, knowledge=Oracle())
    opened = await channel.open_link(
        channel_pb2.OpenLinkRequest(config=link(snr_db=20.0).to_proto())
    )
    request = channel_pb2.GetCsiRequest(link_id=opened.link_id)
    response = await channel.get_csi(request)
    assert (response.slot, response.report_slot, response.predictor) == (128, 120, "oracle")
    magnitudes = {
        name: from_wire(getattr(response, f"{name}_magnitude"), field=name, dtype="float32")
        for name in ("true", "estimated", "fed_back", "predicted")
    }
    assert {m.shape for m in magnitudes.values()} == {(8, 2, 16)}
    truth = channel.windows.slot(link(), 120)[0].abs().numpy()
    errors = {k: float(np.mean((m - truth) ** 2)) for k, m in magnitudes.items()}
    assert errors["estimated"] < errors["fed_back"]
    assert float(magnitudes["predicted"].min()) == 2.0
    request.slot = 500
    assert (await channel.get_csi(request)).slot == 500

    class Away:
        async def predict_csi(self, request):
            raise Unavailable("gone")

    channel = service(store=store, knowledge=Away())
    response = await channel.get_csi(request)
    assert response.predicted_magnitude.dtype == ""
    assert "gone" in response.predictor
    silent = await channel.open_link(
        channel_pb2.OpenLinkRequest(config=link(quantizer="none").to_proto())
    )
    response = await channel.get_csi(channel_pb2.GetCsiRequest(link_id=silent.link_id))
    assert not response.HasField("report_slot")
    assert response.fed_back_magnitude.dtype == ""
