"""Histories of reports and the channels they are to predict: what predictors are chosen and judged on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from channel_service.estimation import estimate_reports
from channel_service.fading import ChannelKey, draw_rays, frequency_response
from kb_service.channel_knowledge import fingerprint
from kb_service.predictors import CsiPredictor
from lab.evaluation.cache import Cache
from semlink.decibels import db_to_lin, lin_to_db
from semlink.errors import Unavailable
from semlink.links import Link
from semlink.quantizers import weight_prefixes
from semlink.seeds import stable_seed
from semlink.settings import Settings
from semlink.signal.csi import content_of, quantizer_for
from semlink.signal.csi.layers import Content
from semlink.signal.feedback import HISTORY_REPORTS
from semlink.signal.metrics import precoding_gain_db, sgcs

USERS_PER_DROP: Final = 32
FIRST_SEED: Final[Mapping[str, int]] = {"val": 3_000_000_000_000, "test": 5_000_000_000_000}
"""Drops of each split have seeds from here on, fewer than 2⁴⁰ of them; no training uses either."""
TRACKED_REPORTS: Final = 40
"""Reports of a group so far, where the channel is tracked."""


def link(
    scenario: str,
    speed_kmh: float,
    bits: int,
    *,
    quantizer: str = "rvq",
    memory: str = "none",
    num_tx_ant: int = 16,
    num_layers: int = 1,
) -> Link:
    """The default link with other channels and reports."""
    return Link().replace(
        scenario=scenario,
        speed_kmh=speed_kmh,
        num_tx_ant=num_tx_ant,
        num_layers=num_layers,
        quantizer=quantizer,
        bits=bits,
        memory=memory,
    )


@dataclass(frozen=True, slots=True)
class Drops:
    """Users at one speed in one scenario: what they estimated, and their channels some slots later.

    ``estimates``: complex64 ``[users, reports, num_subbands, num_rx_ant, num_tx_ant]``, one a report period, oldest
    first; ``truth``: by age in slots of the newest report, complex64 ``[users, …]``; ``drop``: int64 ``[users]``.
    """

    estimates: torch.Tensor
    truth: Mapping[int, torch.Tensor]
    drop: NDArray[np.int64]


def draw_drops(
    config: Link,
    ages_slots: Sequence[int],
    *,
    split: str,
    seed: int,
    drops: int,
    reports: int = TRACKED_REPORTS,
) -> Drops:
    """``drops`` drops of ``USERS_PER_DROP`` users each, estimated at the link's SNR.

    ``split``: "val" to choose on, "test" to report; their drops never meet. Ages are ≥ 0.
    """
    slots = torch.arange(reports) * config.feedback.report_period_slots
    newest = int(slots[-1])
    estimates, truth = [], []
    for number in range(drops):
        place = stable_seed("prediction", config.scenario, seed, number) % 2**40
        drawn = config.replace(seed=FIRST_SEED[split] + place)
        rays = draw_rays(replace(ChannelKey.from_config(drawn), num_users=USERS_PER_DROP))
        h = frequency_response(rays, 0, newest + max(ages_slots) + 1)
        estimates.append(estimate_reports(h[:, slots], drawn, 0))
        truth.append(h[:, [newest + age for age in ages_slots]])
    later = torch.cat(truth)
    return Drops(
        torch.cat(estimates),
        {age: later[:, i].clone() for i, age in enumerate(ages_slots)},
        np.repeat(np.arange(drops), USERS_PER_DROP),
    )


@dataclass(frozen=True, slots=True)
class Reports:
    """What a transmitter has decoded: complex64 ``[users, HISTORY_REPORTS, …]`` and bool ``[users, HISTORY_REPORTS]``.

    ``known`` is False where there is nothing; where the channel is tracked there is CSI for a lost report as well.
    """

    csi: torch.Tensor
    known: torch.Tensor


def decoded(config: Link, drops: Drops, arrived: torch.Tensor | None = None) -> Reports:
    """The last ``HISTORY_REPORTS`` reports through the link's quantiser and back.

    ``arrived``: bool ``[users, reports]``, all by default: whether each report reached the transmitter.
    """
    quantizer = quantizer_for(config, Settings().weights)
    users, count = drops.estimates.shape[:2]
    here = torch.ones(users, count, dtype=torch.bool) if arrived is None else arrived
    index = torch.arange(count)
    if quantizer.chained:
        payload = quantizer.encode_group(drops.estimates, index)
        csi = quantizer.decode_group(payload, here, index)[:, -HISTORY_REPORTS:]
        return Reports(csi, csi.abs().square().sum((2, 3, 4)) > 0)
    index, known = index[-HISTORY_REPORTS:], here[:, -HISTORY_REPORTS:]
    payload = quantizer.encode_group(drops.estimates[:, -HISTORY_REPORTS:], index)
    return Reports(quantizer.decode_group(payload, known, index), known)


def decoded_all(config: Link, drops: Drops) -> torch.Tensor:
    """Every report through a quantiser whose reports stand for themselves: complex64 ``[users, reports, …]``."""
    quantizer = quantizer_for(config, Settings().weights)
    users, count = drops.estimates.shape[:2]
    index = torch.arange(count)
    payload = quantizer.encode_group(drops.estimates, index)
    return quantizer.decode_group(payload, torch.ones((users, count), dtype=torch.bool), index)


def predicted(
    predictor: CsiPredictor, config: Link, reports: Reports, age_slots: int
) -> torch.Tensor:
    """CSI ``age_slots`` after the newest report's slot: complex64 ``[users, …]``; every user is an item."""
    period = config.feedback.report_period_slots
    ages = torch.arange(HISTORY_REPORTS - 1, -1, -1) * period + age_slots
    with torch.no_grad():
        return predictor.predict(
            reports.csi[:, None],
            reports.known[:, None],
            ages.expand(len(reports.csi), -1),
            config,
        )[:, 0]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of each user, float64 ``[users]``: SGCS, precoding gain [dB], error and power of what reports describe."""

    sgcs: NDArray[np.float64]
    precoding_gain_db: NDArray[np.float64]
    error: NDArray[np.float64]
    power: NDArray[np.float64]

    def as_dict(self) -> dict[str, NDArray[np.float64]]:
        """The figures by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def nmse_db(self) -> float:
        """One ratio of sums."""
        return float(lin_to_db(self.error.sum() / self.power.sum()))


def figures(truth: torch.Tensor, csi: torch.Tensor, content: Content) -> Figures:
    """Figures of predicted CSI, free phases turned away. Nothing known: SGCS 0, gain 0 dB, error the whole power."""
    power = content.rows(truth).abs().square().sum((-3, -2, -1)).double()
    known = csi.abs().square().sum((-3, -2, -1)) > 0
    assumed = torch.where(known[:, None, None, None], csi, truth)
    share = torch.where(known, db_to_lin(content.nmse_db(truth, assumed)), 1.0)
    return Figures(
        torch.where(known, sgcs(truth, assumed), 0.0).double().numpy(),
        torch.where(known, precoding_gain_db(truth, assumed), 0.0).double().numpy(),
        (share * power).numpy(),
        power.numpy(),
    )


def measured(
    predictors: Mapping[str, CsiPredictor],
    config: Link,
    drops: Drops,
    reports: Reports,
    age_slots: int,
) -> dict[str, Figures]:
    """Figures of every predictor at one age."""
    content = content_of(config)
    return {
        name: figures(
            drops.truth[age_slots], predicted(predictor, config, reports, age_slots), content
        )
        for name, predictor in predictors.items()
    }


class PredictorFigures:
    """Measured figures of predictors, cached: what depends on a predictor's weights beside sources.

    ``measure``: the function that measures them.
    """

    def __init__(self, measure: Callable[..., object]) -> None:
        self._table = Cache("csi-figures", measure, weights=weight_prefixes()).table("predictors")
        self._fingerprints: dict[str, str] = {}

    def key(self, predictor: str, *place: object) -> list[object]:
        """Of a predictor's figures at a place: the weights that it had at first are part of it."""
        known = self._fingerprints.setdefault(predictor, fingerprint(predictor, Settings().weights))
        return [predictor, known, *place]

    def missing(self, predictors: Sequence[str], *place: object) -> list[str]:
        """The predictors without figures at a place."""
        return [name for name in predictors if self.key(name, *place) not in self._table]

    def get(self, predictor: str, *place: object) -> Any:
        """Figures that are there. Raises KeyError where they are not."""
        return self._table.get(self.key(predictor, *place))

    def put(self, value: Any, predictor: str, *place: object) -> None:
        """Add figures. Raises Unavailable where the predictor got other weights meanwhile."""
        now = fingerprint(predictor, Settings().weights)
        if now != self._fingerprints.get(predictor, now):
            raise Unavailable(f"{predictor} got other weights while it was measured; run it again")
        self._table.put(value, self.key(predictor, *place))
