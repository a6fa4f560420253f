"""The REST and gRPC references, generated: from the OpenAPI of the running code, and from the contracts' comments."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from lab.evaluation.templating import render
from semlink.fields import described, help_of
from semlink.links import Feedback, Link
from semlink.queries import QueryOptions, Retrieval

ROOT = Path(__file__).resolve().parents[2]


def write(out: Path) -> list[Path]:
    """Write ``rest.md``, ``openapi.json`` and ``grpc.md``."""
    out.mkdir(parents=True, exist_ok=True)
    api = openapi()
    pages = {
        "openapi.json": json.dumps(api, indent=1, ensure_ascii=False) + "\n",
        "rest.md": rest_page(api),
        "grpc.md": grpc_page(),
    }
    for name, text in pages.items():
        (out / name).write_text(text)
    return [out / name for name in pages]


def openapi() -> dict[str, Any]:
    """The gateway's OpenAPI document."""
    from gateway.app import ServiceClients, create_app

    absent = cast(Any, None)  # describing an app calls no service
    closed: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(0)  # noqa: E731
    return create_app(ServiceClients(absent, absent, absent, absent, closed)).openapi()


def rest_page(api: dict[str, Any]) -> str:
    """Every path and every schema as Markdown."""
    page = render("rest.md.j2", api=api, type_of=_type, meaning_of=_meaning, json=json.dumps)
    return page.rstrip() + "\n"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(s) for s in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def _meaning(schema: dict[str, Any]) -> str:
    names = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
    names |= {
        "minLength": "length ≥",
        "maxLength": "length ≤",
        "minItems": "items ≥",
        "maxItems": "items ≤",
    }
    schemas = [schema, *schema.get("anyOf", [])]
    bounds = [f"{sign} {of[key]:g}" for of in schemas for key, sign in names.items() if key in of]
    return "; ".join([*([schema["description"]] if "description" in schema else []), *bounds])


def grpc_page() -> str:
    """Every service, message and field with the comments of the contracts."""
    return render("grpc.md.j2", contracts=map(_contract, _contracts())).rstrip() + "\n"


def _contract(file: FileDescriptorProto) -> dict[str, Any]:
    """What the page says of a file: services with methods, messages with fields."""
    places = file.source_code_info.location
    comments = {tuple(place.path): place.leading_comments for place in places}
    detached = (text for place in places for text in place.leading_detached_comments)

    def comment(*path: int) -> str:
        return _prose(comments.get(path, ""))

    return {
        "name": Path(file.name).name,
        "comment": comment(12) or _prose(next(detached, "")),
        "services": [
            {
                "name": service.name,
                "comment": comment(6, i),
                "methods": [
                    {
                        "name": method.name,
                        "request": _short(method.input_type),
                        "answer": "stream " * method.server_streaming + _short(method.output_type),
                        "comment": comment(6, i, 2, j),
                    }
                    for j, method in enumerate(service.method)
                ],
            }
            for i, service in enumerate(file.service)
        ],
        "messages": [
            {
                "name": message.name,
                "comment": comment(4, i),
                "fields": [
                    {
                        "number": field.number,
                        "name": field.name,
                        "type": _field_type(field),
                        "comment": _one_of(message, field)
                        + (comment(4, i, 2, j) or _said_once(message.name, field.name)),
                    }
                    for j, field in enumerate(message.field)
                ],
            }
            for i, message in enumerate(file.message_type)
        ],
        "enums": [
            {
                "name": enum.name,
                "comment": comment(5, i),
                "values": [
                    {"number": v.number, "name": v.name, "comment": comment(5, i, 2, j)}
                    for j, v in enumerate(enum.value)
                ],
            }
            for i, enum in enumerate(file.enum_type)
        ],
    }


def _said_once(message: str, field: str) -> str:
    """What the dataclass of a message says of a field: meaning, what is allowed, default."""
    owners = {"LinkConfig": Link, "FeedbackConfig": Feedback, "Query": QueryOptions}
    for one in described({**owners, "Retrieval": Retrieval}.get(message, _Nothing)):
        if one.name == field:
            return help_of(one.spec, None if one.nested else one.default)
    return ""


@dataclass(frozen=True)
class _Nothing:
    """Of messages whose fields the contracts describe themselves."""


def _one_of(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    if not field.HasField("oneof_index") or field.proto3_optional:
        return ""
    return f"(one of `{message.oneof_decl[field.oneof_index].name}`) "


def _field_type(field: FieldDescriptorProto) -> str:
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    name = (
        _short(field.type_name)
        if field.type_name
        else FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    )
    return ("repeated " if repeated else "optional " if field.proto3_optional else "") + name


def _short(type_name: str) -> str:
    return type_name.rpartition(".")[2]


def _prose(comment: str) -> str:
    return " ".join(line.strip() for line in comment.strip().splitlines())


def _contracts() -> list[FileDescriptorProto]:
    import grpc_tools
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "all.binpb"
        files = sorted((ROOT / "proto").rglob("*.proto"))
        arguments = [
            f"-I{ROOT / 'proto'}",
            f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
            "--include_source_info",
            f"--descriptor_set_out={out}",
            *map(str, files),
        ]
        if protoc.main(["protoc", *arguments]) != 0:
            raise RuntimeError("the contracts do not compile")
        return list(FileDescriptorSet.FromString(out.read_bytes()).file)
