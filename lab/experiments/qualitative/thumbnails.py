"""Small pictures of items, for pages and figures: of a sound its spectrogram."""

from __future__ import annotations

import base64
import io
from functools import lru_cache

from PIL import Image

from semlink.corpora.registry import corpus_named
from semlink.semantics.modalities import modality_of


@lru_cache(maxsize=1024)
def thumbnail(corpus_name: str, item_id: str) -> Image.Image:
    """An item as a small RGB picture. Raises NotFound for an unknown corpus or item."""
    corpus = corpus_named(corpus_name)
    return modality_of(corpus.info.task).thumbnail(corpus.content(item_id))


@lru_cache(maxsize=1024)
def data_uri(corpus_name: str, item_id: str) -> str:
    """:func:`thumbnail` as a JPEG inside an URI."""
    buffer = io.BytesIO()
    thumbnail(corpus_name, item_id).save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
