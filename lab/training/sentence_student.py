"""Train ItrievalKD's student: ``semlink train student --task image`` (Liu et al. 2023, paper 002, §3.2).

The teacher is the space's dual encoder: of a text's sentences it knows ``s_k = cos(picture, sentence)``. The student
sees the text alone and learns the teacher's distribution over the sentences, eq. 4: the divergence of
``p = softmax(α ŝ / τ)`` from ``q = softmax(α s / τ)``. α is the dual encoder's learned logit scale: with raw cosines
and the paper's τ = 1 (α = 1, :data:`RAW`) the teacher is nearly flat. No label of a sentence is ever seen; labels
choose the epoch on val, as in the paper (§4.3), and κ is the number of sentences with the best R@1 on val.

Frozen token states and the teacher's scores are computed once; every epoch draws new texts from captions and pools.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from lab.evaluation.cache import Cache, key_of, write_whole
from lab.evaluation.parallel import one_thread
from lab.training.alignment_heads import embed
from lab.training.checkpoint import Checkpoint, rounded, save_weights
from lab.training.features import (
    FrozenFeatures,
    cached_features,
    caption_features,
    media_features,
)
from lab.training.noisy_texts import make_pool
from lab.training.trainer import TrainerConfig, Validation
from lab.training.trainer import train as optimise
from semlink.corpora.corpus import Corpus, Item, Split
from semlink.corpora.noisy import (
    N_KEY,
    NOISE_KINDS,
    POOLED_CORPUS,
    NoiseKind,
    NoisePool,
    NoisyText,
    as_sentence,
    draw,
    embedded_pool,
)
from semlink.corpora.registry import corpus_named
from semlink.models import MODELS, file_sha256
from semlink.semantics.encoders import load_heads, text_tokens
from semlink.semantics.heads import Head
from semlink.semantics.int8_tensors import pack, unpack
from semlink.semantics.spaces import train_command, training_corpus, weights_file, weights_of
from semlink.semantics.student import SentenceScorer, StudentConfig, sentence_batch

CACHE: Final = Cache("students", __name__)
NUM_POOLED: Final[dict[Split, int]] = {"train": 160, "val": 96, "test": 384}
"""Items of a split whose captions the language model continues, at most."""
MAX_NOISE: Final = 3
NUM_TRAIN: Final = 640
"""Items of train whose texts a student sees; those without continuations have other pictures' captions as noise."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a student learns, besides data and seed.

    ``scale``: α, 0 for the dual encoder's logit scale; ``temperature``: τ; ``kinds``: the noise of the training texts;
    ``as_written``: KL(p‖q), eq. 4 as printed, else KL(q‖p), which is the usual one (Hinton et al. 2015).
    """

    epochs: int = 6
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: int = 30
    scale: float = 0.0
    temperature: float = 1.0
    as_written: bool = True
    kinds: tuple[NoiseKind, ...] = NOISE_KINDS
    student: StudentConfig = field(default_factory=StudentConfig)


RAW: Final = Recipe(scale=1.0)
"""The paper's letter: raw cosines, τ = 1."""
ALONE: Final = Recipe(student=StudentConfig(joint=False))
"""No sentence sees another one."""


class Table:
    """Sentences of a split by their text: the frozen trunk's states and the text head's features, computed once."""

    def __init__(self, states: Sequence[torch.Tensor], row: dict[str, int]) -> None:
        self.states = states
        """Of each sentence, float16 [tokens, 384]."""
        self.row = row

    def rows(self, text: NoisyText) -> list[int]:
        """Where the sentences of a text stand."""
        return [self.row[sentence] for sentence in text.sentences]

    def frozen(self) -> FrozenFeatures:
        """All states as one."""
        lengths = torch.tensor([0, *map(len, self.states)])
        return FrozenFeatures(torch.cat(list(self.states)), lengths.cumsum(0))


@dataclass(frozen=True, slots=True)
class NoisySplit:
    """What training and the experiment ask of a split.

    ``items``: all of the split or its first; ``num_pooled`` of them, the first, have continuations. ``media``: float32
    [items, 256], their features; ``place``: an item's row in it.
    """

    items: Sequence[Item]
    num_pooled: int
    pool: NoisePool
    table: Table
    text: NDArray[np.float32]
    """Features of the table's sentences, [sentences, 256]."""
    media: NDArray[np.float32]
    place: dict[str, int]

    @property
    def key(self) -> list[Any]:
        """:func:`split_key` of this split."""
        ids = [item.item_id for item in self.items]
        return [ids, self.num_pooled, dict(self.pool.provenance)]

    def texts(self, kind: NoiseKind, n_noise: int, seed: int) -> list[NoisyText]:
        """A text of each item that has what the kind of noise needs."""
        if kind == "continuations":
            return draw(self.items[: self.num_pooled], n_noise, seed=seed, pool=self.pool)
        return draw(self.items, n_noise, seed=seed, kind=kind)

    def teacher(self, text: NoisyText) -> NDArray[np.float32]:
        """``s_k``: the cosine of the item's picture and each sentence, [sentences]."""
        cosines: NDArray[np.float32] = (
            self.text[self.table.rows(text)] @ self.media[self.place[text.item_id]]
        )
        return cosines


def noisy_split(
    corpus: Corpus, split: Split, heads: dict[str, Head], *, num_items: int | None = None
) -> NoisySplit:
    """A split, or its first ``num_items``, with its pool, states and features."""
    items = corpus.items(split)[:num_items]
    pool = noise_pool(corpus, split, items)
    num_pooled = sum(item.item_id in pool.continuations for item in items)
    table = _table(corpus, split, items, pool)
    return NoisySplit(
        items=items,
        num_pooled=num_pooled,
        pool=pool,
        table=table,
        text=embed(heads["text"], table.frozen()),
        media=embed(heads["media"], _first(media_features(corpus, split), len(items))),
        place={item.item_id: n for n, item in enumerate(items)},
    )


def split_key(corpus: Corpus, split: Split, *, num_items: int | None = None) -> list[Any]:
    """What the texts of a :func:`noisy_split` are drawn of: item ids, how many have continuations, who wrote these."""
    items = corpus.items(split)[:num_items]
    pool = noise_pool(corpus, split, items)
    ids = [item.item_id for item in items]
    return [ids, sum(i in pool.continuations for i in ids), dict(pool.provenance)]


def _first(features: FrozenFeatures, count: int) -> FrozenFeatures:
    offsets = features.offsets[: count + 1]
    return FrozenFeatures(features.values[: int(offsets[-1])], offsets)


def noise_pool(corpus: Corpus, split: Split, items: Sequence[Item]) -> NoisePool:
    """The shipped pool for `scenes`, otherwise one of the first items, made by the language model (cached)."""
    if corpus.info.name == POOLED_CORPUS:
        return embedded_pool(split)
    return make_pool(corpus, split, items[: NUM_POOLED[split]], n_noise=MAX_NOISE)


def _table(corpus: Corpus, split: Split, items: Sequence[Item], pool: NoisePool) -> Table:
    states: list[torch.Tensor] = []
    row: dict[str, int] = {}
    cached = caption_features(corpus, split)
    missing: list[str] = []
    at = 0
    for item in items:
        for caption in item.captions:
            sentence = as_sentence(caption)
            if sentence == caption and sentence not in row:
                row[sentence] = len(states)
                states.append(cached.values[cached.offsets[at] : cached.offsets[at + 1]].clone())
            elif sentence not in row:
                missing.append(sentence)
            at += 1
    wanted = {item.item_id for item in items}
    for item_id, noise in pool.continuations.items():
        missing += [c.text for c in noise if item_id in wanted and c.text not in row]
    new = list(dict.fromkeys(missing))
    for sentence, values in zip(new, _states(new), strict=True):
        row[sentence] = len(states)
        states.append(values)
    return Table(states, row)


def _states(sentences: Sequence[str]) -> list[torch.Tensor]:
    """The trunk's states of sentences, kept in the cache."""
    if not sentences:
        return []
    name = key_of(repr((MODELS["minilm"].sha256, list(sentences))), 10)
    shard = f"sentences/{name}", partial(text_tokens, sentences)
    found = cached_features([shard], "sentences")
    return list(torch.split(found.values, found.offsets.diff().tolist()))


def run(
    space: str = "image", *, seed: int = 0, out: Path | None = None, recipe: Recipe | None = None
) -> dict[str, Any]:
    """Train a space's student and write its weights and sidecar; returns the scores on val.

    ``space``: a task (its embedded corpus) or a corpus added by the user, of pictures. ``out``: the weights file, by
    default where :func:`semlink.semantics.spaces.weights_of` looks.
    """
    recipe = recipe or Recipe()
    started = time.monotonic()
    corpus = corpus_named(training_corpus(space))
    heads = load_heads(space)
    train = noisy_split(corpus, "train", heads, num_items=NUM_TRAIN)
    val = noisy_split(corpus, "val", heads)
    scorer, history = trained(train, val, recipe, space, seed)
    scores = _scores(scorer, val, seed)
    kappa = max(scores["r_at_1_by_kappa"], key=lambda k: scores["r_at_1_by_kappa"][k])
    path = out or weights_file(space, "student")
    save_weights(
        path,
        pack(scorer.state_dict()),
        {"config": json.dumps(recipe.student.as_dict()), "key_sentences": kappa},
        {
            "command": train_command(space, "student") + (f" --seed {seed}" if seed else ""),
            "data": {
                "corpus": corpus.info.name,
                "texts": {"train": len(train.items), "val": len(val.items)},
                "with_continuations": {"train": train.num_pooled, "val": val.num_pooled},
                "noise": dict(train.pool.provenance),
            },
            "teacher": {
                "heads_sha256": file_sha256(weights_of(space, "heads")),
                "logit_scale": logit_scale(space),
            },
            "recipe": asdict(recipe),
            "seed": seed,
            "key_sentences": int(kappa),
            "scores": {"val": rounded(scores)},
            "history": rounded(history),
            "seconds": round(time.monotonic() - started),
        },
    )
    return scores


def logit_scale(space: str) -> float:
    """The learned inverse temperature of a space's dual encoder."""
    sidecar = json.loads(weights_of(space, "heads").with_suffix(".json").read_text())
    return float(sidecar["logit_scale"])


def trained(
    train: NoisySplit, val: NoisySplit, recipe: Recipe, space: str, seed: int
) -> tuple[SentenceScorer, list[dict[str, float]]]:
    """:func:`fit`, from the cache where it was done before."""
    path = student_path(train.key, val.key, recipe, space, seed)
    if not path.is_file():
        checkpoint = Checkpoint(f"student-{path.stem}", __name__)
        with one_thread():
            scorer, history = fit(train, val, recipe, logit_scale(space), seed, checkpoint)
        metadata = {"history": json.dumps(history)}
        write_whole(path, lambda part: save_file(scorer.state_dict(), part, metadata))
        checkpoint.remove()
    return load_student(path, recipe)


def student_path(
    train: Sequence[Any], val: Sequence[Any], recipe: Recipe, space: str, seed: int
) -> Path:
    """Where :func:`trained` keeps a student: a name by all that it depends on. ``train``, ``val``: the splits' keys."""
    key = [asdict(recipe), seed, file_sha256(weights_of(space, "heads")), *train, *val]
    return CACHE.path(f"{space}-{key_of(json.dumps(key))}.safetensors")


def load_student(path: Path, recipe: Recipe) -> tuple[SentenceScorer, list[dict[str, float]]]:
    """What :func:`trained` kept."""
    with safe_open(path, framework="pt") as file:
        history = json.loads(file.metadata()["history"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    scorer = SentenceScorer(recipe.student)
    scorer.load_state_dict(state)
    return scorer.eval(), history


def fit(
    train: NoisySplit,
    val: NoisySplit,
    recipe: Recipe,
    logit_scale: float,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> tuple[SentenceScorer, list[dict[str, float]]]:
    """The scorer of the epoch with the best selection accuracy on val, rounded as stored, and the history."""
    torch.manual_seed(seed)
    scorer = SentenceScorer(recipe.student)
    epochs = [_epoch_texts(train, recipe.kinds, seed, epoch) for epoch in range(recipe.epochs)]
    alpha = recipe.scale or logit_scale
    shown = [t for kind in NOISE_KINDS for t in val.texts(kind, MAX_NOISE, seed)]

    def batches(epoch: int) -> Iterator[list[NoisyText]]:
        texts = epochs[epoch]
        return (texts[i : i + recipe.batch] for i in range(0, len(texts), recipe.batch))

    def validate(scorer: SentenceScorer, _epoch: int) -> Validation:
        accuracy = selection_accuracy(shown, student_scores(scorer, val.table, shown))
        return accuracy, {"val_accuracy": accuracy}

    config = TrainerConfig.from_recipe(
        recipe,
        title="student",
        num_steps=sum(-(-len(texts) // recipe.batch) for texts in epochs),
        seed=seed,
        decayed_ndim=2,
        reseed="never",
    )
    trained = optimise(
        scorer,
        batches,
        lambda texts: _loss(scorer, train, texts, alpha, recipe),
        config,
        validate=validate,
        checkpoint=checkpoint,
    )
    # As shipped: the rounding to eight bits is part of what is measured.
    scorer.load_state_dict(unpack(pack(scorer.state_dict())))
    return scorer, trained.history


def _epoch_texts(
    train: NoisySplit, kinds: Sequence[NoiseKind], seed: int, epoch: int
) -> list[NoisyText]:
    """New texts of one epoch, shuffled: as many of each kind of noise and of each number of noise sentences."""
    rng = np.random.default_rng((seed, epoch))
    texts: list[NoisyText] = []
    for kind in kinds:
        for n_noise in range(1, MAX_NOISE + 1):
            drawn = train.texts(kind, n_noise, seed * 10_007 + epoch)
            # Items with continuations are few: they are seen more often than a third of an epoch asks.
            count = 2 * train.num_pooled // 3
            texts += [drawn[i] for i in rng.permutation(len(drawn))[:count]]
    return [texts[i] for i in rng.permutation(len(texts))]


def _loss(
    scorer: SentenceScorer,
    train: NoisySplit,
    texts: Sequence[NoisyText],
    alpha: float,
    recipe: Recipe,
) -> torch.Tensor:
    """Eq. 4 over the real sentences of a batch."""
    batch = sentence_batch([[train.table.states[r] for r in train.table.rows(t)] for t in texts])
    student = torch.sigmoid(scorer(batch))
    teacher = torch.zeros_like(student)
    for row, text in enumerate(texts):
        teacher[row, : len(text.sentences)] = torch.from_numpy(train.teacher(text))
    return divergence(student, teacher, batch.real, alpha / recipe.temperature, recipe.as_written)


def divergence(
    student: torch.Tensor,
    teacher: torch.Tensor,
    real: torch.Tensor,
    scale: float,
    as_written: bool = True,
) -> torch.Tensor:
    """Mean over texts of KL(p‖q) (eq. 4) or, not ``as_written``, KL(q‖p).

    ``student``, ``teacher``: scores [batch, sentences]; ``real``: the same, bool; ``scale``: α/τ.
    """
    hidden = ~real
    p = F.log_softmax((scale * student).masked_fill(hidden, -torch.inf), dim=1)
    q = F.log_softmax((scale * teacher).masked_fill(hidden, -torch.inf), dim=1)
    first, second = (p, q) if as_written else (q, p)
    # −inf − −inf is not a number, also in the gradient: padding goes before the difference.
    first, second = first.masked_fill(hidden, 0.0), second.masked_fill(hidden, 0.0)
    return ((first.exp() * (first - second)) * real).sum(1).mean()


@torch.inference_mode()
def student_scores(
    scorer: SentenceScorer, table: Table, texts: Sequence[NoisyText], batch: int = 64
) -> list[NDArray[np.float32]]:
    """``ŝ`` before the sigmoid of every sentence of every text."""
    scorer.eval()
    found: list[NDArray[np.float32]] = []
    for start in range(0, len(texts), batch):
        part = sentence_batch(
            [[table.states[r] for r in table.rows(t)] for t in texts[start : start + batch]]
        )
        scores = scorer(part)
        found += [row[real].numpy() for row, real in zip(scores, part.real, strict=True)]
    return found


def kept(scores: Iterable[NDArray[Any]], key_sentences: int) -> list[NDArray[np.int64]]:
    """Places of the κ best sentences of each text, in the order of the text; of equals the earlier."""
    return [np.sort(np.argsort(-s, kind="stable")[:key_sentences]) for s in scores]


def selection_accuracy(
    texts: Sequence[NoisyText], scores: Sequence[NDArray[Any]], key_sentences: int = N_KEY
) -> float:
    """Share of key sentences among the κ best of each text, mean over texts (paper 002, table 3)."""
    chosen = kept(scores, key_sentences)
    return float(np.mean([np.asarray(t.key)[c].mean() for t, c in zip(texts, chosen, strict=True)]))


def mean_features(
    split: NoisySplit, texts: Sequence[NoisyText], chosen: Sequence[NDArray[np.int64]]
) -> NDArray[np.float32]:
    """Normalised mean of the features of each text's chosen sentences, [texts, 256]."""
    means = np.stack(
        [
            split.text[np.asarray(split.table.rows(t))[c]].mean(axis=0)
            for t, c in zip(texts, chosen, strict=True)
        ]
    )
    unit: NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit


def ranks(
    split: NoisySplit, texts: Sequence[NoisyText], queries: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Rank (0 is first) of each text's picture among all of the split; of equals it comes last."""
    scores = queries @ split.media.T
    own = scores[np.arange(len(texts)), [split.place[t.item_id] for t in texts]]
    place: NDArray[np.int64] = (scores >= own[:, None]).sum(axis=1) - 1
    return place


def _scores(scorer: SentenceScorer, val: NoisySplit, seed: int) -> dict[str, Any]:
    """On val: selection accuracy by kind and number of noise sentences, R@1 by κ over all of them."""
    accuracy: dict[str, dict[str, float]] = {}
    teacher: dict[str, dict[str, float]] = {}
    hits: dict[str, list[float]] = {str(k): [] for k in range(1, N_KEY + MAX_NOISE + 1)}
    for kind in NOISE_KINDS:
        for n_noise in range(1, MAX_NOISE + 1):
            texts = val.texts(kind, n_noise, seed)
            found = student_scores(scorer, val.table, texts)
            accuracy.setdefault(kind, {})[str(n_noise)] = selection_accuracy(texts, found)
            teacher.setdefault(kind, {})[str(n_noise)] = selection_accuracy(
                texts, [val.teacher(t) for t in texts]
            )
            for k, values in hits.items():
                queries = mean_features(val, texts, kept(found, int(k)))
                values += list(ranks(val, texts, queries) == 0)
    return {
        "selection_accuracy": accuracy,
        "teacher_selection_accuracy": teacher,
        "r_at_1_by_kappa": {k: float(np.mean(v)) for k, v in hits.items()},
    }
