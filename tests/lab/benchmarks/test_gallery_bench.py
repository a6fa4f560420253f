"""The benchmark's vectors follow the real ones they are drawn from, and its figures are what an index really does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lab.benchmarks import gallery
from lab.benchmarks.gallery_samples import GallerySampler, RealVectors

DIM = 256


def real(seed: int = 0) -> RealVectors:
    """Identities on a plane of twelve dimensions, four views each, and captions beside them."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(12, DIM))

    def unit(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    def views(identities: int, spread: float) -> np.ndarray:  # type: ignore[type-arg]
        own = np.repeat(rng.normal(size=(identities, 12)) @ basis, 4, axis=0)
        return unit(own + spread * rng.normal(size=own.shape))

    test = views(50, 1.0)
    captions = unit(np.repeat(test, 2, axis=0) + 0.03 * rng.normal(size=(400, DIM)))
    return RealVectors(
        train_items=views(200, 1.0),
        train_identity=np.repeat(np.arange(200), 4),
        test_items=test,
        test_captions=captions,
        caption_item=np.repeat(np.arange(200), 2),
    )


def test_rows_do_not_depend_on_how_they_are_asked_for() -> None:
    sampler = GallerySampler(real())
    whole = sampler.rows(0, 10_000)
    np.testing.assert_array_equal(whole[4000:5000], sampler.rows(4000, 5000))
    np.testing.assert_array_equal(whole[8192:], sampler.rows(8192, 10_000))
    np.testing.assert_array_equal(whole[:200], real().test_items)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1.0, atol=1e-5)
    assert whole.dtype == np.float32
    assert len(np.unique(whole, axis=0)) == len(whole)


def test_drawn_vectors_lie_as_the_real_ones() -> None:
    made = real()
    sampler = GallerySampler(made)
    assert sampler.views == 4
    drawn = sampler.rows(4096, 4096 + 4000)
    same = (drawn[0::4] * drawn[1::4]).sum(1).mean()
    true = (made.train_items[0::4] * made.train_items[1::4]).sum(1).mean()
    assert abs(same - true) < 0.03
    own = np.linalg.eigvalsh(np.cov(drawn.T))[::-1]
    expected = np.linalg.eigvalsh(np.cov(made.train_items.T))[::-1]
    # Twelve directions hold the identities in both.
    assert own[:12].sum() == pytest.approx(expected[:12].sum(), rel=0.15)
    # The rest is the views' own; 200 identities leave some noise in a covariance of 256 dimensions.
    assert own[12:].sum() == pytest.approx(expected[12:].sum(), rel=0.3)


def test_queries_are_real_captions_and_others_as_far_from_them_as_captions_are() -> None:
    made = real()
    queries, owner = GallerySampler(made).queries()
    np.testing.assert_array_equal(queries[:400], made.test_captions)
    np.testing.assert_array_equal(owner[400:], made.caption_item)
    moved = (queries[400:] * made.test_captions).sum(1).mean()
    apart = (made.test_captions[0::2] * made.test_captions[1::2]).sum(1).mean()
    assert apart - 0.1 < moved < 1.0


def test_a_small_run_reports_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "real_vectors", lambda corpus: real())
    monkeypatch.setattr(gallery, "MAX_BATCHES", 5)
    monkeypatch.setattr(gallery, "MIN_BATCHES", 2)
    monkeypatch.setattr(gallery, "QUERIES", 150)
    for _ in range(2):  # the second finds what the first built
        report = gallery.run(tmp_path / "out", items=5000, folder=tmp_path / "kept")
    written = json.loads((tmp_path / "out" / "bench-gallery.json").read_text())
    rows = {(r.method, r.metric, r.variant): r.mean for r in report.rows}
    assert len(written["rows"]) == len(rows)
    for kind in ("hnsw", "ivf-pq"):
        recalls = [v for (m, metric, _), v in rows.items() if (m, metric) == (kind, "recall@10")]
        assert len(recalls) == 1
        assert recalls[0] >= 0.98
        batch = "batch 64, 1 thread"
        faster = rows["exact", "ms_per_query", batch] / rows[kind, "ms_per_query", batch]
        assert rows[kind, "times_faster", batch] == pytest.approx(faster)
        assert rows[kind, "index_mib", None] > 5000 * DIM * 2 / 2**20
