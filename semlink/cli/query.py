"""`semlink query`: ask the running services."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from semlink.cli.console import console, errors
from semlink.cli.options import options_of
from semlink.errors import InvalidField
from semlink.links import Link
from semlink.queries import QueryOptions
from semlink.tasks import BUILT_IN as TASKS
from semlink.tasks import task_spec

if TYPE_CHECKING:
    from semlink.client import QueryResult

Port = Annotated[int | None, typer.Option(help="of the gateway; default 8000, or SEMLINK_URL")]
WAIT_KNOWLEDGE_MS: Final = 60_000.0
"""What ``--wait-knowledge`` waits at most, where no budget is given."""


@options_of(options=QueryOptions, by_value=Link)
def query(
    text: Annotated[str | None, typer.Argument(help="what to look for")] = None,
    task: Annotated[
        str, typer.Option(help=f"{', '.join(TASKS)}, or registered by SEMLINK_PLUGINS")
    ] = "person",
    media: Annotated[
        Path | None, typer.Option(help="ask with what the task finds: a picture, a sound")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="default: the task's embedded one")] = None,
    options: Any = None,
    by_value: Any = None,
    link: Annotated[str | None, typer.Option(help="id of an open link instead")] = None,
    seed: Annotated[int | None, typer.Option(help="repeats a query exactly")] = None,
    wait_knowledge: Annotated[
        bool, typer.Option("--wait-knowledge", help="wait for new rewrites, up to a minute")
    ] = False,
    port: Port = None,
    as_json: Annotated[bool, typer.Option("--json", help="the whole answer")] = False,
) -> None:
    """Send one query through the running services. New rewrites may take 20 s, or --knowledge-budget-ms."""
    from semlink.client import Client, LinkConfig, Media, Query, Retrieval, gateway_url

    if link is not None and by_value:
        raise InvalidField(
            f"--link names an open link, which has its own {', '.join(by_value)}", field="link"
        )
    retrieval = {f.name: options.pop(f.name) for f in fields(Retrieval) if f.name in options}
    budget_ms = options.get("knowledge_budget_ms", 0.0)
    if wait_knowledge:
        budget_ms = budget_ms or WAIT_KNOWLEDGE_MS
    asked = Query(
        task,
        text=text,
        media={task_spec(task).modality: Media.read(media)} if media is not None else {},
        corpus=corpus,
        seed=seed,
        deadline_ms=budget_ms + 60_000.0,
        **{**options, "knowledge_budget_ms": budget_ms, "retrieval": Retrieval(**retrieval)},
        link=LinkConfig().replace(**by_value) if link is None else link,
    )
    with Client(gateway_url(port)) as client, _waiting(budget_ms):
        answer = client.query(asked)
    if as_json:
        print(json.dumps(asdict(answer), indent=2))  # for a program, without rich's markup
    else:
        _print_answer(answer)


def _waiting(budget_ms: float) -> AbstractContextManager[object]:
    """A line with the seconds, while a query may wait for the LLM."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    if not budget_ms:
        return nullcontext()
    line = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=errors,
    )
    line.add_task(f"waiting for rewrites by the LLM, up to {budget_ms / 1e3:g} s")
    return line


def _print_answer(answer: QueryResult) -> None:
    table = Table()
    table.add_column("", justify="right")
    table.add_column("item", no_wrap=True)
    table.add_column("score", justify="right")
    table.add_column("captions")
    for place, match in enumerate(answer.results, 1):
        captions = escape("\n".join(match.captions[:2]))
        table.add_row(str(place), match.item_id, f"{match.score:.3f}", captions)
    if answer.results:
        console.print(table)
    if answer.link and answer.link.erased:
        console.print(
            "[red]erased[/red]: the channel destroyed the digital message (its CRC failed), nothing is found"
        )
    for sentence in answer.retrieval.sentences:
        mark = "[green]sent[/green]" if sentence.kept else "[yellow]left out[/yellow]"
        console.print(f"  {mark} {escape(sentence.text)} ({sentence.score:.3f})")
    link = answer.link
    if link:
        known = f"SGCS {link.csi_sgcs:.2f}, " if link.csi_sgcs is not None else ""
        others = link.co_scheduled
        shared = f", user {link.user} beside {others} other(s)" if others else ""
        console.print(
            f"link: SNR {link.snr_db:g} dB, after equalising {link.post_eq_snr_db:.1f} dB, "
            f"k = {link.channel_uses}, feedback {link.feedback_bits} bit, {known}"
            f"CSI {answer.knowledge.csi_source}, header {link.header_bytes} B, slot {link.slot}"
            f"{shared}"
        )
    for rewrite in answer.knowledge.rewrites:
        mark = "[green]kept[/green]" if rewrite.kept else "[yellow]dropped[/yellow]"
        console.print(f"  {mark} {escape(rewrite.text)} ({escape(rewrite.reason)})")
    for degraded in answer.degraded:
        console.print(f"[yellow]degraded[/yellow] {degraded.part}: {escape(degraded.reason)}")
    console.print(
        "ms: " + ", ".join(f"{stage} {ms:.1f}" for stage, ms in answer.timings_ms.items())
    )
