"""How long a CSI report takes: quantise, dequantise and both, for every scheme and number of bits."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Final

import torch
from rich.console import Console
from rich.table import Table

from lab.benchmarks.timing import report_of
from lab.evaluation.report import Report, Row
from lab.training.channel_dataset import drop
from semlink.errors import InvalidField
from semlink.links import Link
from semlink.quantizers import quantizer_specs
from semlink.settings import Settings
from semlink.signal.csi import CsiQuantizer, quantizer_for

BATCH: Final = 256
BITS: Final = (16, 64, 256, 512)
PREDICTIVE_BITS: Final = (16, 64)
GROUP: Final = 24
"""Reports of a group with predictive memory that are timed, one after the other for all users."""
REPEATS: Final = 7
SCENARIO: Final = "umi-los"
SEED: Final = 5_100_000
"""Validation drops that nothing was trained or chosen on."""
BAR_MS: Final = 0.2
"""What quantise and dequantise of one report may take together."""


def measure(quantizer: CsiQuantizer, h: torch.Tensor) -> dict[str, float]:
    """Milliseconds a report to quantise, to dequantise and both, the fastest of ``REPEATS`` after a warm-up."""
    index = torch.arange(len(h))
    payload = quantizer.encode(h, index)
    quantizer.decode(payload, index)
    quantise, dequantise = [], []
    for _ in range(REPEATS):
        started = time.perf_counter()
        payload = quantizer.encode(h, index)
        between = time.perf_counter()
        quantizer.decode(payload, index)
        quantise.append(between - started)
        dequantise.append(time.perf_counter() - between)
    scale = 1e3 / len(h)
    both = min(a + b for a, b in zip(quantise, dequantise, strict=True))
    return _milliseconds(scale * min(quantise), scale * min(dequantise), scale * both)


def measure_group(quantizer: CsiQuantizer, h: torch.Tensor) -> dict[str, float]:
    """As :func:`measure`, per report of a group of ``GROUP`` reports that follow one another, the batch in step."""
    reports = h.unsqueeze(1).expand(-1, GROUP, -1, -1, -1)
    index = torch.arange(GROUP)
    present = torch.ones((len(h), GROUP), dtype=torch.bool)
    started = time.perf_counter()
    payload = quantizer.encode_group(reports, index)
    between = time.perf_counter()
    quantizer.decode_group(payload, present, index)
    ended = time.perf_counter()
    scale = 1e3 / len(h) / GROUP
    # An encoder follows the decoder: its time holds one of the two decodings already.
    times = (between - started, ended - between, ended - started)
    return _milliseconds(*(scale * seconds for seconds in times))


def _milliseconds(quantise: float, dequantise: float, both: float) -> dict[str, float]:
    return {"quantise_ms": quantise, "dequantise_ms": dequantise, "both_ms": both}


def run(threads: int, console: Console) -> Report:
    """Measure every scheme at the default link's antennas with ``threads`` threads, and print a table.

    A number of bits that a scheme does not offer is shown with its error and has no row. The rows' ``variant`` holds
    threads and the machine's load, without which the figures mean little.
    """
    config = Link()
    h = torch.cat([drop(SCENARIO, SEED + i, 16, 2, moments=4) for i in range(2)])[:BATCH]
    load = os.getloadavg()[0]
    variant = f"{threads} threads, batch {BATCH}, load {load:.1f}"
    table = Table(title=f"ms a report, {config.num_tx_ant}×{config.num_rx_ant}, {variant}")
    for column in ("quantiser", "bits", "quantise", "dequantise", "both", f"≤ {BAR_MS}"):
        table.add_column(column, justify="left" if column == "quantiser" else "right")
    specs = quantizer_specs()
    cells = [
        (spec.name, bits, "")
        for spec in specs
        for bits in ((0,) if spec.bound else spec.typical_bits or BITS)
    ]
    cells += [
        (spec.name, bits, "predictive")
        for spec in specs
        if "predictive" in spec.memories
        for bits in PREDICTIVE_BITS
    ]
    with report_of("bench-csi", threads) as report:
        for name, bits, memory in cells:
            config = config.replace(quantizer=name, bits=bits, memory=memory or "none")
            label = f"{name}, {memory}" if memory else name
            try:
                quantizer = quantizer_for(config, Settings().weights)
            except InvalidField as error:
                table.add_row(label, str(bits), "–", "–", "–", error.message[:60])
                continue
            found = (measure_group if quantizer.chained else measure)(quantizer, h)
            named = f"{memory}, {variant}" if memory else variant
            of = Row("", 0.0, quantizer=name, scenario=SCENARIO, bits=quantizer.bits, variant=named)
            report.rows += [replace(of, metric=m, mean=ms) for m, ms in found.items()]
            figures = [f"{value:.3f}" for value in found.values()]
            met = "yes" if found["both_ms"] <= BAR_MS else "no"
            table.add_row(label, str(quantizer.bits), *figures, met)
    console.print(table)
    return report
