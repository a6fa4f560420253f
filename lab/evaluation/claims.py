"""What was asked of the system (the table of targets) against what reports say: met, missed by how much, not measured.

Every target is judged by the mean where it asks for a figure, and by the whole 95 % interval where it asks for "above":
an interval that holds 0 shows nothing. Where a target speaks of every point of a sweep the worst point decides, and the
points that miss it are counted. A missed target names the best reason found: words that point to where it was measured,
and what these very reports hold of it. Points of validation splits are left out: real sets without a test split are
reported in sections of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.table import Table

from lab.evaluation.compare_reports import read
from lab.evaluation.report import Row, pick
from semlink.errors import NotFound
from tools.docs.paper_values import Reports, by_report, relative_gains

Verdict = Literal["met", "missed", "not measured"]
Judge = Callable[[Sequence[Row]], tuple[Verdict, str] | None]
AS_GOOD: Final = 0.01
"""Points of mAP that count as none where a target asks for the same (our definition)."""
Evidence = Callable[[Sequence[Row]], str | None]
"""What the reports hold of a reason, in a sentence; None where it is not measured."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A target and what was found of it."""

    claim: str
    target: str
    verdict: Verdict
    found: str
    reason: str = ""
    """Why it was missed, as far as known; empty otherwise."""
    experiments: tuple[str, ...] = ()
    """Names of the experiments that measure it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A claim, what is asked, and how reports are judged by it; ``command`` measures it.

    ``because``: the best explanation of a miss, and where it was measured; ``evidence``: what these reports say of it.
    """

    claim: str
    target: str
    command: str
    judge: Judge
    because: str
    evidence: Evidence | None = None

    def of(self, rows: Sequence[Row]) -> Judged:
        """Judge by all rows of all reports."""
        found = self.judge(rows)
        verdict, text = found or ("not measured", f"run `{self.command}`")
        reason = ""
        if verdict == "missed":
            measured = self.evidence(rows) if self.evidence is not None else None
            reason = f"{self.because} {measured}" if measured else self.because
        return Judged(self.claim, self.target, verdict, text, reason, self.experiments)

    @property
    def experiments(self) -> tuple[str, ...]:
        """Of the command: ``fig6 (7, 8)`` stands for three."""
        name, _, others = self.command.removeprefix("semlink experiment ").partition(" (")
        numbers = [part.strip() for part in others.removesuffix(")").split(",") if part]
        return (name, *(f"{name.rstrip('0123456789')}{number}" for number in numbers))


def rows_of(folder: Path) -> Reports:
    """The rows of every report in a folder. Raises NotFound where there is none."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        raise NotFound(
            f"{folder} holds no report: run an experiment with --out {folder}", field="directory"
        )
    return Reports([read(file)[1] for file in files])


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
    for one in judged:
        if one.reason:
            console.print(f"{one.claim}, {one.target}: {one.reason}", markup=False, highlight=False)
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


def differences(rows: Sequence[Row], rival: str) -> list[Row]:
    """SC-LMKB minus a rival, R@1 and mAP, at every point that is not of a validation split.

    Of one seed (the page of fig11) nothing is claimed.
    """
    return [
        row
        for row in rows
        if row.metric in ("r_at_1_difference", "map_difference")
        and row.split != "val"
        and row.seeds != 1
        and (row.variant or "").startswith(f"SC-LMKB vs {rival},")
    ]


def is_above(row: Row) -> bool:
    """Whether a difference's whole interval lies above 0."""
    return row.ci95 is not None and row.ci95[0] > 0


def is_below(row: Row) -> bool:
    """Whether a difference's whole interval lies below 0."""
    return row.ci95 is not None and row.ci95[1] < 0


def by_snr(rows: Sequence[Row]) -> dict[float, list[Row]]:
    """Differences by SNR, the lowest first."""
    found: dict[float, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.snr_db or 0.0):
        found.setdefault(row.snr_db or 0.0, []).append(row)
    return found


def _above(rival: str) -> Judge:
    """SC-LMKB above a rival at every point of the sweeps, both metrics, intervals clear of 0."""

    def judge(rows: Sequence[Row]) -> tuple[Verdict, str] | None:
        found = differences(rows, rival)
        if not found:
            return None
        clear, below = ([r for r in found if test(r)] for test in (is_above, is_below))
        worst = min(found, key=lambda row: row.mean)
        places = ", ".join(
            f"{snr_db:g} dB {sum(map(is_above, at))} of {len(at)}"
            for snr_db, at in by_snr(found).items()
            if any(map(is_above, at))
        )
        text = (
            f"{len(clear)} of {len(found)} points clear above{f' ({places})' if places else ''}, "
            f"{len(below)} clear below; worst {_span(worst)} points of {worst.metric.removesuffix('_difference')} at "
            f"{_where(worst)}"
        )
        return ("met" if len(clear) == len(found) else "missed"), text

    return judge


def _best_gain(rival: str, least: float) -> Judge:
    """The largest relative gain of SC-LMKB's R@1 over a rival anywhere on the sweeps."""

    def judge(rows: Sequence[Row]) -> tuple[Verdict, str] | None:
        gains = relative_gains(rows, "r_at_1", rival)
        if not gains:
            return None
        gain, at = max(gains, key=lambda g: g[0])
        return ("met" if gain >= least else "missed"), f"{100 * gain:+.1f} % at {_where(at)}"

    return judge


def _at_25_db(rows: Sequence[Row]) -> tuple[Verdict, str] | None:
    gains = [g for g in relative_gains(rows, "map", "deepsc-mimo") if g[1].snr_db == 25.0]
    if not gains:
        return None
    gain, at = max(gains, key=lambda g: g[0])
    return ("met" if gain >= 0.249 else "missed"), f"at most {100 * gain:+.1f} % mAP, {_where(at)}"


def _near_ideal(rows: Sequence[Row]) -> tuple[Verdict, str] | None:
    found = [
        row
        for row in pick(rows, metric="map_share_of_ideal", method="sc-lmkb", bits=64, symbols=64)
        if row.snr_db is not None and row.snr_db >= 10.0 and row.split != "val"
    ]
    if not found:
        return None
    worst = min(found, key=lambda row: row.mean)
    text = f"at least {100 * worst.mean:.1f} % of the ideal link's mAP, {_where(worst)}"
    return ("met" if worst.mean >= 0.95 else "missed"), text


def _by_place(
    rows: Sequence[Row],
) -> dict[tuple[str, float | None, str | None], dict[str, float]]:
    """NMSE in dB of each predictor at 64 bits by scenario, speed and delay, without lost reports."""
    places: dict[tuple[str, float | None, str | None], dict[str, float]] = {}
    for row in pick(rows, metric="nmse_db", bits=64):
        lossy = "lost" in (row.variant or "")
        if row.method and row.corpus is None and row.scenario and row.task is None and not lossy:
            places.setdefault((row.scenario, row.speed_kmh, row.variant), {})[row.method] = row.mean
    return places


def _prediction(rows: Sequence[Row]) -> tuple[Verdict, str] | None:
    """NMSE of CDG against the best rival at each place of the sweep, in dB."""
    gaps = []
    for place, by_name in _by_place(rows).items():
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
) -> Judge:
    """A single row's mean against a figure."""

    def judge(rows: Sequence[Row]) -> tuple[Verdict, str] | None:
        found = pick(rows, metric=metric, variant=variant)
        found = [row for row in found if method is None or row.method == method]
        if not found:
            return None
        return ("met" if found[0].mean >= least else "missed"), f"{_span(found[0])} {unit}"

    return judge


def _feedback(rows: Sequence[Row]) -> tuple[Verdict, str] | None:
    """At most 64 bits of the best scheme against scalar's 512 at 25 dB: "the same" is an interval above −1 point.

    That a difference cannot be told from 0 does not show that there is none.
    """
    best = _best_feedback(rows)
    if not best:
        return None
    worst = min(best, key=lambda row: row.mean)
    text = f"worst {_span(worst)} points of mAP, {worst.variant}, {_where(worst)}"
    return ("met" if all(map(_is_as_good, best)) else "missed"), text


def _is_as_good(row: Row) -> bool:
    return row.ci95 is not None and row.ci95[0] > -AS_GOOD


def _best_feedback(rows: Sequence[Row]) -> list[Row]:
    """At each place the difference of the best report of at most 64 bits from scalar's 512."""
    pattern = re.compile(r"(RVQ|learned) (8|16|32|64) bits.* vs scalar 512 bits, (\d) users")
    best: dict[tuple[object, ...], Row] = {}
    for row in pick(rows, metric="map_difference", snr_db=25.0):
        match = pattern.fullmatch(row.variant or "")
        if match:
            place = (row.task, row.scenario, row.speed_kmh, match[3])
            if place not in best or row.mean > best[place].mean:
                best[place] = row
    return list(best.values())


# --- what the reports hold of the reasons -----------------------------------------------------


def _headroom(metric: str, bound: str, least_snr_db: float, title: str) -> Evidence:
    """How far above DeepSC-MIMO a bound lies at most, from an SNR on: no method over the same link can gain more."""

    def gains_of(rows: Sequence[Row]) -> list[tuple[float, Row]]:
        # Where SC-LMKB was measured, too: other reports have other queries.
        if not pick(rows, metric=metric, method="sc-lmkb", split="test"):
            return []
        ideal = {
            (row.task, row.corpus): row
            for row in pick(rows, metric=metric, method="ideal", split="test")
        }
        perfect = {
            (row.task, row.corpus, row.scenario, row.speed_kmh, row.snr_db, row.variant): row
            for row in pick(rows, metric=metric, quantizer="perfect", split="test")
        }
        gains = []
        for row in pick(rows, metric=metric, method="deepsc-mimo", quantizer="rvq", split="test"):
            at = (row.task, row.corpus, row.scenario, row.speed_kmh, row.snr_db, row.variant)
            best = ideal.get((row.task, row.corpus)) if bound == "ideal" else perfect.get(at)
            if best and row.mean > 0 and (row.snr_db or 0.0) >= least_snr_db:
                gains.append((best.mean / row.mean - 1.0, row))
        return gains

    def say(rows: Sequence[Row]) -> str | None:
        gains = [gain for report in by_report(rows) for gain in gains_of(report)]
        if not gains:
            return None
        gain, at_row = max(gains, key=lambda g: g[0])
        return f"Here {title} is at most {100 * gain:+.1f} % above DeepSC-MIMO, {_where(at_row)}."

    return say


def _parts(rows: Sequence[Row]) -> str | None:
    """What each side brings: SC-LMKB over itself without one, over all points."""
    said = []
    for title, side in (
        ("SC-LMKB w/o SDG", "the source side"),
        ("SC-LMKB w/o CDG", "the channel side"),
    ):
        found = [r for r in differences(rows, title) if r.metric == "map_difference"]
        if not found:
            return None
        means = [r.mean for r in found]
        said.append(
            f"{side} brings {_points(min(means))} … {_points(max(means))} points of mAP, clear above 0 at "
            f"{sum(map(is_above, found))} of {len(found)} points"
        )
    return f"Of the two sides {' and '.join(said)}."


def _trained_tie(rows: Sequence[Row]) -> str | None:
    """How far apart the trained predictors are at 64 bits, and how far below the best linear one."""
    trained, linear = ("cdg", "transformer", "llm4cp", "csi-llm"), ("wiener", "kalman")
    places = [
        by_name
        for by_name in _by_place(rows).values()
        if all(name in by_name for name in (*trained, *linear))
    ]
    if not places:
        return None
    spread = max(max(p[n] for n in trained) - min(p[n] for n in trained) for p in places)
    gains = [min(p[n] for n in linear) - min(p[n] for n in trained) for p in places]
    return (
        f"Here the trained predictors, with and without an LLM, are within {spread:.2f} dB of each other at all "
        f"{len(places)} places, and the best of them is {sum(gains) / len(gains):.2f} dB below the best linear one in "
        f"the mean."
    )


def _spans(parts: Sequence[tuple[str, str, str, str]]) -> Evidence:
    """Rows (metric, variant) said with their intervals: title, metric, variant, unit of each."""

    def say(rows: Sequence[Row]) -> str | None:
        said = []
        for title, metric, variant, unit in parts:
            found = pick(rows, metric=metric, variant=variant)
            if not found:
                return None
            said.append(f"{title} {_span(found[0])} {unit}")
        return f"Here {', '.join(said)}."

    return say


def _feedback_places(rows: Sequence[Row]) -> str | None:
    """Where few bits do not do, and where they do."""
    best = _best_feedback(rows)
    missed = [row for row in best if not _is_as_good(row)]
    places = "; ".join(f"{_where(row)}: {_span(row)} points" for row in missed)
    below = sum(map(is_below, missed))
    told = f"{below} clear below 0" if below else "none clear below 0"
    return (
        f"Not shown at {len(missed)} of {len(best)} places, {told}: {places}." if missed else None
    )


TARGETS: Final = (
    Target(
        "SC-LMKB over conventional SC",
        "above DeepSC-MIMO at every SNR, bits and task, 95 % interval clear of 0",
        "semlink experiment fig6 (7, 8, 9, 10)",
        _above("DeepSC-MIMO"),
        "There is little to win: from about 5 dB on DeepSC-MIMO is within a few points of perfect CSI and of the "
        "ideal link, since the codec is trained over quantised, outdated CSI (fig6, fig7, fig10: the two bounds). "
        "Below that better CSI could gain (perfect CSI does, at -10 dB), but predicted CSI brings too little of it, "
        "and rewrites hardly change an answer: of five that the LLM writes less than one is true and complete "
        "(docs/knowledge.md, query time).",
        _parts,
    ),
    Target(
        "SC-LMKB over conventional SC, largest gain",
        "≥ +72.6 % R@1 somewhere on the sweep",
        "semlink experiment fig6 (7, 8, 9, 10)",
        _best_gain("deepsc-mimo", 0.726),
        "Only a rival that breaks down leaves room for such a gain, and here it does not: the same codec is "
        "trained over the emulated link with quantised, outdated CSI.",
        _headroom("r_at_1", "perfect", -100.0, "even perfect CSI"),
    ),
    Target(
        "SC-LMKB over LLM-enabled SC",
        "above at every SNR, bits and task, 95 % interval clear of 0",
        "semlink experiment fig6 (7, 8, 9, 10)",
        _above("LLM-SC, no CDFC"),
        "The filter and the fusion avoid what unfiltered rewrites cost. For sounds, where the LLM invents most, "
        "that is clear at every SNR (fig8); for persons and pictures the sign is the same almost everywhere, but "
        "most of what the LLM writes there repeats the caption (docs/knowledge.md, query time), so that the loss "
        "is smaller than the interval of so many queries.",
    ),
    Target(
        "SC-LMKB over LLM-enabled SC, largest gain",
        "≥ +90.7 % R@1 somewhere on the sweep",
        "semlink experiment fig6 (7, 8, 9, 10)",
        _best_gain("llm-sc", 0.907),
        "LLM-SC loses most for sounds (fig8); for persons and pictures its rewrites are mostly repetitions "
        "(docs/knowledge.md, query time).",
    ),
    Target(
        "SC-LMKB over conventional SC at 25 dB",
        "≥ +24.9 % mAP",
        "semlink experiment fig6",
        _at_25_db,
        "At 25 dB nearly nothing is lost on the way. A channel side can gain no more than the ideal link, which "
        "has no channel; the rest would have to come from better queries, and the LLM's rewrites bring little "
        "(docs/knowledge.md, query time).",
        _headroom("map", "ideal", 25.0, "the ideal link itself"),
    ),
    Target(
        "distance to the ideal link",
        "≥ 95 % of its mAP from 10 dB on, 64 bits, 64 symbols",
        "semlink experiment fig6 (7, 8, 10)",
        _near_ideal,
        "With four users the error of a quantised report leaks between streams, which no SNR lifts "
        "(docs/explain.md, one user against four).",
    ),
    Target(
        "CDG",
        "NMSE at 64 bits ≥ 1 dB below the best rival",
        "semlink experiment csi-prediction",
        _prediction,
        "All trained predictors share what does the work, a head that weighs each angular-delay component of the "
        "old reports; the language model adds nothing that can be measured: with its output replaced by its mean "
        "CDG loses 0.0004 dB (docs/knowledge.md, what the LLM brings to CDG).",
        _trained_tie,
    ),
    Target(
        "GPA over DP, text to audio",
        "≥ +6.7 % R@1, relative",
        "semlink experiment gpa",
        _variant("r_at_1_relative_gain", "GPA over DP, NT-Xent, text-to-audio", 0.067, "%"),
        "Readouts on a frozen transformer leave prototypes less to add than the paper's full training "
        "(docs/retrieval.md, sound), and its mask generator is the weaker one here.",
        _spans(
            [
                (
                    "the paper's attention generator gains",
                    "r_at_1_relative_gain",
                    "GPA with attention over DP, text-to-audio",
                    "%",
                )
            ]
        ),
    ),
    Target(
        "GPA over DP, audio to text",
        "≥ +12.2 % R@1, relative",
        "semlink experiment gpa",
        _variant("r_at_1_relative_gain", "GPA over DP, NT-Xent, audio-to-text", 0.122, "%"),
        "Readouts on a frozen transformer leave prototypes less to add than the paper's full training "
        "(docs/retrieval.md, sound), and its mask generator is the weaker one here.",
        _spans(
            [
                (
                    "the paper's attention generator gains",
                    "r_at_1_relative_gain",
                    "GPA with attention over DP, audio-to-text",
                    "%",
                )
            ]
        ),
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
        "The student ranks sentences without seeing the picture (docs/retrieval.md, noisy text to picture).",
    ),
    Target(
        "Sew + MCM over CMPM + CMPC",
        "≥ +5.42 points of Rank-1",
        "semlink experiment sew-mcm",
        _variant("r_at_1_difference", "sew-mcm vs cmpm-cmpc", 0.0542),
        "Sew alone would reach it; masked captions cost some of it again. Captions of `pedestrians` share a few "
        "forms, and a frozen MiniLM cannot learn from what is masked: the likeliest reason (docs/retrieval.md, "
        "persons).",
        _spans(
            [
                ("the fixed margin alone", "r_at_1_difference", "sew-fixed vs cmpm-cmpc", "points"),
                ("MCM on top of Sew", "r_at_1_difference", "sew-mcm vs sew-adaptive", "points"),
            ]
        ),
    ),
    Target(
        "re-ranking",
        "≥ +3.38 points of Rank-1",
        "semlink experiment sew-mcm",
        _variant("r_at_1_difference", "sew-mcm re-ranked vs sew-mcm", 0.0338),
        "Shared neighbours bring up the right person's other pictures and make the first place less sure.",
        _spans(
            [
                ("mAP", "map_difference", "sew-mcm re-ranked vs sew-mcm", "points"),
                (
                    "Rank-1 with a fifth of the weight",
                    "r_at_1_difference",
                    "sew-mcm re-ranked, weighted vs sew-mcm",
                    "points",
                ),
            ]
        ),
    ),
    Target(
        "feedback",
        "the mAP of 512-bit scalar feedback with ≤ 64 bits, 25 dB (interval above −1 point)",
        "semlink experiment feedback",
        _feedback,
        "With four users and no line of sight the error of the report leaks between streams and is a ceiling at "
        "high SNR (docs/explain.md, one user against four); 64 bits describe a channel of many paths less well "
        "than 512 (csi-rate).",
        _feedback_places,
    ),
)
