"""Mixes, rules and links of a load test, as the command line gives them."""

from __future__ import annotations

import math

import pytest

from semlink.errors import InvalidField
from semlink.load.plan import Load, Mix, Plan, Rule, link_fields


def test_a_mix_draws_each_value_as_often_as_its_weight_says() -> None:
    mix = Mix.parse(["person=3", "image"], "task")
    drawn = [mix.draw((i + 0.5) / 1000) for i in range(1000)]
    assert drawn.count("person") == 750
    assert drawn.count("image") == 250


@pytest.mark.parametrize("word", ["person=0", "person=-1", "person=x", "person=nan", "cat"])
def test_a_mix_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(InvalidField) as error:
        Mix.parse([word], "task", ("person", "image"))
    assert error.value.field == "task"


@pytest.mark.parametrize(
    ("text", "figure", "holds"),
    [
        *(("p99_ms<=500", 500.0, True), ("p99_ms < 500", 500.0, False)),
        *(("p99_ms>=5e2", 500.0, True), ("p99_ms>500", 500.1, True)),
        *(("p99_ms<=500", math.nan, None), ("p99_ms>500", math.nan, None)),
    ],
)
def test_a_rule_compares(text: str, figure: float, holds: bool | None) -> None:
    rule = Rule.parse(text, "find", lambda _: True)
    assert rule.holds({"p99_ms": figure}) is holds
    assert rule.holds({}) is None


@pytest.mark.parametrize("text", ["p99_ms", "p99_ms=5", "p99_ms<=x", "p99_ms<=1e", "nothing<1", ""])
def test_a_rule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidField) as error:
        Rule.parse(text, "fail_if", lambda name: name == "p99_ms")
    assert error.value.field == "fail_if"


def test_fields_of_a_link_are_read_and_nested_as_in_rest() -> None:
    words = ["snr_db=5", "num_users=2", "delay_spread_ns=30", "scenario=cdl-c", "bits=32"]
    assert link_fields(words) == {
        **{"snr_db": 5.0, "num_users": 2, "delay_spread_ns": 30.0, "scenario": "cdl-c"},
        "feedback": {"bits": 32},
    }


@pytest.mark.parametrize(
    "word", ["snr_db", "snr_db=", "snr_db=loud", "seed=3", "colour=red", "feedback=x"]
)
def test_a_field_that_no_link_has_is_refused(word: str) -> None:
    with pytest.raises(InvalidField):
        link_fields([word])


def test_what_cannot_be_sent_is_refused_by_its_field() -> None:
    for field, values in {
        "link.snr_db": {"link": {"snr_db": 99.0}},
        "batch": {"batch": Mix.of(257)},
        "duration": {"duration_s": 0.0},
        "deadline_ms": {"deadline_ms": math.nan},
    }.items():
        with pytest.raises(InvalidField) as error:
            Plan(url="http://127.0.0.1", seed=1, **values)  # type: ignore[arg-type]
        assert error.value.field == field
    for rate, users in ((None, None), (1.0, 1), (0.0, None), (None, 0)):
        with pytest.raises(InvalidField):
            Load(rate, users)
