"""Encode a corpus's test gallery with the installed heads: ``semlink train gallery --corpus pedestrians``."""

from __future__ import annotations

import json
import time
from pathlib import Path

from lab.train_heads import embed
from lab.training import describe_data, rounded, split_data, two_way_metrics
from semlink.corpora.registry import EMBEDDED, check_corpus, corpus_named
from semlink.semantics.encoders import heads_sha256, load_heads
from semlink.semantics.gallery import GalleryEmbeddings
from semlink.settings import Settings


def run(corpus: str, *, out: Path | None = None) -> GalleryEmbeddings:
    """Write ``out/gallery-{corpus}.safetensors`` and ``.json`` (default: the weights directory).

    Raises NotFound for an unknown corpus or missing heads.
    """
    check_corpus(corpus, EMBEDDED.get(corpus, ""))
    started = time.monotonic()
    task = EMBEDDED[corpus]
    heads = load_heads(task)
    data = split_data(corpus_named(corpus), "test")
    gallery = GalleryEmbeddings(
        corpus=corpus,
        item_ids=tuple(item.item_id for item in data.items),
        items=embed(heads["media"], data.media),
        captions=embed(heads["text"], data.text),
    )
    path = (out or Settings().weights_dir) / f"gallery-{corpus}.safetensors"
    gallery.save(path)
    sidecar = {
        "command": f"semlink train gallery --corpus {corpus}",
        "data": describe_data(corpus_named(corpus)),
        "heads_sha256": heads_sha256(task),
        "scores": rounded(two_way_metrics(gallery.captions, gallery.items, data)),
        "seconds": round(time.monotonic() - started),
    }
    path.with_suffix(".json").write_text(json.dumps(sidecar, indent=1) + "\n")
    return gallery
