"""ItrievalKD on noisy-scenes: what is left of a text's retrieval when noise is in it, and who takes it out.

``semlink experiment itrieval`` (Liu et al. 2023, paper 002, tables 1–3). Texts of 3 captions and 0 to 3 noise sentences
search the 1,000 pictures of test over the ideal link. Rows: the key sentences alone (the upper bound), the noisy text,
what tf-idf, TextRank, the student and its teacher (which sees the picture) keep. Zero-shot uses the shipped text head;
fine-tuned trains it on noisy texts (§3.3), each row with the learning rate that val chose for it. Seeds draw texts,
students and fine-tunings. The first kind of noise is the paper's, continuations by a language model; the second is
captions of other pictures, which no style gives away.
"""

from __future__ import annotations

import copy
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from lab.evaluation.bootstrap import interval, paired_difference, resampled_means
from lab.evaluation.cache import Cache, JsonlTable, key_of
from lab.evaluation.parallel import one_thread, results_of
from lab.evaluation.report import Row, over_seeds
from lab.experiments.interface import Measured, Run
from lab.experiments.tables import print_rows
from lab.training.alignment_heads import embed
from lab.training.checkpoint import Checkpoint
from lab.training.noisy_text_heads import FINE_BATCH, FINE_EPOCHS, fine_tuned
from lab.training.sentence_student import (
    ALONE,
    MAX_NOISE,
    NUM_TRAIN,
    RAW,
    NoisySplit,
    Recipe,
    kept,
    load_student,
    logit_scale,
    mean_features,
    noisy_split,
    ranks,
    split_key,
    student_path,
    student_scores,
    trained,
)
from semlink.corpora.corpus import Split
from semlink.corpora.noisy import N_KEY, NOISE_KINDS, NoiseKind, NoisyText
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.errors import InvalidField
from semlink.models import file_sha256
from semlink.progress import track
from semlink.semantics.encoders import load_heads, text_tokens
from semlink.semantics.heads import Head
from semlink.semantics.sentences import textrank_scores, tf_idf_scores
from semlink.semantics.spaces import weights_of
from semlink.semantics.student import SentenceScorer

NAME: Final = "itrieval"
SPACE: Final = "image"
HEADS: Final = Cache("students", __name__)
FIGURES: Final = Cache("student-figures", __name__)
SETTINGS: Final = ("zero-shot", "fine-tuned")
STUDENTS: Final[dict[str, Recipe]] = {
    "itrieval-kd": Recipe(),
    "itrieval-kd, raw cosines": RAW,
    "itrieval-kd, sentences alone": ALONE,
}
SERVED: Final = "itrieval-kd"
"""The student that ships; the others are ablations."""
FINE_RATES: Final = (1e-4, 5e-4)
LONG_NOISE: Final = 12
"""Captions of other pictures in a long text: 15 sentences, some 200 word pieces."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What is measured together: a kind of noise, how many noise sentences, which head."""

    kind: NoiseKind
    n_noise: int
    setting: str

    @property
    def label(self) -> str:
        """The row's ``variant``."""
        return f"{self.kind}, {self.n_noise} noise sentences, {self.setting}"


Choice = list[NDArray[np.int64]]
"""Which sentences of each text are kept."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Texts of a split and what each method keeps of them: the same for every text head."""

    texts: list[NoisyText]
    choices: dict[str, Choice]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is trained and measured."""

    seeds: int = 3
    """Draws of texts, and trainings of the student and of the text head."""
    ablation_seeds: int = 1
    """Trainings of each student that is not the shipped recipe."""
    students: tuple[str, ...] = tuple(STUDENTS)
    """itrieval-kd and its ablations; the shipped one is always there."""
    kinds: tuple[str, ...] = NOISE_KINDS
    """Of noise in the texts of test; what is trained sees both."""
    epochs: int = 0
    """Of each student's training; 0: the recipe's."""
    fine_epochs: int = FINE_EPOCHS
    """Of fine-tuning the text head."""
    fine_rates: tuple[float, ...] = FINE_RATES
    """Learning rates of fine-tuning that val chooses from."""
    train_items: int = NUM_TRAIN
    """Items of train that texts are drawn of, the first; 0: all."""
    val_items: int = 0
    """The same of val."""
    test_items: int = 0
    """The same of test."""
    encoded_texts: int = 200
    """Texts of test and val that are encoded anew: joined to one, and long ones; the first of each split."""

    def recipes(self, seed: int) -> dict[str, Recipe]:
        """Students of a seed. Raises InvalidField for an unknown one."""
        if unknown := [name for name in self.students if name not in STUDENTS]:
            raise InvalidField(
                f"students has {unknown[0]!r}, allowed: {', '.join(STUDENTS)}", field="students"
            )
        return {
            name: replace(recipe, epochs=self.epochs or recipe.epochs)
            for name, recipe in STUDENTS.items()
            if name == SERVED or (name in self.students and seed < self.ablation_seeds)
        }

    def methods(self, seed: int = 0) -> list[str]:
        """Rows of the tables, of a seed or in all."""
        return [
            "key",
            "raw",
            "tf-idf",
            "tf-idf, corpus",
            "textrank",
            *self.recipes(seed),
            "teacher",
        ]

    def noise_kinds(self) -> list[NoiseKind]:
        """Kinds of noise, in their order. Raises InvalidField for an unknown one, and for none."""
        if not self.kinds or (unknown := [k for k in self.kinds if k not in NOISE_KINDS]):
            given = repr(unknown[0]) if self.kinds else "nothing"
            raise InvalidField(
                f"kinds has {given}, allowed: {', '.join(NOISE_KINDS)}", field="kinds"
            )
        return [kind for kind in NOISE_KINDS if kind in self.kinds]

    def bench(self) -> Bench:
        """The splits of the plan's size."""
        return _bench(self.train_items, self.val_items, self.test_items)


QUICK: Final[Mapping[str, Any]] = {
    "seeds": 1,
    "students": (SERVED,),
    "epochs": 1,
    "fine_epochs": 1,
    "fine_rates": (5e-4,),
    "train_items": 64,
    "val_items": 32,
    "test_items": 64,
    "encoded_texts": 8,
}
"""What ``--quick`` overrides: a smoke run, not a measurement."""
Training = tuple[str, str | float, int]
"""("student", its name, seed) or ("head", learning rate, seed)."""
Cell = tuple[int, NoiseKind, int]
"""Seed, kind of noise, number of noise sentences: texts that are drawn once for all methods."""
Figures = dict[str, dict[str, Any]]
"""By method: ``accuracy`` of its selection, and ranks of the right pictures in each of :data:`SETTINGS`."""


class Bench:
    """Splits of noisy texts and what is trained on them; a split is encoded when something asks for it."""

    def __init__(self, train_items: int, val_items: int, test_items: int) -> None:
        self._corpus = corpus_named(default_corpus(SPACE))
        self._sizes: dict[Split, int] = {"train": train_items, "val": val_items, "test": test_items}
        self.keys = {
            split: split_key(self._corpus, split, num_items=count or None)
            for split, count in self._sizes.items()
        }
        """What the texts of each split are drawn of."""

    @cached_property
    def heads(self) -> dict[str, Head]:
        """The shipped heads."""
        return load_heads(SPACE)

    @cached_property
    def train(self) -> NoisySplit:
        """What students and heads are trained on."""
        return self._split("train")

    @cached_property
    def val(self) -> NoisySplit:
        """What chooses epochs and learning rates."""
        return self._split("val")

    @cached_property
    def test(self) -> NoisySplit:
        """What is reported."""
        return self._split("test")

    def _split(self, split: Split) -> NoisySplit:
        count = self._sizes[split] or None
        with one_thread():
            return noisy_split(self._corpus, split, self.heads, num_items=count)

    def student(self, recipe: Recipe, seed: int, *, fresh: bool = False) -> SentenceScorer:
        """A trained student, from the cache or trained now."""
        path = student_path(self.keys["train"], self.keys["val"], recipe, SPACE, seed)
        if fresh:
            path.unlink(missing_ok=True)
        if path.is_file():
            return load_student(path, recipe)[0]
        return trained(self.train, self.val, recipe, SPACE, seed)[0]

    def head(self, rate: float, epochs: int, seed: int, *, fresh: bool = False) -> Head:
        """A fine-tuned text head, from the cache or trained now."""
        sha256 = file_sha256(weights_of(SPACE, "heads"))
        key = key_of(json.dumps([1, rate, epochs, FINE_BATCH, seed, sha256, *self.keys["train"]]))

        checkpoint = Checkpoint(f"text-head-{key}", "lab.training.noisy_text_heads")

        def make(path: Path) -> None:
            text, scale = self.heads["text"], logit_scale(SPACE)
            with one_thread():
                tuned = fine_tuned(
                    text, self.train, scale, rate, seed, epochs=epochs, checkpoint=checkpoint
                )
            save_file(tuned.state_dict(), path)

        path = HEADS.entry(f"{SPACE}-head-{key}.safetensors", make, fresh=fresh)
        checkpoint.remove()
        head = copy.deepcopy(self.heads["text"])
        head.load_state_dict(load_file(path))
        return head.eval().requires_grad_(False)

    def kept(self) -> JsonlTable:
        """What was measured on these splits with the shipped heads."""
        key = key_of(json.dumps([file_sha256(weights_of(SPACE, "heads")), self.keys]))
        return FIGURES.table(f"{SPACE}-{key}")


@lru_cache(maxsize=1)
def _bench(train_items: int, val_items: int, test_items: int) -> Bench:
    return Bench(train_items, val_items, test_items)


@lru_cache(maxsize=4)
def _tuned(
    bench: Bench, split: Literal["val", "test"], rate: float, epochs: int, seed: int
) -> NoisySplit:
    """A split as a fine-tuned head sees it."""
    tuned = bench.head(rate, epochs, seed)
    return _with_head(bench.val if split == "val" else bench.test, tuned)


def trainings(plan: Plan) -> list[Training]:
    """Every training, each by itself: in any order, in any process."""
    students: list[Training] = [
        ("student", name, seed) for seed in range(plan.seeds) for name in plan.recipes(seed)
    ]
    heads: list[Training] = [
        ("head", rate, seed) for seed in range(plan.seeds) for rate in plan.fine_rates
    ]
    return students + heads


def train_one(plan: Plan, training: Training, *, fresh: bool = False) -> None:
    """Leave a trained student or head in the cache; ``fresh``: trained in any case."""
    what, name, seed = training
    bench = plan.bench()
    if what == "student":
        bench.student(plan.recipes(seed)[str(name)], seed, fresh=fresh)
    else:
        bench.head(float(name), plan.fine_epochs, seed, fresh=fresh)


def cells(plan: Plan) -> list[Cell]:
    """All that is measured on test, each cell by itself: in any order, in any process."""
    counts = range(MAX_NOISE + 1)
    return list(itertools.product(range(plan.seeds), plan.noise_kinds(), counts))


def measure_cell(
    plan: Plan, rates: Mapping[str, float], cell: Cell, *, fresh: bool = False
) -> Figures:
    """Figures of every method on a cell's texts: from the cache, or measured now and kept there.

    ``rates``: of the fine-tuned head of each method.
    """
    seed, kind, n_noise = cell
    bench, recipes = plan.bench(), plan.recipes(seed)
    kept = bench.kept()
    places = {
        method: [
            "test",
            *cell,
            method,
            _described(recipes, method),
            rates[method],
            plan.fine_epochs,
        ]
        for method in plan.methods(seed)
    }
    missing = [method for method, place in places.items() if fresh or place not in kept]
    if missing:
        with one_thread():
            students = {n: bench.student(r, seed) for n, r in recipes.items() if n in missing}
            drawn = draw_texts(bench.test, students, kind, n_noise, seed)
            for method in missing:
                tuned = _tuned(bench, "test", rates[method], plan.fine_epochs, seed)
                values = {
                    "accuracy": _accuracy(drawn, method),
                    "zero-shot": _ranks(bench.test, drawn, method).tolist(),
                    "fine-tuned": _ranks(tuned, drawn, method).tolist(),
                }
                kept.put(values, places[method])
    return {method: kept.get(place) for method, place in places.items()}


def _described(recipes: Mapping[str, Recipe], method: str) -> dict[str, Any] | None:
    """What a method is beside its name, where it is trained."""
    return asdict(recipes[method]) if method in recipes else None


def val_hits(
    plan: Plan, cell: tuple[int, NoiseKind], *, fresh: bool = False
) -> dict[str, list[float]]:
    """R@1 on val of each method with the head of each fine-tuning rate, for a seed and kind at 3 noise sentences."""
    seed, kind = cell
    bench, recipes = plan.bench(), plan.recipes(seed)
    kept = bench.kept()
    places = {
        (method, rate): ["val", *cell, method, _described(recipes, method), rate, plan.fine_epochs]
        for method in plan.methods(seed)
        for rate in plan.fine_rates
    }
    missing = [at for at, place in places.items() if fresh or place not in kept]
    if missing:
        with one_thread():
            students = {name: bench.student(recipe, seed) for name, recipe in recipes.items()}
            drawn = draw_texts(bench.val, students, kind, MAX_NOISE, seed)
            for method, rate in missing:
                split = _tuned(bench, "val", rate, plan.fine_epochs, seed)
                first = float((_ranks(split, drawn, method) == 0).mean())
                kept.put(first, places[method, rate])
    return {
        method: [kept.get(places[method, rate]) for rate in plan.fine_rates]
        for method in plan.methods(seed)
    }


def chosen_rates(plan: Plan, found: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """The fine-tuning rate with the best mean R@1 on val for each method; ``found``: of :func:`val_hits`."""
    means = {
        method: np.mean([of[method] for of in found if method in of], axis=0)
        for method in plan.methods()
    }
    return {method: plan.fine_rates[int(np.argmax(mean))] for method, mean in means.items()}


def measure(plan: Plan, run: Run) -> Measured:
    """Measure a plan; what is trained and measured is cached."""
    todo = cells(plan)
    train = partial(train_one, plan, fresh=run.fresh)
    results_of(train, trainings(plan), run.workers, "students and heads")
    on_val = list(itertools.product(range(plan.seeds), NOISE_KINDS))
    val = partial(val_hits, plan, fresh=run.fresh)
    hits = results_of(val, on_val, run.workers, "learning rates on val")
    rates = chosen_rates(plan, hits)
    test = partial(measure_cell, plan, rates, fresh=run.fresh)
    found = results_of(test, todo, run.workers, "texts of test")
    rows = _beside_rows(plan, fresh=run.fresh)
    measured: dict[tuple[Condition, str], list[NDArray[np.int64]]] = {}
    for kind in plan.noise_kinds():
        for n_noise in range(MAX_NOISE + 1):
            here = [of for cell, of in zip(todo, found, strict=True) if cell[1:] == (kind, n_noise)]
            rows += _accuracy_rows(plan, kind, n_noise, here)
            for method in plan.methods():
                for setting in SETTINGS:
                    measured[Condition(kind, n_noise, setting), method] = [
                        np.array(of[method][setting]) for of in here if method in of
                    ]
    for (condition, method), ranked in measured.items():
        rows += _rows(condition, method, ranked)
    rows += _claims(plan, measured)
    rows.append(_latency_row(plan, fresh=run.fresh))

    def show() -> None:
        print_rows(rows, run.console, quick=run.quick)
        chosen = ", ".join(f"{method} {rate:g}" for method, rate in rates.items())
        run.console.print(f"Fine-tuning rates chosen on val: {chosen}")

    return Measured(rows, show=show)


def _beside_rows(plan: Plan, *, fresh: bool) -> list[Row]:
    """Encodings and long texts, by the shipped student of seed 0: from the cache or measured now."""
    bench, recipe = plan.bench(), plan.recipes(0)[SERVED]
    kept, count = bench.kept(), plan.encoded_texts
    measures: dict[str, Callable[[SentenceScorer], list[Row]]] = {
        "encoding, val": lambda student: encoding_rows(bench.val, "val", student, count),
        "encoding, test": lambda student: encoding_rows(bench.test, "test", student, count),
        "long": lambda student: long_rows(bench.test, student, count),
    }
    rows = []
    for name, measure in track(list(measures.items()), "encodings and long texts"):
        place = ["beside", name, count, asdict(recipe)]
        if fresh or place not in kept:
            with one_thread():
                kept.put([asdict(row) for row in measure(bench.student(recipe, 0))], place)
        rows += [Row(**values) for values in kept.get(place)]
    return rows


def _with_head(split: NoisySplit, head: Head) -> NoisySplit:
    """The split as another text head sees it."""
    return replace(split, text=embed(head, split.table.frozen()))


def draw_texts(
    split: NoisySplit,
    students: Mapping[str, SentenceScorer],
    kind: NoiseKind,
    n_noise: int,
    seed: int,
) -> Drawn:
    """Texts and what every method keeps of them, κ = 3 (the sets' n_key, as in the paper)."""
    texts = split.texts(kind, n_noise, seed)
    corpus = [c for item in split.items for c in item.captions]
    choices: dict[str, Choice] = {
        "key": [np.flatnonzero(t.key) for t in texts],
        "raw": [np.arange(len(t.sentences)) for t in texts],
        "tf-idf": kept([np.array(tf_idf_scores(t.sentences)) for t in texts], N_KEY),
        "tf-idf, corpus": kept(_corpus_tf_idf(texts, corpus), N_KEY),
        "textrank": kept([np.array(textrank_scores(t.sentences)) for t in texts], N_KEY),
        "teacher": kept([split.teacher(t) for t in texts], N_KEY),
    }
    for name, scorer in students.items():
        choices[name] = kept(student_scores(scorer, split.table, texts), N_KEY)
    return Drawn(texts, choices)


def _corpus_tf_idf(texts: Sequence[NoisyText], corpus: Sequence[str]) -> list[NDArray[Any]]:
    """tf-idf with the document frequencies of the split's captions: all sentences at once, the corpus is read once."""
    flat = np.array(tf_idf_scores([s for t in texts for s in t.sentences], corpus))
    return list(np.split(flat, np.cumsum([len(t.sentences) for t in texts])[:-1]))


def _ranks(split: NoisySplit, drawn: Drawn, method: str) -> NDArray[np.int64]:
    return ranks(split, drawn.texts, mean_features(split, drawn.texts, drawn.choices[method]))


def encoding_rows(
    split: NoisySplit, name: Split, student: SentenceScorer, num_texts: int
) -> list[Row]:
    """R@1 when the kept sentences are encoded as one text, or each by itself and averaged; 3 noise sentences."""
    head = load_heads(SPACE)["text"]
    drawn = draw_texts(split, {"itrieval-kd": student}, "continuations", MAX_NOISE, 0)
    texts = drawn.texts[:num_texts]
    rows = []
    for method in ("key", "raw", "itrieval-kd"):
        choice = drawn.choices[method][:num_texts]
        queries = {
            "mean of the sentences' features": mean_features(split, texts, choice),
            "joined to one text": _joined(head, texts, choice),
        }
        for encoding, features in queries.items():
            first = ranks(split, texts, features) == 0
            rows.append(
                _row("r_at_1", [float(first.mean())], method, f"encoding: {encoding}", name)
            )
    return rows


def long_rows(test: NoisySplit, student: SentenceScorer, num_texts: int) -> list[Row]:
    """R@1 of long texts: 3 captions among 12 of other pictures, far beyond the encoder's 128 word pieces."""
    head = load_heads(SPACE)["text"]
    texts = test.texts("other-captions", LONG_NOISE, 0)[:num_texts]
    everything = [np.arange(len(t.sentences)) for t in texts]
    scores = student_scores_in_windows(student, texts)
    queries = {
        ("raw", "joined, cut at 128 word pieces"): _joined(head, texts, everything),
        ("raw", "mean of all sentences' features"): mean_features(test, texts, everything),
        ("itrieval-kd", "mean of 3 kept"): mean_features(test, texts, kept(scores, N_KEY)),
        ("key", "mean of 3 key"): mean_features(
            test, texts, [np.flatnonzero(t.key) for t in texts]
        ),
    }
    return [
        _row(
            "r_at_1",
            [float((ranks(test, texts, q) == 0).mean())],
            method,
            f"long texts of {N_KEY + LONG_NOISE} sentences: {name}",
        )
        for (method, name), q in queries.items()
    ]


def student_scores_in_windows(
    student: SentenceScorer, texts: Sequence[NoisyText]
) -> list[NDArray[np.float64]]:
    """Scores of texts of any length, as the transmitter computes them."""
    from semlink.semantics.student import Student

    found = Student(student, N_KEY).scores([t.sentences for t in texts])
    return [np.array(s) for s in found]


def _joined(head: Head, texts: Sequence[NoisyText], choice: Choice) -> NDArray[np.float32]:
    """Features of the kept sentences as one text."""
    joined = [" ".join(t.sentences[i] for i in c) for t, c in zip(texts, choice, strict=True)]
    tokens = text_tokens(joined)
    with torch.inference_mode():
        features: NDArray[np.float32] = torch.cat(
            [
                head(tokens.values[i : i + 64], tokens.mask[i : i + 64])
                for i in range(0, len(joined), 64)
            ]
        ).numpy()
    return features


def _accuracy(drawn: Drawn, method: str) -> float:
    """Selection accuracy: share of key sentences among those kept, mean over texts."""
    pairs = zip(drawn.texts, drawn.choices[method], strict=True)
    return float(np.mean([np.asarray(text.key)[kept].mean() for text, kept in pairs]))


def _accuracy_rows(
    plan: Plan, kind: NoiseKind, n_noise: int, found: Sequence[Figures]
) -> list[Row]:
    """Selection accuracy on test: share of key sentences among the three kept."""
    if not n_noise:
        return []
    return [
        _row(
            "selection_accuracy",
            [of[method]["accuracy"] for of in found if method in of],
            method,
            f"{kind}, {n_noise} noise sentences",
        )
        for method in plan.methods()
        if method not in ("key", "raw")
    ]


def _rows(condition: Condition, method: str, found: Sequence[NDArray[np.int64]]) -> list[Row]:
    """R@1/5/10 and their sum."""
    recalls = {k: [float((r < k).mean()) for r in found] for k in (1, 5, 10)}
    rows = [_row(f"r_at_{k}", v, method, condition.label) for k, v in recalls.items()]
    total = [sum(v) for v in zip(*recalls.values(), strict=True)]
    return [*rows, _row("recall_sum", total, method, condition.label)]


def _row(
    metric: str,
    values: Sequence[float],
    method: str,
    condition: str,
    split: str = "test",
    *,
    other: str | None = None,
) -> Row:
    return Row(
        metric=metric,
        **over_seeds(values),
        method=method,
        task="image",
        corpus="noisy-scenes",
        split=split,
        variant=condition if other is None else f"{condition}, over {other}",
        baseline=other,
        condition=condition,
    )


def _claims(
    plan: Plan,
    measured: Mapping[tuple[Condition, str], Sequence[NDArray[np.int64]]],
) -> list[Row]:
    """At 3 noise sentences: R@1 of the student minus each row's, and as a share of the key sentences' R@1.

    Paired bootstrap over pictures; a picture's texts of all seeds are drawn together.
    """
    rows = []
    for kind in plan.noise_kinds():
        for setting in SETTINGS:
            at = Condition(kind, MAX_NOISE, setting)
            for other in plan.methods():
                # Ablations may have fewer seeds: both sides are then of these.
                count = len(measured[at, other])
                ours, theirs, key = (
                    np.mean([r == 0 for r in measured[at, m][:count]], axis=0)
                    for m in ("itrieval-kd", other, "key")
                )
                clusters = np.arange(len(key))
                if other != "itrieval-kd":
                    gain, ci95 = paired_difference(ours, theirs, clusters)
                    row = _row("r_at_1_difference", [gain], "itrieval-kd", at.label, other=other)
                    rows.append(replace(row, ci95=ci95, seeds=count))
                if not key.any():
                    continue  # of nothing there is no share
                means = resampled_means(np.stack([theirs, key], axis=1), clusters)
                means = means[means[:, 1] > 0]
                share = float(theirs.mean() / key.mean())
                row = _row("r_at_1_share_of_key", [share], other, at.label)
                ci95 = interval(means[:, 0] / means[:, 1])
                rows.append(replace(row, ci95=ci95, seeds=count))
    return rows


def _latency_row(plan: Plan, *, fresh: bool) -> Row:
    """Processor time of the student for a text of 6 sentences, trunk included, one thread, milliseconds.

    A time of this machine: the one figure here that another run from an empty cache does not repeat bit for bit.
    """
    bench, recipe = plan.bench(), plan.recipes(0)[SERVED]
    kept, place = bench.kept(), ["latency", asdict(recipe)]
    if fresh or place not in kept:
        with one_thread():
            kept.put(_processor_ms(bench.test, bench.student(recipe, 0)), place)
    return _row("processor_ms_median", [kept.get(place)], SERVED, "6 sentences, one thread")


def _processor_ms(test: NoisySplit, scorer: SentenceScorer, repeats: int = 30) -> float:
    """Median over texts."""
    from semlink.semantics.student import Student

    student = Student(scorer, N_KEY)
    texts = [t.sentences for t in test.texts("other-captions", 3, 0)[:repeats]]
    student.scores(texts[:1])
    spent = []
    for text in texts:
        before = time.process_time()
        student.scores([text])
        spent.append(1e3 * (time.process_time() - before))
    return float(np.median(spent))
