"""Check that the pinned versions exist as wheels for every Python and processor that semlink names.

``make resolve``, or with any Python that has pip: ``python scripts/resolve.py``. Needs a network. Nothing is installed;
of the dependencies only the metadata is fetched. What it cannot show is that the packages run there.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "semlink" / "requirements" / "constraints.txt"
MODELS = ROOT / "semlink" / "requirements" / "models.txt"
PYTHONS = ("3.11", "3.12", "3.13")
PROCESSORS = ("x86_64", "aarch64")
GLIBC = ("2_28", "2_17")
"""Of manylinux tags: Debian 10 and younger."""
OF_CUDA = re.compile(r"nvidia-.*|cuda-.*|triton")
"""What torch for Linux asks for in exact versions; the CPU build does not."""
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")


def main() -> int:
    """Print a line for each target; the exit status is 1 if one failed."""
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*PIP, "--target", folder, "uv"], check=True)
        for python in PYTHONS:
            for processor in PROCESSORS:
                try:
                    found = dependencies(Path(folder) / "bin" / "uv", python, processor)
                    models = model_packages(python, processor)
                except (subprocess.CalledProcessError, ValueError) as error:
                    failed = True
                    text = getattr(error, "stderr", None) or str(error)
                    print(f"FAILED  Python {python}, {processor}: {text.strip()}", flush=True)
                    continue
                print(
                    f"ok      Python {python}, {processor}: {len(found)} packages, {models} of models",
                    flush=True,
                )
    return int(failed)


def dependencies(uv: Path, python: str, processor: str) -> set[str]:
    """Names of all packages, extras included; markers are read as on the target.

    Raises CalledProcessError where a wheel is missing, ValueError for a package that no constraint pins.
    """
    resolved = subprocess.run(
        [
            *(uv, "pip", "compile", ROOT / "pyproject.toml", "--all-extras", "--quiet"),
            *("-c", CONSTRAINTS, "--only-binary", ":all:", "--no-header", "--no-annotate"),
            *("--python-version", python, "--python-platform", f"{processor}-manylinux_2_28"),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    found = names(resolved.stdout)
    loose = {n for n in found - names(CONSTRAINTS.read_text()) if not OF_CUDA.fullmatch(n)}
    if loose:
        raise ValueError(f"not pinned in {CONSTRAINTS.name}: {', '.join(sorted(loose))}")
    return found


def names(requirements: str) -> set[str]:
    """Normalised names of packages in a list of ``name==version``."""
    found = re.findall(r"^([\w.-]+)==", requirements, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in found}


def model_packages(python: str, processor: str) -> int:
    """How many packages of the list of models there are; the wheel for the target must have a hash of the list.

    Raises CalledProcessError where a wheel is missing, ValueError for another hash.
    """
    tags = (f"--platform=manylinux_{glibc}_{processor}" for glibc in GLIBC)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        # without hashes: with them pip fetches 265 MB to check them, when the index has told them
        plain = Path(folder) / "plain.txt"
        plain.write_text(re.sub(r" \\\n +--hash=\S+", "", MODELS.read_text()))
        subprocess.run(
            [
                *(*PIP, "--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:"),
                *(f"--python-version={python}", *tags, f"--target={folder}/target"),
                *("--report", str(report), "-r", str(plain)),
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        installs = json.loads(report.read_text())["install"]
    pinned = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", MODELS.read_text()))
    for package in installs:
        archive = package["download_info"]["archive_info"]
        if archive.get("hashes", {}).get("sha256") not in pinned:
            raise ValueError(
                f"{package['download_info']['url']} has a hash that is not in {MODELS.name}"
            )
    return len(installs)


if __name__ == "__main__":
    sys.exit(main())
