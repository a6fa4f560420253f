"""With a proxy in the environment where nobody listens, everything that semlink sends to this machine still arrives."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import grpc
import httpx
import pytest
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from kb_service.endpoints import ChatEndpoint
from kb_service.llm import Dialogue
from kb_service.prompting import STRATEGIES
from semlink.deployment.health import is_healthy
from semlink.deployment.processes import Service
from semlink.probe import serving
from semlink.rpc import ReceiverClient

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "semlink.v1.Receiver"


@pytest.fixture(autouse=True)
def _proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, url)
        monkeypatch.setenv(name.upper(), url)
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def http_port() -> Iterator[int]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send({"status": "ok"})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._send({"choices": [{"message": {"content": "a red bus"}}]})

        def _send(self, answer: Any) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def grpc_port() -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    for name in ("", SERVICE):
        servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None)


def test_the_proxy_is_one_that_others_would_use(http_port: int) -> None:
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{http_port}/readyz")


def test_the_probe_of_the_containers(grpc_port: int) -> None:
    assert serving(f"127.0.0.1:{grpc_port}", SERVICE)


async def test_calls_between_the_services(grpc_port: int) -> None:
    async with ReceiverClient(f"127.0.0.1:{grpc_port}") as client:
        assert await client.serving()


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_the_probes_of_the_supervisor(grpc_port: int, http_port: int, kind: str) -> None:
    port = {"grpc": grpc_port, "http": http_port}[kind]
    assert is_healthy(Service("x", (), {"serve": port}, cast(Any, kind)))


def test_the_health_check_of_the_gateways_container(http_port: int) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    command, python, flag, code = compose["services"]["gateway"]["healthcheck"]["test"]
    assert (command, python, flag) == ("CMD", "python", "-c")
    code = code.replace(":8000/", f":{http_port}/")
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, timeout=60)


def test_a_language_model_on_this_machine(http_port: int) -> None:
    endpoint = ChatEndpoint(f"http://localhost:{http_port}/v1", "large", "", 5.0, 0)
    few_shot = STRATEGIES["few-shot"]
    dialogue = Dialogue(few_shot.shared, few_shot.ask("A bus."), 1, 0.7, 7, 40)
    assert endpoint.answer([dialogue]) == [["a red bus"]]
