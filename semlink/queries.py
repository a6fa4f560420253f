"""What a query may choose, and what it gets where it does not: for REST, command line, gRPC and client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from semlink.fields import Spec
from semlink.knowledge import DEFAULT_STRATEGY, PROMPT_STRATEGIES
from semlink.methods import EXTRACTIONS, RERANKINGS, SCORINGS

MAX_TOP_K: Final = 100
MAX_KEY_SENTENCES: Final = 50
MAX_BUDGET_MS: Final = 600_000
MAX_SYMBOLS: Final = 65_536
"""What a query may ask for; which of them a codec makes is the transmitter's to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """How a query is understood and its answer found; what is left out is the method's choice."""

    scoring: Annotated[
        str | None,
        Spec(
            "what is compared: the cosine of one feature, or global feature and prototypes (GPA), where the corpus "
            "has them",
            one_of=SCORINGS,
        ),
    ] = None
    reranking: Annotated[
        str | None,
        Spec(
            "neighbours: the first candidates again, by shared neighbours (Sew+MCM); weighted: ours",
            one_of=RERANKINGS,
        ),
    ] = None
    extraction: Annotated[
        str | None, Spec("which sentences of a text are sent; none: all", one_of=EXTRACTIONS)
    ] = None
    key_sentences: Annotated[
        int, Spec("how many are kept; 0: as validated", low=0, high=MAX_KEY_SENTENCES)
    ] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryOptions:
    """What a query chooses besides its content and its link."""

    method: Annotated[str, Spec("how it is carried; see GET /v1/methods")] = "sc-lmkb"
    top_k: Annotated[int, Spec("how many items are found", low=1, high=MAX_TOP_K)] = 5
    symbols: Annotated[
        int, Spec("complex channel uses k: 8, 16, 32, 64 or 128", low=1, high=MAX_SYMBOLS)
    ] = 64
    knowledge_budget_ms: Annotated[
        float,
        Spec(
            "time that new rewrites may take; 0: only knowledge that is already kept",
            "ms",
            low=0,
            high=MAX_BUDGET_MS,
        ),
    ] = 0.0
    rewrite_strategy: Annotated[
        str | None,
        Spec(
            f"how the LLM is asked for rewrites; absent: {DEFAULT_STRATEGY}",
            one_of=PROMPT_STRATEGIES,
        ),
    ] = None
    retrieval: Annotated[Retrieval, Spec("how it is understood and its answer found")] = Retrieval()
