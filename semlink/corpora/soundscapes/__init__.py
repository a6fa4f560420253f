"""Soundscapes: ten-second scenes mixed from real CC0 recordings, with five captions each."""

from semlink.corpora.soundscapes.corpus import Soundscapes
from semlink.corpora.soundscapes.scene import GENERATOR_VERSION

__all__ = ["GENERATOR_VERSION", "Soundscapes"]
