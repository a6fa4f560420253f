"""The page of queries: it marks what is right, shows what the link did, and is always the same."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lab.evaluation.report import Row, pick, read_rows
from lab.experiments import method_comparison, registry
from lab.experiments.qualitative import experiment
from lab.experiments.qualitative.experiment import QUICK, Plan, hit_rows
from lab.experiments.qualitative.figure import draw_picture
from lab.experiments.qualitative.html_page import Group, Section, shown_query, write_page
from lab.experiments.qualitative.run import KINDS, Candidate, Example, collect_examples
from lab.experiments.qualitative.thumbnails import thumbnail
from lab.experiments.retrieval_sweep import draw_queries
from lab.experiments.sweep import Sampling
from semlink.corpora.registry import corpus_named
from semlink.errors import InvalidField
from semlink.semantics.modalities.sound import SPECTROGRAM, Sounds
from semlink.v1 import knowledge_pb2

MARKUP = "<b>a person</b> & nobody else"
TINY = Plan(tasks=("person",), drawn=4, queries=2, links=1, pictured=2, differing=2)


class Rewriter:
    """An LLM that says the query again in two ways, and something with markup that the filter must drop."""

    def __call__(self, tasks: Any, **_: Any) -> list[knowledge_pb2.RewriteSet]:
        found = [knowledge_pb2.RewriteSet() for _ in tasks]
        for task, one in zip(tasks, found, strict=True):
            one.rewrites.add(text=task.text.rstrip(".") + ", you see", similarity=0.97)
            one.rewrites.add(text=MARKUP, similarity=0.31)
            one.rewrites.add(text=task.text, similarity=1.0, reason="duplicate")
        return found


class Page(HTMLParser):
    """What a browser would read: figures in their order, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.figures: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self.sources: list[str] = []
        self.marks: list[str] = []
        self.text = ""
        self._in_mark = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        if tag == "figure":
            self.figures.append((given["data-item"] or "", given["class"] or ""))
        if "src" in given or "href" in given:
            self.sources.append(given.get("src") or given.get("href") or "")
        self._in_mark = tag == "span" and given.get("class") == "mark"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_mark and self.get_starttag_text():
            self.marks.append(data)
        self._in_mark = False


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The same tiny plan, twice from nothing."""
    patch = pytest.MonkeyPatch()
    folders = (tmp_path_factory.mktemp("once"), tmp_path_factory.mktemp("again"))
    patch.setattr(method_comparison, "load_rewriter", Rewriter)
    with open("/dev/null", "w") as nowhere:
        for folder in folders:
            patch.setenv("SEMLINK_CACHE_DIR", str(folder / "cache"))
            registry.experiment("fig11", TINY).run(folder, Console(file=nowhere), fresh=True)
        yield folders
    patch.undo()


def test_a_second_run_from_nothing_gives_the_same_bytes(ran: tuple[Path, Path]) -> None:
    once, again = ran
    for ending in ("csv", "html", "png", "svg", "pdf"):
        first = (once / f"fig11.{ending}").read_bytes()
        assert first == (again / f"fig11.{ending}").read_bytes(), ending
        assert len(first) > 500
    assert read_rows(once / "fig11.json") == read_rows(again / "fig11.json")


def test_right_is_marked_where_identities_say_so_and_nowhere_else(ran: tuple[Path, Path]) -> None:
    page = Page((ran[0] / "fig11.html").read_text())
    corpus = corpus_named("pedestrians")
    texts = re.findall(r"“(.+?)”", page.text)
    assert texts[: TINY.queries] == draw_queries(Sampling("person", queries=TINY.queries), 0).texts
    identity_of = {
        caption: item.identity for item in corpus.items("test") for caption in item.captions
    }
    shown = len(texts) * len(TINY.methods) * TINY.top_k
    assert len(page.figures) == shown == len(page.marks)
    for number, ((item_id, kind), mark) in enumerate(zip(page.figures, page.marks, strict=True)):
        text = texts[number // (len(TINY.methods) * TINY.top_k)]
        right = corpus.item(item_id).identity == identity_of[text]
        assert kind == ("right" if right else "wrong")
        assert mark == ("✓ right" if right else "✗ other")


def test_the_page_needs_nothing_else_and_markup_in_texts_is_text(ran: tuple[Path, Path]) -> None:
    source = (ran[0] / "fig11.html").read_text()
    page = Page(source)
    assert all(place.startswith("data:image/") for place in page.sources)
    assert "script" not in page.tags
    assert MARKUP not in source
    assert page.text.count(MARKUP) == source.count("&lt;b&gt;a person&lt;/b&gt; &amp; nobody else")
    assert MARKUP in page.text
    assert page.text.count("similarity 0.31 < 0.58") == page.text.count("✗ hallucination, dropped:")
    assert page.text.count("✗ dropped: ") == page.text.count("duplicate; cosine 1.00")


def test_rows_count_what_the_page_shows_of_all_that_was_drawn(ran: tuple[Path, Path]) -> None:
    rows = read_rows(ran[0] / "fig11.json")
    ours, other = (pick(rows, metric="r_at_1", method=method)[0].mean for method in TINY.methods)
    won, lost, difference = (
        pick(rows, metric=f"r_at_1_{name}")[0].mean for name in ("won", "lost", "difference")
    )
    assert won - lost == pytest.approx(ours - other) == pytest.approx(difference)
    for method in TINY.methods:
        (first,) = pick(rows, metric="r_at_1", method=method)
        (among,) = pick(rows, metric="r_at_5", method=method)
        assert 0 <= first.mean <= among.mean <= 1
        assert (first.mean * TINY.drawn) == pytest.approx(round(first.mean * TINY.drawn))
    kinds = {row.variant: row.mean for row in pick(rows, metric="rewrites")}
    assert sum(kinds.values()) == pytest.approx(1)
    assert kinds["similarity"] == kinds["duplicate"] == pytest.approx(1 / 3)
    for variant in ("right item, 1 word", "top 1, 1 word"):
        drop = {r.method: r.mean for r in pick(rows, metric="cosine_drop", variant=variant)}
        assert set(drop) == {"grad-cam", "random", "leave-one-out"}
        assert drop["leave-one-out"] >= max(drop.values()) - 1e-6
    assert len({replace(row, mean=0.0, ci95=None) for row in rows}) == len(rows)


def test_what_crossed_before_is_not_sent_again(
    ran: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kept answers are those of the first example, and nothing is asked of the transmitter."""
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(ran[0] / "cache"))
    monkeypatch.setattr(method_comparison, "load_rewriter", None)
    with open("/dev/null", "w") as nowhere:
        (kept,) = collect_examples(TINY.example_plans(), Console(file=nowhere))
    figures = Page((ran[0] / "fig11.html").read_text()).figures
    found = [
        (one.item_id, "right" if one.right else "wrong")
        for number in range(TINY.queries)
        for method in TINY.methods
        for one in kept.answers[method][number].found
    ]
    assert figures[: len(found)] == found
    assert all(a.rank is None or a.found[a.rank - 1].right for a in kept.answers["sc-lmkb"])


def test_an_erased_message_is_shown_as_erased(ran: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, open("/dev/null", "w") as nowhere:
        patch.setenv("SEMLINK_CACHE_DIR", str(ran[0] / "cache"))
        (whole,) = collect_examples(TINY.example_plans(), Console(file=nowhere))
    lost = tuple(replace(a, erased=True, found=()) for a in whole.answers["deepsc-mimo"])
    example: Example = replace(whole, answers={**whole.answers, "deepsc-mimo": lost})
    rows = hit_rows(TINY, example)
    assert pick(rows, metric="erased", method="deepsc-mimo")[0].mean == 1
    assert pick(rows, metric="r_at_5", method="deepsc-mimo")[0].mean == 0
    titles = {"sc-lmkb": "with knowledge", "deepsc-mimo": "without"}
    values = np.ones(len(example.queries[0].text.split()), dtype=np.float32)
    shown = shown_query(example, 0, titles, {(0, "sc-lmkb"): values})
    section = Section("text → person", (Group("first", "", (shown,)),))
    write_page(
        tmp_path / "page.html",
        [section],
        plan=TINY,
        verdicts=[],
        counts=[],
        deletions=[],
        candidates=[],
    )
    page = Page((tmp_path / "page.html").read_text())
    assert "The channel destroyed this message" in page.text
    assert [item for item, _ in page.figures] == [
        f.item_id for f in whole.answers["sc-lmkb"][0].found
    ]
    for path in draw_picture(tmp_path / "picture", [section], 1, 5):
        assert path.stat().st_size > 5_000


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 2), (1, 7), (0, 6), (9, 1)])
def test_methods_are_told_apart_by_the_sign_test(won: int, lost: int) -> None:
    """Twice the tail of fair coin flips, computed here by hand."""
    flips = won + lost
    tail = sum(math.comb(flips, k) for k in range(min(won, lost) + 1)) / 2**flips
    p = min(1.0, 2 * tail)
    shares = {"r_at_1_won": won, "r_at_1_lost": lost, "r_at_1_difference": won - lost}
    rows = [
        Row(metric, count / 50, method="sc-lmkb", task="person", ci95=(0.01, 0.02))
        for metric, count in {"r_at_1": 20 + won, **shares}.items()
    ]
    rows.append(Row("r_at_1", (20 + lost) / 50, method="deepsc-mimo", task="person"))
    (line,) = experiment.verdicts_of(Plan(tasks=("person",)), rows)
    assert f"won {won}, lost {lost}, {'told' if p < 0.05 else 'not told'} apart" in line
    assert f"p = {p:.2g};" in line


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("kept", "kept"),
        ("duplicate", "duplicate"),
        ("similarity 0.41 < 0.58", "similarity"),
        ("leaves out: the source adds 'sea'", "omission"),
        ("leaves out 'sea'", "omission"),
        ("adds 'leather'", "hallucination"),
        ("denies 'hat'", "hallucination"),
        ("changes whose attribute 'red hat' is", "hallucination"),
    ],
)
def test_reasons_of_the_filter_have_a_kind(reason: str, kind: str) -> None:
    assert Candidate("a text", kind == "kept", 0.5, reason).kind == kind
    assert kind in KINDS


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"methods": ("sc-lmkb",)}, "methods"),
        ({"methods": ("sc-lmkb", "magic")}, "methods"),
        ({"queries": 51}, "queries"),
        ({"queries": 1}, "queries"),
    ],
)
def test_a_plan_names_the_field_that_is_wrong(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as error:
        Plan(**values)
    assert error.value.field == field


def test_a_quick_run_is_a_plan_of_few_queries() -> None:
    assert Plan(**QUICK).drawn * len(Plan(**QUICK).tasks) <= 20
    assert experiment.NAME == "fig11"


# --- pictures ----------------------------------------------------------------------------------


def test_a_tone_is_seen_at_its_frequency_and_time() -> None:
    """2 kHz of 8 in the second half: a bright row a quarter up, to the right."""
    time = np.arange(32_000) / 16_000
    tone = np.where(time >= 1.0, np.sin(2 * np.pi * 2_000 * time), 0.0).astype(np.float32)
    picture = np.asarray(Sounds().thumbnail(tone), dtype=np.float64).sum(axis=2)
    width, height = SPECTROGRAM
    assert picture.shape == (height, width)
    brightest = np.argmax(picture[:, 3 * width // 4])
    assert brightest == pytest.approx(0.75 * height, abs=1.5)
    assert picture[brightest, : width // 2 - 4].max() < picture[brightest, width // 2 + 4 :].min()
    assert np.asarray(Sounds().thumbnail(np.zeros(100, dtype=np.float32))).shape == (
        height,
        width,
        3,
    )


def test_a_picture_keeps_its_proportions() -> None:
    item = corpus_named("pedestrians").items("test")[0]
    assert thumbnail("pedestrians", item.item_id).size == (72, 144)
