"""Training of person search on a small population of made-up tokens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lab.evaluation.cache import ROOT
from lab.training import alignment_heads, person_search
from lab.training.checkpoint import Checkpoint
from lab.training.data import SplitData
from lab.training.features import FrozenFeatures
from lab.training.masked_captions import COPIES, MaskedCaptions
from lab.training.person_search import OBJECTIVES, Recipe, folded, run
from semlink.corpora.corpus import Item, Split
from semlink.errors import InvalidField
from semlink.semantics.encoders import read_heads
from semlink.semantics.heads import Head, HeadConfig

RECIPE = Recipe(
    epochs=4, batch=32, learning_rate=3e-3, warmup_steps=4, average_decay=0.8, num_layers=1
)
VIEWS, WIDTH, TOKENS = 4, 20, 6


def population(split: Split) -> SplitData:
    """Each person is a direction; pictures and captions show it in different places of different spaces."""
    rng = np.random.default_rng({"train": 0, "val": 1, "test": 2}[split])
    people = {"train": 48, "val": 24, "test": 24}[split]
    spaces = np.random.default_rng(9).standard_normal((2, 6, WIDTH))
    who = rng.standard_normal((people, 6))
    items = [
        Item(f"{split}-{p}-{v}", f"{split}-{p}", split, ("one two", "three four five"))
        for p in range(people)
        for v in range(VIEWS)
    ]

    def tokens(space: np.ndarray[Any, Any], count: int, lengths: np.ndarray[Any, Any]) -> Any:
        rows = [
            who[n * people // count] @ space * (np.arange(length) == 1)[:, None]
            + 0.3 * rng.standard_normal((length, WIDTH))
            for n, length in enumerate(lengths)
        ]
        return FrozenFeatures(
            torch.from_numpy(np.concatenate(rows)).half(),
            torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])),
        )

    pictures, captions = people * VIEWS, people * VIEWS * 2
    return SplitData(
        items=items,
        media=tokens(spaces[0], pictures, np.full(pictures, TOKENS)),
        text=tokens(spaces[1], captions, rng.integers(3, 9, captions)),
        identity=torch.arange(people).repeat_interleave(VIEWS),
        caption_item=torch.arange(pictures).repeat_interleave(2),
    )


def masked(captions: list[str]) -> MaskedCaptions:
    """The training captions again, the last token of each hidden: its word is told by the picture's person."""
    data = population("train")
    text = data.text
    words = torch.full((len(text.values),), -1)
    words[text.offsets[1:] - 1] = (data.caption_item // VIEWS) % 5
    assert len(captions) == len(text)
    ends = torch.cat([text.offsets[1:] + n * len(text.values) for n in range(COPIES)])
    return MaskedCaptions(
        FrozenFeatures(text.values.repeat(COPIES, 1), torch.cat([torch.zeros(1).long(), ends])),
        words.repeat(COPIES),
        tuple("abcde"),
    )


@pytest.fixture(autouse=True)
def small_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(person_search, "split_data", lambda corpus, split: population(split))
    monkeypatch.setattr(person_search, "masked_captions", masked)
    monkeypatch.setattr(person_search, "describe_data", lambda corpus: {"corpus": "small"})
    monkeypatch.setenv("SEMLINK_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_and_stores_plain_heads(objective: str, tmp_path: Path) -> None:
    scores = run(objective, 1, out=tmp_path, recipe=RECIPE, measure_test=True)
    # 4 of 96 pictures are right: chance is 0.04.
    assert scores["val"]["text_to_media"]["r_at_1"] > 0.4
    assert scores["test"]["text_to_media"]["r_at_1"] > 0.4
    sidecar = json.loads((tmp_path / "heads-person.json").read_text())
    assert sidecar["history"][-1]["loss"] < sidecar["history"][0]["loss"]
    heads = read_heads(tmp_path / "heads-person.safetensors")
    again = alignment_heads.evaluate(heads["text"], heads["media"], population("test"))
    assert again["text_to_media"]["map"] == pytest.approx(
        scores["test"]["text_to_media"]["map"], abs=0.02
    )


def test_what_the_matching_loss_reads_matters_where_words_are_hidden(tmp_path: Path) -> None:
    def of(objective: str, matches_masked: bool) -> float:
        recipe = replace(RECIPE, epochs=1, matches_masked=matches_masked)
        run(objective, out=tmp_path, recipe=recipe)
        history = json.loads((tmp_path / "heads-person.json").read_text())["history"]
        return float(history[0]["loss"])

    assert of("sew-mcm", True) != of("sew-mcm", False)
    assert of("mask-only", True) == of("mask-only", False) != of("cmpm-cmpc", False)


def test_every_objective_has_a_recipe() -> None:
    assert person_search.RECIPES.keys() == OBJECTIVES.keys()
    # What the ablation compares differs in nothing but what each loss was given on val.
    common = {(r.epochs, r.batch, r.width, r.num_layers) for r in person_search.RECIPES.values()}
    assert len(common) == 1


@pytest.mark.parametrize(
    ("objective", "losses"),
    [
        ("sew-mcm", [122.1425, 120.9989, 115.5369]),
        ("cmpm-cmpc", [28.6453, 17.9998, 14.8144]),
    ],
)
def test_losses_are_those_of_before_there_was_one_trainer(
    objective: str, losses: list[float], tmp_path: Path
) -> None:
    """Measured at c2b07b2, when this model had a loop of its own."""
    run(objective, 1, out=tmp_path, recipe=replace(RECIPE, epochs=3))
    history = json.loads((tmp_path / "heads-person.json").read_text())["history"]
    assert [row["loss"] for row in history] == pytest.approx(losses, rel=1e-4)


INTERRUPTED = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from test_person_search import RECIPE, masked, population
from lab.training import person_search
torch.set_num_threads(1)
person_search.split_data = lambda corpus, split: population(split)
person_search.masked_captions = masked
person_search.describe_data = lambda corpus: {"corpus": "small"}
person_search.run("cmpm-cmpc", out=Path(sys.argv[1]), recipe=replace(RECIPE, epochs=120))
"""


@pytest.mark.slow
def test_a_process_that_is_interrupted_goes_on_when_it_is_started_again(tmp_path: Path) -> None:
    """With a real Ctrl-C: SIGINT after a checkpoint."""
    places = [str(Path(__file__).parent), str(ROOT)]
    command = [sys.executable, "-c", INTERRUPTED]

    def start(out: str, cache: str) -> subprocess.Popen[str]:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(places),
            "SEMLINK_CACHE_DIR": str(tmp_path / cache),
        }
        return subprocess.Popen(
            [*command, str(tmp_path / out)], env=environment, stderr=subprocess.PIPE, text=True
        )

    parts = start("parts", "cache")
    while parts.poll() is None and not list((tmp_path / "cache").glob("training/*/person-*.pt")):
        time.sleep(0.01)
    parts.send_signal(signal.SIGINT)
    _, error = parts.communicate(timeout=120)
    assert "KeyboardInterrupt" in error
    assert not (tmp_path / "parts").exists()
    (state,) = (tmp_path / "cache").glob("training/*/person-*.pt")
    done = len(torch.load(state)["history"])
    assert 0 < done < 120
    for again, out, cache in (("resumed", "parts", "cache"), ("whole", "whole", "other")):
        process = start(out, cache)
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
        assert ("epoch 0," in error) == (again == "whole"), "epochs that were done are not again"
    assert not list((tmp_path / "cache").glob("training/*/*.pt"))
    stored = [(tmp_path / n / "heads-person.safetensors").read_bytes() for n in ("whole", "parts")]
    assert stored[0] == stored[1]


def test_an_interrupted_run_ends_as_the_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("sew-mcm", out=tmp_path / "whole", recipe=RECIPE)
    real = Checkpoint.save

    def interrupted(self: Checkpoint, state: dict[str, Any]) -> None:
        real(self, state)
        if len(state["history"]) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("sew-mcm", out=tmp_path / "parts", recipe=RECIPE)
    resumed = run("sew-mcm", out=tmp_path / "parts", recipe=RECIPE)
    assert resumed == whole
    stored = [(tmp_path / n / "heads-person.safetensors").read_bytes() for n in ("whole", "parts")]
    assert stored[0] == stored[1]


def test_the_seed_decides(tmp_path: Path) -> None:
    short = replace(RECIPE, epochs=1)
    a, b, c = (run("sew-fixed", seed, out=tmp_path, recipe=short) for seed in (0, 0, 1))
    assert a == b
    assert a != c


@pytest.mark.parametrize("bands", [0, 2])
def test_folding_is_the_normalisation_of_the_raw_feature(bands: int) -> None:
    torch.manual_seed(0)
    head = Head(HeadConfig(in_dim=WIDTH, max_tokens=9, pooled_bands=bands)).eval()
    norm = nn.BatchNorm1d(256)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.uniform_(norm.bias, -1.0, 1.0)
    norm.train()
    norm(torch.randn(64, 256) * 3 + 1)
    norm.eval()
    values, mask = torch.randn(5, 7, WIDTH), torch.ones(5, 7, dtype=torch.bool)
    before = head.raw(values, mask)
    assert torch.allclose(folded(head, norm).raw(values, mask), norm(before), atol=1e-4)
    assert torch.equal(head.raw(values, mask), before), "the head itself stays as it was"


@pytest.mark.parametrize("per_identity", [1, 2, 4])
def test_an_epoch_holds_every_item_once_and_persons_together(per_identity: int) -> None:
    identity = torch.arange(10).repeat_interleave(4)
    order = person_search._order(identity, per_identity)
    assert sorted(order.tolist()) == list(range(40))
    groups = identity[order].view(-1, per_identity)
    assert (groups == groups[:, :1]).all()
    assert order.tolist() != sorted(order.tolist())


def test_the_margin_uses_the_captions_own_lengths() -> None:
    training = person_search._Training(OBJECTIVES["sew-adaptive"], RECIPE, None)  # type: ignore[arg-type]
    batch = next(training.batches(0))
    assert torch.equal(batch.lengths, batch.whole.mask.sum(1) - 2)
    assert training.shortest < training.longest


def test_an_unknown_objective_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match="sew-mcm"):
        run("sew-nothing", out=tmp_path)
