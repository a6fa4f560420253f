"""The channel over time: against Sionna itself, power, Doppler, purity, threads."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from channel_blocks import generate_block
from scipy.special import j0

from channel_service import fading as module
from channel_service.fading import (
    ByteBoundedCache,
    ChannelKey,
    ChannelWindows,
    Rays,
    draw_rays,
    frequency_response,
    subband_frequencies_hz,
)
from semlink.grid import BLOCK_SLOTS
from semlink.links import Link
from semlink.scenarios import SCENARIOS


def link(**fields) -> Link:
    return Link().replace(**fields)


def stock_channel(key: ChannelKey, num_slots: int) -> torch.Tensor:
    """The same draws through unchanged Sionna, and its paths to subbands by the definition."""
    with module._sionna_seed(key.draw_seed()):
        if key.scenario.startswith("cdl"):
            a, tau = module._cdl_channel(key)(key.num_users, num_slots, 1000.0)
            a, tau = a[:, 0, :, 0], tau[:, 0, 0]
        else:
            channel = module._system_level_model(*module._model_of(key))
            module._drop_users(channel, key)
            a, tau = channel(num_slots, 1000.0)
            a, tau = a[0, :, :, 0], tau[0, :, 0]
    turns = torch.exp(-2j * math.pi * tau[:, :, None] * subband_frequencies_hz())
    return torch.einsum("urapn,ups->unsra", a, turns)


@pytest.mark.parametrize(
    "scenario", ["umi-los", "umi-nlos", "uma-los", "uma-nlos", "cdl-b", "cdl-d"]
)
def test_it_is_sionnas_channel(scenario):
    key = ChannelKey.from_config(link(scenario=scenario, speed_kmh=28.8, num_users=2, seed=3))
    ours = frequency_response(draw_rays(key), 0, 48).to(torch.complex128)
    stock = stock_channel(key, 48)
    # equal up to the normalisation, one real factor a user
    scale = (ours * stock.conj()).sum((1, 2, 3, 4), keepdim=True) / stock.abs().square().sum(
        (1, 2, 3, 4), keepdim=True
    )
    assert float((scale.imag / scale.real).abs().max()) < 1e-6
    assert float(scale.real.min()) > 0
    error = (ours - scale * stock).abs().max() / ours.abs().max()
    assert float(error) < 5e-6


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_shape_and_mean_power(scenario):
    """Over many drops and users E|h|² = 1: path loss and shadowing are in the SNR already."""
    powers = []
    for seed in range(16):
        key = ChannelKey.from_config(
            link(scenario=scenario, num_users=4, num_tx_ant=4, seed=seed, speed_kmh=108.0)
        )
        h = frequency_response(draw_rays(key), 0, 64)
        assert h.shape == (4, 64, 8, 2, 4)
        assert h.dtype == torch.complex64
        powers.append(h.abs().square().mean((1, 2, 3, 4)))
    assert float(torch.stack(powers).mean()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("num_tx_ant", [1, 2, 8, 32])
@pytest.mark.parametrize("num_rx_ant", [1, 4])
def test_every_array(num_tx_ant, num_rx_ant):
    config = link(scenario="umi-los", num_tx_ant=num_tx_ant, num_rx_ant=num_rx_ant, num_users=1)
    h = frequency_response(draw_rays(ChannelKey.from_config(config)), 0, 2)
    assert h.shape == (1, 2, 8, num_rx_ant, num_tx_ant)
    assert bool(torch.isfinite(h.abs()).all())


def test_rayleigh_turns_with_clarkes_spectrum():
    speed, carrier = 20.0, 3.5e9
    doppler = speed * carrier / 299_792_458.0
    key = ChannelKey.from_config(
        link(
            scenario="rayleigh",
            speed_kmh=speed * 3.6,
            num_users=4,
            num_tx_ant=16,
            num_rx_ant=4,
            seed=1,
        )
    )
    h = frequency_response(draw_rays(key), 0, 1024)
    for lag in (1, 2, 3, 5, 8):
        correlation = (h[:, lag:] * h[:, :-lag].conj()).mean().real / h.abs().square().mean()
        assert float(correlation) == pytest.approx(j0(2 * math.pi * doppler * lag * 1e-3), abs=0.06)
    # and it is Rayleigh: kurtosis of a complex Gaussian is 2
    power = h[:, ::64].abs().square()
    assert float(power.square().mean() / power.mean() ** 2) == pytest.approx(2.0, abs=0.15)


def test_awgn_is_flat_static_and_of_full_rank():
    h = generate_block(link(scenario="awgn", num_users=2), 0)
    torch.testing.assert_close(h.abs(), torch.ones_like(h.abs()))
    assert torch.equal(h[:, :1].expand_as(h), h)
    assert torch.equal(h[:, :, :1].expand_as(h), h)
    assert int(torch.linalg.matrix_rank(h[0, 0, 0])) == 2
    # users are orthogonal to each other
    assert float((h[0, 0, 0] @ h[1, 0, 0].mH).abs().max()) < 1e-4
    one = generate_block(link(scenario="awgn", num_users=1, num_tx_ant=1, num_rx_ant=1), 0)
    torch.testing.assert_close(one, torch.ones_like(one))


def test_a_standing_user_has_a_static_channel_and_a_moving_one_does_not():
    still = generate_block(link(speed_kmh=0.0), 0)
    torch.testing.assert_close(still, still[:, :1].expand_as(still))
    moving = generate_block(link(speed_kmh=28.8), 0)
    assert float((moving[:, 10] - moving[:, 0]).abs().mean()) > 0.05


def test_a_window_depends_on_what_it_should_and_on_nothing_else():
    base = generate_block(link(), 0)
    for change in (
        {"snr_db": 25.0},
        {"num_layers": 2},
    ):
        assert torch.equal(generate_block(link(**change), 0), base)
    other_feedback = link()
    other_feedback = other_feedback.replace(bits=16, delay_slots=20)
    assert torch.equal(generate_block(other_feedback, 0), base)
    for change in (
        {"seed": 1},
        {"speed_kmh": 3.6},
        {"carrier_frequency_hz": 2e9},
        {"scenario": "uma-los"},
    ):
        assert not torch.equal(generate_block(link(**change), 0), base)


def test_the_global_random_state_is_left_alone_and_does_not_matter():
    torch.manual_seed(7)
    np.random.seed(7)
    expected = torch.rand(3), np.random.random(3)
    module.sionna_config.seed = 5
    stream = torch.rand(3, generator=module.sionna_config.torch_rng("cpu"))
    first = generate_block(link(), 0)

    module.sionna_config.seed = 5
    torch.manual_seed(7)
    np.random.seed(7)
    second = generate_block(link(), 0)
    assert torch.equal(first, second)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.random(3), expected[1])
    assert torch.equal(torch.rand(3, generator=module.sionna_config.torch_rng("cpu")), stream)
    module.sionna_config.seed = None


def test_windows_continue_each_other():
    """A link is one drop that lives on: the seam between blocks is no jump."""
    config = link(speed_kmh=3.0)
    first, second = generate_block(config, 0), generate_block(config, 1)
    rays = draw_rays(ChannelKey.from_config(config))
    across = frequency_response(rays, BLOCK_SLOTS - 4, 8)
    torch.testing.assert_close(across[:, :4], first[:, -4:], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(across[:, 4:], second[:, :4], rtol=1e-3, atol=1e-4)
    step = (second[:, 0] - first[:, -1]).abs().mean()
    usual = (first[:, 1:] - first[:, :-1]).abs().mean()
    assert float(step) < 3 * float(usual)


def test_sixteen_links_at_once_and_one_by_one_are_the_same_bits():
    scenarios = [s for s in SCENARIOS if s != "awgn"]
    configs = [
        link(scenario=scenarios[i % len(scenarios)], seed=i, num_tx_ant=8) for i in range(16)
    ]
    one_by_one = [generate_block(config, 0) for config in configs]
    with ThreadPoolExecutor(16) as pool:
        at_once = list(pool.map(lambda config: generate_block(config, 0), configs))
    for a, b in zip(one_by_one, at_once, strict=True):
        assert torch.equal(a, b)


def test_the_cache_makes_once_and_stays_within_its_bytes():
    config = link(num_tx_ant=4, num_users=1)
    size = ChannelWindows().window(config, 0).nbytes + module.ENTRY_BYTES
    windows = ChannelWindows(max_bytes=4 * size)  # three quarters: three windows
    assert windows.window(config, 0) is windows.window(config, 0)
    louder = link(num_tx_ant=4, num_users=1, snr_db=30.0)
    assert windows.window(louder, 0) is windows.window(config, 0)
    first = windows.window(config, 0)
    for index in (1, 2, 3):
        windows.window(config, index)
    assert windows._windows.nbytes == 3 * size
    again = windows.window(config, 0)
    assert again is not first
    assert torch.equal(again, first)


@pytest.mark.parametrize("scenario", ["umi-los", "cdl-c", "rayleigh"])
def test_a_slot_is_the_same_bits_whatever_is_asked_with_it(scenario):
    configs = [link(scenario=scenario, seed=seed) for seed in range(3)]
    together = ChannelWindows()
    together.prepare((config, range(100, 200)) for config in configs)
    for config in configs:
        alone = ChannelWindows().slots(config, [150, 101])
        assert torch.equal(together.slots(config, [150, 101]), alone)
        assert torch.equal(together.slot(config, 101), alone[:, 1])


def test_of_values_made_together_a_bad_one_spoils_no_other():
    """Who waits for a value makes it for itself where the batch that it was to come from failed."""
    cache: ByteBoundedCache[str, torch.Tensor] = ByteBoundedCache(1 << 20)
    started, go_on = threading.Event(), threading.Event()

    def fail(keys: list[str]) -> list[torch.Tensor]:
        started.set()
        assert go_on.wait(10)
        raise RuntimeError("bad")

    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(cache.get_many, ["good", "bad"], fail)
        assert started.wait(10)
        waiting = pool.submit(
            cache.get_many, ["good", "new"], lambda keys: [torch.zeros(1) for _ in keys]
        )
        go_on.set()
        assert len(waiting.result(10)) == 2
        with pytest.raises(RuntimeError):
            failing.result(10)


def test_what_many_threads_want_is_made_once():
    calls = []
    rays = Rays(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1), torch.zeros(1, 1))

    def make() -> Rays:
        calls.append(1)
        return rays

    cache: ByteBoundedCache[str, Rays] = ByteBoundedCache(1 << 20)
    with ThreadPoolExecutor(8) as pool:
        assert all(r is rays for r in pool.map(lambda _: cache.get("key", make), range(64)))
    assert len(calls) == 1

    def fail() -> Rays:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.get("other", fail)
    assert cache.get("other", make) is rays


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("scenario", ["umi-los", "uma-nlos", "cdl-c", "rayleigh"])
def test_a_gpu_computes_the_same_channel(scenario):
    config = link(scenario=scenario)
    on_cpu, on_gpu = generate_block(config, 3), generate_block(config, 3, "cuda").cpu()
    assert float((on_cpu - on_gpu).abs().max()) < 1e-4
