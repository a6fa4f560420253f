"""Experiments: one command each, resumable, the same form of results."""
