"""Trained weights as files of one folder: found by name, read once, told apart by content.

A :class:`Weights` is made where a process begins, from its settings (``Settings().weights``), and handed to all that
needs trained weights. Without a folder it is what the package ships.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

from semlink.errors import CorruptModel, NotFound

SHIPPED_FOLDER: Final = Path(__file__).resolve().parent / "weights"
"""Trained heads and codebooks; package data, in a checkout and in a wheel alike."""
MAX_LOADED: Final = 64
"""Files whose content stays in memory; the least recently used go first."""
T = TypeVar("T")

_lock = threading.Lock()
_reading: dict[Path, threading.RLock] = {}
_loaded: OrderedDict[tuple[Hashable, ...], Any] = OrderedDict()


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights in ``folder``. Two of the same folder are equal, and share what they have read."""

    folder: Path = SHIPPED_FOLDER

    def __contains__(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def file(self, name: str, *, made_by: str) -> Path:
        """Return the path of an existing file.

        :param name: with its ending, as "rvq-16x2.safetensors".
        :param made_by: the command that makes it.
        :raises NotFound: where it is missing, with the command.
        """
        path = self.folder / name
        if not path.is_file():
            raise NotFound(f"{path} is missing: run `{made_by}`", field="weights_dir")
        return path

    def variants(self, prefix: str) -> tuple[str, ...]:
        """List what follows ``prefix`` in the names of the files that begin with it, as "16x1" of "rvq-16x1"."""
        found = (
            path.stem.removeprefix(prefix) for path in self.folder.glob(f"{prefix}*.safetensors")
        )
        return tuple(sorted(found))

    def load(self, name: str, read: Callable[..., T], *args: Hashable, made_by: str) -> T:
        """Return ``read(path, *args)`` of a file: read when first asked for, and again when the file is another.

        Threads share what is returned: nobody may change it.

        :raises NotFound: where the file is missing, with the command that makes it.
        :raises CorruptModel: where its bytes are not what ``read`` expects.
        """
        path = self.file(name, made_by=made_by)
        status = path.stat()
        key = (path, status.st_mtime_ns, status.st_size, read, *args)
        with _lock:
            reading = _reading.setdefault(path, threading.RLock())
        with reading:
            found: T = _loaded[key] if key in _loaded else _read(path, read, args, made_by)
            with _lock:
                _loaded[key] = found
                _loaded.move_to_end(key)
                while len(_loaded) > MAX_LOADED:
                    _loaded.popitem(last=False)
        return found

    def digest(self, name: str, *, size: int = 12, made_by: str) -> str:
        """Return the hexadecimal BLAKE2b hash of a file's bytes, of ``size`` bytes. Raises NotFound."""
        path = self.file(name, made_by=made_by)
        status = path.stat()
        return _digest(path, size, status.st_mtime_ns, status.st_size)


SHIPPED: Final = Weights()
"""What the package ships."""


def _read(path: Path, read: Callable[..., T], args: tuple[Hashable, ...], made_by: str) -> T:
    from safetensors import SafetensorError

    try:
        return read(path, *args)
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
        raise CorruptModel(
            f"{path} is damaged ({type(error).__name__}: {error}): run `{made_by}`",
            field="weights_dir",
        ) from error


@lru_cache(maxsize=128)
def _digest(path: Path, size: int, *_: int) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=size).hexdigest()
