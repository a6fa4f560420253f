"""`semlink evaluate`: its figures against the metrics of the whole set, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.evaluation.report import Row
from lab.experiments import linear_probe, paper_tables
from lab.training.data import caption_groups
from semlink.corpora.corpus import Item
from semlink.errors import InvalidField, NotFound
from semlink.semantics.metrics import retrieval_metrics
from semlink.semantics.modalities.sound import WIDTH, clip_feature
from semlink.semantics.tokens import Tokens

HERE = Row(metric="", mean=0.0, method="global", task="image", corpus="few", split="test")


def test_the_sum_is_that_of_the_recalls() -> None:
    rng = np.random.default_rng(0)
    relevant = rng.random((40, 30)) < 0.1
    relevant[:, 0] |= ~relevant.any(axis=1)
    scores = rng.standard_normal((40, 30)) + relevant
    whole = retrieval_metrics(scores, relevant)
    together = sum(whole[f"r_at_{k}"] for k in (1, 5, 10))
    found = paper_tables._per_query(scores, relevant)["sum"]
    assert found.mean() == pytest.approx(together)
    assert set(found.tolist()) <= {0.0, 1.0, 2.0, 3.0}


def test_intervals_hold_the_mean_and_are_wider_for_whole_clusters() -> None:
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(50), 5)
    right = (rng.random(50) < 0.4).astype(np.float64)[owner]
    [by_item] = paper_tables.rows_of({"r_at_1": right}, owner, ("r_at_1",), HERE)
    [by_query] = paper_tables.rows_of({"r_at_1": right}, np.arange(250), ("r_at_1",), HERE)
    assert by_item.ci95 is not None
    assert by_query.ci95 is not None
    assert by_item.ci95[0] <= by_item.mean <= by_item.ci95[1]
    assert by_item.ci95[1] - by_item.ci95[0] > 1.5 * (by_query.ci95[1] - by_query.ci95[0])


@pytest.mark.parametrize(
    ("method", "corpus", "split", "error"),
    [
        ("magic", "scenes", "test", InvalidField),
        ("global", "nowhere", "test", NotFound),
        ("global", "scenes", "dev", InvalidField),
        ("sew-mcm", "scenes", "test", InvalidField),
        ("linear-probe", "scenes", "val", InvalidField),
    ],
)
def test_what_is_not_allowed_is_refused(
    tmp_path: Path, method: str, corpus: str, split: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        paper_tables.run(method, corpus, split, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_root_needs_a_known_layout(tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match="flickr8k"):
        paper_tables.run("global", "my-photos", "test", root=tmp_path, out=tmp_path)


def test_items_of_a_category_share_a_group_only_where_captions_say_no_more() -> None:
    def item(name: str, identity: str, caption: str, **attributes: str) -> Item:
        return Item(name, identity, "test", (caption,), attributes)

    people = [item("a", "1", "a man"), item("b", "2", "a man"), item("c", "1", "he")]
    assert caption_groups(people).tolist() == [0, 1, 0]
    clips = [item(n, n, c, category=c) for n, c in (("a", "dog"), ("b", "cat"), ("c", "dog"))]
    assert caption_groups(clips).tolist() == [0, 1, 0]


# --- the linear probe ---------------------------------------------------------------------------


def test_the_clip_feature_looks_at_sound_alone() -> None:
    torch.manual_seed(0)
    loud = torch.randn(1, 6, WIDTH)
    loud[..., 1920:2020] = 1.0 + torch.rand(1, 6, 100)
    silent = torch.randn(1, 4, WIDTH)
    silent[..., 1920:2020] = -1.0
    clip = torch.cat([loud, silent], 1)
    whole = clip_feature(Tokens(clip, torch.ones(1, 10, dtype=torch.bool)))
    other = clip.clone()
    other[:, 6:, :1920] += 5.0
    same = clip_feature(Tokens(other, torch.ones(1, 10, dtype=torch.bool)))
    torch.testing.assert_close(whole, same)
    torch.testing.assert_close(whole[:, :WIDTH], loud.mean(1))
    torch.testing.assert_close(whole[:, 2 * WIDTH :], loud.amax(1))
    louder = clip.clone()
    louder[:, 2, :1920] += 5.0
    changed = clip_feature(Tokens(louder, torch.ones(1, 10, dtype=torch.bool)))
    assert not torch.allclose(whole, changed)


def test_silence_alone_has_a_feature() -> None:
    values = torch.zeros(2, 3, WIDTH)
    feature = clip_feature(Tokens(values, torch.ones(2, 3, dtype=torch.bool)))
    assert feature.shape == (2, 3 * WIDTH)
    assert bool(feature.isfinite().all())


def _clips(separation: float) -> linear_probe.Labelled:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat(32)
    centre = torch.randn(5, 40, generator=generator) * separation
    features = centre[labels] + torch.randn(160, 40, generator=generator)
    folds = np.arange(160) // 40
    return linear_probe.Labelled(features, labels, folds, tuple("abcde"))


def test_the_probe_tells_apart_what_is_apart_and_no_more() -> None:
    easy = [row["accuracy"] for row in linear_probe.rotations(_clips(2.0))]
    chance = [row["accuracy"] for row in linear_probe.rotations(_clips(0.0))]
    assert min(easy) > 0.95
    assert np.mean(chance) < 0.4


def test_the_dual_form_is_ridge_regression() -> None:
    clips = _clips(0.5)
    train, held = clips.where(clips.groups < 3), clips.where(clips.groups == 3)
    scores = linear_probe.predictions(train, held.features, (0.1,))[0.1]
    mean, deviation = train.features.mean(0), train.features.std(0)
    x = ((train.features - mean) / deviation).clamp(-5, 5) / 40**0.5
    asked = ((held.features - mean) / deviation).clamp(-5, 5) / 40**0.5
    target = torch.nn.functional.one_hot(train.labels, 5).float() * 2 - 0.4
    weights = torch.linalg.solve(x.T @ x + 0.1 * torch.eye(40), x.T @ target)
    torch.testing.assert_close(scores, asked @ weights, rtol=1e-3, atol=1e-3)


def test_a_report_says_where_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_probe, "labelled", lambda *_: _clips(2.0))

    class Few:
        splits = ("train", "val")
        info = type("Info", (), {"task": "audio", "name": "few"})

        def items(self, split: str) -> list[int]:
            return list(range(120 if split == "train" else 40))

    monkeypatch.setattr(paper_tables, "corpus_named", lambda _: Few())
    paper_tables.run("linear-probe", "few", "val", out=tmp_path)
    stored = json.loads((tmp_path / "evaluate-linear-probe-few-val.json").read_text())
    [row] = stored["rows"]
    assert (row["metric"], row["corpus"], row["split"]) == ("accuracy", "few", "val")
    assert row["mean"] > 0.95
    assert row["variant"].startswith("trained on train,")
