"""`semlink kb …` as a user meets it, against a real service; only the LLM and the sentence encoder are stand-ins."""

import asyncio
import json
import threading
import time

import numpy as np
import pytest
from typer.testing import CliRunner

from kb_service.exchange import read_entries
from kb_service.handler import KnowledgeBase
from kb_service.llm import MODEL_NAME, GenerationCancelled
from semlink.cli.app import app
from semlink.errors import InvalidField, NotFound, Unavailable
from semlink.rpc import grpc_servicer, start_server
from semlink.settings import Settings
from semlink.store import MemoryStore
from semlink.v1 import knowledge_pb2 as pb


def _letters(texts):
    counts = np.zeros((len(texts), 384), np.float32)
    for row, text in zip(counts, texts, strict=True):
        for letter in text.lower():
            row[ord(letter) % 384] += 1
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


class Rewriter:
    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.made = 0

    def __call__(self, tasks, *, cancelled=lambda: False, deadline=None):
        while not self.gate.wait(0.005):
            if cancelled():
                raise GenerationCancelled("stopped")
        self.made += len(tasks)
        return [
            pb.RewriteSet(
                rewrites=[
                    pb.Rewrite(text=f"Once more: {t.text}", similarity=0.9),
                    pb.Rewrite(text="A purple elephant.", similarity=0.1),
                ]
            )
            for t in tasks
        ]


class Service:
    """A knowledge base in a thread of its own, as a process of its own would be."""

    def __init__(self):
        self.llm = Rewriter()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._start(), self.loop).result(20)

    async def _start(self):
        self.store = MemoryStore()
        self.handler = KnowledgeBase(self.store, load_rewriter=lambda: self.llm, embed=_letters)
        settings = Settings(knowledge_port=0, knowledge_metrics_port=0)
        self.server = await start_server(
            "knowledge", grpc_servicer("knowledge", self.handler), settings
        )
        await self.server.set_serving()
        return self.server.port

    async def _stop(self):
        await self.server.stop(0)
        await self.handler.close()

    def stop(self):
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result(20)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def service(monkeypatch):
    made = Service()
    monkeypatch.setenv("SEMLINK_KNOWLEDGE_ADDRESS", f"127.0.0.1:{made.port}")
    monkeypatch.setattr("semlink.cli.knowledge.POLL_S", 0.02)
    yield made
    made.stop()


def _run(*arguments, **options):
    return CliRunner().invoke(app, ["kb", *arguments], **options)


def _lines(*arguments):
    done = _run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def _enrich(*arguments):
    return _run("enrich", "--corpus", "soundscapes", "--split", "val", *arguments)


def test_enrich_list_show_search_stats(service):
    done = _enrich("--limit", "30", "--seed", "4", "--strategy", "instruction")
    assert done.exit_code == 0, done.output
    assert "done" in done.stdout
    listed = _lines("list", "--limit", "100")
    assert len(listed) == 30
    assert {(e["seed"], e["strategy"], e["model"]) for e in listed} == {
        (4, "instruction", MODEL_NAME)
    }
    assert len(_lines("list", "--limit", "7")) == 7
    part = listed[0]["text"][3:12].upper()
    matching = [e for e in listed if part.lower() in e["text"].lower()]
    assert len(_lines("list", "--limit", "100", "--text", part)) == len(matching)
    shown = _run("show", listed[0]["key"]).stdout
    assert "dropped A purple elephant." in shown
    assert "similarity 0.10" in shown
    best = _lines("search", listed[3]["text"], "--top-k", "3")
    assert best[0]["text"] == listed[3]["text"]
    assert best[0]["similarity"] >= best[1]["similarity"] >= best[2]["similarity"]
    (stats,) = _lines("stats")
    assert (stats["entries"], stats["rewrites"]) == ("30", "60")
    for command in ("list", "stats", "prompts", "jobs"):
        done = _run(command)
        assert done.exit_code == 0
        assert "instruction" in done.stdout


def test_enrich_again_resumes(service):
    _enrich("--limit", "10")
    assert service.llm.made == 10
    done = _enrich("--limit", "25")
    assert service.llm.made == 25
    assert done.exit_code == 0


def test_ctrl_c_leaves_the_job_and_says_how_to_stop_it(service, monkeypatch):
    service.llm.gate.clear()

    async def interrupted(client, job):
        raise KeyboardInterrupt

    monkeypatch.setattr("semlink.cli.knowledge._follow", interrupted)
    done = _enrich("--limit", "10")
    assert done.exit_code == 130 or isinstance(done.exception, KeyboardInterrupt | SystemExit)
    assert "semlink kb cancel" in done.output
    job = done.output.partition("semlink kb cancel ")[2].strip().split("`")[0]
    assert "running" in _run("jobs").stdout
    cancelled = _run("cancel", job)
    assert "cancelled" in cancelled.stdout
    assert service.llm.made == 0


def test_detach_returns_while_the_job_runs(service):
    service.llm.gate.clear()
    started = time.monotonic()
    done = _enrich("--detach")
    assert done.exit_code == 0
    assert time.monotonic() - started < 5
    assert "running" in _run("jobs").stdout


def test_export_delete_import_is_the_same(service, tmp_path):
    _enrich("--limit", "230")
    file = tmp_path / "kept.jsonl"
    assert _run("export", str(file)).exit_code == 0
    before = sorted(_lines("list", "--limit", "1000"), key=lambda e: e["key"])
    exported = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(exported, key=lambda e: e["key"]) == before
    assert not list(tmp_path.glob("*.part"))
    refused = _run("delete", "--everything", input="n\n")
    assert refused.exit_code == 1
    assert len(_lines("list", "--limit", "1000")) == 230
    assert "1 entries deleted" in _run("delete", before[0]["key"]).stdout
    assert "229 entries deleted" in _run("delete", "--everything", "--yes").stdout
    done = _run("import", str(file))
    assert "230 added, 0 replaced, 0 kept already" in done.stdout
    assert sorted(_lines("list", "--limit", "1000"), key=lambda e: e["key"]) == before
    assert "0 added, 0 replaced, 230 kept already" in _run("import", str(file)).stdout
    assert "0 added, 230 replaced, 0 kept already" in _run("import", str(file), "--replace").stdout
    standard = _run("export", "-", "--text", before[5]["text"])
    assert before[5]["text"] in standard.stdout


def test_a_bad_file_names_the_line(service, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": "A bus.", "model": "m", "rewrites": [{"text": "b"}]}\n{"tex": 1}\n')
    done = _run("import", str(file))
    assert isinstance(done.exception, InvalidField)
    assert "bad.jsonl, line 2" in done.exception.message
    file.write_text('{"text": "A bus.", "model": "m", "rewrites": []}\n')
    done = _run("import", str(file))
    assert isinstance(done.exception, InvalidField)
    assert "from line 1 on" in done.exception.message
    assert isinstance(_run("import", str(tmp_path / "none")).exception, InvalidField)
    assert _lines("list") == []


@pytest.mark.parametrize("line", ["[]", "1", "{", '{"seed": "x"}', '{"rewrites": [1]}'])
def test_no_line_of_an_export_is_guessed(line):
    with pytest.raises(InvalidField, match="f, line 1"):
        list(read_entries([line], "f"))


def test_what_is_not_allowed_is_named(service):
    for arguments, field in (
        (("list", "--strategy", "magic"), "strategy"),
        (("delete",), "everything"),
        (("delete", "rewrites:1", "--seed", "1"), "keys"),
    ):
        error = _run(*arguments).exception
        assert isinstance(error, InvalidField)
        assert error.field == field
    assert isinstance(_run("show", "rewrites:0").exception, NotFound)
    assert isinstance(_run("cancel", "no").exception, NotFound)
    assert isinstance(_enrich("--strategy", "magic").exception, InvalidField)


def test_without_a_service_it_says_what_starts_one(monkeypatch):
    monkeypatch.setenv("SEMLINK_KNOWLEDGE_ADDRESS", "127.0.0.1:9")
    monkeypatch.setenv("SEMLINK_CONNECT_TIMEOUT_S", "0.2")
    for arguments in (("stats",), ("list",), ("enrich", "--corpus", "pedestrians")):
        error = _run(*arguments).exception
        assert isinstance(error, Unavailable)
        assert "semlink up" in error.message
