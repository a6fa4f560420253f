"""Every command of README.md and docs/ works: quick ones are run here, those marked ``# long`` are parsed.

A shell block is fenced as ``sh``. A line with ``# long`` takes minutes, or needs data, Docker or a package that is not
here; its command and options must exist. All other lines are run, in the order of their page, against one live system.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from tests_live import Live

from lab.evaluation.cache import ROOT
from lab.experiments.registry import EXPERIMENTS
from semlink.cli.app import app
from semlink.cli.experiments import asked
from semlink.corpora.registry import corpus_named

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:\.venv/bin/)?semlink [a-z][^`]*|python -m (?:lab|tools)\.[^`]*)`")
LONG = re.compile(r"#\s*long\b")
FIXTURES = ("semlink up --detach", "semlink down")
"""What the ``live`` fixture does."""


@dataclass(frozen=True)
class Command:
    """A command of a page; ``words`` without its settings."""

    page: str
    text: str
    is_long: bool

    @property
    def settings(self) -> dict[str, str]:
        return dict(w.split("=", 1) for w in self._all if self._is_setting(w))

    @property
    def words(self) -> list[str]:
        rest = list(self._all)
        while rest and self._is_setting(rest[0]):
            rest.pop(0)
        return [rest[0].removeprefix(".venv/bin/"), *rest[1:]]

    @property
    def _all(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    @staticmethod
    def _is_setting(word: str) -> bool:
        return re.match(r"[A-Z_]+=", word) is not None

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)[:80]}"


def name_of(page: Path) -> str:
    """As a reader of the repository says it."""
    return page.relative_to(ROOT).as_posix()


def commands_of(page: Path) -> Iterator[Command]:
    """Of every ``sh`` block: a line each, longer where quotes go on; ``;`` parts commands."""
    for language, block in FENCE.findall(page.read_text()):
        if language != "sh":
            continue
        whole = ""
        for line in block.splitlines():
            whole += line + "\n"
            try:
                words = shlex.shlex(whole, posix=True, punctuation_chars=";")
                words.whitespace_split = True
                found = list(words)
            except ValueError:  # a quotation that goes on
                continue
            is_long, whole = LONG.search(whole) is not None, ""
            part: list[str] = []
            for word in [*found, ";"]:
                if word != ";":
                    part.append(word)
                elif part:
                    yield Command(name_of(page), _joined(part), is_long)
                    part = []
        assert not whole, f"{name_of(page)}: an open quotation: {whole}"


def _joined(words: list[str]) -> str:
    """Settings before the command are not quoted."""
    return " ".join(w if Command._is_setting(w) else shlex.quote(w) for w in words)


COMMANDS = [command for page in PAGES for command in commands_of(page)]
RUN = list(dict.fromkeys(c.page for c in COMMANDS if not c.is_long))


def test_every_block_names_its_language() -> None:
    for page in PAGES:
        languages = {language for language, _ in FENCE.findall(page.read_text())}
        assert languages <= {"sh", "text", "yaml", "json", "python"}, (
            f"{name_of(page)}: a shell block is fenced as sh, so that its commands are tested"
        )
    assert len(COMMANDS) > 30
    assert any(c.is_long for c in COMMANDS)


def leaf(words: list[str]) -> tuple[Any, list[str]]:
    """The command of the command line that words name, and the rest of them."""
    found: Any = typer.main.get_command(app)
    rest = list(words)
    while rest and rest[0] in getattr(found, "commands", {}):
        found = found.commands[rest.pop(0)]
    return found, rest


def check_exists(words: list[str]) -> None:
    """The command is there and has every option that is named."""
    if words[0] == "python":
        assert importlib.util.find_spec(words[2]) is not None, f"there is no {words[2]}"
        return
    found, rest = leaf(words[1:])
    named = [w.split("=")[0] for w in rest if re.match(r"--?[a-z]", w)]
    own = {name for p in found.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    unknown = [name for name in named if name not in own]
    if words[1] == "experiment" and found.name in EXPERIMENTS:
        # An added corpus needs its files.
        at = rest.index("--corpus") if "--corpus" in rest else len(rest)
        asked(found.name, [word for word in rest[:at] if word != "--help"])
        return
    assert unknown == [], f"semlink {found.name} has no {unknown}"
    if rest and not hasattr(found, "commands"):
        return
    assert not rest or rest[0].startswith("-"), f"semlink has no command {rest[0]}"


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_and_its_options_exist(command: Command) -> None:
    words = command.words
    if words[0] == "semlink":
        check_exists(words)
        found, rest = leaf(words[1:])
        with found.make_context(found.name, [*rest]):
            pass
    elif words[0] == "make":
        done = subprocess.run(
            ["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
    elif words[0] != "curl":
        assert command.is_long, f"{command} is neither run here nor marked: # long"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_text_exist(page: Path) -> None:
    prose = FENCE.sub("", page.read_text())
    for text in INLINE.findall(prose):
        words = re.sub(r"[…]|\.\.\.", "", text).replace(".venv/bin/", "").split()
        try:
            check_exists(words)
        except AssertionError as error:
            raise AssertionError(f"{name_of(page)}: `{text}`: {error}") from error


@pytest.fixture
def folder(tmp_path: Path, live: Live) -> Path:
    """Where commands are run, with the files that they name."""
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        shutil.copyfile(ROOT / "docs/reports/fig6.json", tmp_path / name / "fig6.json")
    sounds: Any = corpus_named("soundscapes")
    (tmp_path / "rain.wav").write_bytes(sounds.media(sounds.items("test")[0].item_id).data)
    return tmp_path


def environment(live: Live) -> dict[str, str]:
    """So that the command line finds the live system."""
    values = live.settings.model_dump()
    named = {k: v for k, v in values.items() if k.endswith("_port") or k == "state_dir"}
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    ours = {f"SEMLINK_{k.upper()}": str(v) for k, v in named.items()}
    ours["SEMLINK_URL"] = live.url
    return {**os.environ, **ours, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", RUN)
def test_commands_run(page: str, folder: Path, live: Live) -> None:
    for command in COMMANDS:
        if command.page != page or command.is_long or command.words[0] == "make":
            continue
        words = command.words
        if shlex.join(words) in FIXTURES:
            continue
        if words[0] == "semlink":
            program = [sys.executable, "-m", "semlink.cli"]
            words = [
                *program,
                *(_key(program, folder, live) if w == "KEY" else w for w in words[1:]),
            ]
        elif words[0] == "curl":
            words = [w.replace("localhost:8000", live.url.removeprefix("http://")) for w in words]
            words.insert(1, "--fail")
        done = subprocess.run(
            words,
            cwd=folder,
            env=environment(live) | command.settings,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout.decode()}\n{done.stderr.decode()}"


def _key(program: list[str], folder: Path, live: Live) -> str:
    """A key of what the knowledge base holds."""
    path = folder / "keys.jsonl"
    subprocess.run(
        [*program, "kb", "export", str(path)],
        check=True,
        env=environment(live),
        capture_output=True,
    )
    match = re.search(r'"key": ?"([^"]+)"', path.read_text())
    assert match is not None
    return match[1]
