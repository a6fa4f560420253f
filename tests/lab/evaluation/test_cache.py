"""The cache: what makes an entry stale and what does not, what is taken over, what an interruption costs."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.evaluation import cache
from lab.evaluation.cache import (
    PACKAGES,
    PRESENTING,
    Cache,
    append_line,
    imported_modules,
    parts,
    source_hash,
    weights_hash,
    whole_lines,
    write_whole,
)
from semlink.cli.app import app
from semlink.errors import NotFound, Unavailable


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project: ``lab.a`` imports ``lab.b`` in a function, that ``semlink.c`` relatively named siblings."""
    root = tmp_path / "program"
    for name, text in {
        "lab/__init__.py": "",
        "lab/a.py": '"""Doc."""\nN = 1\n"""Of N."""\n\ndef f():\n    "Doc."\n    from .b import g\n    return g(N)\n',
        "lab/b.py": "import numpy\nfrom semlink import c\n\ndef g(x):\n    return c.h(x)\n",
        "lab/other.py": "X = 1\n",
        "semlink/__init__.py": "",
        "semlink/c/__init__.py": "from importlib import import_module\n\ndef h(x):\n    return import_module(x)\n",
        "semlink/c/d.py": "Y = 1\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    hashed = source_hash.__wrapped__
    monkeypatch.setattr(cache, "source_hash", lambda *names: hashed(*names, root=root))
    return root


def rewrite(path: Path, text: str) -> None:
    path.write_text(text)
    later = time.time_ns() + 10**9
    os.utime(path, ns=(later, later))


@pytest.mark.parametrize(
    ("file", "before", "after", "stale"),
    [
        ("lab/a.py", "N = 1", "N = 2", True),
        ("lab/a.py", "N = 1", "N  =  1  # one", False),
        ("lab/a.py", '"""Of N."""', '"""Of another N."""', False),
        ("lab/a.py", '"Doc."', '"Other doc."', False),
        ("lab/b.py", "c.h(x)", "c.h(-x)", True),
        ("lab/other.py", "X = 1", "X = 2", False),
        ("lab/__init__.py", "", "import sys\n", True),
        # imported by a name that only shows when it runs
        ("semlink/c/d.py", "Y = 1", "Y = 2", True),
    ],
)
def test_only_a_statement_of_an_imported_module_makes_stale(
    program: Path, folder: Path, file: str, before: str, after: str, stale: bool
) -> None:
    made = Cache("points", "lab.a")
    made.entry("x.txt", lambda path: path.write_text("1"))
    path = program / file
    rewrite(path, path.read_text().replace(before, after) if before else after)
    assert made.path("x.txt").is_file() is not stale
    states = {part.state for part in parts() if part.files > 1}
    assert states == ({"stale"} if stale else {"in use"})


def test_the_imports_of_a_real_producer_are_found() -> None:
    """Against what Python itself loads, in a process of its own."""
    import subprocess
    import sys

    code = (
        "import sys, lab.training.csi_history_dataset; "
        f"print(*[m for m in sys.modules if m.partition('.')[0] in {PACKAGES!r}])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.split()) - PRESENTING
    assert len(loaded) > 20
    # modules that only those of PRESENTING import are not part of it
    missed = loaded - set(imported_modules("lab.training.csi_history_dataset"))
    assert missed <= {"lab.evaluation", "semlink.formats"}
    with pytest.raises(NotFound, match=r"no module 'lab\.nothing'"):
        source_hash("lab.nothing")
    for name in PRESENTING:
        assert cache._file_of(name, cache.ROOT), f"{name} is no module any more"


def test_weights_count_where_they_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "rvq-a.safetensors").write_bytes(b"1")
    (weights / "heads-a.safetensors").write_bytes(b"1")
    monkeypatch.setenv("SEMLINK_WEIGHTS_DIR", str(weights))
    rvq, every = weights_hash("rvq"), weights_hash()
    points = Cache("points", "semlink.tasks", weights=["rvq"])
    points.entry("x", lambda path: path.write_text("1"))
    (weights / "heads-a.safetensors").write_bytes(b"22")
    assert weights_hash("rvq") == rvq
    assert weights_hash() != every
    assert points.path("x").exists()
    (weights / "rvq-a.safetensors").write_bytes(b"22")
    assert not points.path("x").exists()


def test_entries_of_7fb36b6_are_moved_with_what_stands_beside_them(folder: Path) -> None:
    old = folder / "gpa"
    old.mkdir(parents=True)
    (old / "m-1.safetensors").write_text("model")
    (old / "m-1.json").write_text("sidecar")
    (old / "m-10.safetensors").write_text("another")
    (old / "heads").mkdir()
    (old / "heads" / "a").write_text("folder")
    gpa = Cache("gpa", "semlink.tasks")
    assert {part.state for part in parts()} == {"earlier"}
    path = gpa.entry("m-1.safetensors", lambda _: pytest.fail("made again"))
    assert path.read_text() == "model"
    assert path.with_suffix(".json").read_text() == "sidecar"
    assert (gpa.path("heads") / "a").read_text() == "folder"
    assert sorted(p.name for p in old.iterdir() if p.is_file()) == ["m-10.safetensors"]


def test_lines_come_back_in_order_and_a_cut_one_swallows_no_other(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "kept.jsonl"
    assert list(whole_lines(path)) == []
    values = [{"a": 1}, ["é", 2.5], "line\nbreak"]
    for value in values:
        append_line(path, value)
    assert list(whole_lines(path)) == values
    path.write_text(path.read_text()[:-4])
    assert list(whole_lines(path)) == values[:2]
    append_line(path, "next")
    assert list(whole_lines(path)) == [*values[:2], "next"]


def _write(folder: str, number: int) -> None:
    os.environ["SEMLINK_CACHE_DIR"] = folder
    points = Cache("points", "semlink.tasks")
    table = points.table("t")
    for i in range(50):
        table.put("x" * 5_000, [number, i])
        points.entry("same.txt", lambda path: path.write_text("y" * 100_000), fresh=True)
        assert len(points.path("same.txt").read_text()) == 100_000


def test_processes_share_a_cache(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(str(folder), n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    points = Cache("points", "semlink.tasks")
    table = points.table("t")
    assert all([n, i] in table for n in range(3) for i in range(50))
    assert sorted(p.name for p in points.folder.iterdir()) == ["about.json", "same.txt", "t.jsonl"]


def test_what_fails_or_stops_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, lambda part: part.mkdir() or (part / "x").write_text("1"))

    def stopped(part: Path) -> None:
        part.mkdir()
        (part / "x").write_text("2")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, stopped)
    assert (path / "x").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_another_format_is_refused_with_the_command_that_helps(folder: Path) -> None:
    points = Cache("points", "semlink.tasks")
    about = points.folder / "about.json"
    about.write_text(json.dumps({"format": 99}))
    with pytest.raises(Unavailable, match=r"format 99.*semlink cache rm points"):
        points.path("x")
    assert CliRunner().invoke(app, ["cache", "rm", "points"]).exit_code == 0
    assert not points.path("x").exists()


def test_the_command_lists_removes_and_keeps(
    program: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*arguments: str) -> str:
        monkeypatch.setenv("COLUMNS", "200")
        ran = CliRunner().invoke(app, ["cache", *arguments], catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        return ran.output

    made, other = Cache("points", "lab.a"), Cache("others", "lab.other")
    for one in (made, other):
        one.entry("x", lambda path: path.write_bytes(bytes(3 << 20)))
    (folder / "smollm2").mkdir()
    (folder / "smollm2" / "model.bin").write_text("a converted model")
    rewrite(program / "lab" / "b.py", "def g(x):\n    return x\n")
    lines = {line.split()[1]: line for line in call("ls").splitlines() if "│" in line}
    assert "3.0 MiB" in lines["points"]
    assert "stale" in lines["points"]
    assert "lab.a" in lines["points"]
    assert "in use" in lines["others"]
    assert "by content" in lines["smollm2"]
    assert not made.path("x").exists()
    assert "kept 1 files" in call("keep", "points")
    assert made.path("x").exists()
    assert "removed: nothing" in call("rm", "--stale")
    rewrite(program / "lab" / "b.py", "def g(x):\n    return -x\n")
    assert "removed: points" in call("rm", "--stale")
    assert sorted(p.name for p in folder.iterdir()) == ["others", "smollm2"]
    with pytest.raises(NotFound, match="there are: others, smollm2"):
        call("rm", "pionts")
    assert "removed: others" in call("rm", "others")
    assert CliRunner().invoke(app, ["cache", "rm"]).exit_code != 0
    call("rm", "--all")
    assert not list(folder.iterdir())
