"""The one form in which every experiment, evaluation and benchmark writes what it measured."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from lab.evaluation.cache import ROOT, program_hash, weights_hash, write_whole


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure: its coordinates (None where a coordinate does not apply) and its value over seeds.

    ``values`` are those of the seeds, in their order, so that two reports can be compared seed by seed. ``method`` is
    compared with ``baseline`` where the metric is a difference; ``queries`` are counted for each seed; ``age_ms`` is
    the age of the newest CSI report, ``reference`` what a CSI report is compared with. ``condition`` names what no
    other column says. ``variant`` joins some of these in one text, by which older reports are compared.
    """

    metric: str
    mean: float
    sd: float | None = None
    seeds: int | None = None
    ci95: tuple[float, float] | None = None
    method: str | None = None
    task: str | None = None
    corpus: str | None = None
    split: str | None = None
    scenario: str | None = None
    speed_kmh: float | None = None
    snr_db: float | None = None
    bits: int | None = None
    symbols: int | None = None
    quantizer: str | None = None
    variant: str | None = None
    values: tuple[float, ...] | None = None
    baseline: str | None = None
    num_users: int | None = None
    memory: str | None = None
    content: str | None = None
    age_ms: float | None = None
    reference: str | None = None
    condition: str | None = None
    queries: int | None = None


OWN_COLUMNS: Final = (
    "baseline",
    "num_users",
    "memory",
    "content",
    "age_ms",
    "reference",
    "condition",
)
"""Coordinates that ``variant`` says, too."""
CSV_COLUMNS: Final = (
    *("experiment", "task", "corpus", "split", "scenario", "speed_kmh", "num_users", "snr_db"),
    *("method", "baseline", "quantizer", "memory", "content", "bits", "symbols", "age_ms"),
    *("reference", "condition", "metric", "mean", "sd", "low", "high", "seeds", "queries"),
)
"""Of the CSV file of a report; ``low`` and ``high`` are the ends of the 95 % interval."""


def csv_row(experiment: str, row: Row) -> dict[str, object]:
    """A row by :data:`CSV_COLUMNS`; one that has no column of its own is named by its variant."""
    cells = {**asdict(row), "experiment": experiment}
    cells["low"], cells["high"] = row.ci95 or (None, None)
    if all(getattr(row, name) is None for name in OWN_COLUMNS):
        cells["condition"] = row.variant
    return {name: cells[name] for name in CSV_COLUMNS}


def csv_text(experiment: str, rows: Iterable[Row]) -> str:
    """A report's rows as CSV."""
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(csv_row(experiment, row) for row in rows)
    return file.getvalue()


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (n − 1) and 95 % interval of the mean (Student's t) over seeds."""
    from scipy.stats import t

    array = np.asarray(values, dtype=np.float64)
    mean, n = float(array.mean()), len(array)
    if n < 2:
        return {"mean": mean, "seeds": n}
    sd = float(array.std(ddof=1))
    half = float(t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return {
        "mean": mean,
        "sd": sd,
        "seeds": n,
        "ci95": (mean - half, mean + half),
        "values": tuple(array.tolist()),
    }


@dataclass(slots=True)
class Report:
    """Rows and what one must know to measure them again. ``quick``: a smoke run, from which no verdict is read."""

    experiment: str
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    command: str = field(default_factory=lambda: "semlink " + shlex.join(sys.argv[1:]))
    plan: Mapping[str, Any] | None = None
    quick: bool = False

    def to_json(self) -> dict[str, Any]:
        """The file's content; of an experiment with its plan and the hash of its inputs (:func:`inputs_hash`)."""
        content = {
            "experiment": self.experiment,
            "command": self.command,
            "commit": _commit(),
            "weights": weights_hash(),
            "machine": _machine(),
            "seconds": round(self.seconds, 1),
            "rows": [asdict(row) for row in self.rows],
        }
        if self.plan is not None:
            content |= {"plan": self.plan, "inputs": inputs_hash(self.plan)}
        return content | {"quick": True} if self.quick else content

    def write(self, directory: Path, name: str) -> Path:
        """Write ``name.json`` and ``name.csv``; returns the JSON's path.

        A run that found all in the cache took seconds: ``measured_s`` of an experiment is the longest run of the same
        plan with the same weights, the report that stood there before included.
        """
        path, content = directory / f"{name}.json", self.to_json()
        if self.plan is not None:
            before, measured_s = head_of(path), content["seconds"]
            if (before.get("plan"), before.get("weights")) == (self.plan, content["weights"]):
                measured_s = max(measured_s, before.get("measured_s", before["seconds"]))
            content["measured_s"] = measured_s
        write_whole(path, lambda part: part.write_text(json.dumps(content, indent=1) + "\n"))
        (directory / f"{name}.csv").write_text(csv_text(self.experiment, self.rows))
        return path


def read_rows(path: Path) -> list[Row]:
    """The rows of a written report."""
    names = {f.name for f in fields(Row)}
    rows = [
        Row(**{k: v for k, v in row.items() if k in names})
        for row in json.loads(path.read_text())["rows"]
    ]
    # JSON knows no tuples; rows are hashed.
    return [
        replace(
            row,
            ci95=None if row.ci95 is None else (row.ci95[0], row.ci95[1]),
            values=None if row.values is None else tuple(row.values),
        )
        for row in rows
    ]


def pick(rows: Iterable[Row], **coordinates: object) -> list[Row]:
    """The rows at some coordinates."""
    return [r for r in rows if all(getattr(r, k) == v for k, v in coordinates.items())]


def described(plan: Any) -> dict[str, Any]:
    """A plan's values by key, as JSON holds them; those of its sampling beside the others."""
    found: dict[str, Any] = {}
    for one in fields(plan):
        value = getattr(plan, one.name)
        found |= described(value) if is_dataclass(value) else {one.name: value}
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def inputs_hash(plan: Mapping[str, Any]) -> str:
    """A hash over all that a report comes from: plan, weights, all sources, an added corpus's files."""
    digest = blake2b(json.dumps(plan, sort_keys=True).encode(), digest_size=8)
    digest.update((weights_hash() + program_hash()).encode())
    if corpus := plan.get("corpus"):
        digest.update(corpus_hash(corpus).encode())
    return digest.hexdigest()


def corpus_hash(name: str) -> str:
    """A hash over what an added corpus's queries are answered with: heads, codec, gallery."""
    from semlink.corpora.registry import corpus_folder

    digest = blake2b(digest_size=8)
    for path in sorted(corpus_folder(name).glob("*.safetensors")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def head_of(path: Path) -> dict[str, Any]:
    """What a report says beside its rows; empty where there is none that can be read."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    content.pop("rows", None)
    return content


def write_compact(content: Mapping[str, Any], path: Path) -> Path:
    """Write a report's content with one row a line and no empty coordinates, so that changes can be read; its path."""
    head = json.dumps({k: v for k, v in content.items() if k != "rows"}, indent=1)
    rows = ",\n".join(
        "  " + json.dumps({k: v for k, v in row.items() if v is not None})
        for row in content["rows"]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n')
    return path


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _machine() -> Mapping[str, object]:
    return {
        "cpu": platform.machine(),
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
    }
