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
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console

from lab.experiments.bootstrap import interval, paired_difference, resampled_means
from lab.experiments.tables import cell
from lab.features import FrozenFeatures
from lab.progress import track
from lab.results import Report, Row, over_seeds, pick
from lab.train_heads import contrastive_loss, embed
from lab.train_student import (
    ALONE,
    MAX_NOISE,
    NUM_TRAIN,
    RAW,
    NoisySplit,
    Recipe,
    Table,
    kept,
    logit_scale,
    mean_features,
    noisy_split,
    ranks,
    student_scores,
    trained,
)
from semlink.corpora.corpus import Split
from semlink.corpora.noisy import N_KEY, NOISE_KINDS, NoiseKind, NoisyText
from semlink.corpora.registry import corpus_named, default_corpus
from semlink.semantics.encoders import load_heads, text_tokens
from semlink.semantics.heads import Head
from semlink.semantics.sentences import textrank_scores, tf_idf_scores
from semlink.semantics.student import SentenceScorer

SPACE: Final = "image"
SETTINGS: Final = ("zero-shot", "fine-tuned")
STUDENTS: Final[dict[str, Recipe]] = {
    "itrieval-kd": Recipe(),
    "itrieval-kd, raw cosines": RAW,
    "itrieval-kd, sentences alone": ALONE,
}
METHODS: Final = ("key", "raw", "tf-idf", "tf-idf, corpus", "textrank", *STUDENTS, "teacher")
FINE_RATES: Final = (1e-4, 5e-4)
FINE_EPOCHS: Final = 2
FINE_BATCH: Final = 128
NUM_ITEMS: Final[dict[Split, int | None]] = {"train": NUM_TRAIN, "val": None, "test": None}
"""Items of a split that texts are drawn of, the first; all by default."""
LONG_NOISE: Final = 12
"""Captions of other pictures in a long text: 15 sentences, some 200 word pieces."""

PAPER: Final[dict[tuple[str, int], tuple[float, float, float, float]]] = {
    ("key", 0): (56.3, 80.5, 88.8, 225.6),
    ("raw", 1): (48.4, 74.7, 84.5, 207.6),
    ("itrieval-kd", 1): (52.9, 80.4, 88.8, 222.1),
    ("raw", 2): (37.9, 66.7, 78.0, 182.6),
    ("itrieval-kd", 2): (53.6, 80.4, 88.4, 222.4),
    ("raw", 3): (25.7, 48.4, 63.4, 137.5),
    ("itrieval-kd", 3): (53.9, 79.8, 88.4, 222.1),
}
"""R@1, R@5, R@10 and SUM in percent on Noisy-MSCOCO, zero-shot, CLIP ViT-B/32 (its table 1)."""
PAPER_TEACHER: Final = {1: 98.23, 2: 97.60, 3: 96.53}
"""Selection accuracy of the teacher in percent (its table 3)."""


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


def run(
    out: Path, *, seeds: int = 3, ablation_seeds: int = 1, console: Console | None = None
) -> Report:
    """Measure and write ``out/itrieval.{json,csv,md}``. What is trained is kept in the cache directory.

    ``ablation_seeds``: trainings of each student that is not the shipped recipe.
    """
    started = time.monotonic()
    console = console or Console()
    corpus = corpus_named(default_corpus(SPACE))
    heads = load_heads(SPACE)
    train, val, test = (
        noisy_split(corpus, split, heads, num_items=NUM_ITEMS[split])
        for split in ("train", "val", "test")
    )
    students = [
        {
            name: trained(train, val, recipe, SPACE, seed)[0]
            for name, recipe in STUDENTS.items()
            if name == "itrieval-kd" or seed < ablation_seeds
        }
        for seed in track(range(seeds), "students")
    ]
    fine = [
        {rate: fine_tuned(heads["text"], train, rate, seed) for rate in FINE_RATES}
        for seed in track(range(seeds), "fine-tuning")
    ]
    rates = chosen_rates(val, students, fine)
    report = Report("itrieval")
    report.rows += encoding_rows(val, "val", students[0]["itrieval-kd"])
    report.rows += encoding_rows(test, "test", students[0]["itrieval-kd"])
    report.rows += long_rows(test, students[0]["itrieval-kd"])
    measured: dict[tuple[Condition, str], list[NDArray[np.int64]]] = {}
    tuned = [{r: _with_head(test, fine[s][r]) for r in {*rates.values()}} for s in range(seeds)]
    for kind in NOISE_KINDS:
        for n_noise in range(MAX_NOISE + 1):
            drawn = [draw_texts(test, students[s], kind, n_noise, s) for s in range(seeds)]
            report.rows += _accuracy_rows(kind, n_noise, drawn)
            for method in METHODS:
                for setting in SETTINGS:
                    measured[Condition(kind, n_noise, setting), method] = [
                        _ranks(
                            test if setting == "zero-shot" else tuned[s][rates[method]], one, method
                        )
                        for s, one in enumerate(drawn)
                        if method in one.choices
                    ]
    for (condition, method), found in measured.items():
        report.rows += _rows(condition, method, found)
    report.rows += _claims(measured)
    report.rows.append(_latency_row(test, students[0]["itrieval-kd"]))
    report.seconds = time.monotonic() - started
    report.write(out, "itrieval")
    page = markdown(report, rates, seeds, {k: len(test.texts(k, 0, 0)) for k in NOISE_KINDS})
    (out / "itrieval.md").write_text(page)
    console.print(page)
    return report


def fine_tuned(head: Head, train: NoisySplit, rate: float, seed: int) -> Head:
    """The text head trained on noisy texts of both kinds, 0 to 3 noise sentences, against the pictures' features.

    Symmetric InfoNCE at the shipped logit scale; the media head stays (a gallery is not made anew).
    """
    torch.manual_seed(seed)
    tuned = copy.deepcopy(head).requires_grad_(True).train()
    optimiser = torch.optim.AdamW(tuned.parameters(), lr=rate, weight_decay=0.01)
    scale = logit_scale(SPACE)
    media = torch.from_numpy(train.media)
    states = train.table.frozen()
    for epoch in range(FINE_EPOCHS):
        rng = np.random.default_rng((seed, epoch))
        for kind in NOISE_KINDS:
            for n_noise in range(MAX_NOISE + 1):
                texts = train.texts(kind, n_noise, 20_011 * seed + epoch)
                texts = [texts[i] for i in rng.permutation(len(texts))[: train.num_pooled]]
                for start in range(0, len(texts), FINE_BATCH):
                    part = texts[start : start + FINE_BATCH]
                    queries = _trainable_means(tuned, states, train.table, part)
                    pictures = media[[train.place[t.item_id] for t in part]]
                    loss = contrastive_loss(
                        scale * queries @ pictures.T, torch.eye(len(part), dtype=torch.bool)
                    )
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
    return tuned.eval().requires_grad_(False)


def _trainable_means(
    head: Head, states: FrozenFeatures, table: Table, texts: Sequence[NoisyText]
) -> torch.Tensor:
    """:func:`lab.train_student.mean_features` of whole texts, with gradients: [texts, 256]."""
    rows = [table.rows(t) for t in texts]
    features = head.encode(states.batch([r for of_text in rows for r in of_text]))
    owner = torch.tensor([n for n, of_text in enumerate(rows) for _ in of_text])
    sums = torch.zeros(len(texts), features.shape[1]).index_add(0, owner, features)
    return F.normalize(sums, dim=1)


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


def chosen_rates(
    val: NoisySplit,
    students: Sequence[Mapping[str, SentenceScorer]],
    fine: Sequence[Mapping[float, Head]],
) -> dict[str, float]:
    """The fine-tuning rate with the best R@1 on val for each method, over both kinds at 3 noise sentences."""
    found: dict[tuple[str, float], list[float]] = {}
    for seed, heads in enumerate(fine):
        splits = {rate: _with_head(val, head) for rate, head in heads.items()}
        for kind in NOISE_KINDS:
            drawn = draw_texts(val, students[seed], kind, MAX_NOISE, seed)
            for method in METHODS:
                for rate, split in splits.items() if method in drawn.choices else ():
                    first = float((_ranks(split, drawn, method) == 0).mean())
                    found.setdefault((method, rate), []).append(first)
    return {m: max(FINE_RATES, key=lambda r, m=m: np.mean(found[m, r])) for m in METHODS}  # type: ignore[misc]


def encoding_rows(
    split: NoisySplit, name: Split, student: SentenceScorer, num_texts: int = 200
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


def long_rows(test: NoisySplit, student: SentenceScorer, num_texts: int = 200) -> list[Row]:
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


def _accuracy_rows(kind: NoiseKind, n_noise: int, drawn: Sequence[Drawn]) -> list[Row]:
    """Selection accuracy on test: share of key sentences among the three kept."""
    if not n_noise:
        return []
    return [
        _row(
            "selection_accuracy",
            [
                float(
                    np.mean(
                        [
                            np.asarray(t.key)[c].mean()
                            for t, c in zip(d.texts, d.choices[method], strict=True)
                        ]
                    )
                )
                for d in drawn
                if method in d.choices
            ],
            method,
            f"{kind}, {n_noise} noise sentences",
        )
        for method in METHODS
        if method not in ("key", "raw")
    ]


def _rows(condition: Condition, method: str, found: Sequence[NDArray[np.int64]]) -> list[Row]:
    """R@1/5/10 and their sum."""
    recalls = {k: [float((r < k).mean()) for r in found] for k in (1, 5, 10)}
    rows = [_row(f"r_at_{k}", v, method, condition.label) for k, v in recalls.items()]
    total = [sum(v) for v in zip(*recalls.values(), strict=True)]
    return [*rows, _row("recall_sum", total, method, condition.label)]


def _row(
    metric: str, values: Sequence[float], method: str, variant: str, split: str = "test"
) -> Row:
    return Row(
        metric=metric,
        **over_seeds(values),
        method=method,
        task="image",
        corpus="noisy-scenes",
        split=split,
        variant=variant,
    )


def _claims(
    measured: Mapping[tuple[Condition, str], Sequence[NDArray[np.int64]]],
) -> list[Row]:
    """At 3 noise sentences: R@1 of the student minus each row's, and as a share of the key sentences' R@1.

    Paired bootstrap over pictures; a picture's texts of all seeds are drawn together.
    """
    rows = []
    for kind in NOISE_KINDS:
        for setting in SETTINGS:
            at = Condition(kind, MAX_NOISE, setting)
            for other in METHODS:
                # Ablations may have fewer seeds: both sides are then of these.
                count = len(measured[at, other])
                ours, theirs, key = (
                    np.mean([r == 0 for r in measured[at, m][:count]], axis=0)
                    for m in ("itrieval-kd", other, "key")
                )
                clusters = np.arange(len(key))
                if other != "itrieval-kd":
                    gain, ci95 = paired_difference(ours, theirs, clusters)
                    variant = f"{at.label}, over {other}"
                    row = _row("r_at_1_difference", [gain], "itrieval-kd", variant)
                    rows.append(replace(row, ci95=ci95, seeds=count))
                means = resampled_means(np.stack([theirs, key], axis=1), clusters)
                share = float(theirs.mean() / key.mean())
                row = _row("r_at_1_share_of_key", [share], other, at.label)
                ci95 = interval(means[:, 0] / means[:, 1])
                rows.append(replace(row, ci95=ci95, seeds=count))
    return rows


def _latency_row(test: NoisySplit, scorer: SentenceScorer, repeats: int = 30) -> Row:
    """Processor time of the student for a text of 6 sentences, trunk included, one thread, milliseconds."""
    from semlink.semantics.student import Student

    student = Student(scorer, N_KEY)
    texts = [t.sentences for t in test.texts("other-captions", 3, 0)[:repeats]]
    student.scores(texts[:1])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    spent = []
    for text in texts:
        before = time.process_time()
        student.scores([text])
        spent.append(1e3 * (time.process_time() - before))
    torch.set_num_threads(threads)
    return _row(
        "processor_ms_median", [float(np.median(spent))], "itrieval-kd", "6 sentences, one thread"
    )


def markdown(
    report: Report, rates: Mapping[str, float], seeds: int, num_texts: Mapping[NoiseKind, int]
) -> str:
    """The tables as a page; ``num_texts``: of each kind of noise, texts a seed."""
    rows = report.rows
    lines = [
        "# ItrievalKD on noisy-scenes",
        "",
        f"`{report.command}` · {seeds} seeds, mean ± sd, percent · ideal link, 1,000 pictures of test · κ = {N_KEY} · "
        "a text is the normalised mean of its kept sentences' features (chosen on val, see the end)"
        + " · texts a seed: "
        + ", ".join(f"{count} with {kind}" for kind, count in num_texts.items()),
        "",
    ]
    for kind in NOISE_KINDS:
        for setting in SETTINGS:
            lines += [
                f"## Noise: {kind}, {setting}",
                "",
                "| noise sentences | row | R@1 | R@5 | R@10 | SUM | selection accuracy | paper R@1 | paper SUM |",
                "|---|---|---|---|---|---|---|---|---|",
            ]
            for n_noise in range(MAX_NOISE + 1):
                at = Condition(kind, n_noise, setting).label
                for method in METHODS:
                    if not n_noise and method != "key":
                        continue  # nothing to take out: all rows are the same
                    lines.append(_line(rows, kind, n_noise, setting, at, method))
            lines.append("")
    lines += [
        "## Claims at 3 noise sentences",
        "",
        "| claim | figure | 95 % interval |",
        "|---|---|---|",
    ]
    for row in rows:
        if row.metric == "r_at_1_share_of_key" and row.method == "key":
            continue  # all of it, always
        if row.metric in ("r_at_1_difference", "r_at_1_share_of_key") and row.ci95:
            what = (
                "Δ R@1 of itrieval-kd"
                if "diff" in row.metric
                else f"{row.method}: share of Key's R@1"
            )
            lines.append(
                f"| {what}, {row.variant} | {100 * row.mean:+.1f} | "
                f"{100 * row.ci95[0]:+.1f} … {100 * row.ci95[1]:+.1f} |"
            )
    lines += [
        "",
        "## Encoding, long texts, latency",
        "",
        "| row | what | figure |",
        "|---|---|---|",
    ]
    for row in rows:
        variant = str(row.variant)
        if variant.startswith(("encoding", "long")):
            lines.append(f"| {row.method} | {variant} ({row.split}) | R@1 {100 * row.mean:.1f} |")
        if row.metric == "processor_ms_median":
            lines.append(f"| {row.method} | {variant} | {row.mean:.1f} ms |")
    lines += [
        "",
        "Fine-tuning rates chosen on val: " + ", ".join(f"{m} {r:g}" for m, r in rates.items()),
        "",
    ]
    return "\n".join(lines)


def _line(
    rows: Sequence[Row], kind: NoiseKind, n_noise: int, setting: str, at: str, method: str
) -> str:
    def shown(metric: str, variant: str) -> str:
        found = pick(rows, metric=metric, method=method, variant=variant)
        return cell(found[0], percent=True) if found else ""

    of_paper = (
        PAPER.get((method, n_noise)) if (kind, setting) == ("continuations", "zero-shot") else None
    )
    cells = [str(n_noise), method]
    cells += [shown(m, at) for m in ("r_at_1", "r_at_5", "r_at_10", "recall_sum")]
    cells.append(shown("selection_accuracy", f"{kind}, {n_noise} noise sentences"))
    cells += [f"{of_paper[0]:.1f}", f"{of_paper[3]:.1f}"] if of_paper else ["", ""]
    if method == "teacher" and kind == "continuations" and n_noise:
        cells[6] += f" (paper {PAPER_TEACHER[n_noise]:.2f})"
    return "| " + " | ".join(cells) + " |"
