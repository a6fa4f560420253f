"""The REST face: validates, translates, and answers; it carries no symbols and decides nothing."""

from __future__ import annotations

import asyncio
import base64
import binascii
import platform
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from gateway import schemas
from gateway.emulated_time import EmulatedTime
from gateway.items import add_item_routes, media_url
from gateway.load_runs import add_load_run_routes
from gateway.problems import BodyLimit, EarlyRefusal, Measured, TrustedHosts, install
from gateway.query_batches import QueryBatcher
from gateway.query_records import recorded
from semlink import links
from semlink.deadlines import deadline_in
from semlink.enums import enum_text
from semlink.errors import DeadlineExceeded, InvalidField
from semlink.messages import from_proto
from semlink.methods import METHODS
from semlink.queries import Retrieval
from semlink.services import ChannelService, ReceiverService, TransmitterService
from semlink.tasks import modality_spec, task_spec, task_specs
from semlink.telemetry import registry
from semlink.v1 import channel_pb2, common_pb2, receiver_pb2, transmitter_pb2
from semlink.version import commit, version
from semlink.wire import from_wire

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "model": schemas.Problem,
        "content": {"application/problem+json": {}},
        "description": text,
    }
    for status, text in {
        400: "The Host header is missing or malformed",
        404: "Unknown link, corpus or item",
        408: "The body took over a minute to arrive",
        413: "Body over 10 MiB",
        415: "The content type of the body is not application/json",
        421: "The Host header names a host that is not trusted; see SEMLINK_TRUSTED_HOSTS",
        422: "A field is not allowed; `field` names it",
        429: "Overloaded; see Retry-After",
        503: "A service is away",
        504: "The deadline passed",
    }.items()
}
READ_DEADLINE_S = 10.0
SWAGGER_UI = Path(__file__).parent / "swagger_ui"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
"""Of the page of the API: the browser loads nothing from elsewhere, and no other site frames it."""

Body = TypeVar("Body", bound=BaseModel)
HealthCheck = Callable[[], Awaitable[dict[str, str]]]


@dataclass(frozen=True, slots=True)
class ServiceClients:
    """The clients that the gateway speaks to, and how to ask after everyone's health.

    ``health`` returns a word per service, ``"ok"`` for one that serves; ``close`` gives connections back.
    """

    transmitter: TransmitterService
    channel: ChannelService
    receiver: ReceiverService
    health: HealthCheck
    close: Callable[[], Awaitable[None]]


def create_app(
    clients: ServiceClients,
    *,
    default_scenario: str = "umi-los",
    trusted_hosts: Collection[str] = (),
) -> FastAPI:
    """The gateway over some clients: gRPC clients in the service, the clients themselves in a test.

    ``default_scenario`` is that of a link that names none. ``trusted_hosts``: what ``Host`` may be besides loopback
    names, see :class:`gateway.problems.TrustedHosts`.
    """

    batcher = QueryBatcher(clients.transmitter)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:  # noqa: ARG001
        yield
        await clients.close()

    app = FastAPI(
        title="semlink",
        version="1",
        summary="An emulator of semantic communication: retrieval over a 3GPP link",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    install(app)
    # The last one is the outermost.
    app.add_middleware(EarlyRefusal, refusal=batcher.refusal)
    app.add_middleware(BodyLimit)
    app.add_middleware(TrustedHosts, names=trusted_hosts)
    app.add_middleware(Measured)
    _add_queries(app, batcher, clients.channel, default_scenario)
    _add_links(app, clients, default_scenario)
    _add_corpora(app, clients)
    add_item_routes(app, clients.receiver, within=_within, decode=_base64, errors=ERRORS)
    add_load_run_routes(app, errors=ERRORS)
    _add_operations(app, clients)
    return app


# --- queries -----------------------------------------------------------------------------------


def _add_queries(
    app: FastAPI, batcher: QueryBatcher, channel: ChannelService, scenario: str
) -> None:
    emulated = EmulatedTime(channel)

    @app.post("/v1/queries", responses=ERRORS, tags=["queries"])
    async def query(body: schemas.QueryBody) -> schemas.QueryAnswer:
        """Send one query over a link and return what was found."""
        start = time.perf_counter()
        prepared = _prepare(body, scenario, field="query")
        seconds = body.deadline_ms / 1e3
        with recorded([prepared.message]) as answers:
            async with _within(seconds):
                arrival = await emulated.arrival(prepared.message)
                answers.append(await batcher.answer(prepared.message, seconds))
        return _answer(prepared, answers[0], start, emulated.milliseconds(arrival, answers[0]))

    @app.post("/v1/queries:batch", responses=ERRORS, tags=["queries"])
    async def query_batch(body: schemas.BatchBody) -> schemas.BatchAnswer:
        """Send several queries at once; a batch travels as a batch. One bad query fails all, naming it."""
        start = time.perf_counter()
        prepared = [
            _prepare(q, scenario, field=f"queries[{i}].query") for i, q in enumerate(body.queries)
        ]
        seconds = min(body.deadline_ms, *(q.deadline_ms for q in body.queries)) / 1e3
        messages = [p.message for p in prepared]
        with recorded(messages) as answers:
            async with _within(seconds):
                arrivals = [await emulated.arrival(message) for message in messages]
                answers.extend(await batcher.answer_many(messages, seconds))
        return schemas.BatchAnswer(
            answers=[
                _answer(p, a, start, emulated.milliseconds(arrival, a))
                for p, a, arrival in zip(prepared, answers, arrivals, strict=True)
            ]
        )


@dataclass(frozen=True, slots=True)
class _Prepared:
    body: schemas.QueryBody
    message: transmitter_pb2.Query

    @property
    def corpus(self) -> str:
        return self.body.corpus or task_spec(self.body.task).corpus


def _prepare(body: schemas.QueryBody, scenario: str, *, field: str) -> _Prepared:
    link = body.link.in_scenario(scenario)
    body = body.model_copy(update={"link": link})
    name, content = body.query.given()
    media = b"" if isinstance(content, str) else _base64(content, field=f"{field}.{name}.data")
    seed = body.drawn_seed()
    return _Prepared(body, schemas.to_query(body, uuid.uuid4().hex, seed, media))


def _base64(media: schemas.MediaBody, *, field: str) -> bytes:
    try:
        return base64.b64decode(media.data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidField(f"{field} is not base64: {error}", field=field) from error


@asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    """Every call inside ends by then, here and in the services behind. Raises DeadlineExceeded."""
    try:
        with deadline_in(seconds):
            async with asyncio.timeout(seconds):
                yield
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"no answer within {seconds * 1e3:.0f} ms", field="deadline_ms"
        ) from error


def _answer(
    prepared: _Prepared,
    answer: transmitter_pb2.Answer,
    start: float,
    emulated_ms: dict[str, float],
) -> schemas.QueryAnswer:
    done = from_proto(Retrieval, answer.retrieval, field="retrieval")
    timings: dict[str, float] = {}
    for timing in answer.timings:
        timings[timing.stage] = round(timings.get(timing.stage, 0.0) + timing.milliseconds, 3)
    timings["gateway.total"] = round((time.perf_counter() - start) * 1e3, 3)
    return schemas.QueryAnswer(
        id=answer.query_id,
        task=prepared.body.task,
        corpus=prepared.corpus,
        method=prepared.message.method,
        seed=prepared.message.seed,
        results=[
            schemas.Result(
                item_id=match.item_id,
                score=match.score,
                similarity=match.similarity,
                media_url=media_url(prepared.corpus, match.item_id),
                captions=list(match.captions),
            )
            for match in answer.matches
        ],
        link=_link_answer(answer.link) if answer.HasField("link") else None,
        knowledge=schemas.KnowledgeAnswer(
            rewrites=[_read(schemas.RewriteAnswer, r) for r in answer.rewrites],
            csi_source=answer.csi_source,
        ),
        retrieval=_read(
            schemas.RetrievalAnswer,
            done,
            sentences=[_read(schemas.SentenceAnswer, s) for s in answer.sentences],
        ),
        timings_ms=timings,
        computation=_read(schemas.ComputationAnswer, answer.computation),
        emulated_ms=emulated_ms,
        degraded=[_read(schemas.DegradedAnswer, d) for d in answer.degraded],
    )


def _link_answer(report: Any) -> schemas.LinkAnswer:
    """What REST shows of a LinkReport; null for a field that is not set."""
    known = report.DESCRIPTOR.fields_by_name
    unset = (
        name
        for name in schemas.LinkAnswer.model_fields
        if known[name].has_presence and not report.HasField(name)
    )
    return _read(schemas.LinkAnswer, report, **dict.fromkeys(unset))


def _read(kind: type[Body], source: object, **more: Any) -> Body:
    """Make a ``kind`` of ``more``, and of what ``source`` has under the names of its other fields."""
    present = {name: getattr(source, name) for name in kind.model_fields if name not in more}
    return kind(**present, **more)


# --- links -------------------------------------------------------------------------------------


def _add_links(app: FastAPI, clients: ServiceClients, scenario: str) -> None:
    @app.post("/v1/links", status_code=201, responses=ERRORS, tags=["links"])
    async def open_link(body: schemas.LinkConfigBody, response: Response) -> schemas.LinkBody:
        """Open a link. Queries in flight at once share a slot, each on another user; its clock counts slots used."""
        async with _within(READ_DEADLINE_S):
            request = channel_pb2.OpenLinkRequest(
                config=body.in_scenario(scenario).to_link().to_proto()
            )
            link = _link_body(await clients.channel.open_link(request))
        response.headers["Location"] = f"/v1/links/{link.id}"
        return link

    @app.get("/v1/links", responses=ERRORS, tags=["links"])
    async def list_links() -> schemas.LinksBody:
        """Every open link."""
        async with _within(READ_DEADLINE_S):
            found = await clients.channel.list_links(channel_pb2.ListLinksRequest())
        return schemas.LinksBody(links=[_link_body(link) for link in found.links])

    @app.get("/v1/links/{link_id}", responses=ERRORS, tags=["links"])
    async def get_link(link_id: str) -> schemas.LinkBody:
        """One open link."""
        async with _within(READ_DEADLINE_S):
            request = channel_pb2.GetLinkRequest(link_id=link_id)
            return _link_body(await clients.channel.get_link(request))

    @app.delete("/v1/links/{link_id}", status_code=204, responses=ERRORS, tags=["links"])
    async def close_link(link_id: str) -> None:
        """Close a link; its reports are forgotten."""
        async with _within(READ_DEADLINE_S):
            await clients.channel.close_link(channel_pb2.CloseLinkRequest(link_id=link_id))

    @app.get("/v1/links/{link_id}/csi", responses=ERRORS, tags=["links"])
    async def get_csi(
        link_id: str, slot: Annotated[int | None, Query(ge=0, lt=2**53)] = None
    ) -> schemas.CsiBody:
        """The channel as it is, as the receiver estimated it, as it was fed back and as it is predicted."""
        request = channel_pb2.GetCsiRequest(link_id=link_id)
        if slot is not None:
            request.slot = slot
        async with _within(READ_DEADLINE_S):
            csi = await clients.channel.get_csi(request)
        fed_back = _magnitudes(csi.fed_back_magnitude)
        return schemas.CsiBody(
            slot=csi.slot,
            report_slot=csi.report_slot if csi.HasField("report_slot") else None,
            predictor=csi.predictor,
            true=_magnitudes(csi.true_magnitude),
            estimated=_magnitudes(csi.estimated_magnitude),
            fed_back=fed_back,
            predicted=_magnitudes(csi.predicted_magnitude),
        )


def _link_body(link: channel_pb2.Link) -> schemas.LinkBody:
    config = schemas.LinkConfigBody.from_link(links.Link.from_proto(link.config))
    return schemas.LinkBody(id=link.link_id, slot=link.slot, config=config)


def _magnitudes(tensor: common_pb2.Tensor) -> list[list[list[float]]] | None:
    if not tensor.dtype:
        return None
    shape = (None, None, None)
    values: list[list[list[float]]] = from_wire(
        tensor, field="csi", dtype="float32", shape=shape
    ).tolist()
    return values


# --- corpora -----------------------------------------------------------------------------------


def _add_corpora(app: FastAPI, clients: ServiceClients) -> None:
    @app.get("/v1/corpora", responses=ERRORS, tags=["corpora"])
    async def list_corpora() -> schemas.CorporaBody:
        """Every corpus with a gallery: what it holds, its licence, where it is from."""
        async with _within(READ_DEADLINE_S):
            found = await clients.receiver.list_corpora(receiver_pb2.ListCorporaRequest())
        return schemas.CorporaBody(corpora=[_read(schemas.CorpusBody, c) for c in found.corpora])

    @app.get("/v1/corpora/{name}/items/{item_id}", responses=ERRORS, tags=["corpora"])
    async def get_item(name: str, item_id: str) -> schemas.ItemBody:
        """One gallery item."""
        async with _within(READ_DEADLINE_S):
            request = receiver_pb2.GetItemRequest(corpus=name, item_id=item_id)
            item = await clients.receiver.get_item(request)
        url = media_url(name, item.item_id)
        return _read(
            schemas.ItemBody,
            item,
            corpus=name,
            split=enum_text(common_pb2.Split, item.split),
            captions=list(item.captions),
            media_url=url,
        )

    @app.get(
        "/v1/corpora/{name}/items/{item_id}/media",
        responses={
            **ERRORS,
            200: {
                "content": {modality_spec(task.modality).media_range: {} for task in task_specs()},
                "description": "The media itself",
            },
            304: {"description": "What the client has still stands"},
        },
        response_class=Response,
        tags=["corpora"],
    )
    async def get_media(name: str, item_id: str, request: Request) -> Response:
        """An item's picture or sound. An item may be replaced: a browser that has one asks whether it still stands."""
        async with _within(READ_DEADLINE_S):
            wanted = receiver_pb2.GetMediaRequest(corpus=name, item_id=item_id)
            media = await clients.receiver.get_media(wanted)
        tag = f'"{blake2b(media.data, digest_size=12).hexdigest()}"'
        headers = {"Cache-Control": "no-cache", "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(media.data, media_type=media.content_type, headers=headers)


# --- operations --------------------------------------------------------------------------------


def _add_operations(app: FastAPI, clients: ServiceClients) -> None:
    @app.get(
        "/v1/methods", responses={status: ERRORS[status] for status in (400, 421)}, tags=["methods"]
    )
    async def list_methods() -> schemas.MethodsBody:
        """Every method of the papers: those that a query may choose, and those not built yet."""
        return schemas.MethodsBody(methods=[_read(schemas.MethodBody, m) for m in METHODS.values()])

    @app.get("/v1/version", tags=["operations"])
    async def get_version() -> schemas.VersionBody:
        """Version of the gateway's program, and the commit of its sources where it is known."""
        return schemas.VersionBody(
            version=version(), commit=commit(), python=platform.python_version()
        )

    @app.get("/healthz", tags=["operations"])
    async def healthz() -> schemas.HealthBody:
        """The gateway itself is alive."""
        return schemas.HealthBody(status="ok")

    @app.get(
        "/readyz",
        tags=["operations"],
        responses={503: {"model": schemas.HealthBody, "description": "A service is not ready"}},
    )
    async def readyz(response: Response) -> schemas.HealthBody:
        """Every service behind the gateway serves."""
        services = await clients.health()
        ready = all(word == "ok" for word in services.values())
        response.status_code = 200 if ready else 503
        return schemas.HealthBody(status="ok" if ready else "unavailable", services=services)

    @app.get("/metrics", response_class=PlainTextResponse, tags=["operations"])
    async def metrics() -> Response:
        """The gateway's own metrics, for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    app.mount("/static/swagger", StaticFiles(directory=SWAGGER_UI), name="swagger")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """The API as a page, from files on this machine."""
        page = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="semlink API",
            swagger_js_url="/static/swagger/swagger-ui-bundle.js",
            swagger_css_url="/static/swagger/swagger-ui.css",
            swagger_favicon_url="/static/swagger/favicon-32x32.png",
            swagger_ui_parameters={"validatorUrl": None},
        )
        page.headers.update(PAGE_HEADERS)
        return page

    @app.get("/", include_in_schema=False)
    async def home() -> RedirectResponse:
        """The page that a browser shows first."""
        return RedirectResponse("/docs", 307)
