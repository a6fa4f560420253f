"""What REST clients send and get. Stable from the first release on; units are in the names."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from pydantic.config import JsonDict

from semlink import links, methods
from semlink.fields import described
from semlink.knowledge import PromptStrategy
from semlink.v1 import transmitter_pb2

Task = Literal["person", "image", "audio"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

MAX_UNKNOWN_FIELDS: Final = 16
"""Of one object; each of so many is named in the answer, more are refused together."""


class ClosedBody(BaseModel):
    """Unknown fields are refused: a misspelt one would otherwise be ignored in silence."""

    model_config = ConfigDict(extra="forbid")

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
            if one.spec is None:
                values[one.name] = (bodies[one.name], Field(default_factory=bodies[one.name]))
                continue
            kind = Literal[one.spec.allowed] if one.spec.allowed else one.kind
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

    @model_validator(mode="after")
    def _either_or(self) -> Self:
        if self.id is not None and len(self.model_fields_set) > 1:
            raise ValueError("a link is given by id or by value, not both")
        return self


class MediaBody(_Body):
    """A picture or a sound, base64."""

    content_type: str = Field(max_length=100, examples=["image/jpeg"])
    data: str = Field(min_length=1, description="base64, RFC 4648")


class ContentBody(_Body):
    """Exactly one of the three."""

    text: str | None = Field(None, min_length=1, max_length=2_000)
    image: MediaBody | None = None
    audio: MediaBody | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [n for n in ("text", "image", "audio") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError("exactly one of text, image, audio is needed")
        return self


class RetrievalBody(_Body):
    """How a query is understood and its answer found; what is left out is the method's choice."""

    scoring: methods.Scoring | None = Field(
        None,
        description="prototypes: global feature and prototypes (GPA), where the corpus has them",
    )
    reranking: methods.Reranking | None = Field(
        None,
        description="neighbours: the first candidates again, by shared neighbours (Sew+MCM); weighted: ours",
    )
    extraction: methods.Extraction | None = Field(
        None, description="which sentences of a text are sent; none: all"
    )
    key_sentences: int = Field(0, ge=0, le=50, description="how many are kept; 0: as validated")


_QUERY_EXAMPLE: JsonDict = {"task": "person", "query": {"text": "a man in a red jacket"}}
"""What the page of the API offers to send: the fields without a default."""


class QueryBody(_Body):
    """A retrieval query."""

    model_config = ConfigDict(json_schema_extra={"examples": [_QUERY_EXAMPLE]})

    task: Task
    query: ContentBody
    corpus: str | None = Field(None, min_length=1, max_length=100)
    method: str = Field("sc-lmkb", max_length=100)
    top_k: int = Field(5, ge=1, le=100)
    symbols: int = Field(64, ge=1, description="complex channel uses k")
    seed: Seed | None = Field(
        None, description="repeats slot and noise exactly; drawn and returned when absent"
    )
    knowledge_budget_ms: float = Field(
        0.0, ge=0, le=600_000, description="0: only knowledge that is already kept"
    )
    rewrite_strategy: PromptStrategy | None = Field(
        None, description="how the LLM is asked for rewrites; default few-shot"
    )
    deadline_ms: float = Field(30_000.0, gt=0, le=600_000)
    retrieval: RetrievalBody = Field(default_factory=RetrievalBody)
    link: QueryLinkBody = Field(default_factory=QueryLinkBody)

    def drawn_seed(self) -> int:
        """The query's seed, or a fresh one that JSON numbers hold exactly."""
        return secrets.randbits(53) if self.seed is None else self.seed


class BatchBody(_Body):
    """Several queries at once, answered in order."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"queries": [_QUERY_EXAMPLE, _QUERY_EXAMPLE]}]}
    )

    queries: list[QueryBody] = Field(min_length=1, max_length=256)
    deadline_ms: float = Field(60_000.0, gt=0, le=600_000)


class Result(BaseModel):
    """One found item."""

    item_id: str
    score: float = Field(description="the cosine, and what prototypes and re-ranking add to it")
    similarity: float = Field(description="cosine of query and item")
    media_url: str
    captions: list[str] = []


class LinkAnswer(BaseModel):
    """What the link did to the query."""

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
    user: int = Field(description="of the slot, on whose streams the query rode")
    co_scheduled: int = Field(description="other queries in the slot")
    erased: bool = Field(description="a digital message did not survive the channel: no results")
    csi_age_slots: int | None


class RewriteAnswer(BaseModel):
    """One candidate of the LLM and what the filter said."""

    text: str
    kept: bool
    similarity: float
    reason: str


class KnowledgeAnswer(BaseModel):
    """What the knowledge base added."""

    rewrites: list[RewriteAnswer]
    csi_source: str


class SentenceAnswer(BaseModel):
    """A sentence of the query's text; what is not kept was not sent."""

    text: str
    score: float
    kept: bool


class RetrievalAnswer(BaseModel):
    """What was done to find the results."""

    scoring: methods.Scoring
    reranking: methods.Reranking
    extraction: methods.Extraction
    sentences: list[SentenceAnswer] = Field(description="empty where no sentence was chosen")


class DegradedAnswer(BaseModel):
    """A fallback that was taken."""

    part: str
    reason: str


class QueryAnswer(BaseModel):
    """The answer to one query."""

    id: str
    task: Task
    corpus: str
    method: str
    seed: int
    results: list[Result]
    link: LinkAnswer | None = Field(description="null for a method without a channel")
    knowledge: KnowledgeAnswer
    retrieval: RetrievalAnswer
    timings_ms: dict[str, float]
    degraded: list[DegradedAnswer]


class BatchAnswer(BaseModel):
    """Answers in the order of the queries."""

    answers: list[QueryAnswer]


class LinkBody(BaseModel):
    """An open link."""

    id: str
    slot: int = Field(description="next slot to be granted")
    config: LinkConfigBody


class LinksBody(BaseModel):
    """Every open link."""

    links: list[LinkBody]


class CsiBody(BaseModel):
    """Magnitudes |H| of user 0, ``[num_subbands][num_rx_ant][num_tx_ant]``; null where there is none."""

    slot: int
    report_slot: int | None
    predictor: str
    true: list[list[list[float]]] | None
    estimated: list[list[list[float]]] | None
    fed_back: list[list[list[float]]] | None
    predicted: list[list[list[float]]] | None


class CorpusBody(BaseModel):
    """A corpus with a gallery."""

    name: str
    task: Task
    media_type: str
    licence: str
    source: str
    description: str
    size: int


class CorporaBody(BaseModel):
    """Every corpus."""

    corpora: list[CorpusBody]


class ItemBody(BaseModel):
    """A gallery item."""

    corpus: str
    item_id: str
    identity: str
    split: str
    captions: list[str]
    media_type: str
    media_url: str


class MethodBody(BaseModel):
    """A method that a query may choose, or that is not built yet."""

    name: str
    title: str
    source: str
    available: bool


class MethodsBody(BaseModel):
    """Every method."""

    methods: list[MethodBody]


class HealthBody(BaseModel):
    """Alive, or what is not ready."""

    status: Literal["ok", "unavailable"]
    services: dict[str, str] = {}


class VersionBody(BaseModel):
    """What answers."""

    version: str
    commit: str | None = Field(description="null where it is not known: in a wheel or an image")
    python: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = Field(None, description="path of the offending field")
    errors: list[dict[str, str]] = Field(default=[], description="every offending field")


def to_query(
    body: QueryBody, query_id: str, seed: int, image: bytes, audio: bytes
) -> transmitter_pb2.Query:
    """The query as the transmitter knows it; ``image`` and ``audio`` are the decoded base64, empty if not given."""
    message = transmitter_pb2.Query(
        id=query_id,
        task=body.task,
        corpus=body.corpus or "",
        method=body.method,
        top_k=body.top_k,
        symbols=body.symbols,
        seed=seed,
        knowledge_budget_ms=body.knowledge_budget_ms,
        rewrite_strategy=body.rewrite_strategy or "",
        retrieval=transmitter_pb2.Retrieval(
            scoring=body.retrieval.scoring or "",
            reranking=body.retrieval.reranking or "",
            extraction=body.retrieval.extraction or "",
            key_sentences=body.retrieval.key_sentences,
        ),
    )
    content = body.query
    if content.text is not None:
        message.text = content.text
    elif content.image is not None:
        message.image.content_type, message.image.data = content.image.content_type, image
    elif content.audio is not None:
        message.audio.content_type, message.audio.data = content.audio.content_type, audio
    if body.link.id is not None:
        message.link_id = body.link.id
    else:
        message.link_config.CopyFrom(body.link.to_link().to_proto())
    return message
