"""Spaces: a pair of heads and all that is trained in their shared space (codec, codebooks, student).

A space is named by its task ("person", "image", "audio": shipped in the weights folder, for the embedded corpora) or by
an added corpus that has heads of its own (kept in the data folder). Both ends of a link read it from the corpus that a
query names, so it costs no signalling. Our definition.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, get_args

from semlink.corpora.registry import EMBEDDED, added_corpora, corpus_folder, task_of_corpus
from semlink.errors import InvalidField, NotFound
from semlink.settings import current_settings
from semlink.tasks import TASKS, Task

Kind = Literal["heads", "codec", "vq", "student"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


def space_of(corpus: str) -> str:
    """The space in which a corpus is searched: its own where it has heads, else its task's.

    Raises NotFound for an unknown corpus.
    """
    if corpus in EMBEDDED:
        return EMBEDDED[corpus]
    task = task_of_corpus(corpus)
    return corpus if (corpus_folder(corpus) / "heads.safetensors").is_file() else task


def task_of(space: str) -> Task:
    """The task of a space. Raises InvalidField for an unknown one."""
    for task in TASKS:
        if space == task:
            return task
    record = added_corpora().get(space)
    if record is None:
        raise InvalidField(f"task is {space!r}, allowed: {', '.join(TASKS)}", field="task")
    return record.task


def weights_folder(space: str) -> Path:
    """Folder of a space's files. Raises InvalidField for an unknown space."""
    task_of(space)
    return current_settings().weights_dir if space in TASKS else corpus_folder(space)


def weights_file(space: str, kind: Kind) -> Path:
    """Where a space's file of that kind lies or will lie. Raises InvalidField for an unknown space."""
    folder = weights_folder(space)
    return folder / (f"{kind}-{space}.safetensors" if space in TASKS else f"{kind}.safetensors")


def weights_of(space: str, kind: Kind) -> Path:
    """An existing file of a space. Raises NotFound, with the command that makes it, when it is missing."""
    path = weights_file(space, kind)
    if not path.is_file():
        raise NotFound(
            f"{path} is missing: run `{train_command(space, kind)}`", field="weights_dir"
        )
    return path


def train_command(space: str, kind: Kind) -> str:
    """The command that makes a space's file of that kind."""
    whose = f"--task {space}" if space in TASKS else f"--corpus {space}"
    return f"semlink train {kind} {whose}"
