"""Global feature or prototypes over the link: ``python -m lab.experiments.ablations.component_allocation``.

Captions of the val split cross flat links of known SNR. At equal k: the whole message for the global feature, scored
by the cosine or by the trained prototype scoring with one component on the query's side; or the message split between
components as :func:`semlink.semantics.message.component_symbols` says. Text→media R@1.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from rich.console import Console
from rich.table import Table

from lab.evaluation.report import Report, Row, over_seeds
from lab.training.build_gallery import components
from lab.training.data import SplitData, split_data
from lab.training.prototypes import score_matrix, two_way
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.decibels import db_to_lin
from semlink.errors import NotFound
from semlink.semantics.codec import Codec, load_codec
from semlink.semantics.encoders import load_heads, load_scorer
from semlink.semantics.message import decode_message, encode_message
from semlink.semantics.prototypes import PrototypeScorer

SYMBOLS: Final = (16, 32, 64, 128)
SNRS_DB: Final = (0.0, 10.0, 20.0)
WAYS: Final = {
    "global": "k symbols for the global feature, cosine",
    "global, prototypes of items": "k symbols for the global feature, prototype scoring",
    "components": "split between components, prototype scoring",
}


@torch.inference_mode()
def sent(
    codec: Codec, messages: torch.Tensor, k: int, snr_db: float, generator: torch.Generator
) -> torch.Tensor:
    """Components ``[n, m, 256]`` over a flat link at ``snr_db``: those that came, ``[n, num_sent, 256]``."""
    variance = db_to_lin(-snr_db)
    shape = (len(messages), k)
    noise = torch.randn(shape, dtype=torch.complex64, generator=generator) * variance**0.5
    symbols = encode_message(codec, messages, torch.full(shape, snr_db), k)
    return decode_message(codec, symbols + noise, torch.full(shape, variance), messages.shape[1])


def r_at_1(
    scorer: PrototypeScorer | None, text: torch.Tensor, media: torch.Tensor, data: SplitData
) -> float:
    """Text→media R@1 of components."""
    return two_way(score_matrix(scorer, text, media), data)["text_to_media"]["r_at_1"]


def run(task: str, seeds: int, console: Console) -> Report:
    """Measure and print. Raises NotFound where the task's heads make no prototypes."""
    started = time.monotonic()
    report = Report("components")
    scorer = load_scorer(task)
    if scorer is None:
        raise NotFound(f"the heads of task {task!r} make no prototypes", field="task")
    heads, codec = load_heads(task), load_codec(task)
    data = split_data(corpus_named(default_corpus(task)), "val")
    text = torch.from_numpy(components(heads["text"], data.text))
    media = torch.from_numpy(components(heads["media"], data.media))
    ideal = {
        "global": r_at_1(None, text, media, data),
        "prototypes": r_at_1(scorer, text, media, data),
    }
    console.print(f"no channel: {ideal}")
    table = Table("k", "SNR dB", *WAYS.values())
    for k in SYMBOLS:
        for snr_db in SNRS_DB:
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            for seed in range(seeds):
                generator = torch.Generator().manual_seed(seed)
                alone = sent(codec, text[:, :1], k, snr_db, generator)
                several = sent(codec, text, k, snr_db, generator)
                found["global"].append(r_at_1(None, alone, media, data))
                found["global, prototypes of items"].append(r_at_1(scorer, alone, media, data))
                found["components"].append(r_at_1(scorer, several, media, data))
            for way, values in found.items():
                report.rows.append(
                    Row(
                        metric="r_at_1",
                        **over_seeds(values),
                        task=task,
                        split="val",
                        snr_db=snr_db,
                        symbols=k,
                        variant=way,
                    )
                )
            shown = (f"{sum(v) / len(v):.3f}" for v in found.values())
            table.add_row(str(k), f"{snr_db:g}", *shown)
    console.print(table)
    report.seconds = time.monotonic() - started
    return report


def main(
    task: str = "audio",
    seeds: int = 3,
    out: Annotated[Path, typer.Option(help="where the report goes")] = Path("results"),
) -> None:
    """Measure which components are worth their symbols."""
    report = run(task, seeds, Console(width=140))
    report.command = (
        f"python -m lab.experiments.ablations.component_allocation --task {task} --seeds {seeds}"
    )
    report.write(out, report.experiment)


if __name__ == "__main__":
    typer.run(main)
