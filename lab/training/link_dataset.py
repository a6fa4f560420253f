"""A dataset of link realisations for training the codec over the emulated link.

The link is linear in the symbols and its precoder does not depend on them, so what the codec sees of it is, for each
symbol, the SINR that the transmitter predicted, the noise variance that the receiver estimated, and the error of the
equalised symbol. Each entry of the dataset is one frame of random unit-power symbols sent through the real chain:
quantised, outdated reports, precoder, Sionna's channel, pilots, LMMSE equaliser.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from safetensors.numpy import load_file, save_file

from channel_service.handler import Channel
from lab.evaluation.cache import Cache, write_whole
from receiver.decoding import Samples, check_frame
from semlink import links_7fb36b6
from semlink.grid import NUM_SUBBANDS
from semlink.links import Link
from semlink.seeds import stable_seed
from semlink.settings import Settings
from semlink.signal.equalization import equalize, lmmse, noise_variance
from semlink.signal.layer_mapping import demap_layers, per_symbol
from semlink.signal.precoding import open_loop_precoder, precoder, predicted_sinr_db
from semlink.store import MemoryStore
from semlink.v1 import channel_pb2, receiver_pb2
from semlink.wire import to_wire
from transmitter.csi import decode_in_thread, newest_reports
from transmitter.framing import open_loop_sinr_db

NUM_SYMBOLS = 128
TRAINING_LINK_SEEDS = 1_000_000
"""Links that train the codec have seeds from here on; no experiment uses them."""


@dataclass(frozen=True, slots=True)
class LinkDataset:
    """Realisations ``[num_frames, 128]``: predicted SNR (dB), estimated noise variance, error of the symbol."""

    predicted_snr_db: NDArray[np.float32]
    noise_variance: NDArray[np.float32]
    error: NDArray[np.complex64]
    snr_db: NDArray[np.float32]
    """Of the link, ``[num_frames]``."""

    def save(self, path: Path) -> None:
        """Write all tensors to one file."""
        save_file({name: getattr(self, name) for name in _FIELDS}, path)

    @classmethod
    def load(cls, path: Path) -> LinkDataset:
        """Read a dataset."""
        return cls(**load_file(path))


_FIELDS = ("predicted_snr_db", "noise_variance", "error", "snr_db")


class _Catcher:
    """Stands where the receiver stands and keeps what arrives at its antennas."""

    def __init__(self) -> None:
        self.frames: list[receiver_pb2.ReceivedFrame] = []

    async def receive(self, request: receiver_pb2.ReceiveRequest) -> receiver_pb2.ReceiveResponse:
        self.frames = list(request.frames)
        return receiver_pb2.ReceiveResponse(
            receptions=[receiver_pb2.Reception() for _ in request.frames]
        )


FEEDBACKS: Final = (
    ("rvq", 16, "none"),
    ("rvq", 64, "none"),
    ("rvq", 256, "none"),
    ("rvq", 16, "predictive"),
    ("rvq", 64, "predictive"),
    ("scalar", 64, "none"),
    ("perfect", 0, "none"),
    ("none", 0, "none"),
)
"""Quantiser, bits and memory of the links that train the codec."""
USERS_AND_LAYERS: Final = ((1, 1), (4, 1), (1, 2), (2, 2), (8, 1), (4, 1))
"""Users and layers of each, taken in turn: the default link's twice."""


def training_configs(seeds: int, link_seed: int) -> list[Link]:
    """The links that a dataset is drawn from.

    Two scenarios × three speeds × all feedback × ``seeds``; users and layers take turns, so that each meets each.
    """
    configs = []
    everything = itertools.product(range(seeds), FEEDBACKS, (3, 30, 60), ("umi-los", "uma-nlos"))
    for i, (seed, (quantizer, bits, memory), kmh, scenario) in enumerate(everything):
        # 11 is prime to every axis' length.
        users, layers = USERS_AND_LAYERS[11 * (i // 2 + seed) % 6]
        configs.append(
            Link().replace(
                scenario=scenario,
                speed_kmh=kmh,
                num_users=users,
                num_layers=layers,
                quantizer=quantizer,
                bits=bits,
                memory=memory,
                seed=link_seed + seed,
            )
        )
    return configs


async def _realise(
    channel: Channel,
    catcher: _Catcher,
    store: MemoryStore,
    config: Link,
    frames: int,
) -> LinkDataset:
    layers = config.num_layers
    rng = np.random.Generator(
        np.random.Philox(key=stable_seed("bank", links_7fb36b6.bytes_of(config)))
    )
    items = []
    for snr_db in rng.uniform(-15.0, 25.0, frames):
        one = config.replace(snr_db=round(float(snr_db) / 2.5) * 2.5)
        items.append(
            channel_pb2.GrantItem(link_config=one.to_proto(), seed=int(rng.integers(2**53)))
        )
    slots = (await channel.grant(channel_pb2.GrantRequest(items=items))).slots
    known = await newest_reports(
        store, slots, partial(decode_in_thread, weights=Settings().weights)
    )
    snr_db = torch.tensor([s.config.snr_db for s in slots], dtype=torch.float32)
    if known[0].csi is None:
        precoders = open_loop_precoder(
            config.num_tx_ant, config.num_users * config.num_layers, [s.slot for s in slots]
        )
        flat = open_loop_sinr_db(snr_db, config)[:, None, None]
        predicted = flat.expand(-1, NUM_SUBBANDS, layers)
    else:
        csi = torch.from_numpy(np.stack([k.csi for k in known if k.csi is not None]))
        precoders = precoder(csi, layers, snr_db)
        predicted = predicted_sinr_db(csi, precoders, snr_db, layers)
    angles = rng.uniform(0, 2 * np.pi, (frames, layers, NUM_SYMBOLS // layers))
    symbols = np.exp(1j * angles).astype(np.complex64)
    header = channel_pb2.FrameHeader(
        task="person",
        corpus="pedestrians",
        modality="text",
        symbols=NUM_SYMBOLS,
        top_k=1,
        num_streams=config.num_users * layers,
        num_layers=layers,
    ).SerializeToString()
    await channel.transmit(
        channel_pb2.TransmitRequest(
            frames=[
                channel_pb2.Frame(
                    query_id=str(i),
                    link_id=slot.link_id,
                    config=slot.config,
                    slot=slot.slot,
                    seed=item.seed,
                    symbols=to_wire(symbols[i]),
                    precoder=to_wire(precoders[i].numpy()),
                    header=header,
                )
                for i, (slot, item) in enumerate(zip(slots, items, strict=True))
            ]
        )
    )
    received = [check_frame(f, field="frame") for f in catcher.frames]
    equalised, variance = _equalise(received)
    return LinkDataset(
        predicted_snr_db=per_symbol(predicted, NUM_SYMBOLS).numpy().astype(np.float32),
        noise_variance=variance,
        error=equalised - symbols.transpose(0, 2, 1).reshape(frames, NUM_SYMBOLS),
        snr_db=snr_db.numpy(),
    )


def _equalise(received: Sequence[Samples]) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    data, pilots, noise = (
        torch.from_numpy(np.stack(arrays))
        for arrays in zip(*((r.data, r.pilots, r.noise) for r in received), strict=True)
    )
    layers = received[0].header.num_layers
    weights, sinr = lmmse(pilots, noise_variance(noise), layers, received[0].pilot_length)
    equalised = demap_layers(equalize(data, weights), NUM_SYMBOLS)
    variance = per_symbol(1.0 / sinr, NUM_SYMBOLS)
    return equalised.numpy(), variance.numpy().astype(np.float32)


def build_link_dataset(
    *, frames_per_link: int = 192, seeds: int = 4, link_seed: int = TRAINING_LINK_SEEDS
) -> LinkDataset:
    """Draw a dataset of :func:`training_configs`; deterministic."""
    store, catcher = MemoryStore(), _Catcher()
    channel = Channel(catcher, store, Settings(redis_url="memory://"))  # type: ignore[arg-type]
    configs = training_configs(seeds, link_seed)

    async def run() -> list[LinkDataset]:
        return [
            await _realise(channel, catcher, store, config, frames_per_link)
            for config in track(configs, description="link realisations")
        ]

    datasets = asyncio.run(run())
    return LinkDataset(
        **{name: np.concatenate([getattr(b, name) for b in datasets]) for name in _FIELDS}
    )


def link_dataset_path(**arguments: int) -> Path:
    """Where the cache keeps a dataset, or would."""
    name = "-".join(f"{k}{v}" for k, v in sorted(arguments.items())) or "default"
    return Cache("link-bank", __name__).path(f"v2-{name}.safetensors")


def cached_link_dataset(**arguments: int) -> LinkDataset:
    """The dataset from the cache, drawn on first use."""
    path = link_dataset_path(**arguments)
    if not path.exists():
        write_whole(path, build_link_dataset(**arguments).save)
    return LinkDataset.load(path)
