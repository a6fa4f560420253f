"""How long a message takes: the codec and the digital baselines, encode and decode."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import torch
from rich.console import Console
from rich.table import Table

from lab.benchmarks.timing import fastest_s, report_of
from lab.evaluation.report import Report, Row
from semlink.decibels import db_to_lin
from semlink.semantics.codec import SYMBOL_COUNTS, load_codec
from semlink.semantics.digital import load_source_coder
from semlink.semantics.gallery import GalleryEmbeddings
from semlink.signal.coding import demodulate, modulate, scheme_of

BATCH: Final = 64
REPEATS: Final = 15
SNR_DB: Final = 10.0
MCS: Final = (0, 3, 8)
BAR_MS: Final = 0.1
"""What the codec may take for one message, both ends together."""


def run(threads: int, console: Console) -> Report:
    """Measure JSCC at every k and the digital codings at k = 64 with ``threads`` threads, and print a table."""
    variant = f"{threads} threads, batch {BATCH}, load {os.getloadavg()[0]:.1f}"
    table = Table("coding", "k", "encode", "decode", "both", title=f"ms a message, {variant}")
    captions = torch.from_numpy(GalleryEmbeddings.load("pedestrians").captions[:BATCH].copy())
    with report_of("bench-codec", threads) as report, torch.inference_mode():
        cells = [(f"jscc k={k}", k, *_jscc(captions, k)) for k in SYMBOL_COUNTS]
        for coding in ("separation", "vq-digital"):
            cells += [(f"{coding} MCS {m}", 64, *_digital(captions, coding, m)) for m in MCS]
        for name, k, encode, decode in cells:
            encode_ms, decode_ms = (1e3 * fastest_s(w, REPEATS) / BATCH for w in (encode, decode))
            figures = (f"{ms:.3f}" for ms in (encode_ms, decode_ms, encode_ms + decode_ms))
            table.add_row(name, str(k), *figures)
            report.rows += [
                Row(metric=metric, mean=ms, symbols=k, method=name, variant=variant)
                for metric, ms in (("encode_ms", encode_ms), ("decode_ms", decode_ms))
            ]
    console.print(table)
    return report


Work = Callable[[], object]


def _jscc(features: torch.Tensor, k: int) -> tuple[Work, Work]:
    codec = load_codec("person")
    snr_db = torch.full((BATCH, k), SNR_DB)
    variance = torch.full((BATCH, k), db_to_lin(-SNR_DB))
    received = codec.encode(features, snr_db, k) + _noise(k) * variance.sqrt()
    return lambda: codec.encode(features, snr_db, k), lambda: codec.decode(received, variance)


def _digital(features: torch.Tensor, coding: str, mcs: int) -> tuple[Work, Work]:
    coder, scheme = load_source_coder("person", coding), scheme_of(mcs, 64)
    variance = torch.full((BATCH, 64), db_to_lin(-SNR_DB))

    def encode() -> torch.Tensor:
        return modulate(coder.encode(features, "text", scheme.payload_bits), scheme)

    received = encode() + _noise(64) * variance.sqrt()

    def decode() -> torch.Tensor:
        payload, _ = demodulate(received, variance, scheme)
        return coder.decode(payload, "text")

    return encode, decode


def _noise(k: int) -> torch.Tensor:
    return torch.randn(BATCH, k, dtype=torch.complex64, generator=torch.Generator().manual_seed(k))
