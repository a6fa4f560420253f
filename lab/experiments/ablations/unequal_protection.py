"""What unequal protection is worth: ``python -m lab.experiments.ablations.unequal_protection``.

Messages of four components, captions of the validation split as stand-ins for a global feature and three prototypes,
over frames of the codec's bank of link realisations: the cosine at which each component arrives, beside a message whose
components share symbols and power equally.
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
from lab.training.codec import LINK_DATASET, LinkTensors, embedded
from lab.training.data import split_data
from lab.training.link_dataset import cached_link_dataset
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.semantics.codec import Codec, load_codec
from semlink.semantics.message import component_symbols, decode_message, encode_message

COMPONENTS: Final = 4
SYMBOLS: Final = (32, 64, 128)
MESSAGES: Final = 1000
STEP_DB: Final = 10.0
SNRS_DB: Final = (-10.0, 0.0, 10.0, 20.0)


@torch.inference_mode()
def cosines(
    codec: Codec, components: torch.Tensor, bank: LinkTensors, rows: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cosine of each component, protected unequally (0 for one that is not sent) and equally: ``[components]``."""
    snr_db, variance, error = (
        part[rows, :k] for part in (bank.predicted_snr_db, bank.noise_variance, bank.error)
    )
    sent = encode_message(codec, components, snr_db, k)
    received = decode_message(codec, sent + error, variance, COMPONENTS)
    unequal = torch.zeros(COMPONENTS)
    unequal[: received.shape[1]] = (received * components[:, : received.shape[1]]).sum(-1).mean(0)
    share = k // COMPONENTS
    equal = []
    for place in range(COMPONENTS):
        own = slice(place * share, (place + 1) * share)
        alone = codec.encode(components[:, place], snr_db[:, own], share)
        decoded = codec.decode(alone + error[:, own], variance[:, own])
        equal.append((decoded * components[:, place]).sum(-1).mean())
    return unequal, torch.stack(equal)


def run(task: str, seeds: int, console: Console) -> Report:
    """Measure ``task``'s codec and print a table."""
    report = Report("protection")
    started = time.monotonic()
    codec = load_codec(task)
    bank = cached_link_dataset(**LINK_DATASET)
    tensors = LinkTensors.from_dataset(bank)
    text = embedded(task, split_data(corpus_named(default_corpus(task)), "val")).text
    snr_db = torch.from_numpy(bank.snr_db)
    table = Table("k", "SNR dB", "split", "unequal: each component", "equal: each component")
    for k in SYMBOLS:
        for level in SNRS_DB:
            near = ((snr_db - level).abs() <= STEP_DB / 2).nonzero()[:, 0]
            found: list[tuple[torch.Tensor, torch.Tensor]] = []
            for seed in range(seeds):
                generator = torch.Generator().manual_seed(seed)
                drawn = torch.randint(len(text), (MESSAGES, COMPONENTS), generator=generator)
                rows = near[torch.randint(len(near), (MESSAGES,), generator=generator)]
                found.append(cosines(codec, text[drawn], tensors, rows, k))
            for place in range(COMPONENTS):
                for at, protection in enumerate(("unequal", "equal")):
                    values = [float(pair[at][place]) for pair in found]
                    report.rows.append(
                        Row(
                            metric="cosine",
                            **over_seeds(values),
                            task=task,
                            split="val",
                            snr_db=level,
                            symbols=k,
                            variant=f"component {place + 1}, {protection}",
                        )
                    )
            means = [torch.stack([pair[at] for pair in found]).mean(0) for at in (0, 1)]
            table.add_row(
                str(k),
                f"{level:g}",
                " ".join(map(str, component_symbols(k, COMPONENTS))),
                *(" ".join(f"{v:.3f}" for v in mean.tolist()) for mean in means),
            )
    console.print(table)
    report.seconds = time.monotonic() - started
    return report


def main(
    task: str = "person",
    seeds: int = 3,
    out: Annotated[Path, typer.Option(help="where the report goes")] = Path("results"),
) -> None:
    """Measure what unequal protection is worth."""
    report = run(task, seeds, Console(width=140))
    report.command = (
        f"python -m lab.experiments.ablations.unequal_protection --task {task} --seeds {seeds}"
    )
    report.write(out, report.experiment)


if __name__ == "__main__":
    typer.run(main)
