"""Does water-filling help joint source-channel coding? ``python -m lab.experiments.ablations.water_filling`` (some
minutes, prints a table).

Validation queries over validation links (seeds from 5,000,000 on), 64-bit RVQ reports, k = 64: the same queries, slots
and noise with equal power and with water-filling.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lab.evaluation.bootstrap import paired_difference
from lab.evaluation.local_system import RecordingReceiver, RememberingEncoder, System, build_system
from lab.training.codec import embedded
from lab.training.data import split_data
from semlink.corpora.registry import corpus_named
from semlink.links import POWER_ALLOCATIONS, default_link
from semlink.semantics.metrics import average_precision, ranked_relevance
from semlink.settings import Settings
from semlink.v1 import transmitter_pb2

VALIDATION_LINKS: Final = 5_000_000
NUM_LINKS: Final = 8
NUM_QUERIES: Final = 256
SCENARIOS: Final = ("umi-los", "uma-nlos")
CELLS: Final = ((1, 2), (4, 1), (4, 2))
"""Users and layers of each; 2 antennas a user, 16 ports."""
SNRS_DB: Final = (-10.0, 5.0, 20.0)


class _Vectors(RememberingEncoder):
    """Knows the validation captions."""

    def __init__(self, texts: list[str], vectors: NDArray[np.float32]) -> None:
        super().__init__()
        self._known = {
            ("person", text.strip()): vector for text, vector in zip(texts, vectors, strict=True)
        }


@dataclass(frozen=True, slots=True)
class Queries:
    """Texts with their own vectors, the validation gallery's, and which of its items are right."""

    texts: list[str]
    vectors: NDArray[np.float32]
    gallery: NDArray[np.float32]
    relevant: NDArray[np.bool_]


def draw_queries() -> Queries:
    """A fixed random sample of the validation captions."""
    data = split_data(corpus_named("pedestrians"), "val")
    known = embedded("person", data)
    captions = [caption for item in data.items for caption in item.captions]
    chosen = np.random.default_rng(0).permutation(len(captions))[:NUM_QUERIES]
    whose = known.identity[known.caption_item].numpy()[chosen]
    return Queries(
        [captions[i] for i in chosen],
        known.text.numpy()[chosen],
        known.media.numpy(),
        whose[:, None] == known.identity.numpy()[None],
    )


async def send(
    system: System,
    receiver: RecordingReceiver,
    queries: Queries,
    scenario: str,
    cell: tuple[int, int],
    snr_db: float,
    power_allocation: str,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average precision and true SINR after equalisation [dB] of each query."""
    messages = []
    for i, text in enumerate(queries.texts):
        link = default_link()
        link.scenario, link.snr_db, link.seed = scenario, snr_db, VALIDATION_LINKS + i % NUM_LINKS
        link.num_users, link.num_layers = cell
        link.power_allocation = power_allocation
        messages.append(
            transmitter_pb2.Query(
                id=str(i),
                task="person",
                text=text,
                method="deepsc-mimo",
                top_k=1,
                symbols=64,
                seed=i,
                link_config=link,
            )
        )
    receiver.features.clear()
    answers = (
        await system.transmitter.retrieve(transmitter_pb2.RetrieveRequest(queries=messages))
    ).answers
    ranked = ranked_relevance(np.stack(receiver.features) @ queries.gallery.T, queries.relevant)
    return average_precision(ranked), np.array([a.link.post_eq_snr_db for a in answers])


async def compare(console: Console) -> None:
    """Measure every point and print a table."""
    queries = draw_queries()
    settings = Settings(redis_url="memory://")
    receiver = RecordingReceiver(settings)
    encoder = _Vectors(queries.texts, queries.vectors)
    system = build_system(settings, receiver=receiver, encoder=encoder)
    clusters = np.arange(NUM_QUERIES, dtype=np.int64) % NUM_LINKS
    table = Table(title=f"{NUM_QUERIES} validation queries over {NUM_LINKS} links, equal → poured")
    for name in ("scenario", "users × layers", "SNR dB", "mAP", "difference, 95 %", "SINR dB"):
        table.add_column(name)
    for scenario, cell, snr_db in product(SCENARIOS, CELLS, SNRS_DB):
        (equal, equal_sinr), (poured, poured_sinr) = [
            await send(system, receiver, queries, scenario, cell, snr_db, allocation)
            for allocation in POWER_ALLOCATIONS
        ]
        mean, (low, high) = paired_difference(poured, equal, clusters)
        cells = (
            scenario,
            f"{cell[0]} × {cell[1]}",
            f"{snr_db:g}",
            f"{equal.mean():.3f} → {poured.mean():.3f}",
            f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]",
            f"{equal_sinr.mean():.1f} → {poured_sinr.mean():.1f}",
        )
        console.log(" | ".join(cells))
        table.add_row(*cells)
    await system.close()
    console.print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)
    asyncio.run(compare(Console(width=120)))
