"""Measure what link adaptation goes by: ``python -m tools.calibrate_link_adaptation``; writes
``weights/link-adaptation.json``.

Thresholds: for every k and MCS, blocks over an AWGN channel of SNRs around the expected threshold, a probit fitted to
which of them arrived. The promise's error: frames of training links (:mod:`lab.training.link_dataset`), what their
predicted SINR promised against the error that the equalised symbols had.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_ndtr

from lab.training.codec import LINK_DATASET
from lab.training.link_dataset import (
    TRAINING_LINK_SEEDS,
    LinkDataset,
    cached_link_dataset,
    training_configs,
)
from semlink.decibels import db_to_lin, lin_to_db
from semlink.links import Link
from semlink.semantics.codec import SYMBOL_COUNTS
from semlink.settings import Settings
from semlink.signal.coding import (
    MCS_TABLE,
    Scheme,
    demodulate,
    modulate,
    scheme_of,
    usable_mcs,
)
from semlink.signal.link_adaptation import (
    GRID_DB,
    KINDS,
    NUM_TERMS,
    Calibration,
    bicm_information,
    group_of,
    load_calibration,
    shannon_snr_db,
    terms_of,
)

Array = NDArray[np.float64]
SPAN_DB = (-2.5, 5.0)
"""Of the simulated SNRs around the SNR at which the mutual information is the block's rate."""


def run(
    *, blocks: int = 1000, seed: int = 0, out: Path | None = None, keep_thresholds: bool = False
) -> dict[str, Any]:
    """Measure and write ``out/link-adaptation.json`` (default: the weights directory); returns its content.

    ``keep_thresholds``: take the thresholds that are there (they know nothing of the link), fit the promise anew.
    """
    started = time.monotonic()
    if keep_thresholds:
        known = load_calibration(Settings().weights)
        threshold, width = known.threshold_db, known.width_db
    else:
        threshold, width = thresholds(blocks, seed)
    dataset = cached_link_dataset(**LINK_DATASET)
    shift, log_spread = fit_promise(dataset, dataset_links())
    content = {
        "command": "python -m tools.calibrate_link_adaptation",
        "blocks": blocks,
        "seed": seed,
        "thresholds": "kept from an earlier run" if keep_thresholds else "measured by this run",
        "bank": {"frames": len(dataset.snr_db), **LINK_DATASET},
        **Calibration(threshold, width, shift, log_spread).as_dict(),
        "seconds": round(time.monotonic() - started),
    }
    path = (out or Settings().weights_dir) / "link-adaptation.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return content


def thresholds(blocks: int, seed: int) -> tuple[dict[int, Array], dict[int, Array]]:
    """Threshold and width (dB) for every k and MCS; NaN where the MCS carries nothing."""
    generator = torch.Generator().manual_seed(seed)
    threshold = {k: np.full(len(MCS_TABLE), np.nan) for k in SYMBOL_COUNTS}
    width = {k: np.full(len(MCS_TABLE), np.nan) for k in SYMBOL_COUNTS}
    for k in SYMBOL_COUNTS:
        for mcs in usable_mcs(k):
            snr_db, arrived = simulate(scheme_of(mcs, k), blocks, generator)
            threshold[k][mcs], width[k][mcs] = fit_probit(snr_db, arrived)
            print(
                f"k {k} MCS {mcs}: {threshold[k][mcs]:.2f} dB, width {width[k][mcs]:.2f} dB",
                flush=True,
            )
    return threshold, width


def dataset_links() -> list[Link]:
    """The link of each frame of the dataset, without its SNR."""
    configs = training_configs(LINK_DATASET["seeds"], TRAINING_LINK_SEEDS)
    return list(
        itertools.chain.from_iterable([c] * LINK_DATASET["frames_per_link"] for c in configs)
    )


@torch.inference_mode()
def simulate(
    scheme: Scheme, blocks: int, generator: torch.Generator
) -> tuple[Array, NDArray[np.bool_]]:
    """Random payloads over AWGN: SNR of each block (dB) and whether its CRC held and its bits were right."""
    rate = scheme.block_bits / scheme.num_symbols
    centre = float(np.interp(rate, bicm_information(scheme.bits_per_symbol), GRID_DB))
    snr_db = centre + torch.empty(blocks).uniform_(*SPAN_DB, generator=generator)
    payload = torch.randint(0, 2, (blocks, scheme.payload_bits), generator=generator)
    sent = modulate(payload.to(torch.uint8), scheme)
    variance = (db_to_lin(-snr_db))[:, None].expand(-1, scheme.num_symbols)
    noise = torch.randn(sent.shape, dtype=torch.complex64, generator=generator)
    found, passed = demodulate(sent + noise * variance.sqrt(), variance.contiguous(), scheme)
    right = passed & (found == payload).all(1)
    return snr_db.double().numpy(), right.numpy()


def fit_probit(snr_db: Array, arrived: NDArray[np.bool_]) -> tuple[float, float]:
    """Threshold t and width w of ``P = Φ((SNR − t) / w)``, by maximum likelihood."""
    sign = np.where(arrived, 1.0, -1.0)

    def loss(x: Array) -> float:
        return -float(log_ndtr(sign * (snr_db - x[0]) * np.exp(-x[1])).sum())

    start = np.array([snr_db.max() - arrived.mean() * np.ptp(snr_db), 0.0])
    best = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-3})
    return float(best.x[0]), float(np.exp(best.x[1]))


def fit_promise(dataset: LinkDataset, links: Sequence[Link]) -> tuple[Array, Array]:
    """Coefficients of the mean and the log of the spread of the promise's error, ``[2, len(KINDS), NUM_TERMS]``."""
    with_snr = []
    for link, snr_db in zip(links, dataset.snr_db.tolist(), strict=True):
        one = link.replace(snr_db=snr_db)
        with_snr.append(one)
    promised = dataset.predicted_snr_db.astype(np.float64)
    variance = dataset.noise_variance.astype(np.float64)
    # The receiver's own figure is too high where its pilots are noisy: what counts is the error that was made.
    excess = (np.abs(dataset.error) ** 2 / variance).mean(1, keepdims=True)
    arrived = -lin_to_db(variance * excess)
    error: NDArray[Any] = shannon_snr_db(arrived) - shannon_snr_db(promised)
    terms = terms_of(promised, with_snr)
    group = np.array([group_of(link, known=True) for link in with_snr])
    shift, log_spread = (np.zeros((2, len(KINDS), NUM_TERMS)) for _ in range(2))
    for users, kind in itertools.product(range(2), range(len(KINDS))):
        rows = (group == (users, kind)).all(1)
        used = slice(0, NUM_TERMS if KINDS[kind] == "quantised" else NUM_TERMS - 3)
        z = terms[rows, used]
        shift[users, kind, used] = _ridge(z, error[rows])
        log_spread[users, kind, used] = _fit_spread(z, error[rows] - z @ shift[users, kind, used])
    return shift, log_spread


def _fit_spread(z: Array, left: Array) -> Array:
    """Coefficients c of log σ = z c for errors that are N(0, σ²), by maximum likelihood."""

    def loss(c: Array) -> tuple[float, Array]:
        log_spread = z @ c
        scaled = left**2 * np.exp(-2 * log_spread)
        value = (log_spread + scaled / 2).mean() + 1e-3 * (c**2).sum()
        return float(value), z.T @ (1 - scaled) / len(z) + 2e-3 * c

    start = np.zeros(z.shape[1])
    start[0] = np.log(left.std())
    found: Array = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return found


def _ridge(z: Array, target: Array) -> Array:
    found: NDArray[Any] = np.linalg.solve(
        z.T @ z + 1e-3 * len(z) * np.eye(z.shape[1]), z.T @ target
    )
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep-thresholds", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run(
        blocks=arguments.blocks,
        seed=arguments.seed,
        keep_thresholds=arguments.keep_thresholds,
    )
