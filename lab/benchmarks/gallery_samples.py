"""Gallery vectors by the million, drawn from a distribution fitted to a corpus's real ones, and real text queries.

A timing over Gaussian noise or over tidy clusters says nothing: how hard an index has it depends on how the vectors
lie. Ours are drawn as the corpus's own were made: an *identity*, then views of it.

- Identities: a mixture of Gaussians with one covariance, fitted to the mean vectors of the training identities
  (k-means into ``COMPONENTS`` groups, at most an eighth as many as identities; the covariance within them, full, less
  what a mean of few views owes to the views).
- Views: around the identity's vector, Gaussian with the full covariance that the training items show within an
  identity (where an item is its own identity: none), as many views as the corpus has, then unit norm.
- The corpus's real test items stand among them, so that every query has its true item.
- Queries cross the modality gap: real test captions, and as many again around them, Gaussian with the covariance that
  the captions of one item show among each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

from lab.training.alignment_heads import embed
from lab.training.data import split_data
from semlink.corpora.registry import corpus_named
from semlink.semantics.encoders import load_heads
from semlink.semantics.spaces import space_of

COMPONENTS: Final = 64


@dataclass(frozen=True, slots=True)
class RealVectors:
    """Vectors of a corpus, unit norm, float32 ``[n, 256]``, and who is who."""

    train_items: NDArray[np.float32]
    train_identity: NDArray[np.int64]
    test_items: NDArray[np.float32]
    test_captions: NDArray[np.float32]
    caption_item: NDArray[np.int64]


def real_vectors(corpus_name: str) -> RealVectors:
    """A corpus's training and test items and its test captions through the installed heads."""
    heads = load_heads(space_of(corpus_name))
    corpus = corpus_named(corpus_name)
    train, test = split_data(corpus, "train"), split_data(corpus, "test")
    return RealVectors(
        train_items=embed(heads["media"], train.media),
        train_identity=train.identity.numpy(),
        test_items=embed(heads["media"], test.media),
        test_captions=embed(heads["text"], test.text),
        caption_item=test.caption_item.numpy(),
    )


class GallerySampler:
    """Rows of an endless gallery: row i is the same whatever rows are asked for with it."""

    def __init__(self, real: RealVectors, seed: int = 0) -> None:
        self._real = real
        self._seed = seed
        identity = real.train_identity
        views = np.bincount(identity)
        means = np.zeros((len(views), real.train_items.shape[1]))
        np.add.at(means, identity, real.train_items)
        means /= views[:, None]
        self.views = max(1, round(float(views.mean())))
        within = real.train_items - means[identity]
        freedom = len(identity) - len(views)
        between_views = within.T @ within / max(1, freedom)
        self._view_factor = _factor(between_views) if freedom else None
        # A mean of few views still moves with them: that share is not the identities' own.
        self._centres, self._weights, self._identity_factor = _mixture(
            means, between_views / self.views
        )

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start:stop``, float32, unit norm; the first are the corpus's own test items."""
        block = 4096  # rows drawn under one seed
        parts = [self._block(b, block) for b in range(start // block, -(-stop // block))]
        first = start // block * block
        return np.concatenate(parts)[start - first : stop - first]

    def _block(self, number: int, size: int) -> NDArray[np.float32]:
        rng = np.random.default_rng([self._seed, number])
        identities = -(-size // self.views)
        component = rng.choice(len(self._centres), size=identities, p=self._weights)
        dim = self._centres.shape[1]
        drawn = self._centres[component] + _gaussian(rng, identities, self._identity_factor)
        drawn = np.repeat(drawn, self.views, axis=0)[:size]
        if self._view_factor is not None:
            drawn = drawn + _gaussian(rng, size, self._view_factor)
        rows = _unit(drawn.reshape(size, dim))
        real = self._real.test_items[number * size : (number + 1) * size]
        rows[: len(real)] = real
        return rows

    def queries(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Text vectors ``[2·num_captions, 256]`` and the row of each one's true item."""
        captions, owner = self._real.test_captions, self._real.caption_item
        means = np.zeros((int(owner.max()) + 1, captions.shape[1]))
        np.add.at(means, owner, captions)
        means /= np.bincount(owner)[:, None]
        within = captions - means[owner]
        freedom = max(1, len(owner) - len(means))
        rng = np.random.default_rng([self._seed, 1 << 32])
        drawn = captions + _gaussian(rng, len(captions), _factor(within.T @ within / freedom))
        return np.concatenate([captions, _unit(drawn)]), np.concatenate([owner, owner])


def _mixture(
    means: NDArray[np.float64], of_views: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centres, weights and the common covariance's factor, less ``of_views``, of a mixture fitted by k-means."""
    components = max(1, min(COMPONENTS, len(means) // 8))
    clustering = faiss.Kmeans(
        means.shape[1], components, niter=20, seed=1, min_points_per_centroid=1
    )
    clustering.train(means.astype(np.float32))
    of = clustering.index.search(means.astype(np.float32), 1)[1][:, 0]
    counts = np.bincount(of, minlength=components)
    centres = np.zeros((components, means.shape[1]))
    np.add.at(centres, of, means)
    centres /= np.maximum(counts, 1)[:, None]
    within = means - centres[of]
    covariance = within.T @ within / max(1, len(means) - components)
    return centres, counts / counts.sum(), _factor(covariance - of_views)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float32)


def _factor(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """A with A Aᵀ = covariance; of a singular one too."""
    values, vectors = np.linalg.eigh(covariance)
    factor: NDArray[np.float64] = vectors * np.sqrt(np.maximum(values, 0.0))
    return factor


def _gaussian(rng: np.random.Generator, n: int, factor: NDArray[np.float64]) -> NDArray[np.float64]:
    drawn: NDArray[np.float64] = rng.standard_normal((n, len(factor))) @ factor.T
    return drawn
