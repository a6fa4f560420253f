"""Two reports of the same experiment, row by row: what changed beyond noise, and which way (our definition).

Rows that stand at the same coordinates are compared. Where both hold the values of the same seeds, the differences seed
by seed are tested (Student's t): what seeds have in common, their queries and channels, drops out. Else the two
intervals are taken as independent: the half-width of the difference is ``√(a² + b²)``. Many rows are compared at once,
so that p-values are corrected (Holm 1979): with no change anywhere, one comparison of twenty finds one.

Small runs of two seeds have no power for that. :func:`compare_pooled` says of those whether quality fell by more than a
stated margin: differences of equal queries on equal channels, averaged over all points of a sweep (our definition). On
one machine equal programs give equal rows, bit for bit; another machine's rounding changes single ranks, which the
margin allows.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from lab.evaluation.report import OWN_COLUMNS, Row, read_rows
from semlink.errors import InvalidField, NotFound

Verdict = Literal[
    "same", "within noise", "better", "worse", "changed", "spread unknown", "only in A", "only in B"
]
LEVEL: Final = 0.95
LOWER_IS_BETTER: Final = ("nmse_db", "outage", "erased", "_ms", "ms_per", "_s", "mib", "_us")
"""Parts of names of metrics of which less is better; a part that begins with "_" must end the name."""
HIGHER_IS_BETTER: Final = (
    "r_at_",
    "map",
    "minp",
    "sgcs",
    "gain_db",
    "accuracy",
    "recall",
    "precision",
    "per_s",
    "times_faster",
    "goodput",
)
MARGINS: Final[Mapping[str, float]] = {
    "map": 0.02,
    "r_at_1": 0.05,
    "r_at_10": 0.05,
    "erased": 0.05,
    "sgcs": 0.01,
    "nmse_db": 0.2,
    "precoding_gain_db": 0.1,
}
"""Metrics that the pooled comparison judges, and by how much each may fall; all methods together by half of it."""
POOLED_OVER: Final = ("split", "scenario", "speed_kmh", "snr_db", "bits", "symbols")
"""Coordinates that a pooled difference is averaged over; it stands for all others by itself."""
ALL: Final = "all methods"
_VALUES: Final = ("mean", "sd", "seeds", "ci95", "values", "queries", *OWN_COLUMNS)
"""All but coordinates; ``variant`` says the own columns as well, and older reports have it alone."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row of A and its counterpart in B; ``p`` is not corrected, None where nothing can be tested."""

    at: Row
    before: Row | None
    after: Row | None
    verdict: Verdict
    p: float | None = None


def compare(a: Sequence[Row], b: Sequence[Row], *, level: float = LEVEL) -> list[Change]:
    """What became of each row, in the order of A, then what only B has.

    Raises InvalidField for a level outside (0, 1) and for two rows at the same coordinates in one report.
    """
    if not 0 < level < 1:
        raise InvalidField(f"level is {level}, allowed: above 0, below 1", field="level")
    before, after = _by_place(a, "A"), _by_place(b, "B")
    changes = [
        _change(place, before.get(place), after.get(place))
        for place in dict.fromkeys([*before, *after])
    ]
    return _corrected(changes, 1.0 - level)


PooledVerdict = Literal["same", "within margin", "better", "worse", "gone", "new"]


@dataclass(frozen=True, slots=True)
class Pooled:
    """One metric of one method over a whole sweep: means over the points and seeds that both reports hold.

    ``gone``: points of A that B lacks. A verdict "gone" or "new" has no figures.
    """

    at: Row
    points: int
    gone: int
    before: float
    after: float
    margin: float

    @property
    def difference(self) -> float:
        """B − A."""
        return self.after - self.before

    @property
    def verdict(self) -> PooledVerdict:
        """Better and worse by more than the margin; points that are gone are a failure of their own."""
        if self.gone:
            return "gone"
        if not self.points:
            return "new"
        if self.before == self.after:
            return "same"
        gain = direction(self.at.metric) * self.difference
        return (
            "worse" if gain < -self.margin else "better" if gain > self.margin else "within margin"
        )


def compare_pooled(
    a: Sequence[Row], b: Sequence[Row], margins: Mapping[str, float] = MARGINS
) -> list[Pooled]:
    """Pooled differences of each metric of ``margins``: of every method, then of all together.

    Points are paired by their coordinates and, within them, seeds by their order. Raises InvalidField where a point has
    another number of seeds in B, and for two rows at the same coordinates in one report.
    """
    before, after = (
        _by_place([row for row in rows if row.metric in margins], name)
        for rows, name in ((a, "A"), (b, "B"))
    )
    places: dict[Row, list[Row]] = {}
    for place in dict.fromkeys([*before, *after]):
        places.setdefault(_pooled_place(place), []).append(place)
    found = [_pooled(at, among, before, after, margins[at.metric]) for at, among in places.items()]
    for metric in dict.fromkeys(one.at.metric for one in found):
        among = [place for at, of in places.items() if at.metric == metric for place in of]
        if sum(one.at.metric == metric for one in found) > 1:
            at = Row(metric=metric, mean=0.0, variant=ALL)
            found.append(_pooled(at, among, before, after, margins[metric] / 2))
    return found


def _pooled_place(place: Row) -> Row:
    return replace(place, **dict.fromkeys(POOLED_OVER))  # type: ignore[arg-type]


def _pooled(
    at: Row,
    places: Sequence[Row],
    before: Mapping[Row, Row],
    after: Mapping[Row, Row],
    margin: float,
) -> Pooled:
    both = [place for place in places if place in before and place in after]
    for place in both:
        seeds = [len(rows[place].values or (0.0,)) for rows in (before, after)]
        if seeds[0] != seeds[1]:
            raise InvalidField(
                f"{_place(place)} has {seeds[0]} seeds in report A and {seeds[1]} in B; only equal runs compare",
                field="report",
            )
    gone = sum(place in before and place not in after for place in places)
    mean_before, mean_after = (
        float(np.mean([rows[place].mean for place in both])) if both else 0.0
        for rows in (before, after)
    )
    return Pooled(at, len(both), gone, mean_before, mean_after, margin)


def print_pooled(
    name: str, pooled: Sequence[Pooled], console: Console, *, everything: bool = False
) -> None:
    """A table of what is not within its margin (or of all), and how many there are of each kind."""
    table = Table("method", "points", "A", "B", "difference", "margin", "verdict", title=name)
    for one in pooled:
        if everything or one.verdict not in ("same", "within margin"):
            table.add_row(
                _place(one.at),
                str(one.points),
                f"{one.before:.4f}",
                f"{one.after:.4f}",
                f"{one.difference:+.4f}",
                f"{one.margin:g}",
                one.verdict if one.verdict != "gone" else f"{one.gone} points gone",
            )
    if table.row_count:
        console.print(table)
    counts = Counter(one.verdict for one in pooled)
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "no rows"
    console.print(f"{name}: {said}")


def read(path: Path) -> tuple[dict[str, object], list[Row]]:
    """What a report says of itself, and its rows. Raises NotFound, or InvalidField for another kind of file."""
    if not path.is_file():
        raise NotFound(f"{path} is missing", field="report")
    try:
        content = json.loads(path.read_text())
        head = {k: content[k] for k in ("experiment", "command", "commit", "weights")}
        return head, read_rows(path)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidField(
            f"{path} is no report of semlink: {error!r}, expected the JSON file of an experiment, evaluation or bench",
            field="report",
        ) from error


def direction(metric: str) -> int:
    """1 where more is better, −1 where less is, 0 where neither is known. A difference goes by its metric."""
    if any(part in metric for part in HIGHER_IS_BETTER):
        return 1
    for part in LOWER_IS_BETTER:
        if metric.endswith(part) if part.startswith("_") else part in metric:
            return -1
    return 0


def _by_place(rows: Sequence[Row], name: str) -> dict[Row, Row]:
    found: dict[Row, Row] = {}
    empty = {f.name: None for f in fields(Row) if f.name in _VALUES} | {"mean": 0.0}
    for row in rows:
        place = replace(row, **empty)  # type: ignore[arg-type]
        if place in found and found[place] != row:
            raise InvalidField(
                f"report {name} holds two rows of {row.metric} at the same coordinates: {place}",
                field="report",
            )
        found[place] = row
    return found


def _change(place: Row, before: Row | None, after: Row | None) -> Change:
    if before is None or after is None:
        return Change(place, before, after, "only in B" if before is None else "only in A")
    if before.mean == after.mean:
        return Change(place, before, after, "same")
    p = _p_value(before, after)
    if p is None:
        return Change(place, before, after, "spread unknown")
    return Change(place, before, after, "within noise", p)


def _p_value(before: Row, after: Row) -> float | None:
    """How likely so large a difference is without a change; None where no spread is known."""
    from scipy.stats import norm, t

    a, b = before.values, after.values
    if a is not None and b is not None and len(a) == len(b) > 1:
        difference = np.subtract(b, a)
        spread = float(difference.std(ddof=1)) / math.sqrt(len(a))
        if spread == 0.0:
            return 0.0
        return float(2 * t.sf(abs(difference.mean()) / spread, len(a) - 1))
    if before.ci95 is None or after.ci95 is None:
        return None
    halves = []
    for row in (before, after):
        low, high = row.ci95 or (row.mean, row.mean)
        halves.append((high - low) / 2)
    half = math.hypot(*halves)
    if half == 0.0:
        return 0.0
    return float(2 * norm.sf(abs(after.mean - before.mean) / (half / norm.ppf(0.975))))


def _corrected(changes: list[Change], alpha: float) -> list[Change]:
    """Holm's step-down: the smallest p-value against α/m, the next against α/(m − 1), … until one fails."""
    tested = sorted((c.p, i) for i, c in enumerate(changes) if c.p is not None)
    done = list(changes)
    for rank, (p, i) in enumerate(tested):
        if p > alpha / (len(tested) - rank):
            break
        change = changes[i]
        if change.before is None or change.after is None:
            continue
        sign = direction(change.at.metric) * math.copysign(
            1.0, change.after.mean - change.before.mean
        )
        verdict: Verdict = "better" if sign > 0 else "worse" if sign < 0 else "changed"
        done[i] = replace(change, verdict=verdict)
    return done


def print_changes(
    heads: Sequence[Mapping[str, object]],
    changes: Sequence[Change],
    console: Console,
    *,
    everything: bool = False,
) -> None:
    """A line on each report, a table of the rows that changed (or of all), and how many there are of each kind."""
    for name, head in zip("AB", heads, strict=True):
        console.print(
            f"{name}: {head['experiment']}, commit {head['commit']}, weights {head['weights']}: {head['command']}",
            markup=False,
            highlight=False,
        )
    table = Table("row", "A", "B", "difference", "p", "verdict")
    for change in changes:
        if not everything and change.verdict in ("same", "within noise"):
            continue
        before, after = (None if r is None else r.mean for r in (change.before, change.after))
        difference = "" if before is None or after is None else f"{after - before:+.4g}"
        table.add_row(
            _place(change.at),
            "–" if before is None else f"{before:.4g}",
            "–" if after is None else f"{after:.4g}",
            difference,
            "" if change.p is None else f"{change.p:.2g}",
            change.verdict,
        )
    if table.row_count:
        console.print(table)
    counts = Counter(change.verdict for change in changes)
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "no rows")


def _place(at: Row) -> str:
    """A row's coordinates as a reader says them."""
    said = [at.metric]
    for name, unit in (
        ("method", ""),
        ("task", ""),
        ("corpus", ""),
        ("scenario", ""),
        ("speed_kmh", " km/h"),
        ("snr_db", " dB"),
        ("quantizer", ""),
        ("bits", " bits"),
        ("symbols", " symbols"),
        ("variant", ""),
    ):
        value = getattr(at, name)
        if value not in (None, ""):
            said.append(f"{value:g}{unit}" if isinstance(value, float) else f"{value}{unit}")
    return ", ".join(said)
