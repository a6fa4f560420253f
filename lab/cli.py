"""The command line: `semlink …`. Heavy imports are made by the command that needs them, so that help is instant."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from lab.cli_corpora import corpora_app, evaluate
from lab.cli_kb import bench_kb, kb_app
from lab.cli_prediction import experiment_csi_prediction, learn_channel
from lab.cli_shared import Out, console, errors
from semlink.errors import InvalidField, SemlinkError
from semlink.knowledge import PROMPT_STRATEGIES
from semlink.links import CONTENTS, MEMORIES, POWER_ALLOCATIONS, QUANTIZERS, SCENARIOS
from semlink.methods import EXTRACTIONS, RERANKINGS, SCORINGS

if TYPE_CHECKING:
    from semlink.settings import Settings

app = typer.Typer(
    name="semlink",
    help="An emulator of semantic communication: retrieval queries over a 3GPP link.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train what weights/ holds; progress is kept.", no_args_is_help=True)
bench_app = typer.Typer(help="Measure speed and memory on this machine.", no_args_is_help=True)
experiment_app = typer.Typer(help="Regenerate a figure: CSV, JSON and plot.", no_args_is_help=True)
app.add_typer(corpora_app, name="corpora")
app.command()(evaluate)
app.add_typer(train_app, name="train")
app.add_typer(bench_app, name="bench")
app.add_typer(experiment_app, name="experiment")
experiment_app.command("csi-prediction")(experiment_csi_prediction)
app.add_typer(kb_app, name="kb")
kb_app.command("learn-channel")(learn_channel)
bench_app.command("kb")(bench_kb)

Port = Annotated[int | None, typer.Option(help="of the gateway; default 8000, or SEMLINK_URL")]


def main() -> None:
    """Run; an error that a user can cause is one line and exit status 1 (2 for a field that is not allowed)."""
    try:
        app()
    except SemlinkError as error:
        where = f" (field {error.field})" if error.field else ""
        errors.print(f"[red]semlink:[/red] {escape(error.message)}{escape(where)}")
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
    from lab import supervisor

    values: dict[str, Any] = {}
    if port is not None:
        values["gateway_port"] = port
    if scenario is not None:
        if scenario not in SCENARIOS:
            raise InvalidField(
                f"--scenario is {scenario!r}, allowed: {', '.join(SCENARIOS)}", field="scenario"
            )
        values["scenario"] = scenario
    supervisor.up(_settings(**values), detach=detach)


@app.command()
def down() -> None:
    """Stop every service that `semlink up` started."""
    from lab import supervisor

    stopped = supervisor.down(_settings())
    console.print("stopped" if stopped else "nothing is running")


@app.command()
def status() -> None:
    """Show every service: process, address, health, memory."""
    from lab import supervisor

    found = supervisor.status(_settings())
    if not found:
        console.print("nothing is running; start with `semlink up`")
        raise typer.Exit(3)
    console.print(supervisor.status_table(found))
    if any(s.health != "healthy" for s in found):
        raise typer.Exit(1)


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
    quantizer: Annotated[str | None, typer.Option(help=", ".join(QUANTIZERS))] = None,
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
    from lab.client import Client, gateway_url, media_body

    asked: dict[str, Any] = {}
    if text is not None:
        asked["text"] = text
    if image is not None:
        asked["image"] = media_body(image)
    if audio is not None:
        asked["audio"] = media_body(audio)
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
        feedback=feedback or None,
    )
    body = {
        "task": task,
        "query": asked,
        "method": method,
        "top_k": top_k,
        "symbols": symbols,
        "knowledge_budget_ms": knowledge_budget_ms,
        "deadline_ms": knowledge_budget_ms + 60_000.0,
        "link": by_value | _given(id=link),
        "retrieval": _given(
            scoring=scoring,
            reranking=reranking,
            extraction=extraction,
            key_sentences=key_sentences,
        ),
        **_given(corpus=corpus, seed=seed, rewrite_strategy=rewrite_strategy),
    }
    with Client(gateway_url(port)) as client:
        answer = client.query(body)
    if as_json:
        print(json.dumps(answer, indent=2))  # for a program, without rich's markup
    else:
        _print_answer(answer)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _print_answer(answer: dict[str, Any]) -> None:
    table = Table()
    table.add_column("", justify="right")
    table.add_column("item", no_wrap=True)
    table.add_column("score", justify="right")
    table.add_column("captions")
    for place, result in enumerate(answer["results"], 1):
        score = f"{result['score']:.3f}"
        table.add_row(
            str(place), result["item_id"], score, escape("\n".join(result["captions"][:2]))
        )
    console.print(table)
    for sentence in answer["retrieval"]["sentences"]:
        mark = "[green]sent[/green]" if sentence["kept"] else "[yellow]left out[/yellow]"
        console.print(f"  {mark} {escape(sentence['text'])} ({sentence['score']:.3f})")
    link = answer["link"]
    if link:
        known = f"SGCS {link['csi_sgcs']:.2f}, " if link["csi_sgcs"] is not None else ""
        others = link["co_scheduled"]
        shared = f", user {link['user']} beside {others} other(s)" if others else ""
        erased = ", [red]erased[/red]" if link["erased"] else ""
        console.print(
            f"link: SNR {link['snr_db']:g} dB, after equalising {link['post_eq_snr_db']:.1f} dB, "
            f"k = {link['channel_uses']}, feedback {link['feedback_bits']} bit, {known}"
            f"CSI {answer['knowledge']['csi_source']}, header {link['header_bytes']} B, slot {link['slot']}"
            f"{shared}{erased}"
        )
    for rewrite in answer["knowledge"]["rewrites"]:
        mark = "[green]kept[/green]" if rewrite["kept"] else "[yellow]dropped[/yellow]"
        console.print(f"  {mark} {escape(rewrite['text'])} ({escape(rewrite['reason'])})")
    for degraded in answer["degraded"]:
        console.print(f"[yellow]degraded[/yellow] {degraded['part']}: {escape(degraded['reason'])}")
    console.print(
        "ms: " + ", ".join(f"{stage} {ms:.1f}" for stage, ms in answer["timings_ms"].items())
    )


@app.command()
def demo(out: Out = Path("demo")) -> None:
    """Start everything on free ports, ask two queries a task, write a page, stop everything."""
    from lab.client import Client, gateway_url
    from lab.demo import demo as run

    with _own_services("demo") as settings, Client(gateway_url(settings.gateway_port)) as client:
        run(client, out, console)


@contextmanager
def _own_services(name: str) -> Iterator[Settings]:
    """All services on free ports, beside any others of this machine; stopped on leaving."""
    from lab import supervisor

    asked = _settings()
    rooms = ("gateway", "transmitter", "channel", "receiver", "knowledge")
    ports = {f"{room}_port": 0 for room in rooms}
    ports |= {f"{room}_metrics_port": 0 for room in rooms if room != "gateway"}
    state_dir = asked.state_dir / name
    settings = supervisor.with_ports_chosen(_settings(**ports, redis_port=0, state_dir=state_dir))
    supervisor.up(settings, detach=True, services=supervisor.services_of(settings, own_redis=True))
    try:
        yield settings
    finally:
        supervisor.down(settings)


# --- what is there -----------------------------------------------------------------------------


@app.command()
def models(
    prepare: Annotated[
        bool, typer.Option("--prepare", help="make now what is made from them once")
    ] = False,
) -> None:
    """List the embedded models: whether they are there, size, licence, where from."""
    from semlink.models import INSTALL_COMMAND, installed

    table = Table("model", "role", "state", "MB", "licence", "package", "from")
    missing = False
    for found in installed():
        model = found.model
        missing |= bool(found.problem)
        table.add_row(
            model.name,
            model.role,
            f"[red]{escape(found.problem)}[/red]" if found.problem else "[green]installed[/green]",
            f"{model.size_bytes / 1e6:.0f}",
            model.licence,
            f"{model.package} {model.version}",
            model.source,
        )
    console.print(table)
    if missing:
        errors.print(f"bring what is missing with: {INSTALL_COMMAND}")
        raise typer.Exit(1)
    if prepare:
        from kb_service.llm import prepare_language_model

        console.print(f"converted: {prepare_language_model(_settings().cache_dir)}")


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
        from lab.add_corpus import heads

        heads(corpus, seed=seed, measure_test=test)
        return
    from lab.train_heads import run

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
    from lab.train_person import run

    run(objective, seed, out=out or _settings().weights_dir, measure_test=test)


@train_app.command("gpa")
def train_gpa(
    task: TaskOption = "audio",
    seed: int = 0,
    test: TestOption = False,
    out: Annotated[Path | None, typer.Option(help="folder; default the weights folder")] = None,
) -> None:
    """Train heads with prototypes and their scorer (GPA)."""
    from lab.train_gpa import run

    run(task, seed=seed, out=out, measure_test=test)


@train_app.command("codec")
def train_codec(task: SpaceOption = "", corpus: AddedOption = "", seed: int = 0) -> None:
    """Train the JSCC codec of a task, or of an added corpus that has heads of its own, over the emulated link."""
    from lab.train_codec import run

    run(_space(task, corpus), seed=seed)


@train_app.command("vq")
def train_vq(task: SpaceOption = "", corpus: AddedOption = "") -> None:
    """Measure the statistics that the digital baselines code features by: of a task, or of an added corpus."""
    from lab.train_vq import run

    run(_space(task, corpus))


@train_app.command("student")
def train_student(task: SpaceOption = "", corpus: AddedOption = "", seed: int = 0) -> None:
    """Train ItrievalKD's student, which finds a noisy text's key sentences: of task image, or of an added corpus."""
    from lab.train_student import run

    run(_space(task, corpus), seed=seed)


@train_app.command("gallery")
def train_gallery(
    corpus: Annotated[str, typer.Option(help="embedded or added")],
) -> None:
    """Encode a corpus's gallery with the heads of its space."""
    from lab.build_gallery import run

    run(corpus)


@train_app.command("rvq")
def train_rvq(
    rounds: Annotated[int, typer.Option(help="of the training mix of channels")] = 20,
    fresh: Annotated[bool, typer.Option(help="train also what is there already")] = False,
) -> None:
    """Train the codebooks of the RVQ CSI quantiser on generated channels."""
    from lab.train_rvq import train_rvq as run

    run(rounds=rounds, fresh=fresh)


@train_app.command("cdg")
def train_cdg(
    name: Annotated[str, typer.Option(help="cdg, transformer, llm4cp, csi-llm")] = "cdg",
    seed: int = 0,
    steps: Annotated[int | None, typer.Option(help="default: the recipe's")] = None,
    out: Annotated[Path | None, typer.Option(help="folder; default the weights folder")] = None,
) -> None:
    """Train a channel generator of the knowledge base on generated histories; the first run makes those (minutes)."""
    from lab.train_cdg import train_named

    train_named(name, seed=seed, steps=steps, out=out)


# --- measuring ---------------------------------------------------------------------------------


@bench_app.command("link")
def bench_link(out: Out = Path("results")) -> None:
    """Channel windows and reports a second, and what applying the channel costs."""
    import time

    from lab.bench_link import run
    from lab.results import Report, Row

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
    from lab.bench_csi import run

    report = run(threads, console)
    console.print(f"written: {report.write(out, report.experiment)}")


@bench_app.command("codec")
def bench_codec(
    threads: Annotated[int, typer.Option(help="of torch")] = 2, out: Out = Path("results")
) -> None:
    """Milliseconds to encode and decode a message: JSCC at every k, and the digital codings."""
    from lab.bench_codec import run

    report = run(threads, console)
    console.print(f"written: {report.write(out, report.experiment)}")


@bench_app.command("gallery")
def bench_gallery(
    items: Annotated[int, typer.Option(help="vectors of 256")] = 1_000_000,
    out: Out = Path("results"),
) -> None:
    """Exact search against HNSW and IVF-PQ: time, recall@10, memory, building. Goes on where it was interrupted."""
    from lab.bench_gallery import run

    run(out, items=items)
    _say_written(out, "bench-gallery")


@bench_app.command("serve")
def bench_serve(
    queries: Annotated[int, typer.Option(help="at 16 and 64 in flight; a quarter at 1")] = 640,
    out: Out = Path("results"),
) -> None:
    """Queries a second over the services at 1, 16 and 64 in flight, memory, and the same in one process."""
    from lab import supervisor
    from lab.bench_serve import add_in_process, bench

    with _own_services("bench") as settings:
        pids = {s.name: s.pid for s in supervisor.status(settings)}
        report = bench(settings.gateway_port, pids, number=queries, console=console)
    add_in_process(report, number=queries, console=console)
    console.print(f"written: {report.write(out, report.experiment)}")


ScenarioOption = Annotated[str, typer.Option(help="umi-los, uma-nlos, …")]
SpeedOption = Annotated[float, typer.Option(help="km/h")]
SeedsOption = Annotated[int, typer.Option(help="repetitions; the spread is over them")]


@app.command("compare")
def compare_reports(
    a: Annotated[Path, typer.Argument(help="JSON file of a report, before")],
    b: Annotated[Path, typer.Argument(help="JSON file of a report, after")],
    level: Annotated[float, typer.Option(help="of the intervals, over all rows together")] = 0.95,
    everything: Annotated[
        bool, typer.Option("--all", help="print rows that did not change, too")
    ] = False,
) -> None:
    """Which rows of two reports changed beyond noise; exit status 1 where one got worse or is gone."""
    from lab.compare_results import compare, print_changes, read

    (head_a, before), (head_b, after) = read(a), read(b)
    changes = compare(before, after, level=level)
    print_changes((head_a, head_b), changes, console, everything=everything)
    if any(change.verdict in ("worse", "only in A") for change in changes):
        raise typer.Exit(1)


@app.command("results")
def results_page(
    directory: Annotated[Path, typer.Argument(help="folder of reports")] = Path("results"),
    page: Annotated[Path, typer.Option(help="file to write")] = Path("docs/results.md"),
) -> None:
    """Write the page of all figures and tables, with commands and targets, from the reports of a folder."""
    from lab.results_page import write

    console.print(f"written: {write(directory, page)}")


@app.command("targets")
def targets(
    directory: Annotated[Path, typer.Argument(help="folder of reports")] = Path("results"),
) -> None:
    """What was asked of the system against what the reports of a folder say: met, missed, not measured."""
    from lab.targets import judge_all, print_judged, rows_of

    print_judged(judge_all(rows_of(directory)), console)


QueriesOption = Annotated[int, typer.Option(help="test captions per seed")]
LinksOption = Annotated[int, typer.Option(help="drops per seed")]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="measure again what the cache holds for this program")
]


@experiment_app.command("snr")
def experiment_snr(
    task: TaskOption,
    scenario: ScenarioOption = "umi-los",
    speed: SpeedOption = 3.0,
    users: Annotated[int, typer.Option(help="co-scheduled in a slot")] = 4,
    rows: Annotated[
        list[str] | None, typer.Option(help="feedback, coding; can be repeated, default both")
    ] = None,
    seeds: SeedsOption = 3,
    queries: QueriesOption = 500,
    links: LinksOption = 24,
    fresh: Fresh = False,
    out: Out = Path("results"),
) -> None:
    """R@1, R@10 and mAP against SNR: what feedback is worth, and joint against digital coding."""
    from lab.experiments.plans import Sampling
    from lab.experiments.running import run
    from lab.experiments.snr import GROUPS, Plan, study

    sampling = Sampling(task, seeds, queries, links)
    groups = tuple(rows or GROUPS)
    if unknown := set(groups) - set(GROUPS):
        raise InvalidField(
            f"--rows is {sorted(unknown)[0]!r}, allowed: {', '.join(GROUPS)}", field="rows"
        )
    report = run(
        study(Plan(sampling, scenario, speed, users, groups=groups)), out, console, fresh=fresh
    )
    _say_written(out, report.experiment)


@experiment_app.command("methods")
def experiment_methods(
    task: TaskOption,
    scenario: ScenarioOption = "umi-los",
    speed: SpeedOption = 3.0,
    users: Annotated[int, typer.Option(help="co-scheduled in a slot")] = 4,
    bits: Annotated[int, typer.Option(help="of a report, in the sweep over SNR")] = 64,
    sweep_snr: Annotated[float, typer.Option(help="SNR of the sweep over bits, dB")] = 5.0,
    snr: Annotated[
        list[float] | None, typer.Option(help="dB; can be repeated, default −10…25")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="can be repeated; default all of the paper")
    ] = None,
    seeds: SeedsOption = 3,
    queries: Annotated[int, typer.Option(help="test captions per seed, with rewrites")] = 100,
    links: LinksOption = 16,
    fresh: Fresh = False,
    out: Out = Path("results"),
) -> None:
    """R@1 and mAP of SC-LMKB, its ablations and its rivals against SNR and against bits of a report."""
    from lab.experiments.methods import ROWS, SNRS_DB, Plan, study
    from lab.experiments.plans import Sampling
    from lab.experiments.running import run

    chosen = tuple(method or ROWS)
    if unknown := [m for m in chosen if m not in ROWS]:
        raise InvalidField(
            f"--method is {unknown[0]!r}, allowed: {', '.join(ROWS)}", field="method"
        )
    plan = Plan(
        Sampling(task, seeds, queries, links),
        scenario,
        speed,
        users,
        bits,
        snrs_db=tuple(snr or SNRS_DB),
        sweep_snr_db=sweep_snr,
        methods=chosen,
    )
    report = run(study(plan), out, console, fresh=fresh)
    _say_written(out, report.experiment)


def _figure_command(name: str, title: str) -> None:
    """One command a figure of the paper: all have the same options."""

    @experiment_app.command(name, help=f"Figure {name.removeprefix('fig')} of SC-LMKB: {title}.")
    def figure(
        changes: Annotated[
            list[str] | None,
            typer.Option(
                "--set",
                help="key=value of the plan (lab/experiments/figures.py); can be repeated, lists with commas",
            ),
        ] = None,
        quick: Annotated[bool, typer.Option("--quick", help="a smoke run of seconds")] = False,
        fresh: Fresh = False,
        out: Out = Path("results"),
    ) -> None:
        from lab.experiments.figures import plan_of
        from lab.experiments.methods import study
        from lab.experiments.running import run

        report = run(study(plan_of(name, changes or (), quick=quick)), out, console, fresh=fresh)
        _say_written(out, report.experiment)


for _name, _title in {
    "fig6": "mAP against SNR, person, UMi-LOS",
    "fig7": "R@1 against SNR, text to image, UMi-LOS",
    "fig8": "R@1 against SNR, text to audio, UMi-LOS",
    "fig9": "mAP against bits of a CSI report, person, UMi-LOS",
    "fig10": "mAP against SNR, person, UMa-NLOS",
    "fig12": "ablation against SNR, person, UMi-LOS",
}.items():
    _figure_command(_name, _title)


@experiment_app.command("rate")
def experiment_rate(
    task: TaskOption = "person",
    scenario: ScenarioOption = "umi-los",
    speed: SpeedOption = 3.0,
    users: Annotated[int, typer.Option(help="co-scheduled in a slot")] = 1,
    snr: Annotated[
        list[float] | None, typer.Option(help="dB; can be repeated, default 0 and 10")
    ] = None,
    seeds: SeedsOption = 3,
    queries: QueriesOption = 500,
    links: LinksOption = 24,
    fresh: Fresh = False,
    out: Out = Path("results"),
) -> None:
    """MAP and R@1 against channel uses k: joint coding, vector-quantised indices, separate coding, ideal link."""
    from lab.experiments.plans import Sampling
    from lab.experiments.rate import Plan, study
    from lab.experiments.running import run

    sampling = Sampling(task, seeds, queries, links)
    plan = Plan(sampling, scenario, speed, users, tuple(snr or (0.0, 10.0)))
    report = run(study(plan), out, console, fresh=fresh)
    _say_written(out, report.experiment)


@experiment_app.command("feedback")
def experiment_feedback(
    task: TaskOption = "person",
    scenario: ScenarioOption = "umi-los",
    speed: Annotated[
        list[float] | None, typer.Option(help="km/h; can be repeated, default 3 and 30")
    ] = None,
    users: Annotated[
        list[int] | None, typer.Option(help="can be repeated, default 1 and 4")
    ] = None,
    snr: Annotated[
        list[float] | None, typer.Option(help="dB; can be repeated, default 10 and 25")
    ] = None,
    bits: Annotated[
        list[int] | None, typer.Option(help="of one report; can be repeated, default 8…512")
    ] = None,
    seeds: SeedsOption = 3,
    queries: QueriesOption = 500,
    links: LinksOption = 24,
    fresh: Fresh = False,
    out: Out = Path("results"),
) -> None:
    """MAP against bits of a CSI report: quantisers, memory across reports, one user and four."""
    from lab.experiments.feedback import BITS, Plan, study
    from lab.experiments.plans import Sampling
    from lab.experiments.running import run

    plan = Plan(
        Sampling(task, seeds, queries, links),
        scenario,
        tuple(speed or (3.0, 30.0)),
        tuple(users or (1, 4)),
        tuple(snr or (10.0, 25.0)),
        tuple(bits or BITS),
    )
    report = run(study(plan), out, console, fresh=fresh)
    _say_written(out, report.experiment)


@experiment_app.command("csi-rate")
def experiment_csi_rate(
    scenario: Annotated[
        list[str] | None, typer.Option(help="can be repeated, default umi-los and uma-nlos")
    ] = None,
    bits: Annotated[
        list[int] | None, typer.Option(help="of one report; can be repeated, default 8…1024")
    ] = None,
    speed: Annotated[
        list[float] | None, typer.Option(help="km/h; can be repeated, default 3")
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="channels unlike those of the training instead")
    ] = False,
    seeds: SeedsOption = 3,
    drops: Annotated[int, typer.Option(help="of 32 users, per seed")] = 4,
    out: Out = Path("results"),
) -> None:
    """NMSE, SGCS and precoding gain against bits of a CSI report: every quantiser, Gaussian reference, bounds."""
    from lab.experiments.csi_rate import BITS, Plan, run

    plan = Plan(
        scenarios=tuple(scenario or ("umi-los", "uma-nlos")),
        speeds_kmh=tuple(speed or (3.0,)),
        bits=tuple(bits or BITS),
        seeds=seeds,
        drops=drops,
        held_out=held_out,
    )
    report = run(plan, out, console)
    _say_written(out, report.experiment)


@experiment_app.command("sew-mcm")
def experiment_sew_mcm(
    seeds: SeedsOption = 3,
    components: Annotated[
        bool, typer.Option("--components", help="the paper's table 5 as well")
    ] = False,
    out: Out = Path("results"),
) -> None:
    """Person search: CMPM + CMPC, Sew with both margins, masked caption modelling, re-ranking (the paper's table 4)."""
    from lab.experiments.sew_mcm import NAME, run

    run(out, range(seeds), components=components, console=console)
    _say_written(out, NAME)


@experiment_app.command("itrieval")
def experiment_itrieval(seeds: SeedsOption = 3, out: Out = Path("results")) -> None:
    """Noisy text to picture: raw, tf-idf, TextRank, ItrievalKD, key sentences; zero-shot and fine-tuned."""
    from lab.experiments.itrieval import run

    run(out, seeds=seeds, console=console)
    _say_written(out, "itrieval")


@experiment_app.command("knowledge")
def experiment_knowledge(
    seeds: SeedsOption = 3,
    training: Annotated[bool, typer.Option(help="also train heads with rewrites")] = True,
    out: Out = Path("results"),
) -> None:
    """The filter on labelled rewrites, fusion at query time, augmentation at training time; rewrites from the bank."""
    from lab.experiments.knowledge import NAME, TRAINING_TASKS, run

    run(out, seeds=seeds, training_tasks=TRAINING_TASKS if training else (), console=console)
    _say_written(out, NAME)


@experiment_app.command("gpa")
def experiment_gpa(
    seeds: SeedsOption = 3,
    counts: Annotated[
        list[int] | None, typer.Option("--prototypes", help="K of table 2; can be repeated")
    ] = None,
    out: Out = Path("results"),
) -> None:
    """Audio and text: global scores against prototypes, generators, scorers, Sinkhorn bias (the paper's tables 1-4)."""
    from lab.experiments.gpa import run

    run(out, seeds=seeds, counts=tuple(counts or (1, 2, 3, 4, 5, 10)), console=console)
    _say_written(out, "gpa")


def _say_written(out: Path, name: str) -> None:
    files = sorted(path.name for path in out.glob(f"{name}*"))
    console.print(f"written to {out}: {', '.join(files)}")


@app.command()
def docs(out: Annotated[Path, typer.Option(help="folder to write to")] = Path("docs")) -> None:
    """Generate the REST and gRPC references from the running code and the contracts."""
    from lab.reference import write

    for path in write(out):
        console.print(f"written: {path}")


if __name__ == "__main__":
    main()
