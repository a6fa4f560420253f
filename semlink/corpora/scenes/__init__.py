"""The `scenes` corpus, by role: cliparts, settings, layout, captions, rendering, corpus."""

from semlink.corpora.scenes.corpus import GENERATOR_VERSION, Scenes

__all__ = ["GENERATOR_VERSION", "Scenes"]
