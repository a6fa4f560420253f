"""SC-LMKB, its ablations and its rivals: retrieval against SNR and against bits of a CSI report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kb_service.rewriting import task_of
from lab.evaluation.report import Row
from lab.evaluation.rewrite_cache import RewriteCache, item_of, load_rewriter
from lab.experiments.interface import Measured, Run
from lab.experiments.plotting import Figure, Line, Panel
from lab.experiments.runner import Y_LABELS, Figures, Study, panel
from lab.experiments.sweep import DEFAULT_SAMPLING, IDEAL, PERFECT, Point, Sampling, Scheme
from semlink.errors import InvalidField
from semlink.methods import METHODS

OURS: Final = "sc-lmkb"
ROWS: Final = {
    "sc-lmkb": "SC-LMKB",
    "sc-lmkb-cdg": "SC-LMKB, CDG by name",
    "sc-lmkb-wo-sdg": "SC-LMKB w/o SDG",
    "sc-lmkb-wo-cdg": "SC-LMKB w/o CDG",
    "deepsc-mimo": "DeepSC-MIMO",
    "llm-sc": "LLM-SC, no CDFC",
    "llm4cp": "LLM4CP",
    "csi-llm": "CSI-LLM",
    "separation": "separation",
}
"""Methods and their names in plots; "ideal" and perfect CSI are drawn beside them as bounds."""
SNRS_DB: Final = (-10.0, -5.0, 0.0, 5.0, 10.0, 15.0, 20.0, 25.0)
BITS: Final = (8, 16, 32, 64, 128, 256)
METRICS: Final = ("r_at_1", "map")
QUICK: Final[Mapping[str, Any]] = {
    "seeds": 2,
    "queries": 8,
    "links": 2,
    "snrs_db": (0.0, 20.0),
    "sweep_bits": (16, 64),
}
"""What ``--quick`` overrides: a smoke run, not a measurement."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is swept. Either sweep may be empty."""

    sampling: Sampling = DEFAULT_SAMPLING
    scenario: str = "umi-los"
    """3GPP TR 38.901: umi-los, uma-nlos, cdl-b, …"""
    speed_kmh: float = 3.0
    """Of each user, km/h."""
    num_users: int = 4
    """Co-scheduled users."""
    bits: int = 64
    """Of a CSI report in the sweep over snrs_db."""
    snrs_db: tuple[float, ...] = SNRS_DB
    """Of the link, dB; none: no such sweep."""
    sweep_snr_db: float = 5.0
    """SNR of the sweep over sweep_bits, dB."""
    sweep_bits: tuple[int, ...] = BITS
    """Of a CSI report; none: no such sweep."""
    methods: tuple[str, ...] = tuple(ROWS)
    """Rows of semlink.methods; SC-LMKB is compared with each of the others."""
    name: str = ""
    """Of the report; default: after task and scenario."""

    @property
    def report(self) -> str:
        """The name of its files."""
        sampled = self.sampling.corpus or self.sampling.task
        return self.name or f"methods-{sampled}-{self.scenario}"

    def point(self, method: str, snr_db: float, bits: int) -> Point:
        """A method on one of the plan's links."""
        scheme = Scheme(ROWS[method], method, "rvq", bits)
        return Point(scheme, self.scenario, self.speed_kmh, self.num_users, snr_db)

    def over_snr(self, method: str) -> list[tuple[float, Point]]:
        """A method's points by SNR."""
        return [(snr_db, self.point(method, snr_db, self.bits)) for snr_db in self.snrs_db]

    def over_bits(self, method: str) -> list[tuple[float, Point]]:
        """A method's points by bits."""
        return [(bits, self.point(method, self.sweep_snr_db, bits)) for bits in self.sweep_bits]

    def bound(self, scheme: Scheme, snr_db: float) -> Point:
        """A bound on one of the plan's links."""
        return Point(scheme, self.scenario, self.speed_kmh, self.num_users, snr_db)


def measure(plan: Plan, run: Run) -> Measured:
    """Measure a plan. Raises InvalidField for a method that is no row."""
    return study(plan).measure(run)


def study(plan: Plan) -> Study:
    """What a plan measures. Raises InvalidField for a method that is no row."""
    if unknown := [m for m in plan.methods if m not in ROWS]:
        raise InvalidField(
            f"methods has {unknown[0]!r}, allowed: {', '.join(ROWS)}", field="methods"
        )
    points: list[Point] = []
    claims: list[tuple[Point, Point]] = []
    for curve in (plan.over_snr, plan.over_bits):
        for method in plan.methods:
            points += [point for _, point in curve(method)]
            if OURS in plan.methods and method != OURS:
                pairs = zip(curve(OURS), curve(method), strict=True)
                claims += [(ours, other) for (_, ours), (_, other) in pairs]
    at = [*plan.snrs_db, *([plan.sweep_snr_db] if plan.sweep_bits else [])]
    points += [plan.bound(PERFECT, snr_db) for snr_db in dict.fromkeys(at)]
    return Study(
        name=plan.report,
        sampling=plan.sampling,
        points=points,
        draw=lambda figures: _figures(plan, figures),
        claims=claims,
        claimed=METRICS,
        prepare=_rewrites if any(METHODS[m].rewrites for m in plan.methods) else None,
        draw_claims=difference_figures,
    )


def _rewrites(texts: Iterable[str]) -> dict[str, bytes]:
    """Rewrites of every query, so that none waits: from the cache; what it lacks the LLM makes, in a second or two
    each.

    Raises NotFound with the command that installs the LLM.
    """
    cache = RewriteCache()
    tasks = [task_of(item_of(text), field="text") for text in dict.fromkeys(texts)]
    if missing := [t for t in tasks if (t.text, t.temperature) not in cache]:
        cache.generate(load_rewriter(), missing)
    return cache.entries(tasks)


def _panels(plan: Plan, metric: str, figures: Figures) -> list[Panel]:
    ideal = Point(IDEAL)
    panels = []
    if plan.snrs_db:
        curves = [
            (IDEAL.label, [(s, ideal) for s in plan.snrs_db], True),
            (PERFECT.label, [(s, plan.bound(PERFECT, s)) for s in plan.snrs_db], True),
            *((ROWS[m], plan.over_snr(m), False) for m in plan.methods),
        ]
        panels.append(panel(f"{plan.bits}-bit reports", "SNR [dB]", metric, curves, figures))
    if plan.sweep_bits:
        perfect = plan.bound(PERFECT, plan.sweep_snr_db)
        curves = [
            (IDEAL.label, [(b, ideal) for b in plan.sweep_bits], True),
            (PERFECT.label, [(b, perfect) for b in plan.sweep_bits], True),
            *((ROWS[m], plan.over_bits(m), False) for m in plan.methods),
        ]
        at = f"{plan.sweep_snr_db:g} dB"
        x_label = "bits of one report"
        panels.append(panel(at, x_label, metric, curves, figures, log_x=True, y_limits=None))
    return panels


def difference_figures(rows: Sequence[Row]) -> list[Figure]:
    """Ours minus each rival over SNR or bits, in points with 95 % intervals; a panel a metric, nothing without rivals.

    Digital coding is left out: beside its distance those of the others would not be seen.
    """
    panels = []
    for metric in METRICS:
        title = Y_LABELS[metric]
        found = [r for r in rows if r.metric == f"{metric}_difference" and r.method == OURS]
        by_bits = len({r.bits for r in found}) > len({r.snr_db for r in found})
        lines = []
        for method, label in ROWS.items():
            of = [r for r in found if r.baseline == method]
            at = [(float(x), r) for r in of if (x := r.bits if by_bits else r.snr_db) is not None]
            at.sort(key=lambda pair: pair[0])
            if at and method not in (OURS, "separation"):
                lines.append(Line(label, [x for x, _ in at], [r for _, r in at]))
        if lines:
            zero = Line("no difference", lines[0].x, [Row(metric, 0.0)] * len(lines[0].x), True)
            x_label = "bits of one report" if by_bits else "SNR [dB]"
            name, y_label = f"SC-LMKB minus …, {title}", f"Δ {title} [points]"
            panels.append(Panel(name, x_label, y_label, [zero, *lines], by_bits, scale=100.0))
    title = "Same queries, same channels: 95 % intervals of a paired bootstrap"
    return [Figure("-differences", title, panels, labels=tuple(ROWS.values()))] if panels else []


def _figures(plan: Plan, figures: Figures) -> list[Figure]:
    title = (
        f"{plan.sampling.task}, {plan.scenario}, {plan.num_users} users, {plan.speed_kmh:g} km/h, k = 64, "
        f"{plan.sampling.seeds} seeds"
    )
    panels = [one for metric in METRICS for one in _panels(plan, metric, figures)]
    return [Figure("", title, panels)]
