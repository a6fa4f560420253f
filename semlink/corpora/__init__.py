"""Corpora: our own generators and readers of public layouts, behind one interface."""

from semlink.corpora.corpus import Corpus, CorpusInfo, Item, Media, Split

__all__ = ["Corpus", "CorpusInfo", "Item", "Media", "Split"]
