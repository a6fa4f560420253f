"""``python -m semlink.cli``: the ``semlink`` command."""

from semlink.cli import main

if __name__ == "__main__":
    main()
