"""The REST client: what it sends, how it reads answers, what it sends again, and which way."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import numpy as np
import pytest

from gateway import items, schemas
from gateway.app import ServiceClients, create_app
from semlink import client as module
from semlink import errors
from semlink.client import (
    AsyncClient,
    BatchResult,
    Client,
    Feedback,
    GatewayTimeout,
    GatewayUnreachable,
    LinkConfig,
    Media,
    NewItem,
    Problem,
    Query,
    Retrieval,
    UnexpectedAnswer,
)
from semlink.errors import InvalidField

Handler = Callable[[httpx.Request], httpx.Response]
ANSWER: dict[str, Any] = {
    "id": "q1",
    "task": "person",
    "corpus": "pedestrians",
    "method": "sc-lmkb",
    "seed": 7,
    "results": [
        {"item_id": "a", "score": 0.5, "similarity": 0.25, "media_url": "/m/a", "captions": ["x"]},
        {"item_id": "b", "score": 0.4, "similarity": 0.2, "media_url": "/m/b"},
    ],
    "link": {
        "snr_db": 10.0,
        "channel_uses": 64,
        "bandwidth_ratio": 0.25,
        "feedback_bits": 64,
        "header_bytes": 40,
        "post_eq_snr_db": 19.5,
        "post_eq_snr_estimate_db": 19.0,
        "csi_nmse_db": None,
        "csi_sgcs": 0.9,
        "slot": 200,
        "user": 0,
        "co_scheduled": 0,
        "erased": False,
        "csi_age_slots": 5,
    },
    "knowledge": {
        "rewrites": [{"text": "t", "kept": True, "similarity": 0.9, "reason": "close"}],
        "csi_source": "hold-last",
    },
    "retrieval": {
        "scoring": "global",
        "reranking": "none",
        "extraction": "none",
        "sentences": [{"text": "t", "score": 1.0, "kept": True}],
    },
    "timings_ms": {"gateway.total": 12.5},
    "computation": {
        "version": "0.1.0",
        "weights": "0123456789ab",
        "runtime": "openvino",
        "precision": "f32",
    },
    "emulated_ms": {"slot_wait": 1.0},
    "degraded": [{"part": "knowledge.rewrites", "reason": "no time"}],
}
LINK = {"id": "l-1", "slot": 128, "config": schemas.LinkConfigBody().model_dump()}
CSI = {
    **{"slot": 1, "report_slot": None, "predictor": "hold-last", "true": [[[1.0]]]},
    **{"estimated": [[[1.0]]], "fed_back": None, "predicted": None},
}
CORPUS = dict.fromkeys(schemas.CorpusBody.model_fields, "x") | {"size": 3}
ITEM = dict.fromkeys(schemas.ItemBody.model_fields, "x") | {"captions": ["c"]}
METHOD = {"name": "m", "title": "t", "source": "s", "available": True}
ADDED = {"added": 1, "size": 2, "media_urls": ["/m"]}
ITEM_TO_ADD = NewItem("i", Media("image/png", b"x"), captions=["a dog"])

CALLS: dict[str, tuple[tuple[Any, ...], str, Any]] = {
    "query": ((Query("person", text="a"),), "POST /v1/queries", ANSWER),
    "query_batch": (
        ([Query("person", text="a"), Query("person", text="b")],),
        "POST /v1/queries:batch",
        {"answers": [ANSWER, ANSWER]},
    ),
    "open_link": ((LinkConfig(snr_db=3.0),), "POST /v1/links", LINK),
    "links": ((), "GET /v1/links", {"links": [LINK]}),
    "link": (("l-1",), "GET /v1/links/l-1", LINK),
    "close_link": (("l-1",), "DELETE /v1/links/l-1", None),
    "csi": (("l-1",), "GET /v1/links/l-1/csi", CSI),
    "corpora": ((), "GET /v1/corpora", {"corpora": [CORPUS]}),
    "item": (("c", "i"), "GET /v1/corpora/c/items/i", ITEM),
    "media": (("c", "i"), "GET /v1/corpora/c/items/i/media", b"\xff\xd8"),
    "put_item": (("c", ITEM_TO_ADD), "PUT /v1/corpora/c/items/i", ADDED),
    "add_items": (("c", [ITEM_TO_ADD]), "POST /v1/corpora/c/items", ADDED),
    "delete_item": (("c", "i"), "DELETE /v1/corpora/c/items/i", None),
    "methods": ((), "GET /v1/methods", {"methods": [METHOD]}),
    "announce_load_run": ((60.0,), "PUT /v1/load-run", None),
    "end_load_run": ((), "DELETE /v1/load-run", None),
    "version": ((), "GET /v1/version", {"version": "0.1.0"}),
    "health": ((), "GET /healthz", {"status": "ok"}),
    "ready": ((), "GET /readyz", {"status": "ok", "services": {"channel": "ok"}}),
    "metrics": ((), "GET /metrics", b"semlink_requests_total 1"),
}
"""Of every operation: arguments, the request that they make, and the gateway's answer."""


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses before requests are sent again; none is waited for."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=waited.append))
    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=sleep))
    return waited


def ask(kind: str, handler: Handler, name: str, *arguments: Any, **options: Any) -> Any:
    """One operation of one of the two clients, answered by ``handler``."""
    transport = httpx.MockTransport(handler)
    if kind == "sync":
        with Client("http://localhost:1", transport=transport, **options) as client:
            return getattr(client, name)(*arguments)

    async def run() -> Any:
        async with AsyncClient("http://localhost:1", transport=transport, **options) as client:
            return await getattr(client, name)(*arguments)

    return asyncio.run(run())


def respond(content: Any, status: int = 200) -> httpx.Response:
    if content is None:
        return httpx.Response(204)
    if isinstance(content, bytes):
        return httpx.Response(status, content=content, headers={"content-type": "image/jpeg"})
    return httpx.Response(status, json=content)


def problem(status: int, *, field: str | None = None, **headers: str) -> httpx.Response:
    body = {"title": "No", "status": status, "detail": f"{field} is wrong", "field": field}
    body["errors"] = [{"field": str(field), "detail": "wrong"}]
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content_type = {"content-type": "application/problem+json"}
    return httpx.Response(status, content=json.dumps(body), headers=named | content_type)


both = pytest.mark.parametrize("kind", ["sync", "async"])


# --- every operation, every field --------------------------------------------------------------


@both
@pytest.mark.parametrize("name", CALLS)
def test_every_operation(kind: str, name: str) -> None:
    arguments, request, answer = CALLS[name]
    seen: list[str] = []

    def handler(sent: httpx.Request) -> httpx.Response:
        seen.append(f"{sent.method} {sent.url.path}")
        return respond(answer)

    result = ask(kind, handler, name, *arguments)
    assert seen == [request]
    match answer:
        case None:
            assert result is None
        case bytes():
            assert result in (Media("image/jpeg", answer), answer.decode(errors="replace"))
        case dict() if dataclasses.is_dataclass(result):
            read = json.loads(json.dumps(dataclasses.asdict(cast(Any, result))))
            wanted = json.loads(json.dumps(answer))
            if name in ("query", "query_batch"):
                for one in wanted.get("answers", [wanted]):
                    one["results"][1]["captions"] = []
            assert read == ({"services": {}} | wanted if name == "health" else wanted)
        case dict() if isinstance(result, tuple):
            (listed,) = answer.values()
            assert [dataclasses.asdict(one) for one in result] == [
                one | ({"captions": tuple(one["captions"])} if "captions" in one else {})
                for one in listed
            ]
        case _:
            assert result == answer["version"]


def test_both_clients_have_the_same_operations_and_none_is_untested() -> None:
    def operations(kind: type) -> dict[str, str]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {
            name: str(inspect.signature(member))
            for name, member in members
            if not name.startswith("_") and name != "close"
        }

    assert operations(Client) == operations(AsyncClient)
    assert set(operations(Client)) == set(CALLS)
    for name in CALLS:
        assert inspect.getdoc(getattr(Client, name))
        with Client("http://localhost:1") as client:
            assert getattr(client, name).__doc__ == getattr(Client, name).__doc__


def test_every_endpoint_of_the_gateway_is_covered() -> None:
    absent = cast(Any, None)
    api = create_app(ServiceClients(absent, absent, absent, absent, absent)).openapi()
    names = {"link_id": "l-1", "name": "c", "item_id": "i"}
    offered = {
        f"{verb.upper()} {path.format(**names)}"
        for path, verbs in api["paths"].items()
        for verb in verbs
    }
    assert offered <= {request for _, request, _ in CALLS.values()}


MIRRORED = {
    module.Match: schemas.Result,
    module.LinkReport: schemas.LinkAnswer,
    module.Rewrite: schemas.RewriteAnswer,
    module.Knowledge: schemas.KnowledgeAnswer,
    module.Sentence: schemas.SentenceAnswer,
    module.RetrievalReport: schemas.RetrievalAnswer,
    module.Degraded: schemas.DegradedAnswer,
    module.QueryResult: schemas.QueryAnswer,
    module.BatchResult: schemas.BatchAnswer,
    module.Link: schemas.LinkBody,
    module.Csi: schemas.CsiBody,
    module.Corpus: schemas.CorpusBody,
    module.Item: schemas.ItemBody,
    module.Added: items.AddedBody,
    module.Method: schemas.MethodBody,
    module.Health: schemas.HealthBody,
    module.NewItem: items.NewItemBody,
    module.Feedback: schemas.FeedbackBody,
    module.LinkConfig: schemas.LinkConfigBody,
    module.Retrieval: schemas.RetrievalBody,
    module.Query: schemas.QueryBody,
    module.Media: schemas.MediaBody,
}


@pytest.mark.parametrize("ours", MIRRORED, ids=lambda kind: kind.__name__)
def test_every_field_of_the_gateway_is_there(ours: Any) -> None:
    names = {f.name for f in dataclasses.fields(ours)}
    if ours is module.Query:
        names = names - {"text", "image", "audio", "media"} | {"query"}
        contents = set(schemas.ContentBody.model_fields)
        assert contents == {"text", "image", "audio"}
    assert names == set(MIRRORED[ours].model_fields)


def test_what_is_left_out_means_what_the_gateway_means_by_it() -> None:
    sent = sent_by(Query("person", text="a"))
    body = schemas.QueryBody.model_validate(sent)
    assert body == schemas.QueryBody.model_validate({"task": "person", "query": {"text": "a"}})
    assert "scenario" not in body.link.model_fields_set  # the gateway's own stays the default
    batch = inspect.signature(Client.query_batch).parameters["deadline_ms"].default
    assert batch == schemas.BatchBody.model_fields["deadline_ms"].default


# --- what is sent ------------------------------------------------------------------------------


def sent_by(query: Query) -> Any:
    bodies: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        assert request.headers["content-type"] == "application/json"
        bodies.append(json.loads(request.content))
        return respond(ANSWER)

    ask("sync", handler, "query", query)
    return bodies[0]


def test_everything_that_was_asked_is_sent(tmp_path: Path) -> None:
    (tmp_path / "rain.wav").write_bytes(b"RIFF")
    query = Query(
        "audio",
        audio=Media.read(tmp_path / "rain.wav"),
        corpus="soundscapes",
        method="gpa",
        top_k=3,
        symbols=32,
        seed=0,
        knowledge_budget_ms=5.0,
        rewrite_strategy="few-shot",
        deadline_ms=1e3,
        retrieval=Retrieval(scoring="prototypes", key_sentences=2),
        link=LinkConfig(
            scenario="cdl-c", snr_db=-3.0, delay_spread_ns=50.0, feedback=Feedback(bits=8), seed=4
        ),
    )
    sent = sent_by(query)
    body = schemas.QueryBody.model_validate(sent)
    assert body.query.audio is not None
    assert body.query.audio.content_type.startswith("audio/")
    assert body.query.audio.data == "UklGRg=="
    assert (body.seed, body.top_k, body.deadline_ms) == (0, 3, 1000.0)
    assert body.retrieval == schemas.RetrievalBody(scoring="prototypes", key_sentences=2)
    assert (body.link.scenario, body.link.snr_db) == ("cdl-c", -3.0)
    assert (body.link.delay_spread_ns, body.link.feedback.bits, body.link.seed) == (50.0, 8, 4)


def test_media_of_a_plugin_are_sent_by_the_name_of_their_modality() -> None:
    sent = sent_by(Query("telegram", media={"morse": Media("text/x-morse", b"...")}))
    assert sent["query"] == {"morse": {"content_type": "text/x-morse", "data": "Li4u"}}
    assert "media" not in sent


def test_a_link_by_id() -> None:
    assert sent_by(Query("person", text="a", link="l-1"))["link"] == {"id": "l-1"}


def test_numbers_of_numpy_are_numbers() -> None:
    link = LinkConfig(snr_db=cast(Any, np.float32(2.5)), seed=cast(Any, np.int64(2**53)))
    sent = sent_by(Query("person", text="a", top_k=cast(Any, np.int32(3)), link=link))
    assert (sent["top_k"], sent["link"]["snr_db"], sent["link"]["seed"]) == (3, 2.5, 2**53)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (Query("person", text="a", link=LinkConfig(snr_db=math.nan)), "link.snr_db"),
        (Query("person", text="a", deadline_ms=math.inf), "deadline_ms"),
        (Query("person", text=cast(Any, b"bytes")), "query.text"),
        (Query("person", text="a", top_k=cast(Any, 1j)), "top_k"),
    ],
)
def test_what_json_does_not_know_is_named(query: Query, field: str) -> None:
    with pytest.raises(InvalidField, match=field) as caught:
        sent_by(query)
    assert caught.value.field == field
    with pytest.raises(InvalidField) as caught:
        ask("sync", lambda _: respond(None), "query_batch", [Query("person", text="a"), query])
    assert caught.value.field == (f"queries[1].{field}")


def test_names_are_one_part_of_the_path() -> None:
    seen: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path)
        return respond(ITEM)

    ask("sync", handler, "item", "a/b", "sound#2 50%?")
    assert seen == [b"/v1/corpora/a%2Fb/items/sound%232%2050%25%3F"]
    for name in ("", ".", ".."):
        with pytest.raises(InvalidField, match="item_id"):
            ask("sync", handler, "item", "c", name)
        with pytest.raises(InvalidField, match="link_id"):
            ask("sync", handler, "close_link", name)
    assert len(seen) == 1


def test_the_slot_is_a_parameter_and_a_path_of_a_proxy_stays() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return respond(CSI)

    with Client("http://h/semlink/", transport=httpx.MockTransport(handler)) as client:
        client.csi("l-1", slot=0)
    assert seen == ["http://h/semlink/v1/links/l-1/csi?slot=0"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match=r"no\.png cannot be read: No such file"):
        Media.read(tmp_path / "no.png")


def test_it_waits_longer_than_the_gateway_may_take() -> None:
    waits: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        waits.append(request.extensions["timeout"]["read"])
        return respond(ANSWER)

    query = Query("person", text="a", deadline_ms=200_000.0)
    ask("sync", handler, "query", query)
    ask("sync", handler, "query", query, timeout_s=3.0)
    assert waits == [200.0 + module.MARGIN_S, 3.0]


# --- what is answered --------------------------------------------------------------------------


def test_results_as_a_table() -> None:
    pytest.importorskip("pandas")
    result = ask("sync", lambda _: respond(ANSWER), "query", Query("person", text="a"))
    frame = result.to_dataframe()
    assert list(frame["item_id"]) == ["a", "b"]
    assert list(frame["rank"]) == [1, 2]
    assert frame["score"].mean() == pytest.approx(0.45)
    assert set(frame["snr_db"]) == {10.0}
    without = dataclasses.replace(result, link=None, id="q2")
    both_frames = BatchResult((result, without)).to_dataframe()
    assert list(both_frames["query_id"]) == ["q1", "q1", "q2", "q2"]
    assert both_frames["snr_db"].isna().sum() == 2
    empty = dataclasses.replace(result, results=()).to_dataframe()
    assert len(empty) == 0
    assert list(empty.columns) == list(frame.columns)


def test_without_pandas_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    result = ask("sync", lambda _: respond(ANSWER), "query", Query("person", text="a"))
    with pytest.raises(ImportError, match="pip install pandas"):
        result.to_dataframe()


def test_results_do_not_change() -> None:
    result = ask("sync", lambda _: respond(ANSWER), "query", Query("person", text="a"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.id = "other"
    assert isinstance(result.results, tuple)


def test_a_field_of_a_newer_gateway_is_ignored() -> None:
    newer = ANSWER | {"new": 1}
    assert ask("sync", lambda _: respond(newer), "query", Query("person", text="a")).id == "q1"


@both
def test_not_ready_is_an_answer(kind: str, pauses: list[float]) -> None:
    body = {"status": "unavailable", "services": {"channel": "unavailable"}}
    health = ask(kind, lambda _: respond(body, 503), "ready")
    assert (health.status, health.services["channel"]) == ("unavailable", "unavailable")
    assert not pauses


@both
@pytest.mark.parametrize(
    ("status", "kind_of_error"),
    [
        (400, Problem),
        (404, errors.NotFound),
        (409, errors.AlreadyExists),
        (413, Problem),
        (421, Problem),
        (422, errors.InvalidField),
        (429, errors.Overloaded),
        (500, Problem),
        (502, errors.CorruptTensor),
        (503, errors.Unavailable),
        (504, errors.DeadlineExceeded),
    ],
)
def test_problems_are_typed(kind: str, status: int, kind_of_error: type[Exception]) -> None:
    with pytest.raises(kind_of_error, match=r"link\.snr_db is wrong") as caught:
        ask(kind, lambda _: problem(status, field="link.snr_db"), "open_link")
    error = caught.value
    assert isinstance(error, Problem)
    assert (error.status, error.title, error.field) == (status, "No", "link.snr_db")
    assert error.detail == error.message == str(error) == "link.snr_db is wrong"
    assert error.errors == ({"field": "link.snr_db", "detail": "wrong"},)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, html="<h1>It works!</h1>"),
        httpx.Response(200, json={"hello": "world"}),
        httpx.Response(200, json=[]),
        httpx.Response(200, content=b"\xff", headers={"content-type": "application/json"}),
        httpx.Response(404, html="<h1>nginx</h1>"),
        httpx.Response(502, text="Bad gateway"),
        httpx.Response(307, headers={"location": "/elsewhere"}),
        httpx.Response(422, content=b"{", headers={"content-type": "application/problem+json"}),
        httpx.Response(422, content=b"[]", headers={"content-type": "application/problem+json"}),
    ],
)
@pytest.mark.parametrize("name", ["query", "corpora"])
def test_what_is_no_gateway_is_said(response: httpx.Response, name: str) -> None:
    arguments, request, _ = CALLS[name]
    with pytest.raises(UnexpectedAnswer, match="is it a semlink gateway") as caught:
        ask("sync", lambda _: response, name, *arguments)
    assert f"http://localhost:1{request.split()[1]}" in str(caught.value)


# --- what is sent again ------------------------------------------------------------------------


def failing(times: int, failure: httpx.Response | httpx.HTTPError, answer: Any) -> Any:
    """A handler that fails so many times, and how often it was asked."""
    count = [0]

    def handler(request: httpx.Request) -> httpx.Response:
        count[0] += 1
        if count[0] > times:
            return respond(answer)
        if isinstance(failure, httpx.HTTPError):
            raise failure
        return httpx.Response(failure.status_code, headers=failure.headers, content=failure.content)

    return handler, count


BY_VALUE = Query("person", text="a")
BY_ID = Query("person", text="a", link="l-1")
REFUSED = httpx.ConnectError("refused")
BROKEN = httpx.ReadError("reset")


@both
@pytest.mark.parametrize(
    ("failure", "name", "arguments"),
    [
        (REFUSED, "corpora", ()),
        (BROKEN, "corpora", ()),
        (httpx.RemoteProtocolError("closed"), "corpora", ()),
        (problem(503), "corpora", ()),
        (problem(429, retry_after="1"), "corpora", ()),
        (REFUSED, "query", (BY_ID,)),
        (httpx.ConnectTimeout("slow"), "query", (BY_ID,)),
        (REFUSED, "put_item", ("c", ITEM_TO_ADD)),
        (REFUSED, "delete_item", ("c", "i")),
        (REFUSED, "open_link", ()),
        (problem(429, retry_after="1"), "query", (BY_VALUE,)),
        (problem(503, retry_after="1"), "query", (BY_VALUE,)),
        (problem(503, retry_after="1"), "query_batch", ([BY_VALUE, BY_VALUE],)),
    ],
)
def test_sent_again(
    kind: str, failure: Any, name: str, arguments: tuple[Any, ...], pauses: list[float]
) -> None:
    handler, count = failing(2, failure, CALLS[name][2])
    ask(kind, handler, name, *arguments)
    assert count == [3]
    asked = isinstance(failure, httpx.Response) and "retry-after" in failure.headers
    assert pauses == ([1.0, 1.0] if asked else [0.1, 0.2])
    handler, count = failing(3, failure, CALLS[name][2])
    with pytest.raises(errors.SemlinkError):
        ask(kind, handler, name, *arguments)
    assert count == [3]
    handler, count = failing(1, failure, CALLS[name][2])
    with pytest.raises(errors.SemlinkError):
        ask(kind, handler, name, *arguments, retries=0)
    assert count == [1]


@both
@pytest.mark.parametrize(
    ("failure", "name", "arguments"),
    [
        (BROKEN, "query", (BY_VALUE,)),
        (httpx.WriteError("reset"), "query", (BY_VALUE,)),
        (httpx.RemoteProtocolError("closed"), "query", (BY_VALUE,)),
        (httpx.ReadTimeout("slow"), "query", (BY_VALUE,)),
        (httpx.ReadTimeout("slow"), "corpora", ()),
        (problem(503), "query", (BY_VALUE,)),
        (problem(503, retry_after="1"), "query", (BY_ID,)),
        (problem(429, retry_after="1"), "query_batch", ([BY_VALUE, BY_ID],)),
        (problem(503, retry_after="1"), "open_link", ()),
        (problem(503, retry_after="1"), "put_item", ("c", ITEM_TO_ADD)),
        (problem(429, retry_after="1"), "add_items", ("c", [ITEM_TO_ADD])),
        (problem(503, retry_after="1"), "delete_item", ("c", "i")),
        (BROKEN, "delete_item", ("c", "i")),
        (problem(500), "corpora", ()),
        (problem(504), "corpora", ()),
        (problem(422), "query", (BY_VALUE,)),
        (problem(404), "link", ("l-1",)),
    ],
)
def test_not_sent_again(kind: str, failure: Any, name: str, arguments: tuple[Any, ...]) -> None:
    handler, count = failing(1, failure, CALLS[name][2])
    with pytest.raises(errors.SemlinkError):
        ask(kind, handler, name, *arguments)
    assert count == [1]


def test_a_long_pause_is_cut(pauses: list[float]) -> None:
    handler, _ = failing(2, problem(503, retry_after="86400"), {"corpora": []})
    ask("sync", handler, "corpora")
    assert pauses == [module.MAX_PAUSE_S] * 2
    handler, _ = failing(1, problem(503, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"), CORPUS)
    with pytest.raises(UnexpectedAnswer):
        ask("sync", handler, "corpora")
    assert pauses[2:] == [module.FIRST_PAUSE_S]


# --- nobody there ------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_no_gateway_is_said_with_what_to_do(pauses: list[float]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url) as client, pytest.raises(GatewayUnreachable) as caught:
        client.query(BY_VALUE)
    assert url in str(caught.value)
    assert "is `semlink up` running?" in str(caught.value)
    assert isinstance(caught.value, errors.Unavailable)
    assert len(pauses) == 2


def test_an_unknown_host_is_said() -> None:
    with (
        Client("http://no-such-host.invalid:8000", retries=0) as client,
        pytest.raises(GatewayUnreachable, match=r"host 'no-such-host\.invalid' .* is not known"),
    ):
        client.corpora()


def test_too_slow_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            Client(url, timeout_s=0.2) as client,
            pytest.raises(GatewayTimeout, match="not answered in time") as caught,
        ):
            client.health()
    assert isinstance(caught.value, errors.DeadlineExceeded)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h", "http://", "http://[::1", "nonsense"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_url_that_is_none_is_said(url: str, kind: Any) -> None:
    with pytest.raises(InvalidField, match="url is") as caught:
        kind(url)
    assert caught.value.field == "url"


def test_where_the_gateway_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEMLINK_URL", raising=False)
    assert Client().url == "http://127.0.0.1:8000"
    monkeypatch.setenv("SEMLINK_URL", "http://lab.example:80/")
    assert Client().url == "http://lab.example:80"
    assert module.gateway_url(81) == "http://127.0.0.1:81"
    with pytest.raises(InvalidField, match="timeout_s"):
        Client(timeout_s=0)


# --- proxies -----------------------------------------------------------------------------------


class Server:
    """Answers every request with an empty list of corpora and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                body = b'{"corpora": []}'
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.close()


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Name a proxy in the environment, for every scheme and host."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    def through(url: str) -> None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, url)
            monkeypatch.setenv(name.lower(), url)

    return through


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST"])
async def test_requests_to_this_machine_go_through_no_proxy(
    server: Server, proxied: Callable[[str], None], host: str, scheme: str
) -> None:
    proxied(f"{scheme}://127.0.0.1:{free_port()}")  # nobody there: whoever goes that way fails
    url = f"http://{host}:{server.port}"
    with Client(url, retries=0) as client:
        assert client.corpora() == ()
    async with AsyncClient(url, retries=0) as asynchronous:
        assert await asynchronous.corpora() == ()
    assert server.asked == ["/v1/corpora"] * 2


def test_requests_to_others_go_through_the_proxy(
    server: Server, proxied: Callable[[str], None]
) -> None:
    proxied(f"http://127.0.0.1:{server.port}")
    with Client("http://gateway.example:8000", retries=0) as client:
        assert client.corpora() == ()
    assert server.asked == ["http://gateway.example:8000/v1/corpora"]


def test_a_proxy_that_cannot_be_used_is_named(proxied: Callable[[str], None]) -> None:
    proxied("gopher://127.0.0.1:1")
    with pytest.raises(InvalidField, match="HTTP_PROXY"):
        Client("http://gateway.example:8000")


# --- what it imports ---------------------------------------------------------------------------

LIGHT = """
import sys

BLOCKED = ("torch", "grpc", "google.protobuf", "pydantic_settings", "numpy", "pandas", "semlink.v1")

class Block:
    def find_spec(self, name, path=None, target=None):
        if any(name == b or name.startswith(b + ".") for b in BLOCKED):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
import json
import httpx
from semlink.client import Client, Query

answer = json.load(sys.stdin)
transport = httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
with Client(transport=transport) as client:
    print(client.query(Query("person", text="a")).results[0].item_id)
print(sorted(set(b for b in BLOCKED if b in sys.modules)))
"""


def test_it_imports_nothing_heavy() -> None:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", LIGHT],
        input=json.dumps(ANSWER),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["a", "[]", ""]
    assert time.monotonic() - start < 60
