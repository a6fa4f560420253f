"""A field that is said once: REST, the command line, gRPC and documents have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from fastapi import FastAPI
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from pydantic import ValidationError
from typer.testing import CliRunner

from gateway.schemas import FeedbackBody, LinkConfigBody, body_of
from semlink.cli.options import options_of
from semlink.enums import enum_names
from semlink.errors import InvalidField
from semlink.fields import Spec, check, described
from semlink.links import POWER_ALLOCATIONS, Feedback, Link
from semlink.messages import from_proto, to_proto
from semlink.methods import EXTRACTIONS, RERANKINGS, SCORINGS
from semlink.quantizers import CONTENTS, MEMORIES
from semlink.queries import QueryOptions, Retrieval
from semlink.v1 import common_pb2, knowledge_pb2, transmitter_pb2
from tools.docs.api_reference import grpc_page, openapi, rest_page


@dataclass(frozen=True, slots=True, kw_only=True)
class WetLink(Link):
    """A link with one field more."""

    rain_mm_h: Annotated[float, Spec("rain on the way", "mm/h", low=0, high=150)] = 2.5


@body_of(WetLink, feedback=FeedbackBody)
class WetBody(LinkConfigBody):
    """A wet link."""


def wet_message() -> Any:
    """The contract's LinkConfig with the field under a new number."""
    pool, files = DescriptorPool(), []
    for module in (common_pb2,):
        for dependency in module.DESCRIPTOR.dependencies:
            for deeper in dependency.dependencies:
                files.append(deeper)
            files.append(dependency)
    for file in files:
        described_file = FileDescriptorProto()
        file.CopyToProto(described_file)
        pool.Add(described_file)
    contract = FileDescriptorProto()
    common_pb2.DESCRIPTOR.CopyToProto(contract)
    message = next(m for m in contract.message_type if m.name == "LinkConfig")
    message.oneof_decl.add(name="_rain")
    message.field.add(
        name="rain_mm_h",
        number=99,
        type=FieldDescriptorProto.TYPE_DOUBLE,
        label=FieldDescriptorProto.LABEL_OPTIONAL,
        oneof_index=len(message.oneof_decl) - 1,
        proto3_optional=True,
    )
    pool.Add(contract)
    return GetMessageClass(pool.FindMessageTypeByName("semlink.v1.LinkConfig"))()


def test_a_field_that_is_added_once_is_everywhere() -> None:
    # REST body
    assert WetBody.model_validate({"rain_mm_h": 7.5}).model_dump()["rain_mm_h"] == 7.5
    assert WetBody().model_dump()["rain_mm_h"] == 2.5
    for refused in (150.5, "7"):
        with pytest.raises(ValidationError, match="rain_mm_h"):
            WetBody.model_validate({"rain_mm_h": refused})
    # checks of gRPC
    with pytest.raises(InvalidField, match=r"allowed: 0…150 mm/h") as caught:
        check(WetLink(rain_mm_h=151), field="link")
    assert caught.value.field == "link.rain_mm_h"
    # protobuf
    message = to_proto(WetLink(rain_mm_h=0.0, num_users=2), wet_message())
    assert message.HasField("rain_mm_h")
    assert from_proto(WetLink, message, field="link") == WetLink(rain_mm_h=0.0, num_users=2)
    assert from_proto(WetLink, wet_message(), field="link") == WetLink()
    # command line
    seen: list[Any] = []
    app = typer.Typer()

    @app.command()
    @options_of(link=WetLink)
    def send(link: Any = None) -> None:
        seen.append(link)

    done = CliRunner().invoke(app, ["--rain-mm-h", "7.5", "--users", "2", "--bits", "16"])
    assert done.exit_code == 0, done.output
    assert seen == [{"rain_mm_h": 7.5, "num_users": 2, "bits": 16}]
    assert WetLink().replace(**seen[0]).feedback.bits == 16
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert "rain on the way (mm/h); 0…150; default 2.5" in shown
    # documents
    rest = FastAPI()

    @rest.post("/wet")
    def wet(body: WetBody) -> None: ...

    page = rest_page(rest.openapi())
    assert "| `rain_mm_h` | number | 2.5 | rain on the way (mm/h); ≥ 0; ≤ 150 |" in page


def test_every_field_of_the_references_says_what_it_means() -> None:
    api = openapi()
    silent = [
        f"{name}.{field}"
        for name, schema in api["components"]["schemas"].items()
        for field, of in schema.get("properties", {}).items()
        if not of.get("description")
    ]
    assert silent == []
    page = grpc_page()
    for owner in (Link, Feedback, QueryOptions, Retrieval):
        for one in described(owner):
            assert one.spec.text in page, one.name


def test_every_field_has_a_meaning_and_a_number_its_range() -> None:
    for owner in (Link, Feedback, QueryOptions, Retrieval):
        for one in described(owner):
            assert one.spec.meaning
            if one.kind in (int, float) and not one.spec.one_of:
                assert one.spec.low is not None, one.name
        check(owner(), field="default")


def test_closed_sets_are_the_enums_of_the_contracts() -> None:
    for names, enum in (
        (MEMORIES, common_pb2.FeedbackMemory),
        (CONTENTS, common_pb2.FeedbackContent),
        (POWER_ALLOCATIONS, common_pb2.PowerAllocation),
        (SCORINGS, transmitter_pb2.Scoring),
        (RERANKINGS, transmitter_pb2.Reranking),
        (EXTRACTIONS, transmitter_pb2.Extraction),
        (("train", "val", "test"), common_pb2.Split),
        (("running", "done", "cancelled", "failed"), knowledge_pb2.EnrichmentState),
    ):
        assert names == enum_names(enum)


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        (Link, common_pb2.LinkConfig()),
        (QueryOptions, transmitter_pb2.Query()),
    ],
)
def test_what_is_not_set_over_grpc_has_the_default_of_rest(owner: Any, message: Any) -> None:
    assert from_proto(owner, message, field="x") == owner()
    zero = {"snr_db": 0.0, "speed_kmh": 0.0, "delay_slots": 0, "bits": 0}
    if owner is Link:
        link = Link().replace(**zero)
        assert from_proto(Link, link.to_proto(), field="x") == link


def test_a_number_that_an_enum_lacks_is_refused_by_its_field() -> None:
    message = common_pb2.LinkConfig()
    message.feedback.memory = 77  # type: ignore[assignment]
    with pytest.raises(InvalidField, match="predictive") as caught:
        Link.from_proto(message, field="queries[2].link")
    assert caught.value.field == "queries[2].link.feedback.memory"
