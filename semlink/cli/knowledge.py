"""`semlink kb …`: what the running knowledge base keeps, and how it is made, looked at, exchanged and deleted."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer
from rich.markup import escape
from rich.table import Table

from kb_service.exchange import read_entries, to_json
from semlink.cli.console import Out, Threads, console, errors, write
from semlink.enums import enum_text, enum_value
from semlink.errors import InvalidField, Unavailable

if TYPE_CHECKING:
    from semlink.rpc.clients import KnowledgeClient
    from semlink.v1 import knowledge_pb2 as pb

kb_app = typer.Typer(
    help="The knowledge base: list, search, exchange, delete what it keeps; rewrite a corpus in bulk.",
    no_args_is_help=True,
)
PATIENCE_S: Final = 3600.0
"""Deadline of what looks at everything that is kept."""
POLL_S: Final = 0.5
T = TypeVar("T")

Model = Annotated[str, typer.Option(help="identity of the LLM, as `kb stats` shows it")]
Strategy = Annotated[str, typer.Option(help="instruction, few-shot, attribute-preserving")]
Seed = Annotated[int | None, typer.Option(help="that the entries were made with")]
Part = Annotated[str, typer.Option("--text", help="part of the caption; case does not count")]
Sourceless = Annotated[
    bool, typer.Option("--without-source", help="only entries of before captions were kept")
]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object a line, for a program")]


@kb_app.command("list")
def list_entries(
    limit: Annotated[int, typer.Option(min=1, help="entries at most")] = 20,
    model: Model = "",
    strategy: Strategy = "",
    seed: Seed = None,
    text: Part = "",
    without_source: Sourceless = False,
    as_json: AsJson = False,
) -> None:
    """Show what is kept, in no particular order."""
    wanted = _filter(model, strategy, seed, text, without_source)

    async def collect(client: KnowledgeClient) -> tuple[list[pb.KnowledgeEntry], bool]:
        from semlink.v1 import knowledge_pb2 as pb

        found: list[pb.KnowledgeEntry] = []
        request = pb.ListEntriesRequest(filter=wanted)
        while True:
            request.page_size = min(1000, limit - len(found))
            answer = await client.list_entries(request)
            found += answer.entries
            request.page_token = answer.next_page_token
            if not request.page_token or len(found) >= limit:
                return found[:limit], bool(request.page_token) or len(found) > limit

    entries, more = _ask(collect)
    if as_json:
        for entry in entries:
            print(json.dumps(to_json(entry)))
        return
    _print_entries(entries)
    if more:
        console.print("there are more: raise --limit, or narrow it down")


@kb_app.command()
def search(
    text: Annotated[str, typer.Argument(help="a caption, or anything near one")],
    top_k: Annotated[int, typer.Option(min=1, max=100)] = 10,
    model: Model = "",
    strategy: Strategy = "",
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Find the captions nearest to a text (MiniLM cosine) whose rewrites are kept."""
    from semlink.v1 import knowledge_pb2 as pb

    wanted = _filter(model, strategy, seed, "", without_source=False)
    request = pb.SearchEntriesRequest(text=text, top_k=top_k, filter=wanted)
    answer = _ask(lambda client: client.search_entries(request))
    if as_json:
        for found in answer.found:
            print(json.dumps({"similarity": found.similarity, **to_json(found.entry)}))
        return
    _print_entries(
        [found.entry for found in answer.found], [found.similarity for found in answer.found]
    )
    console.print(f"{answer.searched} entries compared")


@kb_app.command()
def show(
    key: Annotated[str, typer.Argument(help="as `kb list` shows it")],
    min_similarity: Annotated[
        float | None, typer.Option(help="judge by this threshold; default: what queries use")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one entry: every candidate, and what the filter says of it."""
    from kb_service.exchange import is_shipped
    from kb_service.filtering import filter_rewrites
    from semlink.v1 import knowledge_pb2 as pb
    from transmitter.knowledge import MIN_SIMILARITY

    entry = _ask(lambda client: client.get_entry(pb.GetEntryRequest(key=key)))
    if as_json:
        print(json.dumps(to_json(entry), indent=1))
        return
    console.print(f"[bold]{escape(entry.text) or 'source not known'}[/bold]")
    console.print(
        f"{entry.key}\n{escape(entry.model) or '–'}, {entry.strategy or '–'}, "
        f"temperature {entry.temperature:g}, seed {entry.seed}, {_when(entry.made_unix_s)}"
        f"{', came with semlink' if is_shipped(entry) else ''}"
    )
    generated = pb.RewriteSet(rewrites=entry.rewrites)
    if not entry.text:
        for rewrite in generated.rewrites:
            console.print(f"  {escape(rewrite.text)} ({rewrite.similarity:.2f})")
        return
    threshold = MIN_SIMILARITY if min_similarity is None else min_similarity
    for rewrite in filter_rewrites(entry.text, generated, min_similarity=threshold).rewrites:
        mark = "[green]kept[/green]" if rewrite.kept else "[yellow]dropped[/yellow]"
        why = "" if rewrite.kept else f", {escape(rewrite.reason)}"
        console.print(f"  {mark} {escape(rewrite.text)} ({rewrite.similarity:.2f}{why})")


@kb_app.command("export")
def export_entries(
    file: Annotated[Path, typer.Argument(help="JSON lines; - for standard output")],
    model: Model = "",
    strategy: Strategy = "",
    seed: Seed = None,
    text: Part = "",
) -> None:
    """Write what is kept to a file, one JSON object a line."""
    from semlink.v1 import knowledge_pb2 as pb

    wanted = pb.ExportEntriesRequest(
        filter=_filter(model, strategy, seed, text, without_source=False)
    )

    async def write(client: KnowledgeClient) -> int:
        number = 0
        entries: AsyncIterator[pb.KnowledgeEntry] = client.export_entries(wanted)
        if str(file) == "-":
            async for entry in entries:
                print(json.dumps(to_json(entry)))
                number += 1
            return number
        # whole or not at all
        unfinished = file.with_name(f"{file.name}.part")
        with unfinished.open("w") as lines:
            async for entry in entries:
                lines.write(f"{json.dumps(to_json(entry))}\n")
                number += 1
        unfinished.replace(file)
        return number

    number = _ask(write)
    errors.print(f"{number} entries written to {file}")


@kb_app.command("import")
def import_entries(
    file: Annotated[Path, typer.Argument(help="as `kb export` writes it")],
    replace: Annotated[bool, typer.Option("--replace", help="what is kept already too")] = False,
) -> None:
    """Keep entries of a file."""
    from semlink.v1 import knowledge_pb2 as pb

    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidField(f"{file} cannot be read: {error}", field="file") from error
    parts = list(read_entries(lines, str(file)))

    async def send(client: KnowledgeClient) -> pb.ImportEntriesResponse:
        from semlink.progress import track

        total = pb.ImportEntriesResponse()
        for first, entries in track(parts, "import"):
            request = pb.ImportEntriesRequest(entries=entries, replace=replace)
            try:
                answer = await client.import_entries(request)
            except InvalidField as error:
                raise InvalidField(
                    f"{file}, from line {first} on: {error.message}", field=error.field
                ) from error
            for field in ("added", "replaced", "left", "outdated"):
                setattr(total, field, getattr(total, field) + getattr(answer, field))
        return total

    total = _ask(send)
    console.print(
        f"{total.added} added, {total.replaced} replaced, {total.left} kept already, "
        f"{total.outdated} of another version's prompt left out"
    )


@kb_app.command()
def delete(
    keys: Annotated[list[str] | None, typer.Argument(help="or a filter")] = None,
    model: Model = "",
    strategy: Strategy = "",
    seed: Seed = None,
    text: Part = "",
    without_source: Sourceless = False,
    everything: Annotated[bool, typer.Option("--everything", help="all that is kept")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> None:
    """Forget entries."""
    from semlink.v1 import knowledge_pb2 as pb

    request = pb.DeleteEntriesRequest(
        keys=keys or [],
        filter=_filter(model, strategy, seed, text, without_source),
        everything=everything,
    )
    if everything and not yes:
        typer.confirm("Delete everything that the knowledge base keeps?", abort=True)
    answer = _ask(lambda client: client.delete_entries(request))
    console.print(f"{answer.deleted} entries deleted")


@kb_app.command()
def stats(as_json: AsJson = False) -> None:
    """Show how much is kept, by model and strategy, and whether the LLM works."""
    from semlink.v1 import knowledge_pb2 as pb

    found = _ask(lambda client: client.get_statistics(pb.GetStatisticsRequest()))
    if as_json:
        from google.protobuf.json_format import MessageToDict

        values = MessageToDict(
            found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        print(json.dumps(values))
        return
    table = Table("model", "strategy", "entries", "rewrites", "of them duplicates")
    for share in found.shares:
        model = escape(share.model) or "source not known"
        numbers = (str(n) for n in (share.entries, share.rewrites, share.duplicates))
        table.add_row(model, share.strategy or "–", *numbers)
    console.print(table)
    console.print(
        f"{found.entries} entries, {found.rewrites} rewrites, {found.bytes / 1e6:.1f} MB, "
        f"made {_when(found.oldest_unix_s)} to {_when(found.newest_unix_s)}"
    )
    console.print(f"LLM: {escape(found.model)}, {found.waiting} captions wait for it")
    if found.problem:
        console.print(f"[yellow]{escape(found.problem)}[/yellow]")


@kb_app.command()
def prompts() -> None:
    """Show the prompt strategies, whole."""
    from semlink.v1 import knowledge_pb2 as pb

    answer = _ask(lambda client: client.list_strategies(pb.ListStrategiesRequest()))
    for strategy in answer.strategies:
        mark = " (default)" if strategy.default else ""
        console.rule(f"{strategy.name}{mark}: {escape(strategy.description)}")
        for turn in strategy.turns:
            console.print(escape(turn), style="dim")
        console.print(escape(f"user: {strategy.example}"))
    console.print(f"\nasked of {escape(answer.model)}")


@kb_app.command()
def enrich(
    corpus: Annotated[str, typer.Option(help="embedded or added")],
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
    limit: Annotated[int, typer.Option(min=0, help="the first so many captions; 0: all")] = 0,
    strategy: Strategy = "",
    candidates: Annotated[int, typer.Option(min=0, help="rewrites of each; 0: 5")] = 0,
    temperature: Annotated[float, typer.Option(help="0: 0.4")] = 0.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="begin, and return")] = False,
) -> None:
    """Rewrite a corpus's captions in the background, behind all queries.

    Ctrl-C leaves the job running; the same command shows it again, or begins it again where it was. `semlink kb cancel`
    stops it.
    """
    from semlink.v1 import common_pb2
    from semlink.v1 import knowledge_pb2 as pb

    request = pb.StartEnrichmentRequest(
        corpus=corpus,
        split=enum_value(common_pb2.Split, split, field="split"),
        limit=limit,
        strategy=strategy,
        num_candidates=candidates,
        temperature=temperature,
        seed=seed,
    )
    started = _ask(lambda client: client.start_enrichment(request))
    if detach:
        console.print(f"enrichment {started.id}: {started.total} captions; see `semlink kb jobs`")
        return
    try:
        ended = _ask(lambda client: _follow(client, started))
    except KeyboardInterrupt:
        errors.print(
            f"left: enrichment {started.id} goes on in the knowledge base; "
            f"stop it with `semlink kb cancel {started.id}`"
        )
        raise
    _print_jobs([ended])
    if ended.state != pb.ENRICHMENT_STATE_DONE:
        raise typer.Exit(1)


async def _follow(client: KnowledgeClient, job: pb.Enrichment) -> pb.Enrichment:
    """Show a job's progress until it ends."""
    from semlink.progress import progress
    from semlink.v1 import common_pb2
    from semlink.v1 import knowledge_pb2 as pb

    split = enum_text(common_pb2.Split, job.request.split)
    request = pb.GetEnrichmentRequest(id=job.id)
    with progress() as bar:
        line = bar.add_task(f"{job.request.corpus} {split}", total=job.total)
        while True:
            done = job.skipped + job.generated + job.failed
            bar.update(line, completed=done)
            if job.state != pb.ENRICHMENT_STATE_RUNNING:
                return job
            await asyncio.sleep(POLL_S)
            job = await client.get_enrichment(request)


@kb_app.command()
def jobs() -> None:
    """Show the enrichments that run, and the last that ended."""
    from semlink.v1 import knowledge_pb2 as pb

    answer = _ask(lambda client: client.list_enrichments(pb.ListEnrichmentsRequest()))
    _print_jobs(list(answer.enrichments))


@kb_app.command()
def cancel(job: Annotated[str, typer.Argument(help="id, as `kb jobs` shows it")]) -> None:
    """Stop an enrichment; what it has made stays kept."""
    from semlink.v1 import knowledge_pb2 as pb

    _print_jobs([_ask(lambda client: client.cancel_enrichment(pb.CancelEnrichmentRequest(id=job)))])


def bench_kb(
    threads: Threads = 1,
    generate: Annotated[
        bool, typer.Option(help="also tokens a second of the embedded LLM; takes minutes")
    ] = True,
    out: Out = Path("results"),
) -> None:
    """Warm look-ups, managing what is kept, tokens a second, and look-ups while the LLM generates."""
    from lab.benchmarks.knowledge import run

    write(run(threads, console, generate=generate), out)


# --- between -----------------------------------------------------------------------------------


def _ask(call: Callable[[KnowledgeClient], Awaitable[T]]) -> T:
    """Make a call of the running service. Raises Unavailable, naming what starts one, where there is none."""
    from semlink.deadlines import deadline_in
    from semlink.rpc import KnowledgeClient
    from semlink.settings import Settings

    settings = Settings()
    address = settings.address("knowledge")

    async def run() -> T:
        async with KnowledgeClient(address, settings) as client:
            if not await client.serving(settings.connect_timeout_s + 5.0):
                raise Unavailable(
                    f"no knowledge base answers at {address}; start one with `semlink up`, or name another in "
                    "SEMLINK_KNOWLEDGE_ADDRESS",
                    field="knowledge_address",
                )
            with deadline_in(PATIENCE_S):
                return await call(client)

    return asyncio.run(run())


def _filter(
    model: str, strategy: str, seed: int | None, text: str, without_source: bool
) -> pb.EntryFilter:
    from kb_service.prompting import strategy_named
    from semlink.v1 import knowledge_pb2 as pb

    if strategy:
        strategy_named(strategy, field="strategy")
    wanted = pb.EntryFilter(model=model, strategy=strategy, text=text)
    if seed is not None:
        wanted.seed = seed
    if without_source:
        wanted.has_source = False
    return wanted


def _print_entries(entries: list[pb.KnowledgeEntry], cosines: list[float] | None = None) -> None:
    table = Table()
    if cosines is not None:
        table.add_column("cosine", justify="right")
    for name in ("caption, key", "strategy", "τ", "seed", "made", "rewrites"):
        table.add_column(name, overflow="fold")
    for i, entry in enumerate(entries):
        cells = [] if cosines is None else [f"{cosines[i]:.3f}"]
        table.add_row(
            *cells,
            f"{escape(entry.text) or 'not known'}\n[dim]{escape(entry.key)}[/dim]",
            entry.strategy or "–",
            f"{entry.temperature:g}" if entry.text else "–",
            str(entry.seed) if entry.text else "–",
            _when(entry.made_unix_s),
            escape("\n".join(rewrite.text for rewrite in entry.rewrites)),
        )
    console.print(table)


def _print_jobs(states: list[pb.Enrichment]) -> None:
    from semlink.v1 import common_pb2
    from semlink.v1 import knowledge_pb2 as pb

    table = Table("id", "corpus", "split", "strategy", "state", "captions", "kept before")
    for name in ("generated", "failed", "captions/min", "why"):
        table.add_column(name)
    for job in states:
        seconds = (job.ended_unix_s or time.time()) - job.started_unix_s
        split = enum_text(common_pb2.Split, job.request.split)
        asked = (job.request.corpus, split, job.request.strategy or "few-shot")
        state = enum_text(pb.EnrichmentState, job.state)
        counts = (str(n) for n in (job.total, job.skipped, job.generated, job.failed))
        per_minute = f"{60 * job.generated / max(seconds, 1e-3):.1f}"
        table.add_row(job.id, *asked, state, *counts, per_minute, escape(job.reason))
    console.print(table)


def _when(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s)) if unix_s else "–"
