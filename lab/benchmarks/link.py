"""How fast the link is: blocks against Sionna once per query, applying the channel against its bare product,
reports."""

from __future__ import annotations

import math

import torch
from rich.console import Console
from rich.table import Table

from channel_service.fading import (
    ChannelKey,
    ChannelWindows,
    _cdl_channel,
    _drop_users,
    _model_of,
    _sionna_seed,
    _system_level_model,
    subband_frequencies_hz,
)
from channel_service.mimo_channel import apply_channel, draw, transmit
from channel_service.reports import Reports
from lab.benchmarks.timing import fastest_s
from semlink.grid import BLOCK_SLOTS
from semlink.links import Link
from semlink.signal.csi import quantizer_for

SCENARIOS = ("umi-los", "uma-nlos", "cdl-c", "rayleigh")
BATCH, NUM_ELEMENTS = 64, 128


def _link(scenario: str) -> Link:
    return Link(scenario=scenario)


def sionna_slot(config: Link, num_slots: int) -> torch.Tensor:
    """What Sionna itself computes once per query: its rays summed for ``num_slots``, then the subbands."""
    key = ChannelKey.from_config(config)
    with _sionna_seed(key.draw_seed()), torch.no_grad():
        if key.scenario.startswith("cdl"):
            a, tau = _cdl_channel(key)(key.num_users, num_slots, 1e3)
            a, tau = a[:, 0, :, 0], tau[:, 0, 0]
        else:
            channel = _system_level_model(*_model_of(key))
            _drop_users(channel, key)
            a, tau = channel(num_slots, 1e3)
            a, tau = a[0, :, :, 0], tau[0, :, 0]
    turns = torch.exp(-2j * math.pi * tau[:, :, None] * subband_frequencies_hz())
    return torch.einsum("urapn,ups->unsra", a, turns)


def _block(config: Link) -> object:
    return ChannelWindows().slots(config, range(BLOCK_SLOTS))


def _blocks(scenario: str) -> dict[str, object]:
    """One block against as many Sionna calls as it has queries' slots, and against one whole Sionna call."""
    config = _link(scenario)
    ours = fastest_s(lambda: _block(config))
    windows = ChannelWindows()
    slots = range(128, BLOCK_SLOTS)
    look_up = fastest_s(lambda: [windows.slot(config, slot) for slot in slots]) / len(slots)
    row: dict[str, object] = {
        "what": f"window of 1024 slots, 4 users × 2×16, {scenario}",
        "windows_per_s": 1 / ours,
        "window_ms": 1e3 * ours,
        "slot_look_up_us": 1e6 * look_up,
    }
    if scenario != "rayleigh":
        per_query = fastest_s(lambda: sionna_slot(config, 1))
        # a query takes its share of a block (896 slots, each granted once) and a look-up
        share = ours / len(slots) + look_up
        row |= {
            "sionna_per_query_ms": 1e3 * per_query,
            "ours_per_query_ms": 1e3 * share,
            "times_faster": per_query / share,
            "window_over_one_sionna_call": ours / per_query,
        }
    return row


def _whole_block(scenario: str) -> dict[str, object]:
    config = _link(scenario)
    ours = fastest_s(lambda: _block(config), 2)
    stock = fastest_s(lambda: sionna_slot(config, BLOCK_SLOTS), 1)
    return {
        "what": f"the same block by Sionna alone, {scenario}",
        "sionna_window_ms": 1e3 * stock,
        "window_ms": 1e3 * ours,
        "times_faster": stock / ours,
    }


def _air() -> list[dict[str, object]]:
    """Applying the channel against the bare einsum over the same numbers."""
    config = Link()
    generator = torch.Generator().manual_seed(0)

    def gaussian(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.complex64, generator=generator)

    h, w, u = gaussian(BATCH, 8, 2, 16), gaussian(BATCH, 8, 16, 4), gaussian(BATCH, 4, NUM_ELEMENTS)
    grid = u.view(BATCH, 4, -1, 8)

    def bare() -> torch.Tensor:
        return torch.einsum("bsrt,bstk,bkis->bris", h, w, grid)

    applied = apply_channel(h, w, u)[0]
    torch.testing.assert_close(
        applied, bare().reshape(BATCH, 2, NUM_ELEMENTS), rtol=1e-3, atol=1e-3
    )
    snr_db = torch.full((BATCH,), 10.0, dtype=torch.float64)

    def whole() -> object:
        sizes = {"num_rx_ant": 2, "num_layers": 1, "num_streams": 4, "num_elements": NUM_ELEMENTS}
        draws = [draw(config.seed, slot, 0, **sizes) for slot in range(BATCH)]
        return transmit(h, w, u[:, :1], snr_db, draws)

    einsum_s = fastest_s(bare, 200)
    apply_s, whole_s = fastest_s(lambda: apply_channel(h, w, u), 200), fastest_s(whole, 20)
    size = f"{BATCH} frames of {NUM_ELEMENTS} elements"
    return [
        {
            "what": f"channel applied to {size}",
            "einsum_ms": 1e3 * einsum_s,
            "apply_ms": 1e3 * apply_s,
            "over_einsum": apply_s / einsum_s,
        },
        {
            "what": f"the same with pilots, noise draws and true SINR, {size}",
            "whole_ms": 1e3 * whole_s,
            "frames_per_s": BATCH / whole_s,
        },
    ]


def _reports(quantizer: str) -> dict[str, object]:
    """Estimating and quantising all reports of a block, as the first query of a configuration pays it."""
    config = Link().replace(quantizer=quantizer)
    windows = ChannelWindows()
    windows.prepare([(config, range(BLOCK_SLOTS))])
    slots = range(0, BLOCK_SLOTS, config.feedback.report_period_slots)
    number = len(slots) * config.num_users
    first = fastest_s(lambda: Reports(windows).made_in(config, slots), 3)
    warm = Reports(windows)
    again = fastest_s(lambda: warm.made_in(config, slots), 3)
    return {
        "what": f"{number} reports of a block, {quantizer} {quantizer_for(config).bits} bit",
        "reports_per_s": number / first,
        "cached_reports_per_s": number / again,
        "window_ms": 1e3 * first,
    }


def bench_link() -> list[dict[str, object]]:
    """All figures of the link, one dict a row; every row has ``what``, the others numbers."""
    rows = [_blocks(scenario) for scenario in SCENARIOS]
    rows.append(_whole_block("umi-los"))
    rows += _air()
    rows += [_reports(quantizer) for quantizer in ("rvq", "scalar")]
    return rows


def run(console: Console | None = None) -> list[dict[str, object]]:
    """Measure and print."""
    rows = bench_link()
    table = Table(title=f"The link, {torch.get_num_threads()} thread(s)")
    table.add_column("what")
    table.add_column("figures")
    for row in rows:
        figures = "\n".join(
            f"{name} {value:.4g}" for name, value in row.items() if isinstance(value, float)
        )
        table.add_row(str(row["what"]), figures)
    (console or Console()).print(table)
    return rows


if __name__ == "__main__":
    run()
