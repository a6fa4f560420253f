"""Build hook: generates semlink/v1/*_pb2*.py(i) from proto/ before a wheel or an editable install is made."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def generate(root: Path) -> None:
    """Compile every contract in proto/semlink/v1 to typed Python in semlink/v1."""
    import grpc_tools
    from grpc_tools import protoc

    out = root / "semlink" / "v1"
    out.mkdir(parents=True, exist_ok=True)
    protos = sorted((root / "proto").rglob("*.proto"))
    include = Path(grpc_tools.__file__).parent / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"-I{root / 'proto'}",
            f"-I{include}",
            f"--python_out={root}",
            f"--grpc_python_out={root}",
            f"--mypy_out={root}",
            f"--mypy_grpc_out={root}",
            *map(str, protos),
        ]
    )
    if status != 0:
        raise RuntimeError(f"protoc failed with status {status}")
    (out / "__init__.py").write_text('"""Generated from proto/semlink/v1; do not edit."""\n')


class ProtoBuildHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        # protoc finds the mypy plug-ins on PATH: in an isolated build they lie beside the interpreter
        import os

        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        generate(Path(self.root))


if __name__ == "__main__":
    generate(Path(__file__).parent)
