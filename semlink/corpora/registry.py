"""The corpora by name: the embedded ones, and those that a user added with ``semlink corpora add``."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from semlink.errors import InvalidField, NotFound
from semlink.formats import CORPUS, FORMATS, check_format
from semlink.settings import current_settings
from semlink.tasks import task_names, task_spec, task_specs

if TYPE_CHECKING:
    from semlink.corpora.corpus import Corpus, Split

RECORD: Final = "corpus.json"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


@dataclass(frozen=True, slots=True)
class ReaderEntry:
    """A reader of a published layout: ``cls(root)`` of ``module`` gives a :class:`~semlink.corpora.corpus.Corpus`."""

    task: str
    module: str
    cls: str

    def open(self, root: Path) -> Corpus:
        """Read what lies under ``root``. Raises NotFound or InvalidField, naming the file and the line."""
        reader: Callable[[Path], Corpus] = getattr(
            importlib.import_module(f"semlink.corpora.{self.module}"), self.cls
        )
        return reader(root)


READERS: Final[Mapping[str, ReaderEntry]] = {
    "cuhk-pedes": ReaderEntry("person", "person_search", "CuhkPedes"),
    "icfg-pedes": ReaderEntry("person", "person_search", "IcfgPedes"),
    "rstpreid": ReaderEntry("person", "person_search", "RstpReid"),
    "flickr8k": ReaderEntry("image", "flickr8k", "Flickr8k"),
    "flickr30k": ReaderEntry("image", "flickr30k", "Flickr30k"),
    "mscoco": ReaderEntry("image", "mscoco", "MsCoco"),
    "photochat": ReaderEntry("image", "photochat", "PhotoChat"),
    "tuxpaint": ReaderEntry("image", "tuxpaint", "TuxPaint"),
    "clotho": ReaderEntry("audio", "clotho", "Clotho"),
    "audiocaps": ReaderEntry("audio", "audiocaps", "AudioCaps"),
    "esc50": ReaderEntry("audio", "esc50", "Esc50"),
    "tuxpaint-sounds": ReaderEntry("audio", "tuxpaint", "TuxPaintSounds"),
}
"""Published layouts that can be read (evaluation.md, "Data layouts"), by the name that users give."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What is kept of an added corpus; its files lie in :func:`corpus_folder`.

    ``split``: whose items the gallery holds.
    """

    name: str
    reader: str
    root: str
    task: str
    split: Split


def corpus_folder(name: str) -> Path:
    """Where everything that belongs to an added corpus lies: record, heads, codec, gallery."""
    return current_settings().data_dir / "corpora" / name


def register_corpus(name: str, reader: str, root: Path, split: Split) -> Registration:
    """Make an added corpus known to every process that shares the data folder; the record appears whole or not at all.

    Registering a name again with the same reader and root changes its split. Raises InvalidField for a name that is
    taken or not made of ``a-z 0-9 -``, or for an unknown reader.
    """
    if not _NAME.fullmatch(name):
        raise InvalidField(
            f"name is {name!r}, allowed: up to 64 of a-z, 0-9 and -, not starting with -",
            field="name",
        )
    if name in embedded_corpora() or name in task_names():
        raise InvalidField(f"name {name!r} is taken by a task or its corpus", field="name")
    if reader not in READERS:
        raise InvalidField(f"reader is {reader!r}, allowed: {', '.join(READERS)}", field="reader")
    record = Registration(name, reader, str(root.resolve()), READERS[reader].task, split)
    before = added_corpora().get(name)
    if before is not None and (before.reader, before.root) != (record.reader, record.root):
        raise InvalidField(
            f"name {name!r} is taken by {before.reader} at {before.root}: "
            f"remove it first (`semlink corpora remove {name}`) or choose another",
            field="name",
        )
    folder = corpus_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{RECORD}.part"
    content = {"format": FORMATS[CORPUS], **asdict(record)}
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(folder / RECORD)
    return record


def unregister_corpus(name: str) -> None:
    """Forget an added corpus with its heads, codec and gallery; its source files stay. Raises NotFound."""
    # by its file: one of another format can be removed as well
    if not _NAME.fullmatch(name) or not (corpus_folder(name) / RECORD).is_file():
        raise NotFound(f"corpus {name!r} was not added", field="corpus")
    # The record goes first: a half-removed corpus is an unknown one, not a broken one.
    (corpus_folder(name) / RECORD).unlink()
    shutil.rmtree(corpus_folder(name))


def added_corpora() -> dict[str, Registration]:
    """Every added corpus by name, as the data folder has it now."""
    folder = current_settings().data_dir / "corpora"
    try:
        found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except FileNotFoundError:
        return {}
    records = {}
    for name in found:
        path = folder / name / RECORD
        try:
            records[name] = _record(path, path.stat().st_mtime_ns)
        except FileNotFoundError:
            continue
    return records


@lru_cache(maxsize=256)
def _record(path: Path, mtime_ns: int) -> Registration:  # noqa: ARG001 - the key of the cache
    content = json.loads(path.read_text())
    name = path.parent.name
    advice = f"add it again (`semlink corpora remove {name}`, `semlink corpora add {name} …`)"
    check_format(CORPUS, content.pop("format", None), f"added corpus {name!r}", advice)
    return Registration(**content)


def embedded_corpora() -> dict[str, str]:
    """The corpora that come with the tasks, always there: name to task."""
    return {spec.corpus: spec.name for spec in task_specs()}


def known_corpora() -> dict[str, str]:
    """Every corpus that can be asked, embedded ones first: name to task."""
    return embedded_corpora() | {name: record.task for name, record in added_corpora().items()}


def gallery_split(name: str) -> Split:
    """The split whose items a corpus's gallery holds."""
    record = added_corpora().get(name)
    return record.split if record else "test"


def default_corpus(task: str, *, field: str = "task") -> str:
    """The embedded corpus of a task. Raises InvalidField for an unknown task."""
    return task_spec(task, field=field).corpus


def corpus_named(name: str) -> Corpus:
    """The corpus of that name, made once a process. Raises NotFound, or InvalidField where its files are broken."""
    if name in (embedded := embedded_corpora()):
        return _made(task_spec(embedded[name]).load())
    record = added_corpora().get(name)
    if record is None:
        raise NotFound(
            f"corpus {name!r} is unknown, known: {', '.join(known_corpora())}", field="corpus"
        )
    return _added(record)


@lru_cache(maxsize=8)
def _made(make: Callable[[], Corpus]) -> Corpus:
    return make()


@lru_cache(maxsize=16)
def _added(record: Registration) -> Corpus:
    return READERS[record.reader].open(Path(record.root))


def check_corpus(name: str, task: str, *, field: str = "corpus") -> None:
    """Raise NotFound for an unknown corpus, InvalidField for one that does not serve the task."""
    own = task_of_corpus(name, field=field)
    if own != task:
        raise InvalidField(f"{field} {name!r} serves task {own!r}, not {task!r}", field=field)


def task_of_corpus(name: str, *, field: str = "corpus") -> str:
    """The task that a corpus serves. Raises NotFound naming ``field`` for an unknown one."""
    known = embedded_corpora()
    if name not in known:
        known = known_corpora()
    if name not in known:
        raise NotFound(f"{field} {name!r} is unknown, known: {', '.join(known)}", field=field)
    return known[name]


def generator_version(corpus: object) -> int:
    """``GENERATOR_VERSION`` of the module or package that defines a corpus's class."""
    module = type(corpus).__module__
    for name in (module, module.rpartition(".")[0]):
        version = getattr(importlib.import_module(name), "GENERATOR_VERSION", None)
        if version is not None:
            return int(version)
    raise TypeError(f"{module} has no GENERATOR_VERSION")
