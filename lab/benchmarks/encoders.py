"""`semlink bench encoders`: what encoding costs on each runtime, and whether its features are those of the reference.

The runtime is chosen once a process, so each is measured in one of its own, in turns; the reference is torch in f32.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file, save_file

from lab.evaluation.bootstrap import interval
from lab.evaluation.report import Report, Row
from semlink import runtime
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.progress import track
from semlink.semantics.encoders import semantic_encoder
from semlink.tasks import BUILT_IN

REFERENCE: Final = "torch f32"
MIN_COSINE: Final = 0.995
"""Of an item's feature to the reference's, for every item; a network below it stays in f32."""
MAX_RECALL_LOSS: Final = 0.005
"""Of R@1, against the reference."""
TIMED: Final = 64
"""Items of each task that are timed: one by one, then in one batch."""


def variants() -> tuple[str, ...]:
    """Runtimes and precisions that this machine has, the reference first."""
    bf16 = ("openvino bf16",) if runtime.computes_bf16() else ()
    return (REFERENCE, "openvino f32", *bf16)


def run(folder: Path, *, rounds: int, items: int, console: Console) -> Report:
    """Measure every variant in turns and compare its features with the reference's.

    :param folder: where the features of the first round are kept while it runs.
    :param rounds: of timing, each of all variants.
    :param items: of each gallery whose features are compared; 0 compares none.
    """
    report = Report("bench-encoders")
    started = time.monotonic()
    costs: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants()}
    for turn in track(range(rounds), "rounds"):
        for variant in variants():
            costs[variant].append(_measured(variant, folder, items if turn == 0 else 0))
    ratios = {
        variant: {
            what: [old[what] / new[what] for old, new in zip(costs[REFERENCE], own, strict=True)]
            for what in own[0]
        }
        for variant, own in costs.items()
    }
    for variant, own in costs.items():
        for what in own[0]:
            samples = np.asarray(ratios[variant][what])
            report.rows += [
                Row(
                    "cpu_ms",
                    float(np.median([cost[what] for cost in own])),
                    variant=f"{variant}, {what}",
                ),
                Row(
                    "times_as_fast",
                    float(np.median(samples)),
                    ci95=_median_interval(samples),
                    variant=f"{variant}, {what}",
                ),
            ]
    if items:
        report.rows += _compared(folder)
    report.seconds = time.monotonic() - started
    _print(report, console)
    return report


def _measured(variant: str, folder: Path, items: int) -> dict[str, float]:
    command = [sys.executable, "-m", __name__, variant, str(folder), str(items)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    costs: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return costs


def _median_interval(samples: NDArray[np.float64]) -> tuple[float, float] | None:
    """Percentile bootstrap of the median of paired ratios; None for fewer than three."""
    if len(samples) < 3:
        return None
    drawn = np.random.default_rng(0).integers(0, len(samples), (4000, len(samples)))
    return interval(np.median(samples[drawn], axis=1))


def _compared(folder: Path) -> list[Row]:
    rows = []
    reference = load_file(folder / f"{REFERENCE}.safetensors")
    for variant in variants()[1:]:
        features = load_file(folder / f"{variant}.safetensors")
        for task in BUILT_IN:
            for side in ("text", "media"):
                cosines = np.sum(features[f"{task} {side}"] * reference[f"{task} {side}"], axis=-1)
                rows.append(
                    Row("min_cosine", float(cosines.min()), task=task, variant=f"{variant}, {side}")
                )
            for name, part in ((variant, features), (REFERENCE, reference)):
                found = part[f"{task} text"] @ part[f"{task} media"].T
                right = found.argmax(1) == reference[f"{task} owner"]
                rows.append(Row("recall@1", float(right.mean()), task=task, variant=name))
    return rows


def _print(report: Report, console: Console) -> None:
    table = Table(title="encoding: CPU-ms an item, and times as fast as torch f32")
    for column in ("runtime, what", "CPU-ms", "times as fast", "95 % interval"):
        table.add_column(column, justify="left" if column.startswith("runtime") else "right")
    ratios = {row.variant: row for row in report.rows if row.metric == "times_as_fast"}
    for row in report.rows:
        if row.metric == "cpu_ms":
            ratio = ratios[row.variant]
            low, high = ratio.ci95 or (float("nan"), float("nan"))
            table.add_row(
                row.variant, f"{row.mean:.2f}", f"{ratio.mean:.2f}", f"{low:.2f}…{high:.2f}"
            )
    console.print(table)
    found = {
        row.task: row.mean
        for row in report.rows
        if row.metric == "recall@1" and row.variant == REFERENCE
    }
    for row in report.rows:
        if row.metric == "min_cosine":
            least = MIN_COSINE
        elif row.metric == "recall@1":
            least = found[row.task] - MAX_RECALL_LOSS
        else:
            continue
        met = "" if row.mean >= least else f"  missed: at least {least:.4f}"
        console.print(f"{row.task:7} {row.metric:10} {row.mean:.4f}  {row.variant}{met}")


# --- in a process of its own -------------------------------------------------------------------


def _work(variant: str, folder: Path, items: int) -> None:
    import torch

    torch.set_num_threads(1)
    name, precision = variant.split()
    runtime.use(name, precision)  # type: ignore[arg-type]
    costs = {}
    for task in BUILT_IN:
        encoder = semantic_encoder(task)
        texts, media = _inputs(task, TIMED)
        # The three tasks read texts with the same network; sounds and pictures have their own.
        sides: tuple[tuple[str, Callable[[list[Any]], object], list[Any]], ...] = (
            ("text", encoder.text, texts),
            ("media", encoder.media, media),
        )
        for side, encode, contents in sides:
            one_by_one = partial(_one_by_one, encode, contents)
            costs[f"{task} {side}, alone"] = _cost(one_by_one, len(contents))
            costs[f"{task} {side}, batched"] = _cost(partial(encode, contents), len(contents))
    if items:
        save_file(_all_features(items), folder / f"{variant}.safetensors")
    print(json.dumps(costs))


def _cost(call: Callable[[], object], count: int) -> float:
    """CPU-ms an item of the whole process, after a warm-up."""
    call()
    started = time.process_time()
    call()
    return (time.process_time() - started) / count * 1e3


def _one_by_one(encode: Callable[[list[Any]], object], contents: Sequence[Any]) -> None:
    for content in contents:
        encode([content])


def _inputs(task: str, count: int) -> tuple[list[str], list[NDArray[Any]]]:
    """Captions and media of the first items of the test split, a caption an item."""
    corpus = corpus_named(default_corpus(task))
    items = corpus.items("test")[:count]
    texts = [item.captions[0] for item in items]
    return texts, [corpus.content(item.item_id) for item in items]


def _all_features(items: int) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for task in BUILT_IN:
        corpus, encoder = corpus_named(default_corpus(task)), semantic_encoder(task)
        chosen = corpus.items("test")[:items]
        texts = [caption for item in chosen for caption in item.captions]
        _, media = _inputs(task, items)
        found[f"{task} text"] = encoder.text(texts)
        found[f"{task} media"] = encoder.media(media)
        found[f"{task} owner"] = np.repeat(
            np.arange(len(chosen)), [len(item.captions) for item in chosen]
        )
    return found


if __name__ == "__main__":
    _work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
