"""Which predictor a knowledge base answers with: measured ones only, and of equals the one that costs least."""

from __future__ import annotations

from typing import Any

from kb_service.generators import generator_names
from lab.training.select_predictor import QUICKEST, SCHEME_KEYS, SGCS_STEP, settled

GENERATORS = generator_names()


def choice(bits: int, **sgcs: float) -> dict[str, Any]:
    place = dict.fromkeys(SCHEME_KEYS, "x") | {"bits": bits}
    scores = {
        name.replace("_", "-"): {"sgcs": value, "precoding_gain_db": 10.0, "nmse_db": -5.0}
        for name, value in ({"hold_last": 0.5, "wiener": 0.5, "kalman": 0.5} | sgcs).items()
    }
    return place | {"scores": scores}


def test_every_trained_generator_has_a_place() -> None:
    assert set(QUICKEST) == set(GENERATORS)


def test_of_equals_the_quickest_competes_for_the_whole_scheme() -> None:
    within = 0.9 * SGCS_STEP
    made = settled(
        [
            choice(16, transformer=0.60, cdg=0.60 + within, llm4cp=0.60 + within),
            choice(64, transformer=0.70, cdg=0.70 + within, llm4cp=0.70 - within),
        ]
    )
    for member in made:
        assert member["ranking"][0] == "transformer"
        assert set(member["ranking"]) == {"hold-last", "wiener", "kalman", "transformer"}


def test_a_better_one_wins_though_it_costs_more_and_a_linear_one_where_none_is_better() -> None:
    made = settled([choice(16, transformer=0.60, cdg=0.61), choice(64, transformer=0.4, cdg=0.45)])
    assert made[0]["ranking"][0] == "cdg"
    assert made[1]["ranking"][0] in ("hold-last", "wiener", "kalman")
    assert settled([choice(16)])[0]["ranking"][0] == "hold-last"
