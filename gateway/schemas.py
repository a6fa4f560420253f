"""What REST clients send and get. Stable from the first release on; units are in the names."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from pydantic.config import JsonDict

from semlink import links, methods, queries, tasks
from semlink.fields import described
from semlink.messages import to_proto
from semlink.v1 import transmitter_pb2

Seed = Annotated[int, Field(ge=0, lt=2**63)]
if TYPE_CHECKING:
    Task = str
else:
    Task = Literal[tasks.task_names()]

DEFAULT_DEADLINE_MS: Final = 30_000.0
MAX_UNKNOWN_FIELDS: Final = 16
"""Of one object; each of so many is named in the answer, more are refused together."""


class ClosedBody(BaseModel):
    """Unknown fields are refused: a misspelt one would otherwise be ignored in silence."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _few_unknown(cls, data: Any) -> Any:
        """Refuse very many fields at once: an error for each of a million would cost gigabytes."""
        if isinstance(data, dict) and len(data) > len(cls.model_fields) + MAX_UNKNOWN_FIELDS:
            unknown = next(name for name in data if name not in cls.model_fields)
            raise ValueError(f"{len(data)} fields, one that is not known is {str(unknown)[:100]!r}")
        return data


class _Body(ClosedBody):
    """Besides, nothing is converted: "5" is refused for 5."""

    model_config = ConfigDict(allow_inf_nan=False, strict=True)


_B = TypeVar("_B", bound=_Body)


def body_of(owner: type, **bodies: type[_Body]) -> Callable[[type[_B]], type[_B]]:
    """Give a body the fields of a dataclass: names, meanings, ranges and defaults of :mod:`semlink.fields`.

    ``bodies``: those of fields that are dataclasses themselves.
    """

    def made(body: type[_B]) -> type[_B]:
        values: dict[str, Any] = {}
        for one in described(owner):
            if one.nested:
                about = Field(default_factory=bodies[one.name], description=one.spec.text)
                values[one.name] = (bodies[one.name], about)
                continue
            kind = Literal[one.spec.allowed] if one.spec.allowed else one.kind
            if one.default is None:
                kind = kind | None
            about = Field(one.default, ge=one.spec.low, le=one.spec.high, description=one.spec.text)
            values[one.name] = (kind, about)
        return create_model(
            body.__name__, __base__=body, __module__=body.__module__, __doc__=body.__doc__, **values
        )

    return made


@body_of(links.Feedback)
class FeedbackBody(_Body):
    """How the receiver reports channel state (CSI)."""


@body_of(links.Link, feedback=FeedbackBody)
class LinkConfigBody(_Body):
    """A radio link; slots last 1 ms."""

    def in_scenario(self, default: str) -> Self:
        """The same link; in scenario ``default`` if the client named none."""
        if "scenario" in self.model_fields_set:
            return self
        return self.model_copy(update={"scenario": default})

    def to_link(self) -> links.Link:
        """The link that the body describes."""
        return links.Link.from_dict(self.model_dump(exclude={"id"}))

    @classmethod
    def from_link(cls, link: links.Link) -> Self:
        """The link as a client would write it."""
        return cls.model_validate(asdict(link))


class QueryLinkBody(LinkConfigBody):
    """A link by ``id``, opened before with ``POST /v1/links``, or by value."""

    id: str | None = Field(None, min_length=1, max_length=64)
    """of an opened link; null: by value"""

    @model_validator(mode="after")
    def _either_or(self) -> Self:
        if self.id is not None and len(self.model_fields_set) > 1:
            raise ValueError("a link is given by id or by value, not both")
        return self


class MediaBody(_Body):
    """Media of the task's modality, base64: a picture, a sound."""

    content_type: str = Field(max_length=100, examples=["image/jpeg"])
    """MIME type of a picture or a sound"""
    data: str = Field(min_length=1, description="base64, RFC 4648")


class _Content(_Body):
    """A text, or media of the modality that the task's gallery holds: exactly one field."""

    text: str | None = Field(None, min_length=1, max_length=2_000)
    """what is looked for, in words"""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(value is not None for _, value in self) != 1:
            raise ValueError(f"exactly one of {', '.join(type(self).model_fields)} is needed")
        return self

    def given(self) -> tuple[str, str | MediaBody]:
        """The name of the field that is given, and what it holds."""
        return next((name, value) for name, value in self if value is not None)


if TYPE_CHECKING:
    ContentBody = _Content
else:
    _MEDIA = {
        name: (
            MediaBody | None,
            Field(None, description=f"ask with a {tasks.modality_spec(name).noun}"),
        )
        for name in tasks.modality_names()[1:]
    }
    ContentBody = create_model("ContentBody", __base__=_Content, __doc__=_Content.__doc__, **_MEDIA)


@body_of(queries.Retrieval)
class RetrievalBody(_Body):
    """How a query is understood and its answer found; what is left out is the method's choice."""


_QUERY_EXAMPLE: JsonDict = {"task": "person", "query": {"text": "a man in a red jacket"}}
"""What the page of the API offers to send: the fields without a default."""


@body_of(queries.QueryOptions, retrieval=RetrievalBody)
class QueryBody(_Body):
    """A retrieval query."""

    model_config = ConfigDict(json_schema_extra={"examples": [_QUERY_EXAMPLE]})

    task: Task
    """what is looked for: pictures of people, pictures, sounds"""
    query: ContentBody
    """the content of the query"""
    corpus: str | None = Field(None, min_length=1, max_length=100)
    """gallery that is searched; null: the task's embedded one"""
    seed: Seed | None = Field(
        None, description="repeats slot and noise exactly; drawn and returned when absent"
    )
    deadline_ms: float = Field(DEFAULT_DEADLINE_MS, gt=0, le=600_000)
    """time for the answer, ms; past it the query fails with status 504"""
    link: QueryLinkBody = Field(default_factory=QueryLinkBody)
    """the radio link it goes over"""

    def options(self) -> queries.QueryOptions:
        """What the query chooses."""
        values = self.model_dump(include={one.name for one in described(queries.QueryOptions)})
        return queries.QueryOptions(
            **{**values, "retrieval": queries.Retrieval(**values["retrieval"])}
        )

    def drawn_seed(self) -> int:
        """The query's seed, or a fresh one that JSON numbers hold exactly."""
        return secrets.randbits(53) if self.seed is None else self.seed


class BatchBody(_Body):
    """Several queries at once, answered in order."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"queries": [_QUERY_EXAMPLE, _QUERY_EXAMPLE]}]}
    )

    queries: list[QueryBody] = Field(min_length=1, max_length=256)
    """answered in this order"""
    deadline_ms: float = Field(60_000.0, gt=0, le=600_000)
    """time for all answers, ms; a shorter one of a query holds for all"""


class AnswerBody(BaseModel):
    """A body that is sent; what stands below a field is its description."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Result(AnswerBody):
    """One found item."""

    item_id: str
    """in its corpus"""
    score: float = Field(description="the cosine, and what prototypes and re-ranking add to it")
    similarity: float = Field(description="cosine of query and item")
    media_url: str
    """path of its picture or sound"""
    captions: list[str] = []
    """of the item"""


class LinkAnswer(AnswerBody):
    """What the link did to the query."""

    snr_db: float
    """transmit power over noise power per receive antenna, dB"""
    channel_uses: int
    """complex symbols that the message took"""
    bandwidth_ratio: float
    """channel uses over real values at the encoder's input (text: bytes)"""
    feedback_bits: int
    """of one CSI report of one user, bit"""
    header_bytes: int
    """sent beside the symbols, byte"""
    post_eq_snr_db: float
    """geometric mean of the symbols' true SINR after LMMSE equalisation, dB"""
    post_eq_snr_estimate_db: float
    """the same as the receiver estimates it from pilots, dB"""
    csi_nmse_db: float | None
    """NMSE of the precoder's CSI against the true channel, dB; null without CSI"""
    csi_sgcs: float | None
    """squared generalised cosine similarity of both, 0…1; null without CSI"""
    slot: int
    """1 ms slot in which the message was sent"""
    user: int = Field(description="of the slot, on whose streams the query rode")
    co_scheduled: int = Field(description="other queries in the slot")
    erased: bool = Field(description="a digital message did not survive the channel: no results")
    csi_age_slots: int | None
    """age of the newest usable report, slots of 1 ms; null without reports"""


class RewriteAnswer(AnswerBody):
    """One candidate of the LLM and what the filter said."""

    text: str
    """the caption in other words"""
    kept: bool
    """whether it passed the filter"""
    similarity: float
    """MiniLM cosine to the query's text, -1…1"""
    reason: str
    """why it was dropped, or kept"""


class KnowledgeAnswer(AnswerBody):
    """What the knowledge base added."""

    rewrites: list[RewriteAnswer]
    """of the query's text; empty without"""
    csi_source: str
    """where the precoder's CSI came from: none, perfect, hold-last, a predictor"""


class SentenceAnswer(AnswerBody):
    """A sentence of the query's text; what is not kept was not sent."""

    text: str
    """of the query"""
    score: float
    """greater tells more; comparable within one text"""
    kept: bool
    """whether it was sent"""


class RetrievalAnswer(AnswerBody):
    """What was done to find the results."""

    scoring: methods.Scoring
    """what was compared"""
    reranking: methods.Reranking
    """how first candidates were ranked again"""
    extraction: methods.Extraction
    """how sentences were chosen"""
    sentences: list[SentenceAnswer] = Field(description="empty where no sentence was chosen")


class DegradedAnswer(AnswerBody):
    """A fallback that was taken."""

    part: str
    """what was done without, such as knowledge.rewrites"""
    reason: str
    """why"""


class ComputationAnswer(AnswerBody):
    """What computed an answer."""

    version: str
    """of the transmitter's program"""
    weights: str
    """of the heads that encoded the query: the first 12 digits of their SHA-256"""
    runtime: str
    """openvino or torch: what ran the frozen networks"""
    precision: str
    """of the frozen networks: f32 or bf16"""


class QueryAnswer(AnswerBody):
    """The answer to one query."""

    id: str
    """of the query, unique"""
    task: Task
    """of the query"""
    corpus: str
    """that was searched"""
    method: str
    """that carried it"""
    seed: int
    """with it the query repeats exactly on a link by value"""
    results: list[Result]
    """best first"""
    link: LinkAnswer | None = Field(description="null for a method without a channel")
    knowledge: KnowledgeAnswer
    """what the knowledge base added"""
    retrieval: RetrievalAnswer
    """what was done to find the results"""
    timings_ms: dict[str, float] = Field(description="what the software took, by stage")
    computation: ComputationAnswer
    """what computed it"""
    emulated_ms: dict[str, float] = Field(
        description="of the emulated link: slot_wait, slots of an opened link that others used since the query came, "
        "as this gateway saw it; air_time, OFDM symbols of the message; report_delay, age of the CSI report. "
        "What is not known is absent"
    )
    degraded: list[DegradedAnswer]
    """fallbacks that were taken; empty without"""


class BatchAnswer(AnswerBody):
    """Answers in the order of the queries."""

    answers: list[QueryAnswer]
    """in the order of the queries"""


class LinkBody(AnswerBody):
    """An open link."""

    id: str
    """for queries and later calls"""
    slot: int = Field(description="next slot to be granted")
    config: LinkConfigBody
    """as it was opened"""


class LinksBody(AnswerBody):
    """Every open link."""

    links: list[LinkBody]
    """all that are open"""


class CsiBody(AnswerBody):
    """Magnitudes |H| of user 0, ``[num_subbands][num_rx_ant][num_tx_ant]``; null where there is none."""

    slot: int
    """that is described"""
    report_slot: int | None
    """of the newest report usable in it; null without"""
    predictor: str
    """what made the prediction, or why there is none"""
    true: list[list[list[float]]] | None
    """the channel as it is"""
    estimated: list[list[list[float]]] | None
    """as the receiver estimated it for the report"""
    fed_back: list[list[list[float]]] | None
    """as the report describes it"""
    predicted: list[list[list[float]]] | None
    """as the knowledge base predicts it from reports"""


class CorpusBody(AnswerBody):
    """A corpus with a gallery."""

    name: str
    """as queries name it"""
    task: Task
    """that searches it"""
    media_type: str
    """MIME type of its items"""
    licence: str
    """of its items"""
    source: str
    """where it is from"""
    description: str
    """what it holds"""
    size: int
    """items in the gallery"""


class CorporaBody(AnswerBody):
    """Every corpus."""

    corpora: list[CorpusBody]
    """all with a gallery"""


class ItemBody(AnswerBody):
    """A gallery item."""

    corpus: str
    """that holds it"""
    item_id: str
    """in its corpus"""
    identity: str
    """whose picture it is; items of one identity answer for each other"""
    split: str
    """train, val or test"""
    captions: list[str]
    """of the item"""
    media_type: str
    """MIME type"""
    media_url: str
    """path of its picture or sound"""


class MethodBody(AnswerBody):
    """A method that a query may choose, or that is not built yet."""

    name: str
    """as queries name it"""
    title: str
    """in words"""
    source: str
    """paper or our definition"""
    available: bool
    """false: not built yet"""


class MethodsBody(AnswerBody):
    """Every method."""

    methods: list[MethodBody]
    """all, built or not"""


class HealthBody(AnswerBody):
    """Alive, or what is not ready."""

    status: Literal["ok", "unavailable"]
    """ok: serves"""
    services: dict[str, str] = {}
    """a word each, ok for one that serves"""


class LoadRunBody(_Body):
    """A load test that runs now, for dashboards: numbers only, none of which becomes a label of a metric."""

    duration_s: float = Field(
        gt=0, le=86_400, description="forgotten after it, unless announced again"
    )
    rate: float | None = Field(None, gt=0, le=1e5, description="calls a second, of an open loop")
    users: int | None = Field(None, ge=1, le=10_000, description="of a closed loop")
    queries_per_call: int = Field(1, ge=1, le=256, description="one, or those of a batch")


class VersionBody(AnswerBody):
    """What answers."""

    version: str
    """of semlink"""
    commit: str | None = Field(description="null where it is not known: in a wheel or an image")
    python: str
    """version of the interpreter"""


class Problem(AnswerBody):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    """always about:blank"""
    title: str
    """kind of error"""
    status: int
    """of HTTP"""
    detail: str
    """what is wrong and what is allowed"""
    field: str | None = Field(None, description="path of the offending field")
    errors: list[dict[str, str]] = Field(default=[], description="every offending field")


def to_query(body: QueryBody, query_id: str, seed: int, media: bytes) -> transmitter_pb2.Query:
    """The query as the transmitter knows it; ``media``: the decoded base64, empty for a text."""
    message = transmitter_pb2.Query(
        id=query_id,
        task=body.task,
        corpus=body.corpus or "",
        seed=seed,
    )
    to_proto(body.options(), message)
    name, content = body.query.given()
    if isinstance(content, str):
        message.text = content
    else:
        message.media.modality, message.media.content_type = name, content.content_type
        message.media.data = media
    if body.link.id is not None:
        message.link_id = body.link.id
    else:
        message.link_config.CopyFrom(body.link.to_link().to_proto())
    return message
