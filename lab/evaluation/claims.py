"""Claims (``claims.toml``) against what reports say: met, missed, not measured.

A claim is judged by the mean where it asks for a figure, and by the whole 95 % interval where it asks for "above": an
interval that holds 0 shows nothing. Where it speaks of every point of a sweep the worst point decides. Points of
validation splits are left out, and quick runs: no verdict is read from those.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from rich.console import Console
from rich.table import Table

from lab.evaluation.compare_reports import read
from lab.evaluation.report import Row, head_of, pick
from semlink.errors import NotFound

Verdict = Literal["met", "missed", "not measured", "quick run: no verdict"]
CLAIMS_FILE: Final = Path(__file__).with_name("claims.toml")
OURS: Final = "sc-lmkb"


@dataclass(slots=True)
class Reports:
    """The reports of a folder by name; methods are compared within one report: same queries, same channels."""

    rows: dict[str, list[Row]]
    heads: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> Reports:
        """Every report of a folder. Raises NotFound where there is none."""
        files = sorted(folder.glob("*.json")) if folder.is_dir() else []
        if not files:
            raise NotFound(
                f"{folder} holds no report; name a folder of reports with --reports DIR",
                field="reports",
            )
        return cls(
            {path.stem: read(path)[1] for path in files},
            {path.stem: head_of(path) for path in files},
        )

    def is_quick(self, name: str) -> bool:
        """Whether a report is of a smoke run."""
        return bool(self.heads[name].get("quick"))


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim: what is asked, which reports measure it, and by which judge with which values."""

    name: str
    asked: str
    reports: tuple[str, ...]
    judge: str
    values: Mapping[str, Any]

    @property
    def experiments(self) -> list[str]:
        """That measure it: ``snr-person-umi-los`` is a report of ``snr``."""
        swept = ("snr", "feedback", "rate")
        kinds = {name: name.split("-")[0] for name in self.reports}
        return list(dict.fromkeys(k if k in swept else name for name, k in kinds.items()))


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim and what was found of it."""

    claim: Claim
    verdict: Verdict
    found: str = "–"


Found = tuple[bool, str] | None
"""Whether a claim holds and by which figure; None where nothing of it is measured."""


def claims() -> list[Claim]:
    """All claims in the order of their file."""
    content = tomllib.loads(CLAIMS_FILE.read_text())["claim"]
    own = ("name", "asked", "reports", "judge")
    return [
        Claim(
            c["name"],
            c["asked"],
            tuple(c["reports"]),
            c["judge"],
            {k: v for k, v in c.items() if k not in own},
        )
        for c in content
    ]


def judge_all(reports: Reports) -> list[Judged]:
    """Every claim, in the order of the table."""
    return [judge(claim, reports) for claim in claims()]


def judge(claim: Claim, reports: Reports) -> Judged:
    """One claim by its reports, and the same figures on other corpora (``fig7-NAME``)."""
    named = [
        name
        for name in reports.rows
        if name in claim.reports or (name.startswith("fig") and name.split("-")[0] in claim.reports)
    ]
    used = [name for name in named if not reports.is_quick(name)]
    found = _JUDGES[claim.judge]([reports.rows[name] for name in used], **claim.values)
    if found is not None:
        return Judged(claim, "met" if found[0] else "missed", found[1])
    return Judged(claim, "not measured" if used == named else "quick run: no verdict")


def print_judged(judged: Iterable[Judged], console: Console) -> None:
    """The table, and a line that counts."""
    judged = list(judged)
    table = Table("claim", "asked", "verdict", "figure", "semlink experiment …", title="claims")
    colours = {"met": "green", "missed": "red"}
    for one in judged:
        colour = colours.get(one.verdict, "yellow")
        verdict = f"[{colour}]{one.verdict}[/{colour}]"
        experiments = ", ".join(one.claim.experiments)
        table.add_row(one.claim.name, one.claim.asked, verdict, one.found, experiments)
    console.print(table)
    verdicts = [one.verdict for one in judged]
    console.print(", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts)))


# --- judges ------------------------------------------------------------------------------------


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


def _span(row: Row) -> str:
    low, high = row.ci95 or (row.mean, row.mean)
    return f"{_points(row.mean)} [{_points(low)}, {_points(high)}]"


def _where(row: Row) -> str:
    """A row's place in a few words."""
    parts = [row.task or "", row.scenario or ""]
    parts += [] if row.snr_db is None else [f"{row.snr_db:g} dB"]
    parts += [] if row.bits is None else [f"{row.bits} bits"]
    return ", ".join(part for part in parts if part)


def is_above(row: Row) -> bool:
    """Whether a difference's whole interval lies above 0."""
    return row.ci95 is not None and row.ci95[0] > 0


def is_below(row: Row) -> bool:
    """Whether a difference's whole interval lies below 0."""
    return row.ci95 is not None and row.ci95[1] < 0


def _all(reports: Sequence[Sequence[Row]]) -> list[Row]:
    """Reports share points (the ideal link, perfect CSI): each counts once."""
    return list(dict.fromkeys(row for rows in reports for row in rows if row.split != "val"))


def _above(reports: Sequence[Sequence[Row]], baseline: str) -> Found:
    """SC-LMKB above a baseline at every point of the sweeps, R@1 and mAP, intervals clear of 0.

    Of one seed (the page of fig11) nothing is claimed.
    """
    found = [
        row
        for row in pick(_all(reports), method=OURS, baseline=baseline)
        if row.metric in ("r_at_1_difference", "map_difference") and row.seeds != 1
    ]
    if not found:
        return None
    clear = sum(map(is_above, found))
    worst = min(found, key=lambda row: row.mean)
    return clear == len(found), (
        f"{clear} of {len(found)} points clear above, {sum(map(is_below, found))} clear below; worst {_span(worst)} "
        f"points of {worst.metric.removesuffix('_difference')} at {_where(worst)}"
    )


def relative_gains(
    reports: Sequence[Sequence[Row]], metric: str, baseline: str
) -> list[tuple[float, Row]]:
    """Relative gains of SC-LMKB wherever one report measured both on the same test queries and links."""
    gains: dict[Row, float] = {}
    for report in reports:
        others = {
            _place(row): row
            for row in pick(report, metric=metric, method=baseline, quantizer="rvq", split="test")
        }
        for row in pick(report, metric=metric, method=OURS, quantizer="rvq", split="test"):
            other = others.get(_place(row))
            if other is not None and other.mean > 0:
                gains[row] = row.mean / other.mean - 1.0
    return [(gain, row) for row, gain in gains.items()]


def _place(row: Row) -> tuple[object, ...]:
    link = (row.scenario, row.speed_kmh, row.num_users, row.snr_db)
    return (row.task, row.corpus, *link, row.bits, row.symbols, row.memory)


def _largest_gain(
    reports: Sequence[Sequence[Row]],
    metric: str,
    baseline: str,
    at_least: float,
    snr_db: float | None = None,
) -> Found:
    gains = relative_gains(reports, metric, baseline)
    gains = [(gain, row) for gain, row in gains if snr_db in (None, row.snr_db)]
    if not gains:
        return None
    gain, at = max(gains, key=lambda pair: pair[0])
    return gain >= at_least, f"at most {100 * gain:+.1f} %, at {_where(at)}"


def _share_of_ideal(reports: Sequence[Sequence[Row]], at_least: float, from_snr_db: float) -> Found:
    at = {"metric": "map_share_of_ideal", "method": OURS, "bits": 64, "symbols": 64}
    found = [r for r in pick(_all(reports), **at) if r.snr_db is not None]
    found = [r for r in found if (r.snr_db or 0.0) >= from_snr_db]
    if not found:
        return None
    worst = min(found, key=lambda row: row.mean)
    return worst.mean >= at_least, f"at least {100 * worst.mean:.1f} %, {_where(worst)}"


def _lead_in_nmse(
    reports: Sequence[Sequence[Row]], method: str, bits: int, at_least_db: float
) -> Found:
    """By how much a predictor's NMSE is below the best rival's at each place where no report is lost, in dB."""
    places: dict[tuple[str | None, float | None, float | None], dict[str, float]] = {}
    for row in pick(_all(reports), metric="nmse_db", bits=bits, condition=None, memory=None):
        if row.method is not None:
            place = (row.scenario, row.speed_kmh, row.age_ms)
            places.setdefault(place, {})[row.method] = row.mean
    leads = []
    for place, nmse in places.items():
        rivals = {name: value for name, value in nmse.items() if name != method}
        if method in nmse and rivals:
            best = min(rivals, key=lambda name: rivals[name])
            leads.append((rivals[best] - nmse[method], best, place))
    if not leads:
        return None
    lead, best, (scenario, speed, age) = min(leads, key=lambda one: one[0])
    return lead >= at_least_db, (
        f"{sum(one[0] >= at_least_db for one in leads)} of {len(leads)} places; least {lead:+.2f} dB against {best} at "
        f"{scenario}, {speed:g} km/h, {age:g} ms"
    )


def _near_hold_last(reports: Sequence[Sequence[Row]], margin_db: float) -> Found:
    """By how much the precoding gain of any predictor is below hold-last's where reports are lost, in dB."""
    gains = [
        row
        for row in pick(_all(reports), metric="precoding_gain_db")
        if row.method is not None and row.condition is not None
    ]

    def place(row: Row) -> tuple[object, ...]:
        return (row.scenario, row.speed_kmh, row.memory, row.condition)

    held = {place(row): row.mean for row in gains if row.method == "hold-last"}
    losses = [(held[place(row)] - row.mean, row) for row in gains if place(row) in held]
    if not losses:
        return None
    loss, at = max(losses, key=lambda pair: pair[0])
    where = f"{at.scenario}, {at.speed_kmh:g} km/h, {at.condition}"
    return loss <= margin_db, f"at most {loss:.2f} dB below, {at.method} at {where}"


def _one_figure(
    reports: Sequence[Sequence[Row]], at: Mapping[str, object], at_least: float, unit: str
) -> Found:
    """A single row's mean against a figure; the row of this condition, or of none."""
    found = pick(_all(reports), **{"condition": None, **at})
    return (found[0].mean >= at_least, f"{_span(found[0])} {unit}") if found else None


def _as_good(
    reports: Sequence[Sequence[Row]], baseline: str, max_bits: int, snr_db: float, margin: float
) -> Found:
    """At each place the best report of at most so many bits: "the same" is an interval above −``margin``.

    That a difference cannot be told from 0 does not show that there is none.
    """
    best: dict[tuple[object, ...], Row] = {}
    for row in pick(_all(reports), metric="map_difference", snr_db=snr_db, baseline=baseline):
        place = (row.task, row.corpus, row.scenario, row.speed_kmh, row.num_users)
        small = row.quantizer in ("rvq", "learned") and (row.bits or 0) <= max_bits
        if small and (place not in best or row.mean > best[place].mean):
            best[place] = row
    if not best:
        return None
    worst = min(best.values(), key=lambda row: row.mean)
    good = [row.ci95 is not None and row.ci95[0] > -margin for row in best.values()]
    return all(good), (
        f"shown at {sum(good)} of {len(good)} places; worst {_span(worst)} points of mAP, {worst.quantizer}, "
        f"{worst.num_users} users, {_where(worst)}"
    )


_JUDGES: Final[Mapping[str, Callable[..., Found]]] = {
    "above": _above,
    "largest_gain": _largest_gain,
    "share_of_ideal": _share_of_ideal,
    "lead_in_nmse": _lead_in_nmse,
    "near_hold_last": _near_hold_last,
    "one_figure": _one_figure,
    "as_good": _as_good,
}
