"""Retrieval against SNR: what quantised feedback costs, from no CSI to perfect CSI, with the ideal link on top."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from lab.results import Report, Row, over_seeds, pick
from lab.system import RecordingReceiver, RememberingEncoder, System, build_system
from semlink.corpora.corpus import Item
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.links import default_link
from semlink.semantics.gallery import GalleryEmbeddings
from semlink.semantics.metrics import retrieval_metrics
from semlink.settings import Settings
from semlink.v1 import transmitter_pb2

SNRS_DB = (-15.0, -10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0, 25.0)
SYMBOLS = 64
BATCH = 250
METRICS = ("r_at_1", "r_at_10", "map")
FIRST_LINK_SEED = 10_000
"""Links of this experiment; those that trained the codec start at another million."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of the plot."""

    label: str
    method: str
    quantizer: str
    bits: int


CURVES = (
    Curve("ideal link", "ideal", "none", 0),
    Curve("DeepSC-MIMO, perfect CSI", "deepsc-mimo", "perfect", 0),
    Curve("DeepSC-MIMO, 64-bit feedback", "deepsc-mimo", "rvq", 64),
    Curve("DeepSC-MIMO, no feedback", "deepsc-mimo", "none", 0),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is swept; every value can be given on the command line."""

    task: str
    scenario: str = "umi-los"
    speed_kmh: float = 3.0
    num_users: int = 4
    snrs_db: Sequence[float] = SNRS_DB
    seeds: int = 3
    queries: int = 1000
    links: int = 20
    """Drops per seed; queries are dealt out to them in turn."""


@dataclass(frozen=True, slots=True)
class _Queries:
    """A seed's queries: texts, the gallery's vectors, and which gallery items are right, ``[queries, items]``."""

    texts: list[str]
    gallery: NDArray[np.float32]
    relevant: NDArray[np.bool_]


def _queries(plan: Plan, seed: int) -> _Queries:
    """A random sample of the test captions, drawn anew for each seed."""
    corpus = corpus_named(default_corpus(plan.task))
    items: Sequence[Item] = corpus.items("test")
    embeddings = GalleryEmbeddings.load(corpus.info.name)
    by_id = {item.item_id: item for item in items}
    gallery_identities = np.array([by_id[i].identity for i in embeddings.item_ids])
    captions = [(item, caption) for item in items for caption in item.captions]
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(captions))[: plan.queries]
    identities = np.array([captions[i][0].identity for i in chosen])
    return _Queries(
        texts=[captions[i][1] for i in chosen],
        gallery=np.asarray(embeddings.items, dtype=np.float32),
        relevant=identities[:, None] == gallery_identities[None, :],
    )


def _message(
    plan: Plan, curve: Curve, snr_db: float, seed: int, number: int, text: str
) -> transmitter_pb2.Query:
    config = default_link()
    config.scenario, config.snr_db = plan.scenario, snr_db
    config.speed_mps, config.num_users = plan.speed_kmh / 3.6, plan.num_users
    config.feedback.quantizer, config.feedback.bits = curve.quantizer, curve.bits
    config.seed = FIRST_LINK_SEED + 1000 * seed + number % plan.links
    return transmitter_pb2.Query(
        id=str(number),
        task=plan.task,
        text=text,
        method=curve.method,
        top_k=1,
        symbols=SYMBOLS,
        seed=number,
        link_config=config,
    )


async def _measure(
    system: System,
    receiver: RecordingReceiver,
    plan: Plan,
    curve: Curve,
    snr_db: float,
    seed: int,
    queries: _Queries,
) -> dict[str, float]:
    """Send every query of the seed at one SNR and rank the whole gallery by what arrived."""
    receiver.features.clear()
    messages = [
        _message(plan, curve, snr_db, seed, i, text) for i, text in enumerate(queries.texts)
    ]
    for start in range(0, len(messages), BATCH):
        request = transmitter_pb2.RetrieveRequest(queries=messages[start : start + BATCH])
        answers = (await system.transmitter.retrieve(request)).answers
        degraded = [d for a in answers for d in a.degraded]
        if degraded:
            raise RuntimeError(f"a degraded answer is no measurement: {degraded[0]}")
    features = np.stack(receiver.features)
    metrics = retrieval_metrics(features @ queries.gallery.T, queries.relevant)
    return {name: float(metrics[name]) for name in METRICS}


def run(plan: Plan, out: Path) -> Report:
    """Measure, write ``out/snr-TASK.{json,csv,png,svg}``. Finished points are kept and not measured again."""
    import json

    started = time.monotonic()
    done_path = out / f"snr-{plan.task}.partial.json"
    out.mkdir(parents=True, exist_ok=True)
    fingerprint = _fingerprint(plan)
    done: dict[str, dict[str, float]] = {}
    if done_path.exists():
        kept = json.loads(done_path.read_text())
        done = kept["points"] if kept["fingerprint"] == fingerprint else {}
    receiver = RecordingReceiver(Settings(redis_url="memory://"))
    system = build_system(receiver=receiver, encoder=RememberingEncoder())
    points = [
        (seed, curve, snr) for seed in range(plan.seeds) for curve in CURVES for snr in plan.snrs_db
    ]

    async def sweep(progress: Progress) -> None:
        bar = progress.add_task(f"snr, {plan.task}", total=len(points))
        queries: dict[int, _Queries] = {}
        for seed, curve, snr_db in points:
            # without a channel every SNR is the same
            at = plan.snrs_db[0] if curve.method == "ideal" else snr_db
            key = f"{seed}|{curve.label}|{at}"
            if key not in done:
                if seed not in queries:
                    queries = {seed: _queries(plan, seed)}
                done[key] = await _measure(system, receiver, plan, curve, at, seed, queries[seed])
                done_path.write_text(json.dumps({"fingerprint": fingerprint, "points": done}))
            progress.advance(bar)
        await system.close()

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        asyncio.run(sweep(progress))
    report = Report(f"snr-{plan.task}", seconds=time.monotonic() - started)
    for curve in CURVES:
        for snr_db in plan.snrs_db:
            at = plan.snrs_db[0] if curve.method == "ideal" else snr_db
            per_seed = [done[f"{seed}|{curve.label}|{at}"] for seed in range(plan.seeds)]
            report.rows += [
                _row(plan, curve, snr_db, metric, [p[metric] for p in per_seed])
                for metric in METRICS
            ]
    report.write(out, report.experiment)
    plot(report.rows, plan, out)
    done_path.unlink(missing_ok=True)
    return report


def _row(plan: Plan, curve: Curve, snr_db: float, metric: str, values: list[float]) -> Row:
    over_link = curve.method != "ideal"
    return Row(
        metric=metric,
        **over_seeds(values),
        method=curve.method,
        task=plan.task,
        corpus=default_corpus(plan.task),
        split="test",
        scenario=plan.scenario if over_link else None,
        speed_kmh=plan.speed_kmh if over_link else None,
        snr_db=snr_db,
        bits=curve.bits if curve.quantizer == "rvq" else None,
        symbols=SYMBOLS if over_link else None,
        quantizer=curve.quantizer if over_link else None,
        variant=f"{plan.num_users} users" if over_link else None,
    )


def _fingerprint(plan: Plan) -> str:
    from lab.results import weights_hash

    return f"{plan!r} {weights_hash()}"


def curve_rows(rows: Sequence[Row], curve: Curve, metric: str) -> list[Row]:
    """One curve's rows of one metric, by SNR."""
    over_link = curve.method != "ideal"
    found = pick(
        rows,
        metric=metric,
        method=curve.method,
        quantizer=curve.quantizer if over_link else None,
    )
    return sorted(found, key=lambda r: r.snr_db or 0.0)


def plot(rows: Sequence[Row], plan: Plan, out: Path) -> None:
    """R@1 and mAP against SNR, mean with the 95 % interval over seeds; colours of Okabe and Ito."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharex=True, layout="constrained")
    styles = (
        ("#000000", "--", ""),
        ("#0072B2", "-", "o"),
        ("#D55E00", "-", "s"),
        ("#009E73", "-", "^"),
    )
    for ax, metric, label in zip(axes, ("r_at_1", "map"), ("R@1", "mAP"), strict=True):
        for curve, (colour, line, marker) in zip(CURVES, styles, strict=True):
            points = curve_rows(rows, curve, metric)
            snr = [p.snr_db for p in points]
            mean = [p.mean for p in points]
            ax.plot(snr, mean, line, marker=marker, color=colour, label=curve.label, markersize=5)
            if all(p.ci95 for p in points):
                low, high = zip(*((p.ci95 or (0.0, 0.0)) for p in points), strict=True)
                ax.fill_between(snr, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.set(xlabel="SNR [dB]", ylabel=label, ylim=(0, 1))
        ax.grid(alpha=0.3)
    axes[0].legend(loc="upper left" if rows else None, fontsize=8)
    figure.suptitle(
        f"{plan.task}: {plan.scenario}, {plan.num_users} users, {plan.speed_kmh:g} km/h, "
        f"k = {SYMBOLS}, {plan.seeds} seeds, bands: 95 % interval"
    )
    for suffix in ("png", "svg"):
        figure.savefig(out / f"snr-{plan.task}.{suffix}", dpi=150)
    plt.close(figure)


def print_table(rows: Sequence[Row], plan: Plan, console: Console) -> None:
    """Mean ± sd over seeds, a line an SNR."""
    for metric in METRICS:
        table = Table(title=f"{plan.task}: {metric}")
        table.add_column("SNR dB", justify="right")
        for curve in CURVES:
            table.add_column(curve.label, justify="right")
        lines = [curve_rows(rows, curve, metric) for curve in CURVES]
        for points in zip(*lines, strict=True):
            cells = (f"{100 * p.mean:.1f} ± {100 * (p.sd or 0):.1f}" for p in points)
            table.add_row(f"{points[0].snr_db:g}", *cells)
        console.print(table)
