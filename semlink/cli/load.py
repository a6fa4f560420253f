"""`semlink load`: load a running system and measure it."""

from __future__ import annotations

import secrets
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from semlink.cli.console import Out, console
from semlink.errors import InvalidField
from semlink.load.plan import LINK_KINDS, Load, Mix, Plan, Rule, link_fields
from semlink.tasks import task_names

Words = list[str] | None


def load(
    url: Annotated[
        str | None, typer.Argument(help="of the gateway; default SEMLINK_URL, else port 8000 here")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="calls a second: open loop, Poisson arrivals")
    ] = None,
    users: Annotated[
        int | None, typer.Option(help="closed loop: each waits for its answer; default 8")
    ] = None,
    ramp: Annotated[
        str | None, typer.Option(help="further rates (or users), comma-separated, a step each")
    ] = None,
    duration: Annotated[float, typer.Option(help="s, of each step")] = 30.0,
    calls: Annotated[int | None, typer.Option(help="of each step, instead of --duration")] = None,
    task: Annotated[
        Words, typer.Option(help="TASK or TASK=WEIGHT; repeat for a mix; default person")
    ] = None,
    method: Annotated[
        Words, typer.Option(help="METHOD or METHOD=WEIGHT; default deepsc-mimo")
    ] = None,
    links: Annotated[
        Words,
        typer.Option(
            help="shared (by value, the default), new (in every query), opened (before); KIND=WEIGHT"
        ),
    ] = None,
    num_links: Annotated[int, typer.Option(help="shared, and opened")] = 8,
    link: Annotated[
        Words, typer.Option(help="NAME=VALUE of every link: snr_db=5, num_users=2, bits=32, …")
    ] = None,
    batch: Annotated[
        Words,
        typer.Option(help="queries of a call: 1 (the default), or N over queries:batch; N=WEIGHT"),
    ] = None,
    symbols: Annotated[int, typer.Option(help="complex channel uses k")] = 64,
    top_k: Annotated[int, typer.Option()] = 5,
    knowledge_budget_ms: Annotated[float, typer.Option(help="0: stored knowledge only")] = 0.0,
    deadline_ms: Annotated[float, typer.Option(help="of each query")] = 30_000.0,
    warm_up: Annotated[int, typer.Option(help="calls before the clock starts; 0: cold")] = 64,
    retry: Annotated[
        bool, typer.Option("--retry", help="wait as Retry-After says and send again")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="of arrivals, queries and links; default: drawn, and said")
    ] = None,
    find: Annotated[
        Words, typer.Option(help="find the highest load that holds: 'p99_ms<=500'; repeatable")
    ] = None,
    precision: Annotated[float, typer.Option(help="of --find: gap over load")] = 0.1,
    fail_if: Annotated[
        Words, typer.Option(help="exit status 1 if true of a step: 'p99_ms>500'; repeatable")
    ] = None,
    metrics: Annotated[
        Words, typer.Option(help="NAME=URL of a service's /metrics, for its CPU and memory")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="show what happens now")] = False,
    out: Out = Path("results"),
) -> None:
    """Load a running system over REST; print and write what it did: load.json, .csv, .html.

    Exit status: 1 where --fail-if is true or --find finds no load, 2 for an option that is not allowed, 130 after
    Ctrl-C.
    """
    from lab.evaluation.report import Report
    from semlink.client import gateway_url
    from semlink.load.figures import is_figure, rows_of
    from semlink.load.html_report import write_page
    from semlink.load.resources import resources_of
    from semlink.load.run import HIGHEST_LOAD, Course, run
    from semlink.load.terminal import live as shown_live
    from semlink.load.terminal import print_measured
    from semlink.settings import current_settings

    plan = Plan(
        url=url or gateway_url(),
        seed=secrets.randbits(32) if seed is None else seed,
        duration_s=duration,
        calls=calls,
        tasks=Mix.parse(task or ["person"], "task", task_names()),
        methods=Mix.parse(method or ["deepsc-mimo"], "method"),
        links=Mix.parse(links or ["shared"], "links", LINK_KINDS),
        batch=Mix.parse(batch or ["1"], "batch", kind=int),
        num_links=num_links,
        link=link_fields(link or ()),
        symbols=symbols,
        top_k=top_k,
        knowledge_budget_ms=knowledge_budget_ms,
        deadline_ms=deadline_ms,
        warm_up=warm_up,
        honour_retry_after=retry,
    )
    if not 0.01 <= precision <= 0.5:
        raise InvalidField(f"precision is {precision}, allowed: 0.01…0.5", field="precision")
    objectives = tuple(Rule.parse(text, "find", is_figure) for text in find or ())
    of_runs = {HIGHEST_LOAD} if objectives else set()
    rules = [
        Rule.parse(t, "fail_if", lambda n: is_figure(n) or n in of_runs) for t in fail_if or ()
    ]
    course = Course(_loads(rate, users, ramp), objectives, precision)
    resources = resources_of(plan.url, current_settings().state_dir, _named(metrics))

    console.print(f"{plan.url}, seed {plan.seed}; Ctrl-C ends with a report")
    started = time.monotonic()
    with shown_live(console) if live else nullcontext() as observer:
        measured = run(plan, course, resources, observer)
    if not measured.steps:
        raise typer.Exit(130)
    report = Report("load", rows_of(measured.steps, plan), time.monotonic() - started)
    report.plan = plan.described()
    print_measured(measured, console)
    broken, unknown = measured.broken(rules)
    written = report.write(out, report.experiment)
    page = written.with_suffix(".html")
    write_page(measured, page, command=report.command, broken=broken, unknown=unknown)
    console.print(f"written: {written}, .csv and {page}")
    for rule in broken:
        console.print(f"[red]failed:[/red] {rule}")
    for rule in unknown:
        console.print(f"[red]failed:[/red] {rule}, which was not measured")
    if measured.interrupted:
        raise typer.Exit(130)
    if broken or unknown or (objectives and measured.held is None):
        raise typer.Exit(1)


def _loads(rate: float | None, users: int | None, ramp: str | None) -> tuple[Load, ...]:
    """The steps that the options ask for."""
    if rate is not None and users is not None:
        raise InvalidField("one of --rate and --users, not both", field="rate")
    first = Load(rate=rate) if rate is not None else Load(users=8 if users is None else users)
    try:
        sizes = [float(word) for word in (ramp or "").split(",") if word.strip()]
    except ValueError:
        raise InvalidField(
            f"ramp is {ramp!r}, allowed: numbers with commas between", field="ramp"
        ) from None
    if ramp is not None and rate is None and any(size != int(size) for size in sizes):
        raise InvalidField(f"ramp is {ramp!r}, allowed: whole numbers of users", field="ramp")
    return (first, *(Load(rate=s) if rate is not None else Load(users=int(s)) for s in sizes))


def _named(metrics: Words) -> dict[str, str]:
    found = {}
    for word in metrics or ():
        name, _, url = word.partition("=")
        if not name or not url.startswith(("http://", "https://")):
            raise InvalidField(f"metrics is {word!r}, allowed: NAME=http://…", field="metrics")
        found[name] = url
    return found
