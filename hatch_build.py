"""Build hook: generates semlink/v1 from proto/ before a wheel or an editable install is made."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def generate(root: Path) -> None:
    """Compile every contract in proto/semlink/v1 to typed Python in semlink/v1, and the services to Python classes."""
    import grpc_tools
    from grpc_tools import protoc

    out = root / "semlink" / "v1"
    out.mkdir(parents=True, exist_ok=True)
    protos = sorted((root / "proto").rglob("*.proto"))
    include = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        described = Path(folder) / "all.binpb"
        status = protoc.main(
            [
                "protoc",
                f"-I{root / 'proto'}",
                f"-I{include}",
                f"--python_out={root}",
                f"--grpc_python_out={root}",
                f"--mypy_out={root}",
                f"--mypy_grpc_out={root}",
                "--include_source_info",
                f"--descriptor_set_out={described}",
                *map(str, protos),
            ]
        )
        if status != 0:
            raise RuntimeError(f"protoc failed with status {status}")
        (out / "services.py").write_text(services_module(described.read_bytes()))
    (out / "__init__.py").write_text('"""Generated from proto/semlink/v1; do not edit."""\n')


SERVICES_HEAD = '''"""Generated from proto/semlink/v1; do not edit. Services as their callers see them, and calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from semlink.v1 import {modules}


class Calls(Protocol):
    """What makes calls by name: :class:`semlink.rpc.clients.ServiceClient`."""

    async def call(self, method: str, request: Any, answer: Any) -> Any: ...
    def stream(self, method: str, request: Any, answer: Any) -> AsyncIterator[Any]: ...
'''


def services_module(descriptors: bytes) -> str:
    """Write a protocol and a class of calls for each service of a serialised FileDescriptorSet."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    modules, classes = [], []
    for file in FileDescriptorSet.FromString(descriptors).file:
        comments = {
            tuple(place.path): " ".join(place.leading_comments.split()).replace("\\", "\\\\")
            for place in file.source_code_info.location
        }
        if file.service:
            modules.append(f"{Path(file.name).stem}_pb2")
        for i, service in enumerate(file.service):
            protocol, calls = [], []
            for j, method in enumerate(service.method):
                name = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
                request, answer = (
                    f"{modules[-1]}.{kind.rpartition('.')[2]}"
                    for kind in (method.input_type, method.output_type)
                )
                signature = f"def {name}(self, request: {request}) -> "
                if method.server_streaming:
                    signature += f"AsyncIterator[{answer}]:"
                    call = f"return self.stream({method.name!r}, request, {answer})"
                else:
                    signature = f"async {signature}{answer}:"
                    call = f"return await self.call({method.name!r}, request, {answer})"
                protocol.append(
                    f'    {signature}\n        """{comments.get((6, i, 2, j), "")}"""\n        ...'
                )
                calls.append(f"    {signature}\n        {call}")
            for kind, bases, methods in (
                ("Service", "Protocol", protocol),
                ("Calls", "Calls", calls),
            ):
                about = f'    """{comments.get((6, i), "")}"""'
                classes.append(
                    "\n\n".join([f"\n\nclass {service.name}{kind}({bases}):\n{about}", *methods])
                )
    return SERVICES_HEAD.format(modules=", ".join(modules)) + "\n".join(classes) + "\n"


class ProtoBuildHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # protoc finds the mypy plug-ins on PATH: in an isolated build they lie beside the interpreter
        import os

        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        generate(Path(self.root))


if __name__ == "__main__":
    generate(Path(__file__).parent)
