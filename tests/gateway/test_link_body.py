"""A link as clients write it and as the services know it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway.schemas import LinkConfigBody
from semlink.links import default_link, link_id_of


def test_what_is_left_out_and_what_is_written_out_is_the_same_link() -> None:
    written = LinkConfigBody.model_validate(
        {"power_allocation": "equal", "feedback": {"memory": "none", "content": "layers"}}
    ).to_proto()
    assert written.feedback.content == ""
    assert written.feedback.memory == ""
    assert link_id_of(written) == link_id_of(LinkConfigBody().to_proto())
    assert link_id_of(written) == link_id_of(default_link())


@pytest.mark.parametrize("content", ["layers", "channel"])
@pytest.mark.parametrize("memory", ["none", "fused", "predictive"])
def test_a_link_comes_back_as_it_was_written(content: str, memory: str) -> None:
    body = LinkConfigBody.model_validate({"feedback": {"content": content, "memory": memory}})
    again = LinkConfigBody.from_proto(body.to_proto())
    assert again.feedback.content == content
    assert again.feedback.memory == memory
    assert again == body
    other = LinkConfigBody.model_validate({"feedback": {"memory": memory}})
    assert (link_id_of(other.to_proto()) == link_id_of(body.to_proto())) == (content == "layers")


def test_unknown_content_is_refused_by_its_field() -> None:
    with pytest.raises(ValidationError) as error:
        LinkConfigBody.model_validate({"feedback": {"content": "everything"}})
    assert error.value.errors()[0]["loc"] == ("feedback", "content")
