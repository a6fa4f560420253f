"""What the samples of a step say: rates, quantiles, shares, cost."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lab.evaluation.report import Row
from semlink.grid import OFDM_SYMBOLS_PER_SLOT, SLOT_SECONDS, SUBCARRIER_SPACING_HZ
from semlink.load.generator import Answer, Sample, Step
from semlink.load.plan import Plan

QUANTILES: Final = (50, 90, 99)
FIGURES: Final[Mapping[str, str]] = {
    "calls_per_s": "calls that were due in a second",
    "queries_per_s": "queries answered with 200 in a second",
    "p50_ms": "time of an answered call from when it was due: median",
    "p90_ms": "the same: 90 % are faster",
    "p99_ms": "the same: 99 % are faster",
    "answered_share": "of all queries, those answered with 200",
    "refused_share": "of all queries, those refused in the end with 429 or 503",
    "failed_share": "of all queries, those neither answered nor refused",
    "refusals_per_s": "answers 429 and 503 in a second, those that were asked again included",
    "degraded_share": "of the answers, those that name a fallback",
    "erased_share": "of the answers, those whose digital message the emulated channel destroyed",
    "correct_share": "of the answers, those whose first result is right",
    "timely_per_s": "queries answered within their deadline in a second",
    "correct_per_s": "right answers within their deadline in a second (goodput)",
    "correct_per_s_per_khz": "right answers within their deadline in a second and kHz that messages occupied",
    "occupied_khz": "bandwidth that the messages occupied on average",
    "symbols_per_s": "complex symbols sent in a second",
    "feedback_bits_per_s": "bits of CSI reports that the answered queries rested on, in a second",
    "slots_used_share": "of the slots that passed on the links in use, those that a message took",
    "cell_full_at_queries_per_s": "queries a second at which every slot would be taken",
    "cpu_ms_per_query": "CPU time of all services for an answered query",
    "memory_mib": "resident memory of all services at the end",
    "generator_cpu_ms_per_call": "CPU time of the load generator for a call",
    "generator_late_p99_ms": "how late calls were sent: 99 % less",
}
"""Every figure of a step and what it is. With ``p50_ms.STAGE`` (p90, p99) of each stage and ``emulated.PART``."""
_OF_STAGE: Final = re.compile(r"p(50|90|99)_ms\.[a-z_.]+")
_SYMBOL_S: Final = SLOT_SECONDS / OFDM_SYMBOLS_PER_SLOT


@dataclass(frozen=True, slots=True)
class Figures:
    """A step in numbers. ``stages``, ``emulated``: quantiles of milliseconds by name; ``groups``: by part of a mix."""

    step: Step
    values: dict[str, float]
    stages: dict[str, tuple[float, ...]]
    emulated: dict[str, tuple[float, ...]]
    statuses: dict[str, int]
    groups: dict[str, dict[str, float]]

    @property
    def by_name(self) -> dict[str, float]:
        """Every figure by the name that a rule uses."""
        named = dict(self.values)
        for prefix, parts in (("", self.stages), ("emulated.", self.emulated)):
            for stage, quantiles in parts.items():
                for q, value in zip(QUANTILES, quantiles, strict=True):
                    named[f"p{q}_ms.{prefix}{stage}"] = value
        return named


def is_figure(name: str) -> bool:
    """Whether a rule may name it; whether a stage exists is known after the run only."""
    return name in FIGURES or _OF_STAGE.fullmatch(name) is not None


def figures_of(step: Step, plan: Plan) -> Figures:
    """Reduce the samples of a step. What cannot be known is NaN."""
    samples, seconds = step.samples, step.seconds
    answered = [one for one in samples if one.answers]
    inside = [one for one in answered if one.ended_s <= seconds]
    answers = [answer for one in answered for answer in one.answers]
    timely = [
        answer
        for one in inside
        if one.latency_s * 1e3 <= plan.deadline_ms
        for answer in one.answers
    ]
    within = [answer for one in inside for answer in one.answers]
    occupied = sum(_khz_s(answer, plan) for answer in within)
    correct = sum(answer.correct for answer in timely)
    queries = sum(len(one.asked) for one in samples)
    refused = sum(len(one.asked) for one in samples if one.status in ("429", "503"))
    slots_share = _slots_used_share(within, seconds)
    rate = _over(len(within), seconds)
    values = {
        "calls_per_s": _over(sum(one.due_s <= seconds for one in samples), seconds),
        "queries_per_s": rate,
        **_quantile_values(answered),
        "answered_share": _over(len(answers), queries),
        "refused_share": _over(refused, queries),
        "failed_share": _over(queries - len(answers) - refused, queries),
        "refusals_per_s": _over(sum(one.refusals for one in samples), seconds),
        **_shares(answers),
        "timely_per_s": _over(len(timely), seconds),
        "correct_per_s": _over(correct, seconds),
        "correct_per_s_per_khz": _over(correct, occupied),
        "occupied_khz": _over(occupied, seconds),
        "symbols_per_s": _over(sum(answer.symbols for answer in within), seconds),
        "feedback_bits_per_s": _over(sum(answer.feedback_bits for answer in within), seconds),
        "slots_used_share": slots_share,
        "cell_full_at_queries_per_s": _over(rate, slots_share),
        "cpu_ms_per_query": math.nan,
        "memory_mib": math.nan,
        "generator_cpu_ms_per_call": _over(1e3 * step.generator_cpu_s, len(samples)),
        "generator_late_p99_ms": _quantiles(1e3 * one.late_s for one in samples)[-1],
    }
    if step.services:
        cpu_ms = 1e3 * sum(one.cpu_s for one in step.services.values())
        values["cpu_ms_per_query"] = _over(cpu_ms, len(answers))
        values["memory_mib"] = sum(one.rss_mib for one in step.services.values())
    return Figures(
        step,
        values,
        _by_part(answer.timings_ms for answer in answers),
        _by_part(answer.emulated_ms for answer in answers),
        dict(sorted(Counter(one.status for one in samples).items())),
        _groups(answered, plan),
    )


def rows_of(figures: Iterable[Figures], plan: Plan, *, where: str = "") -> list[Row]:
    """All figures in the form of every report: ``variant`` names the load, then the stage, service or part of a mix."""
    rows: list[Row] = []
    link = plan.described_link()
    for one in figures:
        name = f"{where}{one.step.load}"
        fixed: dict[str, Any] = {
            "method": str(plan.methods),
            "task": str(plan.tasks),
            "scenario": plan.link.get("scenario"),  # else the gateway's default
            "snr_db": link.snr_db,
            "bits": link.feedback.bits,
            "symbols": plan.symbols,
            "quantizer": link.feedback.quantizer,
            "queries": sum(len(sample.asked) for sample in one.step.samples),
        }

        found = [(metric, value, "") for metric, value in one.by_name.items()]
        found += [("calls", float(n), f"status {status}") for status, n in one.statuses.items()]
        for service, use in one.step.services.items():
            found += [("cpu_s", use.cpu_s, service), ("rss_mib", use.rss_mib, service)]
        for group, values in one.groups.items():
            found += [(metric, value, group) for metric, value in values.items()]
        rows += [
            Row(metric, value, variant=f"{name}, {part}" if part else name, **fixed)
            for metric, value, part in found
            if not math.isnan(value)
        ]
    return rows


def _quantile_values(samples: Iterable[Sample]) -> dict[str, float]:
    found = _quantiles(1e3 * one.latency_s for one in samples)
    return {f"p{q}_ms": value for q, value in zip(QUANTILES, found, strict=True)}


def _shares(answers: Sequence[Answer]) -> dict[str, float]:
    return {
        f"{name}_share": _over(sum(getattr(one, name) for one in answers), len(answers))
        for name in ("degraded", "erased", "correct")
    }


def _groups(answered: Sequence[Sample], plan: Plan) -> dict[str, dict[str, float]]:
    """Latency and shares for each task, method, kind of link and size of batch, where there are several."""
    found: dict[str, dict[str, float]] = {}
    for what, mix in (("task", plan.tasks), ("method", plan.methods), ("link_kind", plan.links)):
        for value in mix.values if len(mix.values) > 1 else ():
            calls = [one for one in answered if getattr(one.asked[0], what) == value]
            every = (answer for one in answered for answer in one.answers)
            chosen = [answer for answer in every if getattr(answer.asked, what) == value]
            # a batch of several kinds has one latency; it counts to its first query
            found[f"{what.replace('_kind', '')} {value}"] = {
                "answers": len(chosen),
                **_quantile_values(calls),
                **_shares(chosen),
            }
    for size in plan.batch.values if len(plan.batch.values) > 1 else ():
        calls = [one for one in answered if len(one.asked) == size]
        chosen = [answer for one in calls for answer in one.answers]
        found[f"{size} a call"] = {
            "answers": len(chosen),
            **_quantile_values(calls),
            **_shares(chosen),
        }
    return found


def _khz_s(answer: Answer, plan: Plan) -> float:
    """Bandwidth × time of a message, kHz·s: its resource elements, each shared with those beside it in the slot."""
    num_layers = plan.link.get("num_layers", 1)
    elements = -(-answer.symbols // num_layers) / (1 + answer.co_scheduled)
    return float(elements * SUBCARRIER_SPACING_HZ / 1e3 * _SYMBOL_S)


def _slots_used_share(answers: Sequence[Answer], seconds: float) -> float:
    """Slots that messages took, over those that passed on their links: a shared link has a slot for each query.

    Links that are new in every query are left out: each carries one message.
    """
    opened: defaultdict[str, set[int]] = defaultdict(set)
    by_value: Counter[str] = Counter()
    for answer in answers:
        if answer.slot is None or answer.asked.link_kind == "new":
            continue
        if answer.asked.link_kind == "opened":
            opened[answer.asked.link].add(answer.slot)
        else:
            by_value[answer.asked.link] += 1
    links = len(opened) + len(by_value)
    slots = sum(map(len, opened.values())) + by_value.total()
    passed = seconds / SLOT_SECONDS * links
    return _over(slots, passed)


def _by_part(parts: Iterable[Mapping[str, float]]) -> dict[str, tuple[float, ...]]:
    values: defaultdict[str, list[float]] = defaultdict(list)
    for one in parts:
        for name, milliseconds in one.items():
            values[name].append(milliseconds)
    return {name: _quantiles(found) for name, found in sorted(values.items())}


def _quantiles(values: Iterable[float]) -> tuple[float, ...]:
    found = list(values)
    if not found:
        return (math.nan,) * len(QUANTILES)
    return tuple(map(float, np.percentile(found, QUANTILES)))


def _over(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
