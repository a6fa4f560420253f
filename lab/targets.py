"""What was asked of the system (the table of targets) against what reports say: met, missed by how much, not measured.

Every target is judged by the mean where it asks for a figure, and by the whole 95 % interval where it asks for "above":
an interval that holds 0 shows nothing. Where a target speaks of every point of a sweep the worst point decides, and the
points that miss it are counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.table import Table

from lab.compare_results import read
from lab.results import Row, pick
from semlink.errors import NotFound

Verdict = Literal["met", "missed", "not measured"]


@dataclass(frozen=True, slots=True)
class Judged:
    """A target and what was found of it."""

    claim: str
    target: str
    verdict: Verdict
    found: str


@dataclass(frozen=True, slots=True)
class Target:
    """A claim, what is asked, and how reports are judged by it; ``command`` measures it."""

    claim: str
    target: str
    command: str
    judge: Callable[[Sequence[Row]], tuple[Verdict, str] | None]

    def of(self, rows: Sequence[Row]) -> Judged:
        """Judge by all rows of all reports."""
        found = self.judge(rows)
        if found is None:
            return Judged(self.claim, self.target, "not measured", f"run `{self.command}`")
        return Judged(self.claim, self.target, *found)


def rows_of(folder: Path) -> list[Row]:
    """The rows of every report in a folder. Raises NotFound where there is none."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise NotFound(
            f"{folder} holds no report: run an experiment with --out {folder}", field="directory"
        )
    # Reports share points (the ideal link, perfect CSI): each row counts once.
    return list(dict.fromkeys(row for file in files for row in read(file)[1]))


def judge_all(rows: Sequence[Row]) -> list[Judged]:
    """Every target, in the order of the table."""
    return [target.of(rows) for target in TARGETS]


def print_judged(judged: Iterable[Judged], console: Console) -> None:
    """The table and a line that counts."""
    judged = list(judged)
    table = Table("claim", "asked", "", "measured", title="targets")
    colours = {"met": "green", "missed": "red", "not measured": "yellow"}
    for one in judged:
        colour = colours[one.verdict]
        table.add_row(one.claim, one.target, f"[{colour}]{one.verdict}[/{colour}]", one.found)
    console.print(table)
    counts = {v: sum(j.verdict == v for j in judged) for v in colours}
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))


# --- how a target is judged --------------------------------------------------------------------


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


def _span(row: Row) -> str:
    low, high = row.ci95 or (row.mean, row.mean)
    return f"{_points(row.mean)} [{_points(low)}, {_points(high)}]"


def _where(row: Row) -> str:
    """A row's place in a few words."""
    said = [row.task or "", row.scenario or ""]
    said += [] if row.snr_db is None else [f"{row.snr_db:g} dB"]
    said += [] if row.bits is None else [f"{row.bits} bits"]
    return ", ".join(part for part in said if part)


def _above(rival: str) -> Callable[[Sequence[Row]], tuple[Verdict, str] | None]:
    """SC-LMKB above a rival at every point of the sweeps, both metrics, intervals clear of 0."""

    def judge(rows: Sequence[Row]) -> tuple[Verdict, str] | None:
        found = [
            row
            for row in rows
            if row.metric in ("r_at_1_difference", "map_difference")
            and (row.variant or "").startswith(f"SC-LMKB vs {rival},")
        ]
        if not found:
            return None
        clear = [row for row in found if row.ci95 is not None and row.ci95[0] > 0]
        below = [row for row in found if row.ci95 is not None and row.ci95[1] < 0]
        worst = min(found, key=lambda row: row.mean)
        text = (
            f"{len(clear)} of {len(found)} points clear above, {len(below)} clear below; worst {_span(worst)} points "
            f"of {worst.metric.removesuffix('_difference')} at {_where(worst)}"
        )
        return ("met" if len(clear) == len(found) else "missed"), text

    return judge


def _best_gain(rival: str, least: float) -> Callable[[Sequence[Row]], tuple[Verdict, str] | None]:
    """The largest relative gain of SC-LMKB's R@1 over a rival anywhere on the sweeps."""

    def judge(rows: Sequence[Row]) -> tuple[Verdict, str] | None:
        gains = _relative(rows, "r_at_1", rival)
        if not gains:
            return None
        gain, at = max(gains, key=lambda g: g[0])
        return ("met" if gain >= least else "missed"), f"{100 * gain:+.1f} % at {_where(at)}"

    return judge


def _relative(rows: Sequence[Row], metric: str, rival: str) -> list[tuple[float, Row]]:
    """Relative gains of SC-LMKB over a rival, wherever both were measured on the same link."""
    by_place = {
        (r.task, r.scenario, r.speed_kmh, r.snr_db, r.bits, r.symbols, r.variant): r
        for r in pick(rows, metric=metric, method=rival, quantizer="rvq", split="test")
    }
    gains = []
    for row in pick(rows, metric=metric, method="sc-lmkb", quantizer="rvq", split="test"):
        place = (
            row.task,
            row.scenario,
            row.speed_kmh,
            row.snr_db,
            row.bits,
            row.symbols,
            row.variant,
        )
        other = by_place.get(place)
        if other is not None and other.mean > 0:
            gains.append((row.mean / other.mean - 1.0, row))
    return gains


def _at_25_db(rows: Sequence[Row]) -> tuple[Verdict, str] | None:
    gains = [g for g in _relative(rows, "map", "deepsc-mimo") if g[1].snr_db == 25.0]
    if not gains:
        return None
    gain, at = max(gains, key=lambda g: g[0])
    return ("met" if gain >= 0.249 else "missed"), f"at most {100 * gain:+.1f} % mAP, {_where(at)}"


def _near_ideal(rows: Sequence[Row]) -> tuple[Verdict, str] | None:
    found = [
        row
        for row in pick(rows, metric="map_share_of_ideal", method="sc-lmkb", bits=64, symbols=64)
        if row.snr_db is not None and row.snr_db >= 10.0
    ]
    if not found:
        return None
    worst = min(found, key=lambda row: row.mean)
    text = f"at least {100 * worst.mean:.1f} % of the ideal link's mAP, {_where(worst)}"
    return ("met" if worst.mean >= 0.95 else "missed"), text


def _prediction(rows: Sequence[Row]) -> tuple[Verdict, str] | None:
    """NMSE of CDG against the best rival at each place of the sweep, in dB."""
    places: dict[tuple[str, float | None, str | None], dict[str, float]] = {}
    for row in pick(rows, metric="nmse_db", bits=64):
        lossy = "lost" in (row.variant or "")
        if row.method and row.corpus is None and row.scenario and row.task is None and not lossy:
            places.setdefault((row.scenario, row.speed_kmh, row.variant), {})[row.method] = row.mean
    gaps = []
    for place, by_name in places.items():
        rivals = {k: v for k, v in by_name.items() if k != "cdg"}
        if "cdg" in by_name and rivals:
            best = min(rivals, key=lambda name: rivals[name])
            gaps.append((rivals[best] - by_name["cdg"], best, place))
    if not gaps:
        return None
    lead, best, place = min(gaps, key=lambda gap: gap[0])
    text = (
        f"{sum(g[0] >= 1.0 for g in gaps)} of {len(gaps)} places; least {lead:+.2f} dB against {best} at "
        f"{place[0]}, {place[1]:g} km/h, {place[2]}"
    )
    return ("met" if lead >= 1.0 else "missed"), text


def _variant(
    metric: str, variant: str, least: float, unit: str = "points", method: str | None = None
) -> Callable[[Sequence[Row]], tuple[Verdict, str] | None]:
    """A single row's mean against a figure."""

    def judge(rows: Sequence[Row]) -> tuple[Verdict, str] | None:
        found = pick(rows, metric=metric, variant=variant)
        found = [row for row in found if method is None or row.method == method]
        if not found:
            return None
        return ("met" if found[0].mean >= least else "missed"), f"{_span(found[0])} {unit}"

    return judge


def _feedback(rows: Sequence[Row]) -> tuple[Verdict, str] | None:
    """At most 64 bits of the best scheme against scalar's 512 at 25 dB: the interval may not lie below 0."""
    pattern = re.compile(r"(RVQ|learned) (8|16|32|64) bits.* vs scalar 512 bits, (\d) users")
    best: dict[tuple[object, ...], Row] = {}
    for row in pick(rows, metric="map_difference", snr_db=25.0):
        match = pattern.fullmatch(row.variant or "")
        if match:
            place = (row.task, row.scenario, row.speed_kmh, match[3])
            if place not in best or row.mean > best[place].mean:
                best[place] = row
    if not best:
        return None
    worst = min(best.values(), key=lambda row: row.mean)
    missed = [row for row in best.values() if row.ci95 is not None and row.ci95[1] < 0]
    text = f"worst {_span(worst)} points of mAP, {worst.variant}, {_where(worst)}"
    return ("missed" if missed else "met"), text


TARGETS: Final = (
    Target(
        "SC-LMKB over conventional SC",
        "above DeepSC-MIMO at every SNR, bits and task, 95 % interval clear of 0",
        "semlink experiment fig6 (7, 8, 9, 10)",
        _above("DeepSC-MIMO"),
    ),
    Target(
        "the same, largest gain",
        "≥ +72.6 % R@1 somewhere on the sweep",
        "semlink experiment fig6 (7, 8, 9, 10)",
        _best_gain("deepsc-mimo", 0.726),
    ),
    Target(
        "SC-LMKB over LLM-enabled SC",
        "above at every SNR, bits and task, 95 % interval clear of 0",
        "semlink experiment fig6 (7, 8, 9, 10)",
        _above("LLM-SC, no CDFC"),
    ),
    Target(
        "the same, largest gain",
        "≥ +90.7 % R@1 somewhere on the sweep",
        "semlink experiment fig6 (7, 8, 9, 10)",
        _best_gain("llm-sc", 0.907),
    ),
    Target(
        "SC-LMKB over conventional SC at 25 dB",
        "≥ +24.9 % mAP",
        "semlink experiment fig6",
        _at_25_db,
    ),
    Target(
        "distance to the ideal link",
        "≥ 95 % of its mAP from 10 dB on, 64 bits, 64 symbols",
        "semlink experiment fig6 (7, 8, 10)",
        _near_ideal,
    ),
    Target(
        "CDG",
        "NMSE at 64 bits ≥ 1 dB below the best rival",
        "semlink experiment csi-prediction",
        _prediction,
    ),
    Target(
        "GPA over DP, text to audio",
        "≥ +6.7 % R@1, relative",
        "semlink experiment gpa",
        _variant("r_at_1_relative_gain", "GPA over DP, NT-Xent, text-to-audio", 0.067, "%"),
    ),
    Target(
        "GPA over DP, audio to text",
        "≥ +12.2 % R@1, relative",
        "semlink experiment gpa",
        _variant("r_at_1_relative_gain", "GPA over DP, NT-Xent, audio-to-text", 0.122, "%"),
    ),
    Target(
        "ItrievalKD at 3 noise sentences",
        "≥ 97 % of Key's R@1",
        "semlink experiment itrieval",
        _variant(
            "r_at_1_share_of_key",
            "continuations, 3 noise sentences, zero-shot",
            0.97,
            "%",
            "itrieval-kd",
        ),
    ),
    Target(
        "Sew + MCM over CMPM + CMPC",
        "≥ +5.42 points of Rank-1",
        "semlink experiment sew-mcm",
        _variant("r_at_1_difference", "sew-mcm vs cmpm-cmpc", 0.0542),
    ),
    Target(
        "re-ranking",
        "≥ +3.38 points of Rank-1",
        "semlink experiment sew-mcm",
        _variant("r_at_1_difference", "sew-mcm re-ranked vs sew-mcm", 0.0338),
    ),
    Target(
        "feedback",
        "the mAP of 512-bit scalar feedback with ≤ 64 bits, 25 dB",
        "semlink experiment feedback",
        _feedback,
    ),
)
