"""The order in which scripts/install-torch.sh looks for torch, and the Pythons that scripts/install.sh refuses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = (ROOT / "semlink" / "requirements" / "constraints.txt").read_text()
(VERSION,) = re.findall(r"^torch==(.+)$", CONSTRAINTS, re.MULTILINE)

UV = """#!/bin/sh
echo "uv $UV_TORCH_BACKEND $*" >> "$LOG"
case "$FAILING" in *uv*) exit 1;; esac
"""
PYTHON = """#!/bin/sh
# of "python -m pip install …": logs it; where a CPU build is asked for, fails if told so; brings the uv above
echo "pip $*" >> "$LOG"
previous=
for word; do
  [ "$previous" = --target ] && mkdir -p "$word/bin" && cp "$UV" "$word/bin/uv"
  previous=$word
done
case "$FAILING $*" in pip*+cpu) exit 1;; esac
"""
PIP_CPU, PIP_PLAIN, PIP_CUDA = (
    r"pip .* torch==V\+cpu",
    "pip .* torch==V",
    r"pip .* torch==V,!=V\+cpu",
)
PIP_UV, UV_CPU = "pip .* uv", "uv cpu pip install .* torch==V"


@pytest.mark.parametrize(
    ("choice", "failing", "calls"),
    [
        ("", "", [PIP_CPU]),
        ("cpu", "pip", [PIP_CPU, PIP_UV, UV_CPU]),
        ("cpu", "pip uv", [PIP_CPU, PIP_UV, UV_CPU, PIP_PLAIN]),
        ("cuda", "", [PIP_CUDA]),
    ],
)
def test_where_torch_comes_from(
    tmp_path: Path, choice: str, failing: str, calls: list[str]
) -> None:
    for name, script in {"python": PYTHON, "uv": UV}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    log, temporary = tmp_path / "log", tmp_path / "temporary"
    temporary.mkdir()
    variables = {
        "LOG": str(log),
        "UV": str(tmp_path / "uv"),
        "FAILING": failing,
        "TORCH": choice,
        "TORCH_INDEX_URL": "file:///further",
        "TMPDIR": str(temporary),
    }
    done = subprocess.run(
        ["sh", ROOT / "scripts" / "install-torch.sh", tmp_path / "python"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = log.read_text().splitlines()
    assert len(made) == len(calls), made
    for call, pattern in zip(made, calls, strict=True):
        assert re.fullmatch(pattern.replace("V", re.escape(VERSION)), call), call
        if pattern != PIP_UV:
            assert "constraints.txt" in call
            assert call.startswith("uv") or "--extra-index-url file:///further" in call
    assert ("WARNING" in done.stderr) == (PIP_PLAIN in calls)
    assert list(temporary.iterdir()) == []


def test_another_word_for_torch_is_refused() -> None:
    done = subprocess.run(
        ["sh", ROOT / "scripts" / "install-torch.sh", "false"],
        env=os.environ | {"TORCH": "gpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "TORCH is 'gpu', allowed: cpu, cuda" in done.stderr


@pytest.mark.parametrize(
    ("version", "refused"),
    [((3, 10), True), ((3, 11), False), ((3, 12), False), ((3, 13), False), ((3, 14), True)],
)
def test_pythons_that_are_refused(tmp_path: Path, version: tuple[int, int], refused: bool) -> None:
    python = tmp_path / "python"
    # runs the script's own check as if it were that version, and fails at the next step, `-m venv`
    python.write_text(
        "#!/bin/sh\n"
        "case $1 in --version) echo Python of the test; exit;; -m) exit 7;; esac\n"
        f'exec {sys.executable} -c "import sys; sys.version_info = (*{version}, 0); ${{2#import sys; }}"\n'
    )
    python.chmod(0o755)
    tools = tmp_path / "tools"  # no apt-get: nothing is installed on this machine
    tools.mkdir()
    for name in ("sh", "dirname", "id"):
        (tools / name).symlink_to(shutil.which(name) or "")
    done = subprocess.run(
        [tools / "sh", ROOT / "scripts" / "install.sh", tmp_path / "venv"],
        env={"PATH": str(tools), "PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    expected = "needs Python 3.11, 3.12 or 3.13" if refused else "cannot make a virtual environment"
    assert expected in done.stderr
