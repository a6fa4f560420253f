"""A linear classifier on the frozen clip feature (``clip_feature`` of :mod:`semlink.semantics.modalities.sound`).

Ridge regression on one-hot labels in its dual form: one decomposition serves every strength, which is chosen by
cross-validation inside the training clips. ``semlink evaluate --method linear-probe --corpus esc50 --split test``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lab.training.features import media_features
from semlink.corpora.corpus import Corpus, Item, Split
from semlink.errors import InvalidField
from semlink.semantics.modalities import modality_of
from semlink.semantics.modalities.sound import Sounds, clip_feature

STRENGTHS: Final = (0.03, 0.05, 0.1, 0.2, 0.5)
CLAMP: Final = 5.0
BATCH: Final = 128
INNER_FOLDS: Final = 4


@dataclass(frozen=True, slots=True)
class Labelled:
    """Clips of some splits: ``features`` [n, d] float32, ``labels`` [n] int64, ``groups`` [n]: the folds."""

    features: torch.Tensor
    labels: torch.Tensor
    groups: NDArray[np.int64]
    names: tuple[str, ...]

    def where(self, chosen: NDArray[np.bool_]) -> Labelled:
        """The chosen clips."""
        picked = torch.from_numpy(chosen)
        return Labelled(self.features[picked], self.labels[picked], self.groups[chosen], self.names)


def labelled(corpus: Corpus, splits: tuple[Split, ...]) -> Labelled:
    """Clip features and categories. Raises InvalidField for a corpus without sounds or categories."""
    if not isinstance(modality_of(corpus.info.task), Sounds):
        raise InvalidField(
            f"corpus {corpus.info.name!r} holds no sounds, which linear-probe classifies",
            field="corpus",
        )
    items: list[Item] = []
    parts: list[torch.Tensor] = []
    for split in splits:
        items.extend(corpus.items(split))
        features = media_features(corpus, split)
        for start in range(0, len(features), BATCH):
            tokens = features.batch(range(start, min(start + BATCH, len(features))))
            parts.append(clip_feature(tokens))
    missing = next((item.item_id for item in items if "category" not in item.attributes), None)
    if missing is not None:
        raise InvalidField(
            f"corpus {corpus.info.name!r} has no categories (item {missing!r}), "
            "which linear-probe needs",
            field="corpus",
        )
    categories = [str(item.attributes["category"]) for item in items]
    names = tuple(sorted(set(categories)))
    folds = [int(item.attributes.get("fold", n % INNER_FOLDS)) for n, item in enumerate(items)]
    return Labelled(
        torch.cat(parts),
        torch.tensor([names.index(category) for category in categories]),
        np.asarray(folds, dtype=np.int64),
        names,
    )


@torch.inference_mode()
def predictions(
    train: Labelled, features: torch.Tensor, strengths: tuple[float, ...] = STRENGTHS
) -> dict[float, torch.Tensor]:
    """Scores of every category for each strength of the ridge, each [n, num_categories]."""
    mean, deviation = train.features.mean(0), train.features.std(0).clamp_min(1e-3)
    known = ((train.features - mean) / deviation).clamp(-CLAMP, CLAMP)
    asked = ((features - mean) / deviation).clamp(-CLAMP, CLAMP)
    classes = len(train.names)
    target = F.one_hot(train.labels, classes).float() * 2.0 - 2.0 / classes
    kernel = known @ known.T / known.shape[1]
    values, vectors = torch.linalg.eigh(kernel)
    turned = vectors.T @ target
    near = asked @ known.T / known.shape[1] @ vectors
    return {s: near @ (turned / (values[:, None] + s)) for s in strengths}


def chosen_strength(train: Labelled) -> float:
    """The strength that is best on the training clips' own folds, one held out at a time."""
    folds = np.unique(train.groups)
    if len(folds) < 2:
        return float(np.median(STRENGTHS))
    right = dict.fromkeys(STRENGTHS, 0)
    for fold in folds:
        held = train.where(train.groups == fold)
        for strength, scores in predictions(
            train.where(train.groups != fold), held.features
        ).items():
            right[strength] += int((scores.argmax(1) == held.labels).sum())
    return max(STRENGTHS, key=lambda strength: right[strength])


def accuracy(train: Labelled, test: Labelled) -> tuple[NDArray[np.bool_], float]:
    """Which test clips are named rightly [n], bool, and the strength, chosen on the training clips alone."""
    strength = chosen_strength(train)
    scores = predictions(train, test.features, (strength,))[strength]
    right: NDArray[np.bool_] = (scores.argmax(1) == test.labels).numpy()
    return right, strength


def rotations(
    data: Labelled, report: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Each fold held out in turn, trained on the others."""
    rows = []
    for fold in np.unique(data.groups).tolist():
        right, strength = accuracy(data.where(data.groups != fold), data.where(data.groups == fold))
        rows.append({"fold": fold, "accuracy": float(right.mean()), "strength": strength})
        report(f"fold {fold}: {100.0 * right.mean():.2f} % (ridge {strength:g})")
    return rows
