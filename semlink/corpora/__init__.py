"""Corpora: our own generators and readers of public layouts, behind one interface."""

from semlink.corpora.corpus import AudioCorpus, Corpus, CorpusInfo, ImageCorpus, Item, Media, Split

__all__ = ["AudioCorpus", "Corpus", "CorpusInfo", "ImageCorpus", "Item", "Media", "Split"]
