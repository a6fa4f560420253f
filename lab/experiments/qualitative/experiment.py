"""Figure 11 of SC-LMKB (arXiv 2604.05504): single queries with their answers, with and without knowledge.

``semlink experiment fig11`` sends the captions that :func:`lab.experiments.retrieval_sweep.draw_queries` draws over
the link, by a method with and one without the LLM's knowledge, and writes a page of pictures (``fig11.html``), a
figure for print (``.png``, ``.svg``, ``.pdf``), tables (``.md``) and rows. Shown are the first of the draw, whatever
became of them, and then, said to be chosen for it, those in which the two methods differ. Words are shaded by
:mod:`lab.evaluation.word_importance`, whose worth is measured beside it by leaving words out. What to show is our
definition; the paper shows examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lab.evaluation.bootstrap import interval, paired_difference, resampled_means
from lab.evaluation.parallel import one_thread
from lab.evaluation.report import Row
from lab.evaluation.word_importance import importance
from lab.experiments.interface import Measured, Run
from lab.experiments.method_comparison import ROWS
from lab.experiments.method_comparison import Plan as MethodsPlan
from lab.experiments.qualitative.deletion_study import (
    COUNTS,
    METHODS,
    TOWARDS,
    deletion_rows,
    words_left_out,
)
from lab.experiments.qualitative.figure import draw_picture
from lab.experiments.qualitative.html_page import Group, Section, shown_query, write_page
from lab.experiments.qualitative.run import KINDS, Example, collect_examples
from lab.experiments.sweep import Sampling
from lab.experiments.tables import QUICK_RUN
from semlink.errors import InvalidField
from semlink.semantics.encoders import semantic_encoder
from semlink.semantics.gallery import GalleryEmbeddings
from semlink.semantics.spaces import space_of

NAME: Final = "fig11"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sent and how much of it is shown."""

    tasks: tuple[str, ...] = ("person", "image", "audio")
    """A section of the page each."""
    scenario: str = "umi-los"
    """3GPP TR 38.901: umi-los, uma-nlos, cdl-b, …"""
    snr_db: float = 0.0
    """Of the link, dB."""
    bits: int = 64
    """Of a CSI report."""
    symbols: int = 64
    """Channel uses k of a message."""
    num_users: int = 4
    """Co-scheduled users."""
    speed_kmh: float = 3.0
    """Of each user, km/h."""
    methods: tuple[str, ...] = ("sc-lmkb", "deepsc-mimo")
    """First the one with knowledge, then the one without."""
    top_k: int = 5
    """Items that are found for a query."""
    drawn: int = 50
    """Queries sent of each task."""
    queries: int = 4
    """The first of them, shown in full."""
    differing: int = 6
    """How many are shown at most of those that one method wins."""
    pictured: int = 2
    """Queries a task in the figure for print."""
    links: int = 50
    """Drops over which the queries are dealt out; with as many as queries, each has the link of fig6 to fig8."""
    seed: int = 0
    """Of the draw."""

    def __post_init__(self) -> None:
        if len(self.methods) != 2 or any(method not in ROWS for method in self.methods):
            raise InvalidField(
                f"methods is {', '.join(self.methods)}, allowed: two of {', '.join(ROWS)}",
                field="methods",
            )
        if not 1 <= self.pictured <= self.queries <= self.drawn:
            raise InvalidField(
                f"queries is {self.queries}, allowed: pictured…drawn, {self.pictured}…{self.drawn}",
                field="queries",
            )

    def example_plans(self) -> list[MethodsPlan]:
        """The same points of the same links as the paper's other figures measure, one plan a task."""
        return [
            MethodsPlan(
                sampling=Sampling(task, seeds=1, queries=self.drawn, links=self.links),
                scenario=self.scenario,
                speed_kmh=self.speed_kmh,
                num_users=self.num_users,
                bits=self.bits,
                snrs_db=(self.snr_db,),
                sweep_bits=(),
                methods=self.methods,
            )
            for task in self.tasks
        ]


QUICK: Final[Mapping[str, Any]] = {
    "tasks": ("person", "audio"),
    "drawn": 6,
    "queries": 2,
    "links": 2,
}
"""What ``--quick`` overrides: a smoke run, not a measurement."""


def measure(plan: Plan, run: Run) -> Measured:
    """Send and measure; shows the page and the figure for print, ``out/fig11.{html,png,svg,pdf}``.

    What this program sent before with these weights is taken from the cache unless ``run.fresh``. Raises NotFound where
    rewrites are missing and there is no LLM to make them.
    """
    rows: list[Row] = []
    with one_thread():
        examples = collect_examples(
            plan.example_plans(),
            run.console,
            seed=plan.seed,
            top_k=plan.top_k,
            symbols=plan.symbols,
            fresh=run.fresh,
        )
        for example in examples:
            rows += hit_rows(plan, example) + rewrite_rows(example)
            rows += deletion_rows(example, plan.seed)
        sections = [_section(plan, example) for example in examples]

    def show() -> None:
        verdicts = [QUICK_RUN] if run.quick else verdicts_of(plan, rows)
        write_page(
            run.out / f"{NAME}.html",
            sections,
            plan=plan,
            verdicts=verdicts,
            counts=_counts(plan, examples),
            deletions=_deletions(rows, plan.tasks),
            candidates=_candidates(plan, examples),
        )
        draw_picture(run.out / NAME, sections, plan.pictured, plan.top_k)
        for line in verdicts:
            run.console.print(line, markup=False, highlight=False)
        run.console.print(f"page: {run.out / NAME}.html", markup=False)

    return Measured(rows, show=show)


# --- rows --------------------------------------------------------------------------------------


def _coordinates(plan: Plan, example: Example) -> dict[str, Any]:
    return {
        "task": example.task,
        "corpus": example.corpus,
        "split": "test",
        "scenario": plan.scenario,
        "speed_kmh": plan.speed_kmh,
        "snr_db": plan.snr_db,
        "bits": plan.bits,
        "symbols": plan.symbols,
        "quantizer": "rvq",
        "seeds": 1,
        "num_users": plan.num_users,
        "queries": plan.drawn,
    }


def _hits(example: Example, method: str, places: int) -> NDArray[np.float64]:
    ranks = [answer.rank for answer in example.answers[method]]
    return np.array([float(rank is not None and rank <= places) for rank in ranks])


def hit_rows(plan: Plan, example: Example) -> list[Row]:
    """Shares right at place 1 and among the ``top_k``, erased, and what knowledge wins and loses.

    ``r_at_1_won`` and ``r_at_1_lost``: shares of the queries right at place 1 by one method alone; intervals over
    links.
    """
    links = np.array(example.links)
    at = _coordinates(plan, example)
    users = f"{plan.num_users} users"
    ours, other = plan.methods
    versus: dict[str, Any] = {
        "method": ours,
        "baseline": other,
        "variant": " vs ".join(ROWS[method] for method in plan.methods) + f", {users}",
    }

    def row(metric: str, values: NDArray[np.float64], **place: Any) -> Row:
        ci95 = interval(resampled_means(values[:, None], links)[:, 0])
        return Row(metric, float(values.mean()), ci95=ci95, **at, **place)

    rows = []
    for method, answers in example.answers.items():
        of = {f"r_at_{k}": _hits(example, method, k) for k in dict.fromkeys((1, plan.top_k))}
        of["erased"] = np.array([float(a.erased) for a in answers])
        rows += [row(name, v, method=method, variant=users) for name, v in of.items()]
    with_knowledge, without = (_hits(example, method, 1) for method in plan.methods)
    rows.append(row("r_at_1_won", with_knowledge * (1 - without), **versus))
    rows.append(row("r_at_1_lost", without * (1 - with_knowledge), **versus))
    mean, ci95 = paired_difference(with_knowledge, without, links)
    return [*rows, Row("r_at_1_difference", mean, ci95=ci95, **at, **versus)]


def rewrite_rows(example: Example) -> list[Row]:
    """Shares of the candidates that were kept and dropped, by kind: metric ``rewrites``, variant the kind."""
    rows = []
    for method, answers in example.answers.items():
        kinds = Counter(c.kind for answer in answers for c in answer.candidates)
        total = kinds.total()
        rows += [
            Row(
                "rewrites",
                kinds[kind] / total,
                method=method,
                task=example.task,
                corpus=example.corpus,
                split="test",
                seeds=1,
                variant=kind,
            )
            for kind in KINDS
            if total
        ]
    return rows


# --- what is shown -----------------------------------------------------------------------------


def _section(plan: Plan, example: Example) -> Section:
    ours, other = plan.methods
    first_of = {method: _hits(example, method, 1) for method in plan.methods}
    won = np.flatnonzero(first_of[ours] > first_of[other]).tolist()
    lost = np.flatnonzero(first_of[ours] < first_of[other]).tolist()
    groups = [
        (f"The first {plan.queries} of the draw", "", list(range(plan.queries))),
        _differing(plan, example, "Won", "only with knowledge", won),
        _differing(plan, example, "Lost", "only without knowledge", lost),
    ]
    numbers = sorted({number for _, _, some in groups for number in some})
    shaded = _shaded(plan, example, numbers)
    titles = {ours: f"with knowledge: {ROWS[ours]}", other: f"without: {ROWS[other]}"}
    return Section(
        title=f"text → {example.task} ({example.corpus})",
        groups=tuple(
            Group(
                title,
                note,
                tuple(shown_query(example, number, titles, shaded) for number in some),
            )
            for title, note, some in groups
        ),
    )


def _differing(
    plan: Plan, example: Example, title: str, who: str, numbers: Sequence[int]
) -> tuple[str, str, list[int]]:
    shown = list(numbers[: plan.differing])
    note = f"Chosen because they differ: right at place 1 {who} in {len(numbers)} of {plan.drawn} queries"
    if not numbers:
        return f"{title} by knowledge: none of {plan.drawn}", f"{note}.", shown
    some = "all of them" if len(shown) == len(numbers) else f"the first {len(shown)} of the draw"
    answers = example.answers[plan.methods[0]]
    same = sum(not any(c.kept for c in answers[number].candidates) for number in numbers)
    note += (
        f"; shown: {some}. In {same} of the {len(numbers)} no candidate of the LLM was kept: both sent the same "
        "feature, and only what each knew of the channel differed."
    )
    return f"{title} by knowledge: {len(numbers)} of {plan.drawn}", note, shown


def _shaded(
    plan: Plan, example: Example, numbers: Sequence[int]
) -> dict[tuple[int, str], NDArray[np.float32]]:
    """Importance of each shown query's words for the item that each method found first."""
    gallery = GalleryEmbeddings.load(example.corpus)
    place = {item_id: n for n, item_id in enumerate(gallery.item_ids)}
    wanted = [
        (number, method, example.answers[method][number].found[0].item_id)
        for number in numbers
        for method in plan.methods
        if example.answers[method][number].found
    ]
    if not wanted:
        return {}
    values = importance(
        [example.queries[number].text for number, _, _ in wanted],
        gallery.items[[place[item_id] for _, _, item_id in wanted]],
        semantic_encoder(space_of(example.corpus)).head("text"),
    )
    return {(number, method): one for (number, method, _), one in zip(wanted, values, strict=True)}


def _counts(plan: Plan, examples: Sequence[Example]) -> list[dict[str, Any]]:
    return [
        {
            "task": example.task,
            "title": ROWS[method],
            "first": int(_hits(example, method, 1).sum()),
            "among": int(_hits(example, method, plan.top_k).sum()),
            "erased": sum(answer.erased for answer in answers),
            "queries": len(answers),
        }
        for example in examples
        for method, answers in example.answers.items()
    ]


def _deletions(rows: Sequence[Row], tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """Lines of the deletion test's table."""
    at = {(row.task, row.metric, row.method, row.variant): row for row in rows}
    lines = []
    for task in tasks:
        for towards in TOWARDS:
            shares = [at[task, "same_first_word", m, towards].mean for m in ("grad-cam", "random")]
            for count in COUNTS:
                variant = f"{towards}, {words_left_out(count)}"
                drops = [_with_interval(at[task, "cosine_drop", m, variant]) for m in METHODS]
                versus = f"grad-cam vs random, {variant}"
                difference = at[task, "cosine_drop_difference", "grad-cam", versus]
                agreement = f"{100 * shares[0]:.0f} % ({100 * shares[1]:.0f} %)"
                lines.append(
                    (
                        task,
                        towards,
                        str(count),
                        *drops,
                        _with_interval(difference, signed=True),
                        agreement if count == 1 else "",
                    )
                )
    return lines


def _with_interval(row: Row, *, signed: bool = False) -> str:
    low, high = row.ci95 or (row.mean, row.mean)
    sign = "+" if signed else ""
    return f"{row.mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _candidates(plan: Plan, examples: Sequence[Example]) -> list[tuple[object, ...]]:
    lines: list[tuple[object, ...]] = []
    for example in examples:
        answers = example.answers[plan.methods[0]]
        kinds = Counter(c.kind for answer in answers for c in answer.candidates)
        if kinds:
            lines.append((example.task, kinds.total(), *(kinds[kind] for kind in KINDS)))
    return lines


def verdicts_of(plan: Plan, rows: Sequence[Row]) -> list[str]:
    """A line a task: right at place 1 with and without knowledge, and whether so few queries tell them apart.

    By the exact sign test over the queries that one method alone gets right: with a handful of those a bootstrap's
    interval, given beside it, is too narrow.
    """
    from scipy.stats import binomtest

    with_knowledge, without = plan.methods
    lines = []
    for task in plan.tasks:
        at = {(row.metric, row.method): row for row in rows if row.task == task}
        count = {key: round(row.mean * plan.drawn) for key, row in at.items()}
        won, lost = (count[f"r_at_1_{name}", with_knowledge] for name in ("won", "lost"))
        p = float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
        difference = at["r_at_1_difference", with_knowledge]
        low, high = difference.ci95 or (difference.mean, difference.mean)
        lines.append(
            f"{task}: right at place 1 in {count['r_at_1', with_knowledge]} of {plan.drawn} queries with knowledge, in "
            f"{count['r_at_1', without]} without: won {won}, lost {lost}, "
            f"{'told apart' if p < 0.05 else 'not told apart'} by so few (exact sign test p = {p:.2g}; bootstrap "
            f"{100 * difference.mean:+.0f} points [{100 * low:+.0f}, {100 * high:+.0f}])"
        )
    return lines
