r"""Which modulation and coding scheme a digital message takes: the one that promises the most. Our definition.

The transmitter knows the SINR after equalisation that its quantised, outdated CSI promises for each symbol. From it:

1. what really arrives, on average and with which spread: :math:`\gamma_j = \hat\gamma_j + \delta`,
   :math:`\delta \sim N(\mu, \sigma^2)` in dB, with μ and σ fitted on frames of training links, by the kind of feedback,
   its bits, whether several users share the slot, the SNR and the promise itself;
2. for each MCS the effective SNR of a block over unequal symbols, by mean mutual information of its constellation
   (MIESM; Brueninghaus et al., PIMRC 2005): :math:`\gamma_e = I_Q^{-1}(\frac1k\sum_j I_Q(\gamma_j))`;
3. the probability that the CRC holds, :math:`P = \Phi\big((\gamma_e - t) / \sqrt{w^2 + \sigma^2}\big)`, with
   threshold t and width w of the very code, measured by simulation for every k and MCS;
4. the MCS of the greatest :math:`P \cdot q`, q what its payload is worth to the task.

The figures of 1 and 3 are those of ``weights/link-adaptation.json``, made by ``python -m
tools.calibrate_link_adaptation``.

Examples
--------
>>> from types import SimpleNamespace
>>> feedback = SimpleNamespace(quantizer="rvq", bits=64)
>>> links = [SimpleNamespace(snr_db=snr_db, num_users=1, feedback=feedback) for snr_db in (0.0, 20.0)]
>>> promised = np.array([[0.0], [20.0]]).repeat(64, axis=1)
>>> poor, good = choose_mcs(promised, links, True, np.sqrt, load_calibration())
>>> bool(poor < good)
True
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from semlink.decibels import db_to_lin, lin_to_db
from semlink.errors import InvalidField
from semlink.signal.coding import MCS_TABLE, constellation, scheme_of, usable_mcs
from semlink.signal.link import LinkLike
from semlink.weight_files import SHIPPED, Weights

Array = NDArray[np.float64]
KINDS: Final = ("quantised", "perfect", "none")
"""Of feedback; what is known of the promise's error."""
NUM_TERMS: Final = 9
SNR_DB_SEEN: Final = (-20.0, 30.0)
"""The range in which the promise's error was seen; beyond it, it is what it is at the edge."""
GRID_DB: Final = np.arange(-30.0, 50.5, 0.5)
"""SNRs of :func:`bicm_information`."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured figures, float64.

    ``threshold_db``, ``width_db``: for each k ``[num_mcs]``, NaN where the MCS carries nothing. ``shift``,
    ``log_spread``: ``[2, len(KINDS), NUM_TERMS]``, coefficients of μ (dB) and log σ for one user and for several.
    """

    threshold_db: dict[int, Array]
    width_db: dict[int, Array]
    shift: Array
    log_spread: Array

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "threshold_db": {str(k): _plain(v) for k, v in self.threshold_db.items()},
            "width_db": {str(k): _plain(v) for k, v in self.width_db.items()},
            "shift": self.shift.round(5).tolist(),
            "log_spread": self.log_spread.round(5).tolist(),
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Calibration:
        """The inverse of :meth:`as_dict`."""
        return cls(
            threshold_db={int(k): _array(v) for k, v in plain["threshold_db"].items()},
            width_db={int(k): _array(v) for k, v in plain["width_db"].items()},
            shift=_array(plain["shift"]),
            log_spread=_array(plain["log_spread"]),
        )


def _plain(values: Array) -> list[float | None]:
    return [None if np.isnan(v) else round(float(v), 3) for v in values]


def _array(values: Any) -> Array:
    return np.array(values, dtype=np.float64)


def choose_mcs(
    predicted_sinr_db: Array,
    links: Sequence[LinkLike],
    known: bool,
    quality: Callable[[Array], Array],
    calibration: Calibration,
) -> NDArray[np.int64]:
    """The MCS of each message.

    :param predicted_sinr_db: float64 ``[batch, k]``, what the transmitter's CSI promises for each symbol, dB.
    :param links: of each message; of them SNR, number of users and the feedback's scheme and bits count.
    :param known: False when there was no report to precode from.
    :param quality: payload bits → worth to the task.
    :param calibration: measured figures, of :func:`load_calibration`.
    :returns: int64 ``[batch]``.
    :raises InvalidField: for a k without thresholds.
    """
    probability = success_probability(predicted_sinr_db, links, known, calibration)
    mcs = np.array(usable_mcs(predicted_sinr_db.shape[1]))
    expected = probability * quality(_payloads(predicted_sinr_db.shape[1]))
    chosen: NDArray[np.int64] = mcs[np.argmax(expected, axis=1)]
    return chosen


def success_probability(
    predicted_sinr_db: Array,
    links: Sequence[LinkLike],
    known: bool,
    calibration: Calibration,
) -> Array:
    """Probability that the CRC holds; arguments as in :func:`choose_mcs`.

    :returns: float64 ``[batch, number of usable MCS]``.
    :raises InvalidField: for a k without thresholds.
    """
    k = predicted_sinr_db.shape[1]
    if k not in calibration.threshold_db:
        raise InvalidField(
            f"symbols is {k}, allowed: {', '.join(map(str, calibration.threshold_db))}",
            field="symbols",
        )
    group = np.array([group_of(link, known) for link in links])
    terms = terms_of(predicted_sinr_db, links)
    users, kind = group.T
    shift = (calibration.shift[users, kind] * terms).sum(1)
    spread = np.exp((calibration.log_spread[users, kind] * terms).sum(1))
    mcs = np.array(usable_mcs(k))
    arriving = predicted_sinr_db + shift[:, None]
    per_symbol = np.array([MCS_TABLE[m][0] for m in mcs])
    effective = np.empty((len(links), len(mcs)))
    for bits in np.unique(per_symbol).tolist():
        effective[:, per_symbol == bits] = effective_snr_db(arriving, bits)[:, None]
    threshold, width = calibration.threshold_db[k][mcs], calibration.width_db[k][mcs]
    probability: Array = ndtr((effective - threshold) / np.sqrt(width**2 + spread[:, None] ** 2))
    return probability


@lru_cache(maxsize=8)
def _payload_tuple(k: int) -> tuple[int, ...]:
    return tuple(scheme_of(m, k).payload_bits for m in usable_mcs(k))


def _payloads(k: int) -> Array:
    return np.array(_payload_tuple(k), dtype=np.float64)


def group_of(link: LinkLike, known: bool) -> tuple[int, int]:
    """Indices into the calibration: several users or one, and the kind of feedback."""
    quantizer = link.feedback.quantizer
    kind = quantizer if quantizer in ("perfect", "none") else "quantised"
    return int(link.num_users > 1), KINDS.index(kind if known else "none")


def terms_of(predicted_sinr_db: Array, links: Sequence[LinkLike]) -> Array:
    """What the promise's error is a linear function of: ``[batch, NUM_TERMS]``.

    Powers of the promise p and the SNR s (in 10 dB), and the bits b of a report: 1, p, s, p², ps, s², b, bp, bs.
    """
    promised = shannon_snr_db(predicted_sinr_db).clip(*SNR_DB_SEEN) / 10
    snr = np.array([link.snr_db for link in links]).clip(*SNR_DB_SEEN) / 10
    bits = np.log2(np.array([max(link.feedback.bits, 1) for link in links], dtype=float)) - 6.0
    one = np.ones_like(snr)
    return np.stack(
        [
            one,
            promised,
            snr,
            promised**2,
            promised * snr,
            snr**2,
            bits,
            bits * promised,
            bits * snr,
        ],
        axis=1,
    )


def shannon_snr_db(sinr_db: Array) -> Array:
    """The SNR of equal symbols that have the same mean capacity: ``[batch, k]`` → ``[batch]``, dB."""
    capacity = np.log2(1 + db_to_lin(sinr_db)).mean(1)
    # a floor, so that a dead link has a logarithm
    equal: Array = lin_to_db(np.maximum(2**capacity - 1, 1e-4))
    return equal


def effective_snr_db(sinr_db: Array, bits_per_symbol: int) -> Array:
    """The SNR of equal QAM symbols that carry the same mean mutual information: ``[batch, k]`` → ``[batch]``, dB."""
    information = bicm_information(bits_per_symbol)
    mean = np.interp(sinr_db, GRID_DB, information).mean(1)
    equal: Array = np.interp(mean, information, GRID_DB)
    return equal


@lru_cache(maxsize=8)
def bicm_information(bits_per_symbol: int) -> Array:
    r"""Mutual information of bit-interleaved coded QAM on the grid −30, −29.5, … 50 dB: bits a symbol.

    :math:`I = \sum_i 1 - E\big[\log_2(1 + e^{-(2 b_i - 1) L_i})\big]` (Caire et al., IEEE Trans. Inf. Theory 44(3),
    1998) of one of the two equal PAM dimensions, by integration over the received value.
    """
    points = constellation(bits_per_symbol).numpy().astype(np.complex128)
    # Gray QAM is two PAMs: even bits of a label select the real part (TS 38.211 clause 5.1).
    half = bits_per_symbol // 2
    numbers = np.arange(len(points))
    labels = (numbers[:, None] >> np.arange(bits_per_symbol)[::-1]) & 1
    rows = np.flatnonzero((labels[:, 1::2] == 0).all(1))
    pam, bits = points[rows].real, labels[rows, ::2]
    found = []
    for snr_db in GRID_DB:
        deviation = np.sqrt(db_to_lin(-snr_db) / 2)
        reach = np.linspace(-6, 6, 241) * deviation
        y = (pam[:, None] + reach).ravel()
        weight = np.exp(-((reach / deviation) ** 2) / 2)
        weight = np.tile(weight / weight.sum() / len(pam), len(pam))
        exponent = -((y[:, None] - pam) ** 2) / (2 * deviation**2)
        likelihood = np.exp(exponent - exponent.max(1, keepdims=True))
        total = likelihood.sum(1)
        sent = np.repeat(np.arange(len(pam)), len(reach))
        lost = 0.0
        for i in range(half):
            same = (likelihood * (bits[:, i] == bits[sent, i][:, None])).sum(1)
            lost += float((weight * np.log2(total / same)).sum())
        found.append(2 * (half - lost))
    information: Array = np.maximum.accumulate(np.array(found))
    # strictly rising, so that it can be inverted
    return information + np.arange(len(information)) * 1e-9


def load_calibration(weights: Weights = SHIPPED) -> Calibration:
    """The measured figures. Raises NotFound, with the command that makes them, when they are missing."""
    return weights.load(
        "link-adaptation.json", _read, made_by="python -m tools.calibrate_link_adaptation"
    )


def _read(path: Path) -> Calibration:
    return Calibration.from_dict(json.loads(path.read_text()))
