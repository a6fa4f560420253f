"""GPA's trainer on a tiny corpus, its weights where a head is expected, and the ranks of its tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.experiments.gpa import Ranks, first_ranks, own_ranks, recipe_of, tables
from lab.training import prototypes
from lab.training.checkpoint import save_weights
from lab.training.features import FrozenFeatures
from lab.training.losses import triplet_sum_loss
from lab.training.prototypes import (
    GpaModel,
    GpaRecipe,
    States,
    _states,
    components_of,
)
from semlink.errors import InvalidField
from semlink.semantics import encoders
from semlink.semantics.heads import Head, HeadConfig
from semlink.semantics.int8_tensors import pack
from semlink.semantics.metrics import retrieval_metrics
from semlink.semantics.prototypes import PrototypeConfig, PrototypeHead


def model(recipe: GpaRecipe) -> GpaModel:
    torch.manual_seed(1)
    text = HeadConfig(in_dim=384, max_tokens=128, pooled_bands=1)
    heads = {"text": Head(text), "media": Head(HeadConfig(in_dim=60, max_tokens=20))}
    return GpaModel(heads, recipe.prototypes, 7)


def test_triplet_sum_is_the_sum_over_pairs() -> None:
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for i in range(5):
        for j in range(5):
            if i != j:
                total += max(0.0, 0.2 + float(scores[i, j] - scores[i, i]))
                total += max(0.0, 0.2 + float(scores[j, i] - scores[i, i]))
    assert float(triplet_sum_loss(scores, 0.2)) == pytest.approx(total / 5, rel=1e-5)
    assert float(triplet_sum_loss(torch.eye(4), 0.2)) == 0.0


@pytest.mark.parametrize(("scoring", "frozen"), [("dp", False), ("lass", False), ("lass", True)])
def test_states_give_what_the_whole_head_gives(scoring: str, frozen: bool) -> None:
    made = model(GpaRecipe(scoring=scoring, frozen_tokens=frozen)).eval()  # type: ignore[arg-type]
    lengths = torch.tensor([3, 1, 20])
    features = FrozenFeatures(
        torch.randn(24, 60).half(), torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    )
    found = _states(made.media, features, "states")
    states = States(
        FrozenFeatures(found["values"], found["offsets"]), found["pooled"], found["frozen"]
    )
    tokens = features.batch(range(3))
    ours = components_of(made.media, states)
    whole = (
        made.media.encode_components(tokens)
        if isinstance(made.media, PrototypeHead)
        else made.media.encode(tokens)[:, None]
    )
    torch.testing.assert_close(ours, whole, atol=5e-3, rtol=0)


def test_only_what_stands_on_the_encoder_is_trained() -> None:
    made = model(GpaRecipe())
    frozen = {name for name, p in made.text.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(name.startswith(("project", "positions", "layers", "norm.")) for name in frozen)
    learned = {
        name.partition(".")[0] for name, p in made.text.named_parameters() if p.requires_grad
    }
    assert learned == {
        "queries",
        "pool",
        "out",
        "skip",
        "mask_of",
        "prototype_norm",
        "prototype_mlp",
    }


def test_recipes_say_what_they_are() -> None:
    assert GpaRecipe(scoring="dp").prototypes is None
    assert GpaRecipe(num_prototypes=5, generator="attention").prototypes == PrototypeConfig(
        num_prototypes=5, generator="attention", aggregator="lass"
    )
    with pytest.raises(InvalidField) as refusal:
        GpaRecipe(loss="hinge")  # type: ignore[arg-type]
    assert refusal.value.field == "loss"


@pytest.mark.parametrize("scoring", ["dp", "lass"])
def test_saved_heads_are_loaded_as_what_they_are(
    scoring: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = GpaRecipe(scoring=scoring)  # type: ignore[arg-type]
    made = model(recipe).eval()
    configs = {"text": made.text.config.as_dict(), "media": made.media.config.as_dict()}
    parts: dict[str, torch.nn.Module] = {"text": made.text, "media": made.media}
    if made.scorer is not None:
        assert recipe.prototypes is not None
        configs["prototypes"] = recipe.prototypes.as_dict()
        parts["scorer"] = made.scorer
    tensors = {f"{p}.{n}": t for p, m in parts.items() for n, t in m.state_dict().items()}
    save_weights(
        tmp_path / "heads-audio.safetensors", pack(tensors), {"configs": json.dumps(configs)}, {}
    )
    monkeypatch.setenv("SEMLINK_WEIGHTS_DIR", str(tmp_path))
    heads = encoders.load_heads("audio")
    scorer = encoders.load_scorer("audio")
    assert encoders.num_components("audio") == (1 if scoring == "dp" else 4)
    encoder = encoders.SemanticEncoder("audio")
    components = encoder.components("text", ["A dog barks twice, then rain falls.", "Rain falls."])
    assert components.shape == (2, encoders.num_components("audio"), 256)
    np.testing.assert_allclose(np.linalg.norm(components, axis=-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(
        components[:, 0],
        encoder.text(["A dog barks twice, then rain falls.", "Rain falls."]),
        atol=1e-5,
    )
    if scoring == "dp":
        assert type(heads["text"]) is Head
        assert scorer is None
        return
    assert isinstance(heads["media"], PrototypeHead)
    assert scorer is not None
    assert made.scorer is not None
    assert isinstance(made.media, PrototypeHead)
    values, mask = torch.randn(3, 9, 60), torch.ones(3, 9, dtype=torch.bool)
    # Eight bits and float16 turn a component by a little, never by much.
    kept = (heads["media"].components(values, mask) * made.media.components(values, mask)).sum(-1)
    assert kept.min() > 0.99
    a, b = (torch.nn.functional.normalize(torch.randn(3, 4, 256), dim=-1) for _ in range(2))
    torch.testing.assert_close(scorer.score(a, b), made.scorer.score(a, b), atol=5e-3, rtol=5e-3)


def test_plain_heads_are_kept_before_prototypes_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMLINK_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "cache"))
    made = model(GpaRecipe(scoring="dp"))
    configs = {"text": made.text.config.as_dict(), "media": made.media.config.as_dict()}
    parts = {"text": made.text, "media": made.media}
    tensors = {f"{p}.{n}": t for p, m in parts.items() for n, t in m.state_dict().items()}
    installed = tmp_path / "heads-audio.safetensors"
    save_weights(installed, pack(tensors), {"configs": json.dumps(configs)}, {"seed": 0})
    before = installed.read_bytes()
    kept, digest = prototypes.plain_heads("audio"), prototypes.encoder_digest("audio")
    installed.write_bytes(b"something else by now")
    assert prototypes.plain_heads("audio") == kept
    assert kept.read_bytes() == before
    assert prototypes.encoder_digest("audio") == digest


def test_ranks_are_the_metrics_of_the_whole_matrix() -> None:
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(30), 5)
    scores = np.round(rng.normal(size=(150, 30)), 1)
    scores[np.arange(150), owner] += 0.5
    ranks = Ranks(
        first_ranks(scores, owner), own_ranks(scores.T, owner), own_ranks(scores.T, owner)
    )
    forth = retrieval_metrics(scores, owner[:, None] == np.arange(30)[None, :])
    back = retrieval_metrics(scores.T, np.arange(30)[:, None] == owner[None, :])
    for name, value in ranks.metrics("t2a").items():
        assert value == pytest.approx(forth[name]), name
    for name, value in ranks.metrics("a2t").items():
        assert value == pytest.approx(back[name]), name


def test_the_tables_are_the_papers() -> None:
    wanted = tables((1, 2, 3, 4, 5, 10))
    assert [len(wanted[n]) for n in "1234"] == [4, 8, 3, 3]
    ours = [line for table in wanted.values() for line in table if line.recipe == recipe_of()]
    assert len(ours) == 5
    for table in wanted.values():
        for line in table:
            # Only scoring, generator, number, loss and learning rate may differ between lines.
            same = GpaRecipe(
                scoring=line.recipe.scoring,
                generator=line.recipe.generator,
                num_prototypes=line.recipe.num_prototypes,
                frozen_tokens=line.recipe.scoring != "dp",
                global_weight=float(line.recipe.scoring != "dp"),
                loss=line.recipe.loss,
                learning_rate=line.recipe.learning_rate,
            )
            assert line.recipe == same
