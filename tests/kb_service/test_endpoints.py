"""An LLM behind an endpoint, against a local server that speaks chat completions: well, badly, slowly, not at all."""

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from kb_service.endpoints import JSON_TOKENS, MAX_ANSWER_BYTES, THINKING_TOKENS, ChatEndpoint
from kb_service.handler import KnowledgeBase
from kb_service.llm import Dialogue, GenerationCancelled
from kb_service.prompting import STRATEGIES
from kb_service.rewriting import Rewriter, Task
from kb_service.sources import load_generator
from semlink.errors import Unavailable
from semlink.settings import Settings
from semlink.store import MemoryStore
from semlink.telemetry import registry
from semlink.v1 import knowledge_pb2 as pb

FEW_SHOT = STRATEGIES["few-shot"]


def completion(*texts, finish_reason="stop", **message):
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": t, **message},
            "finish_reason": finish_reason,
        }
        for i, t in enumerate(texts)
    ]
    return 200, {}, json.dumps({"object": "chat.completion", "choices": choices}).encode()


class FakeServer:
    """Answers each request with what ``answer(body)`` says: (status, headers, bytes), after ``delay_s``."""

    def __init__(self):
        self.answer = lambda body: completion(*(f"One, {i}." for i in range(body["n"])))
        self.delay_s = 0.0
        self.requests = []
        self.headers = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with fake.lock:
                    fake.requests.append((self.path, body))
                    fake.headers.append(dict(self.headers))
                    fake.in_flight += 1
                    fake.most_in_flight = max(fake.most_in_flight, fake.in_flight)
                time.sleep(fake.delay_s)
                status, headers, data = fake.answer(body)
                with fake.lock:
                    fake.in_flight -= 1
                try:
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(data)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # the client left

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fake = FakeServer()
    yield fake
    fake.close()


def _endpoint(server, **changes):
    given = {
        "url": server.url,
        "model": "large",
        "api_key": "s3cret",
        "timeout_s": 5.0,
        "retries": 2,
        "first_pause_s": 0.01,
    }
    return ChatEndpoint(**{**given, **changes})


def _dialogue(caption="A red bus.", samples=3, seed=7):
    return Dialogue(FEW_SHOT.shared, FEW_SHOT.ask(caption), samples, 0.7, seed, 40)


def test_it_asks_for_all_samples_at_once(server):
    assert _endpoint(server).answer([_dialogue()]) == [["One, 0.", "One, 1.", "One, 2."]]
    ((path, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert (body["model"], body["n"], body["temperature"], body["max_tokens"]) == (
        "large",
        3,
        0.7,
        40 + JSON_TOKENS,
    )
    assert 0 <= body["seed"] < 2**31
    assert body["messages"][0] == {"role": "system", "content": FEW_SHOT.shared[0].content}
    assert body["messages"][-1] == {"role": "user", "content": "Rewrite this caption: A red bus."}
    assert server.headers[0]["Authorization"] == "Bearer s3cret"


def _counted(name, **labels):
    return registry.get_sample_value(f"semlink_{name}_total", labels) or 0.0


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [({"completion_tokens": 31}, 31), ({"completion_tokens": "many"}, 0), (None, 0), ([], 0)],
)
def test_tokens_are_counted_where_the_server_says_how_many(server, usage, tokens):
    def answer(body):
        status, headers, data = completion("One.", "Two.", "Three.")
        return status, headers, json.dumps({**json.loads(data), "usage": usage}).encode()

    server.answer = answer
    before = _counted("llm_tokens")
    _endpoint(server).answer([_dialogue()])
    assert _counted("llm_tokens") - before == tokens


def test_a_server_without_keys_is_sent_none(server):
    _endpoint(server, api_key="").answer([_dialogue()])
    assert "Authorization" not in server.headers[0]


def test_the_seed_makes_the_requests(server):
    endpoint = _endpoint(server)
    endpoint.answer([_dialogue(seed=1)])
    endpoint.answer([_dialogue(seed=1)])
    endpoint.answer([_dialogue(seed=2)])
    seeds = [body["seed"] for _, body in server.requests]
    assert seeds[0] == seeds[1] != seeds[2]


def test_a_server_that_knows_no_n_is_asked_again(server):
    server.answer = lambda body: completion(f"Seed {body['seed']}.")
    (texts,) = _endpoint(server).answer([_dialogue(samples=4)])
    assert len(set(texts)) == 4, "the same seed again gives the same text again"
    assert [body["n"] for _, body in server.requests] == [4, 3, 2, 1]


def test_a_server_that_gives_too_many_is_cut(server):
    server.answer = lambda body: completion(*"abcdefgh")
    assert _endpoint(server).answer([_dialogue(samples=3)]) == [["a", "b", "c"]]


def test_captions_are_asked_side_by_side_and_answered_in_order(server):
    server.delay_s = 0.2
    server.answer = lambda body: completion(body["messages"][-1]["content"].rpartition(": ")[2])
    captions = [f"Bus {i}." for i in range(6)]
    started = time.monotonic()
    answers = _endpoint(server).answer([_dialogue(c, samples=1) for c in captions])
    assert answers == [[c] for c in captions]
    assert time.monotonic() - started < 1.1
    assert server.most_in_flight > 2


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<think>Red.</think>A bus,  red.\nSo.", "<think>Red.</think>A bus,  red.\nSo."),
        ("", ""),
        (None, ""),
        # Mistral's reasoning models
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "A bus?"}]},
                {"type": "text", "text": "A bus."},
            ],
            "A bus.",
        ),
    ],
)
def test_what_the_model_wrote_is_handed_on(server, content, text):
    server.answer = lambda body: completion(content)
    assert _endpoint(server).answer([_dialogue(samples=1)]) == [[text]]


def test_structured_output_is_asked_for(server):
    _endpoint(server).answer([_dialogue()])
    ((_, body),) = server.requests
    assert body["response_format"]["type"] == "json_schema"
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["rewrite"]
    assert schema["properties"] == {"rewrite": {"type": "string"}}


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, b"{\"error\":\"'response_format.type' must be 'json_object' or 'text'\"}"),
        (422, b'{"detail": [{"loc": ["body", "response_format"], "msg": "extra fields"}]}'),
        (
            500,
            b'{"error": {"code": 500, "message": "response_format type must be one of '
            b'\\"text\\" or \\"json_object\\", but got: json_schema"}}',
        ),
    ],
)
def test_a_server_without_structured_output_is_asked_plainly_from_then_on(server, status, data):
    server.answer = lambda body: (
        (status, {}, data) if "response_format" in body else completion("A bus.")
    )
    endpoint = _endpoint(server)
    assert endpoint.answer([_dialogue(samples=1)]) == [["A bus."]]
    assert endpoint.answer([_dialogue(samples=1)]) == [["A bus."]]
    assert ["response_format" in body for _, body in server.requests] == [True, False, False]


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (None, {"reasoning": "The user wants"}),  # vLLM, DeepSeek
        ("", {"reasoning_content": "The user wants"}),  # llama.cpp, SGLang
        ("<think>\nOkay, the user wants me to", {}),
        ("Okay, the user wants me to", {}),
        ('{"rewrite": "A bus', {}),
    ],
)
def test_a_model_that_thinks_gets_tokens_to_think(server, cut, message):
    server.answer = lambda body: (
        completion("A bus.")
        if body["max_tokens"] >= THINKING_TOKENS
        else completion(cut, finish_reason="length", **message)
    )
    endpoint = _endpoint(server)
    assert endpoint.answer([_dialogue(samples=1)]) == [["A bus."]]
    assert endpoint.answer([_dialogue(samples=1)]) == [["A bus."]]
    asked = [body["max_tokens"] - 40 - JSON_TOKENS for _, body in server.requests]
    assert asked == [0, THINKING_TOKENS, THINKING_TOKENS]


def test_captions_in_flight_when_thinking_is_noticed_get_tokens_too(server):
    server.delay_s = 0.05
    server.answer = lambda body: (
        completion("A bus.")
        if body["max_tokens"] >= THINKING_TOKENS
        else completion("<think>Hm", finish_reason="length")
    )
    dialogues = [_dialogue(f"Bus {i}.", samples=1) for i in range(4)]
    assert _endpoint(server).answer(dialogues) == [["A bus."]] * 4


def test_a_rewrite_that_is_cut_costs_no_second_request(server):
    server.answer = lambda body: completion("A bus that is", finish_reason="length")
    assert _endpoint(server).answer([_dialogue(samples=1)]) == [["A bus that is"]]
    assert len(server.requests) == 1


def test_a_model_whose_context_has_no_tokens_to_think_is_asked_as_before(server):
    server.answer = lambda body: (
        (400, {}, b'{"error": {"message": "max_tokens is too large: 4152"}}')
        if body["max_tokens"] >= THINKING_TOKENS
        else completion("<think>Hm", finish_reason="length")
    )
    endpoint = _endpoint(server)
    assert endpoint.answer([_dialogue(samples=1)]) == [["<think>Hm"]]
    server.answer = lambda body: completion("A bus.")
    assert endpoint.answer([_dialogue(samples=1)]) == [["A bus."]]
    assert server.requests[-1][1]["max_tokens"] == 40 + JSON_TOKENS


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_fails_for_the_moment_is_tried_again(server, status):
    answers = iter([(status, {}, b"busy"), (status, {}, b"busy"), completion("Fine.")])
    server.answer = lambda body: next(answers)
    assert _endpoint(server).answer([_dialogue(samples=1)]) == [["Fine."]]
    assert len(server.requests) == 3


def test_tries_are_bounded_and_the_last_reason_is_said(server):
    server.answer = lambda body: (503, {}, b'{"error": {"message": "model is loading"}}')
    with pytest.raises(Unavailable, match="status 503: model is loading, after 3 tries"):
        _endpoint(server).answer([_dialogue()])
    assert len(server.requests) == 3


def test_the_server_may_say_when_to_come_back(server):
    answers = iter([(429, {"Retry-After": "1"}, b""), completion("Fine.")])
    server.answer = lambda body: next(answers)
    started = time.monotonic()
    _endpoint(server).answer([_dialogue(samples=1)])
    assert 1.0 <= time.monotonic() - started < 4


def test_pauses_grow(server):
    times = []
    server.answer = lambda body: (times.append(time.monotonic()), (500, {}, b""))[1]
    with pytest.raises(Unavailable):
        _endpoint(server, retries=3, first_pause_s=0.1).answer([_dialogue()])
    pauses = np.diff(times)
    assert len(pauses) == 3
    assert all(pauses >= [0.1, 0.2, 0.4])


@pytest.mark.parametrize("status", [301, 400, 401, 404])
def test_a_refusal_is_not_tried_again(server, status):
    server.answer = lambda body: (
        status,
        {"Location": "http://127.0.0.1:1/"},
        b'{"error": {"message": "bad key s3cret"}}',
    )
    with pytest.raises(Unavailable, match=f"status {status}: bad key …") as caught:
        _endpoint(server).answer([_dialogue()])
    assert "s3cret" not in caught.value.message
    # a bad request may be the fault of the structured output: asked plainly once
    assert len(server.requests) == 1 + (status == 400)


@pytest.mark.parametrize(
    "data",
    [
        b"<html>",
        b"",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": {"content": 5}}]}',
        b'{"choices": "abc"}',
        b"\xff\xfe",
        b"x" * (MAX_ANSWER_BYTES + 1),
    ],
)
def test_nonsense_is_said(server, data):
    server.answer = lambda body: (200, {}, data)
    with pytest.raises(Unavailable, match="endpoint:127"):
        _endpoint(server).answer([_dialogue()])
    assert len(server.requests) == 1


def test_a_slow_server_is_given_up(server):
    server.delay_s = 1.0
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"no answer within 0\.1 s, after 2 tries"):
        _endpoint(server, timeout_s=0.1, retries=1).answer([_dialogue()])
    assert time.monotonic() - started < 0.9


def test_nobody_there_is_said(server):
    with pytest.raises(Unavailable, match="after 2 tries"):
        _endpoint(server, url="http://127.0.0.1:9/v1", retries=1).answer([_dialogue()])


def test_one_failure_ends_the_others(server):
    server.answer = lambda body: (400, {}, b"") if "bad" in str(body) else completion("x")
    server.delay_s = 0.05
    with pytest.raises(Unavailable):
        _endpoint(server).answer([_dialogue("bad", 1), *[_dialogue("good", 1)] * 3])


def test_cancelled_at_once(server):
    server.delay_s = 2.0
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    started = time.monotonic()
    with pytest.raises(GenerationCancelled):
        _endpoint(server).answer([_dialogue()], cancelled=stop.is_set)
    assert time.monotonic() - started < 1.5


# --- the service with an endpoint, as the settings make it ---


@pytest.fixture
async def service(server):
    settings = Settings(
        llm="endpoint", llm_url=server.url, llm_model="large", llm_retries=0, llm_timeout_s=2
    )
    # similarities are the real encoder's business
    vectors = np.eye(384, dtype=np.float32)

    def embed(texts):
        return vectors[[0] * len(texts)]

    service = KnowledgeBase(
        MemoryStore(),
        settings,
        embed=embed,
        load_rewriter=lambda: Rewriter(load_generator(settings), embed),
    )
    yield service
    await service.close()


def _ask(text, budget_ms=5000.0, **changes):
    item = pb.RewriteItem(**{"text": text, "filter": True, "min_similarity": 0.6, **changes})
    return pb.RewriteRequest(items=[item], budget_ms=budget_ms)


async def test_the_service_asks_filters_and_stores(service, server):
    server.answer = lambda body: completion(
        "A bus that is red.", "A blue bus.", "A red bus", "A bus.", "A red bus!"
    )
    sets = {source: _counted("rewrite_sets", source=source) for source in ("generated", "stored")}
    verdicts = {
        verdict: _counted("rewrites_judged", verdict=verdict)
        for verdict in ("kept", "dropped", "duplicate")
    }
    (found,) = (await service.rewrite(_ask("A red bus."))).sets
    assert [(r.text, r.kept) for r in found.rewrites] == [
        ("A bus that is red.", True),
        ("A blue bus.", False),
        ("A red bus", False),
        ("A bus.", True),
        ("A red bus!", False),
    ]
    assert {v: _counted("rewrites_judged", verdict=v) - n for v, n in verdicts.items()} == {
        "kept": 2,
        "dropped": 1,
        "duplicate": 2,
    }
    assert (await service.rewrite(_ask("A red bus.", 0))).sets[0].cached
    assert [_counted("rewrite_sets", source=source) - n for source, n in sets.items()] == [1, 1]
    assert len(server.requests) == 1
    key = Task("A red bus.", 5, 0.4, 0).key(f"endpoint:{server.url.removeprefix('http://')}:large")
    entry = await service.get_entry(pb.GetEntryRequest(key=key))
    assert entry.model.startswith("endpoint:127.0.0.1:")


@pytest.mark.parametrize("strategy", list(STRATEGIES))
async def test_each_strategy_reaches_the_endpoint(service, server, strategy):
    await service.rewrite(_ask("A man in a red coat.", strategy=strategy))
    messages = server.requests[0][1]["messages"]
    shared = STRATEGIES[strategy].shared
    assert len(messages) == len(shared) + 1
    assert ("Keep: red coat" in messages[-1]["content"]) == (strategy == "attribute-preserving")


@pytest.mark.parametrize("filtered", [True, False])
async def test_what_is_no_rewrite_is_neither_stored_nor_used(service, server, filtered):
    server.answer = lambda body: completion(
        "I'm sorry, but I can't help with that.", "<think>Red bus.", "Sure!", "", None
    )
    (found,) = (await service.rewrite(_ask("A red bus.", filter=filtered))).sets
    assert not found.rewrites
    assert [(d.part, d.reason) for d in found.degraded] == [
        ("knowledge.rewrites", "the LLM's answers held no rewrite")
    ]
    assert (await service.get_statistics(pb.GetStatisticsRequest())).entries == 0
    server.answer = lambda body: completion(
        '{"rewrite": "A bus that is red."}',
        "<think>Red.</think>Sure! Here is a rewrite:\n\nA bus, red.<|im_end|>",
        "I'm sorry, but I can't help with that.",
        '```json\n{"rewrite": "The bus is red."}\n```',
        '"A bus."',
    )
    (found,) = (await service.rewrite(_ask("A red bus.", filter=filtered))).sets
    assert not found.degraded
    assert [r.text for r in found.rewrites] == [
        "A bus that is red.",
        "A bus, red.",
        "The bus is red.",
        "A bus.",
    ]


async def test_an_endpoint_that_fails_degrades_the_answer_with_the_reason(service, server):
    server.answer = lambda body: (500, {}, b"out of memory")
    failures, none = _counted("llm_failures"), _counted("rewrite_sets", source="none")
    (found,) = (await service.rewrite(_ask("A red bus."))).sets
    assert not found.rewrites
    assert _counted("llm_failures") == failures + 1
    assert _counted("rewrite_sets", source="none") == none + 1
    assert found.degraded[0].part == "knowledge.rewrites"
    assert "status 500: out of memory" in found.degraded[0].reason
    server.answer = lambda body: completion("A bus that is red.")
    (found,) = (await service.rewrite(_ask("A red bus."))).sets
    assert found.rewrites, "one failure is no verdict"


async def test_a_slow_endpoint_delays_nobody_beyond_the_budget(service, server):
    server.delay_s = 1.0
    for budget_ms, most_s in ((0.0, 0.3), (200.0, 0.6)):
        started = time.monotonic()
        (found,) = (await service.rewrite(_ask("A red bus.", budget_ms))).sets
        assert time.monotonic() - started < most_s
        assert found.degraded
    async with asyncio.timeout(10):
        while not (await service.rewrite(_ask("A red bus.", 0))).sets[0].cached:
            await asyncio.sleep(0.02)


async def test_closing_does_not_wait_for_the_endpoint(service, server):
    server.delay_s = 1.5
    await service.rewrite(_ask("A red bus.", 0))
    await asyncio.sleep(0.1)
    started = time.monotonic()
    await service.close()
    assert time.monotonic() - started < 1.0
