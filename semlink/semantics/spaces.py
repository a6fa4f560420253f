"""Spaces: a pair of heads and all that is trained in their shared space (codec, codebooks, student).

A space is named by its task (for the task's embedded corpus; shipped in a weights folder) or by an added corpus that
has heads of its own (kept in the data folder). Both ends of a link read it from the corpus that a
query names, so it costs no signalling. Our definition.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, get_args

from semlink.corpora.registry import added_corpora, corpus_folder, embedded_corpora, task_of_corpus
from semlink.errors import NotFound
from semlink.settings import current_settings
from semlink.tasks import task_names, task_spec

Kind = Literal["heads", "codec", "vq", "student"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


def space_of(corpus: str) -> str:
    """The space in which a corpus is searched: its own where it has heads, else its task's.

    Raises NotFound for an unknown corpus.
    """
    task = task_of_corpus(corpus)
    if corpus not in embedded_corpora() and (corpus_folder(corpus) / "heads.safetensors").is_file():
        return corpus
    return task


def task_of(space: str) -> str:
    """The task of a space. Raises InvalidField for an unknown one."""
    if space not in task_names() and (record := added_corpora().get(space)) is not None:
        return record.task
    return task_spec(space).name


def training_corpus(space: str) -> str:
    """The corpus that a space is trained on. Raises InvalidField for an unknown space."""
    return task_spec(space).corpus if task_of(space) == space else space


def weights_folder(space: str) -> Path:
    """Folder of a space's files. Raises InvalidField for an unknown space."""
    if task_of(space) == space:
        return task_spec(space).weights_dir or current_settings().weights_dir
    return corpus_folder(space)


def weights_file(space: str, kind: Kind) -> Path:
    """Where a space's file of that kind lies or will lie. Raises InvalidField for an unknown space."""
    name = f"{kind}-{space}" if task_of(space) == space else kind
    return weights_folder(space) / f"{name}.safetensors"


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
    return f"semlink train {kind} --{'task' if space in task_names() else 'corpus'} {space}"
