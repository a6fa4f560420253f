"""The REST client: every operation of the gateway, typed; blocking (:class:`Client`) and async (:class:`AsyncClient`).

    from semlink.client import Client, Feedback, LinkConfig, Media, Query

    with Client() as client:  # or Client("http://10.0.0.5:8000")
        result = client.query(Query("person", text="a man in a red jacket"))
        for match in result.results:
            print(match.item_id, match.score, match.captions)

        # one link, several queries, a table
        link = client.open_link(LinkConfig(snr_db=0.0, feedback=Feedback(bits=16)))
        batch = client.query_batch(
            [Query("audio", audio=Media.read("rain.wav"), link=link.id, seed=seed) for seed in range(8)]
        )
        print(batch.to_dataframe())  # needs pandas
        client.close_link(link.id)

Errors are those of :mod:`semlink.errors`: what the gateway refuses is also a :class:`Problem`, which carries the
status; when nothing answers it is :class:`GatewayUnreachable`. Requests to this machine never go through a proxy,
others as ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` say.

**What is sent again**, at most ``retries`` times: a GET after any failure of the connection and after 429 and 503; any
other request when no connection was made, so that nothing was sent. A query or a batch over links by value is also
repeated after 429 and 503 with ``Retry-After``: it changes nothing, so it does not matter how far it had come. A query
over an open link may have used a slot of it by then, and an opened link or an added item may be there: these are not
repeated.

Imports neither torch, gRPC nor protobuf, nor the settings of the services.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import mimetypes
import os
import socket
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, fields, is_dataclass
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    ParamSpec,
    Self,
    TypeVar,
    overload,
)
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from semlink import links, queries
from semlink.errors import (
    AlreadyExists,
    CorruptTensor,
    DeadlineExceeded,
    InvalidField,
    NotFound,
    Overloaded,
    SemlinkError,
    Unavailable,
)
from semlink.hosts import httpx_options, is_loopback

if TYPE_CHECKING:
    import pandas

T = TypeVar("T")
P = ParamSpec("P")

DEFAULT_URL: Final = "http://127.0.0.1:8000"
CONNECT_TIMEOUT_S: Final = 5.0
READ_S: Final = 10.0
"""Longest time that the gateway takes to read a link, corpus or item, seconds."""
WRITE_S: Final = 120.0
"""Longest time that the gateway takes to add or remove items, seconds."""
MARGIN_S: Final = 10.0
"""How much longer than the gateway's own deadline the client waits, seconds."""
MAX_PAUSE_S: Final = 30.0
"""Longest pause before a request is sent again, whatever ``Retry-After`` says, seconds."""
FIRST_PAUSE_S: Final = 0.1
"""Pause before the first repetition where the gateway names none, seconds; doubled each time."""


# --- errors ------------------------------------------------------------------------------------


class Problem(SemlinkError):
    """The gateway refused: an RFC 9457 problem. Its subclasses are also the errors of :mod:`semlink.errors`.

    ``status``: HTTP status. ``title``: what kind of problem. ``detail`` (also ``message``): what is wrong. ``field``:
    path of the offending field as the request wrote it, or empty. ``errors``: every offending field with its detail.
    ``retry_after_s``: pause that the gateway asks for, seconds.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        field: str = "",
        errors: Sequence[Mapping[str, str]] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail, field=field)
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = tuple(errors)
        self.retry_after_s = retry_after_s


class InvalidFieldProblem(Problem, InvalidField):
    """422: a field is not allowed."""


class NotFoundProblem(Problem, NotFound):
    """404: no such link, corpus or item."""


class AlreadyExistsProblem(Problem, AlreadyExists):
    """409: there is an item of this id."""


class OverloadedProblem(Problem, Overloaded):
    """429: more load than the services carry."""


class UnavailableProblem(Problem, Unavailable):
    """503: a service behind the gateway is away."""


class DeadlineProblem(Problem, DeadlineExceeded):
    """504: the deadline passed."""


class CorruptTensorProblem(Problem, CorruptTensor):
    """502: damaged between two services."""


class GatewayUnreachable(Unavailable):
    """No gateway answers at this URL."""


class GatewayTimeout(DeadlineExceeded):
    """The gateway did not answer in time; whether it did what was asked is unknown."""


class UnexpectedAnswer(SemlinkError):
    """What answers is no gateway, or one of another version."""


_PROBLEMS: Final[dict[int, type[Problem]]] = {
    404: NotFoundProblem,
    409: AlreadyExistsProblem,
    422: InvalidFieldProblem,
    429: OverloadedProblem,
    502: CorruptTensorProblem,
    503: UnavailableProblem,
    504: DeadlineProblem,
}


# --- what is asked -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Media:
    """A picture or a sound: MIME type and bytes."""

    content_type: str
    data: bytes = field(repr=False)

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read a file; its name's ending gives the MIME type. Raises InvalidField for a file that cannot be read."""
        path = Path(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InvalidField(f"{path} cannot be read: {error.strerror}", field="path") from error
        return cls(mimetypes.guess_type(path.name)[0] or "application/octet-stream", data)


Feedback = links.Feedback
Retrieval = queries.Retrieval


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig(links.Link):
    """A radio link as :class:`semlink.links.Link`; ``scenario`` None: the gateway's own (SEMLINK_SCENARIO)."""

    scenario: str | None = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Query(queries.QueryOptions):
    """A retrieval query: a task ("person", "image", "audio", or a plug-in's) and a ``text`` or media.

    ``image``, ``audio``: media of our modalities; ``media``: those of plug-ins, by the modality's name.
    ``corpus`` None: the task's embedded one. ``seed`` repeats slot and noise exactly; None: drawn by the gateway.
    ``link``: a configuration, or the id of an open link. What else it may choose: see ``QueryBody`` in docs/rest.md.
    """

    task: str
    _: KW_ONLY
    text: str | None = None
    image: Media | None = None
    audio: Media | None = None
    media: Mapping[str, Media] = field(default_factory=dict)
    corpus: str | None = None
    seed: int | None = None
    deadline_ms: float = 30_000.0
    link: LinkConfig | str = field(default_factory=LinkConfig)


@dataclass(frozen=True, slots=True)
class NewItem:
    """A gallery item to add: ``captions`` by which its text is found, ``identity`` of whom it shows (empty: itself)."""

    item_id: str
    media: Media
    captions: Sequence[str] = ()
    identity: str = ""


# --- what is answered --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Match:
    """One found item. ``similarity`` is the cosine; ``score`` adds what prototypes and re-ranking add."""

    item_id: str
    score: float
    similarity: float
    media_url: str
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkReport:
    """What the link did to a query; see ``LinkAnswer`` in docs/rest.md."""

    snr_db: float
    channel_uses: int
    bandwidth_ratio: float
    feedback_bits: int
    header_bytes: int
    post_eq_snr_db: float
    post_eq_snr_estimate_db: float
    csi_nmse_db: float | None
    csi_sgcs: float | None
    slot: int
    user: int
    co_scheduled: int
    erased: bool
    csi_age_slots: int | None


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One candidate of the LLM and what the filter said."""

    text: str
    kept: bool
    similarity: float
    reason: str


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the knowledge base added."""

    rewrites: tuple[Rewrite, ...]
    csi_source: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of the query's text; one that is not ``kept`` was not sent."""

    text: str
    score: float
    kept: bool


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """What was done to find the results; ``sentences`` is empty where none was chosen."""

    scoring: str
    reranking: str
    extraction: str
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True, slots=True)
class Degraded:
    """A fallback that was taken, and why."""

    part: str
    reason: str


@dataclass(frozen=True, slots=True)
class Computation:
    """What computed an answer: version, digest of the heads, runtime and precision of the frozen networks."""

    version: str
    weights: str
    runtime: str
    precision: str


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The answer to one query. ``link`` is None for a method without a channel.

    ``timings_ms``: what the software took, by stage; ``emulated_ms``: what the emulated link would take, by part
    (docs/load.md); empty where the gateway is older than that field.
    """

    id: str
    task: str
    corpus: str
    method: str
    seed: int
    results: tuple[Match, ...]
    link: LinkReport | None
    knowledge: Knowledge
    retrieval: RetrievalReport
    timings_ms: dict[str, float]
    computation: Computation
    degraded: tuple[Degraded, ...]
    emulated_ms: dict[str, float] = field(default_factory=dict)

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a table of the found items, best first, a row each. Raises ImportError without pandas."""
        return _dataframe([self])


@dataclass(frozen=True, slots=True)
class BatchResult:
    """Answers in the order of the queries."""

    answers: tuple[QueryResult, ...]

    def to_dataframe(self) -> pandas.DataFrame:
        """Return a table of the items that all queries found, a row each. Raises ImportError without pandas."""
        return _dataframe(self.answers)


@dataclass(frozen=True, slots=True)
class Link:
    """An open link; ``slot`` is the next one to be granted."""

    id: str
    slot: int
    config: LinkConfig


@dataclass(frozen=True, slots=True)
class Csi:
    """Magnitudes of the channel of user 0, ``[num_subbands][num_rx_ant][num_tx_ant]``; None where there is none."""

    slot: int
    report_slot: int | None
    predictor: str
    true: list[list[list[float]]] | None
    estimated: list[list[list[float]]] | None
    fed_back: list[list[list[float]]] | None
    predicted: list[list[list[float]]] | None


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus with a gallery of ``size`` items."""

    name: str
    task: str
    media_type: str
    licence: str
    source: str
    description: str
    size: int


@dataclass(frozen=True, slots=True)
class Item:
    """A gallery item."""

    corpus: str
    item_id: str
    identity: str
    split: str
    captions: tuple[str, ...]
    media_type: str
    media_url: str


@dataclass(frozen=True, slots=True)
class Added:
    """How many items were added, and how many the gallery holds now (``size``)."""

    added: int
    size: int
    media_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Method:
    """A method; one that is not ``available`` is not built yet."""

    name: str
    title: str
    source: str
    available: bool


@dataclass(frozen=True, slots=True)
class Health:
    """``status`` is "ok" or "unavailable"; ``services``: a word each, "ok" for one that serves."""

    status: str
    services: dict[str, str] = field(default_factory=dict)


_COLUMNS: Final = (
    *("query_id", "task", "corpus", "method", "seed", "snr_db", "post_eq_snr_db"),
    *("rank", "item_id", "score", "similarity", "captions", "media_url"),
)


def _dataframe(results: Sequence[QueryResult]) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError as error:
        raise ImportError("to_dataframe() needs pandas: pip install pandas") from error
    rows = [
        (
            *(result.id, result.task, result.corpus, result.method, result.seed),
            *((link.snr_db, link.post_eq_snr_db) if (link := result.link) else (None, None)),
            *(rank, match.item_id, match.score, match.similarity, match.captions, match.media_url),
        )
        for result in results
        for rank, match in enumerate(result.results, 1)
    ]
    return pandas.DataFrame(rows, columns=list(_COLUMNS))


# --- requests and answers, the same for both clients -------------------------------------------


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    """One request and how its answer is read.

    ``deadline_s``: how long the gateway may take. ``repeatable``: sending it again changes nothing. ``accepted``:
    statuses besides 2xx that are an answer.
    """

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    body: Any = None
    params: Mapping[str, int] = field(default_factory=dict)
    deadline_s: float = READ_S
    repeatable: bool = False
    accepted: tuple[int, ...] = ()


_OWN_CONTENT: Final = ("text", "image", "audio")


def _query_body(query: Query, where: str) -> dict[str, Any]:
    given = {name: getattr(query, name) for name in _OWN_CONTENT} | dict(query.media)
    content = {
        name: _json(value, f"{where}query.{name}")
        for name, value in given.items()
        if value is not None
    }
    link = {"id": query.link} if isinstance(query.link, str) else query.link
    body = {
        f.name: getattr(query, f.name)
        for f in fields(query)
        if f.name not in (*_OWN_CONTENT, "media", "link")
    }
    body = {name: value for name, value in body.items() if value is not None}
    return {
        **{name: _json(value, where + name) for name, value in body.items()},
        "query": content,
        "link": _json(link, f"{where}link"),
    }


def _get(path: str, parse: Callable[[httpx.Response], T], **more: Any) -> _Call[T]:
    return _Call("GET", path, parse, repeatable=True, **more)


def _item_path(corpus: str, item_id: str) -> str:
    return f"/v1/corpora/{_segment(corpus, 'corpus')}/items/{_segment(item_id, 'item_id')}"


def _segment(value: str, name: str) -> str:
    """One part of a path. Raises InvalidField for one that would make another path of it."""
    if value in ("", ".", ".."):
        raise InvalidField(f"{name} is {value!r}, allowed: neither empty nor dots", field=name)
    return quote(value, safe="")


def _seconds(deadline_ms: float) -> float:
    """The gateway refuses a deadline out of range: what it may take longest stands for it here."""
    return min(max(float(deadline_ms), 0.0), 600_000.0) / 1e3


def _json(value: Any, where: str) -> Any:
    """What JSON knows, without what is None. Raises InvalidField naming the place of what JSON does not know."""
    if isinstance(value, Media):
        data = base64.b64encode(value.data).decode()
        return {"content_type": value.content_type, "data": data}
    if is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, Mapping):
        prefix = f"{where}." if where else ""
        return {
            name: _json(part, f"{prefix}{name}") for name, part in value.items() if part is not None
        }
    if isinstance(value, (str, bool)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        if not math.isfinite(value):
            raise InvalidField(f"{where} is {value}, allowed: finite numbers", field=where)
        return float(value)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [_json(part, f"{where}[{i}]") for i, part in enumerate(value)]
    raise InvalidField(f"{where} is of type {type(value).__name__}", field=where)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _parser(kind: Any, *, inside: str = "") -> Callable[[httpx.Response], Any]:
    """Read the JSON answer as ``kind``, or its member ``inside``."""

    def parse(response: httpx.Response) -> Any:
        answer = response.json()
        return _adapter(kind).validate_python(answer[inside] if inside else answer)

    return parse


def _nothing(response: httpx.Response) -> None:
    """The answer holds nothing."""


class _Operation(Generic[P, T]):
    """A method of both clients, by the call that it makes: it returns the answer of one, a coroutine of the other."""

    def __init__(self, call: Callable[Concatenate[Any, P], _Call[T]]) -> None:
        self._call = call
        self.__doc__ = call.__doc__

    @overload
    def __get__(self, client: Client, owner: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(
        self, client: AsyncClient, owner: Any = None
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(
        self, client: None, owner: Any = None
    ) -> Callable[Concatenate[Any, P], _Call[T]]: ...
    def __get__(self, client: Any, owner: Any = None) -> Any:
        if client is None:
            return self._call

        @wraps(self._call)
        def send(*args: P.args, **options: P.kwargs) -> Any:
            return client._send(self._call(client, *args, **options))

        return send


class _Operations:
    """What can be asked of the gateway."""

    @_Operation
    def query(self, query: Query) -> _Call[QueryResult]:
        """Send one query over a link: ``POST /v1/queries``."""
        return _Call(
            "POST",
            "/v1/queries",
            _parser(QueryResult),
            _query_body(query, ""),
            deadline_s=_seconds(query.deadline_ms),
            repeatable=not isinstance(query.link, str),
        )

    @_Operation
    def query_batch(
        self, queries: Sequence[Query], *, deadline_ms: float = 60_000.0
    ) -> _Call[BatchResult]:
        """Send 1…256 queries at once, all or none: ``POST /v1/queries:batch``. ``deadline_ms`` is that of the batch."""
        bodies = [_query_body(query, f"queries[{i}].") for i, query in enumerate(queries)]
        return _Call(
            "POST",
            "/v1/queries:batch",
            _parser(BatchResult),
            {"queries": bodies, "deadline_ms": _json(deadline_ms, "deadline_ms")},
            deadline_s=_seconds(deadline_ms),
            repeatable=not any(isinstance(query.link, str) for query in queries),
        )

    @_Operation
    def open_link(self, config: LinkConfig | None = None) -> _Call[Link]:
        """Open a link: ``POST /v1/links``. Queries name it by its ``id``."""
        return _Call("POST", "/v1/links", _parser(Link), _json(config or LinkConfig(), ""))

    @_Operation
    def links(self) -> _Call[tuple[Link, ...]]:
        """List every open link: ``GET /v1/links``."""
        return _get("/v1/links", _parser(tuple[Link, ...], inside="links"))

    @_Operation
    def link(self, link_id: str) -> _Call[Link]:
        """Describe an open link: ``GET /v1/links/{link_id}``."""
        return _get(f"/v1/links/{_segment(link_id, 'link_id')}", _parser(Link))

    @_Operation
    def close_link(self, link_id: str) -> _Call[None]:
        """Close a link: ``DELETE /v1/links/{link_id}``."""
        return _Call("DELETE", f"/v1/links/{_segment(link_id, 'link_id')}", _nothing)

    @_Operation
    def csi(self, link_id: str, *, slot: int | None = None) -> _Call[Csi]:
        """Read the channel of an open link as it is, estimated, fed back and predicted; ``slot`` None: the next one."""
        path = f"/v1/links/{_segment(link_id, 'link_id')}/csi"
        return _get(path, _parser(Csi), params={} if slot is None else {"slot": int(slot)})

    @_Operation
    def corpora(self) -> _Call[tuple[Corpus, ...]]:
        """List every corpus: ``GET /v1/corpora``."""
        return _get("/v1/corpora", _parser(tuple[Corpus, ...], inside="corpora"))

    @_Operation
    def item(self, corpus: str, item_id: str) -> _Call[Item]:
        """Describe a gallery item: ``GET /v1/corpora/{corpus}/items/{item_id}``."""
        return _get(_item_path(corpus, item_id), _parser(Item))

    @_Operation
    def media(self, corpus: str, item_id: str) -> _Call[Media]:
        """Fetch an item's picture or sound: ``GET …/items/{item_id}/media``."""
        return _get(
            f"{_item_path(corpus, item_id)}/media",
            lambda response: Media(response.headers["content-type"], response.content),
        )

    @_Operation
    def put_item(self, corpus: str, item: NewItem) -> _Call[Added]:
        """Add an item or replace the one of its id: ``PUT …/items/{item_id}``."""
        body = _json(item, "")
        path = _item_path(corpus, body.pop("item_id"))
        return _Call("PUT", path, _parser(Added), body, deadline_s=WRITE_S)

    @_Operation
    def add_items(self, corpus: str, items: Sequence[NewItem]) -> _Call[Added]:
        """Add items, all or none: ``POST …/items``. Raises AlreadyExists for an id that is there."""
        path, body = f"/v1/corpora/{_segment(corpus, 'corpus')}/items", _json(items, "items")
        return _Call("POST", path, _parser(Added), {"items": body}, deadline_s=WRITE_S)

    @_Operation
    def delete_item(self, corpus: str, item_id: str) -> _Call[None]:
        """Remove an item: ``DELETE …/items/{item_id}``."""
        return _Call("DELETE", _item_path(corpus, item_id), _nothing, deadline_s=WRITE_S)

    @_Operation
    def methods(self) -> _Call[tuple[Method, ...]]:
        """List every method: ``GET /v1/methods``."""
        return _get("/v1/methods", _parser(tuple[Method, ...], inside="methods"))

    @_Operation
    def announce_load_run(
        self,
        duration_s: float,
        *,
        rate: float | None = None,
        users: int | None = None,
        queries_per_call: int = 1,
    ) -> _Call[None]:
        """Announce a load test of ``rate`` calls a second or of ``users``: ``PUT /v1/load-run``. Dashboards show it."""
        parameters = {"duration_s": duration_s, "rate": rate, "users": users}
        body = _json({**parameters, "queries_per_call": queries_per_call}, "")
        return _Call("PUT", "/v1/load-run", _nothing, body)

    @_Operation
    def end_load_run(self) -> _Call[None]:
        """Say that the load test has ended: ``DELETE /v1/load-run``."""
        return _Call("DELETE", "/v1/load-run", _nothing)

    @_Operation
    def version(self) -> _Call[str]:
        """Return the gateway's version: ``GET /v1/version``."""
        return _get("/v1/version", _parser(str, inside="version"))

    @_Operation
    def health(self) -> _Call[Health]:
        """Ask whether the gateway itself is alive: ``GET /healthz``."""
        return _get("/healthz", _parser(Health))

    @_Operation
    def ready(self) -> _Call[Health]:
        """Ask whether every service serves: ``GET /readyz``. One that does not is no error: see ``status``."""
        return _get("/readyz", _parser(Health), accepted=(503,))

    @_Operation
    def metrics(self) -> _Call[str]:
        """Return the gateway's own metrics in Prometheus's format: ``GET /metrics``."""
        return _get("/metrics", lambda response: response.text)


def gateway_url(port: int | None = None) -> str:
    """Return where the gateway is: ``port`` on this machine, else ``SEMLINK_URL``, else port 8000 on this machine."""
    if port is not None:
        return f"http://127.0.0.1:{port}"
    return os.environ.get("SEMLINK_URL") or DEFAULT_URL


class _Gateway(_Operations):
    """Where the gateway is, what is sent to it and what its answers mean, without input and output.

    ``url`` None: ``SEMLINK_URL``, else port 8000 of this machine. ``timeout_s``: longest wait for an answer, seconds;
    None: the gateway's own deadline of the request and 10 s. ``retries``: how often a request is sent again at most.
    """

    def __init__(
        self, url: str | None = None, *, timeout_s: float | None = None, retries: int = 2
    ) -> None:
        self.url = (url or gateway_url()).rstrip("/")
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise InvalidField(f"url is {self.url!r}: {error}", field="url") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise InvalidField(
                f"url is {self.url!r}, allowed: http://HOST:PORT or https://…", field="url"
            )
        if timeout_s is not None and not timeout_s > 0:
            raise InvalidField(f"timeout_s is {timeout_s}, allowed: more than 0", field="timeout_s")
        self.timeout_s = timeout_s
        self.retries = retries
        self._loopback = is_loopback(parsed.host)
        # the gateway closes an idle connection after 5 s; one is not used that long, or a request might meet the end
        limits = httpx.Limits(
            max_connections=100, max_keepalive_connections=20, keepalive_expiry=4.0
        )
        self._http_options = {"base_url": self.url, "limits": limits, **httpx_options(self.url)}

    def _options(self, call: _Call[T]) -> dict[str, Any]:
        """What httpx needs to build the request."""
        longest_s = call.deadline_s + MARGIN_S if self.timeout_s is None else self.timeout_s
        options: dict[str, Any] = {
            "method": call.method,
            "url": call.path,
            "params": call.params or None,
            "timeout": httpx.Timeout(longest_s, connect=min(CONNECT_TIMEOUT_S, longest_s)),
        }
        if call.body is not None:
            options["content"] = json.dumps(call.body)
            options["headers"] = {"Content-Type": "application/json"}
        return options

    def _result(self, call: _Call[T], response: httpx.Response) -> T:
        """The answer. Raises Problem, or UnexpectedAnswer for what no gateway of this version says."""
        status = response.status_code
        said = f"{call.method} {self.url}{call.path} was answered {status} {response.reason_phrase}"
        try:
            if response.is_success or status in call.accepted:
                return call.parse(response)
            if "problem+json" in response.headers.get("content-type", ""):
                raise _problem(status, response)
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            raise UnexpectedAnswer(
                f"{said}, which this client does not understand ({type(error).__name__}: {error}): "
                "is it a semlink gateway of the same version?"
            ) from error
        raise UnexpectedAnswer(f"{said} without problem+json: is it a semlink gateway?")

    def _failure(self, call: _Call[T], error: httpx.HTTPError) -> SemlinkError:
        """The error of a request that got no answer."""
        if isinstance(error, httpx.TimeoutException) and not _unsent(error):
            return GatewayTimeout(
                f"{call.method} {self.url}{call.path} was not answered in time ({type(error).__name__})"
            )
        why = str(error) or type(error).__name__
        if _caused_by(error, socket.gaierror):
            return GatewayUnreachable(
                f"the host {httpx.URL(self.url).host!r} of {self.url} is not known ({why}); is the URL right?"
            )
        if isinstance(error, httpx.ProxyError):
            return GatewayUnreachable(f"the proxy to {self.url} refuses: {why}")
        if not _unsent(error):
            return GatewayUnreachable(f"the connection to {self.url} broke: {why}")
        hint = "is `semlink up` running?" if self._loopback else "is it running, is the URL right?"
        return GatewayUnreachable(f"no gateway answers at {self.url} ({why}); {hint}")

    def _pause_s(self, call: _Call[T], attempt: int, error: SemlinkError) -> float | None:
        """Seconds to wait before the request is sent again; None: it is not."""
        if attempt >= self.retries:
            return None
        backoff_s = FIRST_PAUSE_S * 2**attempt
        match error:
            case GatewayUnreachable():
                safe = call.method == "GET" or _unsent(error.__cause__)
                return backoff_s if safe else None
            case OverloadedProblem() | UnavailableProblem() if call.repeatable:
                asked_s = error.retry_after_s
                if asked_s is None:
                    return backoff_s if call.method == "GET" else None
                return min(asked_s, MAX_PAUSE_S)
        return None


@contextmanager
def _naming_the_proxy() -> Iterator[None]:
    """Raises InvalidField for a proxy of the environment that httpx cannot use."""
    try:
        yield
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise InvalidField(
            f"the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names cannot be used: {error}",
            field="proxy",
        ) from error


def _problem(status: int, response: httpx.Response) -> Problem:
    """The problem that the gateway describes."""
    body = response.json()
    try:
        retry_after_s = max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        retry_after_s = None
    return _PROBLEMS.get(status, Problem)(
        status,
        str(body["title"]),
        str(body["detail"]),
        field=str(body.get("field") or ""),
        errors=body.get("errors", []),
        retry_after_s=retry_after_s,
    )


def _unsent(error: BaseException | None) -> bool:
    """Whether no connection was made, so that nothing was sent."""
    return isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None


# --- the two clients ---------------------------------------------------------------------------


class Client(_Gateway):
    """Blocking client; several threads may share one. Use as a context manager, or close it.

    ``url`` None: ``SEMLINK_URL``, else port 8000 of this machine. ``timeout_s``: longest wait for an answer, seconds;
    None: the gateway's own deadline of the request and 10 s. ``retries``: how often a request is sent again at most.
    ``transport``: another than the network, for tests. Raises InvalidField for a URL that is none.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout_s: float | None = None,
        retries: int = 2,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, timeout_s=timeout_s, retries=retries)
        with _naming_the_proxy():
            self._http = httpx.Client(**self._http_options, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, call: _Call[T]) -> T:
        attempt = 0
        while True:
            try:
                try:
                    response = self._http.request(**self._options(call))
                except httpx.HTTPError as error:
                    raise self._failure(call, error) from error
                return self._result(call, response)
            except SemlinkError as error:
                pause_s = self._pause_s(call, attempt, error)
                if pause_s is None:
                    raise
            time.sleep(pause_s)
            attempt += 1


class AsyncClient(_Gateway):
    """As :class:`Client`, as coroutines. Belongs to the event loop of its first call."""

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout_s: float | None = None,
        retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, timeout_s=timeout_s, retries=retries)
        with _naming_the_proxy():
            self._http = httpx.AsyncClient(**self._http_options, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _send(self, call: _Call[T]) -> T:
        attempt = 0
        while True:
            try:
                try:
                    response = await self._http.request(**self._options(call))
                except httpx.HTTPError as error:
                    raise self._failure(call, error) from error
                return self._result(call, response)
            except SemlinkError as error:
                pause_s = self._pause_s(call, attempt, error)
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)
            attempt += 1
