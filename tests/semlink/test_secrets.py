"""No output holds a secret setting: logs, errors, answers, files, command lines, whatever fails.

What is planted is derived from the settings themselves, so that a new one that may hold a secret is tried too.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import secrets as random_secrets
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import httpx
import psutil
import pytest
from rich.console import Console

from semlink.deployment.processes import Service
from semlink.deployment.supervisor import down, up
from semlink.errors import SemlinkError
from semlink.rpc import KnowledgeClient
from semlink.settings import SecretUrl, Settings, secret_fields
from semlink.v1 import knowledge_pb2 as pb

PUBLIC = {
    "device",
    "llm_model",
    "llm_revision",
    "plugins",
    "host",
    "scenario",
    "trusted_hosts",
    *(
        f"{service}_address"
        for service in ("gateway", "transmitter", "channel", "receiver", "knowledge")
    ),
}
"""Settings of free text that hold no secret; they are shown in answers and logs."""


def test_every_setting_of_free_text_is_public_or_secret() -> None:
    free = {name for name, field in Settings.model_fields.items() if field.annotation is str}
    assert free == PUBLIC, "say that a new setting is public, or make it a SecretStr or SecretUrl"
    telling = re.compile("key|token|secret|passw|credential|_url")
    named = {name for name in Settings.model_fields if telling.search(name)}
    assert named <= secret_fields()
    assert secret_fields() >= {"llm_api_key", "llm_url", "redis_url"}


# --- what is planted -----------------------------------------------------------------------------


@dataclass
class Planted:
    """Settings with a secret in each of them that may hold one, and what no output may hold."""

    values: dict[str, str] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)

    def found_in(self, text: str) -> list[str]:
        return [what for what, mark in self.marks.items() if mark in text]


def plant(urls: dict[str, str], *, without: str = "") -> Planted:
    """A secret for every setting that may hold one; ``urls``: where those that are URLs lead."""
    planted = Planted()
    for name in sorted(secret_fields() - {without}):
        mark = f"planted{random_secrets.token_hex(8)}"
        planted.marks[name] = mark
        if Settings.model_fields[name].annotation is SecretUrl:
            assert name in urls, f"say to the test where {name} leads"
            parts = urlsplit(urls[name])
            password = f"@{mark}/"
            netloc = f"user:{quote(password, safe='')}@{parts.netloc}"
            planted.values[name] = urlunsplit(parts._replace(netloc=netloc))
            pair = base64.b64encode(f"user:{password}".encode()).decode()
            planted.marks[f"{name}, Basic authentication"] = pair
        else:
            planted.values[name] = f'"{mark}\\'  # JSON and repr write both otherwise
    if without:
        planted.values[without] = urls[without]
    return planted


# --- servers that repeat whatever they are sent --------------------------------------------------


class TalkativeLlm:
    """An endpoint that fails as ``mode`` says and repeats the request's authorisation in header and body."""

    def __init__(self) -> None:
        self.mode = "500"
        self.authorizations: list[str] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                said = self.headers.get("authorization", "")
                fake.authorizations.append(said)
                if fake.mode == "hang up":
                    self.close_connection = True
                    return
                status = 200 if fake.mode == "nonsense" else int(fake.mode)
                data = f"you sent {said}".encode()
                self.send_response(status)
                self.send_header("X-You-Sent", said)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class TalkativeStore(socketserver.ThreadingTCPServer):
    """A store that refuses every command with an error that repeats it."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        self.received = b""
        store = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                while data := self.request.recv(65536):
                    store.received += data
                    commands = len(re.findall(rb"^\*\d+\r\n", data, re.M))
                    said = b"-WRONGPASS the store was sent " + b" ".join(data.split()) + b"\r\n"
                    self.request.sendall(said * max(1, commands))

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


# --- services that fail --------------------------------------------------------------------------

KNOWLEDGE = """
import asyncio, sys, threading
import numpy as np
from kb_service.rewriting import Rewriter
from kb_service.handler import KnowledgeBase
from kb_service.sources import load_generator
from semlink.rpc import grpc_servicer, serve
from semlink.settings import Settings
from semlink.store import open_store
from semlink.telemetry import logger

settings = Settings()

def embed(texts):
    in_this_frame = [getattr(settings, name) for name in type(settings).model_fields]
    held = [getattr(v, "get_secret_value", str)() for v in in_this_frame]
    local = "a local " + "variable"  # the value stands nowhere else
    if any("boom" in text for text in texts):
        raise RuntimeError(f"held: {held}")
    return np.tile(np.eye(384, dtype=np.float32)[0], (len(texts), 1))

def dies():
    embed(["boom"])

async def main():
    load = lambda: Rewriter(load_generator(settings), embed)
    handler = KnowledgeBase(open_store(settings), settings, embed=embed, load_rewriter=load)
    async def ready():
        threading.Thread(target=dies).start()
        logger("knowledge").debug("ready with", settings=settings, values=settings.environment())
    await serve("knowledge", grpc_servicer("knowledge", handler), settings, ready=ready)
    if sys.argv[1:] == ["fail"]:
        embed(["boom"])

asyncio.run(main())
"""
STARTS_BADLY = KNOWLEDGE.replace(
    "async def ready():", "async def ready():\n        embed(['boom'])"
)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(*command: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return f"$ {' '.join(command)}\n{done.stdout}{done.stderr}\n{done.returncode}"


async def _answers(settings: Settings, llm: TalkativeLlm) -> list[str]:
    """What a client of the knowledge base gets while everything behind it fails."""
    client = KnowledgeClient(settings.address("knowledge"), settings)
    # first, before the breaker opens
    said = [await _said(client.list_entries(pb.ListEntriesRequest()))]
    for number, mode in enumerate(("500", "401", "nonsense", "hang up", "refused")):
        llm.mode = mode
        if mode == "refused":
            llm.close()
        item = pb.RewriteItem(text=f"A red bus, number {number}.", num_candidates=2, filter=False)
        said.append(await _said(client.rewrite(pb.RewriteRequest(items=[item], budget_ms=20_000))))
    said.append(await _said(client.search_entries(pb.SearchEntriesRequest(text="boom", top_k=1))))
    await client.close()
    return said


async def _said(call: Any) -> str:
    try:
        return str(await call)
    except SemlinkError as error:
        return f"{type(error).__name__}: {error.message} {error.__cause__!r}"


@pytest.fixture
def llm() -> Iterator[TalkativeLlm]:
    fake = TalkativeLlm()
    yield fake
    fake.close()


@pytest.fixture
def talkative_store() -> Iterator[TalkativeStore]:
    with TalkativeStore() as store:
        yield store
        store.shutdown()


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.timeout(300)
def test_no_output_holds_a_secret(
    llm: TalkativeLlm,
    talkative_store: TalkativeStore,
    tmp_path: Path,
    log_format: str,
) -> None:
    planted = plant(
        {
            "llm_url": f"http://127.0.0.1:{llm.server.server_address[1]}/v1",
            "redis_url": f"redis://127.0.0.1:{talkative_store.server_address[1]}/0",
        },
        # a user in the URL takes the place of the key: the key is sent by the other run
        without="llm_url" if log_format == "json" else "",
    )
    ports = {name: _free_port() for name in Settings.model_fields if name.endswith("_port")}
    settings = Settings(
        **planted.values,
        **ports,
        llm="endpoint",
        llm_model="large",
        llm_retries=0,
        llm_timeout_s=2,
        log_level="DEBUG",
        log_format=log_format,
        state_dir=tmp_path / "state",
        drain_s=1,
    )
    python = (sys.executable, "-P")
    semlink = (*python, "-m", "semlink.cli")
    environment = os.environ | settings.environment()
    service = Service(
        "knowledge",
        (*python, "-c", KNOWLEDGE, "fail"),
        {"serve": settings.knowledge_port, "metrics": settings.knowledge_metrics_port},
        "grpc",
    )
    console = Console(file=io.StringIO(), width=200)
    outputs = {"settings": f"{settings!r} {settings} {settings.model_dump_json()}"}
    up(settings, services=[service], detach=True, console=console)
    gateway_log = tmp_path / "state" / "gateway.log"
    with gateway_log.open("wb") as out:
        gateway = subprocess.Popen((*python, "-m", "gateway"), env=environment, stderr=out)
    try:
        for number, said in enumerate(asyncio.run(_answers(settings, llm))):
            outputs[f"answer {number}"] = said
        with httpx.Client(
            base_url=f"http://127.0.0.1:{settings.gateway_port}", timeout=60, trust_env=False
        ) as http:
            for _ in range(200):
                try:
                    http.get("/healthz")
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
            body = {"task": "person", "query": {"text": "A red coat."}, "method": "ideal"}
            for answer in (
                *(http.get(path) for path in ("/healthz", "/readyz", "/metrics", "/v1/links")),
                http.post("/v1/queries", json=body),
            ):
                outputs[str(answer.request.url)] = f"{answer.headers} {answer.text}"
        metrics = f"http://127.0.0.1:{settings.knowledge_metrics_port}/metrics"
        outputs["metrics"] = httpx.get(metrics, trust_env=False).text
        outputs["command lines"] = str(
            [one.cmdline() for one in psutil.Process().children(recursive=True)]
        )
        outputs["status"] = _run(*semlink, "status", environment=environment)
        for number, arguments in enumerate(
            (
                ("up",),  # it runs already
                ("query", "a red coat", "--port", str(_free_port())),
                ("kb", "learn-channel", "--scenario", "umi-los"),
            )
            if log_format == "console"
            else ()
        ):
            outputs[f"cli {number}"] = _run(*semlink, *arguments, environment=environment)
    finally:
        gateway.terminate()
        gateway.wait(20)
        down(settings)
    for name in secret_fields() if log_format == "json" else ():
        broken = environment | {f"SEMLINK_{name.upper()}": f"sip://:{planted.marks.get(name)}@:x/"}
        outputs[f"broken {name}"] = _run(*semlink, "status", environment=broken)
    outputs["bad start"] = _run(*python, "-c", STARTS_BADLY, environment=environment)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.knowledge_port))
        taken.listen()
        outputs["taken port"] = _run(*python, "-c", KNOWLEDGE, environment=environment)
        outputs["up on a taken port"] = _run(*semlink, "up", environment=environment)
    outputs["console"] = console.file.getvalue()  # type: ignore[attr-defined]
    for path in settings.state_dir.rglob("*"):
        if path.is_file():
            outputs[str(path)] = path.read_text(errors="replace")

    leaks = {where: found for where, text in outputs.items() if (found := planted.found_in(text))}
    assert leaks == {}, {where: outputs[where][:3000] for where in leaks}

    everything = "\n".join(outputs.values())
    assert "a local variable" not in everything, "local variables are shown"

    # all of it was really tried, and really said
    sent = "llm_api_key" if log_format == "json" else "llm_url, Basic authentication"
    assert planted.marks[sent] in llm.authorizations[0]
    assert len(llm.authorizations) == 4
    assert planted.marks["redis_url"].encode() in talkative_store.received
    for said in ("status 500: you sent", "status 401: you sent", "no chat completion"):
        assert said in everything
    log = outputs[str(settings.state_dir / "logs" / "knowledge.log")]
    for said in ("internal error", "RuntimeError", "held: ", "x-you-sent", "in dies"):
        assert said.lower() in log.lower(), said
    assert "the store was sent" in outputs["answer 0"]
    assert "knowledge" in outputs["status"]
    assert "held: " in outputs["bad start"]
