"""What REST clients send and get. Stable from the first release on; units are in the names."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from semlink import links, methods, quantizers
from semlink.knowledge import PromptStrategy
from semlink.scenarios import Scenario
from semlink.v1 import common_pb2, transmitter_pb2

Task = Literal["person", "image", "audio"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
_DEFAULT = links.default_link()
if TYPE_CHECKING:
    Quantizer = str
else:
    Quantizer = Literal[quantizers.quantizer_names()]


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


class FeedbackBody(_Body):
    """How the receiver reports channel state."""

    quantizer: Quantizer = "rvq"
    bits: int = Field(_DEFAULT.feedback.bits, ge=0, le=links.MAX_BITS, description="of one report")
    report_period_slots: int = Field(
        _DEFAULT.feedback.report_period_slots, ge=1, le=links.HISTORY_SLOTS
    )
    delay_slots: int = Field(_DEFAULT.feedback.delay_slots, ge=0, le=links.HISTORY_SLOTS)
    memory: quantizers.Memory = Field(
        "none", description="what a report may rest on: itself, reports fused, reports predicted"
    )
    content: quantizers.Content = Field(
        "layers",
        description="what a report describes: the rows of H that num_layers layers use, or all of H",
    )


class LinkConfigBody(_Body):
    """A radio link; slots last 1 ms."""

    scenario: Scenario = "umi-los"
    snr_db: float = Field(
        _DEFAULT.snr_db,
        ge=links.SNR_DB_RANGE[0],
        le=links.SNR_DB_RANGE[1],
        description="transmit power over noise power per receive antenna, before any precoding gain",
    )
    speed_kmh: float = Field(3.0, ge=0, le=500)
    carrier_frequency_hz: float = Field(
        _DEFAULT.carrier_frequency_hz, ge=links.CARRIER_RANGE_HZ[0], le=links.CARRIER_RANGE_HZ[1]
    )
    num_tx_ant: Literal[1, 2, 4, 8, 16, 32] = 16
    num_rx_ant: Literal[1, 2, 4] = 2
    num_layers: int = Field(1, ge=1, le=links.MAX_LAYERS, description="of each user")
    num_users: int = Field(4, ge=1, le=links.MAX_USERS, description="co-scheduled in a slot")
    power_allocation: links.PowerAllocation = Field(
        "equal", description="water-filling: over the layers and subbands of each user"
    )
    delay_spread_ns: float | None = Field(
        None,
        ge=round(links.DELAY_SPREAD_RANGE_S[0] * 1e9),
        le=round(links.DELAY_SPREAD_RANGE_S[1] * 1e9),
        description="of cdl-* (RMS) and rayleigh (mean delay); null: 100 ns",
    )
    feedback: FeedbackBody = Field(default_factory=FeedbackBody)
    seed: Seed = 0

    def in_scenario(self, default: str) -> Self:
        """The same link; in scenario ``default`` if the client named none."""
        if "scenario" in self.model_fields_set:
            return self
        return self.model_copy(update={"scenario": default})

    def to_proto(self) -> common_pb2.LinkConfig:
        """The link as the services know it. What a contract's empty value means is left empty."""
        feedback = self.feedback.model_dump() | {
            "memory": "" if self.feedback.memory == "none" else self.feedback.memory,
            "content": "" if self.feedback.content == "layers" else self.feedback.content,
        }
        return common_pb2.LinkConfig(
            scenario=self.scenario,
            snr_db=self.snr_db,
            speed_mps=self.speed_kmh / 3.6,
            carrier_frequency_hz=self.carrier_frequency_hz,
            num_tx_ant=self.num_tx_ant,
            num_rx_ant=self.num_rx_ant,
            num_layers=self.num_layers,
            num_users=self.num_users,
            power_allocation="" if self.power_allocation == "equal" else self.power_allocation,
            delay_spread_s=(self.delay_spread_ns or 0.0) * 1e-9,
            feedback=common_pb2.FeedbackConfig(**feedback),
            seed=self.seed,
        )

    @classmethod
    def from_proto(cls, config: common_pb2.LinkConfig) -> Self:
        """The link as a client would write it."""
        feedback = config.feedback
        return cls.model_validate(
            {
                "scenario": config.scenario,
                "snr_db": config.snr_db,
                "speed_kmh": round(config.speed_mps * 3.6, 9),
                "carrier_frequency_hz": config.carrier_frequency_hz,
                "num_tx_ant": config.num_tx_ant,
                "num_rx_ant": config.num_rx_ant,
                "num_layers": config.num_layers,
                "num_users": config.num_users,
                "power_allocation": config.power_allocation or "equal",
                "delay_spread_ns": round(config.delay_spread_s * 1e9, 9) or None,
                "feedback": {
                    "quantizer": feedback.quantizer,
                    "bits": feedback.bits,
                    "report_period_slots": feedback.report_period_slots,
                    "delay_slots": feedback.delay_slots,
                    "memory": feedback.memory or "none",
                    "content": feedback.content or "layers",
                },
                "seed": config.seed,
            }
        )


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
        message.link_config.CopyFrom(body.link.to_proto())
    return message
