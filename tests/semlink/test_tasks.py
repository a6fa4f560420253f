"""What differs between tasks and between modalities is read from their rows: nobody else asks which one it is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from semlink import tasks
from semlink.corpora.registry import corpus_named
from semlink.errors import InvalidField
from semlink.semantics.modalities import Modality, modality_of
from semlink.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("semlink", "transmitter", "channel_service", "receiver", "kb_service", "gateway", "lab")
NAMES = {*tasks.BUILT_IN, *tasks.modality_names()[1:]}
THEIR_OWN = ("semlink/tasks.py", "semlink/semantics/modalities/")
EXCEPTIONS = {
    "kb_service/caption_reading.py": "the word 'person' in a caption, not the task",
    "lab/evaluation/hallucination_labels.py": "reads the ground truth of our three generators",
}


def _literals(node: ast.AST) -> Iterator[str]:
    """Strings that a comparison, a pattern or the choice from a literal table asks for."""
    match node:
        case ast.Compare(left=left, comparators=others):
            parts: list[ast.expr] = [left, *others]
        case ast.MatchValue(value=value):
            parts = [value]
        case ast.Subscript(value=ast.Dict(keys=keys)):
            parts = [key for key in keys if key is not None]
        case _:
            return
    for part in parts:
        inside = part.elts if isinstance(part, ast.Tuple | ast.List | ast.Set) else [part]
        for one in inside:
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                yield one.value


def _asking(source: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if NAMES & set(_literals(node)) and hasattr(node, "lineno")
    ]


@pytest.mark.parametrize(
    "source",
    [
        'x = task == "audio"',
        'if "person" != info.task: pass',
        'x = modality in ("text", "image")',
        'match task:\n case "image" | "other":\n  pass',
        'x = {"person": 1, "image": 2}[task]',
    ],
)
def test_the_scan_sees_a_branch(source: str) -> None:
    assert _asking(source)


def test_nobody_else_asks_which_task_or_modality_it_is() -> None:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith((*THEIR_OWN, "semlink/v1/")) and (
                lines := _asking(path.read_text())
            ):
                found[name] = lines
    assert set(found) == set(EXCEPTIONS), found


@pytest.mark.parametrize("name", tasks.BUILT_IN)
def test_a_row_names_code_that_is_there(name: str) -> None:
    spec = tasks.task_spec(name)
    assert isinstance(modality_of(name), Modality)
    assert modality_of(name) is modality_of(name)
    assert spec.queries == ("text", tasks.modality_spec(spec.modality).name)
    info = corpus_named(spec.corpus).info
    assert (info.name, info.task) == (spec.corpus, name)
    assert (Settings().weights_dir / f"gallery-{spec.corpus}.safetensors").is_file()
    family = tasks.modality_spec(spec.modality).media_range.removesuffix("*")
    assert info.media_type.startswith(family)


def test_media_find_items_or_captions_and_texts_find_items() -> None:
    found = {
        t.name: (t.finds_captions("text"), t.finds_captions(t.modality)) for t in tasks.task_specs()
    }
    assert found == {"person": (False, False), "image": (False, False), "audio": (False, True)}


def test_unknown_names_are_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidField, match="allowed: person, image, audio") as caught:
        tasks.task_spec("smell", field="queries[0].task")
    assert caught.value.field == "queries[0].task"
    with pytest.raises(InvalidField, match="allowed: image, audio"):
        tasks.modality_spec("text")


def test_names_cost_no_torch() -> None:
    code = "import sys, semlink.tasks as t; t.task_specs(); print([m in sys.modules for m in ('torch', 'numpy')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[False, False]"
