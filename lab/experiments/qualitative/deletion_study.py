"""The deletion test: what importance of words is worth, by how far a query's cosine to an item falls without them.

An importance that means something names words whose removal costs more than that of random words; leave-one-out, which
encodes a query once a word and needs no gradient, is the reference. Over the ideal link; reported by ``semlink
experiment fig11``. Our definition.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lab.evaluation.bootstrap import interval, paired_difference, resampled_means
from lab.evaluation.report import Row
from lab.evaluation.word_importance import importance, words_of
from lab.experiments.qualitative.run import Example
from semlink.errors import InvalidField
from semlink.semantics.encoders import semantic_encoder
from semlink.semantics.gallery import GalleryEmbeddings
from semlink.semantics.spaces import space_of

METHODS: Final = ("grad-cam", "random", "leave-one-out")
COUNTS: Final = (1, 3)
"""Words left out together by the deletion test."""
RANDOM_DRAWS: Final = 10
"""Random sets of words of each query, where more than one word is left out."""
TOWARDS: Final = ("right item", "top 1")
"""Items towards which words are important: see :func:`deletion_rows`."""


def without(text: str, left_out: Collection[int]) -> str:
    """The text without some of its words. Raises InvalidField where none would be left."""
    kept = [word for i, word in enumerate(words_of(text)) if i not in left_out]
    if not kept:
        raise InvalidField(f"no word of {text!r} is left", field="left_out")
    return " ".join(kept)


class TextFeatures:
    """Features of texts in a space, each encoded once."""

    def __init__(self, space: str) -> None:
        self.encoder = semantic_encoder(space)
        self._known: dict[str, NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 ``[num_texts, 256]``, unit norm."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= dict(zip(new, self.encoder.text(new), strict=True))
        return np.stack([self._known[text] for text in texts])


@dataclass(frozen=True, slots=True)
class Drops:
    """How far the cosine to the target falls: float64 ``[num_texts]`` by who names the words and how many they are.

    ``agreement``: for "grad-cam" and "random", the share in which the word named first is the one that leave-one-out
    names, float64 ``[num_texts]`` (of random words: the expected share).
    """

    drops: Mapping[tuple[str, int], NDArray[np.float64]]
    agreement: Mapping[str, NDArray[np.float64]]


def cosine_drops(
    texts: Sequence[str],
    targets: NDArray[np.float32],
    importances: Sequence[NDArray[np.float32]],
    features: TextFeatures,
    *,
    counts: Sequence[int] = COUNTS,
    seed: int = 0,
) -> Drops:
    """The deletion test: cosine to the target with all words less that without some of them, over the ideal link.

    Left out are the ``count`` words that have most importance ("grad-cam"; earlier words first among equals), those
    whose removal alone costs most ("leave-one-out": of one word the best that any rule can name), or "random" words:
    the mean over every single word, over :data:`RANDOM_DRAWS` sets for more. One word always stays. Raises InvalidField
    for a text of one word.
    """
    full = np.einsum("td,td->t", features(texts), targets)
    singles = [[{i} for i in range(len(words_of(text)))] for text in texts]
    sets = {
        (t, count): _random_sets(len(singles[t]), count, [seed, t, count])
        for t in range(len(texts))
        for count in counts
    }
    # Query for at once, so that texts of one length share a batch.
    features(
        [
            without(text, one)
            for t, text in enumerate(texts)
            for one in [*singles[t], *(s for count in counts for s in sets[t, count])]
        ]
    )

    def dropped(t: int, left_out: Sequence[Collection[int]]) -> NDArray[np.float64]:
        reduced = features([without(texts[t], one) for one in left_out])
        return np.asarray(full[t] - reduced @ targets[t], dtype=np.float64)

    alone = [dropped(t, singles[t]) for t in range(len(texts))]
    drops: dict[tuple[str, int], NDArray[np.float64]] = {}
    for count in counts:
        random = [dropped(t, sets[t, count]).mean() for t in range(len(texts))]
        drops["random", count] = np.array(random)
        for name, values in (("grad-cam", importances), ("leave-one-out", alone)):
            largest = [dropped(t, [_largest(values[t], count)])[0] for t in range(len(texts))]
            drops[name, count] = np.array(largest)
    best = [int(np.argmax(one)) for one in alone]
    agreement = {
        "grad-cam": [float(np.argmax(one) == b) for one, b in zip(importances, best, strict=True)],
        "random": [1.0 / len(one) for one in alone],
    }
    return Drops(drops, {name: np.array(shares) for name, shares in agreement.items()})


def _largest(values: NDArray[Any], count: int) -> frozenset[int]:
    order = np.argsort(-values, kind="stable")
    return frozenset(order[: min(count, len(values) - 1)].tolist())


def _random_sets(words: int, count: int, seed: Sequence[int]) -> list[frozenset[int]]:
    if count == 1:
        return [frozenset({i}) for i in range(words)]
    rng = np.random.default_rng(list(seed))
    size = min(count, words - 1)
    return [frozenset(rng.choice(words, size, replace=False).tolist()) for _ in range(RANDOM_DRAWS)]


def deletion_rows(example: Example, seed: int = 0) -> list[Row]:
    """The deletion test on all queries of a task, over the ideal link.

    Metrics ``cosine_drop`` and ``cosine_drop_difference`` (Grad-CAM against the others), each by words left out and by
    item: the *right item* is the one of the right ones that is nearest to the query, the *top 1* the nearest of all.
    ``same_first_word``: the share in which the word named first is leave-one-out's. Intervals over queries.
    """
    texts = [asked.text for asked in example.queries]
    features = TextFeatures(space_of(example.corpus))
    head = features.encoder.head("text")
    gallery = GalleryEmbeddings.load(example.corpus)
    scores = features(texts) @ gallery.items.T
    place = {item_id: n for n, item_id in enumerate(gallery.item_ids)}
    right = np.zeros(scores.shape, dtype=bool)
    for q, asked in enumerate(example.queries):
        right[q, [place[item_id] for item_id in asked.right]] = True
    targets = {
        "right item": gallery.items[np.where(right, scores, -np.inf).argmax(1)],
        "top 1": gallery.items[scores.argmax(1)],
    }
    queries = np.arange(len(texts))
    coordinates: dict[str, Any] = {
        "task": example.task,
        "corpus": example.corpus,
        "split": "test",
        "seeds": 1,
    }
    rows = []

    def row(metric: str, values: NDArray[np.float64], method: str, variant: str) -> Row:
        ci95 = interval(resampled_means(values[:, None], queries)[:, 0])
        mean = float(values.mean())
        return Row(metric, mean, ci95=ci95, method=method, variant=variant, **coordinates)

    for towards, target in targets.items():
        importances = importance(texts, target, head)
        made = cosine_drops(texts, target, importances, features, seed=seed)
        for count in COUNTS:
            variant = f"{towards}, {words_left_out(count)}"
            rows += [row("cosine_drop", made.drops[m, count], m, variant) for m in METHODS]
            for other in METHODS[1:]:
                mean, ci95 = paired_difference(
                    made.drops["grad-cam", count], made.drops[other, count], queries
                )
                rows.append(
                    Row(
                        "cosine_drop_difference",
                        mean,
                        ci95=ci95,
                        method="grad-cam",
                        variant=f"grad-cam vs {other}, {variant}",
                        baseline=other,
                        condition=variant,
                        **coordinates,
                    )
                )
        rows += [
            row("same_first_word", values, name, towards) for name, values in made.agreement.items()
        ]
    return rows


def words_left_out(count: int) -> str:
    """How a row's variant names a number of words."""
    return f"{count} word{'s' if count > 1 else ''}"
