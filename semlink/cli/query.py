"""`semlink query`: ask the running services."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from semlink.cli.console import console
from semlink.errors import InvalidField
from semlink.knowledge import PROMPT_STRATEGIES
from semlink.links import POWER_ALLOCATIONS
from semlink.methods import EXTRACTIONS, RERANKINGS, SCORINGS
from semlink.quantizers import BUILT_IN, CONTENTS, MEMORIES

if TYPE_CHECKING:
    from semlink.client import QueryResult

Port = Annotated[int | None, typer.Option(help="of the gateway; default 8000, or SEMLINK_URL")]


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
