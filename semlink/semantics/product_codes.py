"""Many vectors in few bytes: product quantisation along principal axes, for galleries that are shipped.

Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search", IEEE TPAMI 33(1), 2011. Vectors are turned
to their principal axes; axes are dealt to the parts of the code in turn, so that each part carries about the same share
of the variance; each part is one byte, the nearest of 256 centroids (k-means).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from semlink.errors import InvalidField

CENTROIDS: Final = 256
AXES_A_PART: Final = 4
ROUNDS: Final = 12


@dataclass(frozen=True, slots=True)
class ProductCodes:
    """``n`` vectors of ``dim`` numbers as codes of ``parts`` bytes each, and what turns codes into vectors.

    ``codes``: uint8 ``[n, parts]``; ``codebooks``: float16 ``[parts, 256, 4]``; ``axes``: float16
    ``[parts · 4, dim]``, in the order of the parts; ``mean``: float16 ``[dim]``.
    """

    codes: NDArray[np.uint8]
    codebooks: NDArray[np.float16]
    axes: NDArray[np.float16]
    mean: NDArray[np.float16]

    @classmethod
    def fit(cls, vectors: NDArray[np.float32], parts: int, seed: int = 0) -> Self:
        """Codes of ``vectors`` float32 ``[n, dim]``; the same for the same input.

        Raises InvalidField for vectors of another shape, fewer than 256 of them, or more than ``dim / 4`` parts.
        """
        if vectors.ndim != 2 or len(vectors) < CENTROIDS:
            raise InvalidField(
                f"vectors has shape {vectors.shape}, expected [{CENTROIDS} or more, dim]",
                field="vectors",
            )
        if not 1 <= parts <= vectors.shape[1] // AXES_A_PART:
            raise InvalidField(
                f"parts is {parts}, allowed: 1…{vectors.shape[1] // AXES_A_PART}", field="parts"
            )
        x = torch.from_numpy(np.ascontiguousarray(vectors))
        mean = x.mean(0)
        axes = torch.linalg.eigh((x - mean).T @ (x - mean))[1].flip(1)
        # Axis a goes to part a mod parts: each has a strong one, a weaker one, and so on.
        dealt = torch.arange(parts * AXES_A_PART).view(AXES_A_PART, parts).T.flatten()
        axes = axes[:, dealt].T.contiguous().half()
        mean = mean.half()
        generator = torch.Generator().manual_seed(seed)
        turned = ((x - mean.float()) @ axes.float().T).view(len(x), parts, AXES_A_PART)
        books, codes = zip(
            *(_clustered(turned[:, part], generator) for part in range(parts)), strict=True
        )
        return cls(
            torch.stack(codes, dim=1).to(torch.uint8).numpy(),
            torch.stack(books).numpy(),
            axes.numpy(),
            mean.numpy(),
        )

    def vectors(self) -> NDArray[np.float32]:
        """The vectors again, float32 ``[n, dim]``, about."""
        books = self.codebooks.astype(np.float32)
        turned = books[np.arange(len(books)), self.codes].reshape(len(self.codes), -1)
        found: NDArray[np.float32] = turned @ self.axes.astype(np.float32) + self.mean.astype(
            np.float32
        )
        return found


def _clustered(
    points: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """K-means of ``[n, 4]``: float16 centroids ``[256, 4]`` and the nearest of each point, int64 ``[n]``."""
    centroids = points[torch.randperm(len(points), generator=generator)[:CENTROIDS]].clone()
    nearest = torch.cdist(points, centroids).argmin(1)
    for _ in range(ROUNDS):
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
        counts = torch.bincount(nearest, minlength=CENTROIDS)[:, None]
        # A centroid that nobody is near to stays where it is.
        centroids = torch.where(counts > 0, sums / counts.clamp_min(1), centroids)
        nearest = torch.cdist(points, centroids).argmin(1)
    stored = centroids.half()
    return stored, torch.cdist(points, stored.float()).argmin(1)
