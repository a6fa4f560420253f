"""The channel of a link over time: TR 38.901 rays drawn once by Sionna, played slot by slot.

Sionna starts every call at t = 0 with new rays and sums the rays of a cluster before anyone can ask for another
instant. Here its rays are kept apart (:class:`RayCoefficients`): the same draws, the same coefficients, but each ray
with its own delay and Doppler shift, so that the frequency response of any stretch of time is one matrix product

    H[t, s] = Σ_p  a_p · exp(j2π ν_p t) · exp(−j2π f_s τ_p).

A link is therefore one drop that lives for ever: its channel is a pure function of the key and the absolute slot,
continuous for ever. A window is ``WINDOW_SLOTS`` consecutive slots, evaluated at once and cached: a query pays for the
few windows that hold its slot and its reports.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np
import torch
from sionna.phy import config as sionna_config
from sionna.phy.channel import gen_single_sector_topology
from sionna.phy.channel.tr38901 import CDL, ChannelCoefficientsGenerator, PanelArray, UMa, UMi

from semlink.errors import InvalidField
from semlink.grid import (
    NUM_SUBBANDS,
    SLOT_SECONDS,
    SUBCARRIER_SPACING_HZ,
    SUBCARRIERS_PER_SUBBAND,
)
from semlink.grouping import grouped
from semlink.links import Link
from semlink.seeds import stable_seed

DELAY_SPREAD_S: Final = 100e-9
"""Of ``cdl-*`` (RMS) and ``rayleigh`` (mean delay) that name none: "nominal" of TR 38.901 table 7.7.3-1."""
SECTOR_HALF_WIDTH_RAD: Final = math.pi / 3
NUM_RAYLEIGH_RAYS: Final = 256
SPEED_OF_LIGHT: Final = 299_792_458.0
WINDOW_SLOTS: Final = 32
"""Slots that are evaluated together. A window is always evaluated whole: the last bits of a slot depend on the shape of
the matrix product, and so do not depend on what else was asked for."""
ENTRY_BYTES: Final = 1024
"""Of a cached value's key and bookkeeping."""


@dataclass(frozen=True, slots=True)
class ChannelKey:
    """All that a channel depends on. Neither SNR nor layers nor feedback: a sweep over them shares its windows."""

    scenario: str
    carrier_frequency_hz: float
    num_tx_ant: int
    num_rx_ant: int
    num_users: int
    speed_mps: float
    seed: int
    delay_spread_s: float = DELAY_SPREAD_S
    """Of ``cdl-*`` and ``rayleigh``; the other scenarios draw their own."""

    @classmethod
    def from_config(cls, config: Link) -> ChannelKey:
        """The key of a (validated) link configuration."""
        return cls(
            config.scenario,
            config.carrier_frequency_hz,
            config.num_tx_ant,
            config.num_rx_ant,
            config.num_users,
            config.speed_mps,
            config.seed,
            config.delay_spread_s or DELAY_SPREAD_S,
        )

    def draw_seed(self) -> int:
        """Seed of everything random about this channel. Not of the delay spread: it stretches the same rays."""
        return stable_seed(
            "channel",
            self.scenario,
            self.carrier_frequency_hz,
            self.num_tx_ant,
            self.num_rx_ant,
            self.num_users,
            self.speed_mps,
            self.seed,
        )


@dataclass(frozen=True, slots=True)
class Rays:
    """Multipath of every user, on the CPU.

    ``coefficients``: complex64 ``[num_users, num_rays, num_rx_ant, num_tx_ant]`` at slot 0, normalised for each user
    over rays and antennas so that ``E|h|² = 1`` in the long term; ``delays_s`` and ``doppler_hz``: float64
    ``[num_users, num_rays]``.
    """

    coefficients: torch.Tensor
    delays_s: torch.Tensor
    doppler_hz: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.coefficients.nbytes + self.delays_s.nbytes + self.doppler_hz.nbytes


def subband_frequencies_hz() -> torch.Tensor:
    """Centres of the subbands relative to the carrier: float64 ``[num_subbands]``."""
    offsets = torch.arange(NUM_SUBBANDS, dtype=torch.float64) - (NUM_SUBBANDS - 1) / 2
    return offsets * (SUBCARRIERS_PER_SUBBAND * SUBCARRIER_SPACING_HZ)


# --- drawing the rays -------------------------------------------------------------------------------------------

_sionna_lock = threading.Lock()


@contextmanager
def _sionna_seed(seed: int) -> Iterator[None]:
    """Sionna's one CPU generator, alone and seeded; its state is put back afterwards.

    Not ``config.seed = …``: that would reseed NumPy, Python and torch for the whole process as well.
    """
    with _sionna_lock:
        generator = sionna_config.torch_rng("cpu")
        before = generator.get_state()
        generator.manual_seed(seed)
        try:
            yield
        finally:
            generator.set_state(before)


class RayCoefficients(ChannelCoefficientsGenerator):  # type: ignore[misc]
    """Steps 10 and 11 of TR 38.901 clause 7.5 (eqs. 7.5-22…30) without the sum over rays.

    Draws what Sionna draws in the same order. Returns every ray (and the LOS path, last) as a path of its own at
    t = 0, with the sub-cluster delay of table 7.5-5 where clusters are split; ``doppler_hz`` keeps each path's shift.
    """

    doppler_hz: torch.Tensor

    def _step_11(
        self,
        phi: torch.Tensor,
        topology: Any,
        k_factor: torch.Tensor,
        rays: Any,
        t: torch.Tensor,
        c_ds: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        h = self._step_11_nlos(phi, topology, rays, t[:1])
        delays = rays.delays.unsqueeze(-1).expand(rays.aoa.shape)
        if self._subclustering:
            delays = delays + self._subcluster_offsets(rays, c_ds)
        doppler = self._doppler(topology, rays.zoa, rays.aoa)
        h, delays, doppler = h.flatten(3, 4), delays.flatten(3, 4), doppler.flatten(3, 4)

        k = torch.where(topology.los, k_factor, torch.zeros_like(k_factor))
        los = self._step_11_los(topology, t[:1])
        los_delay = delays.amin(-1, keepdim=True)
        los_doppler = self._doppler(
            topology, topology.los_zoa[..., None, None], topology.los_aoa[..., None, None]
        ).flatten(3, 4)
        share = (k / (k + 1))[..., None, None, None, None]
        h = torch.cat([h * torch.sqrt(1 - share), los * torch.sqrt(share)], dim=3)
        self.doppler_hz = torch.cat([doppler, los_doppler.expand_as(los_delay)], dim=-1)
        return h, torch.cat([delays, los_delay], dim=-1)

    def _doppler(self, topology: Any, zoa: torch.Tensor, aoa: torch.Tensor) -> torch.Tensor:
        """Shift of every ray [Hz]: the arrival direction's share of the user's velocity over the wavelength."""
        direction = self._unit_sphere_vector(zoa, aoa).squeeze(-1)
        velocity = topology.velocities[:, None, :, None, None, :]
        shift: torch.Tensor = (direction * velocity).sum(-1) / self._lambda_0
        return shift

    def _subcluster_offsets(self, rays: Any, c_ds: torch.Tensor | None) -> torch.Tensor:
        """Extra delay of each ray [s]: 0, 1.28 or 2.56 cluster delay spreads in the two strongest clusters."""
        assert c_ds is not None
        strongest = rays.strongest_cluster_indices
        if strongest is None:
            strongest = torch.argsort(rays.powers, dim=-1, descending=True)[..., :2]
        split = torch.zeros_like(rays.powers).scatter(-1, strongest, 1.0)
        steps = torch.zeros(rays.aoa.shape[-1], dtype=split.dtype)
        steps[self._sub_cl_2_ind] = self._sub_cl_delay_offsets[1]
        steps[self._sub_cl_3_ind] = self._sub_cl_delay_offsets[2]
        return split.unsqueeze(-1) * steps * c_ds[..., None, None]


def panel(num_ant: int, carrier_frequency_hz: float, pattern: str) -> PanelArray:
    """The antenna panel of ``num_ant`` ports: one vertical element, or cross-polarised pairs, at most 4 rows of them.

    2 = 1×1×2, 4 = 1×2×2, 8 = 2×2×2, 16 = 2×4×2, 32 = 4×4×2 (rows × columns × polarisations). Port order:
    polarisation, then column, then row (the row runs fastest).
    """
    rows, columns = {1: (1, 1), 2: (1, 1), 4: (1, 2), 8: (2, 2), 16: (2, 4), 32: (4, 4)}[num_ant]
    return PanelArray(
        num_rows_per_panel=rows,
        num_cols_per_panel=columns,
        polarization="single" if num_ant == 1 else "dual",
        polarization_type="V" if num_ant == 1 else "cross",
        antenna_pattern=pattern,
        carrier_frequency=carrier_frequency_hz,
        precision="double",
        device="cpu",
    )


def _normalized(
    coefficients: torch.Tensor, delays_s: torch.Tensor, doppler_hz: torch.Tensor
) -> Rays:
    """Scale each user's rays to unit long-term power: path loss and shadowing are in ``snr_db`` already.

    The long-term power is the sum of the rays' powers (rays of different Doppler do not add up in the mean), so a
    window, a slot or a subband may well lie above or below 1: that is fading, and it stays.
    """
    power = coefficients.abs().square().sum(1).mean((-2, -1))
    return Rays(
        (coefficients / power.sqrt()[:, None, None, None]).to(torch.complex64),
        delays_s.double(),
        doppler_hz.double(),
    )


def _system_level_model(
    model: str, carrier_frequency_hz: float, num_tx_ant: int, num_rx_ant: int
) -> Any:
    """Sionna's UMi or UMa model without a topology."""
    arguments: dict[str, Any] = {
        "carrier_frequency": carrier_frequency_hz,
        "o2i_model": "low",
        "ut_array": panel(num_rx_ant, carrier_frequency_hz, "omni"),
        "bs_array": panel(num_tx_ant, carrier_frequency_hz, "38.901"),
        "direction": "downlink",
        "enable_pathloss": False,
        "enable_shadow_fading": False,
        "precision": "double",
        "device": "cpu",
    }
    return {"umi": UMi, "uma": UMa}[model](**arguments)


@lru_cache(maxsize=16)
def _ray_model(*arguments: Any) -> tuple[Any, RayCoefficients]:
    """A model that gives rays, and where it leaves their Doppler shifts. Its tables cost as much as a drop."""
    channel = _system_level_model(*arguments)
    sampler = channel._cir_sampler
    channel._cir_sampler = RayCoefficients(
        arguments[1],
        sampler._tx_array,
        sampler._rx_array,
        subclustering=True,
        precision="double",
        device="cpu",
    )
    return channel, channel._cir_sampler


def _model_of(key: ChannelKey) -> tuple[str, float, int, int]:
    return key.scenario.split("-")[0], key.carrier_frequency_hz, key.num_tx_ant, key.num_rx_ant


def _drop_users(channel: Any, key: ChannelKey) -> None:
    """Draw the topology: users outdoors, LOS or NLOS forced."""
    model, sight = key.scenario.split("-")
    topology = gen_single_sector_topology(
        batch_size=1,
        num_ut=key.num_users,
        scenario=model,
        indoor_probability=0.0,
        min_ut_velocity=key.speed_mps,
        max_ut_velocity=key.speed_mps,
        precision="double",
        device="cpu",
    )
    channel.reset_topology()
    channel.set_topology(*topology, los=sight == "los")


def _system_level_rays(key: ChannelKey) -> Rays:
    """UMi and UMa street canyon and macro drops of TR 38.901 clause 7.5, one 120° sector, all users in one drop."""
    channel, generator = _ray_model(*_model_of(key))
    _drop_users(channel, key)
    a, tau = channel(1, 1 / SLOT_SECONDS)
    # a: [1, num_users, num_rx_ant, 1, num_tx_ant, num_rays, 1]
    coefficients = a[0, :, :, 0, :, :, 0].permute(0, 3, 1, 2)
    return _normalized(coefficients, tau[0, :, 0], generator.doppler_hz[0, 0])


def _cdl_channel(key: ChannelKey) -> Any:
    """Sionna's CDL model, one batch entry a user. Each user's panel and velocity are turned at random.

    A CDL profile has fixed angles: without the turn (base station ±60° in azimuth, user any, our definition; compare
    the angle translation of TR 38.901 clause 7.7.5.1) all users would stand on the same spot.
    """
    rng = np.random.Generator(np.random.Philox(key=stable_seed("cdl-turns", key.draw_seed())))
    zeros = np.zeros(key.num_users)
    heading = rng.uniform(-math.pi, math.pi, key.num_users)
    bs_yaw = rng.uniform(-SECTOR_HALF_WIDTH_RAD, SECTOR_HALF_WIDTH_RAD, key.num_users)
    ut_yaw = rng.uniform(-math.pi, math.pi, key.num_users)
    return CDL(
        model=key.scenario[-1].upper(),
        delay_spread=key.delay_spread_s,
        carrier_frequency=key.carrier_frequency_hz,
        ut_array=panel(key.num_rx_ant, key.carrier_frequency_hz, "omni"),
        bs_array=panel(key.num_tx_ant, key.carrier_frequency_hz, "38.901"),
        direction="downlink",
        ut_orientation=torch.from_numpy(np.stack([ut_yaw, zeros, zeros], -1)),
        bs_orientation=torch.from_numpy(np.stack([bs_yaw, zeros, zeros], -1)),
        ut_velocity=torch.from_numpy(
            key.speed_mps * np.stack([np.cos(heading), np.sin(heading), zeros], -1)
        ),
        precision="double",
        device="cpu",
    )


def _cdl_rays(key: ChannelKey) -> Rays:
    """CDL-A…E of TR 38.901 clause 7.7.1."""
    channel = _cdl_channel(key)
    generator = RayCoefficients(
        key.carrier_frequency_hz,
        channel._tx_array,
        channel._rx_array,
        subclustering=False,
        precision="double",
        device="cpu",
    )
    channel._cir_gen = generator
    a, tau = channel(key.num_users, 1, 1 / SLOT_SECONDS)
    # a: [num_users, 1, num_rx_ant, 1, num_tx_ant, num_rays, 1]
    coefficients = a[:, 0, :, 0, :, :, 0].permute(0, 3, 1, 2)
    return _normalized(coefficients, tau[:, 0, 0], generator.doppler_hz[:, 0, 0])


def _rayleigh_rays(key: ChannelKey) -> Rays:
    """Independent Rayleigh fading of every antenna pair with Clarke's Doppler spectrum. Our definition.

    ``NUM_RAYLEIGH_RAYS`` plane waves: stratified arrival angles (autocorrelation ``J0(2π f_D Δt)``) paired at random
    with stratified quantiles of an exponential power-delay profile; complex Gaussian coefficients, so that ``h`` is
    exactly Gaussian. Normalised by its variance (known: 1), not by its sample.
    """
    rng = np.random.Generator(np.random.Philox(key=key.draw_seed()))
    users, rays = key.num_users, NUM_RAYLEIGH_RAYS
    strata = (np.arange(rays) + rng.random((2, users, rays))) / rays
    delays = rng.permuted(-key.delay_spread_s * np.log1p(-strata[0]), axis=-1)
    max_doppler_hz = key.speed_mps * key.carrier_frequency_hz / SPEED_OF_LIGHT
    doppler = max_doppler_hz * np.cos(2 * np.pi * strata[1])
    parts = rng.standard_normal((2, users, rays, key.num_rx_ant, key.num_tx_ant))
    coefficients = (parts[0] + 1j * parts[1]) / math.sqrt(2 * rays)
    return Rays(
        torch.from_numpy(coefficients.astype(np.complex64)),
        torch.from_numpy(delays),
        torch.from_numpy(doppler),
    )


def _awgn_rays(key: ChannelKey) -> Rays:
    """No fading: one path of unit modulus, flat and static. Our definition.

    Antenna ``r`` of user ``u`` sees row ``(u + num_users·r) mod num_tx_ant`` of the DFT matrix: of full rank, and the
    streams of different users are orthogonal. 1×1 is the plain AWGN channel, ``h = 1``.
    """
    user = torch.arange(key.num_users)[:, None, None]
    receive = torch.arange(key.num_rx_ant)[:, None]
    transmit = torch.arange(key.num_tx_ant)
    row = (user + key.num_users * receive) % key.num_tx_ant
    phase = -2 * math.pi * (row * transmit).double() / key.num_tx_ant
    h = torch.polar(torch.ones_like(phase), phase)
    still = torch.zeros(key.num_users, 1, dtype=torch.float64)
    return Rays(h.to(torch.complex64).unsqueeze(1), still, still)


def draw_rays(key: ChannelKey) -> Rays:
    """The rays of a channel: a pure function of the key, the same on every machine and in every thread.

    Always drawn on the CPU, so that a GPU computes the same channel to rounding.
    """
    if key.scenario == "rayleigh":
        return _rayleigh_rays(key)
    if key.scenario == "awgn":
        return _awgn_rays(key)
    with _sionna_seed(key.draw_seed()), torch.no_grad():
        return _cdl_rays(key) if key.scenario.startswith("cdl") else _system_level_rays(key)


# --- playing them ----------------------------------------------------------------------------------------------


def _taps(rays: Rays, device: torch.device | str) -> torch.Tensor:
    """Each ray at the centres of the subbands.

    Returns complex64 ``[num_users, num_rays, num_subbands·num_rx_ant·num_tx_ant]``.
    """
    turns = -rays.delays_s[:, :, None] * subband_frequencies_hz()
    spectrum = torch.polar(torch.ones_like(turns), 2 * math.pi * (turns % 1.0))
    taps = rays.coefficients[:, :, None] * spectrum.to(torch.complex64)[..., None, None]
    return taps.flatten(2).to(device)


def _played(rays: Rays, taps: torch.Tensor, first_slot: int, num_slots: int) -> torch.Tensor:
    """The sum over rays in consecutive slots; see :func:`frequency_response`."""
    num_users, _, num_rx_ant, num_tx_ant = rays.coefficients.shape
    # exp(j2πν(t₀ + c·stride + r)) as a product of two short tables: far fewer sines and cosines.
    stride = 32
    coarse = first_slot + stride * torch.arange(-(-num_slots // stride), dtype=torch.float64)
    fine = torch.arange(stride, dtype=torch.float64)
    cycles = rays.doppler_hz * SLOT_SECONDS
    tables = [
        torch.polar(torch.ones_like(turns), 2 * math.pi * (turns % 1.0))
        for turns in (times[:, None] * cycles[:, None, :] for times in (coarse, fine))
    ]
    rotation = (tables[0][:, :, None] * tables[1][:, None]).flatten(1, 2)[:, :num_slots]
    h = rotation.to(torch.complex64).to(taps.device) @ taps
    return h.view(num_users, num_slots, NUM_SUBBANDS, num_rx_ant, num_tx_ant)


def frequency_response(
    rays: Rays, first_slot: int, num_slots: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Channel of consecutive slots at the centres of the subbands.

    Returns complex64 ``[num_users, num_slots, num_subbands, num_rx_ant, num_tx_ant]`` on ``device``. Phases are
    computed in double precision: after an hour at 100 GHz they are still exact to a thousandth of a turn.
    """
    return _played(rays, _taps(rays, device), first_slot, num_slots)


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=_Sized)


class ByteBoundedCache(Generic[K, V]):
    """Least recently used values up to a number of bytes; what several threads ask for at once is made once.

    Thread-safe. A value larger than the bound is returned but not kept. Of a maker that raises nothing is kept, and who
    waited for it makes the value for itself.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._values: OrderedDict[K, V] = OrderedDict()
        self._making: dict[K, Future[V]] = {}
        self._lock = threading.Lock()
        self.nbytes = 0

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of ``key``, from the cache or from ``make``."""
        (value,) = self.get_many([key], lambda _: [make()])
        return value

    def get_many(self, keys: Sequence[K], make: Callable[[list[K]], Sequence[V]]) -> list[V]:
        """The values of ``keys``; ``make`` is called once, for those that nobody has or makes, and returns theirs."""
        found: dict[K, V] = {}
        others: dict[K, Future[V]] = {}
        mine: dict[K, Future[V]] = {}
        with self._lock:
            for key in dict.fromkeys(keys):
                if key in self._values:
                    self._values.move_to_end(key)
                    found[key] = self._values[key]
                elif key in self._making:
                    others[key] = self._making[key]
                else:
                    mine[key] = self._making[key] = Future()
        if mine:
            found |= self._made(mine, make)
        for key, future in others.items():
            try:
                found[key] = future.result()
            except Exception:  # noqa: BLE001  # perhaps of another key that was made along with it
                (found[key],) = self.get_many([key], make)
        return [found[key] for key in keys]

    def _made(self, mine: dict[K, Future[V]], make: Callable[[list[K]], Sequence[V]]) -> dict[K, V]:
        try:
            made = dict(zip(mine, make(list(mine)), strict=True))
        except BaseException as error:
            with self._lock:
                for key in mine:
                    del self._making[key]
            for future in mine.values():
                future.set_exception(error)
            raise
        with self._lock:
            for key, value in made.items():
                del self._making[key]
                self._keep(key, value)
        for key, value in made.items():
            mine[key].set_result(value)
        return made

    def _keep(self, key: K, value: V) -> None:
        self._values[key] = value
        self.nbytes += value.nbytes + ENTRY_BYTES
        while self.nbytes > self._max_bytes:
            _, dropped = self._values.popitem(last=False)
            self.nbytes -= dropped.nbytes + ENTRY_BYTES


class ChannelWindows:
    """Windows and rays of all links of this process, cached up to ``max_bytes`` (a quarter of it for rays).

    Thread-safe. ``device`` is where windows lie.
    """

    def __init__(self, max_bytes: int = 1 << 30, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._windows: ByteBoundedCache[tuple[ChannelKey, int], torch.Tensor] = ByteBoundedCache(
            max_bytes * 3 // 4
        )
        self._rays: ByteBoundedCache[ChannelKey, Rays] = ByteBoundedCache(max_bytes // 4)

    def prepare(self, wanted: Iterable[tuple[Link, Iterable[int]]]) -> None:
        """Generate what is not there of the windows that hold the slots of each link, the links' rays together."""
        self._of(
            dict.fromkeys(
                (ChannelKey.from_config(config), slot // WINDOW_SLOTS)
                for config, slots in wanted
                for slot in slots
            )
        )

    def window(self, config: Link, index: int) -> torch.Tensor:
        """Slots ``index·WINDOW_SLOTS …`` of the link, ``index`` ≥ 0.

        Returns complex64 ``[num_users, WINDOW_SLOTS, num_subbands, num_rx_ant, num_tx_ant]``.
        """
        key = ChannelKey.from_config(config), index
        return self._of([key])[key]

    def slots(self, config: Link, slots: Sequence[int]) -> torch.Tensor:
        """Channel of some absolute slots.

        Returns complex64 ``[num_users, len(slots), num_subbands, num_rx_ant, num_tx_ant]``.
        """
        key = ChannelKey.from_config(config)
        windows = self._of(dict.fromkeys((key, slot // WINDOW_SLOTS) for slot in slots))
        return torch.stack(
            [windows[key, slot // WINDOW_SLOTS][:, slot % WINDOW_SLOTS] for slot in slots], 1
        )

    def slot(self, config: Link, slot: int) -> torch.Tensor:
        """Channel of one absolute slot: complex64 ``[num_users, num_subbands, num_rx_ant, num_tx_ant]``."""
        index, offset = divmod(slot, WINDOW_SLOTS)
        return self.window(config, index)[:, offset]

    def _of(
        self, wanted: Iterable[tuple[ChannelKey, int]]
    ) -> dict[tuple[ChannelKey, int], torch.Tensor]:
        keys = list(wanted)
        return dict(zip(keys, self._windows.get_many(keys, self._generate), strict=True))

    def _generate(self, wanted: list[tuple[ChannelKey, int]]) -> list[torch.Tensor]:
        by_link = grouped(wanted, lambda one: one[0])
        drawn = self._rays.get_many(list(by_link), lambda keys: [draw_rays(key) for key in keys])
        made = {}
        for rays, members in zip(drawn, by_link.values(), strict=True):
            taps = _taps(rays, self.device)
            for key, index in members:
                h = _played(rays, taps, index * WINDOW_SLOTS, WINDOW_SLOTS)
                # NaN would go on as the figures of an answer; one sum finds it, cheaper than a test of each element
                if not bool(torch.view_as_real(h).sum().isfinite()):
                    raise InvalidField(
                        f"the channel of {key} holds NaN or infinity", field="channel"
                    )
                made[key, index] = h
        return [made[one] for one in wanted]
