"""The ``semlink`` command; nothing imports it."""

from __future__ import annotations


def main() -> None:
    """Run the command. Its module is imported here, so that ``import semlink.cli`` stays cheap."""
    from semlink.cli.app import main as run

    run()
