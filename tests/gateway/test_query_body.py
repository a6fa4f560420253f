"""What a query's body becomes for the transmitter."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway.schemas import QueryBody, to_query
from semlink.knowledge import PROMPT_STRATEGIES

BODY = {"task": "person", "query": {"text": "a man"}}


@pytest.mark.parametrize("strategy", PROMPT_STRATEGIES)
def test_the_strategy_is_handed_on(strategy: str) -> None:
    body = QueryBody.model_validate(BODY | {"rewrite_strategy": strategy})
    assert to_query(body, "q", 1, b"").rewrite_strategy == strategy


def test_without_one_the_knowledge_base_chooses() -> None:
    assert to_query(QueryBody.model_validate(BODY), "q", 1, b"").rewrite_strategy == ""


def test_another_is_refused() -> None:
    with pytest.raises(ValidationError, match="attribute-preserving"):
        QueryBody.model_validate(BODY | {"rewrite_strategy": "magic"})
