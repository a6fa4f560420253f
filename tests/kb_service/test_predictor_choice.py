"""The default predictor: the table's winner at the nearest setting, and nothing that the transmitter cannot know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kb_service.prediction import (
    Generated,
    default_predictor,
    predictor_named,
    untrained_predictors,
)
from kb_service.predictor_choice import FILE_NAME, Setting, best_predictors
from lab.training.select_predictor import ranked, settled
from semlink.components import PREDICTORS
from semlink.errors import NotFound
from semlink.links import Link
from semlink.scenarios import SCENARIOS
from semlink.settings import Settings
from semlink.weight_files import Weights

LINEAR = untrained_predictors()


def table(folder: Path, *choices: tuple[dict[str, object], list[str]]) -> Path:
    usual = {
        "num_tx_ant": 16,
        "num_rows": 1,
        "content": "layers",
        "quantizer": "rvq",
        "memory": "none",
        "bits": 64,
        "speed_kmh": 3.0,
        "age_slots": 5,
    }
    lines = [{**usual, **setting, "ranking": ranking} for setting, ranking in choices]
    (folder / FILE_NAME).write_text(json.dumps({"choices": lines}))
    return folder


def link(**changes: object) -> Link:
    return Link().replace(**changes)


def test_the_nearest_setting_answers(tmp_path: Path) -> None:
    folder = table(
        tmp_path,
        ({}, ["a"]),
        ({"bits": 16}, ["b"]),
        ({"speed_kmh": 60.0}, ["c"]),
        ({"age_slots": 10}, ["d"]),
        ({"memory": "fused"}, ["e"]),
        ({"num_tx_ant": 8}, ["f"]),
        ({"num_rows": 2}, ["g"]),
        ({"content": "channel", "num_rows": 2}, ["h"]),
    )

    def best(age: int = 5, **changes: object) -> str:
        return best_predictors(link(**changes), age, Weights(folder))[0]

    assert best() == "a"
    assert [best(bits=b) for b in (8, 24, 40, 1024)] == ["b", "b", "a", "a"]
    assert [best(speed_kmh=kmh) for kmh in (0, 10, 30, 100)] == ["a", "a", "c", "c"]
    assert [best(age) for age in (0, 6, 9, 100)] == ["a", "a", "d", "d"]
    assert best(memory="fused", bits=16) == "e"
    assert [best(num_tx_ant=ports) for ports in (1, 8, 32)] == ["f", "f", "a"]
    assert best(num_layers=2) == "g"
    assert best(content="channel") == "h"


def test_the_scenario_is_not_known(tmp_path: Path) -> None:
    settings = {Setting.from_config(link(scenario=scenario), 5) for scenario in SCENARIOS}
    assert len(settings) == 1


def test_without_a_table(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"python -m lab\.training\.select_predictor"):
        best_predictors(Link(), 5, Weights(tmp_path))


def test_sgcs_decides_then_gain_then_nmse() -> None:
    def of(sgcs: float, gain: float, nmse: float) -> dict[str, float]:
        return {"sgcs": sgcs, "precoding_gain_db": gain, "nmse_db": nmse}

    assert ranked({"a": of(0.80, 12, -9), "b": of(0.81, 11, -5)}) == ["b", "a"]
    assert ranked({"a": of(0.8001, 12, -9), "b": of(0.8, 12.1, -5)}) == ["b", "a"]
    assert ranked({"a": of(0.8001, 12.001, -5), "b": of(0.8, 12, -9)}) == ["b", "a"]
    assert ranked({"a": of(0.8, 12, -9), "b": of(0.8, 12, -9)}) == ["a", "b"]


def test_the_shipped_table_is_of_predictors_that_there_are() -> None:
    """Each line's first is the best of its own scores, and trained generators stand only where they have weights."""
    document = json.loads((Settings().weights_dir / FILE_NAME).read_text())
    assert document["data"]["split"] == "val"
    for choice in document["choices"]:
        assert set(choice["ranking"]) <= set(PREDICTORS.names)
        assert choice["ranking"] == ranked(
            {name: choice["scores"][name] for name in choice["ranking"]}
        )
        if (choice["num_tx_ant"], choice["num_rows"], choice["content"]) != (16, 1, "layers"):
            assert set(choice["ranking"]) == set(document["linear"])
    assert any(choice["ranking"][0] not in document["linear"] for choice in document["choices"])


def test_one_generator_competes_for_all_of_a_scheme() -> None:
    """The best in the mean, though another is better at one setting."""

    def line(bits: int, **sgcs: float) -> dict[str, Any]:
        scores = {
            name: {"sgcs": value, "precoding_gain_db": 0.0, "nmse_db": 0.0}
            for name, value in {**dict.fromkeys(LINEAR, 0.5), **sgcs}.items()
        }
        usual = {"num_tx_ant": 16, "num_rows": 1, "content": "layers", "quantizer": "rvq"}
        return {**usual, "memory": "none", "bits": bits, "scores": scores}

    lines = settled([line(8, cdg=0.7, transformer=0.71), line(16, cdg=0.9, transformer=0.8)])
    assert [choice["ranking"][0] for choice in lines] == ["cdg", "cdg"]
    assert all(set(choice["ranking"]) == {*LINEAR, "cdg"} for choice in lines)
    lines = settled([line(8, cdg=0.4)])
    assert lines[0]["ranking"] == [*LINEAR, "cdg"]


def test_links_unlike_the_training_are_left_to_linear_predictors() -> None:
    config = Link()
    chosen, _ = default_predictor(config, 7)
    assert isinstance(chosen, Generated), "this test needs a setting that a generator wins"
    for change in ("period", "age", "speed"):
        config = Link()
        age = 7
        if change == "period":
            config = config.replace(report_period_slots=40)
        elif change == "age":
            age = 30
        else:
            config = config.replace(speed_kmh=120)
        chosen, problems = default_predictor(config, age)
        assert chosen.name in LINEAR
        assert not problems
    # By name it answers all the same.
    assert predictor_named("transformer", config).name == "transformer"
