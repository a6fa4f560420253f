"""A link as clients write it and as the services know it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway.schemas import LinkConfigBody
from semlink.links import Link, link_id_of


def test_what_is_left_out_and_what_is_written_out_is_the_same_link() -> None:
    written = LinkConfigBody.model_validate(
        {"power_allocation": "equal", "feedback": {"memory": "none", "content": "layers"}}
    ).to_link()
    assert written == LinkConfigBody().to_link() == Link()
    assert link_id_of(written) == link_id_of(Link())


@pytest.mark.parametrize("content", ["layers", "channel"])
@pytest.mark.parametrize("memory", ["none", "fused", "predictive"])
def test_a_link_comes_back_as_it_was_written(content: str, memory: str) -> None:
    body = LinkConfigBody.model_validate({"feedback": {"content": content, "memory": memory}})
    again = LinkConfigBody.from_link(Link.from_proto(body.to_link().to_proto()))
    assert again.feedback.content == content
    assert again.feedback.memory == memory
    assert again == body
    other = LinkConfigBody.model_validate({"feedback": {"memory": memory}})
    ids = {link_id_of(one.to_link()) for one in (other, body)}
    assert (len(ids) == 1) == (content == "layers")


def test_unknown_content_is_refused_by_its_field() -> None:
    with pytest.raises(ValidationError) as error:
        LinkConfigBody.model_validate({"feedback": {"content": "everything"}})
    assert error.value.errors()[0]["loc"] == ("feedback", "content")
