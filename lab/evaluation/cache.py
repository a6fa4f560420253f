"""The one cache of what takes long to make: measured points, features, trained models, channels.

An entry is found again by its configuration (its name), by the source of all modules that its producer imports, and by
the weights that it was made with: nobody has to raise a version. Entries stand in
``cache_dir/NAME/SOURCES[-WEIGHTS]/``, where ``about.json`` says whose sources and weights those are, so that
``semlink cache`` tells what is stale without running a producer. Files appear whole (written beside, then renamed) and
lines in one write: processes may share a cache, and an interrupted run goes on.

What 7fb36b6 made is taken over on first use where the same name stands in ``cache_dir/NAME/``.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Literal
from uuid import uuid4

from semlink.errors import NotFound
from semlink.formats import CACHE, FORMATS, check_format
from semlink.models import cache_dir
from semlink.settings import Settings

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = (
    "semlink",
    "transmitter",
    "channel_service",
    "receiver",
    "kb_service",
    "gateway",
    "lab",
)
PRESENTING: Final = frozenset(
    {
        "lab.evaluation.cache",
        "lab.evaluation.claims",
        "lab.evaluation.parallel",
        "lab.evaluation.report",
        "lab.experiments.interface",
        "lab.experiments.plotting",
        "lab.experiments.tables",
        "semlink.errors",
        "semlink.progress",
        "semlink.telemetry",
    }
)
"""Modules that print, draw, count or store and compute nothing that is kept. One that is missing here costs time only:
what need not be measured again is."""
TABLES: Final = ("link-adaptation.json", "predictors.json")
"""Files of ``weights/`` beside tensors that the services read."""
CARRIED: Final = frozenset(
    {
        "compare-cdg",
        "csi-histories",
        "features",
        "gpa",
        "link-bank",
        "noisy",
        "rewrite-bank",
        "sew-mcm",
        "students",
        "train-rvq",
    }
)
"""Caches of 7fb36b6 whose entries are taken over; its measured points are measured again."""
MEASURED_BEFORE: Final = frozenset(
    {
        "answers",
        "augmented",
        "bench-gallery",
        "csi-figures",
        "knowledge",
        "measurements",
        "training",
    }
)
"""Its other caches."""
_ABOUT: Final = "about.json"

State = Literal["in use", "stale", "earlier", "by content"]


# --- sources and weights ------------------------------------------------------------------------


def _file_of(module: str, root: Path) -> Path | None:
    if module.partition(".")[0] not in PACKAGES:
        return None
    place = root.joinpath(*module.split("."))
    return next((p for p in (place / "__init__.py", place.with_suffix(".py")) if p.is_file()), None)


def _without_strings(tree: ast.Module) -> None:
    """Drop every statement that is a mere string: docstrings, and those below constants."""
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list):
                body[:] = [
                    s
                    for s in body
                    if not (
                        isinstance(s, ast.Expr)
                        and isinstance(s.value, ast.Constant)
                        and isinstance(s.value.value, str)
                    )
                ]


@lru_cache(maxsize=4096)
def _parsed(path: Path, _mtime_ns: int, module: str, root: Path) -> tuple[bytes, tuple[str, ...]]:
    """Hash of a module's statements, and the modules that it may import."""
    tree = ast.parse(path.read_bytes())
    _without_strings(tree)
    digest = blake2b(ast.dump(tree).encode(), digest_size=16).digest()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                found |= dict.fromkeys(alias.name for alias in node.names)
            case ast.ImportFrom():
                base = node.module or ""
                if node.level:
                    above = package.split(".")
                    above = above[: len(above) - node.level + 1]
                    base = ".".join([*above, base] if base else above)
                found |= dict.fromkeys([base, *(f"{base}.{alias.name}" for alias in node.names)])
            case ast.Name(id="import_module") | ast.Attribute(attr="import_module"):
                # by a name that is made when it runs: any module of the package
                folder = root.joinpath(*package.split("."))
                for other in folder.rglob("*.py"):
                    name = ".".join(other.relative_to(root).with_suffix("").parts)
                    found[name.removesuffix(".__init__")] = None
            case _:
                pass
    return digest, tuple(found)


def imported_modules(*modules: str, root: Path = ROOT) -> dict[str, bytes]:
    """The modules of this project that some modules import, they and theirs, each with a hash of its statements.

    An import counts wherever it stands, and with ``a.b.c`` its packages ``a`` and ``a.b``, which run first. Those of
    :data:`PRESENTING` are passed over. Raises NotFound for a producer that is no module.
    """
    found: dict[str, bytes] = {}
    todo = [m for m in dict.fromkeys(modules) if m not in PRESENTING]
    for module in todo:
        if _file_of(module, root) is None:
            raise NotFound(f"there is no module {module!r} below {root}", field="producers")
    while todo:
        module = todo.pop()
        path = _file_of(module, root)
        if path is None or module in found or module in PRESENTING:
            continue
        found[module], imported = _parsed(path, path.stat().st_mtime_ns, module, root)
        todo += imported
        todo += [module.rpartition(".")[0]]
    return found


@lru_cache(maxsize=256)
def source_hash(*modules: str, root: Path = ROOT) -> str:
    """A hash over the statements of :func:`imported_modules`.

    Of the syntax tree without docstrings: comments, docstrings and layout change no result, and a measurement of hours
    should not be repeated for them; names, values and order of statements do. Raises NotFound.
    """
    found = imported_modules(*modules, root=root)
    digest = blake2b(f"{sys.version_info[:2]}".encode(), digest_size=8)
    for name, statements in sorted(found.items()):
        digest.update(name.encode() + statements)
    return digest.hexdigest()


def program_hash() -> str:
    """:func:`source_hash` of every experiment."""
    return source_hash("lab.experiments.registry")


@lru_cache(maxsize=64)
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = blake2b(digest_size=8)
    for path, _, _ in files:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def weights_hash(*prefixes: str) -> str:
    """A hash over every shipped weight file and table, or those whose names start with one of ``prefixes``."""
    folder = Settings().weights_dir
    tables = [path for name in TABLES if (path := folder / name).exists()]
    files = sorted([*folder.glob("*.safetensors"), *tables])
    chosen = [path for path in files if not prefixes or path.name.startswith(prefixes)]
    stats = [(path, path.stat()) for path in chosen]
    return _hash_files(tuple((path, s.st_mtime_ns, s.st_size) for path, s in stats))


def key_of(text: str, size: int = 8) -> str:
    """The part of an entry's name that stands for its configuration: ``size`` bytes as hexadecimal digits."""
    return blake2b(text.encode(), digest_size=size).hexdigest()


# --- files of lines -----------------------------------------------------------------------------


def append_line(path: Path, value: Any) -> None:
    """Add a value as a line, in one write: processes that share the file never mix theirs.

    A line that an interruption cut short stays a line of its own, and is passed over by :func:`whole_lines`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(file).st_size
        cut = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        os.write(file, ("\n" * cut + json.dumps(value) + "\n").encode())
    finally:
        os.close(file)


def whole_lines(path: Path) -> Iterator[Any]:
    """The values of a file in their order, none where there is no file; what is no JSON was cut short."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


class JsonlTable:
    """A file of values by where they were measured, anything that JSON knows; lines are added as they come.

    A place that is measured again gets a second line, and the last one counts. Floats come back bit for bit.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values: dict[str, Any] = dict(whole_lines(path))

    def __contains__(self, place: object) -> bool:
        return json.dumps(place) in self._values

    def get(self, place: object) -> Any:
        """The value that is there. Raises KeyError where there is none."""
        return self._values[json.dumps(place)]

    def put(self, value: Any, place: object) -> None:
        """Add a value."""
        key = json.dumps(place)
        # as the next run will read it
        self._values[key] = json.loads(json.dumps(value))
        append_line(self.path, [key, value])

    def clear(self) -> None:
        """Forget every value."""
        self.path.unlink(missing_ok=True)
        self._values.clear()


# --- entries ------------------------------------------------------------------------------------


class Cache:
    """Entries of one name, made by the same sources.

    ``name``: the folder below ``cache_dir``. ``producers``: what makes the entries: functions and classes, each for its
    module, and names of modules; all that these import is included; none where an entry's name says all that it depends
    on. ``weights``: prefixes of the weight files that entries depend on ("": all); those that an entry's own name
    stands for need not be named.
    """

    def __init__(
        self, name: str, *producers: Callable[..., object] | str, weights: Sequence[str] = ()
    ) -> None:
        modules = {p if isinstance(p, str) else p.__module__ for p in producers}
        if "__main__" in modules:  # python -m
            spec = sys.modules["__main__"].__spec__
            modules = modules - {"__main__"} | ({spec.name} if spec else set())
        self.name, self._producers, self._weights = name, sorted(modules), tuple(weights)

    @property
    def folder(self) -> Path:
        """Where today's entries stand; made with its ``about.json``. Raises Unavailable for another format."""
        top = cache_dir() / self.name
        folder = top / _version(self._producers, self._weights)
        about = folder / _ABOUT
        if not about.is_file():
            content = {
                "format": FORMATS[CACHE],
                "producers": self._producers,
                "weights": self._weights,
            }
            write_whole(about, lambda path: path.write_text(json.dumps(content) + "\n"))
        else:
            found, advice = json.loads(about.read_text())["format"], f"semlink cache rm {self.name}"
            check_format(CACHE, found, f"cache {self.name}", advice)
        return folder

    def path(self, name: str) -> Path:
        """Where the entry of a name stands or will stand; one of 7fb36b6 is moved there."""
        path, earlier = self.folder / name, cache_dir() / self.name / name
        if path != earlier and not path.exists() and earlier.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = [p for p in earlier.parent.glob(f"{earlier.stem}.*") if p != earlier]
            # what stands beside a model (its sidecar) first: the model itself says that all is there
            for old in [*beside, earlier]:
                with suppress(FileNotFoundError):  # another process was quicker
                    old.replace(path.with_name(old.name))
        return path

    def entry(self, name: str, make: Callable[[Path], object], *, fresh: bool = False) -> Path:
        """The entry of a name, a file or a folder; ``make`` writes it to the path that it is given where it is missing.

        ``fresh``: made in any case.
        """
        path = self.path(name)
        if fresh or not path.exists():
            write_whole(path, make)
        return path

    def table(self, name: str) -> JsonlTable:
        """The table of a name."""
        return JsonlTable(self.path(f"{name}.jsonl"))


def write_whole(path: Path, make: Callable[[Path], object]) -> None:
    """Let ``make`` write a file or folder beside ``path``, and rename it when it is whole.

    Where several processes make the same, the last one counts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid4().hex}{path.suffix}")
    try:
        make(part)
        if path.is_dir():
            shutil.rmtree(path)
        part.replace(path)
    finally:
        _remove(part)


def _version(producers: Sequence[str], weights: Sequence[str]) -> str:
    parts = [source_hash(*producers)] if producers else []
    if weights:
        parts.append(weights_hash(*weights))
    return "-".join(parts)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# --- what `semlink cache` does ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """Entries of one cache that were made by the same sources and weights, or what stands beside them.

    ``state``: "in use"; "stale": made by other sources or weights; "earlier": made by 7fb36b6, moved when it is asked
    for; "by content": named by all that it depends on, or not of this cache (converted models).
    """

    name: str
    paths: tuple[Path, ...]
    size: int
    files: int
    newest: float
    state: State
    producers: tuple[str, ...] = ()

    @property
    def age_s(self) -> float:
        """Seconds since its newest file was written."""
        return max(0.0, time.time() - self.newest)


def parts() -> list[Part]:
    """Everything in ``cache_dir``, by name, the newest first."""
    found: list[Part] = []
    for top in sorted(cache_dir().iterdir()):
        versions: list[Path] = []
        if top.is_dir() and not (top / _ABOUT).is_file():
            versions = [p.parent for p in top.glob(f"*/{_ABOUT}")]
        found += [_part(top.name, [folder], *_state_of(folder)) for folder in versions]
        rest = [p for p in top.iterdir() if p not in versions] if versions else [top]
        if rest:
            found.append(_part(top.name, rest, _state_of_rest(top, bool(versions)), ()))
    return sorted(found, key=lambda part: (part.name, -part.newest))


def remove(*names: str, stale: bool = False) -> list[Part]:
    """Remove caches, all of them without ``names``; ``stale``: only parts that are stale. Returns what was removed.

    Raises NotFound for a name that is not there.
    """
    there = parts()
    for name in names:
        _check_name(name, there)
    chosen = [
        p for p in there if (not names or p.name in names) and (not stale or p.state == "stale")
    ]
    for part in chosen:
        for path in part.paths:
            _remove(path)
        with suppress(OSError):  # others' entries are there
            (cache_dir() / part.name).rmdir()
    return chosen


def keep(name: str) -> int:
    """Count the stale entries of a cache as made by today's sources; returns how many.

    For a change of which a person knows that it alters no result, such as another way to the same numbers. Entries of
    today stay; of several stale ones the newest counts. Raises NotFound.
    """
    there = parts()
    _check_name(name, there)
    moved = 0
    for part in (p for p in there if p.name == name and p.state == "stale" and p.producers):
        (folder,) = part.paths
        about = json.loads((folder / _ABOUT).read_text())
        today = Cache(name, *about["producers"], weights=about["weights"]).folder
        for path in sorted(folder.rglob("*"), reverse=True):
            target = today / path.relative_to(folder)
            if path.is_file() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
                moved += 1
        _remove(folder)
    return moved


def _check_name(name: str, there: Sequence[Part]) -> None:
    known = sorted({part.name for part in there})
    if name not in known:
        raise NotFound(f"there is no cache {name!r}, there are: {', '.join(known)}", field="name")


def _state_of(folder: Path) -> tuple[State, tuple[str, ...]]:
    about = json.loads((folder / _ABOUT).read_text())
    producers = tuple(about.get("producers", ()))
    try:
        today = about["format"] == FORMATS[CACHE] and folder.name == _version(
            producers, about["weights"]
        )
    except (KeyError, NotFound):  # another format; a producer that was moved
        today = False
    return "in use" if today else "stale", producers


def _state_of_rest(top: Path, has_versions: bool) -> State:
    if top.name in CARRIED:
        return "by content" if (top / _ABOUT).is_file() else "earlier"
    return "stale" if has_versions or top.name in MEASURED_BEFORE else "by content"


def _part(name: str, paths: Sequence[Path], state: State, producers: tuple[str, ...]) -> Part:
    files = [
        path
        for place in paths
        for path in ([place] if place.is_file() else place.rglob("*"))
        if path.is_file()
    ]
    stats = [path.stat() for path in files]
    return Part(
        name,
        tuple(paths),
        sum(s.st_size for s in stats),
        len(stats),
        max((s.st_mtime for s in stats), default=time.time()),
        state,
        producers,
    )
