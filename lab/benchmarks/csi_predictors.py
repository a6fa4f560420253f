"""How long a channel generator takes: ``python -m lab.benchmarks.csi_predictors`` (seconds, prints a table).

A batch is 16 predictions of cells of 4 users each, as the knowledge base meets it; the median of 20 calls after 3, by
the clock and as processor time of all threads, which what else runs on the machine changes less.
"""

from __future__ import annotations

import statistics
import time
from typing import Annotated, Final

import torch
import typer
from rich.console import Console
from rich.table import Table

from kb_service.generators import Antennas, generator_names, load_generator, trained_for
from lab.benchmarks.timing import threads as torch_threads
from lab.training.csi_history_dataset import GROUP_USERS, validation_histories
from semlink.settings import Settings

PREDICTIONS: Final = 16
CALLS: Final = 20
WARM_UP: Final = 3


def milliseconds(name: str, threads: int) -> tuple[float, float]:
    """Median time of a batch on so many threads [ms]: by the clock, and of the processors."""
    histories = validation_histories().rows(torch.arange(PREDICTIONS * GROUP_USERS))
    present = torch.ones(histories.age_slots.shape, dtype=torch.bool)
    generator = load_generator(name, weights=Settings().weights)
    times, busy = [], []
    with torch_threads(threads), torch.inference_mode():
        for _ in range(WARM_UP + CALLS):
            started, begun = time.perf_counter(), time.process_time()
            generator(histories.history, present, histories.age_slots, histories.context)
            times.append(1e3 * (time.perf_counter() - started))
            busy.append(1e3 * (time.process_time() - begun))
    return statistics.median(times[WARM_UP:]), statistics.median(busy[WARM_UP:])


def main(threads: Annotated[int, typer.Option(help="of torch")] = 2) -> None:
    """Print the time of every trained generator."""
    table = Table(
        "generator", f"ms a batch of {PREDICTIONS}", "ms a prediction", "processor ms a prediction"
    )
    for name in generator_names():
        if trained_for(name, Antennas(), Settings().weights):
            took, busy = milliseconds(name, threads)
            one, busy_one = took / PREDICTIONS, busy / PREDICTIONS
            table.add_row(name, f"{took:.1f}", f"{one:.2f}", f"{busy_one:.2f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
