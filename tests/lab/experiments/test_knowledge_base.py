"""The experiment on source knowledge: what each way sends, and tables that show every row."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lab.evaluation.filter_calibration import Judged
from lab.evaluation.hallucination_labels import Labelled
from lab.evaluation.rewrite_cache import RewriteCache, Source, sources
from lab.experiments import knowledge_base
from lab.experiments.knowledge_base import (
    LLM_SC,
    NO_REWRITES,
    QUICK,
    Asked,
    Plan,
    Way,
    asked,
    fused_features,
    judged_labels,
    labelled,
    outcomes,
    query_rows,
    training_rows,
)
from lab.training.rewrite_augmentation import Augmentation
from semlink.corpora.corpus import Item
from semlink.errors import InvalidField
from semlink.v1 import knowledge_pb2

CAPTION = "A man in a red jacket and black trousers walks."
REWRITES = (
    ("A gentleman in black trousers and a red jacket strolls.", 0.9),  # says it all
    ("A man in a red jacket.", 0.8),  # leaves out
    ("A man in a green jacket walks.", 0.95),  # adds
)


@pytest.fixture
def queries() -> Asked:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3, 1 + len(REWRITES), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    gallery = rng.normal(size=(5, 8)).astype(np.float32)
    gallery /= np.linalg.norm(gallery, axis=-1, keepdims=True)
    found = knowledge_pb2.RewriteSet(
        rewrites=[knowledge_pb2.Rewrite(text=t, similarity=s) for t, s in REWRITES]
    )
    items = [Item(f"i{n}", f"i{n}", "val", (CAPTION,)) for n in range(3)]
    return Asked(
        [Source(item, 0) for item in items],
        [found] * 3,
        list(vectors),
        gallery,
        np.eye(3, 5, dtype=bool),
    )


def _unit(vector):
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize(
    ("way", "fused"),
    [
        (NO_REWRITES, [0]),
        (LLM_SC, [0, 1, 2, 3]),
        (Way("mean"), [0, 1, 2]),
        (Way("mean", complete=True), [0, 1]),
    ],
)
def test_each_way_fuses_what_it_keeps(queries, way, fused):
    sent = fused_features(queries, way, 0.5)
    expected = [_unit(features[fused].sum(axis=0)) for features in queries.features]
    np.testing.assert_allclose(sent, expected, atol=1e-6)


def test_outcomes_are_those_of_a_sorted_gallery(queries):
    found = outcomes(queries, NO_REWRITES, 0.5)
    for n, features in enumerate(queries.features):
        scores = queries.gallery @ features[0]
        rank = int((scores > scores[n]).sum()) + 1
        assert found["map"][n] == pytest.approx(1 / rank)
        assert found["r_at_1"][n] == (rank == 1)


def test_differences_are_of_the_same_queries(queries):
    ours = Way("mean", complete=True)
    rows = query_rows({"person": queries}, "val", [NO_REWRITES, LLM_SC, ours], ours, 0.5)
    means = {(r.metric, r.variant): r.mean for r in rows}
    for metric in ("r_at_1", "map"):
        difference = means[f"{metric}_difference", f"{ours.label} vs no rewrites"]
        assert difference == pytest.approx(
            means[metric, ours.label] - means[metric, NO_REWRITES.label]
        )
    assert means["candidates_kept", None] == 2.0
    assert means["candidates_complete", None] == 1.0


def test_training_differences_are_seed_by_seed():
    plain, more = Augmentation(0.0), Augmentation(0.2)
    found = {
        plain: [{"r_at_1": 0.1, "map": 0.2}, {"r_at_1": 0.3, "map": 0.4}],
        more: [{"r_at_1": 0.2, "map": 0.2}, {"r_at_1": 0.4, "map": 0.4}],
    }
    rows = {(r.metric, r.variant): r for r in training_rows("person", found)}
    gain = rows["r_at_1_difference", f"{more.label} vs captions alone"]
    assert gain.mean == pytest.approx(0.1)
    assert gain.sd == pytest.approx(0.0, abs=1e-12)


def test_labels_are_judged_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path))
    labels = [
        Labelled("person", "val", "llm", f"i{n}", CAPTION, text, n == 2, "colour" * (n == 2))
        for n, (text, _) in enumerate(REWRITES)
    ]
    calls = []

    def judged(asked):
        calls.append(len(asked))
        similarity = np.linspace(0.1, 0.9, len(asked), dtype=np.float32)
        return Judged(np.array([x.hallucinated for x in asked]), similarity, similarity > 0.5)

    monkeypatch.setattr(knowledge_base, "judged", judged)
    first, again = judged_labels(labels), judged_labels(labels)
    for name in ("hallucinated", "similarity", "objected"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert getattr(first, name).dtype == getattr(again, name).dtype
    judged_labels(labels[:2])
    judged_labels(labels, fresh=True)
    assert calls == [3, 2, 3]


def test_encoded_queries_come_back_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path))
    bank = RewriteCache(tmp_path / "bank.jsonl")
    chosen = sources("person", "val", 2)
    asked_for = []

    class Rewriter:
        def __call__(self, tasks):
            asked_for.extend(task.text for task in tasks)
            return [
                knowledge_pb2.RewriteSet(
                    rewrites=[knowledge_pb2.Rewrite(text=t.text + " Indeed.", similarity=0.9)]
                )
                for t in tasks
            ]

    class Encoder:
        def components(self, side, texts):
            rng = np.random.default_rng([len(t) for t in texts])
            return rng.normal(size=(len(texts), 1, 4)).astype(np.float32)

    data = SimpleNamespace(media=None)
    monkeypatch.setattr(knowledge_base, "load_rewriter", Rewriter)
    monkeypatch.setattr(knowledge_base, "semantic_encoder", lambda _: Encoder())
    monkeypatch.setattr(knowledge_base, "load_heads", lambda _: {"media": None})
    monkeypatch.setattr(knowledge_base, "split_data", lambda *_: data)
    monkeypatch.setattr(knowledge_base, "embed", lambda *_: np.ones((400, 4), np.float32))
    first = asked("person", "val", chosen, bank)
    assert asked_for == [s.text for s in chosen], "what the bank lacks is made, once"
    monkeypatch.setattr(knowledge_base, "semantic_encoder", None)
    again = asked("person", "val", chosen, bank)
    assert len(asked_for) == 2
    assert [len(f) for f in first.features] == [2, 2]
    for a, b in zip(first.features, again.features, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.relevant.shape[1] == len(first.gallery) == 400
    assert (first.relevant.sum(axis=1) == 4).all(), "four pictures of each person"
    with pytest.raises(TypeError):
        asked("person", "val", chosen, bank, fresh=True)


def test_plans_name_what_is_trained_and_refuse_the_rest():
    assert Plan().trained() == ["person"]
    assert Plan(training_tasks=()).trained() == []
    with pytest.raises(InvalidField, match="training_tasks has 'sound', allowed: person"):
        Plan(training_tasks=("sound",)).trained()
    quick = replace(Plan(), **QUICK)
    assert len(labelled("val", quick.labels)) < len(labelled("val"))
