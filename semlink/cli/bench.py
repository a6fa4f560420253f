"""`semlink bench`: speed and memory on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semlink.cli.console import Out, Threads, console, write
from semlink.cli.knowledge import bench_kb
from semlink.cli.services import own_services

bench_app = typer.Typer(help="Measure speed and memory on this machine.", no_args_is_help=True)
bench_app.command("kb")(bench_kb)


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
    write(report, out)


@bench_app.command("csi")
def bench_csi(threads: Threads = 2, out: Out = Path("results")) -> None:
    """Milliseconds to quantise and dequantise a CSI report, for every scheme and number of bits."""
    from lab.benchmarks.csi import run

    write(run(threads, console), out)


@bench_app.command("codec")
def bench_codec(threads: Threads = 2, out: Out = Path("results")) -> None:
    """Milliseconds to encode and decode a message: JSCC at every k, and the digital codings."""
    from lab.benchmarks.codec import run

    write(run(threads, console), out)


@bench_app.command("encoders")
def bench_encoders(
    rounds: Annotated[int, typer.Option(min=1, help="each of every runtime, in turns")] = 10,
    items: Annotated[
        int, typer.Option(min=0, help="of each gallery whose features are compared with torch's")
    ] = 1000,
    out: Out = Path("results"),
) -> None:
    """CPU-ms to encode texts, pictures and sounds, alone and batched, by runtime and precision; features compared."""
    from tempfile import TemporaryDirectory

    from lab.benchmarks.encoders import run

    with TemporaryDirectory() as folder:
        report = run(Path(folder), rounds=rounds, items=items, console=console)
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
    queries: Annotated[
        int, typer.Option(min=64, help="of each load; a quarter of it where few are in flight")
    ] = 640,
    overload: Annotated[
        bool,
        typer.Option(
            "--overload", help="3 and 10 times the peak as well, with 1, 5 and 30 s deadlines"
        ),
    ] = False,
    out: Out = Path("results"),
) -> None:
    """Rate, latency and CPU-ms a query over the services under `semlink load`, memory, and the same in one process."""
    from lab.benchmarks.serving import ServeBench
    from semlink.client import gateway_url
    from semlink.deployment import supervisor

    bench = ServeBench(number=queries, console=console)
    with own_services("bench") as settings:
        pids = {s.name: s.pid for s in supervisor.status(settings)}
        bench.services(gateway_url(settings.gateway_port), pids, overload=overload)
    bench.in_process()
    write(bench.report, out)
