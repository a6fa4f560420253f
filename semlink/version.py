"""What runs: the version from the installed package's metadata, and the commit where one is known."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
"""The folder that holds this package: the repository's root in a checkout, site-packages otherwise."""


@cache
def version() -> str:
    """Version of the installed package; "unknown" for sources that were never installed."""
    try:
        return Distribution.from_name("semlink").version
    except PackageNotFoundError:
        return "unknown"


@cache
def commit() -> str | None:
    """Commit of the sources: of a git checkout ("-dirty" where it was changed), or of ``pip install git+…``.

    None for a wheel or an archive, which do not say.
    """
    if (CHECKOUT / ".git").exists():
        try:
            done = subprocess.run(
                ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
                cwd=CHECKOUT,
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()
    try:
        # PEP 610: pip records where it installed from
        origin = json.loads(Distribution.from_name("semlink").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, json.JSONDecodeError):
        return None
    found = origin.get("vcs_info", {}).get("commit_id")
    return str(found) if found else None
