"""`semlink query`: what it sends, what it prints, and what it says when something is wrong."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gateway.schemas import QueryBody
from semlink.cli import app as command_line

ANSWER: dict[str, Any] = {
    **{"id": "q1", "task": "person", "corpus": "pedestrians", "method": "sc-lmkb", "seed": 7},
    "computation": {
        **{"version": "0.1.0", "weights": "0123456789ab"},
        **{"runtime": "openvino", "precision": "f32"},
    },
    "emulated_ms": {"slot_wait": 1.0},
    "results": [
        {
            "item_id": "p-1",
            "score": 0.5,
            "similarity": 0.5,
            "media_url": "/m",
            "captions": ["[x] y"],
        }
    ],
    "link": {
        **{"snr_db": 10.0, "channel_uses": 64, "bandwidth_ratio": 0.25, "feedback_bits": 64},
        **{"header_bytes": 40, "post_eq_snr_db": 19.5, "post_eq_snr_estimate_db": 19.0},
        **{"csi_nmse_db": None, "csi_sgcs": 0.9, "slot": 200, "user": 1, "co_scheduled": 2},
        **{"erased": True, "csi_age_slots": 5},
    },
    "knowledge": {
        "rewrites": [{"text": "t", "kept": False, "similarity": 0.9, "reason": "[far]"}],
        "csi_source": "hold-last",
    },
    "retrieval": {
        **{"scoring": "global", "reranking": "none", "extraction": "none"},
        "sentences": [{"text": "t", "score": 1.0, "kept": True}],
    },
    "timings_ms": {"gateway.total": 12.5},
    "degraded": [{"part": "knowledge.rewrites", "reason": "no time"}],
}
PROBLEM = {"title": "Invalid field", "status": 422, "detail": "symbols is odd", "field": "symbols"}


class Gateway:
    """Answers every query alike and notes the bodies."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.refuses = False
        outer = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.bodies.append(
                    json.loads(self.rfile.read(int(self.headers["content-length"])))
                )
                content = json.dumps(PROBLEM if outer.refuses else ANSWER).encode()
                self.send_response(422 if outer.refuses else 200)
                self.send_header("Content-Type", f"application/{'problem+' * outer.refuses}json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    fake = Gateway()
    monkeypatch.setenv("SEMLINK_URL", f"http://127.0.0.1:{fake.server.server_address[1]}")
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def semlink(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit status of the command line."""
    monkeypatch.setattr(sys, "argv", ["semlink", *arguments])
    with pytest.raises(SystemExit) as caught:
        command_line.main()
    return int(caught.value.code or 0)


def test_the_options_are_sent(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--snr 5 --bits 16 --users 2 --symbols 32 --top-k 3 --seed 9 --key-sentences 1"
    arguments = [*options.split(), "--extraction", "textrank", "--scenario", "cdl-c"]
    arguments += ["--report-period-slots", "10", "--link-seed", "4"]
    assert semlink(monkeypatch, "query", "a man", *arguments) == 0
    body = QueryBody.model_validate(gateway.bodies[0])
    assert (body.query.text, body.symbols, body.top_k, body.seed) == ("a man", 32, 3, 9)
    assert (body.link.snr_db, body.link.feedback.bits, body.link.num_users) == (5.0, 16, 2)
    assert (body.link.scenario, body.retrieval.extraction) == ("cdl-c", "textrank")
    assert (body.link.feedback.report_period_slots, body.link.seed) == (10, 4)
    assert body.retrieval.key_sentences == 1
    assert (body.knowledge_budget_ms, body.deadline_ms) == (0, 60_000)
    printed = capsys.readouterr().out
    for shown in ("p-1", "[x] y", "erased", "user 1 beside 2", "[far]", "no time", "total 12.5"):
        assert shown in printed


@pytest.mark.parametrize(
    ("options", "budget_ms"), [("", 60_000), ("--knowledge-budget-ms 5000", 5000)]
)
def test_it_waits_for_rewrites_where_it_is_asked_to(
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    budget_ms: float,
) -> None:
    arguments = ["--wait-knowledge", "--json", *options.split()]
    assert semlink(monkeypatch, "query", "a man", *arguments) == 0
    body = QueryBody.model_validate(gateway.bodies[0])
    assert (body.knowledge_budget_ms, body.deadline_ms) == (budget_ms, budget_ms + 60_000)
    printed = capsys.readouterr()
    assert json.loads(printed.out) == ANSWER
    assert f"waiting for rewrites by the LLM, up to {budget_ms / 1e3:g} s" in printed.err


def test_the_link_of_a_query_that_names_none_is_the_gateways(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert semlink(monkeypatch, "query", "a man", "--json") == 0
    assert "scenario" not in gateway.bodies[0]["link"]
    assert semlink(monkeypatch, "query", "a man", "--link", "l-1") == 0
    assert gateway.bodies[1]["link"] == {"id": "l-1"}


def test_the_whole_answer_as_json(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert semlink(monkeypatch, "query", "a man", "--json") == 0
    assert json.loads(capsys.readouterr().out) == ANSWER


def test_what_is_wrong_is_one_line(
    gateway: Gateway,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def said(*arguments: str) -> str:
        capsys.readouterr()
        status = semlink(monkeypatch, "query", *arguments)
        return f"{status} {' '.join(capsys.readouterr().err.split())}"

    assert "--link names an open link, which has its own snr_db" in said(
        "a", "--link", "l-1", "--snr", "3"
    )
    assert "cannot be read: No such file" in said("--media", str(tmp_path / "none.png"))
    assert not gateway.bodies
    gateway.refuses = True
    assert said("a") == "2 semlink: symbols is odd (field symbols)"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    message = said("a", "--port", str(port))
    assert message.startswith(f"1 semlink: no gateway answers at http://127.0.0.1:{port}")
    assert "is `semlink up` running?" in message
    monkeypatch.setenv("SEMLINK_URL", "lab:8000")
    assert said("a").startswith("2 semlink: url is 'lab:8000', allowed: http://HOST:PORT")
