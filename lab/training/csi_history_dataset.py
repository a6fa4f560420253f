"""A dataset of CSI histories to train and choose channel generators on: ``python -m lab.training.csi_history_dataset``.

What the knowledge base will see, made the way a link makes it: rays of TR 38.901, least squares and LMMSE estimates at
the link's SNR, RVQ reports of any size, and the channel some slots after the newest of them. Our definition. Four
consecutive histories are users of one cell in one slot, so that they can be precoded together.

Parts are kept in the cache as they are made: what is interrupted goes on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Self

import numpy as np
import torch
import typer
from safetensors.torch import load_file, save_file

from channel_service.estimation import estimate_reports
from channel_service.fading import ChannelKey, Rays, draw_rays, frequency_response
from kb_service.generators import context_of
from lab.evaluation.cache import Cache, write_whole
from lab.training.channel_dataset import MOMENTS_APART_SLOTS, TRAIN_MIX, USERS_PER_DROP
from semlink.links import Link
from semlink.progress import progress
from semlink.scenarios import SCENARIOS
from semlink.seeds import stable_seed
from semlink.settings import Settings
from semlink.signal.csi import content_of, quantizer_for
from semlink.signal.feedback import HISTORY_REPORTS

GROUP_USERS: Final = 4
"""Users of one cell, next to each other in a dataset."""
TRAINING_SEED: Final = 30_000_000
VALIDATION_SEED: Final = 20_000_000
BITS: Final = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
PERIODS_SLOTS: Final = (5, 5, 5, 5, 2, 10)
AGES_SLOTS: Final = (2, 14)
"""Of the newest report."""
SNR_DB: Final = (-5.0, 25.0)
MOMENTS: Final = 6
"""Of each training drop, each with bits, SNR and age of its own."""
ROUNDS: Final = 5
"""Of the training mix: 160 drops, 30,720 histories."""
VALIDATION_SCENARIOS: Final = ("umi-los", "uma-nlos")
VALIDATION_SPEEDS_KMH: Final = (3.0, 30.0, 60.0)
VALIDATION_BITS: Final = (16, 64, 256)
VALIDATION_AGES: Final = (5, 6, 7, 8, 9)
"""The default link's; one drop each."""
DROPS_PER_PART: Final = 16


@dataclass(frozen=True, slots=True)
class Histories:
    """Histories of the default link's antennas, ``n`` in all, and what came of them.

    ``history`` complex64 ``[n, HISTORY_REPORTS, num_subbands, 1, num_tx_ant]``, decoded rows, oldest report first;
    ``channel`` complex64 ``[n, num_subbands, num_rx_ant, num_tx_ant]`` in the slot of transmission; ``age_slots`` int64
    ``[n, HISTORY_REPORTS]``; ``context`` float32 ``[n, CONTEXT_SIZE]``; ``scenario`` int64 ``[n]``, number in
    ``SCENARIOS``; ``bits`` int64 and ``speed_kmh`` float32 ``[n]``.
    """

    history: torch.Tensor
    channel: torch.Tensor
    age_slots: torch.Tensor
    context: torch.Tensor
    scenario: torch.Tensor
    bits: torch.Tensor
    speed_kmh: torch.Tensor

    def __len__(self) -> int:
        return len(self.history)

    def rows(self, index: torch.Tensor) -> Self:
        """Some of the histories."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def truth(self) -> torch.Tensor:
        """What a precoder could use of the channel: complex64 ``[n, num_subbands, 1, num_tx_ant]``."""
        return content_of(Link()).rows(self.channel)

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def save(self, path: Path) -> None:
        """Write a file, complex numbers as pairs of float16."""
        stored = {}
        for f in fields(self):
            value = getattr(self, f.name)
            stored[f.name] = torch.view_as_real(value).half() if value.is_complex() else value
        save_file(stored, path)

    @classmethod
    def load(cls, paths: Sequence[Path]) -> Self:
        """Read parts, one behind the other."""
        parts = [load_file(path) for path in paths]
        whole = {}
        for f in fields(cls):
            value = torch.cat([part[f.name] for part in parts])
            pairs = value.dtype == torch.float16
            whole[f.name] = torch.view_as_complex(value.float()) if pairs else value
        return cls(**whole)

    @classmethod
    def joined(cls, parts: Sequence[Histories]) -> Self:
        """One behind the other."""
        return cls(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)})


def observe(
    rays: Rays,
    config: Link,
    *,
    first_slot: int,
    age_slots: int,
    bits: Sequence[int],
    seed: int,
) -> list[Histories]:
    """What ``HISTORY_REPORTS`` reports of a link told of its users, for each number of bits, and what is true then.

    The newest report is ``age_slots`` old in the slot of transmission. ``rays`` must be of ``config``'s channel;
    ``seed`` is that of the noise in the estimates.
    """
    period = config.feedback.report_period_slots
    slots = [i * period for i in range(HISTORY_REPORTS)]
    h = frequency_response(rays, first_slot, slots[-1] + age_slots + 1)
    one = config.replace(seed=seed)
    estimates = estimate_reports(h[:, slots], one, 0)
    ages = h.shape[1] - 1 - torch.tensor(slots)
    users = len(h)
    found = []
    for number in bits:
        one = one.replace(bits=number)
        quantizer = quantizer_for(one, Settings().weights)
        index = torch.arange(HISTORY_REPORTS).repeat(users)
        csi = quantizer.decode(quantizer.encode(estimates.flatten(0, 1), index), index)
        rows = content_of(one).rows(csi.view(users, HISTORY_REPORTS, *quantizer.shape))
        found.append(
            Histories(
                history=rows,
                channel=h[:, -1].contiguous(),
                age_slots=ages.repeat(users, 1),
                context=context_of(one).repeat(users, 1),
                scenario=torch.full((users,), SCENARIOS.index(config.scenario)),
                bits=torch.full((users,), number),
                speed_kmh=torch.full((users,), config.speed_mps * 3.6),
            )
        )
    return found


def _training_drop(scenario: str, number: int) -> Histories:
    rng = np.random.Generator(np.random.Philox(key=stable_seed("csi-histories", number)))
    config = Link()
    # half of the drops walk, the other half drive
    kmh = rng.uniform(0.0, 6.0) if rng.random() < 0.5 else rng.uniform(6.0, 60.0)
    config = config.replace(scenario=scenario, speed_kmh=kmh, seed=TRAINING_SEED + number)
    rays = draw_rays(replace(ChannelKey.from_config(config), num_users=USERS_PER_DROP))
    moments = []
    for moment in range(MOMENTS):
        config = config.replace(
            snr_db=float(rng.uniform(*SNR_DB)), report_period_slots=int(rng.choice(PERIODS_SLOTS))
        )
        moments += observe(
            rays,
            config,
            first_slot=moment * MOMENTS_APART_SLOTS,
            age_slots=int(rng.integers(AGES_SLOTS[0], AGES_SLOTS[1] + 1)),
            bits=[int(rng.choice(BITS))],
            seed=stable_seed("csi-histories", number, moment),
        )
    return Histories.joined(moments)


def _parts_of_training(rounds: int) -> list[list[tuple[str, int]]]:
    order = [name for name, count in TRAIN_MIX.items() for _ in range(count)] * rounds
    drops = [(scenario, number) for number, scenario in enumerate(order)]
    return [drops[i : i + DROPS_PER_PART] for i in range(0, len(drops), DROPS_PER_PART)]


def _save_drops(drops: Sequence[tuple[str, int]], path: Path) -> None:
    Histories.joined([_training_drop(*drop) for drop in drops]).save(path)


def training_histories(rounds: int = ROUNDS) -> Histories:
    """The training dataset, made on first use (minutes): ``rounds`` rounds of the training mix."""
    paths, cache = [], Cache("csi-histories", __name__)
    parts = _parts_of_training(rounds)
    with progress() as bar:
        for i, drops in enumerate(bar.track(parts, description="CSI histories to train on")):
            paths.append(cache.entry(f"v1-train-{i:03d}.safetensors", partial(_save_drops, drops)))
    return Histories.load(paths)


def validation_histories() -> Histories:
    """The validation dataset, made on first use: scenario × speed × bits × age at 10 dB, a drop for each age.

    Drops do not depend on the bits, so that the axis of bits is a paired comparison.
    """
    path = Cache("csi-histories", __name__).path("v1-val.safetensors")
    if not path.is_file():
        parts = []
        cases = list(itertools.product(VALIDATION_SCENARIOS, VALIDATION_SPEEDS_KMH))
        with progress() as bar:
            for scenario, kmh in bar.track(cases, description="CSI histories to choose on"):
                config = Link(scenario=scenario, speed_kmh=kmh)
                for i, age in enumerate(VALIDATION_AGES):
                    config = config.replace(seed=VALIDATION_SEED + i)
                    rays = draw_rays(
                        replace(ChannelKey.from_config(config), num_users=USERS_PER_DROP)
                    )
                    parts += observe(
                        rays,
                        config,
                        first_slot=0,
                        age_slots=age,
                        bits=VALIDATION_BITS,
                        seed=stable_seed("csi-histories", "val", i),
                    )
        write_whole(path, Histories.joined(parts).save)
    return Histories.load([path])


def main(rounds: Annotated[int, typer.Option(help="of the training mix")] = ROUNDS) -> None:
    """Make the dataset."""
    print(
        f"{len(training_histories(rounds))} to train on, {len(validation_histories())} to choose on"
    )


if __name__ == "__main__":
    typer.run(main)
