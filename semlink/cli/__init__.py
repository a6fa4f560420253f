"""The ``semlink`` command; nothing imports it."""
