"""`semlink load` as a user runs it: exit status, files, Ctrl-C, and what it imports."""

from __future__ import annotations

import asyncio
import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

from fake_gateway import FakeGateway, gateway

COMMAND = (sys.executable, "-m", "semlink.cli", "load")


async def load(fake: FakeGateway | None, out: Path, *options: str) -> tuple[int, str]:
    """Exit status and output of the command."""
    words = (*COMMAND, *([fake.url] if fake else []), *options, "--out", str(out))
    process = await asyncio.create_subprocess_exec(
        *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    text, _ = await process.communicate()
    return process.returncode or 0, text.decode()


async def test_a_run_is_printed_and_written(tmp_path: Path) -> None:
    async with gateway() as fake:
        options = ("--users", "2", "--calls", "20", "--warm-up", "4", "--seed", "5")
        status, text = await load(fake, tmp_path, *options, "--fail-if", "p99_ms>5000")
        assert status == 0, text
        status, text = await load(fake, tmp_path, *options, "--fail-if", "p50_ms>0.001")
    assert status == 1
    assert "failed: p50_ms>0.001" in text
    assert "CPU and memory of services: unknown" in text
    report = json.loads((tmp_path / "load.json").read_text())
    assert report["plan"]["seed"] == 5
    assert report["plan"]["tasks"] == "person"
    values = {row["metric"]: row["mean"] for row in report["rows"] if row["variant"] == "2 users"}
    assert values["answered_share"] == 1.0
    with (tmp_path / "load.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["metric"] for row in rows} >= {"queries_per_s", "p99_ms.gateway.total"}
    assert "<svg" in (tmp_path / "load.html").read_text()
    assert [body["seed"] for body in fake.bodies()[:24]] == [b["seed"] for b in fake.bodies()[24:]]


async def test_a_threshold_of_a_stage_that_there_is_not_fails(tmp_path: Path) -> None:
    async with gateway() as fake:
        options = ("--calls", "3", "--warm-up", "0", "--fail-if", "p99_ms.receiver.rerank>5")
        status, text = await load(fake, tmp_path, *options)
    assert status == 1
    assert "was not measured" in text


async def test_a_ramp_and_a_search_say_what_held(tmp_path: Path) -> None:
    async with gateway() as fake:
        options = ("--users", "1", "--ramp", "2", "--calls", "5", "--warm-up", "0", "--live")
        status, text = await load(fake, tmp_path, *options, "--find", "p99_ms<=0.0001")
        assert status == 1
        assert "no load held p99_ms<=0.0001" in text
        status, text = await load(fake, tmp_path, *options)
    assert status == 0, text
    assert "1 users" in text
    assert "2 users" in text


async def test_ctrl_c_ends_with_a_report_of_what_was_measured(tmp_path: Path) -> None:
    async with gateway() as fake:
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, fake.url, "--rate", "50", "--duration", "60", "--out", str(tmp_path)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            while len(fake.bodies()) < 100:
                await asyncio.sleep(0.05)
            process.send_signal(signal.SIGINT)
            text, _ = await process.communicate()
    assert process.returncode == 130, text.decode()
    report = json.loads((tmp_path / "load.json").read_text())
    (calls,) = (row["mean"] for row in report["rows"] if row["metric"] == "calls")
    assert calls >= 30
    assert "Traceback" not in text.decode()
    assert ("DELETE", "/v1/load-run") in [(method, path) for method, path, _ in fake.asked]


async def test_what_is_not_allowed_is_named(tmp_path: Path) -> None:
    for options, named in (
        (("--task", "smell"), "field task"),
        (("--rate", "5", "--users", "5"), "field rate"),
        (("--ramp", "a,b"), "field ramp"),
        (("--fail-if", "speed>1"), "field fail_if"),
        (("--fail-if", "highest_load<1"), "field fail_if"),
        (("--links", "borrowed"), "field links"),
        (("--precision", "2"), "field precision"),
        (("--metrics", "gateway"), "field metrics"),
        (("ftp://x",), "field url"),
    ):
        status, text = await load(None, tmp_path, *options)
        assert status == 2, text
        assert named in text.replace("\n", " ")


def test_neither_torch_nor_grpc_is_imported() -> None:
    listing = (
        "import sys, semlink.cli.load, semlink.load.run, semlink.load.html_report, semlink.load.terminal; "
        "print(*(set(sys.modules) & {'torch', 'grpc', 'transformers', 'sionna', 'gateway'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
