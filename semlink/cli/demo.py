"""`semlink demo`: the three tasks over the running services, as a table and as a page with pictures and sounds."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lab.evaluation.templating import render
from semlink.client import Client, Feedback, LinkConfig, Match, Media, Query, QueryResult
from semlink.corpora.corpus import Item
from semlink.corpora.registry import corpus_named
from semlink.tasks import BUILT_IN, task_spec

LINK = LinkConfig(
    scenario="umi-los", snr_db=5.0, feedback=Feedback(quantizer="rvq", bits=64), seed=7
)
SYMBOLS = 64
TOP_K = 5
KNOWLEDGE_BUDGET_MS = 60_000.0
ITEMS = (0, 500)
"""Which test items ask, in every corpus: fixed, not chosen by how well they do."""

STAGES = {
    "transmitter.knowledge": "LLM",
    "transmitter.encode": "encode",
    "transmitter.fuse": "fuse",
    "transmitter.grant": "grant",
    "transmitter.csi": "CSI",
    "transmitter.frame": "frame",
    "channel.air": "air",
    "receiver.decode": "decode",
    "receiver.search": "search",
    "gateway.total": "total",
}
"""Stages shown, in the order of the way; a column each."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One query of the demo and the identity that answers it."""

    task: str
    corpus: str
    title: str
    item: Item
    text: str | None = None
    audio: Media | None = None

    @property
    def media(self) -> tuple[str, str] | None:
        """Of a query by sound, for the page: MIME type and base64."""
        if self.audio is None:
            return None
        return self.audio.content_type, base64.b64encode(self.audio.data).decode()


@dataclass(frozen=True, slots=True)
class Found:
    """One result as shown."""

    item_id: str
    score: float
    right: bool
    captions: Sequence[str]
    content_type: str
    data: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A query with its answer."""

    ask: Ask
    answer: QueryResult
    results: Sequence[Found]

    @property
    def rank(self) -> int | None:
        """Place of the first right result, None if there is none among those shown."""
        return next((i for i, r in enumerate(self.results, 1) if r.right), None)


def asks() -> list[Ask]:
    """Two queries a task by text, and one by sound, from the captions of fixed test items."""
    found = []
    for task in map(task_spec, BUILT_IN):
        items = corpus_named(task.corpus).items("test")
        found += [
            Ask(task.name, task.corpus, task.title, items[i], text=items[i].captions[0])
            for i in ITEMS
        ]
    sounds = corpus_named("soundscapes")
    item = sounds.items("test")[ITEMS[1]]
    media = sounds.media(item.item_id)
    audio = Media(media.content_type, media.data)
    found.append(Ask("audio", "soundscapes", "sound → text", item, audio=audio))
    return found


def run(client: Client, *, seed: int = 1) -> list[Shown]:
    """Send every query of the demo and fetch what was found."""
    shown = []
    for number, ask in enumerate(asks()):
        answer = client.query(
            Query(
                ask.task,
                text=ask.text,
                audio=ask.audio,
                method="sc-lmkb",
                top_k=TOP_K,
                symbols=SYMBOLS,
                seed=seed + number,
                knowledge_budget_ms=KNOWLEDGE_BUDGET_MS,
                deadline_ms=2 * KNOWLEDGE_BUDGET_MS,
                link=LINK,
            )
        )
        results = [_found(client, ask, answer.corpus, match) for match in answer.results]
        shown.append(Shown(ask, answer, results))
    return shown


def _found(client: Client, ask: Ask, corpus: str, match: Match) -> Found:
    item = client.item(corpus, match.item_id)
    media = client.media(corpus, match.item_id)
    right, data = item.identity == ask.item.identity, base64.b64encode(media.data).decode()
    return Found(match.item_id, match.score, right, match.captions, media.content_type, data)


def table(shown: Sequence[Shown]) -> Table:
    """What the demo prints: a line a query."""
    out = Table(title="semlink demo: queries over an emulated 3GPP link", show_lines=True)
    out.add_column("task", no_wrap=True)
    out.add_column("query", ratio=3)
    out.add_column("top 5 (✔ right, · wrong)", ratio=2)
    out.add_column("link", no_wrap=True)
    out.add_column("ms per stage", ratio=2)
    for s in shown:
        link, timings = s.answer.link, s.answer.timings_ms
        assert link is not None  # sc-lmkb has a channel
        text = s.ask.text or f"the sound of {s.ask.item.item_id}"
        verdict = f"right at {s.rank}" if s.rank else "not in the top 5"
        found = "\n".join(f"{'✔' if r.right else '·'} {r.item_id} {r.score:.2f}" for r in s.results)
        figures = (
            f"SNR {link.snr_db:.0f} dB\nfeedback {link.feedback_bits} bit\nk = {link.channel_uses}\n"
            f"post-eq {link.post_eq_snr_db:.1f} dB\nCSI: {s.answer.knowledge.csi_source}"
        )
        stages = ", ".join(
            f"{name} {timings[stage]:.1f}" for stage, name in STAGES.items() if stage in timings
        )
        out.add_row(f"{s.ask.title}", text, f"[bold]{verdict}[/bold]\n{found}", figures, stages)
    return out


def write_page(shown: Sequence[Shown], path: Path, *, seconds: float) -> None:
    """A page that needs nothing else: pictures and sounds are inside."""
    date = time.strftime("%Y-%m-%d %H:%M")
    page = render("demo.html.j2", shown=shown, stages=STAGES, link=LINK, seconds=seconds, date=date)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)


def demo(client: Client, out: Path, console: Console) -> list[Shown]:
    """Run, print, write ``out / report.html``."""
    start = time.monotonic()
    with console.status("asking (the LLM rewrites each new text once: some seconds each)"):
        shown = run(client)
    console.print(table(shown))
    page = out / "report.html"
    write_page(shown, page, seconds=time.monotonic() - start)
    first = sum(s.rank == 1 for s in shown)
    console.print(f"{first} of {len(shown)} right at the first place. Pictures and sounds: {page}")
    return shown
