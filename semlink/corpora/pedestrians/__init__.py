"""Rendered pedestrians: persons, pictures and captions made by our own generator."""

from semlink.corpora.pedestrians.corpus import GENERATOR_VERSION, Pedestrians

__all__ = ["GENERATOR_VERSION", "Pedestrians"]
